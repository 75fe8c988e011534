"""T4: how predictable are different latents of the same sound, second for second and at the same distance in time?

Method: each codec turns A0's recordings into latents of its own rate and width. Rates differ: one frame ahead
is 80 ms for one and 13 ms for another, and eight frames of context are 640 ms or 107 ms, so that numbers a frame
compare clocks and not representations. Here context, lag and target are the same stretches of time for all: a window
that ends `lag_sec` before the target, and as target the change over the last `span_sec`. What is gained on such a
target over a uniform direction and one LogNormal length (a von Mises-Fisher head, Mardia & Jupp 2000) is divided by
its duration: nats a second. The comparison frame by frame, as the first experiment of this kind made it, is made as
well and stands beside it. The lag is longer than the span, for else the context would hold one end of the target, and
noise would seem predictable. Every store that is made here is asked what A1 asks of its own, and what any codec
refused is left out for all, and counted.

A negative result would mean that at this distance in time nothing can be told of one of the latents, so that there is
nothing to compare.

Cost: quick 11 seconds on two CPU cores, small some 10 minutes; full, with two neural codecs, hours on a GPU.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Criterion, Gate
from inscape.core.rundir import RunDir
from inscape.core.study import Context, Phase
from inscape.data.latent_extraction import Verification, extract
from inscape.data.latent_store import LatentStore, open_store
from inscape.data.speech.corpus import Utterance
from inscape.device import pick_device
from inscape.pretrained.codec import open_codec
from inscape.stopping import part_of
from inscape.studies.audio_structure import latents
from inscape.studies.audio_structure.drift import fit_drift
from inscape.studies.audio_structure.eligible_frames import rule_of
from inscape.studies.audio_structure.frame_windows import StepBatches, step_windows
from inscape.studies.audio_structure.frames import split_of_utterances
from inscape.studies.audio_structure.horizons import StatisticsConfig, as_row, write_rows
from inscape.studies.audio_structure.latent_checks import checks_of
from inscape.studies.audio_structure.latents import LATENTS, OF
from inscape.studies.audio_structure.predicted_speech import NEEDS, PredictedSpeech, eligible_rows
from inscape.studies.audio_structure.prediction import (
    ContextConfig,
    DiagConfig,
    PredictorConfig,
    TrainConfig,
    train_predictor,
)
from inscape.studies.audio_structure.prediction_measures import measure_predictor
from inscape.studies.audio_structure.representation_figures import CAPTIONS, draw_comparison
from inscape.studies.audio_structure.sources import SpeechConfig, check_codec_kind, read_recordings
from inscape.user_paths import user_path

__all__ = ["GATE", "PHASE", "Config"]

HEADS = ("direction_magnitude", "mixture_density")
# As in A1.
CHECKED = (
    "non_finite",
    "rate_error_hz",
    "batch_difference",
    "shift_difference",
    "loudness_correlation",
    "frames_ahead",
)
COMPARED, READ_OFF = 4, 60  # recordings, as in A1
FAST, SLOW = "log-mel", "log-mel:12.5"
NAIVE_WINDOW = 8  # frames, whatever they last


@dataclass(frozen=True)
class MatchedConfig:
    """Stretches of time that are the same for every representation, in seconds."""

    window_sec: float = 0.64  # of context; the plan's 8 frames at 12.5 Hz
    lag_sec: float = 0.16  # from the end of the context to the end of the target
    span_sec: float = 0.08  # of the target: how far the latent has moved over it

    def __post_init__(self) -> None:
        for name in ("window_sec", "lag_sec", "span_sec"):
            if not 0 < getattr(self, name) <= 60:
                raise ValueError(f"matched.{name}={getattr(self, name)} is out of range; allowed: above 0, up to 60")
        if self.span_sec >= self.lag_sec:
            raise ValueError(
                f"matched.span_sec={self.span_sec} is out of range; allowed: below matched.lag_sec={self.lag_sec}, or "
                "the context holds one end of the target"
            )


@dataclass(frozen=True)
class Config:
    """What is compared, and the head that it is compared with."""

    data: SpeechConfig = field(default_factory=SpeechConfig)  # A0's
    codecs: tuple[str, ...] = ()  # kinds, or kind:where, that data.codec is compared with; none: a log-mel
    matched: MatchedConfig = field(default_factory=MatchedConfig)
    head: str = "direction_magnitude"  # direction_magnitude | mixture_density
    hidden: int = 1024  # width of the hidden layers
    layers: int = 2  # hidden layers
    components: int = 8  # Gaussians of the mixture_density head
    train: TrainConfig = field(default_factory=TrainConfig)
    diag: StatisticsConfig = field(default_factory=StatisticsConfig)

    def __post_init__(self) -> None:
        if len(self.compared) < 2 or len(set(self.compared)) < len(self.compared):
            raise ValueError(
                f"codecs={list(self.codecs)} is out of range, with data.codec={self.data.codec} among them; allowed: "
                "two or more, all different, or none, for a log-mel"
            )
        for codec in self.compared:
            check_codec_kind(codec)
        self.predictor(NAIVE_WINDOW)  # refuses what is out of range

    @property
    def compared(self) -> tuple[str, ...]:
        """What is compared: data.codec, whatever else is named, or beside it a log-mel of another rate."""
        asked = self.data.codec
        others = self.codecs or (SLOW if asked.partition(":")[0] == FAST and asked != SLOW else FAST,)
        return others if asked in others else (asked, *others)

    def predictor(self, window: int) -> PredictorConfig:
        """These settings as those of a predictor with a window of so many frames."""
        return PredictorConfig(
            head=self.head,
            hidden=self.hidden,
            layers=self.layers,
            components=self.components,
            context=ContextConfig(window=window),
            train=self.train,
            diag=DiagConfig(max_train_samples=self.diag.max_train_samples),
        )


GATE = Gate(
    (
        Criterion("representations", at_least=2, why="two or more are compared"),
        Criterion("least_gain_per_second", at_least=0, source="calibrated", why="nats a second over the baseline, of "
                  "the representation that gains least: a comparison with one that shows nothing ranks noise"),
        Criterion("least_matched_cosine", at_least=0.05, source="calibrated", why="and the least direction cosine; "
                  "frames that are nothing to each other give 0, since the context holds no end of the target"),
        Criterion("lag_mismatch", at_most=0.1, role="control", source="calibrated", why="the largest difference "
                  "between a lag, span or window in frames and the same in seconds, as a share"),
        Criterion("recordings_lost", at_most=0.05, role="control", source="calibrated", why="the share of all "
                  "recordings of the splits that some codec refused: what the others are compared on is without them"),
        *(
            replace(criterion, role="control", source="calibrated")
            for criterion in latents.GATE.criteria
            if criterion.metric in CHECKED
        ),
    )
)  # fmt: skip


class Stretch(NamedTuple):
    """Window, lag and span in frames of a representation."""

    window: int
    lag: int
    span: int

    def mismatch(self, matched: MatchedConfig, rate_hz: float) -> float:
        """The largest relative difference from what is asked in seconds."""
        asked = (matched.window_sec, matched.lag_sec, matched.span_sec)
        return max(abs(frames / rate_hz / seconds - 1) for frames, seconds in zip(self, asked, strict=True))


class Representation(NamedTuple):
    """A codec's latents of the recordings that all codecs could take."""

    name: str  # of metrics: letters, digits and underscores
    spec: str
    speech: PredictedSpeech


