"""The doors of audio-structure: bad input is one clear line and status 2, and leaves nothing on the disk."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from inscape.cli import main


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, one with a single speaker, one with four, and a file."""
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("file").write_text("no folder")
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 4000)
    for folder, speakers in (("alone", 1), ("four", 4)):
        for i in range(speakers):
            Path(folder, f"speaker{i}").mkdir(parents=True)
            soundfile.write(Path(folder, f"speaker{i}", "1.wav"), noise, 16_000)


def files() -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file()}


def refused(capsys: pytest.CaptureFixture, *words: str) -> str:
    """The one line on stderr of a command that must be refused without a trace on the disk."""
    before = files()
    assert main(list(words)) == 2
    assert files() == before
    assert not Path("runs").exists()
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    return line


@pytest.mark.parametrize("target", ["audio-structure", "audio-structure.A0"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("data.path=missing", "missing does not exist"),
        ("data.path=file", "file is a file"),
        ("data.path=empty", "holds no audio file"),
        ("data.path=alone", "fewer than two speakers"),
        ("data.path=four data.train=200 data.eval=51", "the corpus has 4 speakers, and train=200"),
        ("data.speakers=8 data.train=8 data.eval=2", "the corpus has 8 speakers"),
        ("data.path=four data.layout=librispeech", "fewer than two speakers can be told"),
        ("data.layout=flat", "data.layout='flat' is out of range; allowed: auto, librispeech, sub-folder, prefix"),
        ("data.speakers=1", "data.speakers=1 is out of range; allowed: 2 to 85"),
        ("data.train=1.5", "data.train=1.5 is out of range"),
        ("data.train=.inf", "data.train=inf is out of range; allowed: a number of speakers"),
        ("data.eval=.inf", "data.eval=inf is out of range; allowed: a number of speakers"),
        ("data.heldout=1", "data.heldout=1.0 is out of range"),
        ("data.download=train-clean-100", "needs a folder to keep it in: data.path=FOLDER"),
        ("data.download=everything data.path=empty", "data.download='everything' is out of range"),
        ("data.codec=mp3", "codec is 'mp3'; allowed: log-mel"),
        ("data.pth=four", "did you mean data.path"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    capsys: pytest.CaptureFixture, target: str, words: str, said: str
) -> None:
    assert said in refused(capsys, "run", target, "--preset", "smoke", *words.split())


@pytest.mark.parametrize("target", ["audio-structure", "audio-structure.A1"])
@pytest.mark.parametrize(
    ("codec", "said"),
    [
        ("lyra", "from a local folder, and none was given"),
        ("lyra:empty", "from a local folder, and empty was given"),
        ("log-mel:fast", "give frames per second"),
        ("log-mel:7", "a divisor of 16000"),
        ("mimi:no/such/folder", "there is no folder"),
    ],
)
def test_a_codec_that_cannot_be_opened_is_refused_before_the_corpus_is_read(
    capsys: pytest.CaptureFixture, target: str, codec: str, said: str
) -> None:
    assert said in refused(capsys, "run", target, "--preset", "smoke", f"data.codec={codec}")


@pytest.mark.parametrize("package", ["soundfile", "soxr", "espeakng_loader", "pyarrow"])
def test_a_missing_extra_is_named(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    line = refused(capsys, "run", "audio-structure", "--preset", "smoke")
    assert f"needs the package {package}: pip install 'inscape[audio]'" in line


def test_the_plans_speakers_are_no_synthetic_voices(capsys: pytest.CaptureFixture) -> None:
    line = refused(capsys, "run", "audio-structure.A0", "--preset", "full")
    assert "data.train=200 and data.eval=51 need 251 speakers, and there are 85 synthetic voices: give" in line


def test_speech_of_ones_own_needs_no_synthesiser(monkeypatch: pytest.MonkeyPatch) -> None:
    from inscape.studies.audio_structure.sources import SpeechConfig, check_speech

    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    check_speech(SpeechConfig(path="four", train=0.5, eval=0.5))


@pytest.mark.parametrize(
    ("target", "words", "said"),
    [
        ("A1", "compared=1", "compared=1 is out of range"),
        ("A2", "window=0", "window=0 is out of range"),
        ("A2", "data.codec=mp3", "codec is 'mp3'"),
        ("T1", "hidden=0", "hidden=0 is out of range"),
        ("T2", "train.amp_dtype=float16", "train.amp_dtype='float16' is out of range; allowed: bfloat16"),
        ("T3", "rollout.p_true=2", "rollout.p_true=2.0 is out of range"),
        ("T3", "train.max_steps=5", "train.max_steps=5 does nothing in T3; give rollout.max_steps"),
        ("T3", "train.batch=5", "train.batch=5 does nothing in T3; give rollout.batch"),
        ("T3", "train.lr=0.5", "train.lr=0.5 does nothing in T3; give rollout.lr"),
        ("T3", "train.max_eval_samples=5", "does nothing in T3; give diag.n_eval_utterances and diag.segments_per_utt"),
        (
            "T4",
            "codecs=[log-mel]",
            "codecs=['log-mel'] is out of range, with data.codec=log-mel among them; allowed: two",
        ),
        ("T4", "codecs=[log-mel,lyra]", "from a local folder, and none was given"),
        ("T4", "codecs=[log-mel,log-mel:5]", "at 5 frames a second"),
        ("A2", "", "has no finished smoke run to build on; first: inscape run audio-structure.A0"),
    ],
)
def test_nonsense_for_one_phase(capsys: pytest.CaptureFixture, target: str, words: str, said: str) -> None:
    assert said in refused(capsys, "run", f"audio-structure.{target}", "--preset", "smoke", *words.split())


@pytest.mark.parametrize("given", ["0", "-1", "many", "1000"])
@pytest.mark.parametrize("target", ["A0", "A1"])
def test_a_number_of_workers_that_is_none(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, target: str, given: str
) -> None:
    monkeypatch.setenv("INSCAPE_WORKERS", given)
    line = refused(capsys, "run", f"audio-structure.{target}", "--preset", "smoke")
    assert f"INSCAPE_WORKERS={given} is out of range; allowed: 1 to 256" in line


def test_frames_without_latents_are_shut(capsys: pytest.CaptureFixture) -> None:
    assert main(["run", "audio-structure.A2", "--preset", "quick"]) == 0
    assert "audio-structure.A2 is shut: A0 has no finished quick run" in capsys.readouterr().err
