"""How a latent is read: as patches, by a small transformer. Whatever is decoded or compared starts from these states.

Legend: B batch, C, H, W of the latent, P patches (row by row), D model width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from inscape.nn.attention import init_linear
from inscape.nn.text_encoder import EncoderLayer

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["PatchReader", "to_patches"]


def to_patches(latent_BCHW: Float[Tensor, "B C H W"], side: int) -> Float[Tensor, "B P K"]:
    """Square patches of `side` pixels, row by row; K = C * side^2. ValueError if they do not tile the latent."""
    height, width = latent_BCHW.shape[-2:]
    if height % side or width % side:
        raise ValueError(f"patches of {side} pixels do not tile a latent of {height} x {width}")
    rows = latent_BCHW.unflatten(2, (-1, side)).unflatten(4, (-1, side))
    return rows.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


class PatchReader(nn.Module):
    """Patches -> linear map + learned position -> transformer layers -> one state a patch (Dosovitskiy et al. 2021)."""

    def __init__(
        self, d: int, heads: int, ffn: int, rate: float, *, latent_CHW: tuple[int, int, int], side: int, layers: int
    ) -> None:
        super().__init__()
        channels, height, width = latent_CHW
        self.side, self.grid = side, (height // side, width // side)
        self.enter = init_linear(nn.Linear(channels * side * side, d))
        self.position_PD = nn.Parameter(torch.randn(self.grid[0] * self.grid[1], d))
        self.layers = nn.ModuleList(EncoderLayer(d, heads, ffn, rate) for _ in range(layers))
        self.norm = nn.LayerNorm(d)

    def forward(self, latent_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B P D"]:
        x_BPD = self.enter(to_patches(latent_BCHW, self.side)) + self.position_PD
        bias_BP = x_BPD.new_zeros(x_BPD.shape[:2])
        for layer in self.layers:
            x_BPD = layer(x_BPD, bias_BP)
        return self.norm(x_BPD)
