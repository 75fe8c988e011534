"""T3: left to itself, does the predictor keep its direction, and what does a written truth repair?

Method: T2's head of horizon 1 adds its step to its own last frame, 16 times. It is trained further on such rollouts
(Exp 1B), with scheduled sampling (Bengio et al. 2015): a share of true frames that falls to none. Then, in random
segments of unheard voices, the truth is written over the newest frame always, every fourth step, once, or never
(Exp 2). A rollout that gives up stands still and makes no error of direction worth speaking of, so the length of its
steps stands beside their cosine. If writing now and then is nearly as good as always, drift can be repaired by
lookups; if the second step is already lost, one step's error is fatal.

A negative result would mean that errors of a rollout feed on themselves within a few frames: one-step prediction is
no model of how speech goes on.

Cost: quick 12 seconds on two CPU cores, small some 5 minutes; full perhaps half an hour on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from inscape.core.estimate import Estimate, bootstrap_mean, exact
from inscape.core.gate import Criterion, Gate
from inscape.core.study import Context, Phase
from inscape.device import pick_device
from inscape.metrics.directional import per_unit
from inscape.stopping import part_of
from inscape.studies.audio_structure.frame_windows import FrameWindows
from inscape.studies.audio_structure.horizons import predictor_path, write_rows
from inscape.studies.audio_structure.latents import codec_memory, latents_sha256
from inscape.studies.audio_structure.predicted_speech import NEEDS, PredictedSpeech, predicted_speech
from inscape.studies.audio_structure.prediction import (
    DiagConfig,
    PredictorConfig,
    RolloutConfig,
    TrainConfig,
    load_config,
    load_predictor,
    save_predictor,
    trained_on,
)
from inscape.studies.audio_structure.prediction_figures import CAPTIONS, ROLLOUT_CAPTION, draw_injection, draw_rollout
from inscape.studies.audio_structure.prediction_measures import Predictor
from inscape.studies.audio_structure.rollout import MODES, Diagnosis, diagnose, fine_tune, trace
from inscape.studies.audio_structure.sources import SpeechConfig, check_codec_kind

__all__ = ["GATE", "PHASE", "Config"]

UNIT = "speakers"
PLAN_COSINE = 0.6
INSTEAD = {  # settings of a training that is not the one on rollouts
    "max_steps": "rollout.max_steps",
    "batch": "rollout.batch",
    "lr": "rollout.lr",
    "max_eval_samples": "diag.n_eval_utterances and diag.segments_per_utt",
}


@dataclass(frozen=True)
class InjectionConfig:
    """What the diagnosis looks at."""

    n_eval_utterances: int = 16
    segments_per_utt: int = 8
    period: int = 4  # B_periodic: the truth is written after every so many steps

    def __post_init__(self) -> None:
        DiagConfig(  # refuses what is out of range
            n_eval_utterances=self.n_eval_utterances, segments_per_utt=self.segments_per_utt, period=self.period
        )


@dataclass(frozen=True)
class Config:
    """The training on rollouts and the diagnosis. The defaults are the plan's."""

    data: SpeechConfig = field(default_factory=SpeechConfig)  # A0's
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    train: TrainConfig = field(default_factory=TrainConfig)  # steps, batch and lr are those of `rollout`
    diag: InjectionConfig = field(default_factory=InjectionConfig)

    def __post_init__(self) -> None:
        for name, instead in INSTEAD.items():
            given = getattr(self.train, name)
            if given != getattr(TrainConfig, name):
                raise ValueError(f"train.{name}={given} does nothing in T3; give {instead}")


TUNED = Criterion(
    "tuning_gain_per_dim", at_most=0, source="calibrated", why="NLL of the true steps under own contexts, after less "
    "before the training on rollouts, in nats a dimension: it must not do harm",
)  # fmt: skip

