"""Covariances of windows that were never built, against windows that were; eigenvectors against scikit-learn."""

from functools import reduce

import numpy as np
import pytest
from sklearn.decomposition import PCA

from inscape.stats.context_windows import EVAL, HELD_OUT, TRAIN, Utterance, Windows, deltas, flat_contexts
from inscape.stats.streamed_pca import (
    accumulate_moments,
    context_covariance,
    merge_moments,
    merge_surveys,
    normaliser,
    survey,
    top_eigenvectors,
)

WIDTH = 7


def corpus(seed=1, speakers=14):
    rng = np.random.default_rng(seed)
    found = []
    for speaker in range(speakers):
        frames = int(rng.integers(5, 60))
        x = np.cumsum(rng.standard_normal((frames, WIDTH)), 0) * np.arange(1, WIDTH + 1)
        energy = np.abs(rng.standard_normal(frames)).astype(np.float32)
        found.append(Utterance(f"s{speaker}", x.astype(np.float32), energy, TRAIN if speaker % 4 else EVAL))
    return found


UTTERANCES = corpus()
SETTINGS = [Windows(), Windows(3, (1,)), Windows(1, (1, 4)), Windows(5, (2, 3))]


def train(function):
    return np.concatenate([function(u.latent_TD) for u in UTTERANCES if u.split == TRAIN]).astype(np.float64)


@pytest.mark.parametrize("windows", SETTINGS, ids=str)
def test_the_covariance_is_that_of_the_windows(windows):
    sums = accumulate_moments(lambda: UTTERANCES, survey(lambda: UTTERANCES, windows))
    for lag in windows.lags:
        contexts = train(lambda x, lag=lag: flat_contexts(x, lag, windows))
        assert sums.count == len(contexts)
        mean, covariance = context_covariance(sums, lag)
        reference = np.cov(contexts.T).reshape(covariance.shape)
        np.testing.assert_allclose(covariance, reference, atol=1e-6 * np.abs(reference).max())
        np.testing.assert_allclose(mean, contexts.mean(0), atol=1e-5)


def test_targets_are_normalised_by_train_with_a_floor():
    still = [
        u._replace(latent_TD=np.concatenate((u.latent_TD, np.ones((len(u.latent_TD), 1), np.float32)), 1))
        for u in UTTERANCES
    ]
    found = normaliser(accumulate_moments(lambda: still, survey(lambda: still, Windows())))
    steps = train(lambda x: deltas(x, Windows()))
    np.testing.assert_allclose(found.mean_D[:-1], steps.mean(0), rtol=1e-9)
    np.testing.assert_allclose(found.std_D[:-1], steps.std(0), rtol=1e-9)
    assert (found.mean_D[-1], found.std_D[-1]) == (0, 1e-6)


def test_seven_shards_are_one():
    windows = Windows()
    shards = [UTTERANCES[2 * i : 2 * i + 2] for i in range(7)]
    known = reduce(merge_surveys, [survey(lambda part=part: part, windows) for part in reversed(shards)])
    whole = survey(lambda: UTTERANCES, windows)
    assert (known.power, known.frames, known.largest_norm) == (whole.power, whole.frames, whole.largest_norm)
    assert known.energy_threshold == whole.energy_threshold
    parts = [accumulate_moments(lambda part=part: part, known) for part in shards]
    merged, one = reduce(merge_moments, reversed(parts)), accumulate_moments(lambda: UTTERANCES, whole)
    for name, value in vars(one).items():
        assert np.array_equal(getattr(merged, name), value), name


def test_the_energy_threshold_is_the_median_of_all_frames_of_train_speakers():
    frames = np.concatenate([u.energy_T for u in UTTERANCES if u.split != EVAL])
    held_out = [u._replace(split=HELD_OUT) if u.speaker_id == "s1" else u for u in UTTERANCES]
    assert survey(lambda: held_out, Windows()).energy_threshold == pytest.approx(np.median(frames))


@pytest.mark.parametrize("size", [20, 60, 120])
def test_eigenvectors_are_those_of_scikit_learn(size):
    rng = np.random.default_rng(size)
    x = rng.standard_normal((500, size)) * np.arange(1, size + 1) ** -0.6
    x = x @ np.linalg.qr(rng.standard_normal((size, size)))[0]
    found, reference = top_eigenvectors(np.cov(x.T), 8), PCA(8, svd_solver="full").fit(x)
    np.testing.assert_allclose(found.value_P, reference.explained_variance_, rtol=1e-9)
    cosine = np.abs((found.vector_FP * reference.components_.T).sum(0))
    np.testing.assert_allclose(cosine, 1, atol=1e-9)
    assert found.residual < 1e-10
    assert (found.vector_FP[np.abs(found.vector_FP).argmax(0), np.arange(8)] > 0).all()


def test_eigenvalues_that_coincide_and_matrices_of_low_rank():
    white = top_eigenvectors(np.eye(80), 8)
    np.testing.assert_allclose(white.vector_FP.T @ white.vector_FP, np.eye(8), atol=1e-9)
    np.testing.assert_allclose(white.value_P, 1)
    root = np.random.default_rng(3).standard_normal((80, 3))
    low = top_eigenvectors(root @ root.T, 8)
    np.testing.assert_allclose(low.value_P, np.r_[np.linalg.eigvalsh(root.T @ root)[::-1], np.zeros(5)], atol=1e-9)
    assert np.isfinite(top_eigenvectors(np.zeros((80, 80)), 8).vector_FP).all()


@pytest.mark.parametrize("rank", [1, 4, 20])
def test_vectors_stay_orthogonal_where_the_rank_is_low(rank):
    rng = np.random.default_rng(rank)
    basis = np.linalg.qr(rng.standard_normal((90, rank)))[0]
    values = 1e14 * 0.8 ** np.arange(rank)
    found = top_eigenvectors((basis * values) @ basis.T, 8)
    np.testing.assert_allclose(found.vector_FP.T @ found.vector_FP, np.eye(8), atol=1e-12)
    np.testing.assert_allclose(found.value_P[:rank], values[:8], rtol=1e-9)
    assert found.residual < 1e-10


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="no utterance"):
        survey(list, Windows())
    broken = UTTERANCES[0].latent_TD.copy()
    broken[2, 2] = np.nan
    with pytest.raises(ValueError, match="speaker s0: latents and energies must be finite"):
        survey(lambda: [UTTERANCES[0]._replace(latent_TD=broken)], Windows())
    with pytest.raises(ValueError, match="wanted"):
        survey(lambda: [UTTERANCES[0], UTTERANCES[1]._replace(latent_TD=np.ones((9, 2), np.float32))], Windows())
    with pytest.raises(ValueError, match="81 components of 80"):
        top_eigenvectors(np.eye(80), 81)
    few, more = (
        accumulate_moments(lambda n=n: UTTERANCES[:n], survey(lambda n=n: UTTERANCES[:n], Windows())) for n in (3, 14)
    )
    with pytest.raises(ValueError, match="different grids"):
        merge_moments(few, more)
    with pytest.raises(ValueError, match="shards differ"):
        merge_surveys(survey(lambda: UTTERANCES, Windows()), survey(lambda: UTTERANCES, Windows(4)))
    empty = accumulate_moments(lambda: UTTERANCES[:1], survey(lambda: UTTERANCES[:1], Windows()))
    with pytest.raises(ValueError, match="no eligible frame in the split 'train'"):
        normaliser(empty)
