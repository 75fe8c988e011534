"""A latent step as a direction and a length: von Mises-Fisher times LogNormal, both read off a window of frames.

    delta = m d,  ||d|| = 1,  d ~ vMF(mu(context), kappa(context)),  ln m ~ N(mu_m(context), sigma_m(context)^2)

What makes it train where plainer ones do not: whitened inputs; soft bounds around values measured on the data instead
of hard clamps; a linear path from the context that starts at its regression on the data; kappa that starts at the
closed form for the cosine which that regression reaches on samples it was not fitted to. (A diagonal Gaussian over all
steps is kept beside them: another baseline, which a mixture-density network is measured against.)

A step of length zero has no direction and no log-length. Steps not longer than a floor (a millionth of the median
length) are given no density by this model nor by its baseline: `scored` marks the others, and how many there are not
is for the caller to report.

Legend: N samples, W window frames, D latent dimensions, F = W D, B batches, E = D + 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from inscape.nn import vmf
from inscape.nn.attention import init_linear
from inscape.nn.context_encoder import ContextFeatures, Steps, Whitening, log_lengths
from inscape.nn.mixture_density import DiagonalGaussian
from inscape.nn.soft_bound import soft_bound

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["DirectionMagnitude", "StepDistribution"]

STILL = 1e-6  # of the median length: steps up to here count as none
KAPPA_REACH = 8.0  # ln kappa may move so far from where it starts
LENGTH_REACH = 8.0  # the mean of ln m may move so many standard deviations
SCALE_REACH = 5.0  # ln sigma_m may move so far
# Adam moves each weight by the learning rate, so an output of F inputs by up to F times that: with more inputs than
# this, the linear path's share is scaled down (the rule 1 / fan-in of Yang et al. 2021, Tensor Programs V).
FAN_IN = 256
JUDGED = 16  # batches of each half that the regression on the other half is judged on
SOFT_NORM = 1e-3  # of the typical length before normalising; far below it a direction is as good as none
LEAST_SPREAD = 1e-3  # of ln m, added in quadrature: steps of one length have a density too
LOG_TWO_PI = math.log(2 * math.pi)


class StepDistribution(NamedTuple):
    """What is believed of the next step: ln kappa, mu (shorter than 1 where it is unknown), mean and ln std of ln m."""

    log_kappa_N: Tensor
    direction_ND: Tensor
    log_length_N: Tensor
    log_scale_N: Tensor


class DirectionMagnitude(nn.Module):
    """The head, its input whitening and its baseline. Call `measure` once on training steps before training."""

    log_kappa: Tensor
    log_length: Tensor
    log_spread: Tensor
    floor: Tensor

    def __init__(self, window: int, dimension: int, hidden: int = 1024, layers: int = 2) -> None:
        super().__init__()
        vmf.log_area(dimension)  # refuses a dimension without directions
        self.window, self.dimension = window, dimension
        self.whitening = Whitening(window, dimension)
        self.gaussian = DiagonalGaussian(dimension)
        self.features = ContextFeatures(window * dimension, hidden, layers)
        self.linear = init_linear(nn.Linear(window * dimension, dimension + 1))
        self.gain = min(1.0, FAN_IN / (window * dimension))
        self.direction = init_linear(nn.Linear(hidden, dimension))
        self.shape = init_linear(nn.Linear(hidden, 3))
        for start_at_zero in (self.direction, self.shape):
            nn.init.zeros_(start_at_zero.weight)
        for name, start in (("log_kappa", 0.0), ("log_length", 0.0), ("log_spread", 0.0), ("floor", 0.0)):
            self.register_buffer(name, torch.tensor(start, dtype=torch.float32))

    def forward(self, context_NWD: Float[Tensor, "N W D"]) -> StepDistribution:
        white_NF = self.whitening(context_NWD).flatten(1)
        hidden_NH = self.features(white_NF)
        linear_NE = self.linear(white_NF).float() * self.gain
        raw_ND = linear_NE[:, :-1] + self.direction(hidden_NH).float()
        kappa_N, length_N, scale_N = self.shape(hidden_NH).float().unbind(-1)
        spread = self.log_spread.exp()
        square_N = raw_ND.square().mean(-1, keepdim=True)
        return StepDistribution(
            self.log_kappa + soft_bound(kappa_N, -KAPPA_REACH, KAPPA_REACH),
            raw_ND * (square_N + SOFT_NORM**2).rsqrt() * self.dimension**-0.5,
            self.log_length + spread * soft_bound(linear_NE[:, -1] + length_N, -LENGTH_REACH, LENGTH_REACH),
            self.log_spread + soft_bound(scale_N, -SCALE_REACH, SCALE_REACH),
        )

    def scored(self, delta_ND: Float[Tensor, "N D"]) -> Tensor:
        """Which steps have a density: those that move."""
        return log_lengths(delta_ND, self.floor)[1]

    def parts(self, given: StepDistribution, delta_ND: Float[Tensor, "N D"]) -> tuple[Tensor, Tensor]:
        """NLL of the direction (on the sphere) and of the length (on the half line), in nats, float64; 0 if not scored.

        NLL_dir = -(ln C_D(kappa) + kappa mu . d); NLL_mag = ln m + ln sigma + (z^2 + ln 2 pi) / 2.
        """
        log_length_N, moves_N = log_lengths(delta_ND, self.floor)
        unit_ND = delta_ND.double() / log_length_N.exp()[:, None]
        natural_ND = given.log_kappa_N.double().exp()[:, None] * given.direction_ND.double()
        kappa_N = torch.linalg.vector_norm(natural_ND, dim=-1)
        direction_N = -vmf.log_normalizer(kappa_N, self.dimension) - (natural_ND * unit_ND).sum(-1)
        length_N = _log_normal_nll(log_length_N, given.log_length_N.double(), given.log_scale_N.double())
        return torch.where(moves_N, direction_N, 0.0), torch.where(moves_N, length_N, 0.0)

    def nll(self, given: StepDistribution, delta_ND: Float[Tensor, "N D"]) -> Tensor:
        """NLL of a step as a density in R^D: both parts and (D - 1) ln m, in nats; 0 if not scored."""
        direction_N, length_N = self.parts(given, delta_ND)
        return direction_N + length_N + self._volume(delta_ND)

    def baseline_parts(self, delta_ND: Float[Tensor, "N D"]) -> tuple[Tensor, Tensor]:
        """`parts` of the baseline: a uniform direction and one LogNormal for all steps."""
        log_length_N, moves_N = log_lengths(delta_ND, self.floor)
        length_N = _log_normal_nll(log_length_N, self.log_length.double(), self.log_spread.double())
        return moves_N.double() * vmf.log_area(self.dimension), torch.where(moves_N, length_N, 0.0)

    def baseline_nll(self, delta_ND: Float[Tensor, "N D"]) -> Tensor:
        """`nll` of the baseline."""
        direction_N, length_N = self.baseline_parts(delta_ND)
        return direction_N + length_N + self._volume(delta_ND)

    def _volume(self, delta_ND: Tensor) -> Tensor:
        return (self.dimension - 1) * log_lengths(delta_ND, self.floor)[0]

    def step(self, given: StepDistribution) -> Float[Tensor, "N D"]:
        """The step a rollout takes: mu times the median length exp(mu_m)."""
        return given.direction_ND * given.log_length_N.exp()[:, None]

    def mean_step(self, given: StepDistribution) -> Float[Tensor, "N D"]:
        """mu times the mean length exp(mu_m + sigma^2 / 2). The expected step is A_D(kappa) times this."""
        return given.direction_ND * (given.log_length_N + 0.5 * (2 * given.log_scale_N).exp()).exp()[:, None]

    @torch.no_grad()
    def measure(self, batches: Sequence[Steps]) -> None:
        """Set whitening, baseline and where training starts, from training steps. ValueError if hardly one moves."""
        self.whitening.measure(batches)
        self.gaussian.measure(batches)
        self._measure_lengths(batches)
        halves = [_Regression.of(self, batches[half::2]) for half in (0, 1)]
        moments = _Regression.sum(halves)
        if len(batches) > 1:  # each half is judged on the other
            cosines = [_cosine(self, halves[1 - half].solution(), batches[half::2][:JUDGED]) for half in (0, 1)]
        else:
            cosines = [_cosine(self, moments.solution(), batches)]
        cosine = min(max(sum(cosines) / len(cosines), 1e-3), 1 - 1e-6)
        self.log_kappa.fill_(math.log(vmf.concentration(cosine, self.dimension)))
        weight_EF, bias_E = moments.solution()
        self.linear.weight.copy_(weight_EF / self.gain)
        self.linear.bias.copy_(bias_E / self.gain)

    def _measure_lengths(self, batches: Iterable[Steps]) -> None:
        length_N = torch.cat([torch.linalg.vector_norm(batch.delta_ND.double(), dim=-1) for batch in batches])
        moving = length_N[length_N > 0]
        if len(moving) < 2:
            raise ValueError(
                f"{len(moving)} of {len(length_N)} latent steps move; a predictor of steps wants 2 or more: "
                "look at the latents, they are constant"
            )
        self.floor.copy_(STILL * moving.median())
        log_N = moving[moving > self.floor.double()].log()
        self.log_length.copy_(log_N.mean())
        self.log_spread.copy_(0.5 * (log_N.var(unbiased=False) + LEAST_SPREAD**2).log())


def _log_normal_nll(log_length_N: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    z_N = (log_length_N - mean) / log_scale.exp()
    return log_length_N + log_scale + 0.5 * (z_N.square() + LOG_TWO_PI)


def _targets(head: DirectionMagnitude, batch: Steps) -> tuple[Tensor, Tensor]:
    """Whitened contexts of moving steps, and what the linear path should say: d sqrt(D), the standard score of ln m."""
    log_length_N, moves_N = log_lengths(batch.delta_ND, head.floor)
    unit_ND = (batch.delta_ND.double() / log_length_N.exp()[:, None]).float() * head.dimension**0.5
    score_N1 = ((log_length_N.float() - head.log_length) / head.log_spread.exp())[:, None]
    return head.whitening(batch.context_NWD)[moves_N], torch.cat((unit_ND, score_N1), 1)[moves_N]


class _Regression(NamedTuple):
    """Sums from which targets are regressed on inputs that are white: their covariances are the coefficients."""

    samples: int
    target_E: Tensor
    square_E: Tensor
    cross_EWD: Tensor

    @classmethod
    def of(cls, head: DirectionMagnitude, batches: Sequence[Steps]) -> _Regression:
        width, like = head.dimension + 1, head.whitening.mean_D
        total = cls(0, like.new_zeros(width), like.new_zeros(width), like.new_zeros(width, head.window, head.dimension))
        for batch in batches:
            white_NWD, target_NE = _targets(head, batch)
            cross_EWD = (target_NE.T @ white_NWD.flatten(1)).unflatten(1, white_NWD.shape[1:])
            now = cls(len(target_NE), target_NE.sum(0), target_NE.square().sum(0), cross_EWD)
            total = cls.sum([total, now])
        return total

    @classmethod
    def sum(cls, parts: Sequence[_Regression]) -> _Regression:
        samples, *tensors = zip(*parts, strict=True)
        return cls(sum(samples), *(torch.stack(tensor).sum(0) for tensor in tensors))

    def solution(self) -> tuple[Tensor, Tensor]:
        """Weights (E, F) and bias (E): each lag's block shrunk by the share of sampling noise in it (James-Stein).

        The directions share one factor a lag, the length has its own.
        """
        count = max(self.samples, 1)
        mean_E, weight_EWD = self.target_E / count, self.cross_EWD / count
        variance_E = (self.square_E / count - mean_E.square()).clamp_min(0)
        noise_E = variance_E * weight_EWD.shape[-1] / count
        for rows in (slice(0, -1), slice(-1, None)):
            energy_W = weight_EWD[rows].square().sum((0, 2)).clamp_min(1e-30)
            weight_EWD[rows] *= (1 - noise_E[rows].sum() / energy_W).clamp_min(0)[None, :, None]
        return weight_EWD.flatten(1), mean_E


def _cosine(head: DirectionMagnitude, solution: tuple[Tensor, Tensor], batches: Sequence[Steps]) -> float:
    """Mean cosine between the directions that a regression predicts and the true ones."""
    weight_EF, bias_E = solution
    total, count = 0.0, 0
    for batch in batches:
        white_NWD, target_NE = _targets(head, batch)
        predicted_ND = (white_NWD.flatten(1) @ weight_EF.T + bias_E)[:, :-1]
        total += float(torch.cosine_similarity(predicted_ND, target_NE[:, :-1]).sum())
        count += len(target_NE)
    return total / max(count, 1)
