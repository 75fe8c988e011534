"""Mimi's continuous latent: what its decoder would be given if the quantiser rounded nothing.

Mimi (Defossez et al. 2024, "Moshi", section 3.3) encodes 24 kHz speech by a convolutional encoder, a transformer, and a
downsampling to 12.5 Hz, and then quantises in two branches, a first (semantic) and the rest, each between linear maps
of its own. Leaving the rounding out and keeping the maps gives

    z = out_first(in_first(e)) + out_rest(in_rest(e))

which is on the distribution that the decoder was trained on; e itself is not (`project=False` gives e).

Legend: B batch, S samples, T frames, D width of the latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from inscape.pretrained.codec import encode_by_length, load_pretrained

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["DEFAULT", "Mimi", "open_mimi", "tiny_mimi"]

DEFAULT = "kyutai/mimi"


class Mimi:
    """A transformers MimiModel as an `AudioCodec`."""

    can_decode = True

    def __init__(self, model: Any, name: str, *, device: str = "cpu", project: bool = True) -> None:
        config = model.config
        self._model = model.to(device)
        self._device, self._project = torch.device(device), project
        self.name = name if project else f"{name} (not projected)"
        self.sample_rate, self.dimension = int(config.sampling_rate), int(config.hidden_size)
        self.rate_hz = float(config.frame_rate)
        self._block = round(self.sample_rate / self.rate_hz)

    def encode(self, samples: Sequence[Float[np.ndarray, " S"]]) -> list[Float[np.ndarray, "T D"]]:
        """See `AudioCodec.encode`."""
        return encode_by_length(samples, self._block, self._encode)

    @torch.inference_mode()
    def decode(self, latent_TD: Float[np.ndarray, "T D"]) -> Float[np.ndarray, " S"]:
        """The waveform of projected latents; of latents that were not projected the decoder makes no sense."""
        if not self._project:
            raise ValueError(f"{self.name} cannot be decoded: open it with project=True")
        latent_1DT = torch.as_tensor(np.array(latent_TD, dtype=np.float32), device=self._device).T[None]
        return decoded(self._model, latent_1DT)[0, 0].cpu().numpy()

    @torch.inference_mode()
    def _encode(self, samples_BS: np.ndarray) -> np.ndarray:
        raw_BDT = encoded(self._model, torch.as_tensor(samples_BS, device=self._device)[:, None])
        latent_BDT = projected(self._model.quantizer, raw_BDT) if self._project else raw_BDT
        return latent_BDT.transpose(1, 2).float().cpu().numpy()


def encoded(model: Any, samples_B1S: Tensor) -> Tensor:
    """e (B, D, T): encoder, its transformer, downsampling. From transformers 5.2 on the three are one module."""
    if hasattr(model.encoder, "encoder_seanet"):
        return model.encoder(samples_B1S).latents
    hidden_BTD = model.encoder_transformer(model.encoder(samples_B1S).transpose(1, 2)).last_hidden_state
    return model.downsample(hidden_BTD.transpose(1, 2))


def projected(quantizer: Any, raw_BDT: Tensor) -> Tensor:
    """z (B, D, T) of e (B, D, T), by the formula above; a branch without maps passes its input on."""
    first, rest = quantizer.semantic_residual_vector_quantizer, quantizer.acoustic_residual_vector_quantizer
    total = torch.zeros_like(raw_BDT)
    for branch in (first, rest):
        inner = raw_BDT if branch.input_proj is None else branch.input_proj(raw_BDT)
        total = total + (inner if branch.output_proj is None else branch.output_proj(inner))
    return total


def decoded(model: Any, latent_BDT: Tensor) -> Tensor:
    """Waveforms (B, 1, S) of latents as the quantiser would hand them on."""
    if hasattr(model.decoder, "decoder_seanet"):
        return model.decoder(latent_BDT).audio_values
    hidden_BTD = model.decoder_transformer(model.upsample(latent_BDT).transpose(1, 2)).last_hidden_state
    return model.decoder(hidden_BTD.transpose(1, 2))


def open_mimi(where: str = DEFAULT, device: str = "cpu", project: bool = True) -> Mimi:
    """Mimi by hub name or folder. ValueError in one line where its weights are not to be had."""
    from transformers import MimiModel

    name = f"mimi:{Path(where).name}" if where else "mimi"
    return Mimi(load_pretrained(MimiModel, where or DEFAULT, "mimi"), name, device=device, project=project)


def tiny_mimi(seed: int = 0, project: bool = True) -> Mimi:
    """Random weights, 32 numbers a frame, with Mimi's own rates and strides: for tests, no speech knowledge in it."""
    from transformers import MimiConfig, MimiModel

    config = MimiConfig(
        hidden_size=32,
        num_filters=4,
        num_hidden_layers=2,
        intermediate_size=32,
        num_attention_heads=2,
        num_key_value_heads=2,
        codebook_size=16,
        codebook_dim=8,
        vector_quantization_hidden_dimension=8,
        num_quantizers=2,
        upsample_groups=32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MimiModel(config).eval().requires_grad_(False)
    return Mimi(model, f"tiny-mimi:{seed}", project=project)
