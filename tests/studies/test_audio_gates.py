"""A0's, A1's and A2's gates in worlds where the answer is known: one they must pass, and others they must fail.

The planted world is noise that swells and fades, by 20 speakers: it has no structure to find, and all that these phases
ask of it is that it is whole, split, encoded and indexed as they say.
"""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from inscape.core.corpus import corpus_of
from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Gate, Outcome
from inscape.core.rundir import RunDir
from inscape.core.runner import Request, run_study
from inscape.core.standing import standing
from inscape.core.study import Context
from inscape.data import latent_extraction, latent_frames
from inscape.data.latent_extraction import in_processes
from inscape.data.latent_store import open_store
from inscape.data.speech.audio_files import Quarantined
from inscape.data.speech.corpus import open_speech
from inscape.pretrained.codec import frame_energy
from inscape.pretrained.log_mel import LogMel
from inscape.stats.context_windows import Windows, mean_contexts
from inscape.studies.audio_structure import corpus, frames, latents
from inscape.studies.audio_structure.latent_figures import value_histogram
from inscape.studies.audio_structure.sources import (
    SpeechConfig,
    check_speech,
    open_corpus,
    read_recordings,
    read_splits_of,
)
from inscape.studies.audio_structure.study import STUDY

RATE = 16_000


def swelling_noise(seed: int, seconds: float) -> np.ndarray:
    draw = np.random.default_rng(seed)
    loudness = 0.3 * np.exp(-2 - 2 * np.sin(np.linspace(0, 20, round(seconds * RATE)) + draw.uniform(0, 6)))
    return (loudness * draw.uniform(-1, 1, len(loudness))).astype(np.float32)


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 speakers, 2 recordings of 6 seconds each."""
    root = tmp_path_factory.mktemp("speech")
    for i in range(40):
        soundfile.write(root / f"s{i % 20:02d}_{i // 20}.wav", swelling_noise(i, 6), RATE)
    return root


def config_of(speech: Path, **changes: float | str) -> SpeechConfig:
    return SpeechConfig(path=str(speech), **{"train": 14, "eval": 6, **changes})  # type: ignore[arg-type]


def context(config: object, run: Path, **inputs: RunDir) -> Context:
    run.mkdir(parents=True, exist_ok=True)
    return Context(config, seed=0, device="cpu", preset="smoke", run=RunDir(run), inputs=inputs)


def judged(gate: Gate, metrics: dict[str, Estimate]) -> dict[str, Outcome]:
    verdict = gate.judge(metrics)
    return {f.criterion.metric: f.outcome for f in verdict.findings} | {"gate": verdict.outcome}


# --- A0 -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def a0(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, dict[str, Estimate]]:
    asked = context(corpus.Config(config_of(speech)), tmp_path_factory.mktemp("a0"))
    return asked.run, dict(corpus.run(asked))


def corpus_outcomes(folder: Path, run: Path, **changes: float) -> dict[str, Outcome]:
    return judged(corpus.GATE, dict(corpus.run(context(corpus.Config(config_of(folder, **changes)), run))))


def test_a0_passes_the_planted_world(a0: tuple[RunDir, dict[str, Estimate]], speech: Path) -> None:
    run, metrics = a0
    assert judged(corpus.GATE, metrics)["gate"] is Outcome.PASS
    found = run.read_json("corpus.json")
    assert (found["speakers"], found["utterances"], found["set_aside"]) == (20, 40, 0)
    assert {name: s["utterances"] for name, s in found["splits"].items()} == {"train": 25, "heldout": 3, "eval": 12}
    assert found["hours"] == pytest.approx(240 / 3600)
    assert [r.path for r in read_recordings(run)] == [str(u.path) for u in open_speech(speech).utterances]
    splits = read_splits_of(run)
    assert len(splits.eval_speakers) == metrics["eval_speakers"].value == 6
    assert run.read_json("quarantine.json") == {"set_aside": 0, "reasons": {}, "files": []}


def test_a0_fails_too_few_voices(speech: Path, tmp_path: Path) -> None:
    found = corpus_outcomes(speech, tmp_path, train=11, eval=5)
    assert found["train_speakers"] is found["eval_speakers"] is found["gate"] is Outcome.FAIL


def test_broken_files_are_set_aside_counted_and_stop_nothing(speech: Path, tmp_path: Path) -> None:
    folder = tmp_path / "speech"
    shutil.copytree(speech, folder)
    shutil.copy(folder / "s00_0.wav", folder / "s01_again.wav")
    soundfile.write(folder / "s02_silent.wav", np.zeros(RATE), RATE)
    soundfile.write(folder / "s03_short.wav", swelling_noise(0, 0.05), RATE)
    (folder / "s04_text.wav").write_text("not audio")
    (folder / "s05_empty.wav").touch()
    asked = context(corpus.Config(config_of(folder)), tmp_path / "run")
    metrics = dict(corpus.run(asked))
    assert judged(corpus.GATE, metrics)["gate"] is Outcome.PASS
    assert metrics["usable_share"].value == pytest.approx(40 / 45)
    kept = asked.run.read_json("quarantine.json")
    assert kept["set_aside"] == metrics["set_aside"].value == 5
    assert kept["reasons"].items() >= {"a copy": 1, "silent": 1, "too short": 1}.items()
    (notice,) = asked.run.read_log()
    assert notice["kind"] == "notice", "the report shows these"
    assert notice["text"].startswith("5 files were set aside: ")
    assert "s01_again" in json.dumps(kept["files"]), "of two equal files the first stays"


def test_files_that_are_not_read_are_counted_and_said(speech: Path, tmp_path: Path) -> None:
    folder = tmp_path / "speech"
    shutil.copytree(speech, folder)
    for name in ("s00_9.m4a", "s01_9.mp4", "notes.txt"):
        (folder / name).write_bytes(b"whatever")
    shutil.copy(folder / "s00_0.wav", folder / "nobody.wav")
    asked = context(corpus.Config(config_of(folder)), tmp_path / "run")
    metrics = dict(corpus.run(asked))
    assert (metrics["other_files"].value, metrics["without_speaker"].value) == (3, 1)
    said = [line["text"] for line in asked.run.read_log() if line["kind"] == "notice"]
    assert [text.partition(" ")[0] for text in said] == ["3", "1"]
    assert "not read" in said[0]
    assert ".wav" in said[0], "what is read is named"
    assert "speaker" in said[1]


def test_too_few_voices_are_told_what_would_pass(speech: Path, tmp_path: Path) -> None:
    asked = context(corpus.Config(config_of(speech, train=0.8, eval=0.2)), tmp_path / "run")
    assert judged(corpus.GATE, dict(corpus.run(asked)))["eval_speakers"] is Outcome.FAIL
    (notice,) = asked.run.read_log()
    assert notice["text"].endswith("of 20 speakers data.train=14 data.eval=6 would be enough")
    asked = context(corpus.Config(config_of(speech, train=14, eval=6)), tmp_path / "enough")
    assert judged(corpus.GATE, dict(corpus.run(asked)))["gate"] is Outcome.PASS
    assert asked.run.read_log() == []


def test_seventeen_voices_are_told_that_none_would(speech: Path, tmp_path: Path) -> None:
    folder = tmp_path / "speech"
    shutil.copytree(speech, folder, ignore=shutil.ignore_patterns("s00_*", "s01_*", "s02_*"))
    asked = context(corpus.Config(config_of(folder, train=0.8, eval=0.2)), tmp_path / "run")
    corpus.run(asked)
    (notice,) = asked.run.read_log()
    assert notice["text"].endswith("and 17 speakers are fewer than 18")


def test_one_sound_in_two_files_is_one_sound(speech: Path, tmp_path: Path) -> None:
    """A leak that no file shows: the same recording as wav and as flac, by two speakers, at two levels of detail."""
    folder = tmp_path / "speech"
    shutil.copytree(speech, folder)
    samples_S, _ = soundfile.read(folder / "s00_0.wav")
    soundfile.write(folder / "s01_again.flac", samples_S, RATE)
    soundfile.write(folder / "s02_again.wav", samples_S + 1e-6, RATE, subtype="FLOAT")
    recordings, set_aside = corpus.looked_at(open_speech(folder).utterances, 2)
    assert len(recordings) == 40
    assert [(Path(q.path).name, q.reason) for q in set_aside] == [
        (name, "a copy: sample for sample s00_0") for name in ("s01_again.flac", "s02_again.wav")
    ]


def test_speakers_whose_only_recording_is_held_out_are_not_fitted_on(speech: Path, tmp_path: Path) -> None:
    folder = tmp_path / "speech"
    shutil.copytree(speech, folder, ignore=shutil.ignore_patterns("*_1.wav"))
    asked = context(corpus.Config(config_of(folder, heldout=0.3)), tmp_path / "run")
    metrics = dict(corpus.run(asked))
    assert (metrics["train_speakers"].value, metrics["speakers_fitted_on"].value) == (14, 10)
    assert asked.run.read_json("corpus.json")["splits"]["train"]["speakers"] == 10


def test_a0_fails_a_folder_that_is_no_corpus(speech: Path, tmp_path: Path) -> None:
    folder = tmp_path / "speech"
    shutil.copytree(speech, folder)
    for i in range(41):
        (folder / f"s00_{i + 2}.wav").write_text("not audio")
    found = corpus_outcomes(folder, tmp_path / "run")
    assert found["usable_share"] is Outcome.FAIL


def test_a_folder_without_one_usable_file_is_one_line(tmp_path: Path) -> None:
    for name in ("a_1.wav", "b_1.wav"):
        (tmp_path / name).write_text("not audio")
    with pytest.raises(ValueError, match=r"none of 2 files could be used; the first: .*a_1\.wav: "):
        corpus.run(context(corpus.Config(config_of(tmp_path, train=0.5, eval=0.5)), tmp_path / "run"))
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(
    ("file", "taken_from"),
    [
        ("eval_speakers.txt", "train_speakers.txt"),
        ("eval_utt_ids.txt", "train_utt_ids.txt"),
        ("train_utt_ids.txt", "eval_utt_ids.txt"),
    ],
)
def test_a0_is_invalid_if_something_stands_on_both_sides(
    a0: tuple[RunDir, dict[str, Estimate]], tmp_path: Path, file: str, taken_from: str
) -> None:
    run, metrics = a0
    recordings = read_recordings(run)
    shutil.copytree(run.path / "splits", tmp_path / "splits")
    assert corpus.split_leaks(tmp_path / "splits", recordings) == 0
    strange = (tmp_path / "splits" / taken_from).read_text().splitlines()[0]
    with (tmp_path / "splits" / file).open("a") as lines:
        lines.write(f"{strange}\n")
    leaks = corpus.split_leaks(tmp_path / "splits", recordings)
    assert leaks > 0
    assert corpus.GATE.judge(metrics | {"split_leaks": exact(leaks, 40, "recordings")}).outcome is Outcome.INVALID


def test_a0_sees_one_sound_under_two_names(a0: tuple[RunDir, dict[str, Estimate]]) -> None:
    run, _ = a0
    recordings, splits = read_recordings(run), read_splits_of(run)
    of = {split: next(r for r in recordings if splits.split_of[r.utterance_id] == split) for split in ("train", "eval")}
    copied = [r._replace(sha256=of["train"].sha256) if r == of["eval"] else r for r in recordings]
    assert corpus.split_leaks(run.path / "splits", copied) == 1


def test_the_plans_numbers_are_asked_for_where_the_plan_is_run() -> None:
    full = STUDY.phase("A0").preset("full")
    gate = STUDY.phase("A0").gate_of(dataclasses.replace(full, data=dataclasses.replace(full.data, path="speech")))
    assert STUDY.phase("A0").gate_of(full) == corpus.GATE, "a synthesiser is not the plan's corpus"
    assert {str(c) for c in gate.criteria if c.source == "plan"} == {"train_speakers >= 200", "eval_speakers >= 51"}
    metrics = {c.metric: exact(c.bound, 251, "speakers") for c in gate.criteria}
    assert gate.judge(metrics).outcome is Outcome.PASS
    assert gate.judge(metrics | {"eval_speakers": exact(50, 50, "speakers")}).outcome is Outcome.FAIL
    assert STUDY.phase("A0").gate_of(STUDY.phase("A0").preset("quick")) == corpus.GATE


def test_the_fingerprint_is_of_the_sounds_and_not_of_where_they_lie(
    a0: tuple[RunDir, dict[str, Estimate]], speech: Path, tmp_path: Path
) -> None:
    shutil.copytree(speech, tmp_path / "moved")
    recordings, _ = corpus.looked_at(open_speech(tmp_path / "moved").utterances, 1)
    known = a0[0].read_json("corpus.json")["sha256"]
    assert corpus.fingerprint(recordings) == known
    soundfile.write(tmp_path / "moved" / "s00_0.wav", swelling_noise(99, 6), RATE)
    recordings, _ = corpus.looked_at(open_speech(tmp_path / "moved").utterances, 1)
    assert corpus.fingerprint(recordings) != known


def test_the_synthetic_corpus_lies_in_the_run_and_moves_with_it(tmp_path: Path) -> None:
    asked = context(corpus.Config(SpeechConfig(speakers=2, utterances=1, train=0.5, eval=0.5)), tmp_path / "run")
    corpus.run(asked)
    moved = RunDir(tmp_path / "elsewhere")
    asked.run.path.rename(moved.path)
    for recording in read_recordings(moved):
        assert moved.path in Path(recording.path).parents
        assert Path(recording.path).is_file()


def test_librispeech_that_was_fetched_before_is_not_fetched_again(speech: Path, tmp_path: Path) -> None:
    for speaker in ("19", "26"):
        chapter = tmp_path / "LibriSpeech" / "dev-clean" / speaker / "7"
        chapter.mkdir(parents=True)
        shutil.copy(speech / "s00_0.wav", chapter / f"{speaker}-7-0000.wav")
    data = SpeechConfig(path=str(tmp_path), download="dev-clean", train=0.5, eval=0.5)
    check_speech(data)
    found = open_corpus(data, RunDir(tmp_path / "run"), seed=0, workers=1)
    assert (found.layout, found.speakers) == ("librispeech", ("19", "26"))


# --- A1 -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def a1(
    a0: tuple[RunDir, dict[str, Estimate]], speech: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunDir, dict[str, Estimate]]:
    asked = context(latents.Config(config_of(speech), shards=3), tmp_path_factory.mktemp("a1"), A0=a0[0])
    return asked.run, dict(latents.run(asked))


def test_a1_passes_the_planted_world(a1: tuple[RunDir, dict[str, Estimate]]) -> None:
    run, metrics = a1
    found = judged(latents.GATE, metrics)
    assert found["gate"] is Outcome.PASS, metrics
    assert metrics["batch_difference"].value == 0
    assert metrics["loudness_correlation"].low > 0.9
    assert (metrics["dimension"].value, metrics["frames_per_second"].value) == (64, 50)
    assert (metrics["frames_ahead"].value, metrics["frames_behind"].value) == (0, 1)
    made_of = run.read_json("latents_of.json")
    assert (made_of["spec"], made_of["frames_behind"]) == ("log-mel", 1)
    assert made_of["sha256"] == open_store(run.path / "latents").digest()
    assert (run.path / "latents" / "latents_index.parquet").is_file()
    assert set(run.read_json("figures/captions.json")) == {p.name for p in run.figures.glob("*.png")}


class Constant(LogMel):
    """Two numbers for every sound."""

    def encode(self, samples):
        return [np.full_like(latent_TD, 3.0) for latent_TD in super().encode(samples)]


class Deaf(LogMel):
    """Numbers that depend on the length of the sound alone."""

    def encode(self, samples):
        lengths = [len(latent_TD) for latent_TD in super().encode(samples)]
        return [np.random.default_rng(n).normal(size=(n, 64)).astype(np.float32) for n in lengths]


class Leaking(LogMel):
    """A recording's latents hear the others of its batch."""

    def encode(self, samples):
        whole = super().encode(samples)
        return [latent_TD + np.float32(0.1 * len(whole)) for latent_TD in whole]


