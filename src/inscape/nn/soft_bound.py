"""Bounds with a slope everywhere: a hard clamp has none outside, so what strays beyond it never comes back."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["soft_bound", "unbounded"]


def soft_bound(x: Tensor, low: float, high: float) -> Tensor:
    """A strictly rising map of the real line into low..high, with slope 1 at the middle: c + h (2/pi) atan((pi/2) y).

    y = (x - c) / h, c the middle and h half of the width. The slope falls off as y^-2, and atan's derivative is exact
    there; of other sigmoids automatic differentiation takes the difference of two numbers that round to the same.
    ValueError unless low < high.
    """
    middle, half = _middle_and_half(low, high)
    scale = 0.5 * math.pi / half
    return middle + torch.atan((x - middle) * scale) / scale


def unbounded(value: float, low: float, high: float) -> float:
    """The x whose `soft_bound` is `value`, for starting a bias where it should begin. ValueError outside the bounds."""
    middle, half = _middle_and_half(low, high)
    if not low < value < high:
        raise ValueError(f"value={value} lies outside its bounds; allowed: {low} to {high}, both excluded")
    scale = 0.5 * math.pi / half
    return middle + math.tan((value - middle) * scale) / scale


def _middle_and_half(low: float, high: float) -> tuple[float, float]:
    if not low < high:
        raise ValueError(f"low={low}, high={high} bound nothing; allowed: low below high")
    return 0.5 * (low + high), 0.5 * (high - low)
