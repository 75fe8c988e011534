"""What a net on noised latents learns, and how a latent is drawn or cleaned with it: diffusion and flow matching.

P6 holds V to what such a net makes of a noised V. Two ways to learn that, behind one interface, so that a phase picks
by a word (`noise_process`) and the comparison is of methods, not of plumbing:

    loss(net, V, generator)              one number to train the net by
    denoise(net, V, level, generator)    V noised to `level`, then cleaned by one step; the net gets no gradient
    sample(net, shape, steps, generator) latents out of noise, in `steps` steps

A noised latent is alpha x + sigma noise, where x is V standardised by `net.normaliser`, the only place that holds the
mean and standard deviation; latents go in and come out in their own units. `level`, above 0 and below 1, is the share
of noise sigma / (alpha + sigma) in both, so one level is one signal-to-noise ratio, ((1 - level) / level)^2.
Every draw is from `generator`, which lies on the latents' device; None is torch's global one, which `fit` seeds anew
each step. A level may be a number or one for each sample; the latter are not checked, as an accelerator would wait.

Legend: B batch, C channels, H height, W width, T steps of a schedule, 111 axes of length 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Protocol, final

import torch
from torch import Generator, Tensor
from torch.nn import functional

from inscape.nn.unet import LatentNormaliser

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = [
    "Denoiser",
    "Diffusion",
    "FlowMatching",
    "NoiseProcess",
    "Prediction",
    "Schedule",
    "noise_process",
    "prior_loss",
]

COSINE_OFFSET = 0.008  # Nichol & Dhariwal 2021: keeps the first steps from being too small to notice
LARGEST_BETA = 0.999  # the same, section 3.2: no step may destroy everything
LINEAR_BETAS = (1e-4, 0.02)  # Ho et al. 2020, of the first and the last of 1000 steps
MOST_STEPS = 100_000


class Denoiser(Protocol):
    """What is trained: `inscape.nn.unet.UNet`, or in a test the exact answer."""

    normaliser: LatentNormaliser

    def __call__(self, noised_BCHW: Tensor, time_B: Tensor, /) -> Tensor:
        """Of standardised latents and times in [0, 1]: the noise in them (`Diffusion`) or the velocity."""
        ...


@final
@dataclass(frozen=True)
class Schedule:
    """How a latent drowns in noise over T steps: alpha_bar, the share of its variance left after each.

    cosine: Nichol & Dhariwal 2021, equation 17, with their bound on the betas. linear: Ho et al. 2020, section 4; for
    T other than 1000 the betas are scaled by 1000 / T, so that the latent drowns alike, and bounded as well.
    """

    shape: str = "cosine"  # cosine | linear
    steps: int = 1000

    def __post_init__(self) -> None:
        if self.shape not in ("cosine", "linear"):
            raise ValueError(f"schedule.shape={self.shape!r} is not known; allowed: cosine | linear")
        if not 1 <= self.steps <= MOST_STEPS:
            raise ValueError(f"schedule.steps={self.steps} is out of range; allowed: 1 to {MOST_STEPS}")

    def alpha_bar(self, device: torch.device | str = "cpu") -> Float[Tensor, " T+1"]:
        """Of steps 0 (clean, exactly 1) to T; float64, falling. Made once for each device: do not write to it."""
        return _alpha_bar(self.shape, self.steps, torch.device(device))

    def signal_to_noise(self, t_B: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """alpha_bar / (1 - alpha_bar) of steps 1 to T, float64; infinite at step 0."""
        alpha_bar_B = self.alpha_bar(t_B.device)[t_B]
        return alpha_bar_B / (1 - alpha_bar_B)

    def nearest(self, level_B: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
        """The step, 1 to T, whose share of noise sigma / (alpha + sigma) is nearest to each level."""
        alpha_bar_T = self.alpha_bar(level_B.device)[1:]
        alpha_T, sigma_T = alpha_bar_T.sqrt(), (1 - alpha_bar_T).sqrt()
        share_T = sigma_T / (alpha_T + sigma_T)
        return 1 + torch.bucketize(level_B.double(), (share_T[1:] + share_T[:-1]) / 2)


@lru_cache(maxsize=16)
def _alpha_bar(shape: str, steps: int, device: torch.device) -> Tensor:
    if shape == "cosine":
        passed = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        left = torch.cos((passed + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2
        beta = 1 - left[1:] / left[:-1]
    else:
        beta = torch.linspace(*LINEAR_BETAS, steps, dtype=torch.float64) * (1000 / steps)
    kept = (1 - beta.clamp(max=LARGEST_BETA)).cumprod(0)
    return torch.cat((torch.ones(1, dtype=torch.float64), kept)).to(device)


class Prediction(NamedTuple):
    """What a noised latent is made of, by the net: alpha clean + sigma noise is the noised latent again."""

    clean_BCHW: Tensor
    noise_BCHW: Tensor


@final
@dataclass(frozen=True)
class Diffusion:
    """Noise is predicted (Ho et al. 2020); latents are drawn by DDIM without noise (Song et al. 2021, eta 0).

    The loss is that of the noise whatever the net puts out. Of the output `noise`, an error stands in the clean latent
    divided by alpha, which is almost nothing near step T. Of `velocity`, v (Salimans & Ho 2022, section 4), nothing is
    divided, and a fresh net, v = 0, is exact for unit Gaussian latents:

        clean = alpha x_t - sigma v        noise = sigma x_t + alpha v

    After 500 steps on latents of the visual study, what was drawn by way of `noise` was three times too wide, and by
    way of `velocity` right within 15 %; but at levels 0.2 to 0.5, `noise` left about a third less error. The net's
    time is t / T.
    """

    schedule: Schedule = Schedule()
    output: str = "velocity"  # velocity | noise: what the net's output is read as
    gamma: float = 5.0  # bound on the signal-to-noise ratio in the weights; inf = weight 1 for all, as Ho et al.
    limit: float = 8.0  # standard deviations that clean latents are clamped to, after Ho et al.; inf = never

    def __post_init__(self) -> None:
        if self.output not in ("velocity", "noise"):
            raise ValueError(f"diffusion.output={self.output!r} is not known; allowed: velocity | noise")
        for name in ("gamma", "limit"):
            if not getattr(self, name) > 0:
                raise ValueError(f"diffusion.{name}={getattr(self, name)} is out of range; allowed: above 0")

    def loss(
        self, net: Denoiser, latent_BCHW: Float[Tensor, "B C H W"], generator: Generator | None
    ) -> Float[Tensor, ""]:
        """Mean of weight(t) (predicted noise - noise)^2 over samples, each at its own t, uniform over 1 .. T."""
        x_BCHW = net.normaliser.standardised(latent_BCHW.float())
        size, device = (len(x_BCHW),), x_BCHW.device
        t_B = torch.randint(1, self.schedule.steps + 1, size, generator=generator, device=device)
        noise_BCHW = _noise_like(x_BCHW, generator)
        predicted_BCHW = self._noise_in(net, self.noised(x_BCHW, t_B, noise_BCHW), t_B)
        error_B = (predicted_BCHW - noise_BCHW).square().flatten(1).mean(1)
        return (self.weight(t_B).to(error_B.dtype) * error_B).mean()

    def weight(self, t_B: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """min(SNR, gamma) / SNR, float64: min-SNR-gamma for noise prediction (Hang et al. 2023)."""
        return (self.gamma / self.schedule.signal_to_noise(t_B)).clamp(max=1)

    @torch.no_grad()
    def denoise(
        self,
        net: Denoiser,
        latent_BCHW: Float[Tensor, "B C H W"],
        level: float | Float[Tensor, " B"],
        generator: Generator | None,
    ) -> Float[Tensor, "B C H W"]:
        """The latents, noised to the step nearest to `level`, then cleaned by one DDIM step to 0. No gradient."""
        x_BCHW = net.normaliser.standardised(latent_BCHW.float())
        t_B = self.schedule.nearest(_levels(level, x_BCHW))
        noised_BCHW = self.noised(x_BCHW, t_B, _noise_like(x_BCHW, generator))
        return net.normaliser.restored(self.step(net, noised_BCHW, t_B, torch.zeros_like(t_B)))

    @torch.no_grad()
    def sample(
        self, net: Denoiser, shape: Sequence[int], steps: int, generator: Generator | None
    ) -> Float[Tensor, "B C H W"]:
        """Latents of `shape` (B, C, H, W) by `steps` DDIM steps, evenly spread over the schedule."""
        if not 1 <= steps <= self.schedule.steps:
            raise ValueError(f"steps={steps} is out of range; allowed: 1 to the schedule's {self.schedule.steps}")
        x_BCHW = _pure_noise(net, shape, generator)
        times = [round(self.schedule.steps * left / steps) for left in range(steps, -1, -1)]
        for t, s in pairwise(times):
            t_B = torch.full((len(x_BCHW),), t, device=x_BCHW.device)
            x_BCHW = self.step(net, x_BCHW, t_B, torch.full_like(t_B, s))
        return net.normaliser.restored(x_BCHW)

    def noised(
        self, x_BCHW: Float[Tensor, "B C H W"], t_B: Int[Tensor, " B"], noise_BCHW: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B C H W"]:
        """sqrt(alpha_bar_t) x + sqrt(1 - alpha_bar_t) noise, of standardised latents."""
        alpha_B111, sigma_B111 = self._amplitudes(t_B, x_BCHW.dtype)
        return alpha_B111 * x_BCHW + sigma_B111 * noise_BCHW

    def predicted(self, net: Denoiser, noised_BCHW: Float[Tensor, "B C H W"], t_B: Int[Tensor, " B"]) -> Prediction:
        """The two parts of latents at steps 1 to T; clamping the clean part changes the noise to match."""
        alpha_B111, sigma_B111 = self._amplitudes(t_B, noised_BCHW.dtype)
        output_BCHW = net(noised_BCHW, self._time(t_B)).to(noised_BCHW.dtype)
        if self.output == "velocity":
            clean_BCHW = alpha_B111 * noised_BCHW - sigma_B111 * output_BCHW
        else:
            clean_BCHW = (noised_BCHW - sigma_B111 * output_BCHW) / alpha_B111
        clean_BCHW = clean_BCHW.clamp(-self.limit, self.limit)
        return Prediction(clean_BCHW, (noised_BCHW - alpha_B111 * clean_BCHW) / sigma_B111)

    def step(
        self,
        net: Denoiser,
        noised_BCHW: Float[Tensor, "B C H W"],
        t_B: Int[Tensor, " B"],
        s_B: Int[Tensor, " B"],
    ) -> Float[Tensor, "B C H W"]:
        """One DDIM step from t (1 to T) to s < t (0 is clean): Song et al. 2021, equation 12 with sigma_t = 0."""
        clean_BCHW, noise_BCHW = self.predicted(net, noised_BCHW, t_B)
        return self.noised(clean_BCHW, s_B, noise_BCHW)

    def _noise_in(self, net: Denoiser, noised_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """The predicted noise, unclamped: a loss must not be."""
        output_BCHW = net(noised_BCHW, self._time(t_B)).to(noised_BCHW.dtype)
        if self.output == "noise":
            return output_BCHW
        alpha_B111, sigma_B111 = self._amplitudes(t_B, noised_BCHW.dtype)
        return sigma_B111 * noised_BCHW + alpha_B111 * output_BCHW

    def _time(self, t_B: Tensor) -> Tensor:
        return t_B.float() / self.schedule.steps

    def _amplitudes(self, t_B: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """alpha and sigma; rounded only after the roots, since 1 - alpha_bar loses most digits at the first steps."""
        alpha_bar_B111 = self.schedule.alpha_bar(t_B.device)[t_B][:, None, None, None]
        return alpha_bar_B111.sqrt().to(dtype), (1 - alpha_bar_B111).sqrt().to(dtype)


@final
@dataclass(frozen=True)
class FlowMatching:
    """The net predicts the velocity along straight lines from latents to noise (Lipman et al. 2023, section 4.1).

    x_level = (1 - level) x + level noise, with velocity noise - x; the net's time is the level. Time runs the other
    way than in the paper, whose smallest sigma is 0 here.
    """

    def loss(
        self, net: Denoiser, latent_BCHW: Float[Tensor, "B C H W"], generator: Generator | None
    ) -> Float[Tensor, ""]:
        """Mean of (predicted velocity - velocity)^2 over samples, each at its own level, uniform over 0 .. 1."""
        x_BCHW = net.normaliser.standardised(latent_BCHW.float())
        level_B = torch.rand(len(x_BCHW), generator=generator, device=x_BCHW.device)
        noise_BCHW = _noise_like(x_BCHW, generator)
        velocity_BCHW = net(self.noised(x_BCHW, level_B, noise_BCHW), level_B).float()
        return functional.mse_loss(velocity_BCHW, noise_BCHW - x_BCHW)

    @torch.no_grad()
    def denoise(
        self,
        net: Denoiser,
        latent_BCHW: Float[Tensor, "B C H W"],
        level: float | Float[Tensor, " B"],
        generator: Generator | None,
    ) -> Float[Tensor, "B C H W"]:
        """The latents, noised to `level`, then cleaned by one Euler step to 0. No gradient."""
        x_BCHW = net.normaliser.standardised(latent_BCHW.float())
        level_B = _levels(level, x_BCHW)
        noised_BCHW = self.noised(x_BCHW, level_B, _noise_like(x_BCHW, generator))
        return net.normaliser.restored(self.step(net, noised_BCHW, level_B, torch.zeros_like(level_B)))

    @torch.no_grad()
    def sample(
        self, net: Denoiser, shape: Sequence[int], steps: int, generator: Generator | None
    ) -> Float[Tensor, "B C H W"]:
        """Latents of `shape` (B, C, H, W) by `steps` Euler steps of equal length from level 1 to 0."""
        if steps < 1:
            raise ValueError(f"steps={steps} is out of range; allowed: 1 or more")
        x_BCHW = _pure_noise(net, shape, generator)
        for left in range(steps, 0, -1):
            level_B = torch.full((len(x_BCHW),), left / steps, device=x_BCHW.device)
            x_BCHW = self.step(net, x_BCHW, level_B, torch.full_like(level_B, (left - 1) / steps))
        return net.normaliser.restored(x_BCHW)

    def noised(
        self, x_BCHW: Float[Tensor, "B C H W"], level_B: Float[Tensor, " B"], noise_BCHW: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B C H W"]:
        """(1 - level) x + level noise, of standardised latents."""
        return torch.lerp(x_BCHW, noise_BCHW, level_B.to(x_BCHW.dtype)[:, None, None, None])

    def step(
        self,
        net: Denoiser,
        noised_BCHW: Float[Tensor, "B C H W"],
        level_B: Float[Tensor, " B"],
        to_B: Float[Tensor, " B"],
    ) -> Float[Tensor, "B C H W"]:
        """One Euler step from `level` to the lower level `to`."""
        velocity_BCHW = net(noised_BCHW, level_B).to(noised_BCHW.dtype)
        return noised_BCHW + (to_B - level_B).to(noised_BCHW.dtype)[:, None, None, None] * velocity_BCHW


NoiseProcess = Diffusion | FlowMatching


def noise_process(word: str) -> NoiseProcess:
    """`Diffusion` with the named schedule for cosine or linear, `FlowMatching` for flow; else ValueError."""
    if word == "flow":
        return FlowMatching()
    if word not in ("cosine", "linear"):
        raise ValueError(f"noise process {word!r} is not known; allowed: cosine | linear | flow")
    return Diffusion(Schedule(word))


def prior_loss(
    process: NoiseProcess,
    net: Denoiser,
    latent_BCHW: Float[Tensor, "B C H W"],
    level: float | Float[Tensor, " B"],
    generator: Generator | None,
) -> Float[Tensor, ""]:
    """L_prior of the plan without its xi: mean (V - denoised V)^2 over all values, in V's own units.

    The target is a constant: neither the net nor V gets a gradient through it, so V's is 2 (V - target) / n.
    """
    return functional.mse_loss(latent_BCHW.float(), process.denoise(net, latent_BCHW, level, generator))


def _noise_like(x_BCHW: Tensor, generator: Generator | None) -> Tensor:
    return torch.randn(x_BCHW.shape, generator=generator, device=x_BCHW.device, dtype=x_BCHW.dtype)


def _pure_noise(net: Denoiser, shape: Sequence[int], generator: Generator | None) -> Tensor:
    if len(shape) != 4 or min(shape) < 1:
        raise ValueError(f"shape={tuple(shape)} is not one of latents; wanted (B, C, H, W), each 1 or more")
    return torch.randn(tuple(shape), generator=generator, device=net.normaliser.mean_C.device)


def _levels(level: float | Tensor, x_BCHW: Tensor) -> Tensor:
    """One level for each sample; ValueError for a number that is out of range."""
    if isinstance(level, Tensor):
        return level.to(x_BCHW.device).expand(len(x_BCHW))
    if not 0 < level < 1:
        raise ValueError(f"level={level} is out of range; allowed: above 0 and below 1")
    return torch.full((len(x_BCHW),), level, device=x_BCHW.device)
