"""Latents of a corpus by a codec, in shards: a job is plain data, and whoever runs jobs need not know what they do.

`extract_shard(job)` is the whole contract: a function that any process imports by name, and an argument of numbers and
strings. Here jobs run one after the other or in a pool of local processes; a cluster's scheduler can do the same.

A job that was done is done: its shard has a marker, written last. After kill -9 at any moment a second call does what
is missing, and the files are byte for byte those of an unbroken run.

Legend: S samples, T frames, D width of the latent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from inscape.core.rundir import write_json_atomically
from inscape.data.latent_store import (
    FORMAT,
    INDEX,
    MOST_SHARDS,
    PLAN,
    SHARDS,
    LatentStore,
    Shard,
    StoredUtterance,
    open_store,
    read_json,
    read_shard,
    save_shard,
    write_index,
)
from inscape.data.speech.audio_files import Quarantined, read_or_quarantine
from inscape.data.speech.corpus import Utterance, printable
from inscape.pretrained.codec import AudioCodec, block_size, frame_energy, open_codec

__all__ = [
    "VERIFICATION",
    "Extraction",
    "ExtractionJob",
    "Verification",
    "extract",
    "extract_shard",
    "in_processes",
    "one_by_one",
    "verify",
]

VERIFICATION = "verification.json"
SHARD_SIZE = 256  # utterances; an hour of speech, tens of megabytes of latents
RATE_TOLERANCE_HZ = 0.5


class ExtractionJob(NamedTuple):
    """One shard's work, as numbers and strings only."""

    folder: str
    number: int
    utterances: tuple[tuple[str, str, str], ...]  # utterance_id, speaker_id, path
    codec: str
    device: str
    project: bool
    min_sec: float

    @property
    def fingerprint(self) -> str:
        """Of all that can change the shard; where it is written and which device computes it are not in it."""
        asked = [self.number, self.utterances, self.codec, self.project, self.min_sec]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


Run = Callable[[Callable[[ExtractionJob], int], Sequence[ExtractionJob]], Iterable[int]]


class Verification(NamedTuple):
    """What was found in a finished store; `problems` is empty if all is as it should be."""

    codec: str
    utterances: int
    speakers: int
    frames: int
    hours: float
    dimension: int
    expected_hz: float
    measured_hz: float
    non_finite: int  # numbers that are NaN or infinite, in latents and energies
    quarantined: int
    problems: tuple[str, ...]


class Extraction(NamedTuple):
    """A finished store, the files that were set aside, and what was verified."""

    store: LatentStore
    quarantined: tuple[Quarantined, ...]
    verification: Verification


