"""The measures from sums against plain numpy on the frames, their nulls, and what they do with nonsense."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from inscape.metrics.clustering import (
    PairSpread,
    SpeakerTerms,
    adjusted_interval,
    cluster_diagnostics,
    degradation,
    entropy_reduction,
    held_out_interval,
    permutation_p,
    permuted_moments,
    ratio_with_means,
    speaker_spread,
    variance_ratio,
)
from inscape.stats.sufficient import ClusterSums, grid_targets


def sums_of(x, label, clusters=None):
    sums = ClusterSums(clusters or int(label.max()) + 1, 1, x.shape[1], squares=True)
    sums.add(label, grid_targets(x, np.zeros(x.shape[1]), np.ones(x.shape[1])))
    return sums.of_parts((0,))


def spread_of(x):
    centred = x - x.mean(0)
    norm = (centred**2).sum(1)
    return PairSpread(len(x), norm.sum(), ((centred.T @ centred) ** 2).sum(), (norm**2).sum())


def clusters_of(x, label):
    return [x[label == k] for k in np.unique(label)]


def plain_ratio(x, label):
    within = sum(((c - c.mean(0)) ** 2).sum() for c in clusters_of(x, label))
    return within / ((x - x.mean(0)) ** 2).sum()


def permuted(x, label, draws, seed):
    """1 - VR of permuted labels, by the projection on clusters."""
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(len(x)), (draws, 1)), axis=1)
    inside = (label == np.unique(label)[:, None]) / np.sqrt(np.unique(label, return_counts=True)[1])[:, None]
    centred = x - x.mean(0)
    return sum(((row[order] @ centred) ** 2).sum(1) for row in inside) / (centred**2).sum()


def world(seed, n=400, width=4, clusters=7, effect=0.5):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, clusters, n)
    return effect * rng.standard_normal((clusters, width))[label] + rng.standard_normal((n, width)), label


@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 5))
def test_the_ratio_is_that_of_the_frames(seed, clusters, width):
    x, label = world(seed, 60, width, clusters)
    found = variance_ratio(sums_of(x, label))
    assert found.raw == pytest.approx(plain_ratio(x, label), abs=1e-6)
    assert found.clusters == len(np.unique(label))
    assert found.adjusted == pytest.approx(found.raw * 59 / (60 - found.clusters))


def test_a_permuted_ratio_averages_to_one_where_it_is_adjusted():
    x, label = world(1, 120, 3, 20)
    rng = np.random.default_rng(0)
    found = [variance_ratio(sums_of(x, rng.permutation(label))) for _ in range(1600)]
    assert np.mean([f.raw for f in found]) == pytest.approx(1 - 19 / 119, abs=0.004)
    assert np.mean([f.adjusted for f in found]) == pytest.approx(1, abs=0.004)


def test_clusters_that_are_the_targets_explain_them_all():
    label = np.arange(60) % 6
    assert variance_ratio(sums_of(label[:, None].astype(float), label)).raw == 0


def test_nothing_to_explain_is_not_measured():
    still = variance_ratio(sums_of(np.ones((9, 2)), np.arange(9) % 2))
    assert math.isnan(still.raw)
    empty = ClusterSums(3, 1, 2, squares=True).of_parts((0,))
    assert math.isnan(variance_ratio(empty).raw)
    assert math.isnan(permutation_p(empty, PairSpread(0, 0, 0, 0)))
    assert all(map(math.isnan, permuted_moments(empty, PairSpread(0, 0, 0, 0))))
    assert math.isnan(entropy_reduction(empty).gain)
    each_its_own = variance_ratio(sums_of(np.eye(4), np.arange(4)))
    assert (each_its_own.raw, math.isnan(each_its_own.adjusted)) == (0, True)


def test_the_ratio_with_train_means_is_the_held_out_r2():
    (x, label), (y, other) = world(2), world(3)
    train_mean = {k: x[label == k].mean(0) for k in range(6)}  # cluster 6 was never seen
    seen = label < 6
    predicted = np.stack([train_mean.get(k, x[seen].mean(0)) for k in other])
    expected = ((y - predicted) ** 2).sum() / ((y - y.mean(0)) ** 2).sum()
    found = ratio_with_means(sums_of(y, other, 7), sums_of(x[seen], label[seen], 7))
    assert found == pytest.approx(expected, abs=1e-5)
    assert found > 1, "rules of another world make it worse than the mean does"


@pytest.mark.parametrize("width", [1, 6])
def test_the_moments_of_the_permutation_are_exact(monkeypatch, width):
    rng = np.random.default_rng(4)
    x = rng.standard_normal((40, width)) ** 3 * np.arange(1, width + 1)  # heavy tails, unequal dimensions
    label = np.repeat(np.arange(6), [2, 3, 5, 8, 10, 12])  # unequal clusters
    seen = []
    monkeypatch.setattr("inscape.metrics.clustering.beta_survival", lambda *given: seen.append(given) or 0.5)
    permutation_p(sums_of(x, label), spread_of(x))
    (_, a, b), drawn = seen[0], permuted(x, label, 40000, seed=0)
    assert a / (a + b) == pytest.approx(np.mean(drawn), rel=0.01)
    assert a * b / ((a + b) ** 2 * (a + b + 1)) == pytest.approx(np.var(drawn), rel=0.04)
    moments = permuted_moments(sums_of(x, label), spread_of(x))
    assert moments == (pytest.approx(np.mean(drawn), rel=0.01), pytest.approx(np.std(drawn), rel=0.02))


def test_p_is_the_share_of_permutations_that_explain_as_much():
    x, label = world(5, 150, 5, 10, effect=0.14)
    share = (permuted(x, label, 8000, seed=1) >= 1 - plain_ratio(x, label)).mean()
    assert 0.005 < share < 0.5
    assert permutation_p(sums_of(x, label), spread_of(x)) == pytest.approx(share, abs=0.015)


def test_p_of_one_dimension_is_that_of_an_f_test():
    x, label = world(6, 300, 1, 5, effect=0.1)
    expected = stats.f_oneway(*clusters_of(x, label)).pvalue.item()
    assert permutation_p(sums_of(x, label), spread_of(x)) == pytest.approx(expected, abs=0.01)


def test_p_is_even_where_clusters_say_nothing():
    found = []
    for seed in range(300):
        x, label = world(seed, 200, 4, 12, effect=0.0)
        found.append(permutation_p(sums_of(x, label), spread_of(x)))
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_entropy_is_that_of_diagonal_gaussians():
    x, label = world(7, 300, 3, 5)
    x[:, 2] = 1.0  # a dimension that stands still is floored at 1e-10

    def entropy(frames):
        return 0.5 * np.log(np.maximum(frames.var(0), 1e-10)).sum()

    parts = [*clusters_of(x, label), x[:1]]  # a cluster of one sample has no entropy
    found = entropy_reduction(sums_of(np.concatenate((x, x[:1])), np.concatenate((label, [5]))))
    inside = sum(entropy(c) * len(c) for c in parts[:-1]) / 300
    assert found.entropy == pytest.approx(entropy(np.concatenate(parts)), abs=1e-5)
    assert found.conditional == pytest.approx(inside, abs=1e-5)
    assert found.gain == pytest.approx(found.entropy - found.conditional)
    assert found.gain_per_dim == pytest.approx(found.gain / 3)
    assert found.ratio == pytest.approx(found.gain / found.entropy)
    assert found.ratio_reliable


def test_the_entropy_ratio_of_normalised_targets_is_flagged():
    x, label = world(8, 5000, 4, 3)
    assert not entropy_reduction(sums_of((x - x.mean(0)) / x.std(0), label)).ratio_reliable


def terms_of(rng, speakers, effect):
    """Speakers whose own share of explained variance scatters by `effect`."""
    n = rng.integers(100, 300, speakers)
    within = n * (0.7 + effect * rng.standard_normal(speakers))
    return SpeakerTerms(n, within, n.astype(float), within * 1.1)


def test_the_interval_over_speakers_covers():
    rng = np.random.default_rng(9)
    inside = 0
    for seed in range(200):
        terms = terms_of(rng, 40, 0.1)
        value = terms.within_U.sum() / terms.total_U.sum()
        found = adjusted_interval(value, terms, 1, seed=seed, resamples=300)
        inside += found.low <= 0.7 <= found.high
    assert 0.88 <= inside / 200 <= 0.99
    assert (found.n, found.unit) == (40, "speakers")


@pytest.mark.parametrize("clusters", [1, 3])
def test_the_interval_over_six_speakers_is_students(clusters):
    """Speakers who hold as much are a sample of ratios, up to the factor of the clusters."""
    n, share = np.full(6, 200), np.random.default_rng(12).uniform(0.5, 0.9, 6)
    terms = SpeakerTerms(n, n * share, n.astype(float), n * share)
    adjusted = 1199 / (1200 - clusters) if clusters > 1 else 1.0
    found = adjusted_interval(share.mean() * adjusted, terms, clusters, seed=0, resamples=1)
    half = adjusted * stats.t.ppf(0.975, 5) * stats.sem(share)
    assert found.high - found.low >= 2 * half * (1 - 1e-6)
    assert min(found.high - found.value, found.value - found.low) == pytest.approx(half, rel=1e-3)
    held_out = held_out_interval(share.mean(), terms, seed=0, resamples=300)
    spread = speaker_spread(share)
    assert (held_out.low, held_out.high) == pytest.approx((spread.low, spread.high))


def test_a_speaker_without_whom_there_is_no_ratio_makes_the_interval_unknown():
    terms = SpeakerTerms(np.array([100, 0]), np.array([70.0, 0]), np.array([100.0, 0]), np.array([70.0, 0]))
    assert not held_out_interval(0.7, terms, seed=0, resamples=50).measured, "it is that of one speaker"


def test_intervals_use_their_own_terms_and_say_when_there_are_none():
    terms = terms_of(np.random.default_rng(10), 30, 0.05)
    held_out = held_out_interval(0.77, terms, seed=0, resamples=200)
    assert held_out.low < 0.77 < held_out.high
    assert held_out.low > 0.7
    one = SpeakerTerms(*(x[:1] for x in terms))
    assert not adjusted_interval(0.7, one, 3, seed=0, resamples=50).measured
    assert not adjusted_interval(math.nan, terms, 3, seed=0, resamples=50).measured


def test_the_spread_over_speakers_has_a_t_interval():
    x = np.random.default_rng(11).standard_normal(12)
    found = speaker_spread(np.append(x, math.nan))
    low, high = stats.t.interval(0.95, 11, loc=x.mean(), scale=stats.sem(x))
    assert found == pytest.approx((12, x.mean(), x.std(ddof=1), x.min(), x.max(), low, high))
    assert speaker_spread(np.array([])).n == 0
    assert math.isnan(speaker_spread(np.array([1.0])).low)


def test_degradation():
    assert degradation(0.5, 0.6) == pytest.approx(0.2)
    assert math.isnan(degradation(0.0, 0.5))


def test_diagnostics_of_clusters():
    x, label = world(12, 500, 4, 5, effect=3)
    found = cluster_diagnostics(sums_of(x, label))
    assert found.count_K.tolist() == np.bincount(label).tolist()
    np.testing.assert_allclose(found.variance_K, [c.var(0).mean() for c in clusters_of(x, label)], atol=1e-5)
    means = np.stack([c.mean(0) for c in clusters_of(x, label)])
    centred = means - means.mean(0)
    values = np.linalg.svd(centred, compute_uv=False)[:2]
    np.testing.assert_allclose(np.sqrt((found.plane_K2**2).sum(0)), values, rtol=1e-5)
