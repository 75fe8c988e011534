"""Peakedness and grid energy against closed forms and planted patterns."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inscape.stats import fields, grid_energy, spectral_peakedness, unevenness


def noise(count: int, seed: int = 0) -> torch.Tensor:
    return fields.white_noise(count, generator=torch.Generator().manual_seed(seed))


def tiles(count: int, size: int) -> torch.Tensor:
    return noise(count)[:, :size, :size].repeat(1, 32 // size, 32 // size)


def test_an_even_ring_has_peakedness_one():
    point = torch.zeros(1, 32, 32)
    point[0, 5, 7] = 1.0
    assert spectral_peakedness(point).item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_gaussian_fields_have_peakedness_two(alpha):
    fields_NHW = fields.power_law(alpha, 400, generator=torch.Generator().manual_seed(1))
    assert spectral_peakedness(fields_NHW).mean().item() == pytest.approx(1.96, abs=0.12)


def test_a_repeated_tile_stands_out():
    assert spectral_peakedness(tiles(50, 8)).min() > 8
    assert spectral_peakedness(noise(50)).max() < 3


def test_grid_energy_sees_block_borders_at_any_phase_and_not_noise():
    blocks = torch.nn.functional.interpolate(noise(200)[:, None, :4, :4], scale_factor=8)[:, 0]
    noisy = blocks + 0.5 * noise(200, seed=1)
    assert grid_energy(noisy, 8) > 3
    assert grid_energy(noisy.roll((3, 3), (-2, -1)), 8) > 3
    assert grid_energy(noise(200), 8) < 1.1


def test_grid_energy_is_not_taken_in_by_a_smooth_change_over_the_picture():
    ramp = torch.linspace(0.2, 3, 32)
    assert grid_energy(noise(400) * ramp, 8) < 1.15


def test_grid_energy_is_one_for_images_without_gradients():
    assert grid_energy(torch.zeros(3, 32, 32), 4) == 1


def test_unevenness_in_closed_form():
    # Gradients twice as strong in the left half: log energy differs by log 4, its standard deviation is half of that.
    stripes = torch.zeros(1, 33, 33)
    stripes[:, 1::2] = 1.0
    stripes[:, :, :17] *= 2
    assert unevenness(stripes) == pytest.approx(math.log(4) / 2, abs=0.1)  # but for the seam
    assert unevenness(noise(3000)) < 0.05
    assert unevenness(torch.zeros(2, 32, 32)) < 1e-5


def test_unevenness_sees_pictures_along_the_frame():
    frame = 0.05 * noise(300)
    frame[:, :6] += noise(300)[:, :6]
    assert unevenness(frame) > 1
    assert unevenness(noise(300)) < 0.1


@pytest.mark.parametrize("period", [1, 17, 0])
def test_grid_energy_refuses_other_periods(period):
    with pytest.raises(ValueError, match="period must be"):
        grid_energy(noise(2), period)


def test_flat_images_give_zero_and_finite_gradients():
    flat = torch.zeros(2, 32, 32, requires_grad=True)
    (spectral_peakedness(flat).sum() + grid_energy(flat, 4) + unevenness(flat)).backward()
    assert spectral_peakedness(flat).abs().max() == 0
    assert torch.isfinite(flat.grad).all()


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 100), st.floats(-10, 10), st.integers(0, 1000))
def test_scale_offset_and_transposition_change_nothing(scale, offset, seed):
    x = fields.power_law(1.0, 3, generator=torch.Generator().manual_seed(seed))
    expected = spectral_peakedness(x)
    torch.testing.assert_close(spectral_peakedness(scale * x + offset), expected, rtol=2e-3, atol=1e-3)
    torch.testing.assert_close(spectral_peakedness(x.mT), expected, rtol=1e-3, atol=1e-3)


def test_gradients_agree_with_finite_differences():
    x = noise(1).double()[:, :8, :8].clone().requires_grad_()
    assert torch.autograd.gradcheck(spectral_peakedness, (x,), atol=1e-4)
    assert torch.autograd.gradcheck(lambda y: grid_energy(y, 2), (x,), atol=1e-4)
    assert torch.autograd.gradcheck(unevenness, (noise(2).double()[:, :9, :9].clone().requires_grad_(),), atol=1e-4)


def test_compiles_without_graph_breaks():
    compiled = torch.compile(spectral_peakedness, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(noise(3)), spectral_peakedness(noise(3)))
