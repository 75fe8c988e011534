"""Rows of unlike length, worked through in two parts: the longer ones do not make the shorter ones pay for padding.

Legend: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Part", "in_order", "parts_by_length"]

WORTH = 0.95  # parts are made where together they have less than this share of the whole's places
MULTIPLE = 4  # divides a part's width: fewer shapes, and no odd ends
FEWEST = 32  # rows; of fewer, two calls cost more than padding


class Part(NamedTuple):
    """Some of the rows, and how many tokens of them there are."""

    row_B: Tensor
    tokens: int


def parts_by_length(keep_BT: Tensor, module: nn.Module) -> list[Part]:
    """The shorter half of the rows and the longer one; no parts where that saves little.

    keep_BT: False at padding, which stands at the end. On a GPU, where asking for lengths would make the host wait, and
    for a compiled `module`, which would be compiled anew for each shape, there are no parts.
    """
    if torch.compiler.is_compiling() or keep_BT.device.type != "cpu" or len(keep_BT) < FEWEST:
        return []
    if any(part._compiled_call_impl is not None for part in module.modules()):
        return []
    tokens = keep_BT.shape[1]
    length_B = (keep_BT * torch.arange(1, tokens + 1)).amax(1).numpy()
    order_B = length_B.argsort(kind="stable")
    width_B = (-(-length_B[order_B] // MULTIPLE) * MULTIPLE).clip(1, tokens)
    half = len(width_B) // 2  # not the best cut: of each new shape, half a millisecond goes into planning each product
    if half * width_B[half - 1] + (len(width_B) - half) * width_B[-1] >= WORTH * len(width_B) * tokens:
        return []
    cuts = ((order_B[:half], width_B[half - 1]), (order_B[half:], width_B[-1]))
    return [Part(torch.from_numpy(row_B), int(width)) for row_B, width in cuts]


def in_order(made: Sequence[Tensor], parts: Sequence[Part]) -> Tensor:
    """What was made of the parts, row by row as before they were parted."""
    return torch.cat(list(made))[torch.cat([part.row_B for part in parts]).argsort()]
