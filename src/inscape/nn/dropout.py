"""Dropout, with a cheap random source on CPUs: there PyTorch's own costs more than the matrix product before it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["dropout"]


def dropout(x: Tensor, rate: float) -> Tensor:
    """Zero each element with probability `rate` and scale the rest by 1 / (1 - rate); rate 0 returns `x` itself.

    Srivastava et al. 2014. On CPUs an element is dropped when its own byte of the default generator falls below
    256 rate, rounded; rates that a byte would miss by more than 2 % (0.1 becomes 0.1016) take two bytes. Draws are
    independent, and the scale is made for the rounded rate, so means stay exact.
    """
    if rate == 0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return functional.dropout(x, rate)
    kind, levels = torch.uint8, 256
    if abs(round(levels * rate) / levels - rate) > 0.02 * rate:
        kind, levels = torch.int16, 65536
    dropped = round(levels * rate)
    draws = torch.empty(x.numel() * kind.itemsize // 8 + 1, dtype=torch.int64)
    draws = draws.random_(-(2**63), None).view(kind)[: x.numel()].view(x.shape)
    # In place and in the element's own width: comparisons that change the type run an order of magnitude slower.
    keep = draws.ge_(dropped + torch.iinfo(kind).min).to(x.dtype)
    return x * keep.mul_(levels / (levels - dropped))
