"""What a set of latents is like: the statistics that P1's gate and every later phase look at.

Measured on sentences held out from training. Nothing here decides.

Legend: N sentences, C channels, H, W of the latent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from inscape import stats
from inscape.core.estimate import Estimate, bootstrap_mean, exact
from inscape.metrics.probe import frequent_words, word_probe
from inscape.stats.photographs import BANDS, STATISTICS, Band, describe
from inscape.stats.two_sample import auc_against_photographs
from inscape.studies.visual.losses import GRID_PERIODS, between_sentence_share, effective_dimensions, pooled_correlation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float

__all__ = ["SLOPE_RANGE", "latent_health", "presence_of_words", "text_dependence", "trend_values"]

SLOPE_RANGE = (1.5, 2.5)  # the plan's
PEAKEDNESS_BAND = Band(3.08, 1.98, 12.8)  # the same crops as the table of stats.photographs
POOL = 4  # pixels: the probe reads averages of 4 x 4


def trend_values(latent_NCHW: Float[Tensor, "N C H W"]) -> dict[str, float]:
    """The short list that is logged at every evaluation; per channel where the name ends in a number."""
    slope_C = stats.spectral_slope(latent_NCHW).mean(0)
    kurtosis_C = stats.gradient_kurtosis(latent_NCHW).median(0).values
    tv_C = stats.total_variation(latent_NCHW).mean(0)
    low, high = SLOPE_RANGE
    return {
        "channels_in_slope_range": int(((slope_C >= low) & (slope_C <= high)).sum()),
        "tv": float(tv_C.mean()),
        "speckle": float(stats.high_frequency_share(latent_NCHW).mean()),
        "text_share": float(between_sentence_share(latent_NCHW).min()),
        **{f"slope_{c}": float(value) for c, value in enumerate(slope_C)},
        **{f"kurtosis_{c}": float(value) for c, value in enumerate(kurtosis_C)},
        **{f"tv_{c}": float(value) for c, value in enumerate(tv_C)},
    }


def latent_health(latent_NCHW: Float[Tensor, "N C H W"], *, seed: int) -> dict[str, Estimate]:
    """Image-likeness of a set of latents.

    Shares are over sentences: for each, the share of its channels whose statistic lies in the photographs' 90 % band.
    """
    count, channels = latent_NCHW.shape[:2]
    described_NCS = describe(latent_NCHW.flatten(0, 1)).reshape(count, channels, len(STATISTICS))
    peakedness_NC = stats.spectral_peakedness(latent_NCHW).numpy()
    columns = {**{name: described_NCS[:, :, i] for i, name in enumerate(STATISTICS)}, "peakedness": peakedness_NC}
    bands = {**BANDS, "peakedness": PEAKEDNESS_BAND}
    health = {
        f"{name}_in_photo_band": bootstrap_mean(
            ((columns[name] >= band.low) & (columns[name] <= band.high)).mean(1), "sentences", seed=seed
        )
        for name, band in bands.items()
    }
    health |= {name: bootstrap_mean(column.mean(1), "sentences", seed=seed) for name, column in columns.items()}
    amplitude_NC = stats.variance(latent_NCHW).sqrt()
    off_diagonal_CC = (pooled_correlation(latent_NCHW) - torch.eye(channels)).abs()
    grid = max(float(stats.grid_energy(latent_NCHW, period)) for period in GRID_PERIODS)
    sentence_N = np.repeat(np.arange(count), channels)
    test = auc_against_photographs(described_NCS.reshape(count * channels, -1), sentence_N, seed)
    return {
        **health,
        "amplitude": bootstrap_mean(amplitude_NC.min(1).values.numpy(), "sentences", seed=seed),
        "channel_correlation": exact(float(off_diagonal_CC.max()), count, "sentences"),
        "grid_energy": exact(grid, count, "sentences"),
        "unevenness": exact(float(stats.unevenness(latent_NCHW)), count, "sentences"),
        "auc_against_photographs": exact(test.auc, count, "sentences"),
    }


def presence_of_words(sentences: Sequence[str]) -> np.ndarray:
    """Which frequent words each sentence holds: (N, K) bool."""
    bags = [set(sentence.lower().split()) for sentence in sentences]
    vocabulary = sorted(set().union(*bags))
    return frequent_words(np.array([[word in bag for word in vocabulary] for bag in bags]))


def text_dependence(
    latent_NCHW: Float[Tensor, "N C H W"], presence_NK: np.ndarray, *, seed: int
) -> dict[str, Estimate]:
    """Does the latent depend on the text: variance between sentences, its directions, and words that can be read off.

    text_probe_shuffled is the control: the same readout, each sentence with another one's latent.
    """
    count = len(latent_NCHW)
    features_NF = functional.avg_pool2d(latent_NCHW, POOL).flatten(1).numpy()
    shuffled = np.random.default_rng(seed).permutation(count)
    return {
        "text_share": exact(float(between_sentence_share(latent_NCHW).min()), count, "sentences"),
        "text_dimensions": exact(float(effective_dimensions(latent_NCHW)), count, "sentences"),
        "text_probe": word_probe(features_NF, presence_NK, seed=seed),
        "text_probe_shuffled": word_probe(features_NF[shuffled], presence_NK, seed=seed),
    }
