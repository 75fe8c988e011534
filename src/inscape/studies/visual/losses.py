"""What pulls a latent toward the statistics of photographs: the plan's image prior, and the one that holds.

`plan_terms` is the plan as written. It has a hole that its own record shows: the total variation of a raw sum is a
hundred times the spectrum's term, slope and kurtosis do not change with amplitude, and nothing depends on the text, so
a flat picture for every sentence is the cheapest answer. `calibrated_terms` closes it: every term is free of scale,
amplitude is held, and what varies between sentences is held too, in share and in number of directions.

Legend: B sentences, C channels, H, W of the latent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from inscape import stats
from inscape.device import started_processes
from inscape.nn.jitter import gaussian_blur
from inscape.stats import fields
from inscape.stats.photographs import STATISTICS, deviations

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = [
    "GRID_PERIODS",
    "PHOTOGRAPHS",
    "PLAN_SLOPE",
    "SLOPES",
    "WHITE_NOISE",
    "Aim",
    "Weights",
    "alignment",
    "between_sentence_share",
    "calibrated_terms",
    "check_each_process",
    "effective_dimensions",
    "gaussian_blur",
    "plan_terms",
    "pooled_correlation",
    "tokens_held",
]

PLAN_SLOPE = 2.0
# Photographs differ, and so do channels: slopes are spread evenly over this range, all of them inside the
# plan's 1.5 to 2.5 and the photographs' 1.87 to 3.14.
SLOPES = (2.0, 2.5)
# Deviations from photographs are all in the same unit; with these factors they weigh alike at the plan's weights, which
# were chosen for terms in units of their own.
ALIKE = {"tv": 5.0, "wavelet": 5.0, "kurtosis": 10.0}
ALIGNED = 0.7  # alignment that is asked for; a random projection of the words has 1
GRID_PERIODS = (2, 4, 8)  # pixels; upsampling doubles
PEAKEDNESS = 3.1  # median of photographs


class Aim(NamedTuple):
    """What `calibrated_terms` pulls toward."""

    deviations: Callable[[Tensor], Tensor]  # (B, C, H, W) -> (B, C, S): how far each statistic is from the aim
    peakedness: float


@dataclass(frozen=True)
class Weights:
    """Weights of the prior's terms. The first six are the plan's; the last two act in the calibrated recipe only."""

    spectrum: float = 0.5  # radial power spectrum near 1/f^2
    tv: float = 0.1  # total variation
    wavelet: float = 0.1  # sparse wavelet coefficients
    kurtosis: float = 0.05  # heavy-tailed gradients
    covariance: float = 0.05  # channels that do not repeat each other
    variance: float = 0.05  # amplitude
    texture: float = 0.1  # no repeated tile, the whole plane used
    text: float = 0.2  # different pictures for different sentences

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"weights.{name}={value} is out of range; allowed: 0 or more")


def pooled_correlation(latent_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "C C"]:
    """Correlation between channels over the pixels of all sentences together."""
    rows_CN = latent_BCHW.transpose(0, 1).flatten(1)
    rows_CN = rows_CN - rows_CN.mean(1, keepdim=True)
    covariance_CC = rows_CN @ rows_CN.T / rows_CN.shape[1]
    scale_C = (covariance_CC.diagonal() + 1e-12).rsqrt()
    return covariance_CC * scale_C[:, None] * scale_C


def between_sentence_share(latent_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, " C"]:
    """Share of a channel's variance that lies between sentences: 0 for one picture for all, 1 for no common part."""
    between_C = latent_BCHW.var(0, unbiased=True).mean((1, 2))
    total_C = latent_BCHW.transpose(0, 1).flatten(1).var(1)
    return between_C / (total_C + 1e-12)


def effective_dimensions(latent_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, ""]:
    """Participation ratio of what varies between sentences, (sum of eigenvalues)^2 / sum of squared eigenvalues.

    1 if all sentences differ along one direction (a picture and its negative), at most B - 1. From the Gram matrix,
    whose eigenvalues are the covariance's. A latent that is the same for all gives 0.
    """
    rows_BN = latent_BCHW.flatten(1)
    rows_BN = rows_BN - rows_BN.mean(0)
    gram_BB = rows_BN @ rows_BN.T
    return gram_BB.diagonal().sum().square() / (gram_BB.square().sum() + 1e-12)


def tokens_held(tokens_BT: Int[Tensor, "B T"], vocab: int) -> Float[Tensor, "B V"]:
    """1 where a sentence holds a token, else 0. The width is given: to read it off the ids would stall a GPU."""
    return torch.zeros(len(tokens_BT), vocab, device=tokens_BT.device).scatter_(1, tokens_BT, 1.0)


def alignment(latent_BCHW: Float[Tensor, "B C H W"], holds_BV: Float[Tensor, "B V"]) -> Float[Tensor, ""]:
    """Do latents differ as their sentences do? Linear CKA of V with the words of the text, from 0 to 1.

    Cosine between the two centred Gram matrices over the batch, of V and of which tokens a sentence holds (Cristianini
    et al. 2002; Kornblith et al. 2019). No word order, no meaning: text and arithmetic only.
    """
    rows, words = latent_BCHW.flatten(1), holds_BV
    rows, words = rows - rows.mean(0), words - words.mean(0)
    ours_BB, theirs_BB = rows @ rows.T, words @ words.T
    norms = ours_BB.square().sum() * theirs_BB.square().sum()
    return (ours_BB * theirs_BB).sum() * (norms + 1e-12).rsqrt()


