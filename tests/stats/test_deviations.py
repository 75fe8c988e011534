"""Deviations from photographs: zero on average for photographs, Mahalanobis in sum, and differentiable."""

import numpy as np
import pytest
import torch

from inscape.stats import fields
from inscape.stats.photographs import STATISTICS, as_features, describe, deviations, photograph_table


def leaves(count: int) -> torch.Tensor:
    return fields.dead_leaves(count, generator=torch.Generator().manual_seed(0))


def test_squares_add_up_to_the_mahalanobis_distance_to_the_table():
    x = leaves(20)
    features = as_features(photograph_table().statistics)
    away = as_features(describe(x)) - features.mean(0)
    expected = np.einsum("ni,ij,nj->n", away, np.linalg.inv(np.cov(features, rowvar=False)), away)
    np.testing.assert_allclose(deviations(x).square().sum(-1).numpy(), expected, rtol=1e-2)


def test_the_slope_stands_first_and_by_itself():
    x = fields.power_law(2.0, 300, generator=torch.Generator().manual_seed(0))
    spread = photograph_table().statistics[:, 0].std(ddof=1)
    first = deviations(x, 2.0)[:, STATISTICS.index("spectral_slope")]
    assert first.mean() == pytest.approx(0, abs=0.1)
    shifted = deviations(x, 2.0 - spread)[:, 0]
    torch.testing.assert_close(shifted - first, torch.ones(300), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(deviations(x, 2.0)[:, 1:], deviations(x)[:, 1:])


def test_white_noise_is_far_from_photographs_and_a_1_over_f_field_nearer():
    generator = torch.Generator().manual_seed(0)
    white, pink = fields.white_noise(100, generator=generator), fields.power_law(2.0, 100, generator=generator)
    far, near = (deviations(x).square().sum(-1).median() for x in (white, pink))
    assert far > 5 * near


def test_gradients_are_finite_even_for_flat_pictures():
    flat = torch.zeros(3, 32, 32, requires_grad=True)
    deviations(flat).sum().backward()
    assert torch.isfinite(flat.grad).all()
