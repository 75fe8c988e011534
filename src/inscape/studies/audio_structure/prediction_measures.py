"""How good a trained predictor of latent steps is on held-out frames: likelihood, direction, length.

Legend: N samples, W window frames, D latent dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from inscape.core.estimate import Estimate, bootstrap_mean, exact
from inscape.metrics.directional import (
    RobustNll,
    cosines,
    delta_nll,
    log_magnitude_r2,
    magnitude_ratio,
    per_unit,
    robust_nll,
)
from inscape.nn.context_encoder import Steps
from inscape.nn.direction_magnitude import DirectionMagnitude
from inscape.nn.mixture_density import MixtureDensity
from inscape.studies.audio_structure.drift import Drift
from inscape.studies.audio_structure.frame_windows import FrameWindows, StepBatches

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["QUANTILES", "Measured", "Predictor", "frame_nll", "gain_over_baseline", "measure_predictor"]

Predictor = DirectionMagnitude | MixtureDensity

CHUNK = 1024  # samples measured at a time
QUANTILES = (0.0, 0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 1.0)


class _Frames(NamedTuple):
    """What is measured of each frame of a batch."""

    nll_N: np.ndarray
    baseline_N: np.ndarray
    gaussian_N: np.ndarray
    direction_gain_N: np.ndarray
    scored_N: np.ndarray
    cosine_N: np.ndarray
    drift_cosine_N: np.ndarray  # 0 where no drift is given
    length_N: np.ndarray
    true_length_N: np.ndarray


@torch.no_grad()
def _measured_frames(model: Predictor, batches: Sequence[Steps], drift: Drift | None = None) -> list[_Frames]:
    device = next(model.parameters()).device
    found = []
    for batch in batches:
        context_NWD, delta_ND = batch.context_NWD.to(device), batch.delta_ND.to(device)
        given: Any = model(context_NWD)
        nll_N, step_ND = model.nll(given, delta_ND), model.step(given).double().cpu().numpy()
        gain_N = torch.zeros_like(nll_N)
        if isinstance(model, DirectionMagnitude):
            gain_N = model.parts(given, delta_ND)[0] - model.baseline_parts(delta_ND)[0]
        true_ND = batch.delta_ND.double().numpy()
        values = (nll_N, model.baseline_nll(delta_ND), model.gaussian.nll(delta_ND), gain_N)
        arrays = [value.cpu().numpy() for value in (*values, model.scored(delta_ND))]
        drift_N = np.zeros(len(true_ND)) if drift is None else cosines(drift.step(batch.context_NWD), true_ND)[0]
        lengths = [np.linalg.norm(x_ND, axis=-1) for x_ND in (step_ND, true_ND)]
        found.append(_Frames(*[*arrays, cosines(step_ND, true_ND)[0], drift_N, *lengths]))
    return found


def frame_nll(model: Predictor, batches: Sequence[Steps]) -> Float[np.ndarray, " N"]:
    """NLL of each step, in nats, float64."""
    return np.concatenate([frames.nll_N for frames in _measured_frames(model, batches)])


def gain_over_baseline(model: Predictor, batches: Sequence[Steps]) -> dict[str, float]:
    """What is logged during training: mean and median over frames of NLL less the baseline's, in nats."""
    gain = np.concatenate([frames.nll_N - frames.baseline_N for frames in _measured_frames(model, batches)])
    return {"dnll": float(gain.mean()), "dnll_median": float(np.median(gain))}


class Measured(NamedTuple):
    """What a predictor reaches on unseen voices."""

    metrics: dict[str, Estimate]
    worst: list[tuple[str, int, float]]  # frames with the highest dNLL: utterance, target frame, nats
    quantiles: tuple[float, ...]  # QUANTILES of dNLL over frames
    by_unit: dict[str, tuple[float, ...]]  # direction_cosine and the gain on the direction, speaker by speaker


