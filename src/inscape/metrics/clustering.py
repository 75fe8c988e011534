"""Do clusters of contexts explain the next step? Variance ratio, entropy, and how sure of them one can be.

The variance ratio is the share of the targets' squared deviation that is left inside clusters: 1 explains nothing,
0 everything. Clusters drawn at random leave (N - K) / (N - 1) of it, since K means fit K - 1 samples' worth of noise,
so the adjusted ratio divides by that. Everything is computed from sums (stats.sufficient); no frame is needed.

Legend: K clusters of a sample set, D dimensions, U speakers, R resamples.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from inscape.core.estimate import Estimate, bootstrap_interval, jackknife_error
from inscape.stats.beta_tail import beta_survival, student_quantile
from inscape.stats.streamed_pca import top_eigenvectors
from inscape.stats.sufficient import SliceSums

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = [
    "ClusterDiagnostics",
    "EntropyReduction",
    "PairSpread",
    "Permuted",
    "SpeakerSpread",
    "SpeakerTerms",
    "VarianceRatio",
    "adjusted_interval",
    "cluster_diagnostics",
    "degradation",
    "entropy_reduction",
    "fixed_means",
    "held_out_interval",
    "permutation_p",
    "permuted_moments",
    "ratio_with_means",
    "residual_square",
    "speaker_spread",
    "variance_ratio",
]

CONFIDENCE = 0.95
VARIANCE_FLOOR = 1e-10
FLAT_ENTROPY = 0.01  # nats a dimension below which a ratio of entropies divides by nothing
PLANE = 2


class VarianceRatio(NamedTuple):
    """SSE within clusters over SSE in total, on one sample set; NaN where that is 0 / 0."""

    n: int
    clusters: int  # that occur
    within: float
    total: float
    raw: float
    adjusted: float  # raw (N-1)/(N-K): expected 1 where clusters say nothing


def variance_ratio(sums: SliceSums) -> VarianceRatio:
    """The variance ratio with the means of the set itself (facts of the plan: recomputed inside each slice)."""
    n, clusters = sums.n, len(sums.count_K)
    if n == 0:
        return VarianceRatio(0, 0, 0.0, 0.0, math.nan, math.nan)
    norm, mean_sum_D = float(sums.norm_K.sum()), sums.sum_KD.sum(axis=0)
    between_K = np.einsum("kd,kd->k", sums.sum_KD, sums.sum_KD) / sums.count_K
    within = max(norm - float(between_K.sum()), 0.0)
    total = max(norm - float(np.einsum("d,d->", mean_sum_D, mean_sum_D)) / n, 0.0)
    raw = within / total if total > 0 else math.nan
    return VarianceRatio(n, clusters, within, total, raw, raw * (n - 1) / (n - clusters) if n > clusters else math.nan)


def fixed_means(sums: SliceSums, train: SliceSums) -> Float[np.ndarray, "K D"]:
    """TRAIN's mean target for every cluster of `sums`; TRAIN's overall mean for a cluster that it has not seen."""
    whole_D = train.sum_KD.sum(axis=0) / max(train.n, 1)
    mean_KD = np.repeat(whole_D[None], len(sums.cluster_K), axis=0)
    _, mine, theirs = np.intersect1d(sums.cluster_K, train.cluster_K, assume_unique=True, return_indices=True)
    mean_KD[mine] = train.sum_KD[theirs] / train.count_K[theirs, None]
    return mean_KD


def residual_square(sums: SliceSums, mean_KD: Float[np.ndarray, "K D"]) -> float:
    """Sum of ||delta - mean of its cluster||^2 for given means."""
    cross = float(np.einsum("kd,kd->", mean_KD, sums.sum_KD))
    return float(sums.norm_K.sum()) - 2 * cross + float((np.einsum("kd,kd->k", mean_KD, mean_KD) * sums.count_K).sum())


def ratio_with_means(sums: SliceSums, train: SliceSums) -> float:
    """The variance ratio with TRAIN's means: one minus this is the true held-out R^2. It can exceed 1."""
    total = variance_ratio(sums).total
    return residual_square(sums, fixed_means(sums, train)) / total if total > 0 else math.nan


class PairSpread(NamedTuple):
    """Second and fourth moments of n targets about their mean: by how much permuted ratios scatter."""

    n: int
    trace: float  # sum ||d||^2
    square: float  # ||sum d d^T||_F^2, which is the sum over all pairs of (d_i . d_j)^2
    fourth: float  # sum ||d||^4


class Permuted(NamedTuple):
    """1 - VR over all permutations of the cluster numbers; NaN where nothing can be permuted."""

    mean: float
    std: float


