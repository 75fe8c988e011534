"""Audio files of any origin as waveforms of one kind, and a reason for each file that cannot be one.

A corpus of thousands of files holds a few that are broken. They are set aside, with a reason that can be counted and
reported, and never stop a run.

Legend: S samples, C channels.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from inscape.extras import load_extra

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["AUDIO_SUFFIXES", "Quarantined", "read_audio", "read_or_quarantine"]

AUDIO_SUFFIXES = frozenset({".aif", ".aiff", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav"})
SHORTEST_SEC, LONGEST_SEC = 0.1, 3600.0
RATES_HZ = (4000, 384_000)  # below telephone quality or above any converter: a damaged header
SILENT = 1e-4  # peak to peak, of full scale 2: three steps of a 16-bit file
LOUDEST = 8.0  # peak; a float file in units of integers would be read as a latent of its own
MOST_SAMPLES = 1 << 29  # over all channels, 2 GiB as float32; a header of a few bytes can claim more than memory


class Quarantined(NamedTuple):
    """A file that was set aside: its path, and why in a few words."""

    path: str
    reason: str


def read_audio(
    path: Path | str, rate: int, *, min_sec: float = SHORTEST_SEC, max_sec: float = LONGEST_SEC
) -> Float[np.ndarray, " S"]:
    """The file as mono float32 at `rate` Hz: channels averaged, resampled with soxr's "HQ" recipe.

    ValueError, with the reason alone ("silent"), for a file that is not audio, is cut off or damaged, is silent, holds
    NaN or values far beyond [-1, 1], lies outside [min_sec, max_sec] seconds, or claims an absurd sample rate; and
    where the package soundfile or soxr is missing.
    """
    mono_S, found = _decode(Path(path), min_sec, max_sec)
    if not np.isfinite(mono_S).all():
        raise ValueError("holds NaN or infinite values")
    if float(np.ptp(mono_S)) < SILENT:
        raise ValueError("silent")
    if (peak := float(np.abs(mono_S).max())) > LOUDEST:
        raise ValueError(f"samples reach {peak:.3g}, and audio lies in [-1, 1]")
    if found == rate:
        return mono_S
    soxr = load_extra("soxr", "audio", "resampling audio")
    return np.ascontiguousarray(soxr.resample(mono_S, found, rate, quality="HQ"), dtype=np.float32)


def read_or_quarantine(
    path: Path | str, rate: int, *, min_sec: float = SHORTEST_SEC, max_sec: float = LONGEST_SEC
) -> Float[np.ndarray, " S"] | Quarantined:
    """`read_audio`, with the reason as a value instead of an error. ValueError only where a package is missing."""
    for package, purpose in (("soundfile", "reading audio"), ("soxr", "resampling audio")):
        load_extra(package, "audio", purpose)  # first: a missing package is no fault of the file
    try:
        return read_audio(path, rate, min_sec=min_sec, max_sec=max_sec)
    except ValueError as error:
        return Quarantined(str(path), str(error))


def _decode(path: Path, min_sec: float, max_sec: float) -> tuple[np.ndarray, int]:
    """The mean of the channels, float32, and the file's own rate."""
    soundfile = load_extra("soundfile", "audio", "reading audio")
    if not path.is_file():  # a pipe of that name would never end
        raise ValueError("is not a regular file" if path.exists() else "does not exist")
    name = os.fsencode(path) if os.name == "posix" else str(path)  # a name need not be UTF-8
    try:
        with soundfile.SoundFile(name) as sound:
            _check_header(sound, min_sec, max_sec)
            claimed, found = sound.frames, sound.samplerate
            samples_SC = sound.read(dtype="float32", always_2d=True)
    except ValueError:
        raise
    except (RuntimeError, OSError, TypeError, MemoryError) as error:
        raise ValueError(f"cannot be read as audio: {_reason(error)}") from None
    if len(samples_SC) < claimed:
        raise ValueError(f"cut off: {len(samples_SC)} of {claimed} samples")
    return samples_SC.mean(axis=1, dtype=np.float32), found


def _check_header(sound, min_sec: float, max_sec: float) -> None:
    low, high = RATES_HZ
    if not low <= sound.samplerate <= high:
        raise ValueError(f"sample rate {sound.samplerate} Hz, outside {low} to {high}")
    seconds = sound.frames / sound.samplerate
    if sound.frames < 1:
        raise ValueError("empty")
    if seconds < min_sec:
        raise ValueError(f"too short: {math.floor(1000 * seconds) / 1000:.3f} s, shortest allowed {min_sec:g} s")
    if seconds > max_sec or sound.frames * sound.channels > MOST_SAMPLES:
        raise ValueError(f"too long: {seconds:.0f} s in {sound.channels} channels, longest allowed {max_sec:g} s")


def _reason(error: BaseException) -> str:
    """The library's own words, without the file's name, which it repeats."""
    words = str(getattr(error, "error_string", "") or error or type(error).__name__)
    return words.splitlines()[0].rstrip(". ")[:120]