def frames_of(matched: MatchedConfig, rate_hz: float) -> Stretch:
    """Seconds in frames. ValueError if a frame is too long for a target that the context does not touch."""
    window, lag, span = (
        max(1, round(seconds * rate_hz)) for seconds in (matched.window_sec, matched.lag_sec, matched.span_sec)
    )
    if span >= lag:
        raise ValueError(
            f"at {rate_hz:g} frames a second a lag of {matched.lag_sec} s and a span of {matched.span_sec} s are {lag} "
            f"and {span} frames; give a longer matched.lag_sec, so that the context does not touch the target"
        )
    return Stretch(window, lag, span)


class Store(NamedTuple):
    """A codec's latents of all recordings that it takes, and what was verified of them; None where A1 did that."""

    spec: str
    latents: LatentStore
    verified: Verification | None


def stored(context: Context, spec: str, number: int) -> Store:
    """A1's latents where they are this codec's, else extracted into the run; an interrupted extraction goes on."""
    made_of = context.inputs["A1"].read_json(OF) or {}
    if made_of.get("spec") == spec and made_of.get("project"):
        return Store(spec, open_store(context.inputs["A1"].path / LATENTS), None)
    recordings = read_recordings(context.inputs["A0"])
    made = extract(
        [Utterance(r.utterance_id, r.speaker_id, Path(r.path)) for r in recordings],
        spec,
        context.run.path / f"{LATENTS}_{number}",
        device=str(pick_device(context.device)),
    )
    return Store(spec, made.store, made.verification)


