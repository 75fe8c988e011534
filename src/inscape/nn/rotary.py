"""Rotary positions: a token's place turns its queries and keys, so a score sees only how far apart two tokens are.

Legend: B batch, H heads, T tokens, E width of one head, F = E / 2 pairs of coordinates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["Angles", "rotary_angles", "rotate"]


class Angles(NamedTuple):
    """Cosine and sine of position times frequency."""

    cos: Tensor  # (T, F)
    sin: Tensor  # (T, F)


def rotary_angles(length: int, width: int, base: float = 10_000.0) -> Angles:
    """Angles for `length` positions and heads of `width` coordinates: theta_f = base^(-2f/width).

    Su et al. 2021 (RoFormer), equation 15. Our pairs are (f, f + width/2), not (2f, 2f + 1): a fixed permutation of the
    coordinates, which a learned projection absorbs.

    Raises ValueError if `width` is odd.
    """
    if width % 2:
        raise ValueError(f"rotary positions turn pairs of coordinates: the head width must be even, got {width}")
    # On the CPU, then moved: where shapes alone are wanted ("meta"), arange would import the compiler, a second's work.
    device = torch.empty(0).device
    exact = {"dtype": torch.float64, "device": "cpu"}
    frequency_F = base ** (-torch.arange(0, width, 2, **exact) / width)
    angle_TF = torch.arange(length, **exact)[:, None] * frequency_F
    return Angles(angle_TF.cos().float().to(device), angle_TF.sin().float().to(device))


def rotate(x_BHTE: Float[Tensor, "B H T E"], angles: Angles) -> Float[Tensor, "B H T E"]:
    """Turn each pair of coordinates of the t-th token by its angles; lengths of vectors stay the same."""
    tokens = x_BHTE.shape[-2]
    cos_TF = angles.cos[:tokens].to(x_BHTE.dtype)
    sin_TF = angles.sin[:tokens].to(x_BHTE.dtype)
    first, second = x_BHTE.chunk(2, dim=-1)
    return torch.cat((first * cos_TF - second * sin_TF, second * cos_TF + first * sin_TF), dim=-1)