class Broken(LogMel):
    """NaN for one recording in five."""

    def encode(self, samples):
        return [
            np.full_like(latent_TD, np.nan) if samples_S[1000] > 0 and samples_S[2000] > 0 else latent_TD
            for samples_S, latent_TD in zip(samples, super().encode(samples), strict=True)
        ]


class Foreseeing(LogMel):
    """Each frame is half of the next one."""

    def encode(self, samples):
        whole = super().encode(samples)
        return [(latent_TD + np.concatenate([latent_TD[1:], latent_TD[-1:]])) / 2 for latent_TD in whole]


class Counting(LogMel):
    """One of its numbers is how late it is."""

    def encode(self, samples):
        found = [latent_TD.copy() for latent_TD in super().encode(samples)]
        for latent_TD in found:
            latent_TD[:, 0] = np.arange(len(latent_TD)) / 20
        return found


class Short(LogMel):
    """A frame is missing in one recording of four or so."""

    def encode(self, samples):
        return [
            latent_TD[:-1] if samples_S[1000] > 0 and samples_S[2000] > 0 else latent_TD
            for samples_S, latent_TD in zip(samples, super().encode(samples), strict=True)
        ]


class Torn(LogMel):
    """Of a batch, each recording loses its last frame."""

    def encode(self, samples):
        whole = super().encode(samples)
        return [latent_TD[:-1] for latent_TD in whole] if len(whole) > 1 else whole


