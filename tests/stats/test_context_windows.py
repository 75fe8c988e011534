"""The alignment rule: which frames a context holds, frame by frame; eligibility and slices."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inscape.stats.context_windows import (
    ATOMS,
    SLICES,
    Windows,
    deltas,
    flat_contexts,
    frame_atoms,
    mean_contexts,
)


def counting(frames, dimension=3):
    """x[i] = i in every dimension."""
    return np.repeat(np.arange(frames, dtype=np.float32)[:, None], dimension, axis=1)


@pytest.mark.parametrize(("lag", "t", "mean"), [(1, 10, 7.5), (2, 15, 11.5), (4, 15, 9.5)])
def test_the_rule_by_hand(lag, t, mean):
    windows = Windows(window=4, lags=(1, 2, 4))
    row = t - windows.first
    assert mean_contexts(counting(20), lag, windows)[row].tolist() == [mean] * 3
    oldest = t - lag - 3  # end = t - lag is inside
    assert (
        flat_contexts(counting(20), lag, windows)[row].tolist() == np.repeat(np.arange(oldest, oldest + 4), 3).tolist()
    )


def test_with_lag_1_the_last_context_frame_is_the_one_before_the_target():
    windows = Windows()
    flat = flat_contexts(counting(50, 1), 1, windows)
    assert flat[:, -1].tolist() == [t - 1 for t in windows.eligible(50)]


def test_eligible_frames():
    windows = Windows(window=8, lags=(1, 2, 4))
    assert windows.eligible(50) == range(11, 50)
    assert len(windows.eligible(11)) == len(windows.eligible(3)) == 0
    assert Windows(window=1, lags=(1,)).eligible(5) == range(1, 5)


@given(st.integers(1, 11), st.integers(0, 40), st.integers(1, 4))
def test_contexts_and_targets_against_slices(window, frames, lag):
    windows = Windows(window, (1, 2, 3, 4))
    x = np.random.default_rng(frames).integers(-99, 99, (frames, 2)).astype(np.float32)
    mean, flat, delta = mean_contexts(x, lag, windows), flat_contexts(x, lag, windows), deltas(x, windows)
    assert len(mean) == len(flat) == len(delta) == len(windows.eligible(frames))
    for i, t in enumerate(windows.eligible(frames)):
        context = x[t - lag - window + 1 : t - lag + 1]
        assert len(context) == window
        np.testing.assert_allclose(mean[i], context.mean(0), rtol=1e-6)
        assert flat[i].tolist() == context.reshape(-1).tolist()
        assert delta[i].tolist() == (x[t] - x[t - 1]).tolist()


def test_slices_are_unions_of_atoms():
    windows, frames = Windows(1, (1,)), 100
    energy = np.arange(frames) % 2 + 1.0  # a threshold of 1 is not above 1
    atoms = frame_atoms(energy, 1.0, windows)
    t = np.arange(1, frames)
    inside = {name: t[np.isin(atoms, parts)] for name, parts in SLICES.items()}
    assert inside["all"].tolist() == t.tolist()
    assert inside["high_energy"].tolist() == t[t % 2 == 1].tolist()
    assert inside["utterance_medial"].tolist() == list(range(17, 84))  # 0.17 and 0.83 are both medial
    assert inside["utterance_initial"].tolist() == list(range(1, 17))
    assert inside["utterance_final"].tolist() == list(range(84, 100))
    assert set(atoms) == set(range(ATOMS))


@pytest.mark.parametrize(("window", "lags"), [(0, (1,)), (8, ()), (8, (0, 1)), (8, (2, 1)), (8, (1, 1))])
def test_windows_that_make_no_sense_are_refused(window, lags):
    with pytest.raises(ValueError, match="ascending lags"):
        Windows(window, lags)


def test_a_lag_outside_the_study_is_refused():
    with pytest.raises(ValueError, match="lag 3 is not among"):
        mean_contexts(counting(30), 3, Windows())


def test_energy_is_compared_with_the_threshold_and_not_with_its_float32():
    quiet, loud = np.float32(0.5), np.nextafter(np.float32(0.5), np.float32(1))
    middle = (float(quiet) + float(loud)) / 2 + 1e-9  # rounds to `loud`
    energy = np.array([quiet] * 20 + [loud] * 20, dtype=np.float32)
    assert frame_atoms(energy, middle, Windows()).tolist()[-1] == 5
