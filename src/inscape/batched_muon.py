"""Muon that orthogonalises matrices of one shape together.

A small model has dozens of matrices and few shapes, and its optimizer's time goes into starting some fifteen products
of 128 x 128 for each of them. Stacked, the same products are a few calls.

Legend: K matrices of one shape, M their shorter side, N the longer one.
"""

from __future__ import annotations

import math
from typing import Any, final

import torch
from torch import Tensor

__all__ = ["BatchedMuon"]


@final
class BatchedMuon(torch.optim.Muon):
    """torch.optim.Muon (Jordan et al. 2024): its arguments, its groups, its state and, but for rounding, its steps."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step; matrices without a gradient stay as they are."""
        for group in self.param_groups:
            alike: dict[tuple[torch.Size, torch.device, torch.dtype], list[tuple[Tensor, Tensor]]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike.setdefault((matrix.shape, matrix.device, matrix.dtype), []).append((matrix, matrix.grad))
            for pairs in alike.values():
                self._move([matrix for matrix, _ in pairs], [gradient for _, gradient in pairs], group)

    def _move(self, matrices: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        for matrix, gradient in zip(matrices, gradients, strict=True):
            if "momentum_buffer" not in self.state[matrix]:
                self.state[matrix]["momentum_buffer"] = torch.zeros_like(gradient)
        averages = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
        torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, averages, group["momentum"]) if group["nesterov"] else averages
        update_KMN = _orthogonal(torch.stack(list(updates)), group)
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        rate = group["lr"] * _share_of_rate(matrices[0].shape, group["adjust_lr_fn"])
        torch._foreach_add_(matrices, list(update_KMN.to(matrices[0].dtype)), alpha=-rate)


def _share_of_rate(shape: torch.Size, rule: str | None) -> float:
    """As in torch.optim.Muon: AdamW's root mean square (Liu et al. 2025), or the original's."""
    if rule == "match_rms_adamw":
        return 0.2 * math.sqrt(max(shape))
    return math.sqrt(max(1.0, shape[0] / shape[1]))


def _orthogonal(update_KMN: Tensor, group: dict[str, Any]) -> Tensor:
    """Newton and Schulz's iteration on all K at once, in bfloat16 as in torch.optim.Muon; nearly orthogonal."""
    a, b, c = group["ns_coefficients"]
    tall = update_KMN.shape[1] > update_KMN.shape[2]
    x_KMN = update_KMN.bfloat16()
    if tall:
        x_KMN = x_KMN.mT.contiguous()
    x_KMN = x_KMN / torch.linalg.matrix_norm(x_KMN, keepdim=True).clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram_KMM = x_KMN @ x_KMN.mT
        x_KMN = torch.baddbmm(x_KMN, torch.baddbmm(gram_KMM, gram_KMM, gram_KMM, beta=b, alpha=c), x_KMN, beta=a)
    return x_KMN.mT if tall else x_KMN