def permuted_moments(sums: SliceSums, spread: PairSpread) -> Permuted:
    """Mean and standard deviation of 1 - VR over all N! permutations, exactly, from the sums alone.

    `spread` may come from a sample of the targets; it is scaled to this set. NaN where nothing can be permuted (fewer
    than 4 samples, one cluster, as many clusters as samples, no variance).
    Source: Kazi-Aoual, Hitier, Sabatier & Lebreton 1995, "Refined approximations to permutation tests for multivariate
    inference"; the two moments as in Josse, Pages & Husson 2008.
    """
    ratio, n = variance_ratio(sums), sums.n
    if n < 4 or ratio.clusters < 2 or ratio.clusters >= n or not ratio.total > 0 or spread.n < 2:
        return Permuted(math.nan, math.nan)
    groups = ratio.clusters - 1  # the trace of the centred projection on clusters, and its squared norm
    diagonal = float((1.0 / sums.count_K).sum()) - 2 * ratio.clusters / n + 1 / n
    pair = (spread.square - spread.fourth) / (spread.n * (spread.n - 1))  # mean (d_i . d_j)^2 of two targets
    scale = (ratio.total / n * spread.n / spread.trace) ** 2 if spread.trace > 0 else 0.0
    fourth = n * spread.fourth / spread.n * scale
    square = fourth + n * (n - 1) * pair * scale
    trace2 = ratio.total**2
    first = 2 * ((n - 1) * groups - groups**2) * ((n - 1) * square - trace2) / ((n - 1) ** 2 * (n + 1) * (n - 2))
    second = (n * (n + 1) * diagonal - (n - 1) * (groups**2 + 2 * groups)) * (
        n * (n + 1) * fourth - (n - 1) * (trace2 + 2 * square)
    )
    variance = (first + second / ((n + 1) * n * (n - 1) * (n - 2) * (n - 3))) / trace2
    return Permuted(groups / (n - 1), math.sqrt(max(variance, 0.0)))


def permutation_p(sums: SliceSums, spread: PairSpread) -> float:
    """Chance that permuted cluster numbers explain as much or more: P(1 - VR* >= 1 - VR).

    No permutation is drawn: a beta distribution with the two moments of `permuted_moments` gives the tail (exact for
    isotropic Gaussian targets). Frames are exchanged as if they were independent, so where targets are correlated in
    time the p-value is too small: intervals over speakers do not share that flaw. NaN as there.
    """
    mean, std = permuted_moments(sums, spread)
    if not 0 < std**2 < mean * (1 - mean):
        return math.nan
    weight = mean * (1 - mean) / std**2 - 1
    return beta_survival(1 - variance_ratio(sums).raw, mean * weight, (1 - mean) * weight)


class EntropyReduction(NamedTuple):
    """Diagonal-Gaussian entropies in nats; the gain is what knowing the cluster saves."""

    entropy: float
    conditional: float  # count-weighted over clusters of 2 or more samples
    gain: float
    gain_per_dim: float
    ratio: float  # gain / entropy, as the plan specifies it
    ratio_reliable: bool  # False where |entropy| / D < 0.01: the targets are normalised, so the ratio divides by ~0


def entropy_reduction(sums: SliceSums) -> EntropyReduction:
    """H = 0.5 sum_d ln var_d, population variances floored at 1e-10, without the constant that cancels in the gain.

    NaN where the table keeps no squares or no cluster has 2 samples. Unlike the adjusted ratio it is not corrected for
    the means it fits: a cluster of few samples looks sharper than it is, by about D / (2 n_k) nats.
    """
    many = sums.count_K >= 2
    if sums.square_KD is None or not many.any():
        return EntropyReduction(*[math.nan] * 5, ratio_reliable=False)
    dimension = sums.sum_KD.shape[1]

    def entropy(count_K: np.ndarray, sum_KD: np.ndarray, square_KD: np.ndarray) -> np.ndarray:
        variance_KD = square_KD / count_K[:, None] - np.square(sum_KD / count_K[:, None])
        return 0.5 * np.log(np.maximum(variance_KD, VARIANCE_FLOOR)).sum(axis=1)

    whole = float(entropy(np.array([sums.n]), sums.sum_KD.sum(axis=0)[None], sums.square_KD.sum(axis=0)[None])[0])
    weight_K = sums.count_K[many]
    each_K = entropy(weight_K, sums.sum_KD[many], sums.square_KD[many])
    inside = float((each_K * weight_K).sum() / weight_K.sum())
    gain = whole - inside
    reliable = abs(whole) / dimension >= FLAT_ENTROPY
    return EntropyReduction(whole, inside, gain, gain / dimension, gain / whole if whole else math.nan, reliable)


class SpeakerTerms(NamedTuple):
    """What each speaker adds to the sums of squares of one sample set, about the means of the whole set."""

    n_U: Int[np.ndarray, " U"]
    within_U: Float[np.ndarray, " U"]  # about the set's cluster means
    total_U: Float[np.ndarray, " U"]  # about the set's mean
    train_U: Float[np.ndarray, " U"]  # about TRAIN's cluster means


