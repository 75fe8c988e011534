"""Orthonormal Haar details: how sparse an image is in the simplest wavelet basis.

An odd last row or column has no partner and is left out.

Shapes: x (..., H, W), details (..., 3, H // 2, W // 2), statistics (...).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from inscape.stats.images import TINY, as_images, refuse_other_than_tensors, standardise

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["haar_details", "haar_kurtosis", "haar_mean_abs", "haar_sparsity", "hoyer_sparsity"]


def haar_details(x: Float[Tensor, "*batch H W"]) -> Float[Tensor, "*batch 3 h w"]:
    """One level of the orthonormal Haar transform, details only: (horizontal, vertical, diagonal).

    The order and signs are those of PyWavelets' `dwt2(x, "haar")` (Mallat 1989).
    """
    return torch.stack(_three_bands(x), -3)


def _three_bands(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x = as_images(x)
    height, width = x.shape[-2] // 2 * 2, x.shape[-1] // 2 * 2
    # Rows first: sums of whole rows are contiguous, and leave half as much to gather column by column.
    top, low = x[..., :height, :width].unflatten(-2, (-1, 2)).unbind(-2)
    sum_left, sum_right = ((top + low) / 2).unflatten(-1, (-1, 2)).unbind(-1)
    change_left, change_right = ((top - low) / 2).unflatten(-1, (-1, 2)).unbind(-1)
    return change_left + change_right, sum_left - sum_right, change_left - change_right


def hoyer_sparsity(coefficients: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Hoyer's sparseness, (sqrt(n) - l1 / l2) / (sqrt(n) - 1): 0 all equal, 1 a single one not zero (Hoyer 2004).

    Whatever the scale. All zeros read 0: nothing is there to be sparse, and nothing is won by fading out.
    """
    refuse_other_than_tensors(coefficients)
    return _hoyer(coefficients.abs().sum(-1), coefficients.square().sum(-1), coefficients.shape[-1])


def _hoyer(absolutes: Tensor, squares: Tensor, count: int) -> Tensor:
    root = count**0.5
    return (root - (absolutes + root * TINY**0.5) / (squares + TINY).sqrt()) / (root - 1)


def haar_sparsity(x: Float[Tensor, "*batch H W"]) -> Float[Tensor, "*batch"]:
    """Hoyer sparsity of all one-level Haar details together: white noise 0.21, photographs 0.43, dead leaves 0.50."""
    bands = _three_bands(x)
    horizontal, vertical, diagonal = (band.abs().sum((-2, -1)) for band in bands)
    absolutes = horizontal + vertical + diagonal
    horizontal, vertical, diagonal = (band.square().sum((-2, -1)) for band in bands)
    return _hoyer(absolutes, horizontal + vertical + diagonal, 3 * bands[0].shape[-2] * bands[0].shape[-1])


def haar_mean_abs(x: Float[Tensor, "*batch H W"], *, normalise: bool = False) -> Float[Tensor, "*batch"]:
    """Mean absolute Haar detail in the units of x, or of the image at unit variance (white noise 0.80)."""
    return haar_details(standardise(x) if normalise else x).abs().mean((-3, -2, -1))


def haar_kurtosis(x: Float[Tensor, "*batch H W"]) -> Float[Tensor, "*batch"]:
    """Kurtosis of the Haar details (Gaussian = 3), the mean of the three bands. 0 for a flat image.

    By band because bands differ in variance, and a mixture of variances is heavy-tailed even where each is Gaussian.
    """
    bands = haar_details(x).flatten(-2)
    squared = (bands - bands.mean(-1, keepdim=True)).square()
    return (squared.square().mean(-1) / (squared.mean(-1) + TINY).square()).mean(-1)
