"""How much of a score is left: the mean under one condition over the mean under another, on the same questions."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from inscape.core.estimate import FEW, Estimate, wilson
from inscape.stats.beta_tail import student_quantile

__all__ = ["CONFIDENCE", "kept_share", "mean_difference"]

CONFIDENCE = 0.95
RESAMPLES = 2000


def kept_share(
    values: Sequence[float],
    reference: Sequence[float],
    *,
    groups: Sequence[Hashable] | None = None,
    unit: str = "questions",
    seed: int = 0,
    mostly_whole: bool = False,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """mean(values) / mean(reference), with a percentile bootstrap over questions, or over whole `groups` of them.

    Both scores of a question are drawn together, so what makes questions easy or hard is in neither interval twice.
    mostly_whole: scores from 0 to 1 of which most are 0 or 1, as an F1. The interval is then at least as wide as of
    shares (see `_change`): forty questions that keep everything do not show that none loses anything. Against ones it
    is at least as wide as Wilson's of so many groups. confidence: of the interval, higher for one chosen among several.

    Of fewer than 20 units the interval is no narrower than Student's, with the linearised error of a ratio (see
    `core.estimate.bootstrap_interval`). Not measured where the reference's mean is 0 (nothing is there to be kept) or
    is so in a resample, or of one unit.
    ValueError on lists of different lengths, and with mostly_whole on scores outside 0 to 1.
    Source: Efron & Tibshirani 1993, section 10.3 (the ratio estimator).
    """
    total_G2, count_G = _of_groups(values, reference, groups)
    if not len(total_G2) or total_G2[:, 1].sum() <= 0:
        return Estimate(math.nan, math.nan, math.nan, len(total_G2), unit)
    value = float(total_G2[:, 0].sum() / total_G2[:, 1].sum())
    sums_R2 = _resampled(total_G2, seed)
    if sums_R2[:, 1].min() <= np.finfo(float).eps * np.abs(total_G2[:, 1]).sum():
        return Estimate(value, math.nan, math.nan, len(count_G), unit)
    drawn_R, bounds = sums_R2[:, 0] / sums_R2[:, 1], ()
    if mostly_whole:
        mean = float(total_G2[:, 1].sum() / count_G.sum())
        changes = _change(values, reference, len(count_G), confidence, most=(1 - mean, mean))
        bounds = tuple(1 + change / mean for change in changes)
    error = _error(total_G2[:, 0] - value * total_G2[:, 1]) / float(total_G2[:, 1].sum())
    return _interval(value, drawn_R, error, len(count_G), unit, bounds, confidence)


def mean_difference(
    values: Sequence[float],
    reference: Sequence[float],
    *,
    groups: Sequence[Hashable] | None = None,
    unit: str = "questions",
    seed: int = 0,
    mostly_whole: bool = False,
) -> Estimate:
    """mean(values) - mean(reference) on the same questions; intervals as in `kept_share`.

    mostly_whole: as there, so that the interval keeps a width where no question differs.
    """
    total_G2, count_G = _of_groups(values, reference, groups)
    if not len(total_G2):
        return Estimate(math.nan, math.nan, math.nan, 0, unit)
    both_G3 = np.column_stack((total_G2, count_G))
    sums_R3 = _resampled(both_G3, seed)
    value = float((total_G2[:, 0] - total_G2[:, 1]).sum() / count_G.sum())
    bounds = _change(values, reference, len(count_G), CONFIDENCE) if mostly_whole else ()
    error = _error(total_G2[:, 0] - total_G2[:, 1] - value * count_G) / float(count_G.sum())
    return _interval(value, (sums_R3[:, 0] - sums_R3[:, 1]) / sums_R3[:, 2], error, len(count_G), unit, bounds)


def _of_groups(
    values: Sequence[float], reference: Sequence[float], groups: Sequence[Hashable] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of both scores in each group, (G, 2), and how many questions it has."""
    both_N2 = np.column_stack([np.asarray(x, dtype=np.float64) for x in (values, reference)])
    if groups is not None and len(groups) != len(both_N2):
        raise ValueError(f"wanted a group for each question, given {len(groups)} groups and {len(both_N2)} questions")
    number: dict[Hashable, int] = {}
    group_N = [number.setdefault(group, len(number)) for group in (range(len(both_N2)) if groups is None else groups)]
    total_G2 = np.zeros((len(number), 2))
    np.add.at(total_G2, group_N, both_N2)
    return total_G2, np.bincount(group_N, minlength=len(number)).astype(np.float64)


def _resampled(rows_GK: np.ndarray, seed: int) -> np.ndarray:
    draw, units = np.random.default_rng(seed), len(rows_GK)
    return np.stack([rows_GK[draw.integers(0, units, units)].sum(0) for _ in range(RESAMPLES)])


def _change(
    values: Sequence[float],
    reference: Sequence[float],
    units: int,
    confidence: float,
    most: tuple[float, float] = (1.0, 1.0),
) -> tuple[float, float]:
    """Bounds of mean(values) - mean(reference), of scores from 0 to 1, that lie apart even where nothing differs.

    What is won and what is lost are bounded each as a share of so many units (Wilson 1927), and their widths are
    squared and added (Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions
    based on paired data", without its correlation: where much is won and much lost, the bootstrap is as wide).
    most: that can be won, and lost.
    """
    both_N2 = np.column_stack([np.asarray(x, dtype=np.float64) for x in (values, reference)])
    if both_N2.min() < 0 or both_N2.max() > 1:
        raise ValueError(f"scores from {both_N2.min():g} to {both_N2.max():g}; mostly_whole wants 0 to 1")
    change_N = both_N2[:, 0] - both_N2[:, 1]
    won, lost = (float(np.clip(x_N, 0, None).mean()) for x_N in (change_N, -change_N))
    (won_low, won_high), (lost_low, lost_high) = (wilson(share, units, confidence) for share in (won, lost))
    won_high, lost_high = max(won, min(won_high, most[0])), max(lost, min(lost_high, most[1]))
    below, above = math.hypot(won - won_low, lost_high - lost), math.hypot(won_high - won, lost - lost_low)
    return won - lost - below, won - lost + above


def _error(left_G: np.ndarray) -> float:
    """Standard error of the sum of what a ratio leaves unexplained in each group (Cochran 1977, equation 6.13)."""
    return math.sqrt(len(left_G) / max(1, len(left_G) - 1) * float(np.square(left_G).sum()))


def _interval(
    value: float,
    drawn_R: np.ndarray,
    error: float,
    units: int,
    unit: str,
    bounds: tuple[float, ...] = (),
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Of what was drawn, and no narrower than `bounds`; of few units no narrower than Student's."""
    if units == 1:
        return Estimate(value, math.nan, math.nan, 1, unit)
    low, high = map(float, np.quantile(drawn_R, [(1 - confidence) / 2, (1 + confidence) / 2]))
    if units < FEW:
        half = student_quantile(confidence, units - 1) * error
        bounds = (*bounds, value - half, value + half)
    return Estimate(value, min(low, value, *bounds), max(high, value, *bounds), units, unit)
