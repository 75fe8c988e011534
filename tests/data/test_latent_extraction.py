"""Extraction: the same bytes whatever interrupts it, the same latents whatever the shards, and bad files set aside."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import soundfile

from inscape.core.rundir import write_json_atomically
from inscape.data import latent_extraction
from inscape.data.latent_extraction import Extraction, ExtractionJob, extract, extract_shard, in_processes, verify
from inscape.data.latent_frames import FRAMES, write_frames
from inscape.data.latent_store import LatentStore, open_store
from inscape.data.speech.audio_files import read_audio
from inscape.data.speech.corpus import Utterance, open_speech
from inscape.data.speech.splits import split_speakers
from inscape.pretrained.codec import frame_energy
from inscape.pretrained.log_mel import LogMel


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> tuple[Utterance, ...]:
    """12 recordings of noise, 4 speakers, 0.3 to 1 s, at three rates."""
    root, draw = tmp_path_factory.mktemp("speech"), np.random.default_rng(0)
    for i in range(12):
        rate = (16_000, 22_050, 8000)[i % 3]
        soundfile.write(root / f"s{i % 4}_{i:02d}.wav", draw.uniform(-0.5, 0.5, int(rate * draw.uniform(0.3, 1))), rate)
    return open_speech(root).utterances


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def unbroken(speech: tuple[Utterance, ...], tmp_path_factory: pytest.TempPathFactory) -> Extraction:
    return extract(speech, "log-mel", tmp_path_factory.mktemp("latents") / "x", shards=4)


def test_the_store_holds_the_codecs_latents_and_energies(speech: tuple[Utterance, ...], unbroken: Extraction) -> None:
    store, codec = unbroken.store, LogMel()
    assert [row.utterance_id for row in store.utterances] == [u.utterance_id for u in speech]
    for i, utterance in enumerate(speech):
        samples_S = read_audio(utterance.path, 16_000)
        assert np.array_equal(store.latents(i), codec.encode([samples_S])[0])
        assert np.array_equal(store.energy(i), frame_energy(samples_S, 320))
        assert store.utterances[i].duration_sec == len(samples_S) / 16_000
        assert store.utterances[i].speaker_id == utterance.speaker_id


def test_the_verification_counts_all_of_it(unbroken: Extraction) -> None:
    found, rows = unbroken.verification, unbroken.store.utterances
    assert (found.utterances, found.speakers, found.dimension, found.expected_hz) == (12, 4, 64, 50)
    assert found.frames == sum(row.n_frames for row in rows)
    assert found.hours == pytest.approx(sum(row.duration_sec for row in rows) / 3600)
    assert abs(found.measured_hz - 50) < 0.5
    assert (found.non_finite, found.quarantined, found.problems) == (0, 0, ())


def test_the_files_are_those_of_the_plan(unbroken: Extraction) -> None:
    names = {name for name in contents(unbroken.store.folder) if "/" not in name}
    assert names == {"plan.json", "latents_index.parquet", "verification.json"}
    table = pyarrow.parquet.read_table(unbroken.store.folder / "latents_index.parquet")
    assert table.num_rows == 12


@pytest.mark.parametrize("shards", [1, 7, 12])
def test_the_number_of_shards_changes_nothing(
    speech: tuple[Utterance, ...], unbroken: Extraction, tmp_path: Path, shards: int
) -> None:
    store = extract(speech[::-1], "log-mel", tmp_path / "x", shards=shards).store
    assert store.utterances == unbroken.store.utterances
    for i in range(12):
        assert np.array_equal(store.latents(i), unbroken.store.latents(i))
        assert np.array_equal(store.energy(i), unbroken.store.energy(i))
    assert store.digest() == unbroken.store.digest()


class Touched(LatentStore):
    """A store whose last number is the next one that float32 knows."""

    def __init__(self, store: LatentStore, kind: str) -> None:
        self.__dict__.update(store.__dict__)
        self.kind = kind

    def _slice(self, i: int, kind: str) -> np.ndarray:
        found = super()._slice(i, kind).copy()
        if kind == self.kind and i == len(self) - 1:
            found.flat[-1] = np.nextafter(found.flat[-1], np.float32(np.inf))
        return found


def test_the_digest_is_of_every_number(unbroken: Extraction) -> None:
    store, same = unbroken.store, open_store(unbroken.store.folder)
    assert same.digest() == store.digest()
    same.utterances = tuple(row._replace(speaker_id="another") for row in same.utterances)
    digests = [store.digest(), same.digest(), *(Touched(store, kind).digest() for kind in ("latents", "energy"))]
    assert len(set(digests)) == 4


def test_a_pool_of_processes_writes_the_same_bytes(
    speech: tuple[Utterance, ...], unbroken: Extraction, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    extract(speech, "log-mel", tmp_path / "x", shards=4, run=in_processes(2), on_progress=lambda *x: told.append(x))
    assert contents(tmp_path / "x") == contents(unbroken.store.folder)
    assert told == [(k, 4) for k in range(1, 5)]


def test_a_second_call_computes_nothing(
    speech: tuple[Utterance, ...], unbroken: Extraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(unbroken.store.folder)
    monkeypatch.setattr(latent_extraction, "_encode", None)
    extract(speech, "log-mel", unbroken.store.folder, shards=4)
    assert contents(unbroken.store.folder) == before


# In the middle of a shard: its arrays are written, its marker is not, and a temporary file lies about.
SLOW = """
import sys, time
from pathlib import Path
from inscape.data import latent_store
from inscape.data.latent_extraction import extract
from inscape.data.speech.corpus import open_speech
write = latent_store.write_json_atomically
def slow(path, content):
    if path.name == "00002.json":
        (path.parent / ".00002.latents.npy.1").write_text("torn")
        print("here", flush=True)
        time.sleep(60)
    write(path, content)
