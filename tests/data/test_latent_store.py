"""The store gives back what was put in, whatever the shards, and says in one line what is missing or damaged."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inscape.core.rundir import write_json_atomically
from inscape.data.latent_frames import FRAMES, energy_median, first_eligible, write_frames
from inscape.data.latent_store import (
    FORMAT,
    PLAN,
    LatentStore,
    Shard,
    StoredUtterance,
    marker_path,
    open_store,
    replacing,
    save_shard,
    write_index,
    write_table,
)

RATE, WIDTH = 10.0, 3


def planted(folder: Path, lengths: list[int], shards: int = 2, speakers: int = 3) -> LatentStore:
    """Utterance i has lengths[i] frames of value 100 i + t, and energy t; at 10 Hz, speakers in turn."""
    cuts = [len(lengths) * k // shards for k in range(shards + 1)]
    write_json_atomically(folder / PLAN, {"format": FORMAT, "shards": shards})
    for k in range(shards):
        rows, latents, energies = [], [], []
        for i in range(cuts[k], cuts[k + 1]):
            t = np.arange(lengths[i], dtype=np.float32)
            rows.append(StoredUtterance(f"u{i}", f"s{i % speakers}", lengths[i], lengths[i] / RATE, f"u{i}.wav"))
            latents.append(np.repeat(100 * i + t[:, None], WIDTH, axis=1).astype(np.float32))
            energies.append(t)
        save_shard(folder, k, Shard("job", "planted", RATE, WIDTH, rows, [(f"bad{k}", "silent")]), latents, energies)
    return open_store(folder)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=9), st.integers(1, 4))
def test_what_was_put_in_comes_out(tmp_path_factory: pytest.TempPathFactory, lengths: list[int], shards: int) -> None:
    store = planted(tmp_path_factory.mktemp("store"), lengths, shards)
    assert len(store) == len(lengths)
    assert (store.rate_hz, store.dimension, store.codec) == (RATE, WIDTH, "planted")
    for i, length in enumerate(lengths):
        t = np.arange(length)
        assert np.array_equal(store.latents(i), np.repeat(100 * i + t[:, None], WIDTH, axis=1))
        assert np.array_equal(store.energy(i), t)
        assert store.latents(i).dtype == store.energy(i).dtype == np.float32
        assert store.utterances[i].utterance_id == f"u{i}"
    assert len(store.quarantined) == shards


def test_latents_are_mapped_and_cannot_be_written(tmp_path: Path) -> None:
    latent_TD = planted(tmp_path, [5, 6]).latents(1)
    assert isinstance(latent_TD.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        latent_TD[0] = 0


def test_the_index_has_the_columns_of_the_plan(tmp_path: Path) -> None:
    table = pyarrow.parquet.read_table(write_index(planted(tmp_path, [5, 6, 7])))
    assert table.column_names == ["utterance_id", "speaker_id", "n_frames", "duration_sec", "audio_path"]
    last = {"utterance_id": "u2", "speaker_id": "s2", "n_frames": 7, "duration_sec": 0.7, "audio_path": "u2.wav"}
    assert table.to_pylist()[2] == last


def test_an_unfinished_store_says_how_to_go_on(tmp_path: Path) -> None:
    planted(tmp_path, [5, 6])
    marker_path(tmp_path, 1).unlink()
    with pytest.raises(ValueError, match=r"is not finished, 1 of 2 shards are missing: run it again"):
        open_store(tmp_path)
    with pytest.raises(ValueError, match="holds no latents"):
        open_store(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("00001.latents.npy", b"x", "cannot be read"),
        ("00001.latents.npy", None, "cannot be read"),
        ("00001.energy.npy", "00000.energy.npy", r"not float32 \(6,\)"),
        ("00001.json", b"{", "cannot be read"),
        ("00001.json", b"[]", "damaged"),
        ("00001.json", b"{}", "damaged"),
    ],
)
def test_a_damaged_store_is_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes | str | None, message: str
) -> None:
    planted(tmp_path, [5, 6])
    shards = tmp_path / "shards"
    if content is None:
        (shards / name).unlink()
    else:
        (shards / name).write_bytes(content if isinstance(content, bytes) else (shards / content).read_bytes())
    with pytest.raises(ValueError, match=message) as refusal:
        open_store(tmp_path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("shards", ["2", None, 0, -1, True, 2.0, 10**12, [2]])
def test_a_plan_that_was_edited_is_refused_in_one_line(tmp_path: Path, shards: object) -> None:
    planted(tmp_path, [5, 6])
    for plan in ({"format": FORMAT, "shards": shards}, {"format": FORMAT}):
        write_json_atomically(tmp_path / PLAN, plan)
        with pytest.raises(ValueError, match=r"plan\.json is damaged: remove it and extract again$"):
            open_store(tmp_path)


ROW = ["u1", "s1", 6, 0.6, "u1.wav"]


@pytest.mark.parametrize(
    "change",
    [
        {"job": None},
        {"codec": ["planted"]},
        {"rate_hz": "10"},
        {"rate_hz": 0},
        {"rate_hz": math.nan},
        {"dimension": "3"},
        {"dimension": 0},
        {"dimension": 3.0},
        {"quarantined": [["bad1", 5]]},
        {"quarantined": 5},
        {"utterances": [[1, *ROW[1:]]]},
        {"utterances": [[*ROW[:2], "6", *ROW[3:]]]},
        {"utterances": [[*ROW[:2], -6, *ROW[3:]]]},
        {"utterances": [[*ROW[:2], True, *ROW[3:]]]},
        {"utterances": [[*ROW[:3], "0.6", ROW[4]]]},
        {"utterances": [[*ROW[:4], None]]},
        {"utterances": "u1"},
    ],
)
def test_a_marker_with_a_value_of_another_kind_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    planted(tmp_path, [5, 6])
    path = marker_path(tmp_path, 1)
    marker = json.loads(path.read_text())
    assert marker["utterances"] == [ROW]
    path.write_text(json.dumps(marker | change))
    with pytest.raises(ValueError, match=r"00001\.json is damaged: remove it and extract again$"):
        open_store(tmp_path)


def test_a_shard_written_anew_is_not_done_until_all_of_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(tmp_path, [5, 6])

    def full_disk(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(np, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_shard(tmp_path, 1, Shard("other", "planted", RATE, WIDTH, [], []), [], [])
    with pytest.raises(ValueError, match="1 of 2 shards are missing"):
        open_store(tmp_path)


def test_a_mixed_store_is_refused(tmp_path: Path) -> None:
    planted(tmp_path, [5, 6])
    marker = json.loads(marker_path(tmp_path, 1).read_text())
    write_json_atomically(marker_path(tmp_path, 1), marker | {"rate_hz": 50.0})
    with pytest.raises(ValueError, match="mixes latents"):
        open_store(tmp_path)


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")

    def write_half() -> None:
        with replacing(tmp_path / "x") as temporary:
            temporary.write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"


def test_a_table_of_several_parts_is_one_table(tmp_path: Path) -> None:
    rows = write_table(tmp_path / "x.parquet", {"a": "int32"}, [{"a": [1, 2]}, {"a": np.array([3], np.int32)}])
    assert rows == 3
    assert pyarrow.parquet.read_table(tmp_path / "x.parquet")["a"].to_pylist() == [1, 2, 3]


# --- the table of frames ------------------------------------------------------------------------------------------


def frames_of(store: LatentStore, split_of: dict[str, str], **options: float) -> list[dict]:
    write_frames(store, split_of, store.folder / FRAMES, **options)  # type: ignore[arg-type]
    return pyarrow.parquet.read_table(store.folder / FRAMES).to_pylist()


def test_the_plans_first_frame() -> None:
    assert first_eligible(8, 4) == 11
    assert first_eligible(1, 1) == 1
    with pytest.raises(ValueError, match="window=0"):
        first_eligible(0, 4)


def test_the_plans_frames(tmp_path: Path) -> None:
    """n = 50, W = 8, max_lag = 4: t in [11, 50)."""
    rows = frames_of(planted(tmp_path, [50, 30]), {"u0": "train", "u1": "eval"})
    assert list(rows[0]) == ["utterance_id", "speaker_id", "t", "pos_frac", "energy", "split", "is_high_energy"]
    assert [r["t"] for r in rows if r["utterance_id"] == "u0"] == list(range(11, 50))
    assert [r["t"] for r in rows if r["utterance_id"] == "u1"] == list(range(11, 30))
    assert all(r["energy"] == r["t"] for r in rows)
    assert all(r["pos_frac"] == r["t"] / (50 if r["utterance_id"] == "u0" else 30) for r in rows)
    assert {(r["speaker_id"], r["split"]) for r in rows} == {("s0", "train"), ("s1", "eval")}


def test_loud_is_strictly_above_the_median_of_all_frames_of_the_train_speakers(tmp_path: Path) -> None:
    store = planted(tmp_path, [41, 31, 999])
    split_of = {"u0": "train", "u1": "heldout", "u2": "eval"}
    median = np.median(np.concatenate([np.arange(41), np.arange(31)]))
    assert energy_median(store, [0, 1]) == median == 17.5
    assert all(r["is_high_energy"] == (r["energy"] > 17.5) for r in frames_of(store, split_of))
    odd = planted(tmp_path / "odd", [31, 31])
    equal = [r for r in frames_of(odd, {"u0": "train", "u1": "eval"}) if r["t"] == 15]
    assert [r["is_high_energy"] for r in equal] == [False, False], "a frame at the median is not above it"


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    store = planted(tmp_path, [50, 29, 30, 40])
    counts = write_frames(store, {"u0": "train", "u1": "train", "u2": "eval"}, tmp_path / FRAMES)
    assert (counts.frames, counts.utterances, counts.too_short, counts.in_no_split) == (39 + 19, 2, 1, 1)
    assert counts.energy_median == 24.5
    all_of_them = write_frames(store, {"u1": "train", "u2": "eval"}, tmp_path / FRAMES, min_sec=0.0)
    assert (all_of_them.utterances, all_of_them.too_short) == (2, 0)


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    store = planted(tmp_path, [50, 40])
    with pytest.raises(ValueError, match="none of 2 utterances"):
        write_frames(store, {}, tmp_path / FRAMES)
    with pytest.raises(ValueError, match="no utterance of a train speaker"):
        write_frames(store, {"u1": "eval"}, tmp_path / FRAMES)
    assert not (tmp_path / FRAMES).exists()
