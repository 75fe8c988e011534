"""What holds for every statistic: closed forms, invariances, gradients, compilation."""

from collections.abc import Callable

import numpy as np
import ptwt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from inscape import stats
from inscape.stats import fields


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normalised_variation(x: Tensor) -> Tensor:
    return stats.total_variation(x, normalise=True)


def normalised_haar(x: Tensor) -> Tensor:
    return stats.haar_mean_abs(x, normalise=True)


SCALE_FREE: list[Callable[[Tensor], Tensor]] = [
    stats.spectral_slope,
    stats.gradient_kurtosis,
    stats.haar_sparsity,
    stats.haar_kurtosis,
    stats.high_frequency_share,
    stats.oriented_sparsity,
    normalised_variation,
    normalised_haar,
]
IN_UNITS: list[Callable[[Tensor], Tensor]] = [stats.total_variation, stats.haar_mean_abs, stats.variance]
EVERY = SCALE_FREE + IN_UNITS
every_statistic = pytest.mark.parametrize("statistic", EVERY, ids=lambda f: f.__name__)


def test_white_noise_reads_as_published():
    noise = fields.white_noise(1000, generator=seeded())
    assert stats.total_variation(noise).mean().item() == pytest.approx(1984 * 2 / np.pi**0.5, rel=0.005)
    assert stats.gradient_kurtosis(noise).median().item() == pytest.approx(2.98, abs=0.03)
    assert stats.haar_mean_abs(noise).mean().item() == pytest.approx((2 / np.pi) ** 0.5, abs=0.005)
    assert stats.haar_sparsity(noise).mean().item() == pytest.approx(0.21, abs=0.005)
    assert stats.haar_kurtosis(noise).median().item() == pytest.approx(2.96, abs=0.03)
    assert stats.variance(noise).mean().item() == pytest.approx(1.0)


def test_structureless_and_structured_fields_read_as_published():
    gaussian = fields.power_law(2.0, 500, generator=seeded())
    leaves = fields.dead_leaves(200, generator=seeded())
    assert stats.gradient_kurtosis(gaussian).median().item() == pytest.approx(2.99, abs=0.05)
    assert stats.haar_sparsity(gaussian).median().item() == pytest.approx(0.22, abs=0.01)
    assert stats.haar_kurtosis(gaussian).median().item() == pytest.approx(2.97, abs=0.05)
    assert stats.total_variation(gaussian).median().item() == pytest.approx(1244, rel=0.06)
    assert stats.haar_sparsity(leaves).median().item() == pytest.approx(0.50, abs=0.03)
    assert stats.gradient_kurtosis(leaves).median().item() == pytest.approx(8.3, abs=1.5)
    assert stats.total_variation(leaves).median().item() == pytest.approx(802, rel=0.15)


@pytest.mark.parametrize("value", [0.0, 2.5])
@every_statistic
def test_a_flat_image_reads_zero_with_finite_gradients(statistic, value):
    x = torch.full((2, 3, 8, 9), value, requires_grad=True)
    reading = statistic(x)
    reading.sum().backward()
    torch.testing.assert_close(reading, torch.zeros(2, 3))
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_closed_forms_of_a_checkerboard():
    board = fields.checkerboard(1)[0]
    assert stats.total_variation(board).item() == 2 * 1984
    assert stats.variance(board).item() == 1.0
    assert stats.haar_mean_abs(board).item() == pytest.approx(2 / 3)
    # One band of three holds equal values: l1 / l2 = sqrt(256), n = 768.
    assert stats.haar_sparsity(board).item() == pytest.approx((768**0.5 - 16) / (768**0.5 - 1), rel=1e-4)


def test_closed_forms_of_a_ramp():
    ramp = torch.arange(6.0).expand(4, 6)
    assert stats.total_variation(ramp).item() == 20.0
    # 20 steps of 1 across and 18 of 0 down: two values in shares p and q have kurtosis 1 / (p q) - 3.
    p, q = 20 / 38, 18 / 38
    assert stats.gradient_kurtosis(ramp).item() == pytest.approx(1 / (p * q) - 3, rel=1e-5)
    assert stats.haar_mean_abs(ramp).item() == pytest.approx(1 / 3)


def test_closed_forms_of_a_single_pixel():
    pixel = fields.delta(1)[0]
    assert stats.total_variation(pixel).item() == 4.0
    assert stats.haar_mean_abs(pixel).item() == pytest.approx(3 * 0.5 / 768)
    assert stats.haar_sparsity(pixel).item() == pytest.approx((768**0.5 - 3**0.5) / (768**0.5 - 1), rel=1e-4)
    # Exactly white; the reference slope within the rings costs 0.006, and as much at slope 3.
    assert stats.spectral_slope(pixel).item() == pytest.approx(0.0, abs=0.007)
    # Four of 1,984 differences are +-1: kurtosis n / 4.
    assert stats.gradient_kurtosis(pixel).item() == pytest.approx(1984 / 4, rel=1e-4)


def test_haar_equals_ptwt():
    x = torch.randn(3, 8, 12, dtype=torch.float64, generator=seeded())
    _, details = ptwt.wavedec2(x, "haar", level=1)
    torch.testing.assert_close(stats.haar_details(x), torch.stack(tuple(details), -3))


