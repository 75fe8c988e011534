"""Small transforms of a latent: T of the jitter test, noise, and the controls that must take the meaning away.

If a meaning survives a shift, a mild blur and a small hole, it is drawn in the picture and not hidden in single pixels.
Shuffled places and swapped sentences keep every statistic of the pixels and must lose the meaning.

All are differentiable with respect to the latent and act on a whole batch at once, every sample with its own draw from
`generator` (on the latent's device; None is torch's global one). No value is read back, so an accelerator never waits.

Legend: B samples, C channels, H height, W width, N places (patches) of a latent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = [
    "JitterConfig",
    "add_noise",
    "blur",
    "cutout",
    "derangement",
    "gaussian_blur",
    "jitter",
    "random_blur",
    "random_shift",
    "shift",
    "shuffle_places",
    "swap_sentences",
]

TINY = 1e-3  # pixels: a Gaussian this narrow is one tap, exactly


@dataclass(frozen=True)
class JitterConfig:
    """T of the plan: a shift, then a blur, then a hole, each with its own probability for each sample. 0 is off."""

    shift: int = 2  # pixels, at most, in each direction
    shift_probability: float = 0.5
    blur: float = 0.8  # sigma at most, pixels
    blur_probability: float = 0.5
    cutout: int = 6  # side of the square, pixels
    cutout_probability: float = 0.5

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            most = 1 if name.endswith("_probability") else math.inf
            if not (math.isfinite(value) and 0 <= value <= most):
                allowed = "0 to 1" if most == 1 else "0 or more"
                raise ValueError(f"jitter.{name}={value} is out of range; allowed: {allowed}")


def jitter(
    latent_BCHW: Float[Tensor, "B C H W"], config: JitterConfig, *, generator: Generator | None = None
) -> Float[Tensor, "B C H W"]:
    """T(V): `random_shift`, `random_blur` and `cutout`, in this order."""
    moved = random_shift(latent_BCHW, config.shift, probability=config.shift_probability, generator=generator)
    soft = random_blur(moved, config.blur, probability=config.blur_probability, generator=generator)
    return cutout(soft, config.cutout, probability=config.cutout_probability, generator=generator)


def shift(
    latent_BCHW: Float[Tensor, "B C H W"], dy_B: Int[Tensor, " B"], dx_B: Int[Tensor, " B"]
) -> Float[Tensor, "B C H W"]:
    """Move each sample `dy` pixels down and `dx` right: out[y, x] = in[y - dy, x - dx].

    Edges are replicated: what moves in is the outermost row or column again. Wrapping around would bring the far edge
    in, and zeros would be a frame that no latent has.
    """
    rows_BH, columns_BW = (_sources(d_B, size) for d_B, size in zip((dy_B, dx_B), latent_BCHW.shape[2:], strict=True))
    down_BCHW = latent_BCHW.gather(2, rows_BH[:, None, :, None].expand_as(latent_BCHW))
    return down_BCHW.gather(3, columns_BW[:, None, None].expand_as(latent_BCHW))


def _sources(offset_B: Tensor, size: int) -> Tensor:
    return (torch.arange(size, device=offset_B.device) - offset_B[:, None]).clamp(0, size - 1)


def random_shift(
    latent_BCHW: Float[Tensor, "B C H W"],
    pixels: int = 2,
    *,
    probability: float = 1.0,
    generator: Generator | None = None,
) -> Float[Tensor, "B C H W"]:
    """`shift` by whole pixels, uniform over -pixels .. pixels in each direction (0 is among them)."""
    if pixels == 0 or probability == 0:
        return latent_BCHW
    size, device = (2, len(latent_BCHW)), latent_BCHW.device
    offset_2B = torch.randint(-pixels, pixels + 1, size, device=device, generator=generator)
    dy_B, dx_B = offset_2B * _chosen(latent_BCHW, probability, generator)
    return shift(latent_BCHW, dy_B, dx_B)


def gaussian_blur(latent_BCHW: Float[Tensor, "B C H W"], sigma: float) -> Float[Tensor, "B C H W"]:
    """Separable Gaussian blur, `sigma` in pixels, mirrored at the borders. sigma 0 returns the input."""
    if sigma == 0:
        return latent_BCHW
    radius = max(1, math.ceil(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=latent_BCHW.dtype, device=latent_BCHW.device)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    channels = latent_BCHW.shape[1]
    padded = functional.pad(latent_BCHW, (radius,) * 4, mode="reflect")
    across = functional.conv2d(padded, kernel.expand(channels, 1, 1, -1), groups=channels)
    return functional.conv2d(across, kernel[:, None].expand(channels, 1, -1, 1), groups=channels)


def blur(
    latent_BCHW: Float[Tensor, "B C H W"], sigma: float | Float[Tensor, " B"], *, radius: int = 3
) -> Float[Tensor, "B C H W"]:
    """`gaussian_blur` with one sigma for all, or with one for each sample.

    Of a tensor the widest sigma cannot be known without waiting for it, so `radius` (pixels) says where the kernel
    ends; 3 holds 99.7 % of a sigma of 1. It is not used for a number.
    """
    if not isinstance(sigma, Tensor):
        return gaussian_blur(latent_BCHW, sigma)
    offset_K = torch.arange(-radius, radius + 1, device=sigma.device)
    kernel_BK = torch.exp(-(offset_K**2) / (2 * sigma[:, None].clamp_min(TINY) ** 2))
    kernel_KB111 = (kernel_BK / kernel_BK.sum(1, keepdim=True)).T[..., None, None, None].to(latent_BCHW.dtype)
    for axis in (2, 3):
        size = latent_BCHW.shape[axis]
        sides = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
        padded = functional.pad(latent_BCHW, sides, mode="reflect")
        # A sum of slices: a convolution with as many groups as samples is no faster, and autocast would round it.
        taps = [tap_B111 * padded.narrow(axis, k, size) for k, tap_B111 in enumerate(kernel_KB111)]
        latent_BCHW = torch.stack(taps).sum(0)
    return latent_BCHW


def random_blur(
    latent_BCHW: Float[Tensor, "B C H W"],
    sigma: float = 0.8,
    *,
    probability: float = 1.0,
    generator: Generator | None = None,
) -> Float[Tensor, "B C H W"]:
    """`blur` with a sigma uniform between 0 and `sigma` pixels."""
    if sigma == 0 or probability == 0:
        return latent_BCHW
    sigma_B = sigma * torch.rand(len(latent_BCHW), device=latent_BCHW.device, generator=generator)
    sigma_B = sigma_B * _chosen(latent_BCHW, probability, generator)
    return blur(latent_BCHW, sigma_B, radius=max(1, math.ceil(3 * sigma)))


def cutout(
    latent_BCHW: Float[Tensor, "B C H W"],
    size: int,
    *,
    probability: float = 1.0,
    generator: Generator | None = None,
) -> Float[Tensor, "B C H W"]:
    """Set a square of `size` pixels in all channels at once to the sample's own mean of each channel.

    The square lies wholly inside, uniformly over its places; the mean is over the whole plane, so the hole has the
    sample's usual level and says only where it is (DeVries & Taylor 2017, with zeros for centred pictures).
    ValueError if the square does not fit.
    """
    high, wide = latent_BCHW.shape[2:]
    if not 0 <= size <= min(high, wide):
        raise ValueError(f"cutout: size={size} is out of range; allowed: 0 to {min(high, wide)}")
    if size == 0 or probability == 0:
        return latent_BCHW
    hole_B1HW = _chosen(latent_BCHW, probability, generator)[:, None, None, None]
    for axis, length in ((2, high), (3, wide)):
        device = latent_BCHW.device
        first_B = torch.randint(0, length - size + 1, (len(latent_BCHW),), device=device, generator=generator)
        place_BL = torch.arange(length, device=device) - first_B[:, None]
        inside_BL = (place_BL >= 0) & (place_BL < size)
        hole_B1HW = hole_B1HW & (inside_BL[:, None, :, None] if axis == 2 else inside_BL[:, None, None])
    return torch.where(hole_B1HW, latent_BCHW.mean((2, 3), keepdim=True), latent_BCHW)


def add_noise(
    latent_BCHW: Float[Tensor, "B C H W"],
    std_fraction: float | Float[Tensor, " B"],
    *,
    generator: Generator | None = None,
) -> Float[Tensor, "B C H W"]:
    """Add white Gaussian noise whose standard deviation is `std_fraction` of the sample's own, over C, H and W.

    The sample's standard deviation counts as a constant: a gradient through it would pay for a flatter latent.
    """
    noise_BCHW = torch.randn(latent_BCHW.shape, dtype=latent_BCHW.dtype, device=latent_BCHW.device, generator=generator)
    level_B = latent_BCHW.detach().std((1, 2, 3), correction=0) * std_fraction
    return latent_BCHW + level_B.to(latent_BCHW.dtype)[:, None, None, None] * noise_BCHW


def shuffle_places(
    latent_BCHW: Float[Tensor, "B C H W"], patch: int, *, generator: Generator | None = None
) -> Float[Tensor, "B C H W"]:
    """Control: the patches of `patch` x `patch` pixels in a random order, one for each sample, all channels alike.

    What a bag of patches holds is still there, where it stood is not. ValueError if patches do not tile the latent, or
    if there is only one.
    """
    batch, channels, high, wide = latent_BCHW.shape
    if patch < 1 or high % patch or wide % patch or patch == high == wide:
        raise ValueError(f"shuffle_places: patch={patch} does not cut {high} x {wide} pixels into equal places")
    grid = (high // patch, wide // patch)
    cut = latent_BCHW.reshape(batch, channels, grid[0], patch, grid[1], patch)
    place_BNF = cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, grid[0] * grid[1], -1)
    order_BN = torch.rand(place_BNF.shape[:2], device=latent_BCHW.device, generator=generator).argsort(1)
    mixed_BNF = place_BNF.gather(1, order_BN[..., None].expand_as(place_BNF))
    return mixed_BNF.reshape(batch, *grid, channels, patch, patch).permute(0, 3, 1, 4, 2, 5).reshape_as(latent_BCHW)


def swap_sentences(
    latent_BCHW: Float[Tensor, "B C H W"], *, generator: Generator | None = None
) -> Float[Tensor, "B C H W"]:
    """Control: every sentence gets the latent of another one of the batch, none its own.

    Equal sentences in a batch can still get each other's. ValueError below two samples.
    """
    return latent_BCHW[derangement(len(latent_BCHW), device=latent_BCHW.device, generator=generator)]


def derangement(
    count: int, *, device: torch.device | str | None = None, generator: Generator | None = None
) -> Int[Tensor, " B"]:
    """A random permutation of 0 .. count - 1 that leaves nothing in place, each other place equally likely.

    One cycle through all in random order (Sattolo 1986), which needs no second try. ValueError below two.
    """
    if count < 2:
        raise ValueError(f"derangement: {count} given, and one alone can only stay in place; wanted 2 or more")
    order_B = torch.rand(count, device=device, generator=generator).argsort()
    return torch.empty_like(order_B).scatter_(0, order_B, order_B.roll(1))


def _chosen(latent_BCHW: Tensor, probability: float, generator: Generator | None) -> Tensor:
    """Which samples are transformed: True with `probability`, each for itself."""
    return torch.rand(len(latent_BCHW), device=latent_BCHW.device, generator=generator) < probability
