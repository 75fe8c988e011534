"""Coarse states to a plain vector of as many values as a latent has: what a picture is compared with.

Legend: B batch, G coarse rows and columns, Q = G^2 places, D model width, C, H, W of the latent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional

from inscape.nn.attention import init_linear

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["VectorPainter"]


class VectorPainter(nn.Module):
    """One linear map from each place's state to its share of the values, which are dealt out like cards.

    No resizing, no convolution, nothing between neighbours. Of each G x G pixels every place has one, so whatever
    patches the vector is read in, each holds as much of every place, and where a value stands says nothing.
    """

    def __init__(self, d: int, coarse: int, latent_CHW: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = latent_CHW
        if height % coarse or width % coarse:
            raise ValueError(f"a vector is dealt out to {coarse} x {coarse} places; {height} x {width} is no multiple")
        self.coarse, self.share_CHW = coarse, (channels, height // coarse, width // coarse)
        self.leave = init_linear(nn.Linear(d, channels * self.share_CHW[1] * self.share_CHW[2]))

    def forward(self, x_BQD: Float[Tensor, "B Q D"]) -> Float[Tensor, "B C H W"]:
        share_BQCHW = self.leave(x_BQD).unflatten(2, self.share_CHW)
        return functional.pixel_shuffle(share_BQCHW.transpose(1, 2).flatten(1, 2), self.coarse)
