"""Predictors left to themselves: fine-tuning on own rollouts (Exp 1B), and what a written truth repairs (Exp 2).

A rollout adds the predictor's step to its last frame, again and again. Every true step of the segment is scored under
the context that the predictor has made for itself by then; horizon 1 throughout.

The four modes of the injection diagnostic differ in when the true frame is written over the predicted one. Only the
newest frame is written: what the predictor made of the frames before stays in its context.
    A_teacher   after every step: the context is always true
    B_periodic  after every `period`-th step
    C_one_shot  after the first step only: the predictor's own frames enter from step 3 on
    D_rollout   never: they enter at step 2
B close to A: drift can be repaired by lookups. D collapsing at step 2 (or C at step 3): one step's error is fatal.

Legend: N segments, F = W + K frames, W window frames, K steps of a rollout, D latent dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from inscape.core.estimate import Estimate, bootstrap_mean
from inscape.core.rundir import RunDir
from inscape.metrics.directional import cosines, magnitude_ratio, per_unit
from inscape.studies.audio_structure.frame_windows import FrameWindows
from inscape.studies.audio_structure.prediction import PredictorConfig, RolloutConfig, fit_predictor
from inscape.studies.audio_structure.prediction_measures import Predictor

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = [
    "CURVES",
    "MODES",
    "Diagnosis",
    "Trace",
    "diagnose",
    "fine_tune",
    "rollout_terms",
    "trace",
    "truth_share",
    "written",
]

MODES = ("A_teacher", "B_periodic", "C_one_shot", "D_rollout")
RESAMPLES = 400  # a few hundred intervals are drawn, to be looked at
CURVES = ("dnll", "direction_cosine", "magnitude_ratio", "state_error")


def truth_share(config: RolloutConfig, step: int) -> float:
    """Share of frames that scheduled sampling takes from the truth in optimizer step `step`: falls linearly to 0.

    Source: Bengio et al. 2015.
    """
    return config.p_true * max(0.0, 1 - step / config.p_true_steps)


def rollout_terms(
    model: Predictor, frames_NFD: Float[Tensor, "N F D"], config: RolloutConfig, step: int
) -> dict[str, Tensor]:
    """Mean NLL of the true steps under own contexts, and weighted under true contexts; nats a step and dimension.

    Own frames are detached: no gradient goes through them, so each step learns what to say where it has got to.
    """
    window, share = model.window, truth_share(config, step)
    delta_NKD = frames_NFD[:, window:] - frames_NFD[:, window - 1 : -1]
    context_NWD = frames_NFD[:, :window]
    own, teacher, scored = [], [], []
    for k in range(delta_NKD.shape[1]):
        given: Any = model(context_NWD)
        told: Any = model(frames_NFD[:, k : k + window])
        own.append(model.nll(given, delta_NKD[:, k]))
        teacher.append(model.nll(told, delta_NKD[:, k]))
        scored.append(model.scored(delta_NKD[:, k]))
        with torch.no_grad():
            next_ND = context_NWD[:, -1] + model.step(given)
            keep_N1 = torch.rand(len(next_ND), 1, device=next_ND.device) < share
            next_ND = torch.where(keep_N1, frames_NFD[:, window + k], next_ND)
            context_NWD = torch.cat((context_NWD[:, 1:], next_ND[:, None]), 1)
    count = torch.stack(scored).sum().clamp_min(1) * model.dimension
    return {
        "rollout": torch.stack(own).sum() / count,
        "teacher": config.teacher_weight * torch.stack(teacher).sum() / count,
    }


def fine_tune(
    model: Predictor,
    config: PredictorConfig,
    segments: FrameWindows,
    run: RunDir,
    *,
    seed: int,
    device: torch.device | str = "cpu",
) -> Predictor:
    """Train a horizon-1 predictor further on its own rollouts; returns the averaged weights.

    segments: windows of W + K frames. The model given is trained in place.
    """
    rollout = config.rollout
    if segments.length != model.window + rollout.steps:
        raise ValueError(
            f"segments of {segments.length} frames; a rollout of {rollout.steps} steps after {model.window} frames "
            f"needs {model.window + rollout.steps}"
        )
    return fit_predictor(
        model.train().requires_grad_(True),  # averaged weights come frozen
        lambda step, rank, world: segments.draw(seed, step, rank, world, rollout.batch),
        lambda model, frames_NFD, step: rollout_terms(model, frames_NFD, rollout, step),
        config.train,
        config.train.fit_config(rollout.max_steps, rollout.lr),
        run,
        seed=seed,
        device=device,
    )


class Trace(NamedTuple):
    """What happened at each step of a rollout, segment by segment."""

    nll_NK: np.ndarray
    baseline_NK: np.ndarray
    scored_NK: np.ndarray
    cosine_NK: np.ndarray
    length_NK: np.ndarray
    true_length_NK: np.ndarray
    state_error_NK: np.ndarray  # Euclidean distance of the context's last frame from the true one, before the step


def written(mode: str, steps: int, period: int) -> frozenset[int]:
    """The steps, counted from 1, after which the truth is written. ValueError for an unknown mode."""
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} is not known; allowed: {', '.join(MODES)}")
    by_mode: dict[str, Iterable[int]] = {
        "A_teacher": range(1, steps + 1),
        "B_periodic": range(period, steps, period),
        "C_one_shot": (1,),
        "D_rollout": (),
    }
    return frozenset(by_mode[mode])


@torch.no_grad()
def trace(model: Predictor, frames_NFD: Float[Tensor, "N F D"], mode: str, *, period: int = 4) -> Trace:
    """Roll a predictor over segments: the first W frames are its context, the K that follow are the truth."""
    device, window = next(model.parameters()).device, model.window
    frames_NFD = frames_NFD.to(device)
    writes = written(mode, frames_NFD.shape[1] - window, period)
    context_NWD, columns = frames_NFD[:, :window], []
    for k in range(frames_NFD.shape[1] - window):
        true_ND, delta_ND = frames_NFD[:, window + k], frames_NFD[:, window + k] - frames_NFD[:, window + k - 1]
        given: Any = model(context_NWD)
        step_ND = model.step(given)
        drift_ND = (context_NWD[:, -1] - frames_NFD[:, window + k - 1]).double().cpu().numpy()
        taken_ND, wanted_ND = step_ND.double().cpu().numpy(), delta_ND.double().cpu().numpy()
        columns.append(
            (
                model.nll(given, delta_ND).cpu().numpy(),
                model.baseline_nll(delta_ND).cpu().numpy(),
                model.scored(delta_ND).cpu().numpy(),
                cosines(taken_ND, wanted_ND)[0],
                *(np.linalg.norm(x_ND, axis=-1) for x_ND in (taken_ND, wanted_ND, drift_ND)),
            )
        )
        next_ND = true_ND if k + 1 in writes else context_NWD[:, -1] + step_ND
        context_NWD = torch.cat((context_NWD[:, 1:], next_ND[:, None]), 1)
    return Trace(*(np.stack(parts, axis=1) for parts in zip(*columns, strict=True)))


@dataclass(frozen=True)
class Diagnosis:
    """Curves by mode and step (from 1), over the utterances or speakers that the segments come from."""

    unit: str
    curves: dict[str, dict[str, list[Estimate]]]  # mode -> curve (CURVES and nll, nll_median) -> one a step

    def rows(self) -> list[dict[str, str | int | float]]:
        """One row a mode and step: each curve's value and the ends of its interval. NaN: not measured."""
        return [
            {"mode": mode, "step": step + 1, "n": curves["dnll"][step].n, "unit": self.unit}
            | {
                name + end: getattr(estimates[step], field)
                for name, estimates in curves.items()
                for end, field in (("", "value"), ("_low", "low"), ("_high", "high"))
            }
            for mode, curves in self.curves.items()
            for step in range(len(curves["dnll"]))
        ]


