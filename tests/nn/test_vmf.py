"""The von Mises-Fisher normaliser against mpmath, scipy, a closed form and its own derivative."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import vonmises_fisher

from inscape.nn.vmf import concentration, log_area, log_normalizer, log_partition, mean_cosine

BOUND = 1e-6  # relative, of ln C_D; what is found is below 1e-12


def reference(dimension: int, kappa: float) -> tuple[mpmath.mpf, mpmath.mpf]:
    """ln C_D and A_D with 30 digits."""
    with mpmath.workdps(30):
        order, k = mpmath.mpf(dimension) / 2 - 1, mpmath.mpf(kappa)
        below, above = (mpmath.besseli(v, k, maxterms=10**7) for v in (order, order + 1))
        log_c = order * mpmath.log(k) - mpmath.mpf(dimension) / 2 * mpmath.log(2 * mpmath.pi) - mpmath.log(below)
        return log_c, above / below


def worst_errors(dimensions: list[int], kappas: list[float]) -> tuple[float, float]:
    """Greatest relative errors of ln C_D and of its slope, -A_D."""
    errors = []
    for dimension in dimensions:
        kappa = torch.tensor(kappas, dtype=torch.float64, requires_grad=True)
        found = log_normalizer(kappa, dimension)
        (slope,) = torch.autograd.grad(found.sum(), kappa)
        for k, value, derivative in zip(kappas, found.tolist(), slope.tolist(), strict=True):
            log_c, ratio = reference(dimension, k)
            errors.append((float(abs((value - log_c) / log_c)), float(abs((derivative + ratio) / ratio))))
    return tuple(map(max, zip(*errors, strict=True)))  # type: ignore[return-value]


def test_agrees_with_mpmath_at_the_corners_and_where_the_method_changes():
    # 51 and 52: the last dimension that needs the recurrence and the first that does not
    dimensions = [3, 4, 9, 51, 52, 512, 4096]
    assert max(worst_errors(dimensions, [1e-3, 1.0, 60.0, 1e3, 1e6])) < 1e-11 < BOUND


@pytest.mark.slow
def test_agrees_with_mpmath_on_the_whole_grid():
    dimensions = [
        2,
        3,
        4,
        5,
        6,
        7,
        8,
        12,
        16,
        24,
        32,
        48,
        49,
        50,
        51,
        52,
        53,
        64,
        100,
        128,
        256,
        512,
        768,
        1024,
        2048,
        4095,
        4096,
    ]
    kappas = [float(k) for k in np.logspace(-3, 6, 37)]
    errors = worst_errors(dimensions, kappas)
    print(f"\ngreatest relative error of ln C_D {errors[0]:.2g}, of A_D {errors[1]:.2g}")
    assert max(errors) < BOUND


def test_dimension_three_has_a_closed_form():
    kappa = torch.logspace(-3, 2.5, 40, dtype=torch.float64)
    expected = kappa.log() - math.log(4 * math.pi) - kappa.sinh().log()
    torch.testing.assert_close(log_normalizer(kappa, 3), expected, rtol=1e-12, atol=1e-12)
    # 1 / tanh(k) - 1 / k cancels at small k
    torch.testing.assert_close(mean_cosine(kappa, 3), 1 / kappa.tanh() - 1 / kappa, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("dimension", "kappa"), [(3, 0.7), (5, 20.0), (64, 33.0), (512, 799.0)])
def test_is_scipys_density(dimension: int, kappa: float):
    mean = np.eye(dimension)[0]
    direction = np.random.default_rng(0).standard_normal((4, dimension)) + 2 * mean
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    ours = float(log_normalizer(torch.tensor(kappa, dtype=torch.float64), dimension)) + kappa * direction @ mean
    np.testing.assert_allclose(ours, vonmises_fisher(mean, kappa).logpdf(direction), rtol=1e-9)


def test_without_concentration_directions_are_uniform():
    assert -log_area(512) == pytest.approx(867.968103, abs=1e-6)
    for dimension in (2, 3, 512, 4096):
        kappa = torch.zeros(3, requires_grad=True)
        found = log_normalizer(kappa, dimension)
        assert found.tolist() == pytest.approx([-log_area(dimension)] * 3, rel=1e-6)
        assert torch.autograd.grad(found.sum(), kappa)[0].tolist() == [0, 0, 0]
        small = torch.tensor(1e-4, dtype=torch.float64)
        assert float(log_partition(small, dimension)) == pytest.approx(1e-8 / (2 * dimension), rel=1e-3, abs=1e-12)


@given(dimension=st.integers(2, 5000), exponent=st.floats(-8, 12), ratio=st.floats(1.001, 10))
def test_the_mean_cosine_rises_from_zero_to_one_and_is_the_slope(dimension: int, exponent: float, ratio: float):
    kappa = torch.tensor([10**exponent, ratio * 10**exponent], dtype=torch.float64, requires_grad=True)
    partition, cosine = log_partition(kappa, dimension), mean_cosine(kappa, dimension)
    low, high = cosine.tolist()
    assert 0 < low <= high <= 1
    # convex: the chord's slope lies between the slopes at its ends
    width, rise = (kappa[1] - kappa[0]).item(), (partition[1] - partition[0]).item()
    rounding = 1e-12 * (1 + abs(partition[1].item()))
    assert low * width - rounding <= rise <= high * width + rounding
    assert torch.equal(torch.autograd.grad(partition.sum(), kappa)[0], cosine)


def test_keeps_the_dtype_and_stays_finite():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert log_normalizer(torch.ones(2, dtype=dtype), 8).dtype == dtype
        assert mean_cosine(torch.ones(2, dtype=dtype), 8).dtype == dtype
    kappa = torch.tensor([0, 1e-30, 1e-3, 1e12, 1e30])
    for dimension in (2, 3, 512, 4096):
        assert log_normalizer(kappa, dimension).isfinite().all()
        assert mean_cosine(kappa, dimension).isfinite().all()


def test_the_closed_form_nearly_inverts_the_mean_cosine():
    assert concentration(0.73, 512) == pytest.approx(799.338, abs=1e-3)
    for dimension in (3, 32, 512, 4096):
        for cosine in (0.01, 0.3, 0.73, 0.95):
            kappa = torch.tensor(concentration(cosine, dimension), dtype=torch.float64)
            assert float(mean_cosine(kappa, dimension)) == pytest.approx(cosine, rel=0.04 if dimension == 3 else 0.005)


def test_nonsense_is_refused():
    for dimension in (1, 0, -3):
        with pytest.raises(ValueError, match="no directions"):
            log_normalizer(torch.ones(1), dimension)
    for cosine in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="cosine"):
            concentration(cosine, 8)