def test_total_variation_of_noise_falls_with_smoothing():
    noise = fields.white_noise(20, generator=seeded())
    smooth = torch.nn.functional.avg_pool2d(noise, 3, stride=1, padding=1)
    assert (stats.total_variation(noise) > 0).all()
    assert (stats.total_variation(smooth) < stats.total_variation(noise)).all()
    assert (normalised_variation(smooth) < normalised_variation(noise)).all()


def test_total_variation_counts_its_differences():
    assert stats.number_of_differences(32, 32) == 1984


def test_oriented_bands_see_direction():
    stripes = torch.sin(2 * torch.pi * torch.arange(32) / 4).expand(32, -1)
    across = stats.oriented_bands(stripes).square().mean((-2, -1))
    down = stats.oriented_bands(stripes.mT).square().mean((-2, -1))
    # Half of Nyquist sits in the finest scale; cos^6 at 0, 45, 90 degrees is 1, 1/8, 0, times 4/5.
    torch.testing.assert_close(across[:4], torch.tensor([0.8, 0.1, 0.0, 0.1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(down[:4], torch.tensor([0.0, 0.1, 0.8, 0.1]), atol=1e-5, rtol=0)


def test_oriented_sparsity_tells_edges_from_their_structureless_twin():
    leaves = stats.oriented_sparsity(fields.dead_leaves(50, generator=seeded())).mean()
    gaussian = stats.oriented_sparsity(fields.power_law(2.0, 50, generator=seeded())).mean()
    assert leaves > gaussian + 0.03


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), height=st.integers(4, 17), width=st.integers(4, 17), log_scale=st.floats(-2.0, 3.0))
def test_invariances(seed, height, width, log_scale):
    x = torch.randn(3, height, width, dtype=torch.float64, generator=seeded(seed))
    scale = 10.0**log_scale
    for statistic in EVERY:
        reading = statistic(x)
        torch.testing.assert_close(statistic(x.mT), reading, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(torch.stack([statistic(image) for image in x]), reading)
        torch.testing.assert_close(statistic(x.view(1, 3, 1, height, width)), reading.view(1, 3, 1))
        torch.testing.assert_close(statistic(x + 7.0), reading, rtol=1e-6, atol=1e-8)
    for statistic in SCALE_FREE:
        torch.testing.assert_close(statistic(scale * x), statistic(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 8), (7, 6)])
@every_statistic
def test_gradients_match_finite_differences(statistic, height, width):
    x = torch.randn(2, height, width, dtype=torch.float64, generator=seeded(), requires_grad=True)
    assert torch.autograd.gradcheck(statistic, x)


@every_statistic
def test_compiles_whole_to_the_same_numbers_and_gradients(statistic):
    torch.compiler.reset()
    compiled = torch.compile(statistic, fullgraph=True, backend="aot_eager")
    for shape in [(2, 32, 32), (3, 32, 32), (3, 9, 12)]:
        x = torch.randn(shape, generator=seeded(), requires_grad=True)
        torch.testing.assert_close(compiled(x), statistic(x))
        (expected,) = torch.autograd.grad(statistic(x).sum(), x)
        (actual,) = torch.autograd.grad(compiled(x).sum(), x)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@every_statistic
def test_half_precision_is_computed_in_float32(statistic):
    x = torch.randn(2, 16, 16, generator=seeded()).bfloat16()
    torch.testing.assert_close(statistic(x), statistic(x.float()))


@every_statistic
def test_wrong_input_is_refused_with_what_is_allowed(statistic):
    with pytest.raises(ValueError, match="at least 4"):
        statistic(torch.randn(3, 32))
    with pytest.raises(ValueError, match="floating-point"):
        statistic(torch.ones(8, 8, dtype=torch.int64))


@pytest.mark.parametrize("shape", [(0, 32, 32), (2, 0, 6, 8, 12)])
def test_no_image_has_no_statistics_and_is_no_error(shape):
    nothing = torch.zeros(shape, requires_grad=True)
    for statistic in (*EVERY, stats.spectral_peakedness):
        found = statistic(nothing)
        assert found.shape == shape[:-2], statistic.__name__
        (slope,) = torch.autograd.grad(found.sum(), nothing)
        assert slope.shape == shape
    assert stats.oriented_bands(nothing).shape == (*shape[:-2], 8, *shape[-2:])
    assert stats.radial_spectrum(nothing).power.shape[:-1] == shape[:-2]
    assert stats.image_statistics(nothing).spectral_slope.shape == shape[:-2]


@pytest.mark.parametrize("given", [np.zeros((2, 3, 8, 8)), [[0.0] * 8] * 8, None], ids=["ndarray", "list", "NoneType"])
def test_what_is_no_tensor_is_refused_by_each(given):
    others = (stats.spectral_peakedness, stats.unevenness, stats.hoyer_sparsity, stats.channel_covariance)
    for statistic in (*EVERY, *others, stats.channel_correlation, stats.image_statistics, stats.radial_spectrum):
        with pytest.raises(ValueError, match=rf"need a torch.Tensor, got {type(given).__name__}; give torch.as_tensor"):
            statistic(given)
