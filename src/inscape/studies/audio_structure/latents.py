"""A1: are the latents whole, at the rate and of the width that the codec promises, and of this sound?

Method: the codec turns each recording into vectors at a fixed rate, in shards that survive a kill. Every number that
was stored is read back and counted. A few recordings are encoded again, alone and in one batch: published models have
had batches that gave other latents than single recordings (transformers, issue 43377). Last, how loud a frame is, is
read off its latent by a ridge regression (Hoerl & Kennard 1970) on other recordings: a codec that gives constants, or
numbers of its own, passes all the rest. The same recordings are encoded without their beginning: a latent that holds
the number of its frame moves. And noise takes the place of what comes after a frame: one that moves with it
knows its future, and then to predict it is no feat.

A negative result would mean that what later phases measure is a fault of the extraction and no property of speech.

Cost: quick 4 seconds on one CPU core with log-mel; a neural codec takes about a tenth to one of the sound's duration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Criterion, Gate
from inscape.core.rundir import RunDir
from inscape.core.study import Context, Phase
from inscape.data.latent_extraction import Extraction, extract, in_processes
from inscape.data.speech.corpus import Utterance
from inscape.device import pick_device
from inscape.pretrained.codec import open_codec
from inscape.studies.audio_structure.latent_checks import checks_of
from inscape.studies.audio_structure.latent_figures import draw_latents
from inscape.studies.audio_structure.sources import CORPUS, Recording, SpeechConfig, read_recordings, workers

__all__ = ["GATE", "LATENTS", "OF", "PHASE", "Config", "codec_memory", "latents_sha256", "noted_memory"]

LATENTS = "latents"  # the store, in A1's run
OF = "latents_of.json"  # of which corpus, and which numbers, so that a later phase cannot mix two
MEMORY = (
    "a frame of {codec} changes with {behind} frames before its own, so part of what its past tells of it is the "
    "codec's own memory, and nothing here takes that off (log-mel: 1)"
)


@dataclass(frozen=True)
class Config:
    """Which latents, and how much of them is looked at."""

    data: SpeechConfig = field(default_factory=SpeechConfig)  # A0's
    shards: int = 0  # parts that are written on their own; 0: one for each 256 utterances
    project: bool = True  # mimi: the latent that its decoder expects
    compared: int = 4  # recordings encoded again, alone and in a batch
    read_off: int = 60  # recordings of the readout, half of them to fit it
    drawn: int = 3  # recordings in the figure

    def __post_init__(self) -> None:
        for name, low, high in (
            ("shards", 0, 100_000),
            ("compared", 2, 64),
            ("read_off", 4, 10_000),
            ("drawn", 1, 8),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}={getattr(self, name)} is out of range; allowed: {low} to {high}")


GATE = Gate(
    (
        Criterion("non_finite", at_most=0, why="no NaN"),
        Criterion("dimensions", at_most=1, why="one D"),
        Criterion("rate_error_hz", at_most=0.5, why="frame rate within 0.5 Hz of the expected"),
        Criterion("batch_difference", at_most=1e-3, source="calibrated", why="kernels for batches differ in the last "
                  "bits, by 1e-6 of the latents' spread; a neighbour or padding that reaches a latent moves it by 1"),
        Criterion("shift_difference", at_most=0.05, source="calibrated", why="a latent of the sound stays as it is "
                  "where the recording begins later, once it has forgotten that: rounding leaves 1e-4 of the dimension "
                  "that it moves most; the number of a frame moves its own by 1, and foretells frames of any sound"),
        Criterion("refused_share", at_most=0.05, source="calibrated", why="A0 could read these recordings, so what is "
                  "refused here is the codec's doing"),
        Criterion("loudness_correlation", at_least=0.5, source="calibrated", why="constants, and numbers that have "
                  "nothing to do with the sound, give 0; log-mel gives 0.92, Lyra 0.89"),
        Criterion("frames_ahead", at_most=0, source="calibrated", why="a frame that changes with the sound after its "
                  "own block knows its future; Whisper's see their whole window"),
    )
)  # fmt: skip


def latents_sha256(run: RunDir) -> str:
    """Of the latents that a run of A1 holds. ValueError where the run kept none, as those of before did."""
    found = (run.read_json(OF) or {}).get("sha256")
    if not isinstance(found, str):
        raise ValueError(f"{run.path / OF} does not say of which latents it is: run A1 again")
    return found


def codec_memory(context: Context) -> dict[str, Estimate]:
    """frames_behind, as A1 found it; nothing of planted latents, which no codec made."""
    made_of = context.inputs["A1"].read_json(OF) or {}
    behind = made_of.get("frames_behind")
    return {} if behind is None else {"frames_behind": noted_memory(context.run, str(made_of.get("codec")), behind)}


def noted_memory(run: RunDir, codec: str, behind: int) -> Estimate:
    """How many earlier frames a codec's frames change with; where it is more than one, the run's log says so."""
    if behind > 1:
        run.append_log({"kind": "notice", "text": MEMORY.format(codec=codec, behind=behind)})
    return exact(behind, 1, "codec")


def extracted(context: Context, recordings: Sequence[Recording]) -> Extraction:
    """The latents of the recordings in run/latents; what an interrupted run had done is kept."""
    config: Config = context.config
    processes = workers(default=1)
    return extract(
        [Utterance(r.utterance_id, r.speaker_id, Path(r.path)) for r in recordings],
        config.data.codec,
        context.run.path / LATENTS,
        shards=config.shards or None,
        device=str(pick_device(context.device)),
        project=config.project,
        run=in_processes(processes) if processes > 1 else None,
        on_progress=lambda done, total: context.run.append_log({"kind": "shards", "done": done, "total": total}),
    )


def check(config: Config) -> None:
    """ValueError unless the codec is there with its weights and packages."""
    workers(default=1)
    open_codec(config.data.codec, project=config.project)


def run(context: Context) -> Mapping[str, Estimate]:
    """Extract the latents, read all of them back, and compare a few with the codec's word."""
    config: Config = context.config
    recordings = read_recordings(context.inputs["A0"])
    store, set_aside, found = extracted(context, recordings)
    if set_aside:
        said = f"{config.data.codec} refused {len(set_aside)} recordings; the first: {set_aside[0].path}: "
        context.run.append_log({"kind": "notice", "text": said + set_aside[0].reason})
    order = [int(i) for i in np.random.default_rng(context.seed).permutation(len(store))]
    codec = open_codec(config.data.codec, device=str(pick_device(context.device)), project=config.project)
    path_of = {r.utterance_id: r.path for r in recordings}
    checks = checks_of(
        codec,
        store,
        path_of,
        order,
        compared=config.compared,
        read_off=config.read_off,
        seed=context.seed,
        say=lambda text: context.run.append_log({"kind": "notice", "text": text}),
    )
    made_of = {"corpus_sha256": context.inputs["A0"].read_json(CORPUS)["sha256"], "sha256": store.digest()}
    made_of |= {"spec": config.data.codec, "project": config.project}
    heard = {name: int(checks[name].value) for name in ("frames_ahead", "frames_behind")}
    context.run.write_json(OF, {**made_of, **heard, **found._asdict()})
    draw_latents(context.run, store, sorted(order[: config.drawn]))
    asked = len(store) + len(set_aside)
    widths = {store.latents(i).shape[1] for i in range(len(store))}
    return {
        "non_finite": exact(found.non_finite, found.frames, "frames"),
        "dimensions": exact(len(widths | {store.dimension}), len(store), "recordings"),
        "rate_error_hz": exact(abs(found.measured_hz - found.expected_hz), len(store), "recordings"),
        "refused_share": exact(len(set_aside) / asked, asked, "recordings"),
        **checks,
        "frames": exact(found.frames, len(store), "recordings"),
        "hours": exact(found.hours, len(store), "recordings"),
        "dimension": exact(found.dimension, 1, "codec"),
        "frames_per_second": exact(found.expected_hz, 1, "codec"),
    }


PHASE = Phase(
    code="A1",
    name="latents",
    question="Are the latents whole, at the promised rate and width, and of this sound?",
    config=Config,
    presets=Path(__file__).with_suffix(".yaml"),
    gate=GATE,
    run=run,
    needs=("A0",),
    check=check,
    failure_means="What later phases measure would be a fault of the extraction and no property of speech.",
)
