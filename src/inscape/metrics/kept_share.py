"""How much of a score is left: the mean under one condition over the mean under another, on the same questions."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from inscape.core.estimate import Estimate

__all__ = ["kept_share", "mean_difference"]

CONFIDENCE = 0.95
RESAMPLES = 2000


def kept_share(
    values: Sequence[float],
    reference: Sequence[float],
    *,
    groups: Sequence[Hashable] | None = None,
    unit: str = "questions",
    seed: int = 0,
) -> Estimate:
    """mean(values) / mean(reference), with a percentile bootstrap over questions, or over whole `groups` of them.

    Both scores of a question are drawn together, so what makes questions easy or hard is in neither interval twice.
    Not measured where the reference's mean is 0 (nothing is there to be kept) or is so in a resample, or of one unit.
    ValueError on lists of different lengths. Source: Efron & Tibshirani 1993, section 10.3 (the ratio estimator).
    """
    total_G2, count_G = _of_groups(values, reference, groups)
    if not len(total_G2) or total_G2[:, 1].sum() <= 0:
        return Estimate(math.nan, math.nan, math.nan, len(total_G2), unit)
    value = float(total_G2[:, 0].sum() / total_G2[:, 1].sum())
    sums_R2 = _resampled(total_G2, seed)
    if sums_R2[:, 1].min() <= np.finfo(float).eps * np.abs(total_G2[:, 1]).sum():
        return Estimate(value, math.nan, math.nan, len(count_G), unit)
    drawn_R = sums_R2[:, 0] / sums_R2[:, 1]
    return _interval(value, drawn_R, len(count_G), unit)


def mean_difference(
    values: Sequence[float],
    reference: Sequence[float],
    *,
    groups: Sequence[Hashable] | None = None,
    unit: str = "questions",
    seed: int = 0,
) -> Estimate:
    """mean(values) - mean(reference) on the same questions; intervals as in `kept_share`."""
    total_G2, count_G = _of_groups(values, reference, groups)
    if not len(total_G2):
        return Estimate(math.nan, math.nan, math.nan, 0, unit)
    both_G3 = np.column_stack((total_G2, count_G))
    sums_R3 = _resampled(both_G3, seed)
    value = float((total_G2[:, 0] - total_G2[:, 1]).sum() / count_G.sum())
    return _interval(value, (sums_R3[:, 0] - sums_R3[:, 1]) / sums_R3[:, 2], len(count_G), unit)


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


def _interval(value: float, drawn_R: np.ndarray, units: int, unit: str) -> Estimate:
    if units == 1:
        return Estimate(value, math.nan, math.nan, 1, unit)
    low, high = np.quantile(drawn_R, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, min(float(low), value), max(float(high), value), units, unit)
