"""The three schemes against scikit-learn and plain numpy; files without pickle; the permuted control."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from inscape.data.planted_latents import shared_rule
from inscape.stats.conditioning import ConditioningConfig, fit_conditioning, load_conditioning, permuted_ids
from inscape.stats.context_windows import EVAL, TRAIN, Utterance, Windows, flat_contexts, mean_contexts
from inscape.stats.kmeans import KMeansConfig
from inscape.stats.streamed_pca import accumulate_moments, survey

CONFIG = ConditioningConfig(mean_clusters=12, score_clusters=20, components=4)
LAG = 2


def corpus():
    rng = np.random.default_rng(5)
    for speaker in range(20):
        x = np.cumsum(rng.standard_normal((int(rng.integers(20, 90)), 9)), 0) * np.arange(1, 10)
        split = TRAIN if speaker < 16 else EVAL
        yield Utterance(f"s{speaker}", x.astype(np.float32), np.ones(len(x), np.float32), split)


def fitted(config=CONFIG, lag=LAG):
    known = survey(corpus, config.windows)
    return fit_conditioning(corpus, known, accumulate_moments(corpus, known), lag, config)


CONDITIONING = fitted()


def contexts(function, split=TRAIN):
    return np.concatenate([function(u.latent_TD, LAG, CONFIG.windows) for u in corpus() if u.split == split])


def test_scores_are_the_principal_components_of_train():
    flat = contexts(flat_contexts).astype(np.float64)
    reference = PCA(4, svd_solver="full").fit(flat)
    for split in (TRAIN, EVAL):
        mine = np.concatenate([CONDITIONING.scores(u.latent_TD) for u in corpus() if u.split == split])
        theirs = reference.transform(contexts(flat_contexts, split).astype(np.float64))
        theirs *= np.sign((mine * theirs).sum(0))
        np.testing.assert_allclose(mine, theirs, atol=1e-5 * theirs.std())
    np.testing.assert_allclose(CONDITIONING.variance_P, reference.explained_variance_, rtol=1e-6)


def test_quartile_cells_have_the_digits_of_their_scores():
    cells = np.concatenate([CONDITIONING.assign(u.latent_TD).label_SN[2] for u in corpus() if u.split == TRAIN])
    scores = np.concatenate([CONDITIONING.scores(u.latent_TD) for u in corpus() if u.split == TRAIN])
    expected = np.zeros(len(scores), dtype=int)
    for d in range(4):
        edges = np.quantile(scores[:, d], [0.25, 0.5, 0.75])
        digit = np.digitize(scores[:, d], edges)  # x >= edge goes up
        np.testing.assert_allclose(np.bincount(digit) / len(digit), 0.25, atol=0.01)
        expected += digit * 4**d
    assert cells.tolist() == expected.tolist()


def test_at_an_edge_a_score_goes_up():
    utterance = next(u for u in corpus())
    scores = CONDITIONING.scores(utterance.latent_TD)
    edges = np.repeat(scores[:1].T, 3, axis=1)  # every edge is the first frame's own score
    moved = type(CONDITIONING)(**{**vars(CONDITIONING), "edge_P3": edges})
    assert moved.assign(utterance.latent_TD).label_SN[2, 0] == 3 * (1 + 4 + 16 + 64)


def test_vector_quantisers_are_as_good_as_scikit_learns_and_assign_the_nearest():
    found = [CONDITIONING.assign(u.latent_TD) for u in corpus() if u.split == TRAIN]
    label = np.concatenate([f.label_SN for f in found], axis=1)
    distance = np.concatenate([f.distance_SN for f in found], axis=1)
    scores = np.concatenate([CONDITIONING.scores(u.latent_TD) for u in corpus() if u.split == TRAIN])
    for scheme, (x, fit) in enumerate(
        ((contexts(mean_contexts), CONDITIONING.mean_vq), (scores, CONDITIONING.score_vq))
    ):
        direct = np.sqrt(((x[:, None].astype(np.float64) - fit.centroid_KD) ** 2).sum(2))
        np.testing.assert_allclose(distance[scheme], direct.min(1), rtol=1e-3)
        assert (label[scheme] == direct.argmin(1)).mean() > 0.999
        theirs = KMeans(len(fit.centroid_KD), n_init=10, max_iter=100, random_state=42).fit(x)
        assert (direct.min(1) ** 2).sum() <= theirs.inertia_ * 1.02
    assert np.isnan(distance[2]).all()


def test_a_file_brings_everything_back(tmp_path):
    path = tmp_path / "conditioning" / "lag2.npz"
    CONDITIONING.save(path)
    again = load_conditioning(path)
    assert again.config == CONFIG
    assert [p.name for p in path.parent.iterdir()] == ["lag2.npz"]
    for utterance in corpus():
        for one, other in zip(CONDITIONING.assign(utterance.latent_TD), again.assign(utterance.latent_TD), strict=True):
            np.testing.assert_array_equal(one, other)
    np.savez(tmp_path / "other.npz", x=1)
    with pytest.raises(ValueError, match="holds no conditioning"):
        load_conditioning(tmp_path / "other.npz")


def test_the_control_keeps_the_histogram_and_nothing_else():
    label = np.sort(np.random.default_rng(0).integers(0, 9, 5000))
    train, held_out = permuted_ids(label, TRAIN), permuted_ids(label, EVAL)
    assert np.bincount(train).tolist() == np.bincount(held_out).tolist() == np.bincount(label).tolist()
    assert abs(np.corrcoef(train, label)[0, 1]) < 0.05
    assert train.tolist() == np.random.default_rng(42 + 1000).permutation(label).tolist()
    assert held_out.tolist() == np.random.default_rng(42 + 2000).permutation(label).tolist()


def test_fitting_looks_at_train_only():
    def without_eval():
        return (u for u in corpus() if u.split == TRAIN)

    known = survey(without_eval, CONFIG.windows)
    other = fit_conditioning(without_eval, known, accumulate_moments(without_eval, known), LAG, CONFIG)
    assert np.array_equal(other.mean_vq.centroid_KD, CONDITIONING.mean_vq.centroid_KD)
    assert np.array_equal(other.edge_P3, CONDITIONING.edge_P3)


def test_codes_of_a_planted_world_are_told_apart_by_every_scheme():
    world = shared_rule(0.5)
    config = ConditioningConfig(kmeans=KMeansConfig(restarts=2, sample_per_cluster=8))
    known = survey(world.utterances, config.windows)
    found = fit_conditioning(world.utterances, known, accumulate_moments(world.utterances, known), 1, config)
    cells = [set() for _ in range(3)]
    for i, utterance in enumerate(world.utterances()):
        for scheme, label_N in enumerate(found.assign(utterance.latent_TD).label_SN):
            cells[scheme].update((i % 8, int(label)) for label in label_N)  # utterance i says code i % 8
    for seen in cells:
        assert len(seen) == len({label for _, label in seen}) == 8


def test_nonsense_is_refused():
    known = survey(corpus, Windows(4))
    with pytest.raises(ValueError, match="the survey was made for"):
        fit_conditioning(corpus, known, accumulate_moments(corpus, known), 1, CONFIG)
    with pytest.raises(ValueError, match="too few for 4096 clusters"):
        fitted(ConditioningConfig(score_clusters=4096))
    with pytest.raises(ValueError, match="1 to 15 components"):
        ConditioningConfig(components=16)
    with pytest.raises(ValueError, match="lag 3 is not among"):
        fitted(lag=3)
