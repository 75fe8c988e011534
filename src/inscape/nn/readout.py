"""g(V): from a latent to one unit vector that says what it means.

Two kinds. `PooledReadout` is the plan's: mean and variance of each channel, then an MLP; it sees 2 C numbers and no
places. `SpatialReadout` lets learned queries look at the patches before anything is pooled.

Legend: B batch, C, H, W of the latent, P patches, D model width, Q queries, Z width of the embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from inscape.nn.attention import init_linear
from inscape.nn.grid_head import CrossBlock
from inscape.nn.text_encoder import EncoderLayer

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["PooledReadout", "SpatialReadout"]


class PooledReadout(nn.Module):
    """Mean and variance of each channel -> linear -> GELU -> linear -> unit norm, as the plan has it."""

    def __init__(self, channels: int, hidden: int, z: int) -> None:
        super().__init__()
        self.up = init_linear(nn.Linear(2 * channels, hidden))
        self.down = init_linear(nn.Linear(hidden, z))

    def forward(self, latent_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B Z"]:
        flat_BCN = latent_BCHW.flatten(2)
        pooled_BK = torch.cat((flat_BCN.mean(2), flat_BCN.var(2)), 1)
        return functional.normalize(self.down(functional.gelu(self.up(pooled_BK))).float(), dim=-1)


class SpatialReadout(nn.Module):
    """States of the patches -> transformer layers -> a few learned queries -> linear map -> unit norm."""

    def __init__(self, d: int, heads: int, ffn: int, rate: float, *, layers: int, queries: int, z: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(d, heads, ffn, rate) for _ in range(layers))
        self.norm = nn.LayerNorm(d)
        self.queries_QD = nn.Parameter(torch.randn(queries, d))
        self.read = CrossBlock(d, heads, ffn, rate)
        self.out = init_linear(nn.Linear(queries * d, z))

    def forward(self, states_BPD: Float[Tensor, "B P D"]) -> Float[Tensor, "B Z"]:
        bias_BP = states_BPD.new_zeros(states_BPD.shape[:2])
        for layer in self.layers:
            states_BPD = layer(states_BPD, bias_BP)
        read_BQD = self.read(self.queries_QD, self.norm(states_BPD), bias_BP)
        return functional.normalize(self.out(read_BQD.flatten(1)).float(), dim=-1)
