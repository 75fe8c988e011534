"""The slope against spectra known exactly, and the half plane against the whole."""

import pytest
import torch

from inscape import stats
from inscape.stats import fields


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "Gaussian"])
@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0, 3.0])
def test_slope_bias_is_at_most_002(alpha, exact):
    images = fields.power_law(alpha, 500, exact=exact, generator=seeded())
    assert stats.spectral_slope(images).mean().item() == pytest.approx(alpha, abs=0.02)


def test_ring_centres_would_have_failed_the_bias_test():
    images = fields.power_law(3.0, 50, exact=True, generator=seeded())
    power = stats.radial_spectrum(images).power.log()
    centres = (torch.arange(1, 17) + 0.5).log()
    centres = centres - centres.mean()
    naive = -(power @ centres) / centres.square().sum()
    assert naive.mean() > 3.1


@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 64), (31, 33)])
def test_a_synthetic_power_law_is_a_line(height, width):
    spectrum = stats.radial_spectrum(fields.power_law(1.0, 20, height, width, exact=True, generator=seeded()))
    slope = spectrum.power.log().diff() / spectrum.frequency.log().diff()
    # Rings hold few modes at first, so that neighbours bend the line a little; it is straight on the whole.
    assert slope[:, 2:].mean().item() == pytest.approx(-1.0, abs=0.02)
    assert slope[:, 2:].sub(-1.0).abs().max() < 0.25


@pytest.mark.parametrize(("height", "width"), [(32, 32), (7, 8), (8, 7), (5, 5), (4, 9)])
def test_half_plane_equals_the_full_fourier_transform(height, width):
    x = torch.randn(3, height, width, dtype=torch.float64, generator=seeded())
    power = torch.fft.fft2(x, norm="ortho").abs().square()
    radius = torch.sqrt(torch.fft.fftfreq(height)[:, None].double() ** 2 + torch.fft.fftfreq(width)[None].double() ** 2)
    ring = torch.round(radius * max(height, width))
    expected = torch.stack([power[:, ring == r].mean(-1) for r in range(1, max(height, width) // 2 + 1)], -1)
    torch.testing.assert_close(stats.radial_spectrum(x).power, expected)
    high = power[:, radius > 0.25].sum(-1) / (power.sum((-2, -1)) - power[:, 0, 0])
    torch.testing.assert_close(stats.high_frequency_share(x), high)


def test_mean_power_of_white_noise_is_its_variance():
    power = stats.radial_spectrum(3.0 * torch.randn(2000, 32, 32, generator=seeded())).power
    torch.testing.assert_close(power.mean(0), torch.full((16,), 9.0), rtol=0.03, atol=0.0)


def test_speckle_of_known_images():
    noise, smooth = fields.white_noise(100, generator=seeded()), fields.power_law(3.0, 100, generator=seeded())
    assert stats.high_frequency_share(fields.checkerboard(1)).item() == pytest.approx(1.0)
    assert stats.high_frequency_share(noise).mean().item() == pytest.approx(0.81, abs=0.02)
    assert stats.high_frequency_share(smooth).mean() < 0.1
    assert stats.high_frequency_share(torch.ones(8, 8)).item() == pytest.approx(0.0)


def test_second_derivatives_of_the_slope():
    x = torch.randn(1, 5, 6, dtype=torch.float64, generator=seeded(), requires_grad=True)
    assert torch.autograd.gradgradcheck(stats.spectral_slope, x)


def test_tables_made_in_inference_mode_still_train():
    with torch.inference_mode():
        stats.spectral_slope(torch.randn(2, 13, 29))
    x = torch.randn(2, 13, 29, requires_grad=True)
    stats.spectral_slope(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_autocast_does_not_coarsen_the_slope():
    x = fields.power_law(2.0, 4, generator=seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = stats.spectral_slope(x)
    torch.testing.assert_close(inside, stats.spectral_slope(x), rtol=0, atol=0)
