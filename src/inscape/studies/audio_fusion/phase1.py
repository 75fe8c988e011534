"""Can a frozen language model be taught to hear, and is it really listening?

Method: the plan's run. Projector and low-rank cross-attention (Hu et al. 2021) are trained on captions of training
clips with the frozen model behind them, 20 epochs, batches of 128, label smoothing 0.1; captions of held-out clips are
scored by CIDEr-D (Vedantam et al. 2015) with document frequencies of the whole held-out set. The plan's table has two
configs, `baseline` and `phase1`; `model` says which is trained.

A score says nothing of listening: captions of sounds are alike, and a model that has never heard one writes them well.
So the same clips are written of with other clips' sounds, in silence, without audio and by one constant caption, and
the gate asks what is left of the score.

A negative result would mean that the words do not come from the sound, however good they are.

Cost: quick about a minute on 2 CPU cores; full, the plan's, 12 to 18 hours on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from inscape.core.estimate import Estimate
from inscape.core.gate import Criterion, Gate
from inscape.core.study import Context, Phase, Remedy
from inscape.studies.audio_fusion.figures import draw_conditions
from inscape.studies.audio_fusion.identity import check_all
from inscape.studies.audio_fusion.language import LanguageConfig
from inscape.studies.audio_fusion.listener import BASELINE, PHASE1, ListenerConfig
from inscape.studies.audio_fusion.listening_gate import LISTENING, gate_of_sounds
from inscape.studies.audio_fusion.measures import say_where_too_few
from inscape.studies.audio_fusion.plan_sizes import side_by_side_table
from inscape.studies.audio_fusion.sounds import SoundConfig
from inscape.studies.audio_fusion.training import TrainingConfig
from inscape.studies.audio_fusion.trial import judge_trial, open_bench, train_trial

__all__ = ["CIDER", "GATE", "PHASE", "Config"]

MODELS = ("phase1", "baseline")


@dataclass(frozen=True)
class Config:
    """One training of one of the plan's two configs."""

    data: SoundConfig = field(default_factory=SoundConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    model: str = "phase1"  # which of the two is trained: phase1 | baseline
    baseline: ListenerConfig = BASELINE
    phase1: ListenerConfig = PHASE1
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ValueError(f"model={self.model!r} is not known; allowed: {', '.join(MODELS)}")

    @property
    def listener(self) -> ListenerConfig:
        """The config that is trained."""
        return self.phase1 if self.model == "phase1" else self.baseline


CIDER = Criterion("cider", at_least=30, source="plan", partial=25)

GATE = Gate((CIDER, Criterion("loss_over_first", at_most=0.9, source="calibrated", why="the loss falls"), *LISTENING))

REMEDIES = (
    Remedy(("cider",), {"training.fit.steps": lambda steps: 2 * steps, "training.epochs": lambda n: 2 * n},
           "if not: train longer"),
)  # fmt: skip


def table(config: Config) -> list[str]:
    """What the config verb shows under a config."""
    return side_by_side_table(config.baseline, config.phase1)


def run(context: Context) -> Mapping[str, Estimate]:
    """Train, write, judge."""
    config: Config = context.config
    bench = open_bench(context, config)
    say_where_too_few(context.run, bench.held_out)
    trained = train_trial(bench, config.listener, config.training, context.run, context.seed)
    metrics, judged = judge_trial(bench, config.listener, trained, context.run, context.seed)
    draw_conditions(context.run, judged.cider)
    return metrics


PHASE = Phase(
    code="phase1",
    name="phase 1",
    question="Can a frozen language model be taught to hear, and is it really listening?",
    config=Config,
    presets=Path(__file__).with_suffix(".yaml"),
    gate=GATE,
    gate_for=lambda config: gate_of_sounds(GATE, config.data),
    run=run,
    needs=("identity", "connectivity"),
    remedies=REMEDIES,
    check=check_all,
    beside=table,
    failure_means="The words do not come from the sound, however good they are.",
)
