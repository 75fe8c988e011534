"""Dropout, with a cheap random source on CPUs: there PyTorch's own costs more than the matrix product before it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["dropout"]


def dropout(x: Tensor, rate: float) -> Tensor:
    """Zero each element with probability `rate` and scale the rest by 1 / (1 - rate); rate 0 returns `x` itself.

    Srivastava et al. 2014. On CPUs an element is dropped when its own 16 bits of the default generator fall below
    round(65536 rate): independent draws, the rate exact to 1 / 131072, and the scale made for the rounded rate.
    """
    if rate == 0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return functional.dropout(x, rate)
    dropped = round(65536 * rate)
    draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    # In place and in the element's own width: comparisons that change the type run an order of magnitude slower.
    keep = draws.view(torch.int16)[: x.numel()].view(x.shape).ge_(dropped - 32768).to(x.dtype)
    return x * keep.mul_(65536 / (65536 - dropped))
