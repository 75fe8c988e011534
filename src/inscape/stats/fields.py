"""Planted worlds: synthetic images whose statistics are known, to test a statistic or a gate against.

Each is a pure function of its arguments and a torch.Generator (on the CPU; same generator state, same images).

Shapes: images (N, H, W), all of mean 0 and variance 1 but for `delta` and `checkerboard`, whose values are given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from inscape.stats.images import standardise

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Generator, Tensor

__all__ = ["checkerboard", "dead_leaves", "delta", "power_law", "ramp", "white_noise"]


def white_noise(count: int, height: int = 32, width: int = 32, *, generator: Generator) -> Float[Tensor, "N H W"]:
    """Independent Gaussian pixels: slope 0, kurtosis 3, no structure at all."""
    return standardise(torch.randn(count, height, width, generator=generator))


def power_law(
    alpha: float, count: int, height: int = 32, width: int = 32, *, exact: bool = False, generator: Generator
) -> Float[Tensor, "N H W"]:
    """Fields with power spectrum 1 / frequency^alpha, periodic, with random phases.

    Args:
        alpha: slope of power; 2 is the structureless twin of a photograph.
        count: how many.
        height: in pixels.
        width: in pixels.
        exact: every mode has exactly the power of the law; otherwise the field is Gaussian and has it on average.
        generator: source of the phases.
    """
    frequency = torch.sqrt(torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width)[None, :] ** 2)
    frequency[0, 0] = torch.inf
    modes = torch.fft.rfft2(torch.randn(count, height, width, generator=generator))
    if exact:
        modes = modes / modes.abs()
    return standardise(torch.fft.irfft2(modes * frequency ** (-alpha / 2), s=(height, width)))


def dead_leaves(
    count: int, height: int = 32, width: int = 32, *, leaves: int = 400, generator: Generator
) -> Float[Tensor, "N H W"]:
    """Opaque discs of random grey fallen on one another: the simplest world with objects and occlusion.

    Radii have density 1 / r^3, which makes the picture look alike at every scale (Lee, Mumford & Huang 2001); here
    from 1 pixel to half the longer side. What no leaf covers shows one further grey.
    """
    smallest, largest = 1.0, max(height, width) / 2
    rank = torch.rand(count, leaves, generator=generator)
    radius = (smallest**-2 - rank * (smallest**-2 - largest**-2)) ** -0.5
    # Leaves that fall outside still reach in with their rim.
    row = (torch.rand(count, leaves, generator=generator) * 2 - 0.5) * height
    column = (torch.rand(count, leaves, generator=generator) * 2 - 0.5) * width
    grey = torch.rand(count, leaves, generator=generator)
    images = torch.rand(count, 1, 1, generator=generator).repeat(1, height, width)
    rows, columns = torch.arange(height)[:, None] + 0.5, torch.arange(width)[None, :] + 0.5
    for leaf in range(leaves):
        down = (rows - row[:, leaf, None, None]).square()
        across = (columns - column[:, leaf, None, None]).square()
        covered = down + across <= radius[:, leaf, None, None].square()
        images = torch.where(covered, grey[:, leaf, None, None], images)
    return standardise(images)


def ramp(count: int, height: int = 32, width: int = 32, *, generator: Generator) -> Float[Tensor, "N H W"]:
    """Planes of constant slope in random directions: no wrap-around, no edges, no texture."""
    angle = 2 * torch.pi * torch.rand(count, 1, 1, generator=generator)
    down, across = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None, :]
    return standardise(angle.sin() * down + angle.cos() * across)


def checkerboard(count: int, height: int = 32, width: int = 32) -> Float[Tensor, "N H W"]:
    """+1 and -1 in turn: all power at the highest frequency, the artefact of transposed convolutions."""
    board = 1.0 - 2.0 * ((torch.arange(height)[:, None] + torch.arange(width)[None, :]) % 2)
    return board.expand(count, -1, -1).clone()


def delta(count: int, height: int = 32, width: int = 32) -> Float[Tensor, "N H W"]:
    """One pixel of 1 on 0: the sparsest image, with a flat spectrum."""
    images = torch.zeros(count, height, width)
    images[:, height // 2, width // 2] = 1.0
    return images
