"""Oriented wavelets: sparsity along edges of any direction, where Haar sees rows and columns only.

The bands of a steerable pyramid (Simoncelli & Freeman 1995, four orientations: angular response cos^3), undecimated and
periodic, made in the frequency plane. Their squares sum to 1 between the two cut-offs, so energy is kept there.

Shapes: x (..., H, W), bands (..., SCALES * ORIENTATIONS, H, W), statistics (...).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from inscape.stats.images import constant_when_compiled, standardise
from inscape.stats.wavelet import hoyer_sparsity

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["ORIENTATIONS", "SCALES", "oriented_bands", "oriented_sparsity"]

SCALES = 2  # octaves: centred on a half and a quarter of Nyquist
ORIENTATIONS = 4


@lru_cache(maxsize=64)
def _filters(height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    # Outside inference mode, or the cached tensor could never take part in a backward pass again.
    with torch.inference_mode(False), torch.no_grad():
        down = torch.fft.fftfreq(height, dtype=torch.float64)[:, None]
        across = torch.fft.fftfreq(width, dtype=torch.float64)[None, :]
        octave = torch.sqrt(down**2 + across**2).clamp_min(1e-9).log2() + 2  # 0 at half of Nyquist
        angle = torch.atan2(down, across.expand(height, -1))
        # cos^2 windows an octave apart, in log-frequency: neighbours sum to 1.
        windows = [torch.cos((octave + scale).clamp(-1, 1) * math.pi / 2) for scale in range(SCALES)]
        # The sum of cos^6 over four directions is 5/4; an odd power needs the factor i to make a real filter.
        turns = [angle - k * math.pi / ORIENTATIONS for k in range(ORIENTATIONS)]
        angular = [1j * math.sqrt(0.8) * torch.cos(turn) ** (ORIENTATIONS - 1) for turn in turns]
        whole = torch.stack([window * response for window in windows for response in angular])
        # At Nyquist +f and -f are one mode; only the part that makes a real image is kept.
        opposite = whole.flip(-2, -1).roll((1, 1), (-2, -1)).conj()
        half = (whole + opposite)[..., : width // 2 + 1] / 2
        return half.to(device, torch.complex128 if dtype == torch.float64 else torch.complex64)


@constant_when_compiled
def _constant_filters(height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return _filters(height, width, device, dtype)


def oriented_bands(x: Float[Tensor, "*batch H W"]) -> Float[Tensor, "*batch bands H W"]:
    """Odd (edge-like) responses of the image at unit variance: scale by scale, fine first, in four directions each.

    Direction k is that of the gradient, k * 45 degrees from rightwards towards downwards.
    """
    x = standardise(x)
    # len(range(n)) is n, but as a number even where torch.compile would carry a symbol: one graph for each image size.
    height, width = len(range(x.shape[-2])), len(range(x.shape[-1]))
    if not x.numel():
        return x.unsqueeze(-3).expand(*x.shape[:-2], SCALES * ORIENTATIONS, height, width)
    filters = _constant_filters(height, width, x.device, x.dtype)
    return torch.fft.irfft2(torch.fft.rfft2(x).unsqueeze(-3) * filters, s=(height, width))


def oriented_sparsity(x: Float[Tensor, "*batch H W"]) -> Float[Tensor, "*batch"]:
    """Hoyer sparsity of each oriented band, mean over the bands: Gaussian fields of any slope about 0.20."""
    return hoyer_sparsity(oriented_bands(x).flatten(-2)).mean(-1)
