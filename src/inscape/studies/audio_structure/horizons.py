"""One predictor a horizon: trained, kept, measured on the voices it was not trained on, and written down.

T1 and T2 differ in the head and share this. Artefacts of a run, beside its checkpoints in k1/, k2/, ...:

    predictor_k1.safetensors ...   averaged weights with the statistics they need
    horizons.csv                   a row a horizon: every number with the ends of its interval
    worst_frames.json              the frames on which each predictor did worst against its baseline
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inscape.core.estimate import Estimate
from inscape.core.rundir import RunDir, write_atomically
from inscape.core.study import Context
from inscape.stopping import part_of
from inscape.studies.audio_structure.drift import fit_drift
from inscape.studies.audio_structure.frame_windows import FrameWindows, StepBatches, step_windows
from inscape.studies.audio_structure.latents import latents_sha256
from inscape.studies.audio_structure.predicted_speech import PredictedSpeech
from inscape.studies.audio_structure.prediction import (
    DiagConfig,
    PredictorConfig,
    save_predictor,
    train_predictor,
)
from inscape.studies.audio_structure.prediction_measures import Measured, Predictor, measure_predictor

__all__ = [
    "StatisticsConfig",
    "as_row",
    "by_horizon",
    "fit_horizons",
    "measure_horizons",
    "predictor_path",
    "windows_of",
    "write_horizons",
    "write_rows",
]


@dataclass(frozen=True)
class StatisticsConfig:
    """What whitening, baselines and the rule of drift are measured on."""

    max_train_samples: int = 50_000

    def __post_init__(self) -> None:
        DiagConfig(max_train_samples=self.max_train_samples)  # refuses what is out of range


def predictor_path(run: RunDir, horizon: int) -> Path:
    """Where a run of T1 or T2 keeps its predictor of this horizon."""
    return run.path / f"predictor_k{horizon}.safetensors"


def windows_of(speech: PredictedSpeech, config: PredictorConfig, horizon: int, split: str) -> FrameWindows:
    """The windows of a split for one horizon; for all horizons they end on the same frames. ValueError if none."""
    context = config.context
    rows = {"train": speech.train, "heldout": speech.heldout, "eval": speech.eval}[split]
    return step_windows(speech.store, context.window, horizon, horizons=context.horizons_k, indices=rows)


def fit_horizons(context: Context, speech: PredictedSpeech, config: PredictorConfig) -> dict[int, Predictor]:
    """A trained predictor for each horizon. What an interrupted run had trained is taken from its checkpoints."""
    found = {}
    for k in config.context.horizons_k:
        watched = windows_of(speech, config, k, "heldout") if len(speech.heldout) else None
        with part_of(context.run, f"k{k}") as part:
            found[k] = train_predictor(
                config,
                windows_of(speech, config, k, "train"),
                part,
                seed=context.seed,
                device=context.device,
                watched=watched,
            )
        save_predictor(found[k], config, predictor_path(context.run, k), latents=latents_sha256(context.inputs["A1"]))
    return found


def measure_horizons(
    models: Mapping[int, Predictor],
    speech: PredictedSpeech,
    config: PredictorConfig,
    seed: int,
    *,
    strangers_N: np.ndarray | None = None,
) -> dict[int, Measured]:
    """Each predictor on the eval speakers, beside the rule of drift; strangers_N: see `measure_predictor`."""
    found = {}
    for k, model in models.items():
        train, test = (windows_of(speech, config, k, split) for split in ("train", "eval"))
        numbers = train.sample(config.diag.max_train_samples, seed)
        found[k] = measure_predictor(
            model,
            test,
            samples=config.train.max_eval_samples,
            seed=seed,
            drift=fit_drift(StepBatches.of(train, config.context.window, numbers)),
            strangers_N=strangers_N,
            swapped=seed,
        )
    return found


def by_horizon(found: Mapping[int, Measured]) -> dict[str, Estimate]:
    """The numbers of every horizon, each with `_k` and the horizon after its name."""
    return {f"{name}_k{k}": estimate for k, at in found.items() for name, estimate in at.metrics.items()}


def as_row(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    """Columns name, name_low, name_high of a table."""
    ends = (("", "value"), ("_low", "low"), ("_high", "high"))
    return {name + end: getattr(e, field) for name, e in estimates.items() for end, field in ends}


def write_horizons(run: RunDir, found: Mapping[int, Measured], rate_hz: float) -> None:
    """horizons.csv and worst_frames.json."""
    rows = [{"horizon": k, "seconds": k / rate_hz} | as_row(at.metrics) for k, at in found.items()]
    write_rows(run.path / "horizons.csv", rows)
    worst = {
        f"k{k}": [{"utterance": u, "frame": t, "seconds": t / rate_hz, "dnll": nats} for u, t, nats in at.worst]
        for k, at in found.items()
    }
    run.write_json("worst_frames.json", worst)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV file with the columns of the first row; what is not a number stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows([{k: "" if isinstance(v, float) and v != v else v for k, v in row.items()} for row in rows])
    write_atomically(path, text.getvalue())