def diagnose(
    model: Predictor,
    segments: FrameWindows,
    *,
    utterances: int,
    per_utterance: int,
    period: int = 4,
    unit: str = "utterances",
    seed: int = 0,
) -> Diagnosis:
    """The injection diagnostic over random segments of random utterances, in all four modes.

    segments: windows of W + K frames. magnitude_ratio is the sum of predicted over the sum of true lengths: 0 stands
    still.
    """
    numbers = segments.spread(utterances, per_utterance, seed)
    unit_N, frames_NFD = segments.units(numbers, unit), segments.at(numbers)
    curves = {mode: _curves(trace(model, frames_NFD, mode, period=period), unit_N, unit, seed=seed) for mode in MODES}
    return Diagnosis(unit, curves)


def _curves(found: Trace, unit_N: np.ndarray, unit: str, *, seed: int) -> dict[str, list[Estimate]]:
    curves: dict[str, list[Estimate]] = {name: [] for name in ("nll", "nll_median", *CURVES)}
    for k in range(found.nll_NK.shape[1]):
        at = Trace(*(values[:, k] for values in found))
        kept = at.scored_NK & (at.true_length_NK > 0)
        if not kept.any():
            for estimates in curves.values():
                estimates.append(Estimate(math.nan, math.nan, math.nan, 0, unit))
            continue
        unit_K, at = unit_N[kept], Trace(*(values[kept] for values in at))
        means = {
            "nll": per_unit(at.nll_NK, unit_K),
            "nll_median": per_unit(at.nll_NK, unit_K, np.median),
            "dnll": per_unit(at.nll_NK - at.baseline_NK, unit_K),
            "direction_cosine": per_unit(at.cosine_NK, unit_K),
            "state_error": per_unit(at.state_error_NK, unit_K),
        }
        for name, values in means.items():
            curves[name].append(bootstrap_mean(values, unit, seed=seed, resamples=RESAMPLES))
        ratio = magnitude_ratio(at.length_NK, at.true_length_NK, unit_K, unit, seed=seed, resamples=RESAMPLES)
        curves["magnitude_ratio"].append(ratio)
    return curves
