"""Curves and strips: where the points lie."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inscape.core.estimate import Estimate
from inscape.core.gate import Criterion
from inscape.report.curves import curve, curves_of, interval


def points(text: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in text.split())]


def test_low_is_down_and_late_is_right() -> None:
    drawn = curve("x", [(0, 1.0), (5, 3.0), (10, 2.0)], 100, 50)
    assert drawn is not None
    assert points(drawn.points) == [(3, 47), (50, 3), (97, 25)]
    assert (drawn.low, drawn.high, drawn.last_value, drawn.last) == (1, 3, 2, (97, 25))


@pytest.mark.parametrize("values", [[(0, 7.0)], [(0, 7.0), (1, math.nan)], [(math.inf, 1.0), (3, 7.0)]])
def test_one_point_lies_in_the_middle(values: list[tuple[float, float]]) -> None:
    drawn = curve("x", values, 100, 50)
    assert drawn is not None
    assert points(drawn.points) == [(50, 25)]


def test_nothing_finite_is_no_curve() -> None:
    assert curve("x", [(0, math.nan)], 100, 50) is None
    assert curve("x", [], 100, 50) is None


def test_a_wide_positive_range_is_drawn_in_decades() -> None:
    drawn = curve("x", [(0, 1000.0), (1, 10.0), (2, 0.1)], 100, 50)
    assert drawn is not None
    assert drawn.logarithmic
    assert points(drawn.points)[1] == (50, 25)
    negative = curve("x", [(0, 1000.0), (1, -1.0)], 100, 50)
    assert negative is not None
    assert not negative.logarithmic


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3000), st.integers(0, 2999))
def test_thinning_stays_in_the_box_and_keeps_the_peak(values: list[float], where: int) -> None:
    values[where % len(values)] = 2e6
    drawn = curve("x", list(enumerate(values)), 100, 50)
    assert drawn is not None
    spots = points(drawn.points)
    assert len(spots) <= 241 or len(values) <= 240
    assert all(3 <= x <= 97 and 3 <= y <= 47 for x, y in spots)
    assert [x for x, _ in spots] == sorted(x for x, _ in spots)
    if len(set(values)) > 1:
        assert min(y for _, y in spots) == 3


def test_a_long_curve_keeps_its_peak_and_its_end() -> None:
    drawn = curve("x", [(i, 1.0 + (i == 4321)) for i in range(5000)], 100, 50)
    assert drawn is not None
    spots = points(drawn.points)
    assert len(spots) < 250
    assert [x for x, y in spots if y == 3] == [pytest.approx(3 + 94 * 4321 / 4999, abs=0.06)]
    assert spots[-1] == (97, 47)


def test_each_number_of_the_log_becomes_a_curve_and_nothing_else_does() -> None:
    log = [
        {"kind": "train", "step": 1, "loss": 2.0, "terms": {"tv": 1.0}, "lr": 0.1, "total": 9, "note": "x"},
        {"kind": "train", "step": 2, "loss": 1.0, "terms": {"tv": 0.5}, "lr": 0.1, "seconds": 4.0, "flag": True},
        {"kind": "eval", "step": 2, "alpha": 2.0},
        {"kind": "train", "step": "two", "loss": 9.0},
        {"kind": "train"},
        {"kind": "train", "step": 3, "loss": 10**400, "lr": -(10**400)},
        {"kind": "train", "step": 10**400, "loss": 1.0},
    ]
    drawn = curves_of(log, "train", 100, 50)
    assert [c.title for c in drawn] == ["loss", "loss term tv", "learning rate"]
    assert drawn[0].last_value == 1.0
    assert [c.title for c in curves_of(log, "eval", 100, 50)] == ["alpha"]


def test_the_strip_shades_the_wanted_side() -> None:
    estimate = Estimate(0.5, 0.4, 0.6, 9, "scenes")
    at_least = interval(estimate, Criterion("x", at_least=0.2))
    at_most = interval(estimate, Criterion("x", at_most=0.9))
    assert at_least is not None
    assert at_most is not None
    assert at_least.bound < at_least.low < at_least.value < at_least.high < 100
    assert (at_least.wanted_from, at_least.wanted_to) == (at_least.bound, 100)
    assert at_most.high < at_most.bound
    assert (at_most.wanted_from, at_most.wanted_to) == (0, at_most.bound)
    assert interval(None, Criterion("x", at_least=0.2)) is None
    same = interval(Estimate(0, 0, 0, 9, "scenes"), Criterion("x", at_least=0.0))
    assert same is not None
    assert 0 < same.value == same.bound < 100