def extract(
    utterances: Iterable[Utterance],
    codec: str,
    folder: Path | str,
    *,
    shards: int | None = None,
    device: str = "cpu",
    project: bool = True,
    min_sec: float = 0.1,
    run: Run | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Extraction:
    """Latents and energies of all utterances into `folder`, in the order of their ids, in shards of one length.

    codec, device, project: see `open_codec`. shards: how many; by default one for each 256 utterances. min_sec: shorter
    files are set aside. run: how jobs are run, `one_by_one` if not given; `in_processes(4)` is the other one here.
    on_progress(done, total) counts shards, those of an earlier call included.

    ValueError if `folder` holds another extraction, if there is no utterance, or none can be read, or the codec cannot
    be opened. A file that cannot be read is set aside, with its reason.
    """
    started, place, rows = time.time(), Path(folder), sorted(utterances)
    if not rows:
        raise ValueError("there is no utterance to extract latents of")
    count = shards or -(-len(rows) // SHARD_SIZE)
    if not 1 <= count <= min(len(rows), MOST_SHARDS):
        most = f"and {MOST_SHARDS} at most" if len(rows) > MOST_SHARDS else f"{len(rows)}"
        raise ValueError(f"shards={count}; allowed: 1 to the number of utterances, {most}")
    jobs = _jobs(rows, place, count, codec, device, project, min_sec)
    _write_plan(place, jobs)
    open_jobs = [job for job in jobs if not _is_done(job)]
    done = len(jobs) - len(open_jobs)
    for _ in (run or one_by_one)(extract_shard, open_jobs):
        done += 1
        if on_progress:
            on_progress(done, len(jobs))
    _sweep(place, before=started)
    store = open_store(place)
    set_aside = tuple(Quarantined(*pair) for pair in store.quarantined)
    if not store.utterances:
        raise ValueError(
            f"none of {len(rows)} files could be used; the first: {set_aside[0].path}: {set_aside[0].reason}"
        )
    write_index(store)
    found = verify(store)
    write_json_atomically(place / VERIFICATION, found._asdict())
    return Extraction(store, set_aside, found)


def _sweep(place: Path, before: float) -> None:
    """Remove what writers that were killed have left: every shard is written by now. What is newer may be alive."""
    own = (pattern for name in (PLAN, INDEX, VERIFICATION) for pattern in place.glob(f".{name}.*"))
    for leftover in (*own, *(place / SHARDS).glob(".*")):
        with contextlib.suppress(FileNotFoundError):  # another extraction sweeps as well
            if leftover.stat().st_mtime < before:
                leftover.unlink()


def extract_shard(job: ExtractionJob) -> int:
    """Do the job unless it was done, and return its number. The same job gives the same bytes."""
    if _is_done(job):
        return job.number
    codec = _codec_of_process(job.codec, job.device, job.project)
    rows, latents, energies, set_aside = [], [], [], []
    for utterance_id, speaker_id, path in job.utterances:
        found = _encode(codec, path, job.min_sec)
        if isinstance(found, Quarantined):
            set_aside.append((printable(found.path), printable(found.reason)))
            continue
        samples, latent_TD, energy_T = found
        seconds = samples / codec.sample_rate
        rows.append(StoredUtterance(utterance_id, speaker_id, len(latent_TD), seconds, printable(path)))
        latents.append(latent_TD)
        energies.append(energy_T)
    shard = Shard(job.fingerprint, codec.name, codec.rate_hz, codec.dimension, rows, set_aside)
    save_shard(Path(job.folder), job.number, shard, latents, energies)
    return job.number


def one_by_one(function: Callable[[ExtractionJob], int], jobs: Sequence[ExtractionJob]) -> Iterator[int]:
    """Run the jobs here, in order."""
    return map(function, jobs)


def in_processes(workers: int) -> Run:
    """Run the jobs in `workers` local processes of one thread each. ValueError if one of them is killed."""

    def run(function: Callable[[ExtractionJob], int], jobs: Sequence[ExtractionJob]) -> Iterator[int]:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads can hang
        with ProcessPoolExecutor(workers, context, _one_thread) as pool:
            try:
                for job in as_completed([pool.submit(function, job) for job in jobs]):
                    yield job.result()
            except BrokenProcessPool:
                raise ValueError(
                    "a process of the extraction was killed (out of memory?): call again with fewer workers "
                    "(INSCAPE_WORKERS); what is done is kept"
                ) from None
            finally:
                pool.shutdown(cancel_futures=True)

    return run


def verify(store: LatentStore) -> Verification:
    """Read every number of the store once: finite, one width, the expected rate, totals.

    An utterance of s seconds has ceil(s rate) frames, half a frame more than s rate on average, so the rate measured
    over the whole store is the sum of (T - 1/2) over the sum of s.
    """
    frames, bad, strange = 0, 0, []
    for i, row in enumerate(store.utterances):
        latent_TD, energy_T = store.latents(i), store.energy(i)
        frames += row.n_frames
        bad += int((~np.isfinite(latent_TD)).sum() + (~np.isfinite(energy_T)).sum())
        exact = row.duration_sec * store.rate_hz
        if not exact - 1e-6 <= row.n_frames < exact + 1 + 1e-6:
            strange.append(row.utterance_id)
    seconds = sum(row.duration_sec for row in store.utterances)
    measured = (frames - len(store) / 2) / seconds
    problems = []
    if bad:
        problems.append(f"{bad} numbers are NaN or infinite")
    if abs(measured - store.rate_hz) > RATE_TOLERANCE_HZ:
        problems.append(f"{measured:.2f} frames per second, expected {store.rate_hz:g}")
    if strange:
        problems.append(
            f"{len(strange)} utterances have another number of frames than their length says, as {strange[0]}"
        )
    speakers = len({row.speaker_id for row in store.utterances})
    return Verification(
        store.codec, len(store), speakers, frames, seconds / 3600, store.dimension, store.rate_hz, measured, bad,
        len(store.quarantined), tuple(problems),
    )  # fmt: skip


def _encode(codec: AudioCodec, path: str, min_sec: float) -> tuple[int, np.ndarray, np.ndarray] | Quarantined:
    """Number of samples, latents and energies of a file; a file that cannot be used is set aside."""
    samples_S = read_or_quarantine(path, codec.sample_rate, min_sec=min_sec)
    if isinstance(samples_S, Quarantined):
        return samples_S
    (latent_TD,) = codec.encode([samples_S])
    energy_T = frame_energy(samples_S, block_size(codec))
    if latent_TD.shape != (len(energy_T), codec.dimension):
        shape = " x ".join(map(str, latent_TD.shape))
        return Quarantined(path, f"{codec.name} gives {shape} numbers, not {len(energy_T)} x {codec.dimension}")
    if not np.isfinite(latent_TD).all():
        return Quarantined(path, f"{codec.name} gives NaN or infinite values")
    return len(samples_S), latent_TD, energy_T


def _jobs(
    rows: Sequence[Utterance], folder: Path, count: int, codec: str, device: str, project: bool, min_sec: float
) -> list[ExtractionJob]:
    """Neighbouring utterances share a shard, so the order in the store does not depend on the number of shards."""
    job = partial(ExtractionJob, codec=codec, device=device, project=project, min_sec=min_sec)
    plain = [(u.utterance_id, u.speaker_id, str(u.path)) for u in rows]
    cuts = [len(rows) * k // count for k in range(count + 1)]
    return [job(str(folder), k, tuple(plain[cuts[k] : cuts[k + 1]])) for k in range(count)]


def _write_plan(place: Path, jobs: Sequence[ExtractionJob]) -> None:
    """plan.json, unless it stands there. ValueError if shards of another plan are done."""
    first = jobs[0]
    asked = hashlib.sha256("".join(job.fingerprint for job in jobs).encode()).hexdigest()[:16]
    plan = {"format": FORMAT, "asked": asked, "codec": first.codec, "project": first.project, "min_sec": first.min_sec}
    plan |= {"shards": len(jobs), "utterances": sum(len(job.utterances) for job in jobs)}
    found = read_json(place / PLAN)
    if found == plan:
        return
    if found is not None and any((place / SHARDS).glob("*.json")):
        raise ValueError(
            f"{place} holds latents by {found.get('codec')} of {found.get('utterances')} files in "
            f"{found.get('shards')} shards, and {first.codec} of {plan['utterances']} in {plan['shards']} was asked: "
            "give another folder"
        )
    write_json_atomically(place / PLAN, plan)


def _is_done(job: ExtractionJob) -> bool:
    shard = read_shard(Path(job.folder), job.number)
    return shard is not None and shard.job == job.fingerprint


@lru_cache(maxsize=1)
def _codec_of_process(spec: str, device: str, project: bool) -> AudioCodec:
    """Weights are read once a process, not once a shard."""
    return open_codec(spec, device=device, project=project)


def _one_thread() -> None:
    """As many processes as cores, each with threads for all cores, would be slower than one."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
