"""Moments between channels, and the six terms in one pass."""

import pytest
import torch

from inscape import stats


def latents(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_covariance_equals_numpy_convention():
    x = latents(2, 3, 8, 7) + 4.0
    expected = torch.stack([torch.cov(image.flatten(1), correction=0) for image in x])
    torch.testing.assert_close(stats.channel_covariance(x), expected)
    torch.testing.assert_close(stats.channel_covariance(x).diagonal(dim1=-2, dim2=-1), stats.variance(x))


def test_correlation_of_copies_is_one_and_of_a_flat_channel_zero():
    one = latents(1, 8, 8)
    x = torch.cat([one, 5 * one + 1, -one, torch.ones_like(one)])
    expected = torch.tensor([[1, 1, -1, 0], [1, 1, -1, 0], [-1, -1, 1, 0], [0, 0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(stats.channel_correlation(x), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("of", [stats.channel_covariance, stats.channel_correlation], ids=lambda f: f.__name__)
def test_gradients_of_channel_moments(of):
    x = latents(2, 3, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(of, x)
    assert torch.autograd.gradgradcheck(of, x)


def test_one_pass_equals_the_functions_one_by_one():
    x = 3 * latents(2, 3, 12, 9) + 1
    together = stats.image_statistics(x)
    torch.testing.assert_close(together.spectral_slope, stats.spectral_slope(x))
    torch.testing.assert_close(together.total_variation, stats.total_variation(x, normalise=True))
    torch.testing.assert_close(together.haar_sparsity, stats.haar_sparsity(x))
    torch.testing.assert_close(together.gradient_kurtosis, stats.gradient_kurtosis(x))
    torch.testing.assert_close(together.variance, stats.variance(x))
    torch.testing.assert_close(together.covariance, stats.channel_covariance(x))


def test_one_pass_gradients_and_flat_input():
    x = latents(1, 2, 5, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tuple(stats.image_statistics(x)), x)
    flat = torch.zeros(2, 3, 8, 8, requires_grad=True)
    torch.stack([term.sum() for term in stats.image_statistics(flat)]).sum().backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


def test_one_pass_compiles_whole():
    torch.compiler.reset()
    compiled = torch.compile(lambda x: tuple(stats.image_statistics(x)), fullgraph=True, backend="aot_eager")
    x = latents(2, 3, 32, 32).float().requires_grad_()
    torch.testing.assert_close(compiled(x), tuple(stats.image_statistics(x)))
    (expected,) = torch.autograd.grad(sum(t.sum() for t in stats.image_statistics(x)), x)
    (actual,) = torch.autograd.grad(sum(t.sum() for t in compiled(x)), x)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("of", [stats.channel_covariance, stats.image_statistics], ids=lambda f: f.__name__)
def test_images_without_channels_are_refused(of):
    with pytest.raises(ValueError, match="C, H, W"):
        of(torch.randn(8, 8))
