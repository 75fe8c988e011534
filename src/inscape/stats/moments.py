"""Second moments between channels: decorrelation is the plan's way to keep six channels from being one.

The red, green and blue of photographs correlate at 0.92-0.97, so a diagonal covariance is a property of opponent or
principal-component channels (Ruderman, Cronin & Chiao 1998), not of raw colours.

Shapes: x (..., C, H, W) -> (..., C, C).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from inscape.stats.images import TINY, as_images

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["channel_correlation", "channel_covariance"]


def channel_covariance(x: Float[Tensor, "*batch C H W"]) -> Float[Tensor, "*batch C C"]:
    """Population covariance between the channels of each image, over its H W pixels; the diagonal is `variance`."""
    if x.ndim < 3:
        raise ValueError(f"channel covariance needs (..., C, H, W), got {tuple(x.shape)}")
    pixels = as_images(x).flatten(-2)
    with torch.autocast(x.device.type, enabled=False):
        second = pixels @ pixels.mT / pixels.shape[-1]
    mean = pixels.mean(-1)
    return second - mean.unsqueeze(-1) * mean.unsqueeze(-2)


def channel_correlation(x: Float[Tensor, "*batch C H W"]) -> Float[Tensor, "*batch C C"]:
    """`channel_covariance` in units of the channels' standard deviations; a flat channel correlates 0 with all."""
    covariance = channel_covariance(x)
    scale = (covariance.diagonal(dim1=-2, dim2=-1).clamp_min(0) + TINY).rsqrt()
    return covariance * scale.unsqueeze(-1) * scale.unsqueeze(-2)
