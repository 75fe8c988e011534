"""The plan's grid head: 1024 learned queries read the tokens and paint the latent, one query a pixel.

Legend: B batch, T tokens, D model width, Q = H W queries, C channels of the latent, H and W its height and width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from inscape.nn.attention import CrossAttention, FeedForward, init_linear, padding_bias

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = ["CrossBlock", "GridHead", "GridQueries"]


class GridQueries(nn.Module):
    """Queries on a grid: a learned map -> 3x3 convolution -> GELU -> 1x1 convolution, so neighbours start out alike."""

    def __init__(self, d: int, height: int, width: int, map_channels: int) -> None:
        super().__init__()
        self.map_1MHW = nn.Parameter(torch.randn(1, map_channels, height, width))
        self.local = nn.Conv2d(map_channels, map_channels, 3, padding=1)
        self.mix = nn.Conv2d(map_channels, d, 1)
        nn.init.normal_(self.local.weight, std=(9 * map_channels) ** -0.5)
        nn.init.normal_(self.mix.weight, std=(0.42 * map_channels) ** -0.5)  # 0.42 = E[gelu(x)^2] for unit normal x
        for convolution in (self.local, self.mix):
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)

    def forward(self) -> Float[Tensor, "Q D"]:
        return self.mix(functional.gelu(self.local(self.map_1MHW)))[0].flatten(1).T.contiguous()


class CrossBlock(nn.Module):
    """x + attention(norm(x), tokens), then x + feed_forward(norm(x)); dropout on attention weights and hidden units."""

    def __init__(self, d: int, heads: int, ffn: int, rate: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(d)
        self.attention = CrossAttention(d, heads, rate)
        self.feed_forward_norm = nn.LayerNorm(d)
        self.feed_forward = FeedForward(d, ffn, rate)

    def read(self, x: Tensor, states_BTD: Tensor, bias_BT: Tensor) -> Float[Tensor, "B Q D"]:
        """The attention half: `x` is (Q, D), the same for every sentence, or (B, Q, D)."""
        return self.attention(self.attention_norm(x), states_BTD, bias_BT, onto=x)

    def forward(self, x: Tensor, states_BTD: Tensor, bias_BT: Tensor) -> Float[Tensor, "B Q D"]:
        x_BQD = self.read(x, states_BTD, bias_BT)
        return x_BQD + self.feed_forward(self.feed_forward_norm(x_BQD))


class GridHead(nn.Module):
    """Token states to a latent: grid queries -> two cross-attention blocks -> linear map to the channels."""

    def __init__(
        self,
        d: int,
        heads: int,
        ffn: int,
        rate: float,
        *,
        latent_CHW: tuple[int, int, int],
        map_channels: int = 64,
    ) -> None:
        super().__init__()
        channels, self.height, self.width = latent_CHW
        self.queries = GridQueries(d, self.height, self.width, map_channels)
        self.first = CrossBlock(d, heads, ffn, rate)
        self.second = CrossBlock(d, heads, ffn, rate)
        self.project = init_linear(nn.Linear(d, channels))

    def forward(self, states_BTD: Float[Tensor, "B T D"], keep_BT: Bool[Tensor, "B T"]) -> Float[Tensor, "B C H W"]:
        bias_BT = padding_bias(keep_BT, states_BTD.dtype)
        x_BQD = self.first(self.queries(), states_BTD, bias_BT)
        x_BQD = self.second.read(x_BQD, states_BTD, bias_BT)
        hidden_BQK = self.second.feed_forward.hidden(self.second.feed_forward_norm(x_BQD))
        # Nothing stands between the last feed-forward layer and the projection, so their two matrices are one.
        down, project = self.second.feed_forward.down, self.project
        latent_BQC = functional.linear(x_BQD, project.weight, project.bias + project.weight @ down.bias)
        latent_BQC = latent_BQC + functional.linear(hidden_BQK, project.weight @ down.weight)
        return latent_BQC.transpose(1, 2).unflatten(2, (self.height, self.width))