def plan_terms(latent_BCHW: Float[Tensor, "B C H W"], weights: Weights) -> dict[str, Tensor]:
    """The plan's image prior, term by term, as written: raw sums and raw amplitudes."""
    covariance_BCC = stats.channel_covariance(latent_BCHW)
    variance_BC = covariance_BCC.diagonal(dim1=-2, dim2=-1)
    off_diagonal = covariance_BCC.square().sum((-2, -1)) - variance_BC.square().sum(-1)
    terms = {
        "spectrum": (stats.spectral_slope(latent_BCHW) - PLAN_SLOPE).square().mean(),
        "tv": stats.total_variation(latent_BCHW).mean(),
        "wavelet": stats.haar_mean_abs(latent_BCHW).mean(),
        "kurtosis": functional.relu(3 - stats.gradient_kurtosis(latent_BCHW)).mean(),
        "covariance": off_diagonal.mean(),
        "variance": (variance_BC - 1).square().mean(),
    }
    return {name: getattr(weights, name) * term for name, term in terms.items()}


def check_each_process(batch: int, dimensions: float, name: str) -> None:
    """ValueError where a process has too few sentences for the directions that are asked of their latents.

    batch: sentences a step over all processes, called `name`; latents of B sentences differ along B - 1 directions.
    """
    world = started_processes()
    if batch // world - 1 < dimensions:
        raise ValueError(
            f"{name}={batch} over {world} process{'es' if world > 1 else ''} gives each {batch // world} sentences, "
            f"whose latents differ along {max(0, batch // world - 1)} directions at most; {dimensions:g} are asked "
            f"for: give {name} of {2 * world * math.ceil((math.ceil(dimensions) + 1) / 2)} or more"
        )


def calibrated_terms(
    latent_BCHW: Float[Tensor, "B C H W"],
    holds_BV: Float[Tensor, "B V"],
    weights: Weights,
    *,
    share: float,
    dimensions: float,
    aim: Aim | None = None,
) -> dict[str, Tensor]:
    """The same prior without scale, with photographs as the aim (see `deviations`), and two terms more.

    texture: no repeated tile, no empty middle, no grid; slope and kurtosis cannot see them. text: at least `share` of
    each channel's variance lies between sentences, in at least `dimensions` effective directions (a batch of B can
    show B - 1), and latents differ as their texts do: variance and directions alone are met by a hash of the sentence.
    aim: another one than photographs.
    """
    aim = aim or PHOTOGRAPHS
    off = dict(zip(STATISTICS, _gentle(aim.deviations(latent_BCHW)).mean((0, 1)).unbind(), strict=True))
    correlation_CC = pooled_correlation(latent_BCHW)
    off_diagonal = correlation_CC.square().sum() - correlation_CC.diagonal().square().sum()
    peakedness = stats.spectral_peakedness(latent_BCHW)
    grid = sum(stats.grid_energy(latent_BCHW, period).log().relu() for period in GRID_PERIODS)
    shortfall = _log_ratio(share, between_sentence_share(latent_BCHW)).relu().mean()
    narrowness = _log_ratio(dimensions, effective_dimensions(latent_BCHW)).relu()
    terms = {
        "spectrum": off["spectral_slope"],
        "tv": ALIKE["tv"] * off["total_variation"],
        "wavelet": ALIKE["wavelet"] * (off["haar_mean_abs"] + off["haar_sparsity"] + off["haar_kurtosis"]) / 3,
        "kurtosis": ALIKE["kurtosis"] * off["gradient_kurtosis"],
        "covariance": off_diagonal,
        "variance": _log_ratio(stats.variance(latent_BCHW), 1.0).square().mean(),
        "texture": _log_ratio(peakedness, aim.peakedness).square().mean()
        + 5 * stats.unevenness(latent_BCHW).square()
        + grid,
        "text": shortfall + narrowness + _log_ratio(ALIGNED, alignment(latent_BCHW, holds_BV)).relu(),
    }
    return {name: getattr(weights, name) * term for name, term in terms.items()}


def _from_photographs(latent_BCHW: Tensor) -> Tensor:
    return deviations(latent_BCHW, torch.linspace(*SLOPES, latent_BCHW.shape[1], device=latent_BCHW.device))


@lru_cache(maxsize=8)
def _noise_from_photographs(device: torch.device) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        noise_NHW = fields.white_noise(512, generator=torch.Generator().manual_seed(0))
        return deviations(noise_NHW).mean(0).to(device)


def _from_white_noise(latent_BCHW: Tensor) -> Tensor:
    """In the units of `deviations`, so that the terms' weights mean the same."""
    return deviations(latent_BCHW) - _noise_from_photographs(latent_BCHW.device)


PHOTOGRAPHS = Aim(_from_photographs, PEAKEDNESS)
WHITE_NOISE = Aim(_from_white_noise, 1.93)  # slope 0, kurtosis 3: no pixel has to do with its neighbours


def _gentle(deviation: Tensor) -> Tensor:
    """About half the square near zero and linear far out, where a fresh latent is 50 standard deviations off."""
    return torch.sqrt(1 + deviation.square()) - 1


def _log_ratio(value: Tensor | float, reference: Tensor | float) -> Tensor:
    """log(value / reference), finite for zero."""
    return _log(value) - _log(reference)


def _log(value: Tensor | float) -> Tensor:
    return torch.log(torch.as_tensor(value) + 1e-6)
