"""Worlds of latent trajectories in which the best possible predictor is known, to test predictors of steps on.

`VonMisesFisherWorld`: directions are von Mises-Fisher around a known function of the last two frames, with one known
concentration, and lengths are LogNormal. No predictor can beat its cosine or its likelihood.
`LinearGaussianWorld`: a damped rotation with Gaussian noise. The best rollout is the deterministic one, and the cosine
it keeps at every step has a closed form.

Legend: U utterances, T frames, N samples, D latent dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, final

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["LinearGaussianWorld", "VonMisesFisherWorld", "sample_von_mises_fisher"]


def sample_von_mises_fisher(
    mean_ND: Float[np.ndarray, "N D"], kappa: float, rng: np.random.Generator
) -> Float[np.ndarray, "N D"]:
    """One direction around each unit vector of `mean_ND`, with density proportional to exp(kappa mu . d).

    Source: Wood 1994, algorithm VM*: the cosine by rejection from a transformed beta, the rest uniform.
    ValueError below dimension 2 or for a negative kappa.
    """
    count, d = mean_ND.shape
    if d < 2 or kappa < 0:
        raise ValueError(f"dimension={d}, kappa={kappa}: allowed are dimension 2 or more and kappa 0 or more")
    b = (d - 1) / (2 * kappa + math.sqrt(4 * kappa**2 + (d - 1) ** 2))
    x = (1 - b) / (1 + b)
    level = kappa * x + (d - 1) * math.log(1 - x * x)
    cosine_N, open_ = np.empty(count), np.arange(count)
    while open_.size:
        beta = rng.beta(0.5 * (d - 1), 0.5 * (d - 1), open_.size)
        w = (1 - (1 + b) * beta) / (1 - (1 - b) * beta)
        accepted = kappa * w + (d - 1) * np.log(1 - x * w) - level >= np.log1p(-rng.random(open_.size))
        cosine_N[open_[accepted]] = w[accepted]
        open_ = open_[~accepted]
    across_ND = rng.standard_normal(mean_ND.shape)
    across_ND -= (across_ND * mean_ND).sum(1, keepdims=True) * mean_ND
    across_ND /= np.linalg.norm(across_ND, axis=1, keepdims=True)
    sine_N = np.sqrt(np.maximum(0.0, 1 - cosine_N**2))
    return cosine_N[:, None] * mean_ND + sine_N[:, None] * across_ND


def _random_basis(dimension: int, rng: np.random.Generator) -> np.ndarray:
    basis_DD, upper_DD = np.linalg.qr(rng.standard_normal((dimension, dimension)))
    return basis_DD * np.sign(np.diag(upper_DD))


def _rotation(dimension: int, angle: float, seed: int) -> np.ndarray:
    """A rotation by `angle`, one way or the other, in each of D/2 random orthogonal planes; an odd dimension rests."""
    rng = np.random.default_rng((seed, 0))
    basis_DD, turned_DD = _random_basis(dimension, rng), np.eye(dimension)
    for plane in range(dimension // 2):
        c, s = math.cos(angle), math.sin(angle) * rng.choice((-1, 1))
        turned_DD[2 * plane : 2 * plane + 2, 2 * plane : 2 * plane + 2] = [[c, -s], [s, c]]
    return basis_DD @ turned_DD @ basis_DD.T


@final
@dataclass(frozen=True)
class VonMisesFisherWorld:
    """x[t+1] = x[t] + m d: d ~ vMF(mu, kappa) with mu along `momentum` x last step - turned position; m ~ LogNormal.

    The pull back is the position turned by `angle` in random planes, so that "go back" alone is not the answer. ln m
    has a mean that follows one coordinate of the position, up to `slope` either way (without that bound, lengths and
    positions would drive each other off to infinity), and the standard deviation `spread`.
    """

    dimension: int
    kappa: float
    momentum: float = 0.5
    angle: float = 0.6  # radians
    slope: float = 0.3  # greatest deviation of the predictable part of ln m
    spread: float = 0.3  # standard deviation of the rest
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dimension < 2 or self.kappa < 0 or self.spread <= 0:
            raise ValueError(
                f"dimension={self.dimension}, kappa={self.kappa}, spread={self.spread}: allowed are dimension 2 or "
                "more, kappa 0 or more, spread above 0"
            )

    @cached_property
    def turn(self) -> np.ndarray:
        """The rotation of the position, D x D."""
        return _rotation(self.dimension, self.angle, self.seed)

    def mean_direction(
        self, before_ND: Float[np.ndarray, "N D"], last_ND: Float[np.ndarray, "N D"]
    ) -> Float[np.ndarray, "N D"]:
        """mu of the step after the frames `before` and `last`."""
        towards_ND = self.momentum * (last_ND - before_ND) - last_ND @ self.turn.T
        return towards_ND / np.maximum(np.linalg.norm(towards_ND, axis=1, keepdims=True), 1e-12)

    def mean_log_length(self, last_ND: Float[np.ndarray, "N D"]) -> Float[np.ndarray, " N"]:
        """The mean of ln m of the step after the frame `last`: y / sqrt(1 + y^2) of a standardised coordinate y."""
        y_N = math.sqrt(self.dimension) * last_ND[:, 0]
        return self.slope * y_N / np.sqrt(1 + y_N**2)

    def utterances(self, count: int, frames: int, seed: int) -> list[np.ndarray]:
        """`count` trajectories of `frames` x D, float32."""
        rng = np.random.default_rng((self.seed, 1, seed))
        last_UD = rng.standard_normal((count, self.dimension)) / math.sqrt(self.dimension)
        before_UD = last_UD
        kept_TUD = np.empty((frames, count, self.dimension), dtype=np.float32)
        for t in range(-50, frames):  # the first 50 are forgotten
            unit_UD = sample_von_mises_fisher(self.mean_direction(before_UD, last_UD), self.kappa, rng)
            log_length_U = self.mean_log_length(last_UD) + self.spread * rng.standard_normal(count)
            before_UD, last_UD = last_UD, last_UD + np.exp(log_length_U)[:, None] * unit_UD
            if t >= 0:
                kept_TUD[t] = last_UD
        return list(kept_TUD.transpose(1, 0, 2).copy())


@final
@dataclass(frozen=True)
class LinearGaussianWorld:
    """x[t+1] = F x[t] + noise, F = decay x a rotation by one angle in D/2 random planes, stationary with variance 1.

    Because all planes turn by one angle, F + F^T is a multiple of the identity, and so is the covariance of the step
    j frames ahead given the present, whatever j. Its mean, (F - I) F^(j-1) x, is then the direction with the greatest
    expected cosine, and the rollout of mean steps is the best rollout.
    """

    dimension: int  # even
    decay: float = 0.995  # per frame, below 1
    angle: float = 0.5  # radians a frame
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dimension < 2 or self.dimension % 2 or not 0 < self.decay < 1:
            raise ValueError(
                f"dimension={self.dimension}, decay={self.decay}: allowed are even dimensions from 2 on and a decay "
                "between 0 and 1"
            )

    @cached_property
    def transition(self) -> np.ndarray:
        """F, D x D."""
        return self.decay * _rotation(self.dimension, self.angle, self.seed)

    def expected_step(self, state_ND: Float[np.ndarray, "N D"], ahead: int = 1) -> Float[np.ndarray, "N D"]:
        """The mean of x[t+ahead] - x[t+ahead-1] given x[t]: the best predictor of that step's direction."""
        state_ND = state_ND @ np.linalg.matrix_power(self.transition, ahead - 1).T
        return state_ND @ (self.transition - np.eye(self.dimension)).T

    def best_cosine(self, ahead: int) -> float:
        """The mean cosine between that prediction and the true step, in closed form.

        Predicted and true step are D independent pairs of Gaussians with correlation rho: with
        g = |F - I|^2 = 1 + decay^2 - 2 decay cos(angle), a share rho^2 = g decay^(2 ahead - 2) / (g + 1 - decay^2) of
        the true step's variance is predictable. The mean of an (uncentred) sample correlation of D pairs is
        rho (2/D) (Gamma((D+1)/2) / Gamma(D/2))^2 2F1(1/2, 1/2; D/2 + 1; rho^2) (Anderson 2003, section 4.2).
        """
        growth = 1 + self.decay**2 - 2 * self.decay * math.cos(self.angle)
        square = growth * self.decay ** (2 * ahead - 2) / (growth + 1 - self.decay**2)
        half = 0.5 * self.dimension
        log_factor = 2 * (math.lgamma(half + 0.5) - math.lgamma(half)) - math.log(half)
        return math.sqrt(square) * math.exp(log_factor) * _hypergeometric(half + 1, square)

    def utterances(self, count: int, frames: int, seed: int) -> list[np.ndarray]:
        """`count` stationary trajectories of `frames` x D, float32."""
        rng = np.random.default_rng((self.seed, 2, seed))
        noise = math.sqrt(1 - self.decay**2)
        state_UD = rng.standard_normal((count, self.dimension))
        kept_TUD = np.empty((frames, count, self.dimension), dtype=np.float32)
        for t in range(frames):
            kept_TUD[t] = state_UD
            state_UD = state_UD @ self.transition.T + noise * rng.standard_normal(state_UD.shape)
        return list(kept_TUD.transpose(1, 0, 2).copy())


def _hypergeometric(c: float, x: float) -> float:
    """2F1(1/2, 1/2; c; x) for 0 <= x < 1 and c >= 2, by its series, whose terms are positive and shrink."""
    total, term, n = 1.0, 1.0, 0
    while term > 1e-17 * total:
        term *= (n + 0.5) ** 2 / ((c + n) * (n + 1)) * x
        total, n = total + term, n + 1
    return total
