"""The light head: a few queries on a coarse grid, each painting one soft-edged patch, for training on CPUs.

Legend: B batch, T tokens, D model width, G coarse rows and columns, Q = G^2 queries, C, H, W of the latent.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from inscape.nn.attention import init_linear, padding_bias
from inscape.nn.grid_head import CrossBlock
from inscape.nn.text_encoder import EncoderLayer

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = ["LightHead", "PatchPainter"]


def overlap_window(stride: int) -> Tensor:
    """A bump of length 2 * stride that fades to zero and whose squares, shifted by the stride, add up to one."""
    phase = (torch.arange(2 * stride, dtype=torch.float64) + 0.5) * math.pi / (2 * stride)
    rise, fall = phase.sin() ** 2, phase.cos() ** 2
    return (rise / (rise**2 + fall**2).sqrt()).float()


class PatchPainter(nn.Module):
    """Coarse states to a full latent: every state emits a patch twice the stride wide, faded out and added up.

    Each pixel is covered by four patches and no patch has an edge, so neither borders nor the checkerboards of strided
    transposed convolutions (Odena et al. 2016) can appear; unit-variance independent patches give unit variance
    everywhere.
    """

    def __init__(self, d: int, coarse: int, latent_CHW: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = latent_CHW
        self.strides = (height // coarse, width // coarse)
        self.coarse, self.channels = coarse, channels
        self.emit = init_linear(nn.Linear(d, channels * 4 * self.strides[0] * self.strides[1]))
        window = torch.outer(overlap_window(self.strides[0]), overlap_window(self.strides[1]))
        self.register_buffer("window_P", window.flatten(), persistent=False)

    def forward(self, x_BQD: Float[Tensor, "B Q D"]) -> Float[Tensor, "B C H W"]:
        patch_BQCP = self.emit(x_BQD).unflatten(-1, (self.channels, -1)) * self.window_P
        rows, columns = self.strides
        # fold() adds the patches up on a canvas half a stride larger on every side, where the outermost ones fade out.
        canvas = functional.fold(
            patch_BQCP.flatten(2).transpose(1, 2),
            output_size=((self.coarse + 1) * rows, (self.coarse + 1) * columns),
            kernel_size=(2 * rows, 2 * columns),
            stride=self.strides,
        )
        top, left = rows // 2, columns // 2
        return canvas[:, :, top : top + self.coarse * rows, left : left + self.coarse * columns]


class LightHead(nn.Module):
    """Token states to a latent: few queries -> cross-attention -> self-attention -> cross-attention -> patches."""

    def __init__(
        self,
        d: int,
        heads: int,
        ffn: int,
        rate: float,
        *,
        latent_CHW: tuple[int, int, int],
        coarse: int = 4,
    ) -> None:
        super().__init__()
        if latent_CHW[1] % coarse or latent_CHW[2] % coarse:
            raise ValueError(f"coarse must divide the latent's height and width {latent_CHW[1:]}, got {coarse}")
        self.queries_QD = nn.Parameter(torch.randn(coarse * coarse, d))
        self.first = CrossBlock(d, heads, ffn, rate)
        self.between = EncoderLayer(d, heads, ffn, rate)
        self.second = CrossBlock(d, heads, ffn, rate)
        self.norm = nn.LayerNorm(d)
        self.paint = PatchPainter(d, coarse, latent_CHW)

    def forward(self, states_BTD: Float[Tensor, "B T D"], keep_BT: Bool[Tensor, "B T"]) -> Float[Tensor, "B C H W"]:
        bias_BT = padding_bias(keep_BT, states_BTD.dtype)
        x_BQD = self.first(self.queries_QD, states_BTD, bias_BT)
        x_BQD = self.between(x_BQD, bias_BT.new_zeros(x_BQD.shape[:2]))
        x_BQD = self.second(x_BQD, states_BTD, bias_BT)
        return self.paint(self.norm(x_BQD))
