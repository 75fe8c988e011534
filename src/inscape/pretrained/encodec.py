"""EnCodec's continuous latent: its encoder's output, which its quantiser would round (Defossez et al. 2022).

Its quantiser has no linear maps of its own, so the encoder's output is what the decoder takes. 24 kHz mono, 75 Hz, 128
numbers a frame. The 48 kHz model is stereo and normalises each second by its own loudness: refused.

Legend: B batch, S samples, T frames, D width of the latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inscape.pretrained.codec import encode_by_length, load_pretrained

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["DEFAULT", "Encodec", "open_encodec", "tiny_encodec"]

DEFAULT = "facebook/encodec_24khz"


class Encodec:
    """A transformers EncodecModel as an `AudioCodec`."""

    can_decode = True

    def __init__(self, model: Any, name: str, *, device: str = "cpu") -> None:
        """ValueError for a model that is not mono or that normalises its input."""
        config = model.config
        if config.audio_channels != 1 or config.normalize:
            raise ValueError(f"{name} is stereo or normalises its input: use a mono model such as {DEFAULT}")
        self._model, self._device = model.to(device), torch.device(device)
        self._block = int(np.prod(config.upsampling_ratios))
        self.name, self.sample_rate, self.dimension = name, int(config.sampling_rate), int(config.hidden_size)
        self.rate_hz = self.sample_rate / self._block

    def encode(self, samples: Sequence[Float[np.ndarray, " S"]]) -> list[Float[np.ndarray, "T D"]]:
        """See `AudioCodec.encode`."""
        return encode_by_length(samples, self._block, self._encode)

    @torch.inference_mode()
    def decode(self, latent_TD: Float[np.ndarray, "T D"]) -> Float[np.ndarray, " S"]:
        """The waveform that the decoder makes of latents that no quantiser rounded."""
        latent_1DT = torch.as_tensor(np.array(latent_TD, dtype=np.float32), device=self._device).T[None]
        return self._model.decoder(latent_1DT)[0, 0].cpu().numpy()

    @torch.inference_mode()
    def _encode(self, samples_BS: np.ndarray) -> np.ndarray:
        latent_BDT = self._model.encoder(torch.as_tensor(samples_BS, device=self._device)[:, None])
        return latent_BDT.transpose(1, 2).float().cpu().numpy()


def open_encodec(where: str = DEFAULT, device: str = "cpu") -> Encodec:
    """EnCodec by hub name or folder. ValueError in one line where its weights are not to be had."""
    from transformers import EncodecModel

    name = f"encodec:{Path(where).name}" if where else "encodec"
    return Encodec(load_pretrained(EncodecModel, where or DEFAULT, "encodec"), name, device=device)


def tiny_encodec(seed: int = 0) -> Encodec:
    """Random weights, 16 numbers a frame, with EnCodec's own rate and strides: for tests, no knowledge in it."""
    from transformers import EncodecConfig, EncodecModel

    config = EncodecConfig(hidden_size=16, num_filters=2, codebook_size=16, codebook_dim=16, num_lstm_layers=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = EncodecModel(config).eval().requires_grad_(False)
    return Encodec(model, f"tiny-encodec:{seed}")
