"""A measured number with its interval, so that a gate can tell "below the bound" from "we cannot say".

Intervals are over independent units (scenes, speakers, documents), never over tokens or frames:
correlated samples make an interval look narrower than it is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

__all__ = [
    "FEW",
    "Estimate",
    "NotFinite",
    "bootstrap_interval",
    "bootstrap_mean",
    "exact",
    "jackknife_error",
    "proportion",
    "wilson",
]

CONFIDENCE = 0.95
NORMAL_QUANTILE = 1.959963984540054  # two-sided 95 %
FEW = 20  # units, below which a percentile bootstrap alone is too narrow
STUDENT_QUANTILES = (  # two-sided 95 %, of 1 to FEW - 2 degrees of freedom
    12.706204736, 4.302652730, 3.182446305, 2.776445105, 2.570581836, 2.446911851, 2.364624252, 2.306004135,
    2.262157163, 2.228138852, 2.200985160, 2.178812830, 2.160368656, 2.144786688, 2.131449546, 2.119905299,
    2.109815578, 2.100922040,
)  # fmt: skip


class NotFinite(ValueError):
    """Scores of which some are not numbers. No input asks for that: what made them is at fault."""


@dataclass(frozen=True)
class Estimate:
    """A value with a 95 % interval [low, high], measured on `n` independent units of kind `unit`."""

    value: float
    low: float
    high: float
    n: int
    unit: str

    @property
    def measured(self) -> bool:
        """False where nothing was counted or the number is not finite: not measured is never zero."""
        return self.n > 0 and all(math.isfinite(x) for x in (self.value, self.low, self.high))

    def __post_init__(self) -> None:
        if self.n < 0:
            raise ValueError(f"Estimate.n counts units and cannot be negative: {self.n}")
        if self.measured and not self.low <= self.value <= self.high:
            raise ValueError(f"Estimate wants low <= value <= high, given {self.low} {self.value} {self.high}")

    def __str__(self) -> str:
        if not self.measured:
            return "not measured"
        if self.low == self.high:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"

    def to_json(self) -> dict[str, float | int | str | None]:
        """A plain dictionary; numbers that are not finite become null, since JSON has no word for them."""
        numbers = {name: float(getattr(self, name)) for name in ("value", "low", "high")}
        finite = {name: x if math.isfinite(x) else None for name, x in numbers.items()}
        return {**finite, "n": int(self.n), "unit": self.unit}

    @classmethod
    def from_json(cls, fields: dict) -> "Estimate":
        """The inverse of `to_json`."""
        numbers = [math.nan if fields[k] is None else float(fields[k]) for k in ("value", "low", "high")]
        return cls(*numbers, n=int(fields["n"]), unit=str(fields["unit"]))


def exact(value: float, n: int, unit: str) -> Estimate:
    """A number without sampling error (a count, a proof, a deterministic comparison)."""
    return Estimate(float(value), float(value), float(value), n, unit)


def bootstrap_mean(
    values: Sequence[float] | np.ndarray, unit: str, *, seed: int = 0, resamples: int = 2000, mostly_whole: bool = False
) -> Estimate:
    """Mean with the interval of `bootstrap_interval`; one value per independent unit.

    mostly_whole: scores from 0 to 1 of which most are 0 or 1, as an F1 of scenes. The interval is then at least as wide
    as `proportion`'s at this mean: fifty perfect scores do not show that none is imperfect. ValueError outside 0 to 1.

    Of a single unit nothing is known about the spread, so its interval is not measured: resampling one value would
    claim certainty. Raises NotFinite if a value is not finite: dropping it in silence would move the mean.
    """
    x = np.asarray(values, dtype=np.float64).ravel()
    if x.size == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, unit)
    if not np.isfinite(x).all():
        raise NotFinite(
            f"{int((~np.isfinite(x)).sum())} of {x.size} values are not finite; a mean over them is not defined"
        )
    mean = float(x.mean())
    if x.size == 1:
        return Estimate(mean, math.nan, math.nan, 1, unit)
    draw = np.random.default_rng(seed)  # one resample at a time: all of them at once would take 16 GB for 10^6 units
    means = [x[draw.integers(0, x.size, x.size)].mean() for _ in range(resamples)]
    found = bootstrap_interval(mean, means, float(x.std(ddof=1)) / math.sqrt(x.size), x.size, unit)
    if not mostly_whole:
        return found
    if x.min() < 0 or x.max() > 1:
        raise ValueError(f"scores from {x.min():g} to {x.max():g} {unit}; mostly_whole wants 0 to 1")
    low, high = wilson(mean, x.size)
    return replace(found, low=max(0.0, min(low, found.low)), high=min(1.0, max(high, found.high)))


def bootstrap_interval(
    value: float, drawn_R: Sequence[float] | np.ndarray, error: float, n: int, unit: str
) -> Estimate:
    """`value` of n units with the 95 % percentile interval of the same number of R resamples of them.

    error: its standard error over the units. Of n units the resamples scatter too little, by sqrt((n - 1) / n), and
    their quantiles are a normal distribution's: of 6 they hold the mean 86 times in 100. So below 20 units the interval
    is no narrower than Student's, value -+ t(n - 1) error; it is not measured of one unit, or where the error is not.
    Source: Efron & Tibshirani 1993, sections 12.2 (Student's interval) and 13.3 (percentiles); Hesterberg 2015.
    """
    half = 0.0 if n >= FEW else math.nan if n < 2 else STUDENT_QUANTILES[n - 2] * float(error)
    if not math.isfinite(half):
        return Estimate(value, math.nan, math.nan, n, unit)
    low, high = map(float, np.quantile(drawn_R, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]))
    return Estimate(value, min(low, value - half), max(high, value + half), n, unit)


def jackknife_error(without_U: Sequence[float] | np.ndarray) -> float:
    """Standard error of a number from what it is without each of the U units in turn; of a mean, s / sqrt(U).

    NaN of no unit. Source: Tukey 1958; Efron & Tibshirani 1993, section 11.2.
    """
    x_U = np.asarray(without_U, dtype=np.float64)
    return math.sqrt(1 - 1 / x_U.size) * math.hypot(*(x_U - x_U.mean())) if x_U.size else math.nan


def proportion(successes: int, n: int, unit: str) -> Estimate:
    """Share of `n` independent units that succeeded, with Wilson's score interval.

    Wilson's interval stays inside [0, 1] and keeps a width at 0 and 1, where a bootstrap would claim certainty.
    Source: Wilson 1927; Brown, Cai & DasGupta 2001.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} {unit}: wanted 0 <= successes <= n")
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, unit)
    share = successes / n
    return Estimate(share, *wilson(share, n), n, unit)


def wilson(share: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Ends of Wilson's interval (1927) of a share of n units, which holds the share."""
    z = NORMAL_QUANTILE if confidence == CONFIDENCE else NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))
