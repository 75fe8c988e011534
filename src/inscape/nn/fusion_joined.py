"""Queries, keys and values of layers that make all three with one map: each as a map of its own over the same weights.

    c_attn             GPT-2: queries, keys, values; its weight lies on its side (Conv1D)
    query_key_value    GPT-NeoX, BLOOM: of each head its query, key and value
    qkv_proj           Phi-3: queries, keys, values; there may be fewer key heads

Another arrangement under one of these names, such as Falcon's, CodeGen's or GPT-BigCode's, is not guessed at, nor one
whose queries go through a norm behind the map, as Persimmon's.

Legend: D width of the model, I = H E: heads times the width of one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["JoinedMaps", "joined_maps_of", "matrix_of"]

NORMS = ("q_layernorm", "q_norm", "query_layernorm")  # between the map and the attention: its parts would be without


class _Part:
    """Some outputs of a linear map, called as a map of its own; a hook on the whole catches them in a pass."""

    def __init__(self, whole: Any, rows_I: Tensor) -> None:
        self._whole, self._rows_I = whole, rows_I

    def __call__(self, x: Tensor) -> Tensor:
        bias = self._whole.bias
        return functional.linear(x, matrix_of(self._whole)[self._rows_I], None if bias is None else bias[self._rows_I])

    def register_forward_hook(self, hook: Callable[..., None]) -> Any:
        """`hook(module, args, output)` with this part of the output, after each pass; it cannot change it."""
        return self._whole.register_forward_hook(lambda module, args, out: hook(module, args, out[..., self._rows_I]))


class JoinedMaps(NamedTuple):
    """As those of `Projections`."""

    query: _Part
    key: _Part
    value: _Part
    out: Any
    key_heads: int
    width: int  # E


def joined_maps_of(part: nn.Module, heads: int) -> JoinedMaps | None:
    """The maps of a self-attention that has them in one, and the map behind it; None where they are not so arranged."""
    for name, out_name, by_head in (
        ("c_attn", "c_proj", False),
        ("query_key_value", "dense", True),
        ("qkv_proj", "o_proj", False),
    ):
        whole, out = getattr(part, name, None), getattr(part, out_name, None)
        if not isinstance(whole, nn.Module) or not isinstance(out, nn.Module):
            continue
        total, inner = len(matrix_of(whole)), matrix_of(out).shape[1]
        if (name == "c_attn" and type(whole).__name__ != "Conv1D") or any(hasattr(part, norm) for norm in NORMS):
            return None
        width, rest = inner // heads, (total - inner) // 2
        if inner % heads or rest % width or (total - inner) % 2 or (name != "qkv_proj" and total != 3 * inner):
            return None
        rows = torch.arange(total, device=matrix_of(whole).device)
        split = rows.view(heads, 3, width).unbind(1) if by_head else rows.split([inner, rest, rest])
        query, key, value = (_Part(whole, each.flatten()) for each in split)
        return JoinedMaps(query, key, value, out, rest // width, width)
    return None


def matrix_of(linear: Any) -> Tensor:
    """The weight of a linear map, outputs by inputs; that of a Conv1D of transformers lies the other way."""
    return linear.weight.T if type(linear).__name__ == "Conv1D" else linear.weight
