"""Soft bounds: inside, rising, never flat."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inscape.nn.soft_bound import soft_bound, unbounded


@given(x=st.floats(-1e3, 1e3), low=st.floats(-50, 50), width=st.floats(0.1, 50))
def test_stays_inside_and_has_a_slope_everywhere(x: float, low: float, width: float):
    at = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    bounded = soft_bound(at, low, low + width)
    assert low <= bounded.item() <= low + width
    assert torch.autograd.grad(bounded, at)[0] > 0


def test_is_the_identity_in_the_middle():
    x = torch.tensor([1.4, 1.5, 1.6], dtype=torch.float64, requires_grad=True)
    bounded = soft_bound(x, -7.0, 10.0)
    torch.testing.assert_close(bounded, x, rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.autograd.grad(bounded.sum(), x)[0], torch.ones_like(x), rtol=0, atol=1e-3)


def test_far_outside_the_slope_still_is_not_zero():
    x = torch.tensor([-1e6, 1e6], requires_grad=True)
    bounded = soft_bound(x, -7.0, 2.0)
    assert bounded.isfinite().all()
    assert (torch.autograd.grad(bounded.sum(), x)[0] > 0).all()


def test_unbounded_is_the_inverse():
    for value in (-6.9, -1.0, 0.0, 1.9):
        assert soft_bound(torch.tensor(unbounded(value, -7, 2)), -7, 2).item() == pytest.approx(value, abs=1e-5)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="bound nothing"):
        soft_bound(torch.zeros(1), 1.0, 1.0)
    with pytest.raises(ValueError, match="outside its bounds"):
        unbounded(2.0, -7, 2)
