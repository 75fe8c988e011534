"""Latents and questions as they come over the wire, and what is refused at that door.

A latent travels as base64 of its float32 numbers, little-endian, channels first: 33 kB for 6 x 32 x 32.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["MOST_CHARACTERS", "Refused", "fields_of", "latent_from", "latent_to", "number_from", "sentence_from"]

MOST_CHARACTERS = 1000  # of a sentence; the encoder reads fewer tokens than that
LARGEST = 1e4  # of a latent's values, as for VisualCodec


class Refused(ValueError):
    """Bad input, in one line, with the field that it came in."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


def fields_of(body: bytes, allowed: tuple[str, ...]) -> dict[str, Any]:
    """The JSON object in a request's body; Refused on anything else and on a field that is not allowed."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(
            'the body is not JSON; send an object such as {"sentence": "a red ball is on the block"}'
        ) from None
    if not isinstance(found, dict):
        raise Refused(f"the body is a JSON {type(found).__name__}; send an object")
    for name in found:
        if name not in allowed:
            raise Refused(f"the field {name[:40]!r} is not known; allowed: {', '.join(allowed)}")
    return found


def sentence_from(fields: dict[str, Any], name: str) -> str:
    """A sentence; Refused if it is missing, empty, too long or no text."""
    value = fields.get(name)
    if not isinstance(value, str):
        given = "missing" if value is None else f"a {type(value).__name__}"
        raise Refused(f"{name} is {given}; give a sentence as text", name)
    if not value.strip():
        raise Refused(f"{name} is empty; type a sentence, such as: a red ball is on the blue block", name)
    if len(value) > MOST_CHARACTERS:
        raise Refused(f"{name} has {len(value)} characters; allowed: up to {MOST_CHARACTERS}", name)
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise Refused(f"{name} holds half a surrogate pair, which is no text; leave it out", name)
    return value


def number_from(fields: dict[str, Any], name: str, default: int, least: int, most: int) -> int:
    """A whole number from `least` to `most`; Refused on anything else."""
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Refused(f"{name} is {ascii(value)[:40]}; allowed: a whole number from {least} to {most}", name)
    return value


def latent_from(fields: dict[str, Any], name: str, shape: tuple[int, int, int]) -> Tensor:
    """A latent (C, H, W), float32; Refused if it is missing, of another size, or holds what is no number."""
    value, wanted = fields.get(name), math.prod(shape) * 4
    allowed = f"allowed: base64 of {wanted // 4} float32 numbers ({' x '.join(map(str, shape))}), little-endian"
    if not isinstance(value, str):
        raise Refused(f"{name} is {'missing' if value is None else f'a {type(value).__name__}'}; {allowed}", name)
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(f"{name} is not base64; {allowed}", name) from None
    if len(raw) != wanted:
        raise Refused(f"{name} holds {len(raw)} bytes; {allowed}", name)
    latent_CHW = np.frombuffer(raw, dtype="<f4").astype(np.float32).reshape(shape)
    if not (np.abs(latent_CHW) <= LARGEST).all():
        raise Refused(f"{name} holds NaN, infinite or huge values; allowed: up to {LARGEST:g}", name)
    return torch.from_numpy(latent_CHW)


def latent_to(latent_CHW: Tensor) -> str:
    """The text that `latent_from` reads."""
    return base64.b64encode(latent_CHW.numpy().astype("<f4").tobytes()).decode()