def checked(context: Context, stores: Sequence[Store]) -> dict[str, Estimate]:
    """The worst of what A1's checks say of each store that was made here, and the longest memory."""
    path_of = {r.utterance_id: r.path for r in read_recordings(context.inputs["A0"])}
    found: list[dict[str, Estimate]] = []
    for spec, store, verified in stores:
        if verified is None:
            continue
        order = [int(i) for i in np.random.default_rng(context.seed).permutation(len(store))]
        codec = open_codec(spec, device=str(pick_device(context.device)))
        checks = checks_of(
            codec,
            store,
            path_of,
            order,
            compared=COMPARED,
            read_off=READ_OFF,
            seed=context.seed,
            say=lambda text: context.run.append_log({"kind": "notice", "text": text}),
        )
        off = abs(verified.measured_hz - verified.expected_hz)
        checks["non_finite"] = exact(verified.non_finite, verified.frames, "frames")
        found.append(checks | {"rate_error_hz": exact(off, len(store), "recordings")})
        latents.noted_memory(context.run, codec.name, int(checks["frames_behind"].value))
    worst = {name: max((of[name] for of in found), key=lambda e: e.high) for name in (*CHECKED, "frames_behind")}
    return worst | {"loudness_correlation": least([of["loudness_correlation"] for of in found])}


def lost(context: Context, stores: Sequence[Store]) -> Estimate:
    """The share of the recordings in A0's splits that some codec, A1's among them if it is compared, did not take."""
    asked = set(split_of_utterances(context))
    taken = asked.intersection(*({row.utterance_id for row in store.latents.utterances} for store in stores))
    return exact(1 - len(taken) / len(asked), len(asked), "recordings")


def opened(context: Context, stores: Sequence[Store]) -> list[Representation]:
    """Every codec's latents, of the recordings that all of them have."""
    shared = set.intersection(*({row.utterance_id for row in store.latents.utterances} for store in stores))
    split_of = {name: split for name, split in split_of_utterances(context).items() if name in shared}
    rule, names, found = rule_of(context), [], []
    for spec, store, _ in stores:
        kind = re.sub("[^a-z0-9]+", "_", f"{spec.partition(':')[0]}_{store.rate_hz:g}hz".lower())
        names.append(kind if kind not in names else f"{kind}_{len(names)}")
        found.append(Representation(names[-1], spec, PredictedSpeech(store, **eligible_rows(store, split_of, rule))))
    return found


def measured(context: Context, of: Representation, stretch: Stretch, kind: str) -> dict[str, Estimate]:
    """A head trained and measured at one window, lag and span; kind: naive or matched."""
    config: Config = context.config
    store, settings = of.speech.store, config.predictor(stretch.window)
    train, test = (
        step_windows(store, stretch.window, stretch.lag, span=stretch.span, indices=rows)
        for rows in (of.speech.train, of.speech.eval)
    )
    with part_of(context.run, f"{kind}_{of.name}") as part:
        model = train_predictor(settings, train, part, seed=context.seed, device=context.device)
    statistics = StepBatches.of(train, stretch.window, train.sample(config.diag.max_train_samples, context.seed))
    return measure_predictor(
        model, test, samples=config.train.max_eval_samples, seed=context.seed, drift=fit_drift(statistics)
    ).metrics


def scaled(estimate: Estimate, factor: float) -> Estimate:
    """An estimate in another unit; a negative factor turns the interval over."""
    ends = sorted((estimate.low * factor, estimate.high * factor)) if estimate.measured else (estimate.low,) * 2
    return replace(estimate, value=estimate.value * factor, low=ends[0], high=ends[1])