def measure_predictor(
    model: Predictor,
    windows: FrameWindows,
    *,
    samples: int,
    unit: str = "speakers",
    seed: int = 0,
    drift: Drift | None = None,
    strangers: int | None = None,
    strangers_N: Float[np.ndarray, " N"] | None = None,
    swapped: int | None = None,
) -> Measured:
    """Likelihood, direction and length on up to `samples` windows, with intervals over speakers or utterances.

    dnll: NLL less that of the predictor's own baseline, in nats a frame (mean, per dimension, median, trimmed mean);
    dnll_gaussian: less that of a diagonal Gaussian over training steps, the same yardstick for all predictors;
    dnll_direction: the direction's share of dnll (direction_magnitude only); nll, nll_median, nll_trimmed;
    direction_cosine; magnitude_ratio; log_magnitude_r2; still_share: steps without length, which are not scored.
    strangers: a seed; every step that has one is given with the context of another place of its utterance.
    With `drift`: drift_cosine, and cosine_over_drift, frame by frame. With `strangers_N`, the NLL of the same windows
    (`windows.sample(samples, seed)`; NaN where there is no such place) under a predictor that learned from contexts of
    other places: over_strangers_within, and per dimension. With `swapped`, a seed: over_swapped_within_median_per_dim,
    the median of NLL less that of the same step and predictor with the context of another place of the utterance. Where
    a context says no more than any other place of its recording, that is symmetric around 0, whatever was learned.
    """
    numbers = windows.sample(samples, seed)
    if strangers is not None:
        numbers = numbers[windows.has_elsewhere(numbers)]
    batches = StepBatches.of(windows, model.window, numbers, CHUNK, strangers=strangers)
    frames = _Frames(*map(np.concatenate, zip(*_measured_frames(model, batches, drift), strict=True)))
    kept = frames.scored_N & (frames.true_length_N > 0)
    still = exact(1 - kept.mean(), len(numbers), "frames")
    unit_N, numbers = windows.units(numbers, unit)[kept], numbers[kept]
    frames = _Frames(*(values[kept] for values in frames))
    gain_N = frames.nll_N - frames.baseline_N
    gain = robust_nll(gain_N, unit_N, unit, seed=seed)
    metrics = _likelihood(frames, gain, unit_N, unit, model.dimension, seed)
    metrics |= _direction_and_length(frames, unit_N, unit, seed) | {"still_share": still}
    over = {}
    if isinstance(model, DirectionMagnitude):
        over["dnll_direction"] = frames.direction_gain_N
    if drift is not None:
        over |= {"drift_cosine": frames.drift_cosine_N, "cosine_over_drift": frames.cosine_N - frames.drift_cosine_N}
    metrics |= {name: bootstrap_mean(per_unit(x_N, unit_N), unit, seed=seed) for name, x_N in over.items()}
    if swapped is not None:
        there_N = windows.has_elsewhere(numbers)
        others = StepBatches.of(windows, model.window, numbers[there_N], CHUNK, strangers=swapped)
        swapped_N = (frames.nll_N[there_N] - frame_nll(model, others)) / model.dimension
        median_U = per_unit(swapped_N, unit_N[there_N], np.median)
        metrics["over_swapped_within_median_per_dim"] = bootstrap_mean(median_U, unit, seed=seed)
    if strangers_N is not None:
        metrics |= _over_strangers(frames.nll_N - strangers_N[kept], unit_N, unit, model.dimension, seed)
    utterance_N, start_N = windows.places(numbers)
    worst = [
        (str(windows.corpus.utterances[utterance_N[i]].utterance_id), int(start_N[i]) + windows.length - 1, value)
        for i, value in gain.worst
    ]
    columns = {"direction_cosine": frames.cosine_N, "dnll_direction": frames.direction_gain_N}
    by_unit = {name: tuple(map(float, per_unit(x_N, unit_N))) for name, x_N in columns.items()}
    return Measured(metrics, worst, tuple(map(float, np.quantile(gain_N, QUANTILES))), by_unit)


def _likelihood(
    frames: _Frames, gain: RobustNll, unit_N: np.ndarray, unit: str, dimension: int, seed: int
) -> dict[str, Estimate]:
    nll = robust_nll(frames.nll_N, unit_N, unit, seed=seed)
    per_frame, per_dim = delta_nll(frames.nll_N, frames.baseline_N, unit_N, unit, dimension, seed=seed)
    return {
        "dnll": per_frame,
        "dnll_per_dim": per_dim,
        "dnll_median": gain.median,
        "dnll_trimmed": gain.trimmed_mean,
        "dnll_gaussian": bootstrap_mean(per_unit(frames.nll_N - frames.gaussian_N, unit_N), unit, seed=seed),
        "nll": nll.mean,
        "nll_median": nll.median,
        "nll_trimmed": nll.trimmed_mean,
    }


def _over_strangers(
    over_N: np.ndarray, unit_N: np.ndarray, unit: str, dimension: int, seed: int
) -> dict[str, Estimate]:
    """Of the frames that have another place in their utterance; NaN marks those that have none."""
    there_N = ~np.isnan(over_N)
    over_U = per_unit(over_N[there_N], unit_N[there_N])
    return {
        "over_strangers_within": bootstrap_mean(over_U, unit, seed=seed),
        "over_strangers_within_per_dim": bootstrap_mean(over_U / dimension, unit, seed=seed),
    }


def _direction_and_length(frames: _Frames, unit_N: np.ndarray, unit: str, seed: int) -> dict[str, Estimate]:
    log_length_N, log_true_N = np.log(np.maximum(frames.length_N, 1e-30)), np.log(frames.true_length_N)
    return {
        "direction_cosine": bootstrap_mean(per_unit(frames.cosine_N, unit_N), unit, seed=seed),
        "magnitude_ratio": magnitude_ratio(frames.length_N, frames.true_length_N, unit_N, unit, seed=seed),
        "log_magnitude_r2": log_magnitude_r2(log_length_N, log_true_N, unit_N, unit, seed=seed),
    }
