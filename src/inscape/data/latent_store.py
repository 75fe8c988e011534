"""Latents of a whole corpus on disk: a few large arrays and where each utterance stands in them.

    <folder>/plan.json                        what is extracted, by which codec, in how many shards
    <folder>/shards/00003.latents.npy         float32 (frames of the shard, D)
    <folder>/shards/00003.energy.npy          float32 (frames of the shard,)
    <folder>/shards/00003.json                rows of the shard; written last: a shard without it is not done
    <folder>/latents_index.parquet            one row an utterance
    <folder>/verification.json

One array with offsets instead of a group an utterance: 28,000 small groups take longer to open than to read. The arrays
are memory-mapped, so opening a store costs nothing, and reading it needs no optional package.

Legend: T frames, D width of the latent.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from inscape.core.rundir import write_json_atomically
from inscape.extras import load_extra

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = [
    "FORMAT",
    "INDEX",
    "MOST_SHARDS",
    "PLAN",
    "SHARDS",
    "LatentStore",
    "Shard",
    "StoredUtterance",
    "marker_path",
    "open_store",
    "read_json",
    "read_shard",
    "replacing",
    "save_shard",
    "write_index",
    "write_table",
]

FORMAT = 1
PLAN, SHARDS, INDEX = "plan.json", "shards", "latents_index.parquet"
MOST_SHARDS = 100_000  # what a damaged plan may ask for is looked for, file by file


class StoredUtterance(NamedTuple):
    """A row of the index. duration_sec counts samples, not frames."""

    utterance_id: str
    speaker_id: str
    n_frames: int
    duration_sec: float
    audio_path: str


class Shard(NamedTuple):
    """What is known of one shard beside its arrays; `job` is the fingerprint of what was asked."""

    job: str
    codec: str
    rate_hz: float
    dimension: int
    utterances: list[StoredUtterance]
    quarantined: list[tuple[str, str]]  # path, reason


class LatentStore:
    """A handle on extracted latents. It reads; it changes nothing. `open_store` makes one."""

    def __init__(self, folder: Path, plan: dict[str, Any], shards: Sequence[Shard]) -> None:
        self.folder, self.plan = folder, plan
        self.codec, self.rate_hz, self.dimension = shards[0].codec, shards[0].rate_hz, shards[0].dimension
        self.utterances = tuple(row for shard in shards for row in shard.utterances)
        self.quarantined = tuple(pair for shard in shards for pair in shard.quarantined)
        self._place = [  # shard and first frame of each utterance
            (number, int(start))
            for number, shard in enumerate(shards)
            for start in np.cumsum([0, *(row.n_frames for row in shard.utterances)])[:-1]
        ]
        self._arrays: dict[tuple[int, str], np.ndarray] = {}

    def __len__(self) -> int:
        """How many utterances."""
        return len(self.utterances)

    def latents(self, i: int) -> Float[np.ndarray, "T D"]:
        """Latents of utterance `i`, float32, read-only, mapped from the disk."""
        return self._slice(i, "latents")

    def energy(self, i: int) -> Float[np.ndarray, " T"]:
        """Root mean square of each frame's block of samples, float32, read-only."""
        return self._slice(i, "energy")

    def digest(self) -> str:
        """sha256 of what it holds: ids, speakers, latents and energies, wherever it lies and in however many shards."""
        found = hashlib.sha256(json.dumps([row[:3] for row in self.utterances]).encode())
        for i in range(len(self)):
            for array in (self.latents(i), self.energy(i)):
                found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()

    def _slice(self, i: int, kind: str) -> np.ndarray:
        number, start = self._place[i]
        if (number, kind) not in self._arrays:
            path = array_path(self.folder, number, kind)
            self._arrays[number, kind] = np.load(path, mmap_mode="r", allow_pickle=False)
        return self._arrays[number, kind][start : start + self.utterances[i].n_frames]


def open_store(folder: Path | str) -> LatentStore:
    """The finished store in `folder`.

    ValueError in one line if there is none, if shards are missing, damaged, or not of one codec, rate and width.
    """
    place = Path(folder)
    plan = read_json(place / PLAN)
    if plan is None or plan.get("format") != FORMAT:
        raise ValueError(f"{folder} holds no latents that this version reads: extract them first")
    count = plan.get("shards")
    if type(count) is not int or not 1 <= count <= MOST_SHARDS:
        raise ValueError(f"{place / PLAN} is damaged: remove it and extract again")
    shards = [read_shard(place, number) for number in range(count)]
    missing = [number for number, shard in enumerate(shards) if shard is None]
    if missing:
        raise ValueError(
            f"the extraction into {folder} is not finished, {len(missing)} of {len(shards)} shards are missing: run it "
            "again, and it goes on from there"
        )
    done = [shard for shard in shards if shard is not None]
    kinds = {(shard.codec, shard.rate_hz, shard.dimension) for shard in done}
    if len(kinds) != 1:
        raise ValueError(f"{folder} mixes latents of different codecs, rates or widths: {sorted(kinds)}")
    for number, shard in enumerate(done):
        _check_arrays(place, number, shard)
    return LatentStore(place, plan, done)