def adjusted_interval(value: float, terms: SpeakerTerms, clusters: int, *, seed: int, resamples: int) -> Estimate:
    """The adjusted ratio with a bootstrap over speakers (`bootstrap_interval`).

    Cluster means are held while speakers are drawn: they minimise the sum of squares, so their own scatter enters only
    at second order, and a speaker is then three numbers instead of a table of clusters. Of fewer than 20 speakers of
    whom one holds so many frames that without it there is no ratio, the interval is not measured.
    """
    return _bootstrap(value, terms.within_U, terms, clusters, seed, resamples)


def held_out_interval(value: float, terms: SpeakerTerms, *, seed: int, resamples: int) -> Estimate:
    """The ratio with TRAIN's means; the interval as in `adjusted_interval`."""
    return _bootstrap(value, terms.train_U, terms, 1, seed, resamples)


def _bootstrap(
    value: float, part_U: np.ndarray, terms: SpeakerTerms, clusters: int, seed: int, resamples: int
) -> Estimate:
    speakers = len(part_U)
    if speakers < 2 or not math.isfinite(value):
        return Estimate(value, math.nan, math.nan, speakers, "speakers")
    draw_RU = np.random.default_rng(seed).multinomial(speakers, np.full(speakers, 1 / speakers), resamples)
    columns_3U = np.stack([terms.n_U, part_U, terms.total_U]).astype(np.float64)
    drawn_R = _ratios(np.einsum("ru,cu->cr", draw_RU.astype(np.float64), columns_3U), clusters)
    without_U = _ratios(columns_3U.sum(axis=1, keepdims=True) - columns_3U, clusters)
    if not len(drawn_R):
        return Estimate(value, math.nan, math.nan, speakers, "speakers")
    error = jackknife_error(without_U) if len(without_U) == speakers else math.nan
    return bootstrap_interval(value, drawn_R, error, speakers, "speakers")


def _ratios(sums_3R: np.ndarray, clusters: int) -> np.ndarray:
    """Adjusted ratios from frames, parts and totals; those of sets that have none are left out."""
    n_R, part_R, total_R = sums_3R[:, (sums_3R[2] > 0) & (sums_3R[0] > clusters)]
    return part_R / total_R * ((n_R - 1) / (n_R - clusters) if clusters > 1 else 1.0)


class SpeakerSpread(NamedTuple):
    """How a number differs between speakers, with the 95 % t-interval of its mean; NaN where too few were measured."""

    n: int
    mean: float
    std: float  # of the sample (n - 1)
    min: float
    max: float
    low: float
    high: float


def speaker_spread(values: Float[np.ndarray, " U"]) -> SpeakerSpread:
    """Summary over speakers; values that are not finite (a speaker with as many clusters as samples) are left out."""
    x = np.asarray(values, dtype=np.float64)
    x = x[np.isfinite(x)]
    if x.size == 0:
        return SpeakerSpread(0, *[math.nan] * 6)
    mean = float(x.mean())
    if x.size == 1:
        return SpeakerSpread(1, mean, math.nan, mean, mean, math.nan, math.nan)
    std = float(x.std(ddof=1))
    half = student_quantile(CONFIDENCE, x.size - 1) * std / math.sqrt(x.size)
    return SpeakerSpread(x.size, mean, std, float(x.min()), float(x.max()), mean - half, mean + half)


def degradation(train: float, held_out: float) -> float:
    """(VR_eval - VR_train) / VR_train: positive where the rule holds less well for speakers it was not found on."""
    return (held_out - train) / train if train else math.nan


class ClusterDiagnostics(NamedTuple):
    """For plots: what each cluster of a set looks like."""

    cluster_K: Int[np.ndarray, " K"]
    count_K: Int[np.ndarray, " K"]
    variance_K: Float[np.ndarray, " K"]  # mean over dimensions of the population variance inside
    plane_K2: Float[np.ndarray, "K 2"]  # PCA-2D of the clusters' mean deltas


def cluster_diagnostics(sums: SliceSums) -> ClusterDiagnostics:
    """Sizes, variances and a plane of the mean deltas of the clusters of one set."""
    count_K, dimension = sums.count_K, sums.sum_KD.shape[1]
    mean_KD = sums.sum_KD / np.maximum(count_K, 1)[:, None]
    variance_K = (sums.norm_K / np.maximum(count_K, 1) - np.einsum("kd,kd->k", mean_KD, mean_KD)) / dimension
    plane_K2 = np.zeros((len(count_K), PLANE))
    if len(count_K) > 1:
        centred_KD = mean_KD - mean_KD.mean(axis=0)
        axes = top_eigenvectors(np.einsum("kd,ke->de", centred_KD, centred_KD), min(PLANE, dimension)).vector_FP
        plane_K2[:, : axes.shape[1]] = np.einsum("kd,dp->kp", centred_KD, axes)
    return ClusterDiagnostics(sums.cluster_K, count_K, np.maximum(variance_K, 0.0), plane_K2)