latent_store.write_json_atomically = slow
extract(open_speech(sys.argv[1]).utterances, "log-mel", sys.argv[2], shards=4)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_in_the_middle_it_goes_on_to_the_same_bytes(
    speech: tuple[Utterance, ...], unbroken: Extraction, tmp_path: Path
) -> None:
    folder = tmp_path / "x"
    command = [sys.executable, "-c", SLOW, str(speech[0].path.parent), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        process.send_signal(signal.SIGKILL)
    with pytest.raises(ValueError, match="2 of 4 shards are missing"):
        open_store(folder)
    kept = {name: (folder / name).stat().st_mtime_ns for name in ("shards/00000.json", "shards/00001.latents.npy")}
    extract(speech, "log-mel", folder, shards=4)
    assert contents(folder) == contents(unbroken.store.folder)
    assert kept == {name: (folder / name).stat().st_mtime_ns for name in kept}, "what was done was not done again"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(
    speech: tuple[Utterance, ...], unbroken: Extraction, tmp_path: Path
) -> None:
    folder = tmp_path / "x"
    code = SLOW.replace('path.name == "00002.json"', "False")
    for k in range(12):
        process = subprocess.Popen([sys.executable, "-c", code, str(speech[0].path.parent), str(folder)])
        time.sleep(0.3 + 0.05 * k)
        process.send_signal(signal.SIGKILL)
        process.wait()
    extract(speech, "log-mel", folder, shards=4)
    assert contents(folder) == contents(unbroken.store.folder)


def die(job: ExtractionJob) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return job.number


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_worker_is_one_line() -> None:
    job = ExtractionJob("nowhere", 0, (), "log-mel", "cpu", True, 0.1)
    with pytest.raises(ValueError, match=r"was killed .*: call again with fewer workers"):
        list(in_processes(1)(die, [job]))


# --- what cannot be used ------------------------------------------------------------------------------------------


def test_bad_files_are_set_aside_and_stop_nothing(speech: tuple[Utterance, ...], tmp_path: Path) -> None:
    root = tmp_path / "speech"
    root.mkdir()
    soundfile.write(root / "a_0.wav", np.zeros(16_000), 16_000)
    soundfile.write(root / "b_0.wav", np.ones(100), 16_000)
    (root / "a_1.flac").write_text("words")
    found = extract([*open_speech(root).utterances, *speech], "log-mel", tmp_path / "x", shards=5)
    assert len(found.store) == 12
    reasons = {Path(q.path).name: q.reason for q in found.quarantined}
    assert reasons["a_0.wav"] == "silent"
    assert reasons["b_0.wav"].startswith("too short")
    assert reasons["a_1.flac"].startswith("cannot be read")
    assert found.verification.quarantined == 3
    assert extract([*open_speech(root).utterances, *speech], "log-mel", tmp_path / "x", shards=5)[1:] == found[1:]


def test_a_corpus_of_nothing_usable_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a_0.wav", np.zeros(16_000), 16_000)
    rows = [Utterance("a_0", "a", tmp_path / "a_0.wav")]
    with pytest.raises(ValueError, match=r"none of 1 files could be used; the first: .*a_0\.wav: silent"):
        extract(rows, "log-mel", tmp_path / "x")
    with pytest.raises(ValueError, match="no utterance"):
        extract([], "log-mel", tmp_path / "y")
    with pytest.raises(ValueError, match=r"shards=2; allowed: 1 to .* 1"):
        extract(rows, "log-mel", tmp_path / "z", shards=2)


class Deaf(LogMel):
    """A codec that gives NaN for every other recording."""

    def encode(self, samples):  # type: ignore[no-untyped-def]
        return [x * (np.nan if len(s) % 2 else 1) for x, s in zip(super().encode(samples), samples, strict=True)]


def test_latents_that_are_not_finite_are_set_aside(
    speech: tuple[Utterance, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latent_extraction, "_codec_of_process", lambda *_: Deaf())
    found = extract(speech, "log-mel", tmp_path / "x")
    odd = sum(len(read_audio(u.path, 16_000)) % 2 for u in speech)
    assert 0 < odd == len(found.quarantined) < 12
    assert {q.reason for q in found.quarantined} == {"log-mel gives NaN or infinite values"}
    assert found.verification.non_finite == 0


class Uneven(LogMel):
    """A codec that leaves out a frame, or a number of each, of some recordings."""

    def encode(self, samples):  # type: ignore[no-untyped-def]
        whole = super().encode(samples)
        return [(x, x[:-1], x[:, :-1])[len(s) % 3] for x, s in zip(whole, samples, strict=True)]


def test_latents_of_another_shape_are_set_aside_with_it(
    speech: tuple[Utterance, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latent_extraction, "_codec_of_process", lambda *_: Uneven())
    found = extract(speech, "log-mel", tmp_path / "x")
    assert len(found.store) == sum(len(read_audio(u.path, 16_000)) % 3 == 0 for u in speech)
    assert 0 < len(found.store) < 12
    for path, reason in found.quarantined:
        samples = len(read_audio(path, 16_000))
        frames, wanted = -(-samples // 320), f"{-(-samples // 320)} x 64"
        given = f"{frames - 1} x 64" if samples % 3 == 1 else f"{frames} x 63"
        assert reason == f"log-mel gives {given} numbers, not {wanted}"


def test_another_extraction_in_the_same_folder_is_refused(speech: tuple[Utterance, ...], unbroken: Extraction) -> None:
    for options in ({"shards": 3}, {"shards": 4, "min_sec": 0.5}):
        with pytest.raises(
            ValueError, match=r"holds latents by log-mel of 12 files in 4 shards, .* give another folder"
        ):
            extract(speech, "log-mel", unbroken.store.folder, **options)
    with pytest.raises(ValueError, match=r"log-mel:25 of 12 in 4 was asked"):
        extract(speech, "log-mel:25", unbroken.store.folder, shards=4)


@pytest.mark.parametrize("shards", [None, "4", 10**12])
def test_a_plan_that_was_edited_keeps_its_folder(speech: tuple[Utterance, ...], tmp_path: Path, shards: object) -> None:
    (tmp_path / "shards").mkdir()
    write_json_atomically(tmp_path / "plan.json", {"format": 1, "shards": shards})
    write_json_atomically(tmp_path / "shards" / "00000.json", {})
    with pytest.raises(ValueError, match=r"holds latents by None of None files in .* give another folder$"):
        extract(speech, "log-mel", tmp_path, shards=4)


def test_more_shards_than_a_store_may_have_are_refused(
    speech: tuple[Utterance, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latent_extraction, "MOST_SHARDS", 3)
    with pytest.raises(ValueError, match=r"^shards=4; allowed: 1 to the number of utterances, and 3 at most$"):
        extract(speech, "log-mel", tmp_path / "x", shards=4)
    assert not (tmp_path / "x").exists()


def test_a_codec_that_is_not_there_leaves_the_folder_free(speech: tuple[Utterance, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="codec is 'opus'"):
        extract(speech, "opus", tmp_path / "x")
    assert len(extract(speech, "log-mel", tmp_path / "x").store) == 12


def test_a_job_is_plain_data_and_done_once(speech: tuple[Utterance, ...], tmp_path: Path) -> None:
    rows = tuple((u.utterance_id, u.speaker_id, str(u.path)) for u in speech[:2])
    job = ExtractionJob(str(tmp_path), 0, rows, "log-mel", "cpu", True, 0.1)
    assert extract_shard(job) == 0
    written = contents(tmp_path)
    assert extract_shard(job._replace(device="cuda")) == 0, "done, whatever the device"
    assert contents(tmp_path) == written
    extract_shard(job._replace(utterances=rows[:1]))
    assert contents(tmp_path) != written, "another job is not done"


class Planted(LatentStore):
    """A store that claims what it is told."""

    def __init__(self, store: LatentStore, latent: float, rate_hz: float) -> None:
        self.__dict__.update(store.__dict__)
        self.latent, self.rate_hz = latent, rate_hz

    def latents(self, i: int) -> np.ndarray:
        return np.where(super().latents(i) > 0, self.latent, super().latents(i) * 0 + self.latent)


def test_the_verification_sees_what_is_wrong(unbroken: Extraction) -> None:
    assert verify(Planted(unbroken.store, 0.0, 50.0)).problems == ()
    assert "NaN or infinite" in verify(Planted(unbroken.store, np.nan, 50.0)).problems[0]
    rate, strange = verify(Planted(unbroken.store, 0.0, 51.0)).problems
    assert "frames per second, expected 51" in rate
    assert "another number of frames" in strange


# --- real speech --------------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_real_speech_from_files_to_frames(tmp_path: Path) -> None:
    folder = Path(os.environ.get("INSCAPE_DATA", "")) / "librispeech"
    if "INSCAPE_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("set INSCAPE_DATA to a folder that holds librispeech/<speaker>-<chapter>-<utterance>.flac")
    utterances = open_speech(folder).utterances
    splits = split_speakers(utterances)
    some = [u for u in utterances if int(u.speaker_id) % 10 == 0]
    found = extract(some, "log-mel", tmp_path / "x", shards=3)
    assert (found.quarantined, found.verification.problems) == ((), ())
    counts = write_frames(found.store, splits.split_of, tmp_path / FRAMES)
    loud = pyarrow.parquet.read_table(tmp_path / FRAMES)["is_high_energy"].to_numpy()
    assert counts.frames == len(loud) > 1000
    assert 0.3 < loud.mean() < 0.7