def compared(context: Context, of: Representation) -> dict[str, Any]:
    """A row of the table: what it is, the naive numbers a frame, and the matched ones a second."""
    matched, rate_hz = context.config.matched, of.speech.store.rate_hz
    stretch, naive = frames_of(matched, rate_hz), Stretch(NAIVE_WINDOW, 1, 1)
    frame, second = measured(context, of, naive, "naive"), measured(context, of, stretch, "matched")
    span_sec = stretch.span / rate_hz
    return {
        "representation": of.name,
        "codec": of.spec,
        "rate_hz": rate_hz,
        "dimension": of.speech.store.dimension,
        "stretch": stretch,
        "estimates": {
            "naive_gain_per_frame": scaled(frame["dnll"], -1),
            "naive_gain_per_second": scaled(frame["dnll"], -rate_hz),
            "naive_gain_per_dim": scaled(frame["dnll_per_dim"], -1),
            "naive_cosine": frame["direction_cosine"],
            "gain_per_second": scaled(second["dnll"], -1 / span_sec),
            "gain_per_second_and_dim": scaled(second["dnll_per_dim"], -1 / span_sec),
            "matched_cosine": second["direction_cosine"],
            "matched_drift_cosine": second["drift_cosine"],
        },
    }


def write(run: RunDir, rows: Sequence[Mapping[str, Any]]) -> None:
    """representations.csv and the figure."""
    fields = ("representation", "codec", "rate_hz", "dimension")
    table = [
        {name: row[name] for name in fields}
        | {f"{name}_frames": frames for name, frames in row["stretch"]._asdict().items()}
        | as_row(row["estimates"])
        for row in rows
    ]
    write_rows(run.path / "representations.csv", table)
    draw_comparison([(f"{row['codec']}, {row['rate_hz']:g} Hz", row["estimates"]) for row in rows], run.figures)
    run.write_json(f"{run.figures.name}/captions.json", CAPTIONS)


def least(estimates: Sequence[Estimate]) -> Estimate:
    """The one whose interval reaches farthest down, as it is what a bound judges; one that was not measured, first."""
    return min(estimates, key=lambda e: e.low if e.measured else -math.inf)


def check(config: Config) -> None:
    """ValueError unless every codec is there with its weights and packages, is another one, and is not too slow."""
    known: dict[tuple[str, str], str] = {}
    for spec in config.compared:
        codec, where = open_codec(spec), spec.partition(":")[2]
        folder = user_path(where)  # two folders of one name are two codecs, of one name
        place = str(folder.resolve()) if where and folder.is_dir() else where * ("/" in where)
        same = known.setdefault((codec.name, place), spec)
        if same != spec:
            raise ValueError(
                f"codecs={list(config.compared)}: {same} and {spec} are one codec, {codec.name}; allowed: two or more, "
                "all different"
            )
        frames_of(config.matched, codec.rate_hz)


def run(context: Context) -> Mapping[str, Estimate]:
    """Extract what is not there yet, then train and measure twice for each representation."""
    stores = [stored(context, spec, i) for i, spec in enumerate(context.config.compared)]
    checks = checked(context, stores)
    rows = [compared(context, of) for of in opened(context, stores)]
    write(context.run, rows)
    matched: MatchedConfig = context.config.matched
    mismatch = max(row["stretch"].mismatch(matched, row["rate_hz"]) for row in rows)
    gains, naive = (
        np.array([row["estimates"][name].value for row in rows]) for name in ("gain_per_second", "naive_gain_per_frame")
    )
    return {
        "representations": exact(len(rows), len(rows), "codecs"),
        **{
            f"least_{name}": least([row["estimates"][name] for row in rows])
            for name in ("gain_per_second", "matched_cosine")
        },
        "lag_mismatch": exact(mismatch, len(rows), "codecs"),
        "recordings_lost": lost(context, stores),
        **checks,
        "ranks_that_differ": exact(int((np.argsort(np.argsort(gains)) != np.argsort(np.argsort(naive))).sum()),
                                   len(rows), "codecs"),
        **{f"{name}_{row['representation']}": e for row in rows for name, e in row["estimates"].items()},
        **{f"{name}_{row['representation']}": exact(row[name], 1, "codec")
           for row in rows for name in ("rate_hz", "dimension")},
    }  # fmt: skip


PHASE = Phase(
    code="T4",
    name="representations",
    question="How predictable are different latents of the same sound, second for second at the same distance in time?",
    config=Config,
    presets=Path(__file__).with_suffix(".yaml"),
    gate=GATE,
    run=run,
    needs=NEEDS,
    check=check,
    failure_means="At this distance in time nothing can be told of one of the latents, so that there is nothing to "
    "compare.",
)
