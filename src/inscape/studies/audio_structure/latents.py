"""A1: are the latents whole, at the rate and of the width that the codec promises, and of this sound?

Method: the codec turns each recording into vectors at a fixed rate, in shards that survive a kill. Every number that
was stored is read back and counted. A few recordings are encoded again, alone and in one batch: published models have
had batches that gave other latents than single recordings (transformers, issue 43377). Last, how loud a frame is, is
read off its latent by a ridge regression (Hoerl & Kennard 1970) on other recordings: a codec that gives constants, or
numbers of its own, passes all the rest.

A negative result would mean that what later phases measure is a fault of the extraction and no property of speech.

Cost: quick 4 seconds on one CPU core with log-mel; a neural codec takes about a tenth to one of the sound's duration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from inscape.core.estimate import Estimate, bootstrap_mean, exact
from inscape.core.gate import Criterion, Gate
from inscape.core.study import Context, Phase
from inscape.data.latent_extraction import Extraction, extract, in_processes
from inscape.data.latent_store import LatentStore
from inscape.data.speech.audio_files import read_audio
from inscape.data.speech.corpus import Utterance
from inscape.device import pick_device
from inscape.pretrained.codec import AudioCodec, open_codec
from inscape.studies.audio_structure.latent_figures import draw_latents
from inscape.studies.audio_structure.sources import CORPUS, Recording, SpeechConfig, read_recordings

__all__ = ["GATE", "LATENTS", "OF", "PHASE", "Config"]

LATENTS = "latents"  # the store, in A1's run
OF = "latents_of.json"  # of which corpus, so that a later phase cannot mix two

PIECE_SEC = 2.0
QUIETEST = 1e-4  # energies below this are silence: 80 dB under full scale
RIDGE = 1e-3  # of the mean variance


@dataclass(frozen=True)
class Config:
    """Which latents, and how much of them is looked at."""

    data: SpeechConfig = field(default_factory=SpeechConfig)  # A0's
    shards: int = 0  # parts that are written on their own; 0: one for each 256 utterances
    workers: int = 0  # processes; 0 or 1: this one
    project: bool = True  # mimi: the latent that its decoder expects
    compared: int = 4  # recordings encoded again, alone and in a batch
    read_off: int = 60  # recordings of the readout, half of them to fit it
    drawn: int = 3  # recordings in the figure

    def __post_init__(self) -> None:
        for name, low, high in (
            ("shards", 0, 100_000),
            ("workers", 0, 256),
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
        Criterion("refused_share", at_most=0.05, source="calibrated", why="A0 could read these recordings, so what is "
                  "refused here is the codec's doing"),
        Criterion("loudness_correlation", at_least=0.5, source="calibrated", why="constants, and numbers that have "
                  "nothing to do with the sound, give 0; log-mel gives 0.92, Lyra 0.89"),
    )
)  # fmt: skip


def batch_difference(codec: AudioCodec, stored: Sequence[np.ndarray], paths: Sequence[str]) -> float:
    """Largest difference between latents of a batch and of the same recording alone, in units of their spread.

    The batch holds the recordings in `paths` and pieces of them of one length, since codecs batch those. What is stored
    of them has to agree as well.
    """
    whole = [read_audio(path, codec.sample_rate) for path in paths]
    pieces = [samples_S[: round(PIECE_SEC * codec.sample_rate)] for samples_S in whole]
    batch = codec.encode([*whole, *pieces])
    alone = [codec.encode([samples_S])[0] for samples_S in (*whole, *pieces)]
    pairs = [*zip(batch, alone, strict=True), *zip(stored, alone[: len(whole)], strict=True)]
    if any(one_TD.shape != other_TD.shape for one_TD, other_TD in pairs):
        return np.inf
    spread = max(float(np.concatenate(alone).std()), float(np.finfo(np.float32).tiny))
    return max(float(np.abs(one_TD - other_TD).max()) for one_TD, other_TD in pairs) / spread


def loudness_correlation(store: LatentStore, rows: Sequence[int], seed: int) -> Estimate:
    """Correlation of a frame's loudness with what a linear readout of its latent says, in recordings not fitted on.

    The readout is fitted on the first half of `rows`; the mean is over the recordings of the second. Each is centred,
    and a correlation has no scale, so neither a recording's level nor its noise floor counts. Loudness is the logarithm
    of the energy; a readout that says nothing counts as 0.
    """
    half = len(rows) // 2
    square_DD, product_D = np.zeros((store.dimension, store.dimension)), np.zeros(store.dimension)
    for i in rows[:half]:
        latent_TD, loudness_T = _centred(store, i)
        square_DD += latent_TD.T @ latent_TD
        product_D += latent_TD.T @ loudness_T
    ridge = RIDGE * np.trace(square_DD) / store.dimension + np.finfo(np.float64).tiny
    weight_D = np.linalg.solve(square_DD + ridge * np.eye(store.dimension), product_D)
    found = []
    for i in rows[half:]:
        latent_TD, loudness_T = _centred(store, i)
        said_T = latent_TD @ weight_D
        if loudness_T.any():
            scale = math.sqrt(float(said_T @ said_T) * float(loudness_T @ loudness_T))
            found.append(float(said_T @ loudness_T) / scale if scale else 0.0)
    return bootstrap_mean(found, "recordings", seed=seed)


def _centred(store: LatentStore, i: int) -> tuple[np.ndarray, np.ndarray]:
    latent_TD = store.latents(i).astype(np.float64)
    loudness_T = np.log(np.maximum(store.energy(i), QUIETEST).astype(np.float64))
    return latent_TD - latent_TD.mean(0), loudness_T - loudness_T.mean()


def extracted(context: Context, recordings: Sequence[Recording]) -> Extraction:
    """The latents of the recordings in run/latents; what an interrupted run had done is kept."""
    config: Config = context.config
    return extract(
        [Utterance(r.utterance_id, r.speaker_id, Path(r.path)) for r in recordings],
        config.data.codec,
        context.run.path / LATENTS,
        shards=config.shards or None,
        device=str(pick_device(context.device)),
        project=config.project,
        run=in_processes(config.workers) if config.workers > 1 else None,
        on_progress=lambda done, total: context.run.append_log({"kind": "shards", "done": done, "total": total}),
    )


def check(config: Config) -> None:
    """ValueError unless the codec is there with its weights and packages."""
    open_codec(config.data.codec, project=config.project)


def run(context: Context) -> Mapping[str, Estimate]:
    """Extract the latents, read all of them back, and compare a few with the codec's word."""
    config: Config = context.config
    recordings = read_recordings(context.inputs["A0"])
    store, set_aside, found = extracted(context, recordings)
    if set_aside:
        said = f"{config.data.codec} refused {len(set_aside)} recordings; the first: {set_aside[0].path}: "
        context.run.append_log({"kind": "notice", "text": said + set_aside[0].reason})
    corpus = context.inputs["A0"].read_json(CORPUS)
    context.run.write_json(OF, {"corpus_sha256": corpus["sha256"], "codec": config.data.codec, **found._asdict()})
    order = [int(i) for i in np.random.default_rng(context.seed).permutation(len(store))]
    codec = open_codec(config.data.codec, device=str(pick_device(context.device)), project=config.project)
    path_of = {r.utterance_id: r.path for r in recordings}
    compared = order[: config.compared]
    difference = batch_difference(
        codec, [store.latents(i) for i in compared], [path_of[store.utterances[i].utterance_id] for i in compared]
    )
    draw_latents(context.run, store, sorted(order[: config.drawn]))
    asked = len(store) + len(set_aside)
    widths = {store.latents(i).shape[1] for i in range(len(store))}
    return {
        "non_finite": exact(found.non_finite, found.frames, "frames"),
        "dimensions": exact(len(widths | {store.dimension}), len(store), "recordings"),
        "rate_error_hz": exact(abs(found.measured_hz - found.expected_hz), len(store), "recordings"),
        "batch_difference": exact(difference, len(compared), "recordings"),
        "refused_share": exact(len(set_aside) / asked, asked, "recordings"),
        "loudness_correlation": loudness_correlation(store, order[: config.read_off], context.seed),
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
