"""The sound of a scene of the world: what its caption says is true of the waveform, and nothing else is fixed.

Each attribute is an interval of a physical quantity, and the two intervals of an attribute lie far apart. Within them,
and in onset, phase, timbre and background, no two clips are alike, so that a model must hear the attribute and cannot
know the clip.

    short 0.10-0.15 s    low   240-360 Hz      quiet peak 0.036-0.044 (20 dB below loud)    background 60 dB below full
    long  0.36-0.45 s    high 1200-1800 Hz     loud  peak 0.36-0.44    not said: 0.14-0.18
    equal sounds of one event stand 0.10-0.16 s apart, "then" pauses 0.30-0.36 s;
    "while": the shorter event lies wholly within the span of the longer

Legend: S samples, E samples of one sound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np

from inscape.data.sounds.world import Event, SoundScene

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["SHORTEST_SEC", "synthesise"]

SHORTEST_SEC = 4.0  # two times three long sounds, with their pauses, and room to begin late
LOWEST_RATE = 16_000  # a click rings at up to 5 kHz
LENGTHS_SEC = {"short": (0.10, 0.15), "long": (0.36, 0.45)}
FIXED_SEC = {"click": 0.03, "thump": 0.15}
GAP_SEC, PAUSE_SEC, EDGE_SEC, RAMP_SEC = (0.10, 0.16), (0.30, 0.36), 0.05, 0.008
LEVELS = {"quiet": (0.036, 0.044), None: (0.14, 0.18), "loud": (0.36, 0.44)}
PITCHES_HZ = {"low": (240.0, 360.0), "high": (1200.0, 1800.0)}
GLIDE_HZ = ((400.0, 500.0), (1600.0, 2000.0))  # where a rising tone begins and ends
BUZZ_HZ, CLICK_HZ, THUMP_HZ = (120.0, 170.0), (3000.0, 5000.0), (60.0, 80.0)
BACKGROUND = (0.0007, 0.0014)  # root mean square
_SALT = 0x50FAB


class _Row(NamedTuple):
    """The sounds of one event in time: seconds from the first onset, and how long each sounds."""

    onsets: np.ndarray
    duration: float

    @property
    def span(self) -> float:
        return float(self.onsets[-1]) + self.duration


def synthesise(
    scene: SoundScene, seed: int, rate: int = 16_000, seconds: float = SHORTEST_SEC
) -> Float[np.ndarray, " S"]:
    """The scene as float32 samples in (-1, 1), S = seconds x rate: a pure function of its arguments.

    ValueError below SHORTEST_SEC seconds or LOWEST_RATE Hz, and for a negative seed. At another rate the same seed
    gives the same timeline and other noise.
    """
    if not seconds >= SHORTEST_SEC:
        raise ValueError(f"seconds is {seconds}; allowed: {SHORTEST_SEC:g} or more, as the longest scene needs them")
    if rate < LOWEST_RATE:
        raise ValueError(f"rate is {rate} Hz; allowed: {LOWEST_RATE} or more, as a click rings at up to 5 kHz")
    if seed < 0:
        raise ValueError(f"seed is {seed}; allowed: 0 or more")
    rng = np.random.default_rng((_SALT, seed, scene.code))
    rows = [_row(event, rng) for event in scene.events]
    starts = _starts(rows, scene.relation, seconds, rng)
    voices = [_Voice(event, rng) for event in scene.events]
    samples_S = rng.standard_normal(round(seconds * rate), dtype=np.float32) * np.float32(rng.uniform(*BACKGROUND))
    for row, start, voice in zip(rows, starts, voices, strict=True):
        for onset in row.onsets:
            sound_E = voice.say(row.duration, rate, rng)
            at = round((start + onset) * rate)
            samples_S[at : at + len(sound_E)] += sound_E
    return samples_S


def _row(event: Event, rng: np.random.Generator) -> _Row:
    duration = FIXED_SEC[event.kind] if event.length is None else rng.uniform(*LENGTHS_SEC[event.length])
    steps = duration + rng.uniform(*GAP_SEC, size=event.count - 1)
    return _Row(np.concatenate([[0.0], np.cumsum(steps)]), duration)


def _starts(rows: list[_Row], relation: str | None, seconds: float, rng: np.random.Generator) -> list[float]:
    """The first onset of each event in seconds."""
    offsets = [0.0] * len(rows)
    if relation == "then":
        offsets[1] = rows[0].span + rng.uniform(*PAUSE_SEC)
    elif relation == "while":
        inner = 0 if rows[0].span < rows[1].span else 1
        offsets[inner] = rng.uniform(0.0, rows[1 - inner].span - rows[inner].span)
    whole = max(offset + row.span for offset, row in zip(offsets, rows, strict=True))
    start = rng.uniform(EDGE_SEC, seconds - EDGE_SEC - whole)
    return [start + offset for offset in offsets]


@final
class _Voice:
    """What the equal sounds of one event share: level and pitch or timbre, drawn once from the intervals above."""

    def __init__(self, event: Event, rng: np.random.Generator) -> None:
        self.kind = event.kind
        self.level = rng.uniform(*LEVELS[event.loudness])
        low, high = rng.uniform(*GLIDE_HZ[0]), rng.uniform(*GLIDE_HZ[1])
        steady = {"buzz": BUZZ_HZ, "click": CLICK_HZ, "thump": THUMP_HZ}.get(event.kind, GLIDE_HZ[0])
        pitch = rng.uniform(*(PITCHES_HZ[event.pitch] if event.pitch else steady))
        ends = {"rising tone": (low, high), "falling tone": (high, low)}
        self.begin, self.end = ends.get(event.kind, (pitch, pitch))
        self.decay = {"click": rng.uniform(0.003, 0.005), "thump": rng.uniform(0.03, 0.04)}.get(event.kind)
        self.tilt, self.richness = rng.uniform(-0.3, 0.3), rng.uniform(0.75, 0.85)

    def say(self, duration: float, rate: int, rng: np.random.Generator) -> Float[np.ndarray, " E"]:
        """One sound, float32, its peak at the level or, for noise, at most there."""
        time_E = np.arange(round(duration * rate)) / rate
        if self.kind == "noise burst":
            white_E = rng.standard_normal(len(time_E) + 1)
            sound_E = np.clip((white_E[1:] - self.tilt * white_E[:-1]) / (3 * np.hypot(1, self.tilt)), -1, 1)
        else:
            phase_E = _phase(time_E, duration, self.begin, self.end) + rng.uniform(0, 2 * np.pi)
            sound_E = _buzz(phase_E, self.richness) if self.kind == "buzz" else np.sin(phase_E)
        if self.decay is not None:
            sound_E *= np.exp(-time_E / self.decay)
        if self.kind != "click":  # a thump without an attack would click as well
            sound_E *= np.sin(np.pi / 2 * np.clip(np.minimum(time_E, duration - time_E) / RAMP_SEC, 0, 1)) ** 2
        if self.decay is not None:
            sound_E /= np.abs(sound_E).max()  # phase and attack decide how much the decay leaves
        return np.float32(self.level) * sound_E.astype(np.float32)


def _buzz(phase_E: np.ndarray, richness: float) -> np.ndarray:
    """All harmonics, each `richness` times the one before, in closed form; the peak is 1."""
    series_E = np.sin(phase_E) / (1 - 2 * richness * np.cos(phase_E) + richness**2)
    return series_E * (1 - richness**2)


def _phase(time_E: np.ndarray, duration: float, begin: float, end: float) -> np.ndarray:
    """Of a tone that glides from `begin` to `end` Hz at a constant rate in octaves, in radians."""
    if begin == end:
        return 2 * np.pi * begin * time_E
    octaves = np.log(end / begin)
    return 2 * np.pi * begin * duration / octaves * np.expm1(octaves * time_E / duration)