UNTUNED_GATE = Gate(
    (
        Criterion("rollout_cosine_last", at_least=PLAN_COSINE, why="direction cosine at rollout step 16"),
        Criterion("rollout_cosine_second", at_least=0.1, source="calibrated", why="the first step that stands on a "
                  "frame of the predictor's own; of frames that are nothing to each other nothing is left by then"),
        Criterion("length_ratio_last", at_least=0.5, source="calibrated", why="a rollout that stands still makes no "
                  "errors; the first experiment of this kind ended so"),
        Criterion("length_ratio_last", at_most=2, source="calibrated", why="and one that runs away has left speech"),
        Criterion("not_finite", at_most=0, role="control", source="calibrated", why="numbers of the rollouts that are "
                  "NaN or infinite, in all four modes"),
        Criterion("teacher_state_error", at_most=1e-6, role="control", source="calibrated", why="where the truth is "
                  "always written, the context is the truth"),
    )
)  # fmt: skip

GATE = Gate((*UNTUNED_GATE.criteria, TUNED))


def gate_for(config: Config) -> Gate:
    """Without the training on rollouts it is not asked what that training did."""
    return GATE if config.rollout.enabled else UNTUNED_GATE


class Segments(NamedTuple):
    """The random segments of the diagnosis."""

    windows: FrameWindows
    numbers_N: np.ndarray
    unit_N: np.ndarray


def predictor_of_t2(context: Context, dimension: int) -> tuple[Predictor, PredictorConfig]:
    """T2's head of horizon 1. ValueError if there is none, or it is of other latents."""
    path = predictor_path(context.inputs["T2"], 1)
    if not path.is_file():
        raise ValueError(f"{context.inputs['T2'].path} has no predictor of horizon 1: run T2 with 1 in horizons_k")
    model = load_predictor(path)
    if model.dimension != dimension:
        raise ValueError(f"{path} is for latents of {model.dimension} numbers, and A1's have {dimension}: run T2 again")
    if trained_on(path) != latents_sha256(context.inputs["A1"]):
        raise ValueError(f"{path} was trained on other latents than {context.inputs['A1'].path}: run T2 again")
    return model.to(pick_device(context.device)), load_config(path)


def tuned(context: Context, speech: PredictedSpeech, model: Predictor, made: PredictorConfig) -> Predictor:
    """The head after its training on rollouts, which is kept."""
    config: Config = context.config
    settings = PredictorConfig(
        head=made.head,
        hidden=made.hidden,
        layers=made.layers,
        components=made.components,
        context=made.context,
        train=config.train,
        rollout=config.rollout,
    )
    windows = FrameWindows(speech.store, model.window + config.rollout.steps, indices=speech.train)
    with part_of(context.run, "rollout") as part:
        model = fine_tune(model, settings, windows, part, seed=context.seed, device=context.device)
    save_predictor(model, settings, context.run.path / "predictor_rollout.safetensors")
    return model


def not_finite(model: Predictor, segments: Segments, period: int) -> tuple[int, int]:
    """How many of how many numbers of the rollouts are NaN or infinite."""
    frames_NFD = segments.windows.at(segments.numbers_N)
    found = [values for mode in MODES for values in trace(model, frames_NFD, mode, period=period)]
    return sum(int((~np.isfinite(values)).sum()) for values in found), sum(values.size for values in found)


def free_nll(model: Predictor, segments: Segments) -> np.ndarray:
    """Mean NLL a dimension of the true steps of each speaker, under the predictor's own contexts."""
    found = trace(model, segments.windows.at(segments.numbers_N), "D_rollout")
    kept_NK = found.scored_NK & (found.true_length_NK > 0)
    nll_N = np.where(kept_NK, found.nll_NK, 0).sum(1) / np.maximum(kept_NK.sum(1), 1) / model.dimension
    return per_unit(nll_N, segments.unit_N)


def readings(found: Diagnosis) -> dict[str, Estimate]:
    """What the four modes say together, from their mean curves; shares of what is lost without any truth.

    repaired_by_writing: of the loss over steps 2 to K, what writing the truth every few steps brings back.
    lost_at_once: of the loss at the last step, what is lost at step 2 already.
    """
    a, b, d = (
        np.array([e.value for e in found.curves[mode]["dnll"]]) for mode in ("A_teacher", "B_periodic", "D_rollout")
    )
    count = found.curves["A_teacher"]["dnll"][0].n
    lost, unrepaired = (float(np.nansum((x - a)[1:])) for x in (d, b))
    values = {
        "repaired_by_writing": 1 - unrepaired / lost if lost > 0 else math.nan,
        "lost_at_once": float((d - a)[1] / (d - a)[-1]) if (d - a)[-1] > 0 else math.nan,
    }
    return {name: exact(x, count, found.unit) for name, x in values.items() if math.isfinite(x)}


