"""Dropout, with a cheap random source on CPUs: there PyTorch's own costs as much as the matrix product before it."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

__all__ = ["dropout"]


def dropout(x: Tensor, rate: float) -> Tensor:
    """Zero each element with probability `rate` and scale the rest by 1 / (1 - rate); rate 0 returns `x` itself."""
    return functional.dropout(x, rate) if rate else x
