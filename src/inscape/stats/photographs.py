"""What real photographs measure at 32 x 32: the bands a calibrated gate asks for, and a table to be told apart from.

Bands: 4,161 luminance crops of 14 photographs at random scale, reduced to 32 x 32 and unit variance; median and the 5th
and 95th percentile over crops. Literature, for whole pictures: power slope 1.6 to 3.0, mean 2.4, in 135 photographs
(Tolhurst, Tadmor & Chao 1992); power about 1 / f^2 (Field 1987); kurtosis of the derivative about 17 (Huang & Mumford
1999). About a quarter of real crops have a slope within 1.5 to 2.5, and 99 % of structureless Gaussian 1 / f^2 fields.

Table: statistics of crops of 12 other openly licensed photographs, numbers only (`benchmarks/photograph_statistics.py`
names the pictures and their licences, and builds it).
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from inscape.stats.gradients import gradient_kurtosis, number_of_differences, total_variation
from inscape.stats.images import standardise
from inscape.stats.spectrum import spectral_slope
from inscape.stats.wavelet import haar_kurtosis, haar_mean_abs, haar_sparsity

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = [
    "BANDS",
    "HEAVY_TAILED",
    "SIDE",
    "STATISTICS",
    "Band",
    "PhotographTable",
    "as_features",
    "describe",
    "deviations",
    "photograph_table",
]

SIDE = 32  # pixels; the bands and the table hold at this size only


class Band(NamedTuple):
    """Where 90 % of photographic crops lie."""

    median: float
    low: float
    high: float


# In the units of the functions of the same name, of crops at unit variance (total_variation: sum of 1,984 differences).
BANDS = {
    "spectral_slope": Band(2.60, 1.87, 3.14),
    "gradient_kurtosis": Band(8.6, 4.3, 34.6),
    "total_variation": Band(571.0, 250.0, 1036.0),
    "haar_mean_abs": Band(0.21, 0.09, 0.38),
    "haar_sparsity": Band(0.43, 0.30, 0.67),
    "haar_kurtosis": Band(8.8, 4.4, 28.6),
}
STATISTICS = tuple(BANDS)
HEAVY_TAILED = ("gradient_kurtosis", "total_variation", "haar_mean_abs", "haar_kurtosis")


class PhotographTable(NamedTuple):
    """`statistics` (crops, 6) in the order of STATISTICS; `photograph` (crops) says which picture a crop is from."""

    statistics: np.ndarray
    photograph: np.ndarray


class _Chain(NamedTuple):
    """Photographs as a Gaussian over features, factored so that each statistic stands given those before it."""

    mean: Tensor  # (S)
    whiten: Tensor  # (S, S) lower triangular: inverse of the covariance's Cholesky factor


@lru_cache(maxsize=8)
def _chain(device: torch.device) -> _Chain:
    features = as_features(photograph_table().statistics)
    whiten = np.linalg.inv(np.linalg.cholesky(np.cov(features, rowvar=False)))
    with torch.inference_mode(False):
        return _Chain(*(torch.tensor(a, dtype=torch.float32, device=device) for a in (features.mean(0), whiten)))


def deviations(x: Float[Tensor, "*batch H W"], slope: Tensor | float | None = None) -> Float[Tensor, "*batch S"]:
    """How far each of STATISTICS lies from photographs that agree in the statistics before it, in standard deviations.

    Zeros mean: as photographs of this slope are on average. The sum of squares is the squared Mahalanobis distance to
    the table. Aiming at medians one by one would lead off the photographs, where Haar coefficients follow total
    variation at a correlation of 0.99. slope: the spectral slope to stand for the mean, broadcast over the batch.
    Differentiable; x must be 32 x 32 or a cut of nearly that size, for the statistics depend on it.
    """
    unit = standardise(x)
    values = [
        spectral_slope(unit),
        gradient_kurtosis(unit),
        total_variation(unit, normalise=True) * number_of_differences(SIDE, SIDE),
        haar_mean_abs(unit),
        haar_sparsity(unit),
        haar_kurtosis(unit),
    ]
    features = [torch.log(v + 1e-6) if name in HEAVY_TAILED else v for name, v in zip(STATISTICS, values, strict=True)]
    chain = _chain(unit.device)
    found = (torch.stack(features, -1) - chain.mean) @ chain.whiten.T
    if slope is None:
        return found
    first = (values[0] - torch.as_tensor(slope, device=unit.device)) * chain.whiten[0, 0]
    return torch.cat((first[..., None], found[..., 1:]), -1)


def as_features(statistics: np.ndarray) -> np.ndarray:
    """(n, 6) statistics with the heavy-tailed ones as logarithms; a flat image's zeros become a very small number."""
    heavy = [name in HEAVY_TAILED for name in STATISTICS]
    return np.where(heavy, np.log(np.maximum(statistics, 1e-6)), statistics)


@torch.no_grad()
def describe(x: Float[Tensor, "n H W"]) -> np.ndarray:
    """The six statistics of each image, (n, 6) in the order of STATISTICS, of the image brought to unit variance.

    To be compared with BANDS or the table the images must be 32 x 32; other sizes are refused.
    """
    if x.ndim != 3 or x.shape[-2:] != (SIDE, SIDE):
        raise ValueError(
            f"photographs were measured as (n, {SIDE}, {SIDE}); got {tuple(x.shape)}: resize the images first"
        )
    unit = standardise(x)
    columns = (spectral_slope, gradient_kurtosis, total_variation, haar_mean_abs, haar_sparsity, haar_kurtosis)
    return torch.stack([column(unit) for column in columns], -1).cpu().double().numpy()


@lru_cache(maxsize=1)
def photograph_table() -> PhotographTable:
    """The per-crop statistics that ship with the package."""
    archive = files("inscape.stats").joinpath("photographs.npz")
    with archive.open("rb") as file, np.load(file, allow_pickle=False) as table:
        return PhotographTable(table["statistics"].astype(np.float64), table["photograph"])