def save_shard(
    folder: Path, number: int, shard: Shard, latents: Sequence[np.ndarray], energies: Sequence[np.ndarray]
) -> None:
    """Write the arrays, each under a temporary name and renamed, then the marker that says the shard is done."""
    (folder / SHARDS).mkdir(parents=True, exist_ok=True)
    marker_path(folder, number).unlink(missing_ok=True)
    arrays = {
        "latents": np.concatenate([np.empty((0, shard.dimension), np.float32), *latents]),
        "energy": np.concatenate([np.empty(0, np.float32), *energies]),
    }
    for kind, array in arrays.items():
        with replacing(array_path(folder, number, kind)) as temporary, temporary.open("wb") as file:
            np.save(file, array, allow_pickle=False)
    write_json_atomically(marker_path(folder, number), shard._asdict())


def read_shard(folder: Path, number: int) -> Shard | None:
    """What the shard's marker says, or None where there is none."""
    found = read_json(marker_path(folder, number))
    if found is None:
        return None
    try:
        rows = [StoredUtterance(*row) for row in found.pop("utterances")]
        pairs = [(path, reason) for path, reason in found.pop("quarantined")]
        shard = Shard(utterances=rows, quarantined=pairs, **found)
    except (KeyError, TypeError, ValueError):
        shard = None
    if shard is None or not _is_of_its_types(shard):
        raise ValueError(f"{marker_path(folder, number)} is damaged: remove it and extract again")
    return shard


def _is_of_its_types(shard: Shard) -> bool:
    texts = [shard.job, shard.codec, *(text for pair in shard.quarantined for text in pair)]
    texts += [text for row in shard.utterances for text in (row.utterance_id, row.speaker_id, row.audio_path)]
    counts = [shard.dimension, *(row.n_frames for row in shard.utterances)]
    measures = [shard.rate_hz, *(row.duration_sec for row in shard.utterances)]
    return (
        all(isinstance(text, str) for text in texts)
        and all(type(count) is int and count >= 0 for count in counts)
        and all(type(measure) in (int, float) and 0 <= measure < math.inf for measure in measures)
        and shard.dimension > 0
        and shard.rate_hz > 0
    )


def write_index(store: LatentStore) -> Path:
    """latents_index.parquet: utterance_id, speaker_id, n_frames, duration_sec, audio_path. Its path."""
    columns = {name: [getattr(row, name) for row in store.utterances] for name in StoredUtterance._fields}
    types = dict(zip(columns, ("string", "string", "int64", "float64", "string"), strict=True))
    path = store.folder / INDEX
    write_table(path, types, [columns])
    return path


def write_table(path: Path, types: Mapping[str, str], parts: Iterator[dict] | Sequence[dict]) -> int:
    """A parquet file of `parts`, each a dictionary of columns and one row group; returns the number of rows.

    types: pyarrow's name of each column's type. The file appears whole or not at all.
    """
    arrow = load_extra("pyarrow", "audio", f"writing {path.name}")
    parquet = load_extra("pyarrow.parquet", "audio", f"writing {path.name}")
    schema = arrow.schema([(name, getattr(arrow, kind)()) for name, kind in types.items()])
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = 0
    with replacing(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        for part in parts:
            table = arrow.table(part, schema=schema)
            writer.write_table(table)
            rows += table.num_rows
    return rows


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name to write; it is flushed to the disk and becomes `path`, unless there was an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def marker_path(folder: Path, number: int) -> Path:
    """The file whose presence says that the shard is done."""
    return folder / SHARDS / f"{number:05d}.json"


def array_path(folder: Path, number: int, kind: str) -> Path:
    """Where an array of the shard lies; kind: "latents" or "energy"."""
    return folder / SHARDS / f"{number:05d}.{kind}.npy"


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in the file, or None where there is no such file. ValueError if it holds anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}): remove it and extract again") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: remove it and extract again")
    return found


def _check_arrays(folder: Path, number: int, shard: Shard) -> None:
    """ValueError unless the arrays have the shape that the marker promises."""
    frames = sum(row.n_frames for row in shard.utterances)
    for kind, shape in (("latents", (frames, shard.dimension)), ("energy", (frames,))):
        path = array_path(folder, number, kind)
        try:
            found = np.load(path, mmap_mode="r" if frames else None, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{path} cannot be read ({reason}): remove its .json and extract again") from None
        if found.shape != shape or found.dtype != np.float32:
            raise ValueError(
                f"{path} holds {found.dtype} {found.shape}, not float32 {shape}: remove its .json and extract again"
            )
