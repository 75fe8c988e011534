"""Estimates: intervals against closed forms and by simulation, and what counts as measured."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from inscape.core.estimate import (
    FEW,
    NORMAL_QUANTILE,
    Estimate,
    bootstrap_interval,
    bootstrap_mean,
    exact,
    jackknife_error,
    proportion,
)

FINITE = st.floats(-1e6, 1e6)

# Wilson score intervals without continuity correction: 81 of 263 and 15 of 148 are Newcombe 1998, table I, method 3;
# 0 of 20 and 1 of 29 likewise. All printed there to four decimals.
NEWCOMBE = [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]


@pytest.mark.parametrize(("successes", "n", "low", "high"), NEWCOMBE)
def test_proportion_equals_the_published_wilson_intervals(successes: int, n: int, low: float, high: float) -> None:
    estimate = proportion(successes, n, "scenes")
    assert estimate.value == successes / n
    assert round(estimate.low, 4) == low
    assert round(estimate.high, 4) == high


@given(st.integers(1, 10_000), st.data())
def test_proportion_solves_the_score_equation(n: int, data: st.DataObject) -> None:
    # Wilson's ends are the p at which |share - p| = z sqrt(p (1 - p) / n): an independent way to the same numbers.
    estimate = proportion(data.draw(st.integers(0, n)), n, "scenes")
    for end in (estimate.low, estimate.high):
        score = NORMAL_QUANTILE * math.sqrt(max(0.0, end * (1 - end)) / n)
        assert abs(abs(estimate.value - end) - score) < 1e-7
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert estimate.high > estimate.low, "a share is never certain"


def test_proportion_of_nothing_is_not_measured_and_nonsense_is_refused() -> None:
    assert not proportion(0, 0, "scenes").measured
    for successes, n in ((3, 2), (-1, 2)):
        with pytest.raises(ValueError, match=f"{successes} successes of {n} scenes: wanted 0 <= successes <= n"):
            proportion(successes, n, "scenes")


@given(st.lists(FINITE, min_size=FEW, max_size=40))
def test_bootstrap_holds_the_mean_within_the_range_of_the_values(values: list[float]) -> None:
    estimate = bootstrap_mean(values, "scenes", resamples=50)
    slack = 1e-9 * max(1.0, max(map(abs, values)))
    assert estimate.value == pytest.approx(float(np.mean(values)))
    assert min(values) - slack <= estimate.low <= estimate.value <= estimate.high <= max(values) + slack
    assert estimate.n == len(values)


def test_bootstrap_of_many_units_covers_the_true_mean() -> None:
    # Expected: from 3,000 other worlds. The percentile bootstrap is a little narrow.
    rng, expected = np.random.default_rng(1), 0.928
    worlds = [bootstrap_mean(rng.normal(3.0, 2.0, 40), "scenes", seed=i, resamples=300) for i in range(500)]
    covered = np.mean([w.low <= 3.0 <= w.high for w in worlds])
    assert abs(covered - expected) < 3 * math.sqrt(expected * (1 - expected) / 500)


def test_bootstrap_of_six_units_covers_the_true_mean_where_percentiles_alone_do_not() -> None:
    rng = np.random.default_rng(1)
    worlds = [bootstrap_mean(rng.normal(3.0, 2.0, 6), "speakers", seed=i, resamples=40) for i in range(2000)]
    assert np.mean([w.low <= 3.0 <= w.high for w in worlds]) >= 0.93


@pytest.mark.parametrize("n", range(2, FEW + 1))
def test_below_twenty_units_the_interval_is_students_where_that_is_wider(n: int) -> None:
    x = np.random.default_rng(n).normal(3.0, 2.0, n)
    found = bootstrap_mean(x, "speakers", resamples=1)  # a single resample has no width
    low, high = stats.t.interval(0.95, n - 1, loc=x.mean(), scale=stats.sem(x))
    if n < FEW:
        assert max(found.low - low, high - found.high) == pytest.approx(0, abs=1e-6)
    else:
        assert low < found.low <= found.high < high, "the percentiles alone"


def test_an_interval_keeps_the_percentiles_where_those_are_wider() -> None:
    assert bootstrap_interval(0.5, [0.0, 2.0], 1e-3, 6, "speakers").high > 1.9
    for n, error in ((1, 0.1), (6, math.nan), (6, math.inf)):
        assert not bootstrap_interval(0.5, [0.0, 2.0], error, n, "speakers").measured
    assert bootstrap_interval(0.5, [0.0, 2.0], math.nan, FEW, "speakers").measured, "it has no part in many"


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    x = np.random.default_rng(2).normal(size=7)
    assert jackknife_error([np.delete(x, i).mean() for i in range(7)]) == pytest.approx(stats.sem(x))
    assert math.isnan(jackknife_error([]))


def test_perfect_scores_are_never_certain_where_most_are_whole() -> None:
    """Fifty of fifty perfect, of a codec that fails one in fifty: it happens in more than a third of the worlds."""
    assert bootstrap_mean(np.ones(50), "scenes").low == 1.0
    perfect = bootstrap_mean(np.ones(50), "scenes", mostly_whole=True)
    assert perfect == proportion(50, 50, "scenes")
    rng = np.random.default_rng(1)
    scores = [np.where(rng.random(50) < 0.02, rng.random(50), 1.0) for _ in range(400)]
    worlds = [bootstrap_mean(x, "scenes", resamples=200, mostly_whole=True) for x in scores]
    assert np.mean([w.low <= 0.99 <= w.high for w in worlds]) > 0.95
    few = bootstrap_mean([0.0, 1.0, 1.0], "scenes", mostly_whole=True)
    assert (few.low, few.high) == (0.0, 1.0), "Student's interval would leave 0 to 1"
    with pytest.raises(ValueError, match="scores from 0 to 2 scenes; mostly_whole wants 0 to 1"):
        bootstrap_mean([0.0, 2.0], "scenes", mostly_whole=True)


def test_bootstrap_is_a_pure_function_of_values_and_seed() -> None:
    values = np.random.default_rng(1).normal(size=25)
    assert bootstrap_mean(values, "scenes") == bootstrap_mean(list(values), "scenes")
    assert bootstrap_mean(values, "scenes", seed=1) != bootstrap_mean(values, "scenes", seed=2)


def test_bootstrap_over_no_unit_or_one_is_not_measured() -> None:
    assert not bootstrap_mean([], "scenes").measured
    alone = bootstrap_mean([0.7], "scenes")
    assert alone.value == 0.7
    assert not alone.measured, "one value says nothing about the spread, so no gate may lean on it"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bootstrap_refuses_values_that_are_not_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="1 of 3 values are not finite"):
        bootstrap_mean([1.0, bad, 2.0], "scenes")


def test_bootstrap_of_many_units_needs_little_memory() -> None:
    import tracemalloc

    values = np.zeros(50_000)
    tracemalloc.start()
    bootstrap_mean(values, "scenes", resamples=20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * values.nbytes, "twenty resamples at once would take forty times the values"


@pytest.mark.parametrize("fields", [(0.5, 0.6, 0.7), (0.5, 0.3, 0.4)])
def test_an_interval_holds_its_value(fields: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="low <= value <= high"):
        Estimate(*fields, n=3, unit="scenes")


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be negative: -1"):
        Estimate(0.0, 0.0, 0.0, -1, "scenes")


@pytest.mark.parametrize(
    "estimate",
    [
        Estimate(0.9, 0.8, 1.0, 0, "scenes"),
        exact(math.nan, 5, "scenes"),
        exact(math.inf, 5, "scenes"),
        Estimate(0.9, math.nan, math.nan, 5, "scenes"),
        Estimate(0.9, 0.8, math.inf, 5, "scenes"),
    ],
)
def test_not_measured_is_said_and_is_never_zero(estimate: Estimate) -> None:
    assert not estimate.measured
    assert str(estimate) == "not measured"


def test_zero_measured_is_measured() -> None:
    assert exact(0, 1, "scenes").measured
    assert str(exact(0, 1, "scenes")) == "0"
    assert str(Estimate(0.5, 0.25, 0.75, 4, "scenes")) == "0.5 [0.25, 0.75]"


@given(st.floats(), st.integers(0, 10**9), st.text())
def test_json_round_trip(value: float, n: int, unit: str) -> None:
    before = exact(value, n, unit)
    after = Estimate.from_json(json.loads(json.dumps(before.to_json(), allow_nan=False)))
    assert after.measured == before.measured
    assert (after.n, after.unit) == (n, unit)
    if math.isfinite(value):
        assert after == before


def test_numbers_of_numpy_can_be_stored() -> None:
    low, value, high = np.array([0.25, 0.5, 0.75], dtype=np.float32)
    estimate = Estimate(value, low, high, np.int64(3), "scenes")  # pyright: ignore[reportArgumentType]
    assert json.loads(json.dumps(estimate.to_json())) == {
        "value": 0.5,
        "low": 0.25,
        "high": 0.75,
        "n": 3,
        "unit": "scenes",
    }