def last_steps(found: Diagnosis, prefix: str) -> dict[str, Estimate]:
    """The curves of free running at the first, the second and the last step."""
    curves = found.curves["D_rollout"]
    return {
        f"{prefix}_cosine_first": curves["direction_cosine"][0],
        f"{prefix}_cosine_second": curves["direction_cosine"][min(1, len(curves["dnll"]) - 1)],
        f"{prefix}_cosine_last": curves["direction_cosine"][-1],
        f"{prefix}_dnll_last": curves["dnll"][-1],
        f"{prefix}_state_error_last": curves["state_error"][-1],
    }


def write(context: Context, found: Mapping[str, Diagnosis], after: Diagnosis) -> None:
    """injection.csv, a row a predictor, mode and step; and the five figures."""
    rows = [{"predictor": name, **row} for name, diagnosis in found.items() for row in diagnosis.rows()]
    write_rows(context.run.path / "injection.csv", rows)
    folder = context.run.figures
    draw_rollout(found, PLAN_COSINE, folder)
    draw_injection(after, folder)
    context.run.write_json(f"{folder.name}/captions.json", ROLLOUT_CAPTION | CAPTIONS)


def run(context: Context) -> Mapping[str, Estimate]:
    """Train on rollouts, then roll out before and after in segments of unheard voices."""
    config: Config = context.config
    speech, seed, diag = predicted_speech(context), context.seed, config.diag
    first, made = predictor_of_t2(context, speech.store.dimension)
    windows = FrameWindows(speech.store, first.window + config.rollout.steps, indices=speech.eval)
    numbers = windows.spread(diag.n_eval_utterances, diag.segments_per_utt, seed)
    segments = Segments(windows, numbers, windows.units(numbers, UNIT))
    models = {"one step ahead": first}
    if config.rollout.enabled:  # a second copy: the training changes the one it is given
        copy, _ = predictor_of_t2(context, speech.store.dimension)
        models["trained on rollouts"] = tuned(context, speech, copy, made)
    broken = [not_finite(model, segments, diag.period) for model in models.values()]
    metrics = {"not_finite": exact(sum(b for b, _ in broken), sum(n for _, n in broken), "numbers")}
    if metrics["not_finite"].value:  # nothing that is measured of such rollouts means anything
        return metrics
    found = {
        name: diagnose(
            model, windows, utterances=diag.n_eval_utterances, per_utterance=diag.segments_per_utt,
            period=diag.period, unit=UNIT, seed=seed,
        )
        for name, model in models.items()
    }  # fmt: skip
    before, after = found["one step ahead"], list(found.values())[-1]
    ratio = [e.value for e in after.curves["D_rollout"]["magnitude_ratio"]]
    metrics |= last_steps(after, "rollout") | readings(after) | {
        "length_ratio_last": after.curves["D_rollout"]["magnitude_ratio"][-1],
        "length_ratio_least": exact(float(np.nanmin(ratio)), len(set(segments.unit_N)), UNIT),
        "teacher_state_error": exact(
            max(e.value for e in after.curves["A_teacher"]["state_error"]), len(segments.numbers_N), "segments"
        ),
        "rollout_seconds": exact(config.rollout.steps / speech.store.rate_hz, 1, "codec"),
    }  # fmt: skip
    if config.rollout.enabled:
        gain_U = free_nll(models["trained on rollouts"], segments) - free_nll(first, segments)
        metrics |= last_steps(before, "untuned") | {"tuning_gain_per_dim": bootstrap_mean(gain_U, UNIT, seed=seed)}
    write(context, found, after)
    return metrics | codec_memory(context)


PHASE = Phase(
    code="T3",
    name="injection",
    question="Left to itself, does the predictor keep its direction, and what does a written truth repair?",
    config=Config,
    presets=Path(__file__).with_suffix(".yaml"),
    gate=GATE,
    gate_for=gate_for,
    run=run,
    needs=(*NEEDS, "T2"),
    check=lambda config: check_codec_kind(config.data.codec),
    failure_means="Errors of a rollout feed on themselves within a few frames: one-step prediction is no model of how "
    "speech goes on.",
)
