"""Does a wider projector, trained longer, hear more?

Method: the plan's second step. The projector's bottleneck is taken away (0) or widened to 4096, and training is longer;
everything else, data, controls and figures, is phase 1's (CIDEr-D, Vedantam et al. 2015). What counts is the gain over
phase 1 on the same held-out clips.

A negative result would mean that the bottleneck did not hold the listener back: the limit is the encoder, the data, or
the way sound is let in.

Cost: quick three minutes on 2 CPU cores; full, the plan's, a week on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from inscape.core.estimate import Estimate
from inscape.core.gate import Criterion, Gate
from inscape.core.study import Context, Phase, Remedy
from inscape.metrics.cider import DocumentFrequencies
from inscape.metrics.kept_share import mean_difference
from inscape.studies.audio_fusion.figures import draw_conditions
from inscape.studies.audio_fusion.identity import check_all
from inscape.studies.audio_fusion.language import LanguageConfig
from inscape.studies.audio_fusion.listener import PHASE1, ListenerConfig
from inscape.studies.audio_fusion.listening_gate import LISTENING, gate_of_sounds
from inscape.studies.audio_fusion.measures import say_where_too_few, scores
from inscape.studies.audio_fusion.sounds import SoundConfig
from inscape.studies.audio_fusion.training import TrainingConfig
from inscape.studies.audio_fusion.trial import Bench, judge_trial, open_bench, train_trial

__all__ = ["GATE", "PHASE", "Config"]

WIDE = replace(PHASE1, projector=replace(PHASE1.projector, bottleneck=0))  # phase 1 without its bottleneck


@dataclass(frozen=True)
class Config:
    """One longer training with a wider projector."""

    data: SoundConfig = field(default_factory=SoundConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    listener: ListenerConfig = WIDE
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(epochs=60))


GATE = Gate(
    (
        Criterion("cider", at_least=35, source="plan", partial=30),
        Criterion("gain_over_phase1", at_least=1, source="calibrated", why="CIDEr less phase 1's on the same clips: "
                  "what a wider projector and a longer training are for"),
        *LISTENING,
    )
)  # fmt: skip

REMEDIES = (
    Remedy(("cider", "gain_over_phase1"),
           {"listener.projector.bottleneck": lambda width: 2 * width if width else 4096},
           "if not: a bottleneck of 4096 instead of none; where there is one, twice as wide"),
)  # fmt: skip


def scores_of_phase1(context: Context, bench: Bench) -> np.ndarray:
    """CIDEr of each held-out clip's caption by phase 1, in percent. ValueError if its captions are of other clips."""
    rows = context.inputs["phase1"].read_json("captions.json") or []
    if [tuple(row["references"]) for row in rows] != bench.held_out.captions:
        raise ValueError(f"{context.inputs['phase1'].path} wrote of other clips: run phase1 again")
    frequencies = DocumentFrequencies.of(bench.held_out.captions)
    return scores([row["own"] for row in rows], bench.held_out, frequencies)


def run(context: Context) -> Mapping[str, Estimate]:
    """Train, write, judge, and compare with phase 1."""
    config: Config = context.config
    bench = open_bench(context, config)
    say_where_too_few(context.run, bench.held_out)
    before = scores_of_phase1(context, bench)
    trained = train_trial(bench, config.listener, config.training, context.run, context.seed)
    metrics, judged = judge_trial(bench, config.listener, trained, context.run, context.seed)
    draw_conditions(context.run, judged.cider | {"phase 1": before})
    gain = mean_difference(judged.cider["own"].tolist(), before.tolist(), **bench.held_out.drawn)
    return metrics | {"gain_over_phase1": gain}


PHASE = Phase(
    code="phase2",
    name="phase 2",
    question="Does a wider projector, trained longer, hear more?",
    config=Config,
    presets=Path(__file__).with_suffix(".yaml"),
    gate=GATE,
    gate_for=lambda config: gate_of_sounds(GATE, config.data),
    run=run,
    needs=("identity", "phase1"),
    remedies=REMEDIES,
    check=check_all,
    failure_means="The bottleneck did not hold the listener back: the limit is elsewhere.",
)
