"""Sums by cluster against plain numpy, in any order and sharding, and what they refuse."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inscape.stats.sufficient import ClusterSums, GridTargets, grid_targets

CLUSTERS, PARTS, WIDTH = 40, 6, 5


def sample(n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(-1, CLUSTERS * PARTS, n), grid_targets(
        rng.standard_normal((n, WIDTH)), np.zeros(WIDTH), np.ones(WIDTH)
    )


def summed(key, targets, rows=slice(None)):
    sums = ClusterSums(CLUSTERS, PARTS, WIDTH, squares=True)
    sums.add(key[rows], GridTargets(*(x[rows] for x in targets)))
    return sums


def equal(one, other):
    return all(
        np.array_equal(a, b) for a, b in zip(one.of_parts(range(PARTS)), other.of_parts(range(PARTS)), strict=True)
    )


@pytest.mark.parametrize("parts", [(0,), (1, 4), (0, 1, 2, 3, 4, 5)])
def test_sums_are_those_of_the_frames(parts):
    key, targets = sample(700)
    found = summed(key, targets).of_parts(parts)
    inside = (key >= 0) & np.isin(key // CLUSTERS, parts)
    cluster, x = key[inside] % CLUSTERS, targets.delta_ND[inside]
    assert found.cluster_K.tolist() == sorted(set(cluster))
    assert found.n == inside.sum()
    for k, count, total, square, norm in zip(*found, strict=True):
        mine = x[cluster == k]
        assert count == len(mine)
        np.testing.assert_allclose(total, mine.sum(0), atol=1e-12)
        np.testing.assert_allclose(square, (mine**2).sum(0), atol=1e-5)
        np.testing.assert_allclose(norm, (mine**2).sum(), atol=1e-5)


@given(st.integers(0, 2**32), st.integers(1, 9))
def test_any_sharding_gives_the_same_bits(seed, shards):
    key, targets = sample(300, seed)
    cuts = np.sort(np.random.default_rng(seed).integers(0, 301, shards - 1))
    order = np.random.default_rng(seed + 1).permutation(300)
    parts = [summed(key, targets, rows) for rows in np.split(order, cuts)]
    merged = ClusterSums(CLUSTERS, PARTS, WIDTH, squares=True)
    for part in reversed(parts):
        merged.merge(part)
    assert equal(merged, summed(key, targets))


def test_rows_exist_only_where_frames_do():
    sums = ClusterSums(65536, 6, 512, squares=True)  # 3 GB if every cell had its row
    targets = grid_targets(np.ones((4, 512)), np.zeros(512), np.ones(512))
    sums.add(np.array([7, 7, 65536 * 6 - 1, -1]), targets)
    assert sums.rows == 2
    assert sums.of_parts((0,)).count_K.tolist() == [2]
    assert sums.of_parts((1,)).n == 0


def test_targets_are_normalised_and_on_their_grid():
    delta = np.random.default_rng(2).standard_normal((50, WIDTH)) * 7 + 3
    found = grid_targets(delta, delta.mean(0), delta.std(0))
    np.testing.assert_allclose(found.delta_ND, (delta - delta.mean(0)) / delta.std(0), atol=2.0**-21)
    np.testing.assert_allclose(found.norm_N, (found.delta_ND**2).sum(1), atol=1e-6)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="do not take those over"):
        ClusterSums(3, 6, 2, squares=True).merge(ClusterSums(4, 6, 2, squares=True))


def test_sums_that_outgrow_their_grid_are_told():
    sums = ClusterSums(3, 1, 2, squares=True)
    sums.add(np.array([0]), grid_targets(np.full((1, 2), 1e3), np.zeros(2), np.ones(2)))
    assert sums.exact
    sums.add(np.array([0]), grid_targets(np.full((1, 2), 1e6), np.zeros(2), np.ones(2)))
    assert not sums.exact
    assert sums.of_parts((0,)).norm_K[0] == pytest.approx(2e12, rel=1e-5)
