"""The tail of the beta distribution and Student's quantile, without scipy: p-values in the default install.

Source: the continued fraction of Abramowitz & Stegun 26.5.8, evaluated by the method of Lentz 1976.
"""

from __future__ import annotations

import functools
import math

__all__ = ["beta_survival", "student_quantile"]

TINY = 1e-300
PRECISION = 1e-15
MAX_TERMS = 100_000  # about sqrt(max(a, b)) are used
BISECTIONS = 200


def beta_survival(x: float, a: float, b: float) -> float:
    """P(X >= x) of X ~ Beta(a, b). ValueError unless a and b are positive."""
    if not (a > 0 and b > 0):
        raise ValueError(f"a beta distribution wants positive parameters, given {a} and {b}")
    if x <= 0:
        return 1.0
    if x >= 1:
        return 0.0
    # The fraction converges quickly on its own side of the mean; the other side is the complement.
    if x > (a + 1) / (a + b + 2):
        return _fraction(1 - x, b, a)
    return 1.0 - _fraction(x, a, b)


def _fraction(x: float, a: float, b: float) -> float:
    """I_x(a, b) for x below about the mean."""
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    c, d = 1.0, 1.0 / _nonzero(1.0 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, MAX_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        step = 1.0
        for term in (even, odd):
            d = 1.0 / _nonzero(1.0 + term * d)
            c = _nonzero(1.0 + term / c)
            step = c * d
            value *= step
        if abs(step - 1.0) < PRECISION:
            break
    return min(math.exp(log_front) * value / a, 1.0)


def _nonzero(x: float) -> float:
    return x if abs(x) > TINY else TINY


@functools.cache
def student_quantile(confidence: float, freedom: int) -> float:
    """The t for which a Student variable of `freedom` degrees lies within -t .. t with chance `confidence`."""
    if not (0 < confidence < 1 and freedom >= 1):
        raise ValueError(f"a quantile wants 0 < confidence < 1 and freedom >= 1, given {confidence} and {freedom}")
    low, high = 0.0, 1.0  # of x = t^2 / (freedom + t^2), which is Beta(1/2, freedom / 2)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if beta_survival(middle, 0.5, freedom / 2) > 1 - confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom * low / (1 - low))
