"""Can a linear readout recover the words of a sentence from a representation of it?

A representation that ignores its input scores 0.5 here, whatever its variance; so does one whose rows were shuffled,
which is the control that goes with it.

Legend: N sentences, F features, K words.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from inscape.core.estimate import Estimate

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = ["frequent_words", "word_probe"]

RESAMPLES = 1000
RIDGE = 0.3  # penalty on standardised features, per sentence
NOISE = 0.1  # standard deviation of the noise a feature is read under, in units of that of all features together


def frequent_words(
    presence_NV: Bool[np.ndarray, "N V"], low: float = 0.1, high: float = 0.5
) -> Bool[np.ndarray, "N K"]:
    """The columns of words that stand in `low` to `high` of all sentences: neither glue nor rarities."""
    share_V = presence_NV.mean(0)
    return presence_NV[:, (share_V >= low) & (share_V <= high)]


def word_probe(features_NF: Float[np.ndarray, "N F"], presence_NK: Bool[np.ndarray, "N K"], *, seed: int) -> Estimate:
    """Balanced accuracy of a ridge readout of which words a sentence holds; chance is 0.5.

    The first half of the sentences fits, the second half counts. Features are read under noise of a tenth of the
    standard deviation over all sentences and features: words that are a thousandth of a picture that all sentences
    share are not in the representation in any useful sense.
    The interval is over sentences. ValueError on fewer than 20 sentences, no words, or numbers that are not finite.
    """
    count = len(features_NF)
    if count < 20 or presence_NK.shape[0] != count or presence_NK.shape[1] == 0:
        raise ValueError(
            f"word_probe wants 20 or more sentences and a word or more, given features {features_NF.shape} and words "
            f"{presence_NK.shape}"
        )
    if not np.isfinite(features_NF).all():
        raise ValueError("word_probe: the features hold NaN or infinite values")
    features_NF = np.asarray(features_NF, dtype=np.float64)
    level = features_NF.std() + 1e-12
    noisy_NF = features_NF + NOISE * level * np.random.default_rng(seed).standard_normal(features_NF.shape)
    half = count // 2
    scaled_NF = (noisy_NF - noisy_NF[:half].mean(0)) / (noisy_NF[:half].std(0) + 1e-12)
    truth_NK = presence_NK.astype(np.float64)
    share_K = truth_NK[:half].mean(0)
    fit_HF = scaled_NF[:half]
    penalty_FF = half * RIDGE * np.eye(fit_HF.shape[1])
    readout_FK = np.linalg.solve(fit_HF.T @ fit_HF + penalty_FF, fit_HF.T @ (truth_NK[:half] - share_K))
    # A word is called present where its score is above the middle between the two classes' mean scores.
    score_NK = scaled_NF @ readout_FK
    threshold_K = (
        _mean_where(score_NK[:half], truth_NK[:half]) + _mean_where(score_NK[:half], 1 - truth_NK[:half])
    ) / 2
    right_NK = (score_NK[half:] > threshold_K) == presence_NK[half:]
    return _balanced_accuracy(right_NK, presence_NK[half:], seed)


def _balanced_accuracy(right_NK: np.ndarray, present_NK: np.ndarray, seed: int) -> Estimate:
    """Mean over words of the mean accuracy over the two classes, with a bootstrap interval over sentences."""
    both_K = present_NK.any(0) & ~present_NK.all(0)
    right_NK, present_NK = right_NK[:, both_K], present_NK[:, both_K]
    count = len(right_NK)
    if not both_K.any():
        return Estimate(math.nan, math.nan, math.nan, 0, "sentences")
    rng = np.random.default_rng(seed)
    draws_RN = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(np.float64)
    # The first row is the sample itself, the others are resamples of it.
    weight_RN = np.concatenate((np.ones((1, count)), draws_RN))
    classes = [
        (weight_RN @ (right_NK & member_NK)) / np.maximum(weight_RN @ member_NK, 1e-9)
        for member_NK in (present_NK, ~present_NK)
    ]
    accuracy_R = np.mean(classes, axis=(0, 2))
    low, high = np.quantile(accuracy_R[1:], [0.025, 0.975])
    value = float(accuracy_R[0])
    return Estimate(value, min(float(low), value), max(float(high), value), count, "sentences")


def _mean_where(score_NK: np.ndarray, mask_NK: np.ndarray) -> np.ndarray:
    return (score_NK * mask_NK).sum(0) / np.maximum(mask_NK.sum(0), 1)
