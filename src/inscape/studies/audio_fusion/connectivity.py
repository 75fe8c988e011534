"""Does sound reach the words at all?

Method: a listener is trained on a few clips until it knows them, as any connected network can (Zhang et al. 2017), with
one caption each, and must write that very caption of each. What cannot learn 512 clips by heart has a broken wire:
frozen random projections, a scale that a layer norm cancels, one vector for a whole clip. Beside it stand the norms of
the gradients, the share of what is added to each layer, and what is written while another clip is heard, which must not
be the clip's own caption.

A negative result would mean that no gradient, or no sound, comes through: nothing that is measured later counts.

Cost: quick about a minute on 2 CPU cores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Criterion, Gate
from inscape.core.study import Context, Phase, Remedy
from inscape.studies.audio_fusion.identity import check_all
from inscape.studies.audio_fusion.language import LanguageConfig
from inscape.studies.audio_fusion.listener import (
    PHASE1,
    Listener,
    ListenerConfig,
    save_listener,
)
from inscape.studies.audio_fusion.measures import exact_share, gate_0_difference, gradient_norms, layer_figures, numbers
from inscape.studies.audio_fusion.sounds import SoundConfig, Sounds, clips_of, others
from inscape.studies.audio_fusion.training import TrainingConfig
from inscape.studies.audio_fusion.trial import (
    LISTENER,
    Bench,
    bench_controls,
    captions_by,
    loss_over_first,
    open_bench,
    train_trial,
)

__all__ = ["GATE", "PHASE", "Config"]


@dataclass(frozen=True)
class Config:
    """One training on few clips."""

    data: SoundConfig = field(default_factory=SoundConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    listener: ListenerConfig = PHASE1
    clips: int = 512  # that are learned by heart
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(epochs=100, wordings=1, label_smoothing=0))

    def __post_init__(self) -> None:
        if not 2 <= self.clips <= 100_000:
            raise ValueError(f"clips={self.clips} is out of range; allowed: 2 to 100000")


GATE = Gate(
    (
        Criterion("exact", at_least=0.9, source="plan", partial=0.5),
        Criterion("shuffled_exact", at_most=0.1, role="control", source="calibrated", why="hearing another clip, it "
                  "may not write the caption of this one"),
        Criterion("model_changed", at_most=0, role="control", source="calibrated", why="the frozen model's weights, "
                  "before and after"),
        Criterion("leaks", at_most=0, role="control", source="calibrated", why="no held-out clip may be trained on"),
        Criterion("smallest_gradient_norm", at_least=1e-9, role="control", source="plan"),
        Criterion("gate_0_difference", at_most=0, role="control", source="calibrated", why="with the gate shut a "
                  "trained listener must be the frozen model, bit for bit"),
    )
)  # fmt: skip

REMEDIES = (Remedy(("exact",), {"training.fit.steps": lambda steps: 2 * steps, "training.epochs": lambda n: 2 * n},
                   "if not: train longer"),)  # fmt: skip


def check_connectivity(config: Config) -> None:
    """ValueError as of every phase, and where there are fewer clips than are to be learned by heart."""
    check_all(config)
    _check_clips(config.clips, clips_of(config.data, "train"))


def _check_clips(wanted: int, there: int) -> None:
    if there < wanted:
        raise ValueError(
            f"clips={wanted} are to be learned by heart, and the training split has {there}; allowed: 2 to {there}, "
            f"such as clips={there}, or more sounds (data.train, data.path)"
        )


def by_heart(bench: Bench, listener: Listener, few: Sounds) -> dict[str, Estimate]:
    """Share of clips whose caption is written, with their own sound and with another's."""
    count, found = few.size, {}
    for name, order in (("exact", list(range(count))), ("shuffled_exact", others(few, count // 2))):
        said = captions_by(bench, listener, few, order)
        found[name] = exact_share(said, [each[:1] for each in few.captions], few)
    return found


def run(context: Context) -> Mapping[str, Estimate]:
    """Learn a few clips by heart."""
    config: Config = context.config
    bench = open_bench(context, config)
    _check_clips(config.clips, bench.train.size)
    few = bench.train.first(config.clips)
    trained = train_trial(bench._replace(train=few), config.listener, config.training, context.run, context.seed)
    save_listener(trained.listener, config.listener, bench.encoder, context.run.path / LISTENER)
    norms = gradient_norms(bench.lm, trained.last, trained.batch)
    layers = layer_figures(bench.lm, trained.listener, trained.batch)
    context.run.write_json("layers.json", numbers(layers | norms))
    return by_heart(bench, trained.listener, few) | {
        "smallest_gradient_norm": exact(float(np.min([*norms.values()])), 1, "training"),
        "gate_0_difference": gate_0_difference(bench.lm, trained.listener, few, bench.language.prompt),
        **bench_controls(bench),
        "loss_over_first": loss_over_first(trained.losses),
        "clips": exact(few.size, few.size, "clips"),
        **{name: exact(value, 1, "training") for name, value in layers.items() if name.endswith(("_ratio", "_gate"))},
    }


PHASE = Phase(
    code="connectivity",
    name="connectivity",
    question="Does sound reach the words at all?",
    config=Config,
    presets=Path(__file__).with_suffix(".yaml"),
    gate=GATE,
    run=run,
    needs=("identity",),
    remedies=REMEDIES,
    check=check_connectivity,
    failure_means="No gradient, or no sound, comes through: nothing that is measured later counts.",
)
