"""Does the test side hold what the training side has heard? Asked before a score is believed, in five ways.

    same id       the clip stands in both manifests
    same source   both were cut from one recording (one YouTube video, one Freesound file)
    same file     the files are equal byte by byte (SHA-256)
    same sound    the waveforms agree up to gain, by the fingerprint below
    captions      the share of test captions that also stand in training: reported, and no leak by itself, since
                  "a dog barks" is true of many clips, and all captions of a class are equal by design

The fingerprint is the log energy of the first 4 s after the onset, in 64 frames by 16 bands up to 6.9 kHz, relative to
the loudest bin and floored 40 dB below it. It finds candidates: where the bins above the floor in either sound differ
by less than 1 dB, root mean square (independent clips of one stationary noise differ by 1.5 dB, since so short a frame
of noise never has its expected energy). A candidate is the same sound where the two waveforms, at the best lag,
correlate by 0.999 or more, of either sign.
What it sees: another gain, container, lossless format, bit depth or sample rate, silence cut off or put before. What it
does not: a lossy re-encoding, other speed or pitch, an excerpt that begins elsewhere, a sound mixed with another. What
it may see wrongly: two clean tones of one pitch and length, which are one sound but for the noise around them. So "no
leak" means none of these kinds.

Legend: S samples, T frames, F bands, N training clips, M test clips, D = T x F bins.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from inscape.data.sounds.manifests import SoundClip
from inscape.data.speech.audio_files import Quarantined, read_audio, read_or_quarantine

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["Leak", "LeakReport", "Waveforms", "audit_leaks", "fingerprint"]

RATE_HZ = 16_000  # of the waveforms that are compared
FRAMES, BANDS = 64, 16
FRAME_SAMPLES, BAND_BINS = 1000, 27  # 62.5 ms; 432 Hz
HIGHEST_HZ = BANDS * BAND_BINS * RATE_HZ / FRAME_SAMPLES  # 6.9 kHz: a resampler may have cut what lies above
FLOOR_DB, NEAR_DB, ONSET = -40.0, 1.0, 0.1  # ONSET: of the peak
SAME_CORRELATION = 0.999
MOST_CANDIDATES = 20  # of a test clip, the nearest first: thousands of equal beeps must not take a day
_CHUNK = 512

Waveforms = Sequence[np.ndarray] | np.ndarray  # one a clip, mono at RATE_HZ


class Leak(NamedTuple):
    """A test clip that a training clip gives away, and by what."""

    kind: str  # "same id", "same source", "same file", "same sound"
    train_id: str
    test_id: str


class _Sound(NamedTuple):
    """A clip as it is compared, and how to get its waveform again: all of them at once may not fit in memory."""

    clip_id: str
    print_TF: np.ndarray
    load: Callable[[], np.ndarray]


class LeakReport(NamedTuple):
    """What was found: of each kind, one finding for a test clip, with the first training clip that shows it."""

    found: tuple[Leak, ...]
    caption_overlap: float  # share, in [0, 1], of test captions that also stand in training
    unheard: tuple[Quarantined, ...]  # files that could not be read, and so could not be compared as sounds

    @property
    def leaks(self) -> int:
        """How many findings."""
        return len(self.found)

    @property
    def lines(self) -> tuple[str, ...]:
        """The findings, one line each."""
        return tuple(f"{leak.kind}: test clip {leak.test_id} and training clip {leak.train_id}" for leak in self.found)


def audit_leaks(
    train: Sequence[SoundClip],
    test: Sequence[SoundClip],
    *,
    waveforms: tuple[Waveforms, Waveforms] | None = None,
) -> LeakReport:
    """Whatever of the above holds between the two sides.

    waveforms: of train and of test, in their order, at RATE_HZ; None to read them from the clips' files. ValueError if
    a side is empty or its waveforms are not one a clip.
    """
    if not train or not test:
        raise ValueError(f"{len(train)} training clips and {len(test)} test clips; a leak audit needs both")
    if waveforms and (len(waveforms[0]), len(waveforms[1])) != (len(train), len(test)):
        raise ValueError(f"{len(waveforms[0])} and {len(waveforms[1])} waveforms of {len(train)} and {len(test)} clips")
    unheard: list[Quarantined] = []
    sounds = [list(_heard(side, waveforms[i] if waveforms else None, unheard)) for i, side in enumerate((train, test))]
    found = [
        *_equal("same id", train, test, lambda clip: clip.clip_id),
        *_equal("same source", train, test, lambda clip: clip.source),
        *_equal("same file", train, test, lambda clip: _digest(clip.path)),
        *_same_sounds(sounds[0], sounds[1]),
    ]
    said = Counter(_plain(text) for clip in test for text in clip.captions)
    known = {_plain(text) for clip in train for text in clip.captions}
    shared = sum(count for text, count in said.items() if text in known)
    return LeakReport(tuple(found), shared / max(1, said.total()), tuple(unheard))


def fingerprint(sound_S: Float[np.ndarray, " S"]) -> Float[np.ndarray, "64 16"]:
    """Log energies in dB below the loudest bin, at least FLOOR_DB; samples at RATE_HZ. All floor where it is silent."""
    frames_TS = _from_onset(sound_S).reshape(FRAMES, FRAME_SAMPLES) * np.hanning(FRAME_SAMPLES)
    power_TF = np.abs(np.fft.rfft(frames_TS)) ** 2
    energy_TF = power_TF[:, : BANDS * BAND_BINS].reshape(FRAMES, BANDS, BAND_BINS).sum(axis=2)
    loudest = energy_TF.max()
    if loudest == 0:
        return np.full((FRAMES, BANDS), FLOOR_DB, np.float32)
    return (10 * np.log10(np.maximum(energy_TF / loudest, 10 ** (FLOOR_DB / 10)))).astype(np.float32)


def _from_onset(sound_S: np.ndarray) -> np.ndarray:
    """The first 4 s after the onset, filled with zeros."""
    level_S = np.abs(sound_S)
    start = int(np.argmax(level_S >= ONSET * level_S.max())) if len(sound_S) else 0
    part_S = np.zeros(FRAMES * FRAME_SAMPLES)
    heard_S = sound_S[start : start + len(part_S)]
    part_S[: len(heard_S)] = heard_S
    return part_S


def _correlation(one_S: np.ndarray, other_S: np.ndarray) -> float:
    """The largest normalised correlation over all lags, of either sign, below HIGHEST_HZ; in [0, 1]."""
    one_S, other_S = _from_onset(one_S), _from_onset(other_S)
    twice = 2 * len(one_S)
    kept = round(twice * HIGHEST_HZ / RATE_HZ)
    one_F, other_F = np.fft.rfft(one_S, twice)[:kept], np.fft.rfft(other_S, twice)[:kept]
    product_S = np.fft.irfft(one_F * other_F.conj(), twice)
    energies = [float(np.sum(np.abs(np.fft.irfft(part_F, twice)) ** 2)) for part_F in (one_F, other_F)]
    return float(np.abs(product_S).max() / np.sqrt(energies[0] * energies[1]))


def _heard(clips: Sequence[SoundClip], waveforms: Waveforms | None, unheard: list[Quarantined]) -> Iterator[_Sound]:
    """Each clip that has a sound; files that cannot be read are added to `unheard`."""
    for i, clip in enumerate(clips):
        if waveforms is not None:
            yield _Sound(clip.clip_id, fingerprint(waveforms[i]), partial(waveforms.__getitem__, i))
        elif clip.path is not None:
            found = read_or_quarantine(clip.path, RATE_HZ)
            if isinstance(found, Quarantined):
                unheard.append(found)
            else:
                yield _Sound(clip.clip_id, fingerprint(found), partial(read_audio, clip.path, RATE_HZ))


def _equal(
    kind: str, train: Sequence[SoundClip], test: Sequence[SoundClip], key: Callable[[SoundClip], str]
) -> Iterator[Leak]:
    first: dict[str, str] = {}
    for clip in train:
        if value := key(clip):
            first.setdefault(value, clip.clip_id)
    for clip in test:
        if (value := key(clip)) and value in first:
            yield Leak(kind, first[value], clip.clip_id)


def _same_sounds(train: Sequence[_Sound], test: Sequence[_Sound]) -> Iterator[Leak]:
    if not train or not test:
        return
    train_ND = np.stack([sound.print_TF.ravel() for sound in train]) - FLOOR_DB
    for begin in range(0, len(test), _CHUNK):
        block = test[begin : begin + _CHUNK]
        distance_MN = _distances(np.stack([sound.print_TF.ravel() for sound in block]) - FLOOR_DB, train_ND)
        for m in np.flatnonzero((distance_MN < NEAR_DB).any(axis=1)).tolist():
            for n in np.argsort(distance_MN[m], kind="stable")[:MOST_CANDIDATES].tolist():
                if distance_MN[m, n] >= NEAR_DB:
                    break
                if _correlation(train[n].load(), block[m].load()) >= SAME_CORRELATION:
                    yield Leak("same sound", train[n].clip_id, block[m].clip_id)
                    break


def _distances(test_MD: np.ndarray, train_ND: np.ndarray) -> np.ndarray:
    """Root mean square in dB over the bins above the floor in either, (M, N); infinite where there are none."""
    either_MN = _sums(test_MD > 0)[:, None] + _sums(train_ND > 0)
    either_MN -= (test_MD > 0).astype(np.float32) @ (train_ND > 0).astype(np.float32).T
    squares_MN = _sums(test_MD**2)[:, None] + _sums(train_ND**2) - 2 * test_MD @ train_ND.T
    mean_MN = np.maximum(squares_MN, 0) / np.maximum(either_MN, 1)
    return np.where(either_MN > 0, np.sqrt(mean_MN), np.inf)


def _sums(bins: np.ndarray) -> np.ndarray:
    return bins.sum(axis=1, dtype=np.float32)


def _digest(path: Path | None) -> str:
    """SHA-256 of a file; "" where there is none to read."""
    if path is None or not path.is_file():
        return ""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""  # as little can it be read as sound, and there it is listed


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(". ")
