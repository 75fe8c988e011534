"""The mixture-density network: a latent step as one of a few diagonal Gaussians that depend on the context.

The baseline predictor. Steps are standardised per dimension with training statistics; densities are given in the
units of the latents. Its own baseline is one diagonal Gaussian over all training steps.

Source: Bishop 1994, equations 22 to 29. The bounds on ln sigma are soft, where the original clamps.

Legend: N samples, W window frames, D latent dimensions, K components.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from inscape.nn.attention import init_linear
from inscape.nn.context_encoder import ContextFeatures, Steps, Whitening
from inscape.nn.soft_bound import soft_bound, unbounded

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["DiagonalGaussian", "MixtureDensity", "StepMixture"]

LOG_SIGMA_BOUNDS = (-7.0, 2.0)
LOG_SIGMA_START = -1.0
MEAN_REACH = 100.0  # standard deviations; a rollout of a half-trained network then grows by steps and does not explode
LEAST_SIGMA = 1e-6  # floor of a dimension's standard deviation over training steps
LOG_TWO_PI = math.log(2 * math.pi)


class StepMixture(NamedTuple):
    """Log-weights, means and log standard deviations of the components, for standardised steps."""

    log_weight_NK: Tensor
    mean_NKD: Tensor
    log_sigma_NKD: Tensor


class DiagonalGaussian(nn.Module):
    """Mean and population standard deviation of training steps, per dimension, the latter floored at 1e-6."""

    mean_D: Tensor
    sigma_D: Tensor

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.register_buffer("mean_D", torch.zeros(dimension))
        self.register_buffer("sigma_D", torch.ones(dimension))

    @torch.no_grad()
    def measure(self, batches: Iterable[Steps]) -> None:
        """Set both from training steps; ValueError if there are none or some are not finite."""
        count, total_D, square_D = 0, torch.zeros(len(self.mean_D), dtype=torch.float64), 0.0
        for _, delta_ND in batches:
            delta_ND = delta_ND.double()
            count, total_D, square_D = (
                count + len(delta_ND),
                total_D + delta_ND.sum(0),
                square_D + delta_ND.square().sum(0),
            )
        if count == 0 or not total_D.isfinite().all():
            raise ValueError(f"{count} latent steps, of which some are not finite: repair or leave out the latents")
        mean_D = total_D / count
        self.mean_D.copy_(mean_D)
        self.sigma_D.copy_((square_D / count - mean_D.square()).clamp_min(0).sqrt().clamp_min(LEAST_SIGMA))

    def standardised(self, delta_ND: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """(delta - mean) / sigma."""
        return (delta_ND - self.mean_D) / self.sigma_D

    def log_volume(self) -> Tensor:
        """sum ln sigma: what turns the NLL of a standardised step into that of the step."""
        return self.sigma_D.double().log().sum()

    def nll(self, delta_ND: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
        """NLL of steps under this Gaussian, in nats, float64."""
        z_ND = self.standardised(delta_ND).double()
        return 0.5 * (z_ND.square() + LOG_TWO_PI).sum(-1) + self.log_volume()


class MixtureDensity(nn.Module):
    """The network, its input whitening and its baseline. Call `measure` once on training steps before training."""

    def __init__(self, window: int, dimension: int, hidden: int = 1024, layers: int = 2, components: int = 8) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"components={components} is out of range; allowed: 1 or more")
        self.window, self.dimension, self.components = window, dimension, components
        self.whitening = Whitening(window, dimension)
        self.gaussian = DiagonalGaussian(dimension)
        self.features = ContextFeatures(window * dimension, hidden, layers)
        self.weights = init_linear(nn.Linear(hidden, components))
        self.means = init_linear(nn.Linear(hidden, components * dimension))
        self.log_sigmas = init_linear(nn.Linear(hidden, components * dimension))
        nn.init.zeros_(self.log_sigmas.weight)
        nn.init.constant_(self.log_sigmas.bias, unbounded(LOG_SIGMA_START, *LOG_SIGMA_BOUNDS))

    def forward(self, context_NWD: Float[Tensor, "N W D"]) -> StepMixture:
        hidden_NH = self.features(self.whitening(context_NWD).flatten(1))
        by_component = (self.components, self.dimension)
        return StepMixture(
            self.weights(hidden_NH).float().log_softmax(-1),
            soft_bound(self.means(hidden_NH).float(), -MEAN_REACH, MEAN_REACH).unflatten(-1, by_component),
            soft_bound(self.log_sigmas(hidden_NH).float(), *LOG_SIGMA_BOUNDS).unflatten(-1, by_component),
        )

    def scored(self, delta_ND: Float[Tensor, "N D"]) -> Tensor:
        """Which steps have a density: all."""
        return torch.ones(len(delta_ND), dtype=torch.bool, device=delta_ND.device)

    def nll(self, given: StepMixture, delta_ND: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
        """NLL of steps in nats, in the units of the latents, float64."""
        z_NKD = (self.gaussian.standardised(delta_ND)[:, None] - given.mean_NKD) * (-given.log_sigma_NKD).exp()
        log_density_NK = -(0.5 * (z_NKD.square() + LOG_TWO_PI) + given.log_sigma_NKD).sum(-1, dtype=torch.float64)
        return self.gaussian.log_volume() - (given.log_weight_NK + log_density_NK).logsumexp(-1)

    def baseline_nll(self, delta_ND: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
        """NLL under one diagonal Gaussian for all steps."""
        return self.gaussian.nll(delta_ND)

    def step(self, given: StepMixture) -> Float[Tensor, "N D"]:
        """The mean of the mixture."""
        mean_ND = (given.log_weight_NK.exp()[..., None] * given.mean_NKD).sum(1)
        return self.gaussian.mean_D + self.gaussian.sigma_D * mean_ND

    @torch.no_grad()
    def measure(self, batches: Iterable[Steps]) -> None:
        """Set whitening and baseline from training steps, gone through three times."""
        self.whitening.measure(batches)
        self.gaussian.measure(batches)
