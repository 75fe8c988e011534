"""States of a network that tells sound effects apart (aiSFX: Ma & Lerch, ISMIR 2022), before it pools them over time.

The network is a convolutional one over a mel spectrogram. Its own embedding of 2.3 s of sound is the largest value of
each of its 512 features over time; here the features are kept as they stand in time, one frame for 8192 samples of
44.1 kHz: **5.383 frames per second**, 512 numbers each. A frame depends on the 0.8 s before and after its middle, and
on nothing else.

Weights: model "X-Sequential-CE", CC BY 4.0, carried by the package `aisfx`; its code is not used. The file is a
checkpoint of torch, read by torch's reader of weights alone, and only if it is byte for byte the published one.

The spectrogram is the one of the training, made by Essentia (its documentation names the choices): frames of 2048
samples every 1024, the first centred at the first sample; a symmetric Hann window; 96 triangles, straight on the mel
scale, whose weights sum to 1; log10(10^4 power + 1), divided by the largest value seen in training. Amplitudes are not
normalised, so that what is loud and what is soft differ.

Legend: S samples, N samples of a window, M mel bands, F frames of the spectrogram (8 a state), T frames, D features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from inscape.pretrained.codec import check_samples
from inscape.pretrained.packaged_weights import PackagedWeights, weights_file

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["PACKAGE", "AisfxEncoder", "effect_log_mel", "open_aisfx"]

PACKAGE = PackagedWeights(
    "aisfx==0.1.2",
    "aisfx",
    "models/checkpoint.pth",
    "499ea75909c932a2f94c35fa722fa4fabc5bcb7e84917209cc5f7402627b7eb5",
)
SAMPLE_RATE = 44_100
WINDOW, HOP, BANDS = 2048, 1024, 96
LARGEST = 9.457798957824707  # of all spectrograms of the training
POOLS = (2, 2, 2, 1)  # of the four blocks
NORM = ("running_mean", "running_var", "weight", "bias")
STRIDE = math.prod(POOLS)
BLOCK = HOP * STRIDE
STATES_AT_ONCE = 64  # 12 s: bounds the memory for recordings of an hour
REACH = 4  # states: convolutions see 30 frames of the spectrogram to each side, which is less than 4 x 8


class AisfxEncoder:
    """aiSFX's network as an `AudioCodec`."""

    name, sample_rate, rate_hz, can_decode = "aisfx", SAMPLE_RATE, SAMPLE_RATE / BLOCK, False

    def __init__(self, weights: Mapping[str, Tensor], device: str = "cpu") -> None:
        """weights: of the four blocks, by the names of the checkpoint."""
        self._weights = {name: weight.to(device) for name, weight in weights.items()}
        self._device = torch.device(device)
        self.dimension = len(weights[f"conv_block{len(POOLS)}.conv2.weight"])

    def encode(self, samples: Sequence[Float[np.ndarray, " S"]]) -> list[Float[np.ndarray, "T D"]]:
        """See `AudioCodec.encode`; one waveform at a time, so that nothing is ever padded for another's sake."""
        check_samples(samples)
        return [self._encode(samples_S) for samples_S in samples]

    def decode(self, latent_TD: Float[np.ndarray, "T D"]) -> Float[np.ndarray, " S"]:
        """ValueError: the network keeps kinds of sound, not sound."""
        raise ValueError("aisfx cannot be decoded into sound; use mimi, encodec or lyra")

    @torch.inference_mode()
    def _encode(self, samples_S: np.ndarray) -> np.ndarray:
        mel_FM = torch.as_tensor(effect_log_mel(samples_S), device=self._device)
        frames = len(mel_FM) // STRIDE
        parts: list[Tensor] = []
        for at in range(0, frames, STATES_AT_ONCE):
            first = max(0, at - REACH)
            states_TD = self._states(mel_FM[first * STRIDE : (at + STATES_AT_ONCE + REACH) * STRIDE])
            parts.append(states_TD[at - first : at - first + STATES_AT_ONCE])
        return np.ascontiguousarray(torch.cat(parts).float().cpu().numpy())

    def _states(self, mel_FM: Tensor) -> Tensor:
        """(T, D): four blocks of two convolutions, then the mean over frequency."""
        maps_1DFM = mel_FM[None, None]
        for number, pool in enumerate(POOLS, start=1):
            for layer in (1, 2):
                block = f"conv_block{number}"
                maps_1DFM = functional.conv2d(maps_1DFM, self._weights[f"{block}.conv{layer}.weight"], padding=1)
                mean, variance, scale, shift = (self._weights[f"{block}.bn{layer}.{name}"] for name in NORM)
                maps_1DFM = functional.batch_norm(maps_1DFM, mean, variance, scale, shift).relu_()
            maps_1DFM = functional.max_pool2d(maps_1DFM, pool)
        return maps_1DFM[0].mean(2).T


def open_aisfx(device: str = "cpu") -> AisfxEncoder:
    """The encoder with its trained weights. ValueError in one line where the package is not installed."""
    return AisfxEncoder(_trained(weights_file(PACKAGE, "aisfx")), device)


def effect_log_mel(samples_S: Float[np.ndarray, " S"]) -> Float[np.ndarray, "F M"]:
    """The spectrogram as the network was trained on, float32; F is the multiple of 8 that covers the samples."""
    frames = math.ceil(len(samples_S) / BLOCK) * STRIDE
    padded = np.zeros((frames - 1) * HOP + WINDOW)
    padded[WINDOW // 2 : WINDOW // 2 + len(samples_S)] = samples_S
    windows_FN = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    mel_FM = np.empty((frames, BANDS), dtype=np.float32)
    at_once = STATES_AT_ONCE * STRIDE
    for at in range(0, frames, at_once):
        power = np.abs(np.fft.rfft(windows_FN[at : at + at_once] * np.hanning(WINDOW))) ** 2
        mel_FM[at : at + at_once] = np.log10(1e4 * (power @ _triangles()) + 1) / LARGEST
    return mel_FM


@cache
def _triangles() -> np.ndarray:
    """Weights (frequencies, M): equally wide on the mel scale and straight on it, each band's sum being 1."""
    mel = 2595 * np.log10(1 + np.fft.rfftfreq(WINDOW, 1 / SAMPLE_RATE) / 700)
    edges = np.linspace(0, mel[-1], BANDS + 2)
    width = edges[1]
    triangles = np.maximum(0, 1 - np.abs(mel[:, None] - edges[1:-1]) / width)
    return triangles / triangles.sum(0)


def _trained(path: Path) -> dict[str, Tensor]:
    """The weights out of the checkpoint. Beside them it holds a table of data sets, whose numbers are numpy's."""
    number = np.int64(0)
    numpys = [(number.__reduce__()[0], "numpy.core.multiarray.scalar"), np.dtype, type(number.dtype)]
    with torch.serialization.safe_globals(numpys):
        weights, _ = torch.load(path, map_location="cpu", weights_only=True)
    prefix = "embedding_net."
    return {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
