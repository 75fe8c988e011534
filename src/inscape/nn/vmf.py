"""The von Mises-Fisher distribution's normaliser, exact and differentiable for every dimension and concentration.

A direction d on the unit sphere of R^D has the density C_D(kappa) exp(kappa mu . d), with

    C_D(kappa) = kappa^nu / ((2 pi)^(D/2) I_nu(kappa)),   nu = D/2 - 1.

I_nu overflows, underflows or loses all digits long before D = 512, so it is never formed. What is computed is

    L_D(kappa) = ln 0F1(; D/2; kappa^2 / 4),   ln C_D(kappa) = -ln Area - L_D(kappa),

which is 0 for the uniform direction (kappa = 0), by Debye's uniform expansion at an order of at least 25 and, for lower
orders, by a recurrence down to them in which every term is positive. The derivative of L_D is
A_D(kappa) = I_{nu+1}(kappa) / I_nu(kappa), the mean of mu . d, from the same expansion without cancellation.

Source: Mardia & Jupp 2000, section 9.3.2; DLMF 10.41.3 to 10.41.5 (Debye), 10.29.1 (recurrence).

Legend: K order of the expansion, J power; tensors of concentrations have any shape.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["concentration", "log_area", "log_normalizer", "log_partition", "mean_cosine"]

LEAST_ORDER = 25.0  # Bessel order from which the expansion below is exact to rounding
TERMS = 9  # of the expansion


def log_area(dimension: int) -> float:
    """ln of the area of the unit sphere in R^dimension, 2 pi^(D/2) / Gamma(D/2): the entropy of a uniform direction.

    ValueError below dimension 2, where there is no sphere to speak of.
    """
    if dimension < 2:
        raise ValueError(f"dimension={dimension} has no directions; allowed: 2 or more")
    return math.log(2) + 0.5 * dimension * math.log(math.pi) - math.lgamma(0.5 * dimension)


def log_normalizer(kappa: Tensor, dimension: int) -> Tensor:
    """ln C_D(kappa), differentiable once; kappa of any shape, 0 or more; in kappa's dtype, computed in float64."""
    return -log_area(dimension) - log_partition(kappa, dimension)


def log_partition(kappa: Tensor, dimension: int) -> Tensor:
    """L_D(kappa) = -ln C_D(kappa) - ln Area, the log of the mean of exp(kappa mu . d) over uniform directions d.

    0 at kappa = 0, convex, with derivative `mean_cosine`; differentiable once. kappa of any shape, 0 or more.
    """
    log_area(dimension)  # refuses dimensions without directions
    partition: Any = _LogPartition.apply(kappa, dimension)
    return partition


def mean_cosine(kappa: Tensor, dimension: int) -> Tensor:
    """A_D(kappa) = I_{D/2}(kappa) / I_{D/2-1}(kappa), the mean of mu . d, from 0 up to 1. Not differentiable."""
    log_area(dimension)
    return _partition_and_slope(kappa.detach(), dimension)[1].to(kappa.dtype)


def concentration(cosine: float, dimension: int) -> float:
    """The concentration at which the mean of mu . d is about `cosine`: r (D - r^2) / (1 - r^2).

    Source: Banerjee et al. 2005, equation 4.4. ValueError unless 0 <= cosine < 1.
    """
    log_area(dimension)
    if not 0 <= cosine < 1:
        raise ValueError(f"cosine={cosine!r} is no mean of mu . d under a concentration; allowed: 0 to 1, 1 excluded")
    return cosine * (dimension - cosine**2) / (1 - cosine**2)


