"""Audio of any kind becomes one kind of waveform; what cannot is set aside with its reason and stops nothing."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from inscape.data.speech.audio_files import Quarantined, read_audio, read_or_quarantine

RATE = 16_000


def tone(rate: int = RATE, seconds: float = 1.0, hertz: float = 440.0, level: float = 0.5) -> np.ndarray:
    return level * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def reason(path: Path, **options: float) -> str:
    found = read_or_quarantine(path, RATE, **options)
    assert isinstance(found, Quarantined)
    assert found.path == str(path)
    assert "\n" not in found.reason
    return found.reason


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_formats_agree_with_the_samples_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    soundfile.write(path, tone(), RATE)
    samples_S = read_audio(path, RATE)
    assert (samples_S.dtype, samples_S.ndim, samples_S.flags.c_contiguous) == (np.float32, 1, True)
    lossless = suffix in ("wav", "flac")
    assert abs(len(samples_S) - RATE) <= (0 if lossless else 2500)
    middle = samples_S[4000:12000]
    assert np.sqrt((middle**2).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=1e-3 if lossless else 0.02)


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 48_000])
def test_resampling_keeps_tone_level_and_length(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "x.wav", tone(rate), rate, subtype="FLOAT")
    samples_S = read_audio(tmp_path / "x.wav", RATE)
    assert len(samples_S) == pytest.approx(RATE, abs=2)
    assert samples_S[1000:15000] == pytest.approx(tone()[1000:15000], abs=2e-3)


def test_what_lies_above_the_new_band_is_gone(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", tone(48_000, hertz=12_000), 48_000, subtype="FLOAT")
    assert np.abs(read_audio(tmp_path / "x.wav", RATE)[500:-500]).max() < 1e-3  # an alias would stand at 4 kHz


def test_channels_are_averaged(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.stack([tone(), 0 * tone()], axis=1), RATE, subtype="FLOAT")
    assert read_audio(tmp_path / "x.wav", RATE) == pytest.approx(tone() / 2, abs=1e-6)


def test_files_that_are_no_audio_are_set_aside(tmp_path: Path) -> None:
    for name, content in (("text.wav", b"these are words\n" * 99), ("empty.wav", b""), ("x.mp3", b"\0" * 5000)):
        (tmp_path / name).write_bytes(content)
        assert reason(tmp_path / name).startswith("cannot be read as audio")
    (tmp_path / "folder.wav").mkdir()
    assert reason(tmp_path / "folder.wav") == "is not a regular file"
    assert reason(tmp_path / "gone.wav") == "does not exist"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    assert reason(tmp_path / "pipe.wav") == "is not a regular file"


def test_a_file_cut_off_is_set_aside(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * RATE)
    soundfile.write(tmp_path / "x.flac", noise, RATE)
    whole = (tmp_path / "x.flac").read_bytes()
    (tmp_path / "x.flac").write_bytes(whole[: len(whole) // 2])
    assert reason(tmp_path / "x.flac").startswith(("cut off", "cannot be read"))


def test_a_file_that_holds_less_than_it_claims_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "x.wav", tone(), RATE)
    read = soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda sound, **options: read(sound, **options)[:-100])
    assert reason(tmp_path / "x.wav") == "cut off: 15900 of 16000 samples"


def test_bytes_changed_anywhere_never_raise(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.flac", tone(seconds=0.3), RATE)
    whole, draw = (tmp_path / "x.flac").read_bytes(), np.random.default_rng(0)
    for _ in range(100):
        broken = bytearray(whole)
        for at in draw.integers(0, len(broken), 3):
            broken[at] = draw.integers(256)
        (tmp_path / "x.flac").write_bytes(broken)
        found = read_or_quarantine(tmp_path / "x.flac", RATE)
        assert isinstance(found, Quarantined) or np.isfinite(found).all()


@pytest.mark.parametrize(
    ("samples", "rate", "words"),
    [
        (np.zeros(RATE), RATE, "silent"),
        (np.full(RATE, 0.3), RATE, "silent"),
        (tone(seconds=0.05), RATE, "too short: 0.050 s"),
        (np.where(np.arange(RATE) == 99, np.nan, tone()), RATE, "NaN"),
        (np.where(np.arange(RATE) == 99, np.inf, tone()), RATE, "infinite"),
        (tone(level=20_000), RATE, "samples reach 2e"),
        (tone(100, seconds=9), 100, "sample rate 100 Hz"),
        (tone(500_000), 500_000, "sample rate 500000 Hz"),
    ],
)
def test_samples_that_are_no_speech_are_set_aside(tmp_path: Path, samples: np.ndarray, rate: int, words: str) -> None:
    soundfile.write(tmp_path / "x.wav", samples, rate, subtype="FLOAT")
    assert words in reason(tmp_path / "x.wav")


def test_the_bounds_of_length_can_be_set(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", tone(seconds=2), RATE)
    assert reason(tmp_path / "x.wav", min_sec=3.0) == "too short: 2.000 s, shortest allowed 3 s"
    assert reason(tmp_path / "x.wav", max_sec=1.0).startswith("too long: 2 s in 1 channels")


def test_a_header_that_claims_terabytes_takes_no_memory(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.flac", tone(), RATE)
    whole = bytearray((tmp_path / "x.flac").read_bytes())
    # STREAMINFO of FLAC: 36 bits of the total number of samples end at byte 26.
    whole[21:26] = struct.pack(">Q", (whole[21] << 32 | (1 << 36) - 1) & (1 << 40) - 1)[3:]
    (tmp_path / "x.flac").write_bytes(whole)
    assert reason(tmp_path / "x.flac").startswith("too long")
