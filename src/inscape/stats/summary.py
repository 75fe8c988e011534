"""The six terms of the image prior in one pass, sharing what they share: mean, variance, differences.

Shapes: x (..., C, H, W) -> (..., C), covariance (..., C, C).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from inscape.stats.gradients import differences, kurtosis_of_differences, number_of_differences, sum_of_absolutes
from inscape.stats.images import TINY, centre, refuse_other_than_tensors
from inscape.stats.moments import covariance_of_centred
from inscape.stats.spectrum import slope_of_standardised
from inscape.stats.wavelet import haar_sparsity

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["ImageStatistics", "image_statistics"]


class ImageStatistics(NamedTuple):
    """One number per channel (..., C), each equal to the function of the same name; covariance (..., C, C)."""

    spectral_slope: Tensor
    total_variation: Tensor  # of the channel at unit variance, per difference: normalise=True
    haar_sparsity: Tensor
    gradient_kurtosis: Tensor
    variance: Tensor
    covariance: Tensor


def image_statistics(x: Float[Tensor, "*batch C H W"]) -> ImageStatistics:
    """All six statistics of images with channels, sharing what they have in common."""
    refuse_other_than_tensors(x)
    if x.ndim < 3:
        raise ValueError(f"image_statistics needs (..., C, H, W), got {tuple(x.shape)}")
    centred = centre(x)
    covariance = covariance_of_centred(centred)
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    unit = centred * (variance + TINY).rsqrt()[..., None, None]
    steps = differences(unit)
    return ImageStatistics(
        spectral_slope=slope_of_standardised(unit),
        total_variation=sum_of_absolutes(steps) / number_of_differences(x.shape[-2], x.shape[-1]),
        haar_sparsity=haar_sparsity(unit),
        gradient_kurtosis=kurtosis_of_differences(steps),
        variance=variance,
        covariance=covariance,
    )
