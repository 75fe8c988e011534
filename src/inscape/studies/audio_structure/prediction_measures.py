"""How good a trained predictor of latent steps is on held-out frames: likelihood, direction, length.

Legend: N samples, W window frames, D latent dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from inscape.core.estimate import Estimate, bootstrap_mean, exact
from inscape.metrics.directional import (
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
from inscape.studies.audio_structure.frame_windows import FrameWindows, StepBatches

__all__ = ["Measured", "Predictor", "gain_over_baseline", "measure_predictor"]

Predictor = DirectionMagnitude | MixtureDensity

CHUNK = 1024  # samples measured at a time


class _Frames(NamedTuple):
    """What is measured of each frame of a batch."""

    nll_N: np.ndarray
    baseline_N: np.ndarray
    gaussian_N: np.ndarray
    direction_gain_N: np.ndarray
    scored_N: np.ndarray
    cosine_N: np.ndarray
    length_N: np.ndarray
    true_length_N: np.ndarray


@torch.no_grad()
def _measured_frames(model: Predictor, batches: Sequence[Steps]) -> list[_Frames]:
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
        lengths = [np.linalg.norm(x_ND, axis=-1) for x_ND in (step_ND, true_ND)]
        found.append(_Frames(*[*arrays, cosines(step_ND, true_ND)[0], *lengths]))
    return found


def gain_over_baseline(model: Predictor, batches: Sequence[Steps]) -> dict[str, float]:
    """What is logged during training: mean and median over frames of NLL less the baseline's, in nats."""
    gain = np.concatenate([frames.nll_N - frames.baseline_N for frames in _measured_frames(model, batches)])
    return {"dnll": float(gain.mean()), "dnll_median": float(np.median(gain))}


class Measured(NamedTuple):
    """Numbers over units, and the frames with the highest dNLL as (utterance, target frame, nats)."""

    metrics: dict[str, Estimate]
    worst: list[tuple[str, int, float]]


def measure_predictor(
    model: Predictor, windows: FrameWindows, *, samples: int, unit: str = "speakers", seed: int = 0
) -> Measured:
    """Likelihood, direction and length on up to `samples` windows, with intervals over speakers or utterances.

    dnll: NLL less that of the predictor's own baseline, in nats a frame (mean, per dimension, median, trimmed mean);
    dnll_gaussian: less that of a diagonal Gaussian over training steps, the same yardstick for all predictors;
    dnll_direction: the direction's share of dnll (direction_magnitude only); nll, nll_median, nll_trimmed;
    direction_cosine; magnitude_ratio; log_magnitude_r2; still_share: steps without length, which are not scored.
    """
    numbers = windows.sample(samples, seed)
    frames = _Frames(
        *map(
            np.concatenate,
            zip(*_measured_frames(model, StepBatches.of(windows, model.window, numbers, CHUNK)), strict=True),
        )
    )
    kept = frames.scored_N & (frames.true_length_N > 0)
    still = exact(1 - kept.mean(), len(numbers), "frames")
    unit_N, numbers = windows.units(numbers, unit)[kept], numbers[kept]
    frames = _Frames(*(values[kept] for values in frames))
    gain_N, gaussian_gain_N = frames.nll_N - frames.baseline_N, frames.nll_N - frames.gaussian_N
    nll, gain = robust_nll(frames.nll_N, unit_N, unit, seed=seed), robust_nll(gain_N, unit_N, unit, seed=seed)
    per_frame, per_dim = delta_nll(frames.nll_N, frames.baseline_N, unit_N, unit, model.dimension, seed=seed)
    metrics = {
        "dnll": per_frame,
        "dnll_per_dim": per_dim,
        "dnll_median": gain.median,
        "dnll_trimmed": gain.trimmed_mean,
        "dnll_gaussian": bootstrap_mean(per_unit(gaussian_gain_N, unit_N), unit, seed=seed),
        "nll": nll.mean,
        "nll_median": nll.median,
        "nll_trimmed": nll.trimmed_mean,
        "direction_cosine": bootstrap_mean(per_unit(frames.cosine_N, unit_N), unit, seed=seed),
        "magnitude_ratio": magnitude_ratio(frames.length_N, frames.true_length_N, unit_N, unit, seed=seed),
        "log_magnitude_r2": log_magnitude_r2(
            np.log(np.maximum(frames.length_N, 1e-30)), np.log(frames.true_length_N), unit_N, unit, seed=seed
        ),
        "still_share": still,
    }
    if isinstance(model, DirectionMagnitude):
        direction = bootstrap_mean(per_unit(frames.direction_gain_N, unit_N), unit, seed=seed)
        metrics["dnll_direction"] = direction
    utterance_N, start_N = windows.places(numbers)
    worst = [
        (str(windows.corpus.utterances[utterance_N[i]].utterance_id), int(start_N[i]) + windows.length - 1, value)
        for i, value in gain.worst
    ]
    return Measured(metrics, worst)
