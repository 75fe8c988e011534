"""k-means: as good as scikit-learn's, the same for any blocks, and every assignment against brute force."""

import numpy as np
import pytest
from sklearn.cluster import KMeans as Reference

from inscape.stats.kmeans import KMeansConfig, fit_kmeans, nearest_centroids

RNG = np.random.default_rng(0)


def blobs(rows, dimension, centres, spread):
    place = spread * RNG.standard_normal((centres, dimension))
    return (RNG.standard_normal((rows, dimension)) + place[RNG.integers(0, centres, rows)]).astype(np.float32)


BLOBS = blobs(3000, 8, 12, 3)


@pytest.mark.parametrize(("rows", "dimension", "clusters"), [(2000, 8, 16), (1500, 32, 24)])
def test_inertia_is_that_of_scikit_learn(rows, dimension, clusters):
    x = blobs(rows, dimension, 20, 2)
    mine = fit_kmeans(lambda: [x], rows, clusters, KMeansConfig(tolerance=0.0))
    theirs = Reference(clusters, n_init=10, max_iter=100, tol=0, random_state=42).fit(x)
    assert mine.settled
    assert mine.inertia <= theirs.inertia_ * 1.005
    direct = ((x[:, None] - mine.centroid_KD[None]) ** 2).sum(2)
    assert mine.inertia == pytest.approx(direct.min(1).sum(), rel=1e-6)
    found = nearest_centroids(x, mine.centroid_KD, mine.step)
    assert (found.label_N == direct.argmin(1)).mean() > 0.999
    np.testing.assert_allclose(found.squared_N, direct.min(1), rtol=1e-4, atol=1e-4)
    means = np.stack([x[found.label_N == k].mean(0) for k in range(clusters)])
    np.testing.assert_allclose(means, mine.centroid_KD, atol=1e-5)


def test_the_sample_only_chooses_the_start():
    # Restarts on a tenth of the rows, Lloyd on all: as good as restarts on all, within what starts differ by.
    small = fit_kmeans(lambda: [BLOBS], 3000, 12, KMeansConfig(sample_per_cluster=25))
    whole = fit_kmeans(lambda: [BLOBS], 3000, 12)
    assert small.inertia <= whole.inertia * 1.01
    labels = nearest_centroids(BLOBS, small.centroid_KD, small.step).label_N
    assert np.abs(np.stack([BLOBS[labels == k].mean(0) for k in range(12)]) - small.centroid_KD).max() < 0.1


def test_blocks_and_cache_change_no_bit():
    config = KMeansConfig(restarts=2, sample_per_cluster=80)
    one = fit_kmeans(lambda: [BLOBS], 3000, 12, config)
    many = fit_kmeans(lambda: np.split(BLOBS, [0, 1, 500, 2999]), 3000, 12, config)
    read_again = fit_kmeans(
        lambda: np.split(BLOBS, [700]), 3000, 12, KMeansConfig(restarts=2, sample_per_cluster=80, cache_bytes=0)
    )
    for other in (many, read_again):
        assert np.array_equal(one.centroid_KD, other.centroid_KD)
        assert one[1:] == other[1:]


def test_fewer_points_than_clusters_leave_clusters_empty():
    x = np.repeat(np.eye(3, dtype=np.float32), 20, axis=0)
    found = fit_kmeans(lambda: [x], 60, 8)
    assert found.inertia == 0
    assert len(set(nearest_centroids(x, found.centroid_KD, found.step).label_N)) == 3
    assert np.isfinite(fit_kmeans(lambda: [np.zeros((9, 2), np.float32)], 9, 4).centroid_KD).all()


def test_it_stops_at_the_limit_and_says_so():
    found = fit_kmeans(lambda: [BLOBS], 3000, 30, KMeansConfig(restarts=1, iterations=2))
    assert (found.iterations, found.settled) == (2, False)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="8 clusters want as many rows, given 3"):
        fit_kmeans(lambda: [BLOBS[:3]], 3, 8)
    with pytest.raises(ValueError, match="2000 rows were announced and 3000 came"):
        fit_kmeans(lambda: [BLOBS], 2000, 8)
