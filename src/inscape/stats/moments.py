"""Second moments between channels: decorrelation is the plan's way to keep six channels from being one.

The red, green and blue of photographs correlate at 0.92-0.97, so a diagonal covariance is a property of opponent or
principal-component channels (Ruderman, Cronin & Chiao 1998), not of raw colours.

Shapes: x (..., C, H, W) -> (..., C, C).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from inscape.stats.images import TINY, centre, refuse_other_than_tensors

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor
    from torch.autograd.function import FunctionCtx

__all__ = ["channel_correlation", "channel_covariance", "covariance_of_centred"]


class _Gram(torch.autograd.Function):
    """rows_NK -> rows_NK rows_NK^T. Knowing that the product is symmetric makes backward four times as fast."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows_NK: Tensor) -> Tensor:
        ctx.save_for_backward(rows_NK)
        return rows_NK @ rows_NK.mT

    @staticmethod
    def backward(ctx: FunctionCtx, slope_NN: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (rows_NK,) = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        return (slope_NN + slope_NN.mT) @ rows_NK


def channel_covariance(x: Float[Tensor, "*batch C H W"]) -> Float[Tensor, "*batch C C"]:
    """Population covariance between the channels of each image, over its H W pixels; the diagonal is `variance`."""
    refuse_other_than_tensors(x)
    if x.ndim < 3:
        raise ValueError(f"channel covariance needs (..., C, H, W), got {tuple(x.shape)}")
    return covariance_of_centred(centre(x))


def covariance_of_centred(centred: Float[Tensor, "*batch C H W"]) -> Float[Tensor, "*batch C C"]:
    """`channel_covariance` of images that have mean 0 already."""
    pixels = centred.flatten(-2)
    with torch.autocast(pixels.device.type, enabled=False):
        # The compiler writes its own backward, and warns of classes like _Gram.
        gram = pixels @ pixels.mT if torch.compiler.is_compiling() else _Gram.apply(pixels)
        return gram / pixels.shape[-1]


def channel_correlation(x: Float[Tensor, "*batch C H W"]) -> Float[Tensor, "*batch C C"]:
    """`channel_covariance` in units of the channels' standard deviations; a flat channel correlates 0 with all."""
    covariance = channel_covariance(x)
    scale = (covariance.diagonal(dim1=-2, dim2=-1).clamp_min(0) + TINY).rsqrt()
    return covariance * scale.unsqueeze(-1) * scale.unsqueeze(-2)
