"""Sums that do not depend on their order: why shards, chunks and threads cannot change a result here.

Adding floats in another order gives other last digits, and a last digit can move a frame to another cluster. Numbers
that are multiples of one power of two (a grid) and whose partial sums stay below 2^53 grid steps are added by float64
without any rounding, so every order gives the same bits: one shard or seven, one thread or two, any BLAS. So terms are
rounded to a grid first, far below their spread, and everything after that is exact.
Source: the pre-rounding of Demmel & Nguyen 2013, "Fast reproducible floating-point summation".

Legend: F features, B columns.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["EXACT_STEPS", "SlicedMatrix", "exact_product", "grid_for_sum", "on_grid", "power_of_two", "slice_matrix"]

EXACT_STEPS = 2.0**53  # float64 holds every whole number up to here
COARSE_BITS = 26  # two factors of 26 bits make a product of 52
FINE_BITS = 20  # what a second slice adds to the first; sums of up to 2^14 such products stay exact


def power_of_two(bound: float) -> float:
    """The smallest power of two that is at least `bound`; 1 where the bound is 0. ValueError if it is not finite."""
    if not math.isfinite(bound) or bound < 0:
        raise ValueError(f"a bound must be finite and not negative, given {bound}")
    if bound == 0:
        return 1.0
    mantissa, exponent = math.frexp(bound)
    return math.ldexp(1.0, exponent - (mantissa == 0.5))


def grid_for_sum(bound: float, terms: int) -> float:
    """A step at which `terms` numbers of magnitude up to `bound` add up without rounding, with a bit to spare."""
    return power_of_two(bound) * power_of_two(max(terms, 1)) * 2 / EXACT_STEPS


def on_grid(x: Float[np.ndarray, ...], step: Float[np.ndarray, ...] | float) -> Float[np.ndarray, ...]:
    """x as float64, rounded to the nearest multiple of `step` (a power of two, or one for each last index)."""
    grid = np.multiply(x, 1.0 / np.asarray(step, dtype=np.float64), dtype=np.float64)
    np.rint(grid, out=grid)
    grid *= step
    return grid


class SlicedMatrix(NamedTuple):
    """A matrix as coarse + fine, each on its own grid, so that products with sliced columns are exact."""

    coarse_FF: Float[np.ndarray, "F F"]
    fine_FF: Float[np.ndarray, "F F"]


def slice_matrix(matrix_FF: Float[np.ndarray, "F F"]) -> SlicedMatrix:
    """Split a matrix for `exact_product`: 46 bits below its largest row norm are kept."""
    largest = power_of_two(math.sqrt(float(np.einsum("fg,fg->f", matrix_FF, matrix_FF).max())))
    coarse_FF = on_grid(matrix_FF, largest * 2.0**-COARSE_BITS)
    return SlicedMatrix(coarse_FF, on_grid(matrix_FF - coarse_FF, largest * 2.0 ** -(COARSE_BITS + FINE_BITS)))


def exact_product(matrix: SlicedMatrix, columns_FB: Float[np.ndarray, "F B"]) -> Float[np.ndarray, "F B"]:
    """Matrix times columns, the same bits under any BLAS and any number of threads, to about 2^-45 of the largest row.

    The products of slices are exact; only their final addition, element by element, rounds.
    Source: Ozaki et al. 2012, "Error-free transformations of matrix multiplication".
    """
    scale_B = np.array([power_of_two(norm) for norm in np.sqrt(np.einsum("fb,fb->b", columns_FB, columns_FB))])
    unit_FB = columns_FB / scale_B
    high_FB = on_grid(unit_FB, 2.0**-COARSE_BITS)
    low_FB = on_grid(unit_FB - high_FB, 2.0 ** -(COARSE_BITS + FINE_BITS))
    both = matrix.coarse_FF @ np.concatenate((high_FB, low_FB), axis=1)
    width = columns_FB.shape[1]
    return (both[:, :width] + (both[:, width:] + matrix.fine_FF @ high_FB)) * scale_B
