"""The radial power spectrum and its slope: power ~ 1 / frequency^alpha, alpha about 2 to 3 in photographs.

Field (1987) and Tolhurst, Tadmor & Chao (1992) averaged power over orientations and fitted a line in log-log axes. On
a 32 x 32 grid that classical fit is biased in three ways; `spectral_slope` removes all three, see there.

Shapes: x (..., H, W); half plane of frequencies F = H (W // 2 + 1); rings R; statistics (...).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch

from inscape.stats.images import TINY, as_images, constant_when_compiled, half_plane, standardise

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor
    from torch.autograd.function import FunctionCtx

__all__ = ["RadialSpectrum", "high_frequency_share", "radial_spectrum", "slope_of_standardised", "spectral_slope"]

# The middle of the slopes that matter (0..3): a ring's power is referred to the ring's own frequency along this law.
REFERENCE_SLOPE = 1.5
HALF_OF_NYQUIST = 0.25


class RadialSpectrum(NamedTuple):
    """Power averaged over orientation: `frequency` (R) in cycles per pixel, `power` (..., R) per mode, units of x^2."""

    frequency: Tensor
    power: Tensor


class _Rings(NamedTuple):
    """Constants of one image size: ring r holds the modes whose radius rounds to r. Shapes (R), (F, R) or (F)."""

    log_frequency: Tensor
    average: Tensor
    flattened_average: Tensor
    flattened_square: Tensor
    missing_log: Tensor
    line: Tensor
    copies: Tensor
    varying: Tensor
    high: Tensor


@lru_cache(maxsize=64)
def _rings(height: int, width: int, device: torch.device, dtype: torch.dtype) -> _Rings:
    # Outside inference mode, or the cached tensors could never take part in a backward pass again.
    with torch.inference_mode(False), torch.no_grad():
        down_H1 = torch.fft.fftfreq(height, dtype=torch.float64)[:, None]
        across_1W = torch.fft.rfftfreq(width, dtype=torch.float64)[None, :]
        frequency_F = torch.sqrt(down_H1**2 + across_1W**2).flatten()
        # The half plane stands for the whole: every column but the first and Nyquist's has a mirror image.
        has_mirror = (across_1W > 0) & (2 * across_1W < 1)
        copies_F = (1.0 + has_mirror.double()).expand(height, -1).flatten()
        longer = max(height, width)
        ring_F = torch.round(frequency_F * longer)
        member_FR = (ring_F[:, None] == torch.arange(1, longer // 2 + 1)) * copies_F[:, None]
        modes_R = member_FR.sum(0)
        average_FR = member_FR / modes_R
        log_frequency_F = frequency_F.clamp_min(TINY).log()
        log_frequency_R = log_frequency_F @ average_FR
        flattening_FR = torch.exp(REFERENCE_SLOPE * (log_frequency_F[:, None] - log_frequency_R))
        independent_R = modes_R / 2
        missing_R = (independent_R.log() - independent_R.digamma()) * (independent_R + 1) / (independent_R - 1)
        centred_R = log_frequency_R - (modes_R @ log_frequency_R) / modes_R.sum()
        tables = _Rings(
            log_frequency_R,
            average_FR,
            average_FR * flattening_FR,
            average_FR * flattening_FR**2,
            torch.where(independent_R > 1, missing_R, 0.0),
            modes_R * centred_R / (modes_R @ centred_R**2),
            copies_F,
            copies_F * (frequency_F > 0),
            copies_F * (frequency_F > HALF_OF_NYQUIST),
        )
        return _Rings(*(table.to(device, dtype) for table in tables))


@constant_when_compiled
def _constant_rings(height: int, width: int, device: torch.device, dtype: torch.dtype) -> _Rings:
    return _rings(height, width, device, dtype)


def _power(x: Tensor) -> Tensor:
    modes = half_plane(x)
    return modes.real.square() + modes.imag.square()


class _Power(torch.autograd.Function):
    """x (..., H, W) -> |rfft2(x)|^2 (..., H, W // 2 + 1), Parseval-scaled: its mean over all modes is that of x^2.

    Backward is one inverse transform of half a plane; autograd's own fills the whole plane with complex numbers first.
    It transforms x again instead of keeping the modes, so that second derivatives stay right.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, copies: Tensor) -> Tensor:
        ctx.save_for_backward(x, copies)
        return _power(x)

    @staticmethod
    def backward(ctx: FunctionCtx, slope: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, copies = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        if not x.numel():
            return torch.zeros_like(x), None
        # irfft2 counts a mirrored column twice already.
        half = torch.fft.rfft2(x, norm="ortho") * (slope * (2 / copies))
        return torch.fft.irfft2(half, s=x.shape[-2:], norm="ortho"), None


def _power_and_rings(x: Tensor) -> tuple[Tensor, _Rings]:
    # len(range(n)) is n, but as a number even where torch.compile would carry a symbol: one graph for each image size.
    height, width = len(range(x.shape[-2])), len(range(x.shape[-1]))
    rings = _constant_rings(height, width, x.device, x.dtype)
    # The compiler writes its own backward, and warns of classes like _Power.
    compiling = torch.compiler.is_compiling()
    power = _power(x) if compiling else _Power.apply(x, rings.copies.view(height, -1))
    return power.flatten(-2), rings


def radial_spectrum(x: Float[Tensor, "*batch H W"]) -> RadialSpectrum:
    """Power averaged over each ring of radius 1, 2, ... up to Nyquist (in cycles per longer side), DC left out.

    The frequency of a ring is the geometric mean of the frequencies that lie in it, not the middle of its edges.
    No window and no detrending: the images wrap around, as for the synthetic fields of `stats.fields`.
    """
    x = as_images(x)
    with torch.autocast(x.device.type, enabled=False):
        power_F, rings = _power_and_rings(x)
        return RadialSpectrum(rings.log_frequency.exp(), power_F @ rings.average)


def spectral_slope(x: Float[Tensor, "*batch H W"]) -> Float[Tensor, "*batch"]:
    """Slope alpha of the radial power spectrum, power ~ 1 / frequency^alpha. White noise 0, photographs about 2.6.

    A weighted least-squares line through (log frequency, log ring power), each ring weighted by its number of modes.
    Bias is below 0.02 for alpha in 0..3 at 32 x 32, for spectra that follow the law exactly and for Gaussian fields
    that follow it on average, because
      * a ring stands at the mean log-frequency of its modes (centres at k + 1/2 read 3.0 as 3.23);
      * within a ring power is first referred to that frequency along the reference slope 1.5, or the steep first ring
        would be averaged too high;
      * the log of a mean over n random powers is too low, by log n - digamma(n) if they are exponential (Gaussian
        fields); that much is added back in proportion to the scatter seen in the ring (0 if it has none), scaled so
        that it is exact for the exponential law. Without it white noise reads -0.04.

    A flat image reads 0.
    """
    # At unit variance, so that TINY is the same share of any image; without a mean, so that none leaks in by rounding.
    return slope_of_standardised(standardise(x))


def slope_of_standardised(x: Float[Tensor, "*batch H W"]) -> Float[Tensor, "*batch"]:
    """`spectral_slope` of images that have mean 0 and variance 1 already."""
    with torch.autocast(x.device.type, enabled=False):
        power_F, rings = _power_and_rings(x)
        mean_R = power_F @ rings.flattened_average + TINY
        scatter_R = (power_F.square() @ rings.flattened_square + TINY**2) / mean_R.square() - 1
        return -(mean_R.log() + rings.missing_log * scatter_R) @ rings.line


def high_frequency_share(x: Float[Tensor, "*batch H W"]) -> Float[Tensor, "*batch"]:
    """Speckle: the share of the variance above half of Nyquist (0.25 cycles per pixel, any direction), from 0 to 1.

    White noise 0.80 at 32 x 32, a checkerboard 1, a flat image 0.
    """
    x = standardise(x)
    with torch.autocast(x.device.type, enabled=False):
        power_F, rings = _power_and_rings(x)
        return power_F @ rings.high / (power_F @ rings.varying + TINY)