class Even(LogMel):
    """Frames come in pairs: how many there are hangs on where the recording begins."""

    def encode(self, samples):
        return [latent_TD[: len(latent_TD) // 2 * 2] for latent_TD in super().encode(samples)]


class Hasty(LogMel):
    """It promises 900 frames a second, and gives one for each 18 samples."""

    def __init__(self) -> None:
        super().__init__()
        self.rate_hz = 900.0

    def encode(self, samples):
        loudness = [np.log(frame_energy(samples_S, 18) + 1e-6) for samples_S in samples]
        return [np.tile(loudness_T[:, None], 64) for loudness_T in loudness]


def planted_codec(monkeypatch: pytest.MonkeyPatch, codec: LogMel) -> None:
    for module in (latent_extraction, latents):
        monkeypatch.setattr(module, "open_codec", lambda spec, **_: codec)


@pytest.mark.parametrize(
    ("codec", "missed"),
    [
        (Constant(), "loudness_correlation"),
        (Deaf(), "shift_difference loudness_correlation"),
        (Counting(), "shift_difference"),
        (Leaking(), "batch_difference"),
        (Torn(), "batch_difference"),
        (Even(), "shift_difference"),
        (Foreseeing(), "frames_ahead"),
        (Hasty(), "rate_error_hz"),
    ],
)
def test_a1_fails_latents_that_are_not_of_this_sound_alone(
    a0: tuple[RunDir, dict[str, Estimate]],
    speech: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    codec: LogMel,
    missed: str,
) -> None:
    planted_codec(monkeypatch, codec)
    config = latents.Config(config_of(speech, codec=f"log-mel:{type(codec).__name__}"), read_off=8)
    found = judged(latents.GATE, dict(latents.run(context(config, tmp_path, A0=a0[0]))))
    assert [name for name, outcome in found.items() if outcome is Outcome.FAIL] == [*missed.split(), "gate"]


@pytest.mark.parametrize(
    ("codec", "reason"), [(Broken(), "log-mel gives NaN"), (Short(), "log-mel gives 299 x 64 numbers, not 300 x 64")]
)
def test_a1_sets_aside_what_the_codec_cannot_take_and_fails_if_that_is_much(
    a0: tuple[RunDir, dict[str, Estimate]],
    speech: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    codec: LogMel,
    reason: str,
) -> None:
    planted_codec(monkeypatch, codec)
    config = latents.Config(config_of(speech, codec=f"log-mel:{type(codec).__name__}"), read_off=8)
    asked = context(config, tmp_path, A0=a0[0])
    metrics = dict(latents.run(asked))
    assert 0.05 < metrics["refused_share"].value < 0.5
    found = judged(latents.GATE, metrics)
    assert found["refused_share"] is Outcome.FAIL
    assert found["non_finite"] is Outcome.PASS, "no NaN reaches the store"
    assert reason in next(line["text"] for line in asked.run.read_log() if line["kind"] == "notice")


@pytest.mark.parametrize(("metric", "value"), [("rate_error_hz", 0.51), ("non_finite", 1), ("dimensions", 2)])
def test_a1_fails_what_the_plan_forbids(a1: tuple[RunDir, dict[str, Estimate]], metric: str, value: float) -> None:
    assert latents.GATE.judge(a1[1] | {metric: exact(value, 40, "recordings")}).outcome_of("plan") is Outcome.FAIL


def test_a1_in_two_processes_is_the_same_run(
    a0: tuple[RunDir, dict[str, Estimate]],
    a1: tuple[RunDir, dict[str, Estimate]],
    speech: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, pools = context(latents.Config(config_of(speech), shards=3), tmp_path, A0=a0[0]), []
    monkeypatch.setenv("INSCAPE_WORKERS", "2")
    monkeypatch.setattr(latents, "in_processes", lambda count: pools.append(count) or in_processes(count))
    assert dict(latents.run(asked)) == a1[1]
    assert pools == [2]
    assert asked.run.read_json("latents_of.json") == a1[0].read_json("latents_of.json")


def test_a1_goes_on_after_an_interruption_and_ends_with_the_same_latents(
    a0: tuple[RunDir, dict[str, Estimate]],
    a1: tuple[RunDir, dict[str, Estimate]],
    speech: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = context(latents.Config(config_of(speech), shards=3), tmp_path, A0=a0[0])
    with monkeypatch.context() as patch:

        def interrupted(self: RunDir, record: dict) -> None:
            if record.get("done") == 2:
                raise KeyboardInterrupt

        patch.setattr(RunDir, "append_log", interrupted)
        with pytest.raises(KeyboardInterrupt):
            latents.run(asked)
    shards = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("latents/shards/*")}
    assert len(shards) == 6
    metrics = dict(latents.run(asked))
    assert metrics == a1[1]
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("latents/shards/*")}.items() >= shards.items()
    for path in sorted((a1[0].path / "latents").rglob("*.np*")):
        assert path.read_bytes() == (tmp_path / path.relative_to(a1[0].path)).read_bytes()


def test_the_histogram_counts_every_value_once() -> None:
    draw = np.random.default_rng(0)
    x = [draw.normal(size=(n, 3)).astype(np.float32) for n in (50, 70)]
    share_VD = value_histogram([np.column_stack([x_TD, np.full(len(x_TD), 7.0)]) for x_TD in x])
    assert share_VD.sum(0) == pytest.approx([1, 1, 1, 1])
    assert share_VD[40, 3] == 1, "a dimension that never moves is one lit bin"
    middle = share_VD[32:48].sum(0)[:3]
    assert np.all(abs(middle - 0.68) < 0.1), "one standard deviation to either side"


# --- A2 -----------------------------------------------------------------------------------------------------------


def frame_metrics(
    a0: tuple[RunDir, dict[str, Estimate]], a1: tuple[RunDir, dict[str, Estimate]], run: Path, **changes: float
) -> dict[str, Estimate]:
    return dict(frames.run(context(frames.Config(**changes), run, A0=a0[0], A1=a1[0])))  # type: ignore[arg-type]


def test_a2_passes_the_planted_world(a0, a1, tmp_path: Path) -> None:
    metrics = frame_metrics(a0, a1, tmp_path)
    assert judged(frames.GATE, metrics)["gate"] is Outcome.PASS, metrics
    assert metrics["train_frames"].value == 25 * (300 - 11)
    assert metrics["heldout_frames"].value == 3 * (300 - 11)
    assert metrics["eval_frames"].value == 12 * (300 - 11)
    assert metrics["eligible_share"].value == pytest.approx(289 / 300)
    assert metrics["speakers_fitted_on"].value == len({r.speaker_id for r in read_recordings(a0[0])}) - 6

    import pyarrow.parquet

    table = pyarrow.parquet.read_table(tmp_path / "phase0_frames.parquet")
    names = ["utterance_id", "speaker_id", "t", "pos_frac", "energy", "split", "is_high_energy"]
    assert table.column_names == names
    assert RunDir(tmp_path).read_json("frames.json")["rows"] == {"train": 7225, "heldout": 867, "eval": 3468}


def test_the_alignment_rule_has_the_plans_answers(tmp_path: Path) -> None:
    latent_TD = frames._counting_store(tmp_path, 20).latents(0)
    windows = Windows(4, (1, 2, 4))
    for t, lag, mean in ((10, 1, 7.5), (15, 2, 11.5), (15, 4, 9.5)):
        assert mean_contexts(latent_TD, lag, windows)[t - windows.first].tolist() == [mean, mean]
    assert list(Windows(8, (1, 2, 4)).eligible(50)) == list(range(11, 50))
    wrong, checked = frames.alignment_errors()
    assert wrong == 0
    assert checked > 1000


def broken_windows(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    if fault == "a context without its last frame":  # the historic fault
        monkeypatch.setattr(frames, "mean_contexts", lambda x, lag, w: mean_contexts(x, lag, w) - 1)
    if fault == "a context that sees its target":
        good = frames.flat_contexts
        monkeypatch.setattr(frames, "flat_contexts", lambda x, lag, w: good(x, lag, w) + lag)
    if fault == "a projected context a frame late":
        score = frames.context_scores
        monkeypatch.setattr(frames, "context_scores", lambda x, *rest: score(x + 1, *rest))
    if fault == "a mean context a frame late":
        moments = frames.context_covariance
        monkeypatch.setattr(frames, "context_covariance", lambda *x: (moments(*x)[0] + 1, moments(*x)[1]))
    if fault == "a covariance that forgets the ends":
        sums = frames.accumulate_moments

        def without_ends(utterances, known):
            found = sums(utterances, known)
            return dataclasses.replace(found, edge_EDD=0 * found.edge_EDD)

        monkeypatch.setattr(frames, "accumulate_moments", without_ends)
    if fault == "a step from two frames ago":
        good = frames.deltas
        monkeypatch.setattr(frames, "deltas", lambda x, w: 2 * good(x, w))
    if fault == "a table that begins a frame early":
        good = latent_frames.first_eligible
        monkeypatch.setattr(latent_frames, "first_eligible", lambda window, lag: good(window, lag) - 1)


@pytest.mark.parametrize(
    "fault",
    [
        "a context without its last frame",
        "a context that sees its target",
        "a projected context a frame late",
        "a mean context a frame late",
        "a covariance that forgets the ends",
        "a step from two frames ago",
        "a table that begins a frame early",
    ],
)
def test_a2_is_invalid_if_a_frame_is_off_by_one(a0, a1, tmp_path: Path, monkeypatch, fault: str) -> None:
    broken_windows(monkeypatch, fault)
    found = judged(frames.GATE, frame_metrics(a0, a1, tmp_path))
    assert found["alignment_errors"] is found["gate"] is Outcome.INVALID
    assert found["frames_missing"] is (Outcome.INVALID if "table" in fault else Outcome.PASS)


def test_a2_is_invalid_if_the_median_is_another(a0, a1, tmp_path: Path, monkeypatch) -> None:
    median = latent_frames.energy_median
    monkeypatch.setattr(latent_frames, "energy_median", lambda store, rows: 1.5 * median(store, rows))
    assert judged(frames.GATE, frame_metrics(a0, a1, tmp_path))["high_energy_deviation"] is Outcome.INVALID


def test_the_share_of_loud_frames_counts_every_frame_of_the_train_speakers(a0, a1, tmp_path: Path) -> None:
    assert frame_metrics(a0, a1, tmp_path)["high_energy_deviation"].value == 0, "an even number, no ties"
    store, split_of = open_store(a1[0].path / "latents"), read_splits_of(a0[0]).split_of
    energies = [store.energy(i) for i, u in enumerate(store.utterances) if split_of[u.utterance_id] != "eval"]
    assert len(np.concatenate(energies)) % 2 == 0


def test_a2_fails_utterances_too_short_for_the_window(a0, a1, tmp_path: Path) -> None:
    found = judged(frames.GATE, frame_metrics(a0, a1, tmp_path, window=260))
    assert found["eligible_share"] is found["train_frames"] is Outcome.FAIL
    assert found["measurable_eval_speakers"] is Outcome.PASS, "72 frames of each are left"
    found = judged(frames.GATE, frame_metrics(a0, a1, tmp_path / "2", window=280))
    assert found["measurable_eval_speakers"] is Outcome.FAIL


def test_a2_refuses_latents_of_another_corpus(a0, a1, tmp_path: Path) -> None:
    other = RunDir(tmp_path / "a1")
    other.path.mkdir()
    other.write_json("latents_of.json", a1[0].read_json("latents_of.json") | {"corpus_sha256": "another"})
    with pytest.raises(ValueError, match=r"are of another corpus than .*: run A1 again"):
        frames.run(context(frames.Config(), tmp_path / "a2", A0=a0[0], A1=other))


# --- the study ------------------------------------------------------------------------------------------------------


FIRST = ("A0", "A1", "A2")


def first_phases(root: Path, *words: str) -> list[RunDir]:
    """A0, A1 and A2 at the quick preset, behind their gates."""
    asked = Request(root=root, device="cpu", overrides=words)
    return run_study(STUDY, [STUDY.phase(code) for code in FIRST], asked, lambda _: None, lambda _: None)


@pytest.mark.parametrize("preset", ["smoke", "quick", "small", "full"])
def test_every_phase_is_asked_about_the_same_sounds_and_the_same_codec(preset: str) -> None:
    asked = {phase.preset(preset).data for phase in STUDY.phases}
    assert len(asked) == 1


def test_full_is_the_plan() -> None:
    data, table = STUDY.phase("A0").preset("full").data, STUDY.phase("A2").preset("full")
    assert (data.train, data.eval, data.heldout, data.seed) == (200, 51, 0.1, 42)
    assert (table.data.codec, table.window, table.max_lag, table.min_sec) == ("mimi", 8, 4, 3.0)


def test_a_folder_and_a_codec_of_ones_own_go_through_every_phase(speech: Path, tmp_path: Path) -> None:
    words = (f"data.path={speech}", "data.codec=log-mel:100", "data.train=14", "data.eval=6")
    done = first_phases(tmp_path, *words)
    assert [run.read_json(RunDir.VERDICT)["outcome"] for run in done] == ["PASS"] * 3
    assert done[2].read_json("metrics.json")["train_frames"]["value"] == 25 * (600 - 11)
    for phase in map(STUDY.phase, FIRST):
        assert standing(STUDY, phase, "quick", tmp_path, corpus_of(words)).open
        assert not standing(STUDY, phase, "quick", tmp_path).open, "the declared ladder stands on itself"


def test_a_quarantined_file_has_a_reason_of_a_few_words() -> None:
    found = corpus.reasons([Quarantined("a", "too short: 0.010 s"), Quarantined("b", "too short: 0.020 s")])
    assert found == {"too short": 2}


@pytest.mark.realdata
def test_librispeech_of_251_speakers_passes_with_log_mel(tmp_path: Path) -> None:
    folder = Path(os.environ.get("INSCAPE_DATA", "")) / "librispeech"
    if "INSCAPE_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("set INSCAPE_DATA to a folder that holds librispeech/<speaker>-<chapter>-<utterance>.flac")
    done = first_phases(tmp_path, f"data.path={folder}", "data.train=200", "data.eval=51")
    assert [run.read_json(RunDir.VERDICT)["outcome"] for run in done] == ["PASS"] * 3
    assert done[0].read_json("corpus.json")["speakers"] == 251
    assert done[0].read_json(RunDir.VERDICT)["plan"] == "PASS"
