"""How good are predicted latent steps: their direction, their length, and their likelihood, which outliers ruin.

Every interval is over the independent units (speakers or utterances) that the frames come from. A step without length
has no direction: where the true step is such, the frame is left out of cosine and length; a predicted one has cosine 0.

Legend: N frames, D latent dimensions, U units.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from inscape.core.estimate import Estimate, bootstrap_interval, bootstrap_mean, jackknife_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float, Shaped

__all__ = [
    "RobustNll",
    "cosines",
    "delta_nll",
    "direction_cosine",
    "log_magnitude_r2",
    "magnitude_ratio",
    "per_unit",
    "robust_nll",
]

RESAMPLES = 2000


class RobustNll(NamedTuple):
    """A mean that few frames can carry away, two that they cannot, and the frames that tried."""

    mean: Estimate
    median: Estimate
    trimmed_mean: Estimate
    worst: tuple[tuple[int, float], ...]  # frame and value, the worst first


def per_unit(
    values_N: Float[np.ndarray, " N"], unit_N: Shaped[np.ndarray, " N"], reduce: Callable[..., float] = np.mean
) -> Float[np.ndarray, " U"]:
    """`reduce` of the values of each unit, in the order of the sorted units. ValueError if lengths differ."""
    values_N, unit_N = np.asarray(values_N), np.asarray(unit_N)
    if values_N.shape[:1] != unit_N.shape:
        raise ValueError(f"{len(values_N)} values and {len(unit_N)} units: each frame needs the unit it comes from")
    order_N = np.argsort(unit_N, kind="stable")
    _, first_U = np.unique(unit_N[order_N], return_index=True)
    groups = np.split(values_N[order_N], first_U[1:]) if len(values_N) else []
    return np.array([reduce(group) for group in groups], dtype=np.float64)


def cosines(
    predicted_ND: Float[np.ndarray, "N D"], true_ND: Float[np.ndarray, "N D"]
) -> tuple[Float[np.ndarray, " N"], np.ndarray]:
    """Cosine of each pair, 0 where either has no length, and which true steps have a length."""
    predicted_ND, true_ND = _pair(predicted_ND, true_ND)
    product_N = np.linalg.norm(predicted_ND, axis=-1) * np.linalg.norm(true_ND, axis=-1)
    cosine_N = (predicted_ND * true_ND).sum(-1) / np.where(product_N > 0, product_N, 1.0)
    return np.clip(cosine_N, -1, 1), np.linalg.norm(true_ND, axis=-1) > 0


def direction_cosine(
    predicted_ND: Float[np.ndarray, "N D"],
    true_ND: Float[np.ndarray, "N D"],
    unit_N: Shaped[np.ndarray, " N"],
    unit: str,
    *,
    seed: int = 0,
) -> Estimate:
    """Mean over units of the mean cosine between predicted and true steps."""
    cosine_N, moves_N = cosines(predicted_ND, true_ND)
    return bootstrap_mean(per_unit(cosine_N[moves_N], np.asarray(unit_N)[moves_N]), unit, seed=seed)


def magnitude_ratio(
    predicted_N: Float[np.ndarray, " N"],
    true_N: Float[np.ndarray, " N"],
    unit_N: Shaped[np.ndarray, " N"],
    unit: str,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Mean over units of (sum of predicted lengths) / (sum of true lengths): 0 stands still, 1 moves as far.

    Not the mean of the frames' ratios, which a single tiny true step would carry away. Units whose true steps all have
    no length are left out.
    """
    predicted_N, true_N = _pair(predicted_N, true_N)
    predicted_U, true_U = per_unit(predicted_N, unit_N, np.sum), per_unit(true_N, unit_N, np.sum)
    moves_U = true_U > 0
    return bootstrap_mean(predicted_U[moves_U] / true_U[moves_U], unit, seed=seed, resamples=resamples)


def log_magnitude_r2(
    predicted_N: Float[np.ndarray, " N"],
    true_N: Float[np.ndarray, " N"],
    unit_N: Shaped[np.ndarray, " N"],
    unit: str,
    *,
    seed: int = 0,
) -> Estimate:
    """1 - (sum of squared errors) / (sum of squared deviations from the mean) of log-lengths over all frames.

    0: as good as one length for all. The interval resamples units (`bootstrap_interval`). Not measured where all true
    lengths are equal.
    """
    predicted_N, true_N = _pair(predicted_N, true_N)
    parts_UP = np.stack(
        [
            per_unit(values_N, unit_N, np.sum)
            for values_N in (np.square(predicted_N - true_N), np.ones_like(true_N), true_N, np.square(true_N))
        ],
        axis=1,
    )
    count = len(parts_UP)
    if count == 0 or not np.ptp(true_N) > 0:
        return Estimate(math.nan, math.nan, math.nan, 0, unit)
    sum_P = parts_UP.sum(0)
    value = _explained(sum_P)
    if count == 1:
        return Estimate(value, math.nan, math.nan, 1, unit)
    rng = np.random.default_rng(seed)
    drawn_R = [_explained(parts_UP[rng.integers(0, count, count)].sum(0)) for _ in range(RESAMPLES)]
    error = jackknife_error([_explained(sum_P - parts_P) for parts_P in parts_UP])
    return bootstrap_interval(value, drawn_R, error, count, unit)


def _explained(parts_P: np.ndarray) -> float:
    error, count, total, square = parts_P
    return float(1 - error / max(square - total**2 / count, 1e-300))


def robust_nll(
    nll_N: Float[np.ndarray, " N"],
    unit_N: Shaped[np.ndarray, " N"],
    unit: str,
    *,
    trim: float = 0.01,
    worst: int = 10,
    seed: int = 0,
) -> RobustNll:
    """Mean, median and mean without the `trim` largest and smallest share of frames, each taken within a unit and then
    averaged over units; and the `worst` frames with the highest values. ValueError unless 0 <= trim < 0.5.
    """
    if not 0 <= trim < 0.5:
        raise ValueError(f"trim={trim} is no share of frames to leave out at each end; allowed: 0 to 0.5, 0.5 excluded")

    def trimmed(values: np.ndarray) -> float:
        cut = int(trim * len(values))
        return float(np.sort(values)[cut : len(values) - cut].mean())

    nll_N = np.asarray(nll_N, dtype=np.float64)
    mean, median, trimmed_mean = (
        bootstrap_mean(per_unit(nll_N, unit_N, reduce), unit, seed=seed) for reduce in (np.mean, np.median, trimmed)
    )
    order_N = np.argsort(-nll_N, kind="stable")[:worst]
    return RobustNll(mean, median, trimmed_mean, tuple((int(i), float(nll_N[i])) for i in order_N))


def delta_nll(
    model_N: Float[np.ndarray, " N"],
    baseline_N: Float[np.ndarray, " N"],
    unit_N: Shaped[np.ndarray, " N"],
    unit: str,
    dimension: int,
    *,
    seed: int = 0,
) -> tuple[Estimate, Estimate]:
    """Mean NLL of the model less that of its baseline, in nats a frame and in nats a frame and dimension; negative is
    better.
    """
    model_N, baseline_N = _pair(model_N, baseline_N)
    gain_U = per_unit(model_N - baseline_N, unit_N)
    return bootstrap_mean(gain_U, unit, seed=seed), bootstrap_mean(gain_U / dimension, unit, seed=seed)


def _pair(predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    predicted, true = np.asarray(predicted, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if predicted.shape != true.shape:
        raise ValueError(
            f"predicted {predicted.shape} and true {true.shape} differ in shape; they are compared pairwise"
        )
    return predicted, true
