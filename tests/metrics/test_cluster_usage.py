"""Effective numbers against their closed forms, and where they must not move."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from inscape.metrics.cluster_usage import contingency, effective_number, effective_number_given


def test_equal_clusters_are_counted_and_empty_ones_are_not() -> None:
    assert effective_number(np.array([7, 7, 0, 7, 7])) == pytest.approx(4)
    assert effective_number(np.array([0, 9, 0])) == pytest.approx(1)
    assert effective_number(np.array([0, 0])) == effective_number_given(np.zeros((3, 2))) == 0


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20).filter(any))
def test_it_is_the_exponential_of_the_entropy(counts: list[int]) -> None:
    found = effective_number(np.array(counts))
    assert found == pytest.approx(math.exp(entropy(counts)))
    assert 1 - 1e-9 <= found <= sum(c > 0 for c in counts) + 1e-9


@given(
    st.lists(st.lists(st.integers(0, 50), min_size=3, max_size=3), min_size=2, max_size=6).filter(
        lambda x: any(map(any, x))
    )
)
def test_knowing_something_never_adds_clusters(table: list[list[int]]) -> None:
    count_KB = np.array(table)
    given_bins = effective_number_given(count_KB)
    joint = entropy(count_KB.ravel()) - entropy(count_KB.sum(0))
    assert given_bins == pytest.approx(math.exp(joint), rel=1e-6)
    assert given_bins <= effective_number(count_KB.sum(1)) * (1 + 1e-9)


def test_clusters_that_are_the_bins_are_one_inside_each_and_independent_ones_are_all_there() -> None:
    label_N, bin_N = np.repeat(np.arange(6), 50), np.tile(np.arange(5), 60)
    assert effective_number_given(contingency(label_N, label_N)) == pytest.approx(1)
    assert effective_number_given(contingency(label_N, bin_N)) == pytest.approx(6)
    assert contingency(label_N, bin_N).tolist() == [[10] * 5] * 6
    assert contingency(np.empty(0, int), np.empty(0, int)).shape == (0, 0)
