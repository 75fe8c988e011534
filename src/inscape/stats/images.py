"""What every statistic asks of its input: the last two axes are an image, and moments need more than half precision.

Shapes: x (..., H, W) -> (...).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = [
    "TINY",
    "as_images",
    "centre",
    "constant_when_compiled",
    "half_plane",
    "refuse_other_than_tensors",
    "standardise",
    "variance",
]

F = TypeVar("F", bound=Callable)

SMALLEST_SIDE = 4
# Added to variances of the order of 1. It keeps a flat image (and its gradient) finite, and is lost in rounding on any
# image whose standard deviation is above 1e-4.
TINY = 1e-12


def constant_when_compiled(function: F) -> F:
    """`torch.compiler.assume_constant_result` without the import of the whole compiler: a second of every start."""
    function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return function


def refuse_other_than_tensors(x: object) -> None:
    """ValueError in one line on an array, a list or anything else that torch cannot differentiate."""
    if not isinstance(x, torch.Tensor):
        raise ValueError(f"image statistics need a torch.Tensor, got {type(x).__name__}; give torch.as_tensor(x)")


def as_images(x: Float[Tensor, "*batch H W"]) -> Float[Tensor, "*batch H W"]:
    """Return x in float32, or float64 if it is that already; refuse what is no image of at least 4 x 4 pixels."""
    refuse_other_than_tensors(x)
    if x.ndim < 2 or x.shape[-1] < SMALLEST_SIDE or x.shape[-2] < SMALLEST_SIDE:
        raise ValueError(
            f"image statistics need (..., H, W) with H and W of at least {SMALLEST_SIDE}, got {tuple(x.shape)}"
        )
    if not x.is_floating_point():
        raise ValueError(f"image statistics need a floating-point tensor, got {x.dtype}; convert it with .float()")
    return x if x.dtype == torch.float64 else x.float()


def half_plane(x: Float[Tensor, "*batch H W"]) -> Tensor:
    """Modes (..., H, W // 2 + 1) of real images, scaled to keep energy; of no image none, where torch would refuse."""
    if not x.numel():
        return torch.complex(x, x)[..., : x.shape[-1] // 2 + 1]
    return torch.fft.rfft2(x, norm="ortho")


def centre(x: Float[Tensor, "*batch H W"]) -> Float[Tensor, "*batch H W"]:
    """Each image less its mean."""
    x = as_images(x)
    return x - x.mean((-2, -1), keepdim=True)


def variance(x: Float[Tensor, "*batch H W"]) -> Float[Tensor, "*batch"]:
    """Population variance over the pixels of each image (divided by H W)."""
    # Two plain passes: torch.var on a CPU takes ten times as long.
    return centre(x).square().mean((-2, -1))


def standardise(x: Float[Tensor, "*batch H W"]) -> Float[Tensor, "*batch H W"]:
    """Each image with mean 0 and variance 1; a flat image stays flat, and its gradients finite."""
    centred = centre(x)
    return centred * (centred.square().mean((-2, -1), keepdim=True) + TINY).rsqrt()
