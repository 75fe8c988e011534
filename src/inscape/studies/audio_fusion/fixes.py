"""What do the plan's four fixes really do?

Method: the plan raised CIDEr from 18 by four changes made at once: capacity (rank 64, 32 tokens, one more layer), the
projector's scale (2 -> 10), the residual gate (0.05 -> 0.3, at most 1), and no gate warm-up; its table raises the
learning rates with them, which stand here as a fifth change (rates) beside the four. Each is taken back alone from the
config with all five, and each is made alone in the config with none, with everything else equal; captions of the same
held-out clips are scored (CIDEr-D, Vedantam et al. 2015), and differences are paired.

A negative result would mean that all together do not help: the listener was held back by something else.

Cost: quick a minute on 2 CPU cores, for three trainings: all fixes, none, and the control. With `each` they are
thirteen; four hundred steps of each, six and a half minutes, show which changes matter most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from inscape.core.estimate import Estimate
from inscape.core.gate import Criterion, Gate
from inscape.core.study import Context, Phase, Remedy
from inscape.metrics.kept_share import mean_difference
from inscape.studies.audio_fusion.figures import draw_fixes
from inscape.studies.audio_fusion.identity import check_all
from inscape.studies.audio_fusion.language import LanguageConfig
from inscape.studies.audio_fusion.listener import BASELINE, PHASE1, ListenerConfig
from inscape.studies.audio_fusion.measures import clip_mean
from inscape.studies.audio_fusion.sounds import SoundConfig
from inscape.studies.audio_fusion.training import TrainingConfig
from inscape.studies.audio_fusion.trial import Bench, bench_controls, cider_by, open_bench, train_trial

__all__ = ["FIXES", "GATE", "PHASE", "Config", "variants"]


@dataclass(frozen=True)
class Config:
    """The plan's two configs, trained alike."""

    each: bool = True  # each fix is also made alone, and taken back alone; else they are judged together
    data: SoundConfig = field(default_factory=SoundConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    baseline: ListenerConfig = BASELINE
    phase1: ListenerConfig = PHASE1
    training: TrainingConfig = field(default_factory=TrainingConfig)


GATE = Gate(
    (
        Criterion("gain_of_all", at_least=12, source="plan", partial=1),  # 18 -> 30
        Criterion("phase1_over_strangers", at_least=5, role="control", source="calibrated", why="trained with other "
                  "clips' sounds the same config must be worse: else there is nothing that a fix could help"),
        Criterion("model_changed", at_most=0, role="control", source="calibrated", why="the frozen model's weights, "
                  "before and after"),
        Criterion("leaks", at_most=0, role="control", source="calibrated", why="no held-out clip may be trained on"),
    )
)  # fmt: skip

LONGER = {"training.fit.steps": lambda steps: 2 * steps, "training.epochs": lambda epochs: 2 * epochs}
REMEDIES = (Remedy(("gain_of_all",), LONGER, "if not: train longer"),)


def _capacity(to: ListenerConfig, of: ListenerConfig) -> ListenerConfig:
    return replace(
        to,
        projector=replace(to.projector, tokens=of.projector.tokens),
        fusion=replace(to.fusion, rank=of.fusion.rank, layers=of.fusion.layers),
    )


def _scale(to: ListenerConfig, of: ListenerConfig) -> ListenerConfig:
    return replace(to, projector=replace(to.projector, scale=of.projector.scale))


def _gate(to: ListenerConfig, of: ListenerConfig) -> ListenerConfig:
    fusion = replace(to.fusion, residual_init=of.fusion.residual_init, residual_max=of.fusion.residual_max)
    return replace(to, fusion=fusion)


def _warmup(to: ListenerConfig, of: ListenerConfig) -> ListenerConfig:
    return replace(to, fusion=replace(to.fusion, gate_warmup=of.fusion.gate_warmup))


def _rates(to: ListenerConfig, of: ListenerConfig) -> ListenerConfig:
    return replace(to, lr_projector=of.lr_projector, lr_adapter=of.lr_adapter)


FIXES: Mapping[str, Callable[[ListenerConfig, ListenerConfig], ListenerConfig]] = {
    "capacity": _capacity,
    "scale": _scale,
    "gate": _gate,
    "warmup": _warmup,
    "rates": _rates,  # none of the four, and changed with them
}


def variants(baseline: ListenerConfig, phase1: ListenerConfig, *, each: bool = True) -> dict[str, ListenerConfig]:
    """Both configs and, of `each` fix, the first with it alone and the second without it."""
    if not each:
        return {"baseline": baseline, "phase1": phase1}
    alone = {f"only_{name}": fix(baseline, phase1) for name, fix in FIXES.items()}
    without = {f"without_{name}": fix(phase1, baseline) for name, fix in FIXES.items()}
    return {"baseline": baseline, "phase1": phase1} | alone | without


def trial(bench: Bench, config: ListenerConfig, training: TrainingConfig, context: Context, name: str) -> np.ndarray:
    """CIDEr of each held-out clip, in percent, after one training."""
    return cider_by(bench, train_trial(bench, config, training, context.run, context.seed, part=name).listener)


def run(context: Context) -> Mapping[str, Estimate]:
    """All variants, and the strangers' control."""
    config: Config = context.config
    bench = open_bench(context, config)
    found = {
        name: trial(bench, listener, config.training, context, name)
        for name, listener in variants(config.baseline, config.phase1, each=config.each).items()
    }
    strangers = replace(config.training, strangers=True)
    found["strangers"] = trial(bench, config.phase1, strangers, context, "strangers")

    def gain(first: str, second: str) -> Estimate:
        return mean_difference(found[first].tolist(), found[second].tolist(), **bench.held_out.drawn)

    means = {name: clip_mean(each, bench.held_out) for name, each in found.items()}
    draw_fixes(context.run, means)
    return {
        **bench_controls(bench),
        **{f"cider_{name}": mean for name, mean in means.items()},
        "gain_of_all": gain("phase1", "baseline"),
        "phase1_over_strangers": gain("phase1", "strangers"),
        **{f"gain_of_only_{name}": gain(f"only_{name}", "baseline") for name in FIXES if config.each},
        **{f"loss_without_{name}": gain("phase1", f"without_{name}") for name in FIXES if config.each},
    }


PHASE = Phase(
    code="fixes",
    name="the four fixes",
    question="What do the plan's four fixes really do?",
    config=Config,
    presets=Path(__file__).with_suffix(".yaml"),
    gate=GATE,
    run=run,
    needs=("identity", "connectivity"),
    remedies=REMEDIES,
    check=check_all,
    failure_means="All together do not help: the listener was held back by something else.",
)
