"""What every predictor of the next latent step reads: a window of latent frames, whitened, and features of it.

Codec latents differ in scale from dimension to dimension by orders of magnitude, and neighbouring frames are nearly
alike. A network fed with them raw spends its training on undoing that, or fails to. The undoing is known beforehand:
a covariance over dimensions and one over lags, both measured once on training frames and then held.

Legend: N samples, W window frames (oldest first in a context, newest first after whitening), D latent dimensions,
F = W D, H hidden width.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from inscape.nn.attention import init_linear

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["ContextFeatures", "Steps", "Whitening", "log_lengths"]

CONSTANT = 1e-6  # a standard deviation below this share of the mean is float32's rounding
FEATURE_FLOOR = 1e-5  # added to the variance of each direction of standardised dimensions: none is blown up
LAG_FLOOR = 1e-4  # the same over lags


class Steps(NamedTuple):
    """Windows of latent frames and the steps that follow them."""

    context_NWD: Tensor
    delta_ND: Tensor


class Whitening(nn.Module):
    """(x - mean) whitened over dimensions and over lags, by two fixed matrices measured on training contexts.

    The covariance of a window is taken to be separable, lag x dimension (a matrix-normal; Dawid 1981): a full one of
    W D x W D entries would take more samples to measure than a small corpus has. Dimensions are standardised, then
    whitened by a symmetric root; over lags the root is triangular from the newest frame backwards, so row 0 is the
    newest frame and row w is what frame w adds to the newer ones.
    """

    mean_D: Tensor
    feature_DD: Tensor
    lag_WW: Tensor

    def __init__(self, window: int, dimension: int) -> None:
        super().__init__()
        self.register_buffer("mean_D", torch.zeros(dimension))
        self.register_buffer("feature_DD", torch.eye(dimension))
        self.register_buffer("lag_WW", torch.eye(window))

    def forward(self, context_NWD: Float[Tensor, "N W D"]) -> Float[Tensor, "N W D"]:
        """Whitened rows, newest first, always in float32: rounding of the input would be blown up with it."""
        with torch.autocast(context_NWD.device.type, enabled=False):
            rows_NWD = (context_NWD.float() - self.mean_D).flip(1) @ self.feature_DD
            return self.lag_WW @ rows_NWD

    @torch.no_grad()
    def measure(self, batches: Iterable[Steps]) -> None:
        """Set mean and matrices from contexts; `batches` is gone through twice. ValueError if they are not finite."""
        count, total_D, square_DD = 0, torch.zeros_like(self.mean_D, dtype=torch.float64), 0.0
        for context_NWD, _ in batches:
            newest_ND = context_NWD[:, -1].double()
            count, total_D = count + len(newest_ND), total_D + newest_ND.sum(0)
            square_DD = square_DD + newest_ND.T @ newest_ND
        mean_D = total_D / max(count, 1)
        covariance_DD = square_DD / max(count, 1) - torch.outer(mean_D, mean_D)
        if count == 0 or not covariance_DD.isfinite().all():
            raise ValueError(f"{count} contexts, of which some are not finite numbers: repair or leave out the latents")
        self.mean_D.copy_(mean_D)
        self.feature_DD.copy_(_inverse_root(covariance_DD, mean_D))
        lag_WW = torch.zeros_like(self.lag_WW, dtype=torch.float64)
        for context_NWD, _ in batches:
            rows_NWD = ((context_NWD.float() - self.mean_D).flip(1) @ self.feature_DD).double()
            lag_WW += torch.einsum("nwd,nvd->wv", rows_NWD, rows_NWD) / (count * len(mean_D))
        level = float(lag_WW.trace()) / len(lag_WW) or 1.0
        floored_WW = lag_WW / level + LAG_FLOOR * torch.eye(len(lag_WW), dtype=torch.float64)
        lower_WW = torch.linalg.cholesky(floored_WW) * level**0.5
        identity_WW = torch.eye(len(lag_WW), dtype=torch.float64)
        self.lag_WW.copy_(torch.linalg.solve_triangular(lower_WW, identity_WW, upper=False))


def _inverse_root(covariance_DD: Tensor, mean_D: Tensor) -> Tensor:
    """What whitens rows from the right: 1 / std of each dimension (0 where it is constant), then correlations."""
    variance_D = covariance_DD.diagonal()
    varies_D = variance_D > (CONSTANT * mean_D).square()
    inverse_D = torch.where(varies_D, variance_D, 1.0).rsqrt() * varies_D
    correlation_DD = inverse_D[:, None] * covariance_DD * inverse_D
    values_D, vectors_DD = torch.linalg.eigh(correlation_DD)
    return inverse_D[:, None] * (vectors_DD * (values_D.clamp_min(0) + FEATURE_FLOOR).rsqrt()) @ vectors_DD.T


class ContextFeatures(nn.Module):
    """Hidden layers of linear and GELU over a whitened, flattened context."""

    def __init__(self, inputs: int, hidden: int, layers: int) -> None:
        super().__init__()
        widths = [inputs, *[hidden] * layers]
        self.layers = nn.ModuleList(init_linear(nn.Linear(a, b)) for a, b in pairwise(widths))

    def forward(self, x_NF: Float[Tensor, "N F"]) -> Float[Tensor, "N H"]:
        for layer in self.layers:
            x_NF = functional.gelu(layer(x_NF))
        return x_NF


def log_lengths(delta_ND: Float[Tensor, "N D"], floor: Tensor | float) -> tuple[Tensor, Tensor]:
    """ln ||delta|| in float64, and which steps move: those longer than `floor`. Of a step that does not, 0 is given."""
    length_N = torch.linalg.vector_norm(delta_ND.double(), dim=-1)
    moves_N = length_N > floor
    return torch.where(moves_N, length_N, 1.0).log(), moves_N
