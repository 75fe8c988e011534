"""Muon where every process holds some rows of each matrix.

Its step is made of the whole matrix: averages of gradients are kept in shards, the update is gathered, made orthogonal
in every process, and each takes its own rows. One matrix is whole at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, final

import torch
from torch import nn

__all__ = ["MuonOfShards"]


@final
class MuonOfShards(torch.optim.Optimizer):
    """torch.optim.Muon with Nesterov's momentum, for matrices that are sharded by rows; state and groups as there."""

    def __init__(
        self, params: Iterable[nn.Parameter], *, lr: float, weight_decay: float, momentum: float, adjust_lr_fn: str
    ) -> None:
        fields = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "adjust_lr_fn": adjust_lr_fn}
        super().__init__(params, fields)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step; every process calls."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._move(matrix, group)

    def _move(self, matrix: Any, group: dict[str, Any]) -> None:
        state, gradient = self.state[matrix], matrix.grad
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        average = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        update = _orthogonal(gradient.lerp(average, group["momentum"]).full_tensor(), group)
        mine = matrix.to_local()
        first = matrix.device_mesh.get_local_rank() * math.ceil(len(matrix) / matrix.device_mesh.size())
        mine.mul_(1 - group["lr"] * group["weight_decay"]).add_(update[first : first + len(mine)])


def _orthogonal(update: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
    """What Muon adds to a matrix for this update: torch's own step, on a matrix of zeros, without memory or decay."""
    moved = nn.Parameter(torch.zeros_like(update))
    moved.grad = update
    rule = {"lr": group["lr"], "adjust_lr_fn": group["adjust_lr_fn"]}
    torch.optim.Muon([moved], **rule, weight_decay=0.0, momentum=0.0, nesterov=False).step()
    return moved.detach()
