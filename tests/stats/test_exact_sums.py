"""Sums on a grid: the same bits in any order; and the exact product against LAPACK-free references."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inscape.stats.exact_sums import exact_product, grid_for_sum, on_grid, power_of_two, slice_matrix


@given(st.floats(1e-30, 1e30))
def test_a_power_of_two_is_the_smallest_that_holds(bound):
    power = power_of_two(bound)
    assert power / 2 < bound <= power
    assert math.frexp(power)[0] == 0.5


def test_powers_of_two_are_their_own_bound():
    assert (power_of_two(0.25), power_of_two(8.0), power_of_two(0.0)) == (0.25, 8.0, 1.0)


@pytest.mark.parametrize("bound", [-1.0, math.inf, math.nan])
def test_a_bound_that_is_none_is_refused(bound):
    with pytest.raises(ValueError, match="finite and not negative"):
        power_of_two(bound)


@given(st.integers(0, 2**32), st.floats(1e-3, 1e3))
def test_terms_on_the_grid_add_up_the_same_in_any_order(seed, bound):
    rng = np.random.default_rng(seed)
    plain = rng.uniform(-bound, bound, 1000) * 10.0 ** rng.integers(-8, 1, 1000)
    terms = on_grid(plain, grid_for_sum(bound, len(plain)))
    totals = {float(np.cumsum(rng.permutation(terms))[-1]) for _ in range(5)}
    assert totals == {math.fsum(terms)}
    assert np.abs(terms - plain).max() <= bound * 2**-40


def test_plain_terms_do_not():
    plain = np.random.default_rng(0).standard_normal(1000)
    assert len({float(np.cumsum(np.random.default_rng(i).permutation(plain))[-1]) for i in range(5)}) > 1


def test_the_exact_product_is_a_product_and_keeps_its_bits():
    rng = np.random.default_rng(1)
    root = rng.standard_normal((90, 60)) * 10.0 ** rng.integers(-3, 3, 60)
    matrix, columns = root @ root.T, rng.standard_normal((90, 5)) * np.array([1e-6, 1, 1, 1e6, 1])
    found = exact_product(slice_matrix(matrix), columns)
    scale = np.sqrt((matrix**2).sum(1)).max() * np.sqrt((columns**2).sum(0))
    assert (np.abs(found - matrix @ columns) / scale).max() < 1e-13
    order = rng.permutation(90)  # another order of the inner sums
    again = exact_product(slice_matrix(matrix[:, order]), columns[order])
    assert np.array_equal(found, again)
    assert not np.array_equal(matrix @ columns, matrix[:, order] @ columns[order]), "this test can fail"
