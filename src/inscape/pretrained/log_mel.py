"""A latent that needs no weights: log energies of a mel filterbank, one frame a block of samples.

It is the default, so that the pipeline runs from nothing, and the yardstick: what a learned codec shows beyond this is
the codec's own.

Fixed by definition: 16 kHz; a Hann window of 25 ms, or of the block where that is longer, that ends with its frame's
block, so no frame hears its future; 64 triangular filters of height 1, equally wide on the mel scale
m = 2595 log10(1 + f/700) (O'Shaughnessy 1987) from 50 to 8000 Hz; ln(power + 1e-8), in units in which a sine of
amplitude A has its peak at A^2 / 2, so that the floor lies 77 dB under a full-scale sine.

Legend: S samples, T frames, N samples of the window, F frequencies, D mel bands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from inscape.pretrained.codec import check_samples

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["LogMel", "mel_filters"]

SAMPLE_RATE = 16_000
BANDS = 64
LOWEST_HZ, HIGHEST_HZ = 50.0, 8000.0
SHORTEST_WINDOW = 400  # 25 ms: pitch periods of low voices, and two of them
FLOOR = 1e-8
FRAMES_AT_ONCE = 4096  # bounds the memory for recordings of an hour


class LogMel:
    """The filterbank as an `AudioCodec`. Everything is computed in float64 and rounded once."""

    sample_rate, dimension, can_decode = SAMPLE_RATE, BANDS, False

    def __init__(self, rate_hz: float = 50.0) -> None:
        """rate_hz: frames per second, of which 16,000 is a multiple: 50, 12.5, 100. ValueError otherwise."""
        if not 1 <= rate_hz <= 1000 or not (SAMPLE_RATE / rate_hz).is_integer():
            raise ValueError(
                f"log-mel at {rate_hz:g} frames per second; allowed: 1 to 1000, a divisor of {SAMPLE_RATE}"
            )
        self.rate_hz = rate_hz
        self.name = "log-mel" if rate_hz == 50 else f"log-mel:{rate_hz:g}"
        self._block = int(SAMPLE_RATE / rate_hz)
        self._window_N = np.hanning(max(SHORTEST_WINDOW, self._block) + 1)[:-1]

    @cached_property
    def _filters(self) -> np.ndarray:
        return mel_filters(self._transform, SAMPLE_RATE, BANDS, LOWEST_HZ, HIGHEST_HZ)

    @property
    def _transform(self) -> int:
        """Length of the Fourier transform: fine enough that the narrowest filter holds a frequency."""
        return max(1024, 1 << math.ceil(math.log2(len(self._window_N))))

    def encode(self, samples: Sequence[Float[np.ndarray, " S"]]) -> list[Float[np.ndarray, "T D"]]:
        """See `AudioCodec.encode`."""
        check_samples(samples)
        return [self._encode(samples_S) for samples_S in samples]

    def decode(self, latent_TD: Float[np.ndarray, "T D"]) -> Float[np.ndarray, " S"]:
        """ValueError: the phase is gone."""
        raise ValueError("log-mel cannot be decoded: it keeps no phase; use mimi, encodec or lyra")

    def _encode(self, samples_S: np.ndarray) -> np.ndarray:
        frames, length = math.ceil(len(samples_S) / self._block), len(self._window_N)
        padded = np.zeros(length - self._block + frames * self._block)
        padded[length - self._block : length - self._block + len(samples_S)] = samples_S
        windows_TN = np.lib.stride_tricks.sliding_window_view(padded, length)[:: self._block]
        latent_TD = np.empty((frames, BANDS), dtype=np.float32)
        for at in range(0, frames, FRAMES_AT_ONCE):
            part = slice(at, at + FRAMES_AT_ONCE)
            spectrum_TF = np.fft.rfft(windows_TN[part] * self._window_N, self._transform)
            power_TF = 2 * (spectrum_TF.real**2 + spectrum_TF.imag**2) / self._window_N.sum() ** 2
            latent_TD[part] = np.log(power_TF @ self._filters + FLOOR)
        return latent_TD


def mel_filters(transform: int, sample_rate: int, bands: int, low: float, high: float) -> Float[np.ndarray, "F D"]:
    """Weights of `bands` triangles over transform/2 + 1 frequencies, each 1 at its centre and 0 at its neighbours'."""
    mel = np.linspace(2595 * math.log10(1 + low / 700), 2595 * math.log10(1 + high / 700), bands + 2)
    edge = 700 * (10 ** (mel / 2595) - 1)
    frequency_F1 = np.fft.rfftfreq(transform, 1 / sample_rate)[:, None]
    rising = (frequency_F1 - edge[:-2]) / np.diff(edge)[:-1]
    falling = (edge[2:] - frequency_F1) / np.diff(edge)[1:]
    return np.maximum(0, np.minimum(rising, falling))
