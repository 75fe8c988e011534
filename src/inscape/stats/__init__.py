"""Statistics of images, each one function that serves as loss and as metric.

All take x (..., H, W), any float type, H and W of at least 4, and return one number per image (...). They are batched,
differentiable everywhere (a flat image gives finite values and gradients), and compile without graph breaks. Half
precision is computed and returned in float32.
"""

from inscape.stats.gradients import (
    Differences,
    differences,
    gradient_kurtosis,
    number_of_differences,
    total_variation,
)
from inscape.stats.images import standardise, variance
from inscape.stats.moments import channel_correlation, channel_covariance
from inscape.stats.spectrum import RadialSpectrum, high_frequency_share, radial_spectrum, spectral_slope
from inscape.stats.steerable import oriented_bands, oriented_sparsity
from inscape.stats.summary import ImageStatistics, image_statistics
from inscape.stats.texture import grid_energy, spectral_peakedness, unevenness
from inscape.stats.wavelet import haar_details, haar_kurtosis, haar_mean_abs, haar_sparsity, hoyer_sparsity

__all__ = [
    "Differences",
    "ImageStatistics",
    "RadialSpectrum",
    "channel_correlation",
    "channel_covariance",
    "differences",
    "gradient_kurtosis",
    "grid_energy",
    "haar_details",
    "haar_kurtosis",
    "haar_mean_abs",
    "haar_sparsity",
    "high_frequency_share",
    "hoyer_sparsity",
    "image_statistics",
    "number_of_differences",
    "oriented_bands",
    "oriented_sparsity",
    "radial_spectrum",
    "spectral_peakedness",
    "spectral_slope",
    "standardise",
    "total_variation",
    "unevenness",
    "variance",
]
