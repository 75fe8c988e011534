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

from inscape.stats.gradients import gradient_kurtosis, total_variation
from inscape.stats.images import standardise
from inscape.stats.spectrum import spectral_slope
from inscape.stats.wavelet import haar_kurtosis, haar_mean_abs, haar_sparsity

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = [
    "BANDS",
    "HEAVY_TAILED",
    "SIDE",
    "STATISTICS",
    "Band",
    "PhotographTable",
    "describe",
    "photograph_table",
    "typical",
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


def typical(slope: np.ndarray) -> dict[str, np.ndarray]:
    """What photographs of a given spectral slope measure on average, by statistic; the slope itself is passed through.

    A quadratic in the slope, fitted to the table; statistics of positive sign and heavy tail as logarithms. Aiming at
    medians one by one leads off the photographs: at a slope of 2.2 their total variation is 12 % above its median.
    """
    described = photograph_table().statistics
    alpha, wanted = described[:, 0], np.asarray(slope, dtype=np.float64)
    expected = {"spectral_slope": wanted}
    for column, name in enumerate(STATISTICS[1:], 1):
        heavy = name in HEAVY_TAILED
        values = np.log(described[:, column]) if heavy else described[:, column]
        fitted = np.polyval(np.polyfit(alpha, values, 2), wanted)
        expected[name] = np.exp(fitted) if heavy else fitted
    return expected


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
