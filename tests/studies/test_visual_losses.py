"""The image prior's pieces against closed forms, and the hole in the plan's recipe."""

import pytest
import torch

from inscape import stats
from inscape.stats import fields
from inscape.studies.visual.losses import (
    Weights,
    alignment,
    between_sentence_share,
    calibrated_terms,
    effective_dimensions,
    gaussian_blur,
    plan_terms,
    pooled_correlation,
    tokens_held,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed))


def words(latent: torch.Tensor) -> torch.Tensor:
    """Ten random tokens for each latent."""
    return tokens_held(torch.randint(0, 200, (len(latent), 10), generator=generator(7)), 200)


WORDS = words(torch.zeros(24))


def test_alignment_is_one_for_a_projection_of_the_words_and_low_for_a_hash():
    tokens = torch.randint(0, 60, (64, 10), generator=generator())
    holds = tokens_held(tokens, 60)
    projected = (holds @ noise(60, 6 * 32 * 32)).reshape(64, 6, 32, 32)
    assert alignment(projected, holds) > 0.95
    for other in (projected[torch.randperm(64, generator=generator())], noise(64, 6, 32, 32, seed=3)):
        assert alignment(other, holds) < 0.8  # 64 rows in more dimensions than that are never quite unrelated
    assert alignment(torch.zeros(64, 6, 32, 32), holds) == 0


def test_share_is_zero_for_one_picture_and_one_for_unrelated_ones():
    picture = noise(1, 2, 32, 32)
    assert between_sentence_share(picture.expand(10, -1, -1, -1)).max() == pytest.approx(0, abs=1e-6)
    assert between_sentence_share(noise(200, 2, 32, 32)).min() == pytest.approx(1, abs=0.02)
    mixed = picture + noise(200, 2, 32, 32, seed=1)
    assert between_sentence_share(mixed).mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("directions", [1, 2, 5])
def test_effective_dimensions_counts_directions(directions):
    amplitude = noise(4000, directions)
    pictures = torch.linalg.qr(noise(1024, directions))[0].T
    latent = (amplitude @ pictures).reshape(-1, 1, 32, 32)
    assert effective_dimensions(latent) == pytest.approx(directions, rel=0.05)
    assert effective_dimensions(torch.zeros(4, 1, 8, 8)) == 0


def test_pooled_correlation_is_numpys():
    x = noise(5, 3, 8, 8)
    x[:, 1] += x[:, 0]
    torch.testing.assert_close(pooled_correlation(x), torch.corrcoef(x.transpose(0, 1).flatten(1)))


def test_blur_keeps_constants_and_widens_a_point_by_sigma():
    torch.testing.assert_close(gaussian_blur(torch.ones(1, 2, 16, 16), 0.8), torch.ones(1, 2, 16, 16))
    point = torch.zeros(1, 1, 33, 33)
    point[0, 0, 16, 16] = 1
    row = gaussian_blur(point, 1.5)[0, 0].sum(0)
    offset = torch.arange(33.0) - 16
    assert (row * offset**2).sum().sqrt() == pytest.approx(1.5, rel=0.03)
    assert gaussian_blur(point, 0) is point


def test_the_plans_prior_pays_for_fading_and_the_calibrated_one_does_not():
    latent = noise(16, 6, 32, 32)
    weights = Weights()
    faded = {"tv": plan_terms(0.01 * latent, weights)["tv"], "wavelet": plan_terms(0.01 * latent, weights)["wavelet"]}
    for name, value in faded.items():
        assert value == pytest.approx(0.01 * float(plan_terms(latent, weights)[name]), rel=1e-3)
    before = calibrated_terms(latent, words(latent), weights, share=0.5, dimensions=8)
    after = calibrated_terms(0.01 * latent, words(latent), weights, share=0.5, dimensions=8)
    for name in ("spectrum", "tv", "wavelet", "kurtosis", "texture", "covariance", "text"):
        torch.testing.assert_close(after[name], before[name], rtol=1e-2, atol=1e-4)
    assert after["variance"] > 10 * before["variance"]


def test_the_plans_tv_dwarfs_its_spectrum_term():
    latent = 0.05 * fields.power_law(2.0, 60, generator=generator()).reshape(10, 6, 32, 32)
    terms = plan_terms(latent, Weights(spectrum=1, tv=1))
    assert terms["tv"] > 50 * terms["spectrum"]


def test_the_text_term_sees_one_picture_for_all_and_a_picture_with_its_negative():
    weights = Weights()
    picture = noise(1, 6, 32, 32)
    signs = torch.where(noise(32) > 0, 1.0, -1.0)[:, None, None, None]
    text = {
        name: float(calibrated_terms(latent, words(latent), weights, share=0.5, dimensions=16)["text"])
        for name, latent in {
            "own": (words(picture.expand(32, -1, -1, -1)) @ noise(200, 6144)).reshape(32, 6, 32, 32),
            "one": picture + 1e-3 * noise(32, 6, 32, 32),
            "two": signs * picture + 1e-3 * noise(32, 6, 32, 32),
        }.items()
    }
    assert text["own"] < 0.05 < text["two"]
    assert text["own"] < 0.05 < text["one"]


def test_the_texture_term_sees_a_tile():
    plain = noise(8, 6, 32, 32)
    tiled = plain[..., :8, :8].repeat(1, 1, 4, 4)
    terms = [
        float(calibrated_terms(x, words(x), Weights(), share=0.5, dimensions=4)["texture"]) for x in (plain, tiled)
    ]
    assert terms[1] > 5 * terms[0]


@pytest.mark.parametrize("terms", [plan_terms, lambda x, w: calibrated_terms(x, words(x), w, share=0.5, dimensions=4)])
def test_flat_latents_give_finite_gradients(terms):
    flat = torch.zeros(4, 6, 32, 32, requires_grad=True)
    sum(terms(flat, Weights()).values()).backward()
    assert torch.isfinite(flat.grad).all()


def test_descending_the_calibrated_prior_on_pixels_reaches_the_photographs_bands():
    pixels = noise(24, 6, 32, 32).requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=0.05)
    for step in range(60):
        cut = step % 2
        seen = pixels[..., cut : 30 + cut, cut : 30 + cut]
        loss = sum(calibrated_terms(seen, WORDS, Weights(), share=0.5, dimensions=8).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = pixels.detach()
    assert 1.87 < stats.spectral_slope(found).mean() < 3.14
    assert 4.3 < stats.gradient_kurtosis(found).median() < 34.6


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_weights_out_of_range_are_refused(value):
    with pytest.raises(ValueError, match=r"weights\.tv"):
        Weights(tv=value)
