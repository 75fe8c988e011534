"""Metrics of predicted steps: closed forms, empty worlds, outliers, and intervals over units."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import r2_score

from inscape.metrics.directional import (
    cosines,
    delta_nll,
    direction_cosine,
    log_magnitude_r2,
    magnitude_ratio,
    per_unit,
    robust_nll,
)

RNG = np.random.default_rng(0)
UNITS = np.repeat([f"speaker {i}" for i in range(20)], 50)


def test_cosine_of_a_tilted_prediction():
    true = RNG.standard_normal((1000, 16))
    across = RNG.standard_normal((1000, 16))
    across -= (across * true).sum(1, keepdims=True) / (true * true).sum(1, keepdims=True) * true
    across *= np.linalg.norm(true, axis=1, keepdims=True) / np.linalg.norm(across, axis=1, keepdims=True)
    found = direction_cosine(7 * (0.6 * true + 0.8 * across), true, UNITS, "speakers")
    assert found.value == pytest.approx(0.6)
    assert (found.n, found.unit) == (20, "speakers")


def test_cosine_is_zero_without_knowledge_and_without_a_prediction():
    true = RNG.standard_normal((1000, 64))
    found = direction_cosine(RNG.standard_normal((1000, 64)), true, UNITS, "speakers")
    assert found.low < 0 < found.high
    assert direction_cosine(np.zeros_like(true), true, UNITS, "speakers").value == 0


def test_true_steps_without_length_are_left_out():
    true = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    cosine, moves = cosines(np.ones((3, 2)), true)
    assert cosine.tolist() == pytest.approx([0.5**0.5, 0, 0.5**0.5])
    assert moves.tolist() == [True, False, True]
    found = direction_cosine(np.ones((3, 2)), true, np.array([0, 1, 2]), "speakers")
    assert (found.value, found.n) == (pytest.approx(0.5**0.5), 2)


@given(scale=st.floats(1e-100, 1e100))
def test_cosines_do_not_depend_on_scale(scale: float):
    a, b = RNG.standard_normal((2, 5, 3))
    np.testing.assert_allclose(cosines(scale * a, b)[0], cosines(a, b)[0], rtol=1e-9)


def test_the_interval_is_over_units_and_not_over_frames():
    # every speaker has one cosine, repeated over its frames: 20 numbers, not 1000
    angle = np.repeat(RNG.uniform(0, 1, 20), 50)
    true, predicted = np.tile([1.0, 0.0], (1000, 1)), np.stack([np.cos(angle), np.sin(angle)], 1)
    by_speaker = direction_cosine(predicted, true, UNITS, "speakers")
    by_frame = direction_cosine(predicted, true, np.arange(1000), "frames")
    assert by_speaker.value == pytest.approx(by_frame.value)
    assert by_speaker.high - by_speaker.low > 4 * (by_frame.high - by_frame.low)


def test_magnitude_ratio_sums_before_it_divides():
    lengths = np.array([1.0, 1e-12, 3.0, 0.0])
    found = magnitude_ratio(np.array([1.0, 1.0, 1.0, 1.0]), lengths, np.array([0, 0, 1, 2]), "speakers")
    assert (found.value, found.n) == (pytest.approx((2 + 1 / 3) / 2), 2)


def test_r2_is_sklearns():
    true = RNG.standard_normal(1000)
    predicted = 0.5 * true + 0.3 * RNG.standard_normal(1000)
    found = log_magnitude_r2(predicted, true, UNITS, "speakers")
    assert found.value == pytest.approx(r2_score(true, predicted))
    assert found.low < found.value < found.high
    assert log_magnitude_r2(np.full(1000, true.mean()), true, UNITS, "speakers").value == pytest.approx(0)
    assert log_magnitude_r2(true + 100, true, UNITS, "speakers").value < -1000


def test_r2_of_few_units_has_students_interval():
    """Units of equal lengths about one mean: the R^2 of all is the mean of theirs."""
    true, unit = np.tile([-1.0, 1.0], 6), np.repeat(np.arange(6), 2)
    error_U = np.random.default_rng(3).uniform(0.3, 1.0, 6)
    found = log_magnitude_r2(true + np.repeat(error_U, 2), true, unit, "speakers")
    low, high = stats.t.interval(0.95, 5, loc=found.value, scale=stats.sem(1 - error_U**2))
    assert found.value == pytest.approx(np.mean(1 - error_U**2))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_r2_is_not_measured_where_it_means_nothing():
    assert not log_magnitude_r2(np.ones(9), np.ones(9), np.arange(9), "speakers").measured
    assert not log_magnitude_r2(np.zeros(0), np.zeros(0), np.zeros(0), "speakers").measured
    alone = log_magnitude_r2(np.zeros(9), np.arange(9.0), np.zeros(9), "speakers")
    assert math.isfinite(alone.value)
    assert not alone.measured


def test_few_outliers_move_the_mean_alone():
    nll = RNG.standard_normal(1000) - 100
    nll[[10, 500]] = 1e6, 3e6
    found = robust_nll(nll, UNITS, "speakers", trim=0.02, worst=3)
    assert found.mean.value > 3000
    assert found.median.value == pytest.approx(-100, abs=0.2)
    assert found.trimmed_mean.value == pytest.approx(-100, abs=0.2)
    assert found.worst[:2] == ((500, 3e6), (10, 1e6))
    assert len(found.worst) == 3
    assert robust_nll(nll, UNITS, "speakers", trim=0).trimmed_mean.value == pytest.approx(found.mean.value)


def test_delta_nll_per_frame_and_per_dimension():
    baseline = RNG.standard_normal(1000)
    frame, dimension = delta_nll(baseline - 194.7, baseline, UNITS, "speakers", 512)
    assert frame.value == pytest.approx(-194.7)
    assert dimension.value == pytest.approx(-194.7 / 512)


def test_per_unit_keeps_units_apart_in_any_order():
    values, units = np.array([1.0, 10, 3, 20]), np.array(["b", "a", "b", "a"])
    assert per_unit(values, units).tolist() == [15, 2]
    assert per_unit(values, units, np.max).tolist() == [20, 3]
    assert per_unit(np.zeros(0), np.zeros(0)).size == 0


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="each frame needs the unit"):
        per_unit(np.ones(3), np.ones(2))
    with pytest.raises(ValueError, match="differ in shape"):
        cosines(np.ones((3, 2)), np.ones((3, 3)))
    for trim in (-0.1, 0.5):
        with pytest.raises(ValueError, match="trim"):
            robust_nll(np.ones(3), np.arange(3), "speakers", trim=trim)
    with pytest.raises(ValueError, match="not finite"):
        robust_nll(np.array([1.0, math.nan]), np.arange(2), "speakers")