class _LogPartition(torch.autograd.Function):
    """L_D with the exact slope A_D: differentiating through the expansion would cost more and lose digits."""

    @staticmethod
    def forward(ctx: Any, kappa: Tensor, dimension: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        partition, slope = _partition_and_slope(kappa, dimension)
        ctx.save_for_backward(slope.to(kappa.dtype))
        return partition.to(kappa.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (slope,) = ctx.saved_tensors
        return grads[0] * slope, None


def _partition_and_slope(kappa: Tensor, dimension: int) -> tuple[Tensor, Tensor]:
    """L_D and A_D in float64.

    With I_nu(x) = (x/2)^nu / Gamma(nu+1) F_nu(x), r_nu = I_{nu+1} / I_nu and h = x r_{nu+1} / (2 (nu+1)), recurrence
    10.29.1 reads F_nu = F_{nu+1} (1 + h) and r_nu = x / (2 (nu+1)) / (1 + h).
    """
    x, order = kappa.double(), 0.5 * dimension - 1
    raised = max(0, math.ceil(LEAST_ORDER - order))
    partition, ratio = _debye(x, order + raised)
    for above in range(raised, 0, -1):
        half = x / (2 * (order + above))
        h = half * ratio
        partition, ratio = partition + h.log1p(), half / (1 + h)
    return partition, ratio


def _debye(x: Tensor, order: float) -> tuple[Tensor, Tensor]:
    """ln F_nu(x) and I_{nu+1}(x) / I_nu(x) at a large order nu, uniformly in x.

    With z = x / nu, s = sqrt(1 + z^2), t = 1 / s: I_nu ~ e^{nu eta} / sqrt(2 pi nu s) U(t), U = sum u_k(t) / nu^k.
    Since F_nu(0) = 1, the constants and Stirling's series of Gamma(nu+1) cancel against ln U(1). In I'_nu / I_nu the
    polynomials are v_k = u_k - t (1 - t^2) w_k, w_k = u_{k-1} / 2 + t u'_{k-1}; subtracting nu / x by hand leaves no
    difference of nearly equal numbers at small z.
    """
    z = x / order
    s = torch.hypot(z, torch.ones_like(z))
    t = 1 / s
    excess = z * (z / (1 + s))  # s - 1
    u, w = _series(t, order, 0), _series(t, order, 1)
    at_zero = math.log(float(_series(torch.ones((), dtype=torch.float64), order, 0)))
    partition = order * (excess - (0.5 * excess).log1p()) - 0.5 * s.log() + u.log() - at_zero
    return partition, z * (1 / (1 + s) - t * t * w / u)


def _series(t: Tensor, order: float, which: int) -> Tensor:
    """sum_k u_k(t) / nu^k (which = 0) or sum_k w_k(t) / nu^k (which = 1)."""
    coefficients_KJ = torch.tensor(_coefficients()[which], dtype=t.dtype, device=t.device)
    powers_J = torch.arange(coefficients_KJ.shape[1], dtype=t.dtype, device=t.device)
    by_order = (t[..., None] / order) ** powers_J[: len(coefficients_KJ)]
    by_power = (t * t)[..., None] ** powers_J
    if which == 1:  # w_k begins with t^(k-1)
        by_order = by_order / order
    return ((by_order @ coefficients_KJ) * by_power).sum(-1)


@cache
def _coefficients() -> tuple[list[list[float]], list[list[float]]]:
    """Coefficients of u_k(t) / t^k, k = 0..TERMS-1, and of w_k(t) / t^(k-1), k = 1..TERMS, in powers of t^2.

    u_{k+1} = t^2 (1 - t^2) u'_k / 2 + (1/8) integral_0^t (1 - 5 s^2) u_k(s) ds, u_0 = 1 (DLMF 10.41.9).
    """
    u = [[Fraction(1)] + [Fraction(0)] * TERMS]
    for k in range(TERMS - 1):
        following = [Fraction(0)] * (TERMS + 1)
        for j, c in enumerate(u[k][:TERMS]):
            power = k + 2 * j
            following[j] += c * (Fraction(power, 2) + Fraction(1, 8 * (power + 1)))
            following[j + 1] -= c * (Fraction(power, 2) + Fraction(5, 8 * (power + 3)))
        u.append(following)
    w = [[c * (Fraction(1, 2) + k + 2 * j) for j, c in enumerate(row)] for k, row in enumerate(u)]
    return [[float(c) for c in row] for row in u], [[float(c) for c in row] for row in w]
