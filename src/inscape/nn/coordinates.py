"""Coordinate channels: where a pixel lies, joined to the latent before its statistics are taken.

Legend: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["with_coordinates"]


def with_coordinates(latent_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C+2 H W"]:
    """The latent with two more channels, x and y, each running from -1 to 1 (Liu et al. 2018, CoordConv)."""
    batch, _, height, width = latent_BCHW.shape
    y_H = torch.linspace(-1, 1, height, dtype=latent_BCHW.dtype, device=latent_BCHW.device)
    x_W = torch.linspace(-1, 1, width, dtype=latent_BCHW.dtype, device=latent_BCHW.device)
    y_HW, x_HW = torch.meshgrid(y_H, x_W, indexing="ij")
    return torch.cat((latent_BCHW, torch.stack((x_HW, y_HW)).expand(batch, -1, -1, -1)), dim=1)
