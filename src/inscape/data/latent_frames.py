"""The table of frames: which frames of a latent store may be predicted, in which split, and how loud they are.

Contexts are never stored: they are W frames of the store, W times its size.

Eligible are the frames t from max(W - 1 + max_lag, 1) to T - 1 of every utterance of `min_sec` or more, so that all
lags see the same targets. A frame is of high energy if it is louder than the median over all frames, eligible or not,
of the train speakers' utterances of `min_sec` or more, those held out included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from inscape.data.latent_store import LatentStore, write_table

__all__ = ["FRAMES", "FrameCounts", "energy_median", "first_eligible", "write_frames"]

FRAMES = "phase0_frames.parquet"
FIT_SPLITS = ("train", "heldout")  # utterances of train speakers
TYPES = {
    "utterance_id": "string",
    "speaker_id": "string",
    "t": "int32",
    "pos_frac": "float64",
    "energy": "float32",
    "split": "string",
    "is_high_energy": "bool_",
}
ROWS_AT_ONCE = 1 << 18


class FrameCounts(NamedTuple):
    """What the table holds and what was left out of it."""

    frames: int
    utterances: int
    too_short: int  # utterances under min_sec, or without one eligible frame
    in_no_split: int  # utterances of speakers that no split names
    energy_median: float


def first_eligible(window: int, max_lag: int) -> int:
    """The first t with a whole context at every lag: end = t - lag inclusive, start = end - window + 1 >= 0."""
    if window < 1 or max_lag < 1:
        raise ValueError(f"window={window}, max_lag={max_lag}: both count frames from 1")
    return max(window - 1 + max_lag, 1)


def write_frames(
    store: LatentStore,
    split_of: Mapping[str, str],
    path: Path,
    *,
    window: int = 8,
    max_lag: int = 4,
    min_sec: float = 3.0,
) -> FrameCounts:
    """Write the table: utterance_id, speaker_id, t, pos_frac = t/T, energy, split, is_high_energy.

    split_of: split of each utterance id, "train", "heldout" or "eval" (`Splits.split_of`). Memory does not grow with
    the corpus, but for one float32 a frame of the train speakers. ValueError if no frame is eligible.
    """
    first = first_eligible(window, max_lag)
    rows = range(len(store))
    known = [i for i in rows if store.utterances[i].utterance_id in split_of]
    whole = [i for i in known if store.utterances[i].duration_sec >= min_sec]
    long_enough = [i for i in whole if store.utterances[i].n_frames > first]
    if not long_enough:
        raise ValueError(
            f"none of {len(store)} utterances in {store.folder} is in a split and has {min_sec:g} s and {first + 1} "
            "frames"
        )
    fit = [i for i in whole if split_of[store.utterances[i].utterance_id] in FIT_SPLITS]
    median = energy_median(store, fit)
    parts = (_columns(store, i, split_of, first, median) for i in long_enough)
    frames = write_table(path, TYPES, _merged(parts))
    return FrameCounts(frames, len(long_enough), len(known) - len(long_enough), len(store) - len(known), median)


def energy_median(store: LatentStore, utterances: list[int]) -> float:
    """Exact median of the energy over all frames of these utterances. ValueError if there are none."""
    if not utterances:
        raise ValueError("no utterance of a train speaker is long enough: the median of the energy is not defined")
    energies = np.concatenate([store.energy(i) for i in utterances])
    return float(np.median(energies.astype(np.float64)))


def _columns(store: LatentStore, i: int, split_of: Mapping[str, str], first: int, median: float) -> dict:
    row = store.utterances[i]
    t = np.arange(first, row.n_frames)
    energy = np.asarray(store.energy(i)[first:])
    return {
        "utterance_id": np.full(len(t), row.utterance_id),
        "speaker_id": np.full(len(t), row.speaker_id),
        "t": t.astype(np.int32),
        "pos_frac": t / row.n_frames,
        "energy": energy,
        "split": np.full(len(t), split_of[row.utterance_id]),
        "is_high_energy": energy.astype(np.float64) > median,
    }


def _merged(parts: Iterator[dict]) -> Iterator[dict]:
    """Row groups of about ROWS_AT_ONCE rows: one an utterance would be slow to read."""
    held, rows = [], 0
    for part in parts:
        held.append(part)
        rows += len(part["t"])
        if rows >= ROWS_AT_ONCE:
            yield {name: np.concatenate([p[name] for p in held]) for name in TYPES}
            held, rows = [], 0
    if held:
        yield {name: np.concatenate([p[name] for p in held]) for name in TYPES}
