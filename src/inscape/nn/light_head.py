"""The light head: a few queries on a coarse grid, painted larger step by step, for training on CPUs.

Legend: B batch, T tokens, D model width, G coarse rows and columns, Q = G^2 queries, C, H, W of the latent.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from inscape.nn.attention import padding_bias
from inscape.nn.grid_head import CrossBlock
from inscape.nn.text_encoder import EncoderLayer
from inscape.nn.vector_painter import VectorPainter

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = ["LightHead", "Painter"]

OUTPUT_SCALE = 3.0  # brings the latent of a fresh model to about unit variance


class Painter(nn.Module):
    """Coarse states to a full latent: resize, convolve and tint, until the grid is full size.

    Each round doubles the grid bilinearly and convolves it with kernels that all places share, so there is no patch
    whose border could show (Odena et al. 2016). A learned gain and offset for every pixel then say what belongs where;
    without them, places that the text treats alike would look alike and the picture would be one stamp, repeated.
    Beside each convolution stands a linear path, as in residual networks (He et al. 2016): what a reader must undo is
    then nearly linear at first.
    """

    def __init__(self, d: int, coarse: int, latent_CHW: tuple[int, int, int], widths: tuple[int, ...]) -> None:
        super().__init__()
        channels, height, width = latent_CHW
        rounds = max(1, math.ceil(math.log2(max(height, width) / coarse)))
        self.sizes = [(math.ceil(height / 2**left), math.ceil(width / 2**left)) for left in reversed(range(rounds))]
        wide = [widths[min(i, len(widths) - 1)] for i in range(rounds + 1)]
        self.coarse = coarse
        self.enter = nn.Linear(d, wide[0])
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(wide))
        self.skips = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(wide))
        # In place: a number times a tensor on "meta" would import the compiler, a second's work of every start.
        maps = [(b, *size) for b, size in zip(wide[1:], self.sizes, strict=True)]
        self.gains = nn.ParameterList(torch.randn(*size).mul_(0.5) for size in maps)
        self.offsets = nn.ParameterList(torch.randn(*size).mul_(0.5) for size in maps)
        self.leave = nn.Conv2d(wide[-1], channels, 3, padding=1)

    def forward(self, x_BQD: Float[Tensor, "B Q D"]) -> Float[Tensor, "B C H W"]:
        x_BCHW = self.enter(x_BQD).transpose(1, 2).unflatten(2, (self.coarse, self.coarse))
        for convolution, skip, gain, offset, size in zip(
            self.convolutions, self.skips, self.gains, self.offsets, self.sizes, strict=True
        ):
            x_BCHW = functional.interpolate(x_BCHW, size=size, mode="bilinear", align_corners=False)
            bent_BCHW, straight_BCHW = convolution(x_BCHW), skip(x_BCHW)
            dtype = bent_BCHW.dtype  # at full size, float32 gains would turn half of a step's traffic into float32
            gain_CHW = 1 + gain.to(dtype)
            bent_BCHW = functional.gelu(torch.addcmul(offset.to(dtype), bent_BCHW, gain_CHW))
            x_BCHW = torch.addcmul(bent_BCHW, straight_BCHW, gain_CHW)
        return OUTPUT_SCALE * self.leave(x_BCHW)


class LightHead(nn.Module):
    """Token states to a latent: few queries -> cross-attention -> self-attention -> cross-attention -> picture.

    plain: a vector of as many values instead of a picture, see `VectorPainter`.
    """

    def __init__(
        self,
        d: int,
        heads: int,
        ffn: int,
        rate: float,
        *,
        latent_CHW: tuple[int, int, int],
        coarse: int = 8,
        widths: tuple[int, ...] = (128, 64, 16, 16),
        plain: bool = False,
    ) -> None:
        super().__init__()
        if not 1 <= coarse <= min(latent_CHW[1:]):
            raise ValueError(f"coarse must be 1 to the latent's height and width {latent_CHW[1:]}, got {coarse}")
        self.queries_QD = nn.Parameter(torch.randn(coarse * coarse, d))
        self.first = CrossBlock(d, heads, ffn, rate)
        self.between = EncoderLayer(d, heads, ffn, rate)
        self.second = CrossBlock(d, heads, ffn, rate)
        self.norm = nn.LayerNorm(d)
        self.paint = VectorPainter(d, coarse, latent_CHW) if plain else Painter(d, coarse, latent_CHW, widths)

    def forward(self, states_BTD: Float[Tensor, "B T D"], keep_BT: Bool[Tensor, "B T"]) -> Float[Tensor, "B C H W"]:
        return self.paint(self.places(states_BTD, keep_BT))

    def places(self, states_BTD: Float[Tensor, "B T D"], keep_BT: Bool[Tensor, "B T"]) -> Float[Tensor, "B Q D"]:
        """What is painted: one state for each place of the coarse grid, row by row."""
        bias_BT = padding_bias(keep_BT, states_BTD.dtype)
        x_BQD = self.first(self.queries_QD, states_BTD, bias_BT)
        x_BQD = self.between(x_BQD, bias_BT.new_zeros(x_BQD.shape[:2]))
        x_BQD = self.second(x_BQD, states_BTD, bias_BT)
        return self.norm(x_BQD)
