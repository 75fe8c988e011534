"""Is the model's way with text left alone by learning to hear?

Method: without audio a listener is the frozen model itself, and that is checked; what can be harmed is text that is
read while a sound is present. Listeners are trained alike under five variants: captions alone (none), KL to the frozen
model (soft; Li & Hoiem 2016), Fisher-weighted anchors (fisher; Kirkpatrick et al. 2017), gradients projected off those
of other text (nullspace; Farajtabar et al. 2020), and all three (full). For each: how the perplexity of other held-out
text changes when a clip is heard beside it, and what is left of the captions' CIDEr.

A negative result would mean that hearing costs the model its text, whatever is done about it.

Cost: quick a minute on 2 CPU cores, for the two trainings that the gate compares: captions alone, and all three. With
`each` they are five.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from inscape.core.estimate import Estimate, bootstrap_mean, exact
from inscape.core.gate import Criterion, Gate
from inscape.core.study import Context, Phase, Remedy
from inscape.metrics.kept_share import kept_share, mean_difference
from inscape.studies.audio_fusion.figures import draw_retention
from inscape.studies.audio_fusion.identity import check_all
from inscape.studies.audio_fusion.language import LanguageConfig, other_texts
from inscape.studies.audio_fusion.listener import PHASE1, Listener, ListenerConfig
from inscape.studies.audio_fusion.measures import clip_mean
from inscape.studies.audio_fusion.retention import RETENTIONS, text_losses
from inscape.studies.audio_fusion.sounds import SoundConfig, others
from inscape.studies.audio_fusion.training import TrainingConfig
from inscape.studies.audio_fusion.trial import Bench, bench_controls, cider_by, open_bench, train_trial

__all__ = ["GATE", "PHASE", "Config"]

HELD_OUT_TEXTS = 10**6  # seed of the text that no training looked at
HEARD_BY_EAR = ("none", "full")  # the variants that the gate compares: both must hear


@dataclass(frozen=True)
class Config:
    """Trainings that differ in what keeps text."""

    each: bool = True  # all five variants; else captions alone and all three together, which the gate compares
    data: SoundConfig = field(default_factory=SoundConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    listener: ListenerConfig = PHASE1
    training: TrainingConfig = field(default_factory=TrainingConfig)
    texts: int = 500  # sentences whose perplexity is measured

    def __post_init__(self) -> None:
        if not 10 <= self.texts <= 10**6:
            raise ValueError(f"texts={self.texts} is out of range; allowed: 10 to 1000000")


GATE = Gate(
    (
        Criterion("perplexity_ratio_full", at_most=1.05, source="calibrated", why="perplexity of other text beside a "
                  "sound, over the frozen model's"),
        Criterion("kept_less_nine_tenths_full", at_least=0, source="calibrated", why="gain in CIDEr over no audio, "
                  "less nine tenths of that of captions alone: text that is kept by not hearing is no success"),
        Criterion("perplexity_ratio_none", at_least=1.05, role="control", source="calibrated", why="where captions "
                  "alone harm no text there is nothing to retain"),
        Criterion("gain_none", at_least=12, role="control", source="calibrated", why="CIDEr over no audio: where "
                  "nothing was learned nothing could be forgotten"),
        Criterion("own_over_shuffled_none", at_least=12, role="control", source="calibrated", why="CIDEr with the own "
                  "sound less that with another clip's: what one caption for all would score was not learned by ear"),
        Criterion("own_over_shuffled_full", at_least=12, role="control", source="calibrated", why="the same of the "
                  "variant whose text is judged: a listener that does not hear harms no text"),
        Criterion("ratio_without_audio", at_most=1, role="control", source="calibrated", why="with a listener in place "
                  "and no frame to hear it is the frozen model"),
        Criterion("model_changed", at_most=0, role="control", source="calibrated", why="the frozen model's weights, "
                  "before and after"),
        Criterion("leaks", at_most=0, role="control", source="calibrated", why="no held-out clip may be trained on"),
    )
)  # fmt: skip

REMEDIES = (Remedy(("perplexity_ratio_full",), {"training.retention_weight": lambda weight: 10 * weight},
                   "if not: ten times the weight"),)  # fmt: skip


def perplexity_ratio(heard: list[float], frozen: list[float]) -> Estimate:
    """Perplexity over the frozen model's, with an interval over texts."""
    found = bootstrap_mean([a - b for a, b in zip(heard, frozen, strict=True)], "texts")
    return Estimate(math.exp(found.value), math.exp(found.low), math.exp(found.high), found.n, "texts")


