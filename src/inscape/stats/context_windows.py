"""Which frames a context holds and which step it is asked to predict: the alignment rule, in one place.

For a target at frame t and a lag L the context is the W frames that end AT frame t - L (inclusive), and the target is
the step x[t] - x[t-1]. The first eligible t is that of the largest lag for every lag, so all lags are measured on the
same frames. Contexts are made for one utterance at a time and never stored.

Legend: T frames of an utterance, D latent dimensions, W frames of a context, N eligible frames of an utterance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = [
    "ATOMS",
    "EVAL",
    "HELD_OUT",
    "SLICES",
    "TRAIN",
    "Utterance",
    "Utterances",
    "Windows",
    "deltas",
    "flat_contexts",
    "frame_atoms",
    "mean_contexts",
]

TRAIN, HELD_OUT, EVAL = "train", "heldout", "eval"  # heldout: utterances of train speakers that nothing is fitted on

POSITIONS = 3  # initial, medial, final
ATOMS = 2 * POSITIONS  # every slice is a union of these: position x (low, high energy)
MEDIAL = (0.17, 0.83)  # of pos_frac = t / T, both ends included

# Atom = position + 3 * high_energy.
SLICES: dict[str, tuple[int, ...]] = {
    "all": (0, 1, 2, 3, 4, 5),
    "high_energy": (3, 4, 5),
    "utterance_medial": (1, 4),
    "utterance_initial": (0, 3),
    "utterance_final": (2, 5),
}


class Utterance(NamedTuple):
    """What the statistics need of an utterance."""

    speaker_id: str
    latent_TD: Float[np.ndarray, "T D"]
    energy_T: Float[np.ndarray, " T"]
    split: str  # TRAIN, HELD_OUT or EVAL


Utterances = Callable[[], Iterable[Utterance]]  # a fresh pass over the same utterances in the same order each time


@dataclass(frozen=True)
class Windows:
    """The context length and the lags of a study, in frames."""

    window: int = 8
    lags: tuple[int, ...] = (1, 2, 4)

    def __post_init__(self) -> None:
        if self.window < 1 or not self.lags or min(self.lags) < 1 or sorted(set(self.lags)) != list(self.lags):
            raise ValueError(
                f"windows want a window of 1 or more and ascending lags of 1 or more, given {self.window}, {self.lags}"
            )

    @property
    def first(self) -> int:
        """The first eligible target frame: the largest lag's context starts at frame 0."""
        return max(self.window - 1 + max(self.lags), 1)

    def eligible(self, frames: int) -> range:
        """The target frames t of an utterance of `frames` frames; empty where it is too short."""
        return range(min(self.first, frames), frames)

    def check_lag(self, lag: int) -> None:
        """ValueError for a lag the study does not have: eligibility depends on all of them."""
        if lag not in self.lags:
            raise ValueError(f"lag {lag} is not among the lags {self.lags}: add it to Windows(lags=...)")


def mean_contexts(latent_TD: Float[np.ndarray, "T D"], lag: int, windows: Windows) -> Float[np.ndarray, "N D"]:
    """c_mean of every eligible frame: the mean over the W frames that end at t - lag."""
    windows.check_lag(lag)
    count = len(windows.eligible(len(latent_TD)))
    start = windows.first - lag - windows.window + 1
    frame_TD = latent_TD[start : start + count + windows.window - 1]
    # Doubling: sums of 1, 2, 4, ... frames, joined by the binary digits of W. No sum is ever subtracted again.
    total, taken, power, width = None, 0, frame_TD, 1
    while taken < windows.window:
        if windows.window & width:
            part = power[taken : taken + count]
            total = part if total is None else total + part
            taken += width
        power, width = power[:-width] + power[width:], 2 * width
    assert total is not None
    return total / np.asarray(windows.window, dtype=total.dtype)


def flat_contexts(latent_TD: Float[np.ndarray, "T D"], lag: int, windows: Windows) -> Float[np.ndarray, "N WD"]:
    """c_flat of every eligible frame: the W frames that end at t - lag, oldest first, one after the other."""
    windows.check_lag(lag)
    count, width = len(windows.eligible(len(latent_TD))), windows.window
    start = windows.first - lag - width + 1
    frames = np.arange(start, start + count)[:, None] + np.arange(width)
    return latent_TD[frames].reshape(count, width * latent_TD.shape[1])


def deltas(latent_TD: Float[np.ndarray, "T D"], windows: Windows) -> Float[np.ndarray, "N D"]:
    """The targets x[t] - x[t-1] of every eligible frame, float64."""
    first = windows.eligible(len(latent_TD)).start
    return np.subtract(latent_TD[first:], latent_TD[first - 1 : len(latent_TD) - 1], dtype=np.float64)


def frame_atoms(energy_T: Float[np.ndarray, " T"], threshold: float, windows: Windows) -> Int[np.ndarray, " N"]:
    """The atom of every eligible frame; high energy is strictly above `threshold`."""
    total = len(energy_T)
    t_N = np.asarray(windows.eligible(total))
    position_N = np.digitize(t_N / max(total, 1), [MEDIAL[0], np.nextafter(MEDIAL[1], 1.0)])
    return position_N + POSITIONS * (np.asarray(energy_T, dtype=np.float64)[t_N] > threshold)
