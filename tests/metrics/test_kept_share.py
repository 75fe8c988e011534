"""What is left of a score: closed forms, whole groups resampled together, and what was not measured."""

import math

import numpy as np
import pytest

from inscape.metrics.kept_share import kept_share, mean_difference


def test_values_are_the_ratio_and_the_difference_of_means() -> None:
    kept = kept_share([0.5, 0.0, 1.0], [1.0, 0.5, 1.0])
    assert kept.value == pytest.approx(1.5 / 2.5)
    assert kept.n == 3
    assert mean_difference([0.5, 0.0, 1.0], [1.0, 0.5, 1.0]).value == pytest.approx(-1 / 3)


def test_the_same_scores_keep_everything_without_doubt() -> None:
    scores = np.random.default_rng(0).random(50).tolist()
    kept, lost = kept_share(scores, scores), mean_difference(scores, scores)
    assert (kept.value, kept.low, kept.high) == (1, 1, 1)
    assert (lost.value, lost.low, lost.high) == (0, 0, 0)


def test_scores_that_are_mostly_whole_keep_the_width_of_shares_at_the_end_of_their_range() -> None:
    whole, groups = [1.0] * 40, [i // 4 for i in range(40)]
    kept = kept_share(whole, whole, mostly_whole=True)
    assert (kept.value, kept.high) == (1, 1), "no more than everything can be kept"
    assert kept.low == pytest.approx(40 / (40 + 1.959964**2)), "Wilson 1927: of 40 out of 40, 0.912"
    together = kept_share(whole, whole, groups=groups, mostly_whole=True)
    assert (together.n, together.low) == (10, pytest.approx(10 / (10 + 1.959964**2))), "groups are counted"
    one_lost = kept_share([*whole[1:], 0.5], whole, mostly_whole=True)
    assert one_lost.low < kept.low, "whoever loses more is shown to keep less"
    half = kept_share([0.5, 0.0] * 20, [0.5, 0.0] * 20, mostly_whole=True)
    assert half.low < half.value == 1 < half.high
    with pytest.raises(ValueError, match=r"scores from 0\.5 to 2; mostly_whole wants 0 to 1"):
        kept_share([2.0, 1.0], [1.0, 0.5], mostly_whole=True)


def test_an_interval_for_one_of_several_is_wider() -> None:
    draw = np.random.default_rng(3)
    values, whole = draw.random(60).tolist(), [1.0] * 60
    one, of_ten = (kept_share(values, whole, mostly_whole=True, confidence=c) for c in (0.95, 0.995))
    assert of_ten.low < one.low < one.high < of_ten.high
    perfect = kept_share(whole, whole, mostly_whole=True, confidence=0.99)
    assert perfect.low == pytest.approx(60 / (60 + 2.575829**2))


def test_a_difference_of_nothing_is_not_known_to_be_nothing() -> None:
    scores = np.random.default_rng(4).random(50)
    same = mean_difference(scores.tolist(), scores.tolist(), mostly_whole=True)
    assert (same.value, same.high) == (0, pytest.approx(1.959964**2 / (50 + 1.959964**2)))
    assert same.low == -same.high
    better = np.clip(scores + 0.3, 0, 1).tolist()
    plain, wide = (mean_difference(better, scores.tolist(), mostly_whole=m) for m in (False, True))
    assert wide.low < plain.low < plain.value == wide.value < plain.high < wide.high
    with pytest.raises(ValueError, match="mostly_whole wants 0 to 1"):
        mean_difference([-1.0, 0.0], [0.0, 0.0], mostly_whole=True)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    draw, covered = np.random.default_rng(1), 0
    for trial in range(200):
        reference = draw.random(80)
        values = 0.8 * reference + draw.normal(0, 0.1, 80)
        kept = kept_share(values.tolist(), reference.tolist(), seed=trial)
        covered += kept.low <= 0.8 <= kept.high
    assert 0.9 <= covered / 200 <= 0.99


@pytest.mark.parametrize("measure", [kept_share, mean_difference])
@pytest.mark.parametrize("units", [4, 8])
def test_of_a_few_groups_it_covers_the_truth_as_often_too(measure, units: int, monkeypatch) -> None:
    """Percentiles of four units hold the truth four times in five."""
    monkeypatch.setattr("inscape.metrics.kept_share.RESAMPLES", 200)
    draw, covered, trials = np.random.default_rng(3), 0, 1000
    truth = 0.8 if measure is kept_share else -0.1
    for trial in range(trials):
        groups = np.repeat(np.arange(units), 3)
        reference = 0.5 + 0.05 * draw.standard_normal(3 * units)
        values = 0.4 + 0.8 * (reference - 0.5) + 0.1 * draw.standard_normal(units)[groups]
        found = measure(values.tolist(), reference.tolist(), groups=groups.tolist(), seed=trial)
        covered += found.low <= truth <= found.high
    assert covered / trials >= 0.93


def test_questions_of_one_group_stand_and_fall_together() -> None:
    draw = np.random.default_rng(2)
    by_group = draw.random(12)
    values, groups = np.repeat(by_group, 20).tolist(), np.repeat(np.arange(12), 20).tolist()
    alone, together = (mean_difference(values, [0.0] * 240, groups=g) for g in (None, groups))
    assert together.n == 12
    assert alone.n == 240
    assert together.high - together.low > 3 * (alone.high - alone.low)
    unequal = mean_difference([1.0, 0.0, 0.0], [0.0] * 3, groups=["a", "b", "b"])
    assert unequal.value == pytest.approx(1 / 3), "the mean stays the one over questions"


def test_nothing_to_keep_and_a_single_unit_are_not_measured() -> None:
    assert not kept_share([0.0, 1.0], [0.0, 0.0]).measured
    assert not kept_share([], []).measured
    assert not mean_difference([], []).measured
    one = kept_share([0.5, 0.5], [1.0, 1.0], groups=["a", "a"])
    assert one.value == 0.5
    assert math.isnan(one.low)


def test_lists_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="given 1 groups and 2 questions"):
        kept_share([1.0, 1.0], [1.0, 1.0], groups=["a"])
    with pytest.raises(ValueError, match="dimension"):
        mean_difference([1.0], [1.0, 2.0])
