"""The receiver that learns: from d numbers a token back to a row of a language model's embedding table.

    h = GELU(W2 GELU(W1 LayerNorm(z)))                                    widths d -> m d -> m d, m = 4
    x = W3 dropout(h) + W_skip LayerNorm(z)                               -> D
    e' = x * sigmoid(W_scale z) + W_shift z                               FiLM by the raw latent

FiLM (Perez et al. 2018, equation 1) has a scale and a shift for each of the D outputs, each one linear map of the
latent as it came: LayerNorm takes a latent's length away, and the raw latent brings it back. So made, D = 4096, d = 512
and m = 4 give the plan's 19.9 million parameters (19,944,448); without FiLM they are 15.7 million. FiLM on both hidden
layers would give the same number at this size, but the record of the experiment has it on the output.

The output is NOT normalised. A LayerNorm there gives every row the norm sqrt(D), 64 at D = 4096, where rows of tables
have norms around 0.5; a model that is fed such rows says nothing of use.

Legend: d width of the latent, D width of the table; leading axes are free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from inscape.nn.attention import init_linear
from inscape.nn.dropout import dropout

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["EmbeddingAdapter"]


class EmbeddingAdapter(nn.Module):
    """Rows (..., D) from latents (..., d). ValueError for sizes that are not positive or a dropout rate of 1."""

    def __init__(self, width: int, dimension: int, *, hidden_mult: int = 4, rate: float = 0.1) -> None:
        super().__init__()
        if min(width, dimension, hidden_mult) < 1:
            raise ValueError(
                f"width={width} dimension={dimension} hidden_mult={hidden_mult} make no adapter; allowed: from 1 on"
            )
        if not 0 <= rate < 1:
            raise ValueError(f"rate={rate} is out of range; allowed: at least 0 and below 1")
        hidden = hidden_mult * width
        self.width, self.dimension, self.rate = width, dimension, rate
        self.norm = nn.LayerNorm(width)
        self.first = init_linear(nn.Linear(width, hidden))
        self.second = init_linear(nn.Linear(hidden, hidden))
        self.out = init_linear(nn.Linear(hidden, dimension))
        self.skip = init_linear(nn.Linear(width, dimension))
        self.scale = init_linear(nn.Linear(width, dimension))
        self.shift = init_linear(nn.Linear(width, dimension))

    def forward(self, latent: Float[Tensor, "... d"]) -> Float[Tensor, "... D"]:
        """Rows as the table has them, in length as well."""
        normed = self.norm(latent)
        hidden = functional.gelu(self.second(functional.gelu(self.first(normed))))
        row = self.out(dropout(hidden, self.rate if self.training else 0.0)) + self.skip(normed)
        return row * torch.sigmoid(self.scale(latent)) + self.shift(latent)

    @torch.no_grad()
    def start_from(self, weight_dD: Float[Tensor, "d D"], bias_D: Float[Tensor, " D"]) -> None:
        """Make it the affine map bias + z weight exactly: FiLM's shift is that map, and all else starts at zero."""
        self.shift.weight.copy_(weight_dD.T)
        self.shift.bias.copy_(bias_D)
        for linear in (self.out, self.skip):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
