"""One listener from start to figures: trained, saved, and judged under every condition.

Legend: T frames, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from inscape.core.estimate import Estimate, exact
from inscape.core.rundir import RunDir
from inscape.core.study import Context
from inscape.metrics.cider import DocumentFrequencies
from inscape.pretrained.language_model import LanguageModel
from inscape.stopping import part_of
from inscape.studies.audio_fusion.language import LanguageConfig, open_language
from inscape.studies.audio_fusion.listener import Listener, ListenerConfig, of_sounds, save_listener, write_captions
from inscape.studies.audio_fusion.measures import (
    Judged,
    by_condition,
    gate_0_difference,
    gradient_norms,
    keep_captions,
    layer_figures,
    logit_difference,
    measure_listening,
    prefers_right_clip,
    scores,
)
from inscape.studies.audio_fusion.reranking import reranked_captions
from inscape.studies.audio_fusion.sounds import LEAKS, SPLITS, Sounds, features_of_silence, open_sounds
from inscape.studies.audio_fusion.training import Trained, TrainingConfig, train_listener

__all__ = ["LISTENER", "Bench", "judge_trial", "loss_over_first", "open_bench", "train_trial"]

LISTENER = "listener.safetensors"  # in the run
TRIED = 64  # validation clips that evaluations write of


class Bench(NamedTuple):
    """What every trial needs: the frozen model and the sounds, as the first phase left them."""

    lm: LanguageModel
    language: LanguageConfig
    train: Sounds
    validation: Sounds
    held_out: Sounds
    first: RunDir  # the run of the first phase


def open_bench(context: Context, config: Any) -> Bench:
    """The frozen model and the sounds of the run's inputs. ValueError in one line where they are not whole."""
    first = context.inputs["identity"]
    lm = open_language(config.language, first, context.device)
    train, validation, held_out = (open_sounds(first, split) for split in SPLITS)
    return Bench(lm, config.language, train, validation, held_out, first)


def train_trial(
    bench: Bench, config: ListenerConfig, training: TrainingConfig, run: RunDir, seed: int, part: str = "training"
) -> Trained:
    """Train in a folder of `run`; evaluations write captions of validation clips and look at every layer."""
    few = bench.validation.first(TRIED)
    frequencies = DocumentFrequencies.of(bench.train.captions)

    def evaluate(listener: Listener, step: int) -> dict[str, float]:
        said = write_captions(
            bench.lm,
            listener,
            of_sounds(few),
            few.size,
            prompt=bench.language.prompt,
            new_tokens=bench.language.new_tokens,
            batch=bench.language.batch,
        )
        return {"cider": float(scores(said, few, frequencies).mean())}

    with part_of(run, part) as folder:
        return train_listener(
            bench.lm,
            config,
            training,
            bench.train,
            folder,
            prompt=bench.language.prompt,
            seed=seed,
            evaluate=evaluate if training.fit.eval_every else None,
        )


def judge_trial(
    bench: Bench, config: ListenerConfig, trained: Trained, run: RunDir, seed: int
) -> tuple[dict[str, Estimate], Judged]:
    """Save the listener and measure it on the held-out clips, with every control."""
    lm, listener, held_out, asked = bench.lm, trained.listener, bench.held_out, bench.language
    save_listener(listener, config, run.path / LISTENER)
    judged = by_condition(lm, listener, held_out, bench.train, asked, features_of_silence(bench.first))
    norms, layers = gradient_norms(lm, trained), layer_figures(lm, listener, trained.batch)
    if asked.candidates > 1:
        best = reranked_captions(lm, listener, of_sounds(held_out), held_out.size, asked, seed)
        judged.captions["reranked"] = best
        judged.cider["reranked"] = scores(best, held_out, DocumentFrequencies.of(held_out.captions))
    keep_captions(run, judged, held_out)
    run.write_json("layers.json", layers)
    leaks: Mapping[str, Any] = bench.first.read_json(LEAKS) or {}
    return measure_listening(judged, held_out) | {
        "prefers_right_clip": prefers_right_clip(lm, listener, held_out, asked),
        "gate_0_difference": gate_0_difference(lm, listener, held_out, asked.prompt),
        "silent_difference": logit_difference(lm, listener, held_out, asked.prompt, heard=False),
        "leaks": exact(float(leaks["leaks"]), held_out.size, "clips"),
        "smallest_gradient_norm": exact(min(norms.values()), 1, "training"),
        "loss_over_first": loss_over_first(trained.losses),
        **{name: exact(value, 1, "training") for name, value in layers.items() if name.endswith(("_ratio", "_gate"))},
        "steps": exact(trained.steps, 1, "training"),
    }, judged


def loss_over_first(losses: list[float]) -> Estimate:
    """The loss of the last tenth of the log lines over that of the first line."""
    last = losses[-max(1, len(losses) // 10) :]
    return exact(sum(last) / len(last) / losses[0], len(losses), "log lines")
