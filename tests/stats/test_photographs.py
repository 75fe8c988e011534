"""Planted fields and the linear two-sample test: photographs pass for photographs, empty worlds do not."""

import numpy as np
import pytest
import torch

from inscape.stats import fields
from inscape.stats.photographs import BANDS, STATISTICS, as_features, describe, photograph_table
from inscape.stats.two_sample import auc_against_photographs, linear_auc, rank_auc


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_table_agrees_with_the_published_bands():
    medians = np.median(photograph_table().statistics, axis=0)
    for name, median in zip(STATISTICS, medians, strict=True):
        band = BANDS[name]
        assert band.low < median < band.high
        assert median == pytest.approx(band.median, rel=0.2), name


def test_the_table_has_whole_groups_and_finite_numbers():
    table = photograph_table()
    assert table.statistics.shape == (3600, len(STATISTICS))
    assert np.isfinite(table.statistics).all()
    assert np.bincount(table.photograph).tolist() == [300] * 12


WORLDS = {
    "white noise": (fields.white_noise, 0.99),
    "Gaussian 1/f^2": (lambda n, generator: fields.power_law(2.0, n, generator=generator), 0.95),
    "Gaussian 1/f^2.6": (lambda n, generator: fields.power_law(2.6, n, generator=generator), 0.95),
    "dead leaves": (fields.dead_leaves, 0.90),
    "ramps": (fields.ramp, 0.99),
}


@pytest.mark.parametrize("world", WORLDS)
def test_worlds_that_are_no_photographs_are_told_apart(world):
    make, at_least = WORLDS[world]
    images = make(300, generator=seeded())
    assert auc_against_photographs(describe(images), np.arange(300)).auc > at_least


def test_photographs_are_hardly_told_from_other_photographs():
    table = photograph_table()
    features = as_features(table.statistics)
    ungrouped, grouped = [], []
    for seed in range(10):
        half = np.isin(table.photograph, np.random.default_rng(seed).permutation(12)[:6])
        one, other = features[half], features[~half]
        ungrouped.append(linear_auc(one, other, np.arange(len(one)), np.arange(len(other)), seed).auc)
        pictures = table.photograph
        grouped.append(linear_auc(one, other, pictures[half], pictures[~half], seed).auc)
    assert np.median(ungrouped) == pytest.approx(0.67, abs=0.05)
    assert np.median(grouped) == pytest.approx(0.5, abs=0.15)


def test_groups_keep_what_belongs_together_on_one_side():
    # Features that name the group and nothing else: ungrouped rows are told apart, whole groups are not.
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 12)) * 10
    rows = np.repeat(centres, 30, axis=0) + rng.normal(size=(600, 12))
    groups = np.repeat(np.arange(20), 30)
    one, other = groups < 10, groups >= 10
    leaky = linear_auc(rows[one], rows[other], np.arange(300), np.arange(300)).auc
    honest = linear_auc(rows[one], rows[other], groups[one], groups[other]).auc
    assert leaky > 0.9
    assert honest < 0.75


def test_auc_of_known_scores():
    assert rank_auc(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == 1.0
    assert rank_auc(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == 0.0
    assert rank_auc(np.array([1.0, 1.0]), np.array([1.0])) == 0.5
    assert rank_auc(np.array([1.0, 3.0]), np.array([2.0, 4.0])) == 0.75


def test_the_discriminant_reaches_the_bound_of_two_gaussians():
    # Means 1 apart in one of three unit-variance directions: AUC = Phi(1 / sqrt 2) = 0.760.
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(4000, 3)), rng.normal(size=(4000, 3)) + np.array([1.0, 0.0, 0.0])
    assert linear_auc(one, other, np.arange(4000), np.arange(4000)).auc == pytest.approx(0.760, abs=0.015)


def test_users_mistakes_are_named():
    rows = np.zeros((8, 6))
    with pytest.raises(ValueError, match="at least 5 groups"):
        auc_against_photographs(rows, np.zeros(8))
    with pytest.raises(ValueError, match="NaN"):
        auc_against_photographs(np.full((8, 6), np.nan), np.arange(8))
    with pytest.raises(ValueError, match="32, 32"):
        describe(torch.randn(2, 16, 16))


@pytest.mark.parametrize("world", WORLDS)
def test_fields_are_pure_functions_of_their_generator(world):
    make, _ = WORLDS[world]
    first, again, other = (make(3, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.testing.assert_close(first.mean((-2, -1)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(first.square().mean((-2, -1)), torch.ones(3))
