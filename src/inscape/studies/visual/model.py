"""The visual study's encoder on the disk: one safetensors file that needs nothing beside it.

The file's metadata holds the encoder's sizes and the tokenizer, so weights and vocabulary cannot be mixed up.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from inscape.checkpoint import load_weights, weights_of
from inscape.core.rundir import RunDir, write_atomically
from inscape.data.tokenizer import Tokenizer
from inscape.nn.latent_encoder import LatentEncoder, LatentEncoderConfig

__all__ = ["WEIGHTS", "TextToLatent", "encode", "load_encoder", "save_encoder"]

WEIGHTS = "encoder.safetensors"  # in a run directory
KIND = "inscape visual encoder 1"


class TextToLatent(NamedTuple):
    """An encoder (a LatentEncoder, or its running average) with the tokenizer that it was trained with."""

    encoder: nn.Module
    tokenizer: Tokenizer


def save_encoder(model: TextToLatent, run: RunDir) -> Path:
    """Write the weights into the run; returns the path."""
    sizes = json.dumps(dataclasses.asdict(_sizes(model)))
    metadata = {"kind": KIND, "config": sizes, "tokenizer": model.tokenizer.to_json()}
    path = run.path / WEIGHTS
    write_atomically(path, save(weights_of(model.encoder), metadata))
    return path


def load_encoder(path: Path) -> TextToLatent:
    """Read weights from a file or a run directory; ValueError in one line if they are missing, damaged or foreign."""
    path = Path(path)
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{file} does not exist; give a finished visual run or a weights file")
    tensors = load_weights(file)
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    if metadata.get("kind") != KIND:
        raise ValueError(f"{file} holds {metadata.get('kind', 'weights of unknown kind')!r}; wanted {KIND!r}")
    try:
        encoder = LatentEncoder(LatentEncoderConfig(**json.loads(metadata["config"])))
        encoder.load_state_dict(tensors)
        tokenizer = Tokenizer.from_json(metadata["tokenizer"])
    except (KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is damaged or of another version: {str(error).splitlines()[0]}") from None
    return TextToLatent(encoder.eval(), tokenizer)


@torch.inference_mode()
def encode(model: TextToLatent, sentences: list[str], batch: int = 64) -> Tensor:
    """Latents (B, C, H, W) float32 on the CPU. Sentences of like length share a batch; the order is kept."""
    device, longest = next(model.encoder.parameters()).device, _sizes(model).max_length
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    parts = []
    for start in range(0, len(order), batch):
        chunk = [sentences[i] for i in order[start : start + batch]]
        tokens_BT = torch.from_numpy(model.tokenizer.encode(chunk, max_length=longest))
        parts.append(model.encoder(tokens_BT.to(device)).cpu())
    latent_BCHW = torch.cat(parts)
    return latent_BCHW[torch.tensor(order).argsort()].contiguous()


def _sizes(model: TextToLatent) -> LatentEncoderConfig:
    config = model.encoder.config
    assert isinstance(config, LatentEncoderConfig)
    return config
