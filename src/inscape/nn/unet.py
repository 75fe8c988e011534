"""A tiny U-Net over latents: what P6 trains, on latents of this project alone, to say what a latent should look like.

It takes a noised latent and a time, and gives a latent: the noise in it, or the velocity, as `inscape.nn.diffusion`
asks. The latents' mean and standard deviation lie beside its weights, as buffers, so that they travel with them.

The shape is that of Ronneberger et al. 2015 with the blocks of Ho et al. 2020 and the time conditioning of Nichol &
Dhariwal 2021. Our choices: half the size is average pooling and double the size is repetition, without convolutions of
their own; the second convolution of every block and the last layer start at zero, so that a fresh net predicts 0 and
its blocks pass through what they get; there is no dropout, so training and evaluation mode are the same.

Legend: B batch, C channels, H height, W width, N = H W places, E width of the time embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from inscape.nn.attention import SelfAttention, init_linear

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["LatentNormaliser", "UNet", "UNetConfig", "time_features"]

LEAST_STD = 1e-6  # floor of a channel's standard deviation: a dead channel stays finite
TIME_SCALE = 1000.0  # times from 0 to 1 are spread over the range that the features were made for
LONGEST_PERIOD = 10_000.0
# Far above what trains: a slip of the keyboard must not take the machine's memory.
LARGEST = {"channels": 256, "width": 1024, "blocks": 16, "heads": 64, "groups": 1024}
MOST_LEVELS = 8


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the net. The defaults are the `small` size: 1.14 M parameters.

    A training step of 64 latents of 32 x 32 takes 0.2 s of one CPU core.
    """

    channels: int = 6  # of the latent
    width: int = 16  # channels at full size
    multipliers: tuple[int, ...] = (1, 2, 4, 6)  # of the width, a level each; every level has half the height and width
    blocks: int = 1  # residual blocks a level, on the way down and again on the way up
    heads: int = 4  # attention heads at the coarsest level
    groups: int = 8  # of channels that are normalised together

    def __post_init__(self) -> None:
        for name, most in LARGEST.items():
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"unet.{name}={getattr(self, name)} is out of range; allowed: 1 to {most}")
        if not 1 <= len(self.multipliers) <= MOST_LEVELS or not all(1 <= m <= 64 for m in self.multipliers):
            raise ValueError(
                f"unet.multipliers={list(self.multipliers)} is out of range; allowed: 1 to {MOST_LEVELS} of 1 to 64"
            )
        if self.width % self.groups:
            raise ValueError(f"unet.width={self.width} must be a multiple of unet.groups={self.groups}")
        if self.widths[-1] % self.heads:
            raise ValueError(
                f"unet.heads={self.heads} must divide the {self.widths[-1]} channels of the coarsest level"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, from full size to coarsest."""
        return tuple(self.width * m for m in self.multipliers)

    @property
    def divisor(self) -> int:
        """What height and width must be multiples of."""
        return 2 ** (len(self.multipliers) - 1)


class LatentNormaliser(nn.Module):
    """Mean and standard deviation of each channel, over latents and places; 0 and 1 until measured."""

    mean_C: Tensor
    std_C: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean_C", torch.zeros(channels))
        self.register_buffer("std_C", torch.ones(channels))

    @torch.no_grad()
    def measure(self, latent_BCHW: Float[Tensor, "B C H W"]) -> None:
        """Set both from latents; ValueError if there are none, or other channels, or some are not finite."""
        if latent_BCHW.ndim != 4 or latent_BCHW.shape[1] != len(self.mean_C) or not latent_BCHW.numel():
            raise ValueError(f"latents of shape {tuple(latent_BCHW.shape)}; wanted (B, {len(self.mean_C)}, H, W)")
        variance_C, mean_C = torch.var_mean(latent_BCHW.float(), (0, 2, 3), correction=0)
        if not variance_C.isfinite().all():
            raise ValueError("some latents are not finite: leave them out")
        self.mean_C.copy_(mean_C)
        self.std_C.copy_(variance_C.sqrt().clamp_min(LEAST_STD))

    def standardised(self, latent_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """(V - mean) / std."""
        return (latent_BCHW - self.mean_C[:, None, None]) / self.std_C[:, None, None]

    def restored(self, latent_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The inverse of `standardised`."""
        return latent_BCHW * self.std_C[:, None, None] + self.mean_C[:, None, None]


def time_features(time_B: Float[Tensor, " B"], count: int) -> Float[Tensor, "B E"]:
    """Sines, then cosines, of 1000 times the time at count / 2 frequencies from 1 down to about 1 / 10 000.

    Vaswani et al. 2017, section 3.5, as Ho et al. 2020 use it. ValueError for an odd count.
    """
    if count % 2:
        raise ValueError(f"time features: {count} given; wanted an even number, half sines and half cosines")
    order_F = torch.arange(count // 2, device=time_B.device, dtype=torch.float32) / (count // 2)
    angle_BF = TIME_SCALE * time_B.float()[:, None] * torch.exp(-math.log(LONGEST_PERIOD) * order_F)
    return torch.cat((angle_BF.sin(), angle_BF.cos()), 1)


class ResidualBlock(nn.Module):
    """norm, SiLU, convolve; norm, scale and shift by the time, SiLU, convolve; plus what came in."""

    def __init__(self, inputs: int, outputs: int, embedding: int, groups: int) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(groups, inputs)
        self.convolve_in = init_convolution(nn.Conv2d(inputs, outputs, 3, padding=1))
        self.scale_shift = init_linear(nn.Linear(embedding, 2 * outputs))
        self.norm_out = nn.GroupNorm(groups, outputs)
        self.convolve_out = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Identity() if inputs == outputs else init_convolution(nn.Conv2d(inputs, outputs, 1))

    def forward(self, x_BCHW: Tensor, embedded_BE: Tensor) -> Tensor:
        h_BCHW = self.convolve_in(functional.silu(self.norm_in(x_BCHW)))
        scale_BC11, shift_BC11 = self.scale_shift(embedded_BE)[..., None, None].chunk(2, 1)
        h_BCHW = torch.addcmul(shift_BC11, self.norm_out(h_BCHW), 1 + scale_BC11)
        return self.skip(x_BCHW) + self.convolve_out(functional.silu(h_BCHW))


class PlaceAttention(nn.Module):
    """Every place reads all others: x + attention(norm(x))."""

    def __init__(self, channels: int, heads: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels)
        self.attention = SelfAttention(channels, heads, 0.0)
        nn.init.zeros_(self.attention.out.weight)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BNC = self.norm(x_BCHW).flatten(2).transpose(1, 2)
        read_BNC = self.attention(x_BNC, x_BNC.new_zeros(x_BNC.shape[:2]))
        return x_BCHW + read_BNC.transpose(1, 2).reshape(x_BCHW.shape)


class UNet(nn.Module):
    """A noised latent, standardised, and its time in [0, 1] to a latent of the same shape; a fresh net gives 0."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, blocks, embedding = config.widths, config.blocks, 4 * config.width
        self.normaliser = LatentNormaliser(config.channels)
        self.embed_time = nn.Sequential(
            init_linear(nn.Linear(embedding, embedding)), nn.SiLU(), init_linear(nn.Linear(embedding, embedding))
        )
        self.enter = init_convolution(nn.Conv2d(config.channels, widths[0], 3, padding=1))
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        now = widths[0]
        for width in widths:
            for _ in range(blocks):
                self.down.append(ResidualBlock(now, width, embedding, config.groups))
                now = width
        self.middle_in = ResidualBlock(now, now, embedding, config.groups)
        self.attend = PlaceAttention(now, config.heads, config.groups)
        self.middle_out = ResidualBlock(now, now, embedding, config.groups)
        for width in reversed(widths):
            for _ in range(blocks):
                self.up.append(ResidualBlock(now + width, width, embedding, config.groups))
                now = width
        self.norm = nn.GroupNorm(config.groups, now)
        self.leave = zeroed(nn.Conv2d(now, config.channels, 3, padding=1))

    def forward(self, noised_BCHW: Float[Tensor, "B C H W"], time_B: Float[Tensor, " B"]) -> Float[Tensor, "B C H W"]:
        """ValueError for a height or width that cannot be halved once for each level after the first."""
        self._check(noised_BCHW)
        blocks, last = self.config.blocks, len(self.down) - 1
        embedded_BE = functional.silu(self.embed_time(time_features(time_B, 4 * self.config.width)))
        x_BCHW, kept = self.enter(noised_BCHW), []
        for i, block in enumerate(self.down):
            x_BCHW = block(x_BCHW, embedded_BE)
            kept.append(x_BCHW)
            if (i + 1) % blocks == 0 and i < last:
                x_BCHW = functional.avg_pool2d(x_BCHW, 2)
        x_BCHW = self.middle_out(self.attend(self.middle_in(x_BCHW, embedded_BE)), embedded_BE)
        for i, block in enumerate(self.up):
            x_BCHW = block(torch.cat((x_BCHW, kept.pop()), 1), embedded_BE)
            if (i + 1) % blocks == 0 and i < last:
                x_BCHW = functional.interpolate(x_BCHW, scale_factor=2.0, mode="nearest")
        return self.leave(functional.silu(self.norm(x_BCHW)))

    def _check(self, noised_BCHW: Tensor) -> None:
        wanted, divisor = self.config.channels, self.config.divisor
        if noised_BCHW.ndim != 4 or noised_BCHW.shape[1] != wanted or any(n % divisor for n in noised_BCHW.shape[2:]):
            raise ValueError(
                f"latents of shape {tuple(noised_BCHW.shape)}; wanted (B, {wanted}, H, W) with H and W multiples of "
                f"{divisor}, for {len(self.config.multipliers)} levels"
            )


def init_convolution(convolution: nn.Conv2d) -> nn.Conv2d:
    """Zero bias and weights of variance 1 / inputs, as `init_linear`."""
    nn.init.normal_(convolution.weight, std=convolution.weight[0].numel() ** -0.5)
    return _without_bias(convolution)


def zeroed(convolution: nn.Conv2d) -> nn.Conv2d:
    """Weights and bias 0."""
    nn.init.zeros_(convolution.weight)
    return _without_bias(convolution)


def _without_bias(convolution: nn.Conv2d) -> nn.Conv2d:
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return convolution
