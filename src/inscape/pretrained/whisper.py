"""States of Whisper's encoder (Radford et al. 2022) as a latent: 16 kHz, 50 Hz, 384 to 1280 numbers a frame.

Whisper reads windows of 30 seconds, each filled up with silence, and every frame sees its whole window: **a frame knows
its future**, so that predicting frame t from the frames before it is easier than for a causal codec, and figures of the
two do not compare as equals. Longer recordings are cut into windows that know nothing of each other.

Legend: B windows, S samples, T frames, D width of the states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inscape.pretrained.codec import check_samples, load_pretrained

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["DEFAULT", "WhisperEncoder", "open_whisper", "tiny_whisper"]

DEFAULT = "openai/whisper-base"
BLOCK = 320  # two hops of 160 samples: the encoder's second convolution halves the rate


class WhisperEncoder:
    """The encoder of a transformers WhisperModel as an `AudioCodec`."""

    sample_rate, rate_hz, can_decode = 16_000, 50.0, False

    def __init__(self, model: Any, name: str, *, device: str = "cpu") -> None:
        from transformers import WhisperFeatureExtractor

        config = model.config
        self._encoder, self._device = model.get_encoder().to(device), torch.device(device)
        self._frames = int(config.max_source_positions)
        # chunk_length counts whole seconds; a window is padded here, so the extractor's own length is never used.
        self._features = WhisperFeatureExtractor(
            feature_size=config.num_mel_bins, chunk_length=math.ceil(self._frames / 50)
        )
        self.name, self.dimension = name, int(config.d_model)

    def encode(self, samples: Sequence[Float[np.ndarray, " S"]]) -> list[Float[np.ndarray, "T D"]]:
        """See `AudioCodec.encode`; window by window, one at a time."""
        check_samples(samples)
        window = self._frames * BLOCK
        return [
            np.concatenate([self._encode(samples_S[at : at + window]) for at in range(0, len(samples_S), window)])
            for samples_S in samples
        ]

    def decode(self, latent_TD: Float[np.ndarray, "T D"]) -> Float[np.ndarray, " S"]:
        """ValueError: Whisper writes text, not sound."""
        raise ValueError("whisper cannot be decoded into sound; use mimi, encodec or lyra")

    @torch.inference_mode()
    def _encode(self, samples_S: np.ndarray) -> np.ndarray:
        padded = np.zeros(self._frames * BLOCK, dtype=np.float32)
        padded[: len(samples_S)] = samples_S
        found = self._features(padded, sampling_rate=self.sample_rate, padding="do_not_pad", return_tensors="np")
        features_1MF = torch.as_tensor(found["input_features"], device=self._device)
        states_1TD = self._encoder(features_1MF).last_hidden_state
        frames = math.ceil(len(samples_S) / BLOCK)
        return np.ascontiguousarray(states_1TD[0, :frames].float().cpu().numpy())


def open_whisper(where: str = DEFAULT, device: str = "cpu") -> WhisperEncoder:
    """Whisper by hub name or folder. ValueError in one line where its weights are not to be had."""
    from transformers import WhisperModel

    opened: Any = load_pretrained(WhisperModel, where or DEFAULT, "whisper")
    # Named by what was opened, and not by what was asked for: the two are compared.
    return WhisperEncoder(opened, f"whisper:{opened.name_or_path}", device=device)


def tiny_whisper(seed: int = 0) -> WhisperEncoder:
    """Random weights, 32 numbers a frame, windows of 2 seconds: for tests, no knowledge in it."""
    from transformers import WhisperConfig, WhisperModel

    config = WhisperConfig(
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=32,
        max_source_positions=100,
        vocab_size=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = WhisperModel(config).eval().requires_grad_(False)
    return WhisperEncoder(model, f"tiny-whisper:{seed}")
