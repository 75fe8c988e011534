"""Planted dynamics: the draws follow their density, and what is called best is best."""

import numpy as np
import pytest
import torch
from scipy.stats import vonmises_fisher

from inscape.data.planted_dynamics import LinearGaussianWorld, VonMisesFisherWorld, sample_von_mises_fisher
from inscape.nn import vmf


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


@pytest.mark.parametrize(("dimension", "kappa"), [(2, 3.0), (3, 0.5), (3, 50.0), (32, 70.0), (512, 799.0), (64, 0.0)])
def test_draws_have_the_moments_of_scipys_distribution(dimension: int, kappa: float):
    mean = np.random.default_rng(1).standard_normal(dimension)
    mean /= np.linalg.norm(mean)
    drawn = sample_von_mises_fisher(np.tile(mean, (20_000, 1)), kappa, np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1)
    expected = float(vmf.mean_cosine(torch.tensor(kappa, dtype=torch.float64), dimension))
    assert (drawn @ mean).mean() == pytest.approx(expected, abs=0.02 / np.sqrt(dimension) + 1e-3)
    if kappa and dimension < 100:
        theirs = vonmises_fisher(mean, kappa).rvs(20_000, random_state=np.random.default_rng(2))
        assert (drawn @ mean).std() == pytest.approx((theirs @ mean).std(), rel=0.03)
    across = drawn - (drawn @ mean)[:, None] * mean
    assert np.linalg.norm(across.mean(0)) < 0.03


def test_the_world_keeps_its_promises():
    world = VonMisesFisherWorld(32, vmf.concentration(0.73, 32))
    latents = world.utterances(20, 500, 0)
    assert len(latents) == 20
    assert latents[0].shape == (500, 32)
    assert latents[0].dtype == np.float32
    before, last, now = (np.concatenate([x[i : 498 + i] for x in latents]) for i in range(3))
    step = now - last
    reached = cosine(world.mean_direction(before, last), step)
    assert reached.mean() == pytest.approx(float(vmf.mean_cosine(torch.tensor(world.kappa), 32)), abs=0.005)
    left = np.log(np.linalg.norm(step, axis=1)) - world.mean_log_length(last)
    assert left.mean() == pytest.approx(0, abs=0.02)
    assert left.std() == pytest.approx(world.spread, rel=0.03)
    radius = np.linalg.norm(np.stack(latents), axis=2)
    assert radius[:, -100:].mean() == pytest.approx(radius[:, :100].mean(), rel=0.1), "it does not run away"


def test_the_optimum_at_512_dimensions_is_the_one_that_is_published():
    kappa = torch.tensor(vmf.concentration(0.73, 512), dtype=torch.float64)
    optimum = vmf.log_partition(kappa, 512) - kappa * vmf.mean_cosine(kappa, 512)
    assert float(optimum) == pytest.approx(-194.7, abs=0.1)


def test_simple_predictors_do_not_know_the_vmf_world():
    world = VonMisesFisherWorld(32, 200.0)
    x = world.utterances(4, 400, 3)[0]
    step = np.diff(x, axis=0)[1:]
    best = cosine(world.mean_direction(x[:-2], x[1:-1]), step).mean()
    assert cosine(-x[1:-1], step).mean() < best - 0.05
    assert cosine(x[1:-1] - x[:-2], step).mean() < best - 0.3


@pytest.mark.parametrize("ahead", [1, 4, 16])
def test_the_best_cosine_is_what_the_best_predictor_gets(ahead: int):
    world = LinearGaussianWorld(8, decay=0.97, angle=0.4)
    x = np.stack(world.utterances(20_000, ahead + 1, 0)).astype(np.float64)
    step = x[:, ahead] - x[:, ahead - 1]
    found = cosine(world.expected_step(x[:, 0], ahead), step)
    assert found.mean() == pytest.approx(world.best_cosine(ahead), abs=4 * found.std() / np.sqrt(len(found)))
    # nor is there a better linear direction: least squares on the same frames finds none
    weights = np.linalg.lstsq(x[:10_000, 0], step[:10_000], rcond=None)[0]
    assert cosine(x[10_000:, 0] @ weights, step[10_000:]).mean() < world.best_cosine(ahead) + 0.01


def test_the_linear_world_is_stationary_and_white():
    world = LinearGaussianWorld(6)
    x = np.concatenate(world.utterances(200, 100, 1))
    np.testing.assert_allclose(np.cov(x.T), np.eye(6), atol=0.15)
    assert np.linalg.norm(world.transition @ x[0]) == pytest.approx(world.decay * np.linalg.norm(x[0]), rel=1e-5)


def test_a_seed_is_a_world_and_a_draw():
    for make in (VonMisesFisherWorld(8, 5.0), LinearGaussianWorld(8)):
        np.testing.assert_array_equal(make.utterances(2, 9, 4), make.utterances(2, 9, 4))
        assert not np.allclose(make.utterances(2, 9, 4), make.utterances(2, 9, 5))
    assert not np.allclose(LinearGaussianWorld(8).transition, LinearGaussianWorld(8, seed=1).transition)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="even dimensions"):
        LinearGaussianWorld(7)
    with pytest.raises(ValueError, match="decay"):
        LinearGaussianWorld(8, decay=1.0)
    with pytest.raises(ValueError, match="kappa"):
        VonMisesFisherWorld(8, -1.0)
    with pytest.raises(ValueError, match="dimension"):
        sample_von_mises_fisher(np.ones((3, 1)), 1.0, np.random.default_rng(0))