def largest_ratio(heard: list[float], frozen: list[float]) -> Estimate:
    """Of each text's perplexity over the frozen model's the largest; not measured where one is no number."""
    return exact(math.exp(np.max(np.subtract(heard, frozen))), len(frozen), "texts")


def with_other_sounds(bench: Bench, listener: Listener, own: np.ndarray, kind: str) -> dict[str, Estimate]:
    """What the captions of a variant lose when other clips are heard; `own`: CIDEr of each clip with its own sound."""
    held_out = bench.held_out
    shuffled = cider_by(bench, listener, others(held_out, held_out.size // 2))
    return {
        f"shuffled_cider_{kind}": clip_mean(shuffled, held_out),
        f"own_over_shuffled_{kind}": mean_difference(own.tolist(), shuffled.tolist(), **held_out.drawn),
    }


def run(context: Context) -> Mapping[str, Estimate]:
    """The trainings, and what each left of text and of hearing."""
    config: Config = context.config
    bench = open_bench(context, config)
    drawn = bench.held_out.drawn
    texts, batch = other_texts(config.texts, context.seed + HELD_OUT_TEXTS), bench.language.batch
    frozen = text_losses(bench.lm, None, texts, bench.held_out, batch)
    deaf = cider_by(bench, None)
    metrics: dict[str, Estimate] = {"frozen_nats": bootstrap_mean(frozen, "texts")}
    gain: dict[str, np.ndarray] = {}
    without: list[Estimate] = []
    kinds = RETENTIONS if config.each else HEARD_BY_EAR
    for kind in kinds:
        training = replace(config.training, retention=kind)
        listener = train_trial(bench, config.listener, training, context.run, context.seed, part=kind).listener
        losses = text_losses(bench.lm, listener, texts, bench.held_out, batch)
        silent = text_losses(bench.lm, listener, texts, bench.held_out, batch, silent=True)
        without.append(largest_ratio(silent, frozen))
        cider = cider_by(bench, listener)
        gain[kind] = cider - deaf
        metrics |= {
            f"perplexity_ratio_{kind}": perplexity_ratio(losses, frozen),
            f"cider_{kind}": clip_mean(cider, bench.held_out),
            f"gain_{kind}": clip_mean(gain[kind], bench.held_out),
            f"kept_less_nine_tenths_{kind}": mean_difference(
                gain[kind].tolist(), (0.9 * gain["none"]).tolist(), **drawn
            ),
            f"hearing_kept_{kind}": kept_share(gain[kind].tolist(), gain["none"].tolist(), **drawn),
        }
        if kind in HEARD_BY_EAR:
            metrics |= with_other_sounds(bench, listener, cider, kind)
    metrics["ratio_without_audio"] = exact(float(np.max([each.value for each in without])), len(texts), "texts")
    found = {kind: (metrics[f"perplexity_ratio_{kind}"], metrics[f"cider_{kind}"]) for kind in kinds}
    draw_retention(context.run, found)
    return metrics | bench_controls(bench)


PHASE = Phase(
    code="retention",
    name="retention",
    question="Is the model's way with text left alone by learning to hear?",
    config=Config,
    presets=Path(__file__).with_suffix(".yaml"),
    gate=GATE,
    run=run,
    needs=("identity", "connectivity"),
    remedies=REMEDIES,
    check=check_all,
    failure_means="Hearing costs the model its text, whatever is done about it.",
)
