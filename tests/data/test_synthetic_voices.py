"""Synthetic speech: the same bytes for the same arguments, distinct voices, finished or not there."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from inscape.data.speech import synthetic_voices
from inscape.data.speech.corpus import open_speech
from inscape.data.speech.synthetic_voices import MARKER, MOST_SPEAKERS, VOICES, synthesise_speech, voices
from inscape.pretrained.log_mel import LogMel


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesise_speech(tmp_path_factory.mktemp("voices") / "small", speakers=3, utterances=2, seed=5)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.flac"))}


def test_it_is_a_corpus_of_utterances_of_a_useful_length(small: Path) -> None:
    corpus = open_speech(small)
    assert (corpus.layout, len(corpus.speakers), len(corpus.utterances)) == ("sub-folder", 3, 6)
    for utterance in corpus.utterances:
        samples, rate = soundfile.read(utterance.path)
        assert rate == 22_050
        assert 3.0 < len(samples) / rate < 30
        assert 0.05 < np.abs(samples).max() < 1.0, "not silent, not clipped"


def test_the_same_arguments_give_the_same_bytes_in_another_process(small: Path, tmp_path: Path) -> None:
    code = (
        "from inscape.data.speech.synthetic_voices import synthesise_speech as s\n"
        f"s({str(tmp_path / 'x')!r}, speakers=3, utterances=2, seed=5, workers=1)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert contents(tmp_path / "x") == contents(small)


def test_more_speakers_and_utterances_leave_the_others_as_they_are(small: Path, tmp_path: Path) -> None:
    more = contents(synthesise_speech(tmp_path / "x", speakers=4, utterances=3, seed=5))
    assert len(more) == 12
    assert all(more[name] == content for name, content in contents(small).items())


def test_another_seed_says_something_else(small: Path, tmp_path: Path) -> None:
    other = contents(synthesise_speech(tmp_path / "x", speakers=3, utterances=2, seed=6))
    assert not set(other.values()) & set(contents(small).values())


def test_no_sentence_is_said_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def listen(_voice: object, texts: list[str], _seed: int) -> tuple[int, list[np.ndarray]]:
        said.extend(texts)
        return 22_050, [np.zeros(9, np.int16)] * len(texts)

    monkeypatch.setattr(synthetic_voices, "_speak", listen)
    for seed in (5, 6):
        synthesise_speech(tmp_path / str(seed), speakers=3, utterances=4, seed=seed)
    assert len(set(said)) == len(said) == 24
    assert all(20 <= len(text.split()) < 100 for text in said)


def test_a_second_call_writes_nothing_and_another_corpus_is_refused(small: Path) -> None:
    before = (small / MARKER).stat().st_mtime_ns
    assert synthesise_speech(small, speakers=3, utterances=2, seed=5) == small
    assert (small / MARKER).stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="is not this synthetic corpus"):
        synthesise_speech(small, speakers=4, utterances=2, seed=5)


def test_what_a_killed_run_left_is_no_corpus_and_does_not_disturb(tmp_path: Path) -> None:
    (tmp_path / ".x.partial" / "junk").mkdir(parents=True)
    found = synthesise_speech(tmp_path / "x", speakers=2, utterances=1, suffix=".wav")
    assert sorted(p.name for p in found.iterdir()) == ["en-us.Alicia", "en-us.m3", MARKER]
    assert not (tmp_path / ".x.partial").exists()
    assert json.loads((found / MARKER).read_text())["speakers"] == 2


def test_speakers_are_told_of_progress(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    synthesise_speech(tmp_path / "x", speakers=2, utterances=1, on_progress=lambda *x: told.append(x))
    assert told == [(1, 2), (2, 2)]


def test_ids_are_distinct_up_to_the_last_speaker() -> None:
    assert len(set(VOICES)) == len(VOICES) >= 40
    every = voices(MOST_SPEAKERS)
    assert len({v.speaker_id for v in every}) == len({v.name for v in every}) == MOST_SPEAKERS
    variants = {v.name.partition("+")[2] for v in every}
    assert len(variants) == MOST_SPEAKERS, "one variant in two accents would be one voice under two names"
    assert every[:5] == voices(5)


@pytest.mark.parametrize(
    "options", [{"speakers": 1}, {"speakers": MOST_SPEAKERS + 1}, {"utterances": 0}, {"workers": 0}, {"suffix": ".mp3"}]
)
def test_numbers_that_make_no_sense_are_refused_and_write_nothing(tmp_path: Path, options: dict) -> None:
    with pytest.raises(ValueError, match=r"synthetic speakers|count from 1"):
        synthesise_speech(tmp_path / "x", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_voice_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic_voices, "ACCENT", "xx-none")
    with pytest.raises(ValueError, match=r"^espeak-ng failed for the voice xx-none\+Alicia: .*no voice.*$"):
        synthesise_speech(tmp_path / "x", speakers=2, utterances=1)
    assert not (tmp_path / "x").exists()


def test_forty_voices_sound_different() -> None:
    """Two recordings of one speaker are nearer to each other than to any other speaker's, for nearly all of 40."""
    said = "three small green cubes are left of the red ball."
    other = "under the white box stand four black rods and a cone."
    codec, profiles = LogMel(), []
    for voice in voices(40):
        _, spoken = synthetic_voices._speak(voice, [said, other], 0)
        assert max(np.abs(s.astype(int)).max() for s in spoken) < 32_767, "no voice clips"
        rows = []
        for latent_TD in codec.encode([s[::2].astype(np.float32) / 32768 for s in spoken]):
            loud = latent_TD[latent_TD.mean(1) > np.median(latent_TD.mean(1))]
            rows.append(np.concatenate([loud.mean(0) - loud.mean(), loud.std(0)]))
        profiles.append(rows)
    first, second = np.array(profiles).transpose(1, 0, 2)
    distance = np.linalg.norm(first[:, None] - second[None], axis=-1)
    assert (distance.argmin(1) == np.arange(40)).mean() > 0.9
