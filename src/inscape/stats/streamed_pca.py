"""PCA of all context windows of a corpus without ever holding one: 59 GB of windows become 120 MB of sums.

Windows overlap, so the covariance of W stacked frames is made of products of frames 0 .. W-1 apart. Each such product
is summed once over an utterance, and the blocks of the covariance, for every lag, differ from it only by the few frames
at the ends, which are kept apart. All sums are exact (see exact_sums), so shards merge to the same bits.

Legend: T frames, D latent dimensions, W frames of a context, F = W D, P components, E edge pairs, B vectors of a block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from inscape.stats.context_windows import EVAL, TRAIN, Utterances, Windows, deltas
from inscape.stats.exact_sums import EXACT_STEPS, exact_product, grid_for_sum, on_grid, power_of_two, slice_matrix

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = [
    "ContextMoments",
    "Normaliser",
    "Survey",
    "accumulate_moments",
    "context_covariance",
    "merge_moments",
    "merge_surveys",
    "normaliser",
    "survey",
    "top_eigenvectors",
]

SIGMA_FLOOR = 1e-6
CHUNK = 1024  # frames a product is formed over: long enough for BLAS, short enough for memory
EDGE_CHUNK = 256  # utterances whose ends are multiplied together
GUARD_VECTORS = 16  # vectors beyond those asked for: they set the pace of the iteration
FILTER_DEGREE = 6
DIRECT_SIZE = 48  # up to here LAPACK works in one thread, and one call is quicker than iterating
RESIDUAL = 1e-11  # of the largest eigenvalue
MAX_FILTERS = 25
KEPT = 0.7  # of a column's norm: more was taken away by projecting, so rounding may have grown (Daniel et al. 1976)


@dataclass(frozen=True)
class Survey:
    """What must be known of a corpus before its sums can be exact: counts and bounds. Merges in any order."""

    windows: Windows
    dimension: int
    frames: dict[str, int]  # split -> eligible frames
    largest_step_D: Float[np.ndarray, " D"]  # of |delta| over eligible TRAIN frames
    largest_norm: float  # of a TRAIN frame
    power: Fraction  # at least the largest over dimensions of sum x^2 over TRAIN frames
    energies: Float[np.ndarray, " _"]  # of every frame of train speakers (8 MB for half a day of speech at 12.5 Hz)

    @property
    def energy_threshold(self) -> float:
        """The median energy over all frames of train speakers: high energy is strictly above it."""
        return float(np.median(self.energies)) if self.energies.size else math.nan

    @property
    def contexts(self) -> int:
        """Eligible TRAIN frames."""
        return self.frames.get(TRAIN, 0)


def survey(utterances: Utterances, windows: Windows) -> Survey:
    """One pass over `utterances` for their counts and bounds.

    ValueError where latents are not (T, D) with one D, are not finite, or energies do not fit.
    """
    frames: dict[str, int] = {}
    energies, norm, power, dimension = [], 0.0, Fraction(0), None
    largest_D = np.zeros(0)
    for speaker, latent_TD, energy_T, split in utterances():
        if latent_TD.ndim != 2 or (dimension or latent_TD.shape[1]) != latent_TD.shape[1]:
            raise ValueError(f"speaker {speaker}: latents of shape {latent_TD.shape}, wanted (T, {dimension or 'D'})")
        if energy_T.shape != latent_TD.shape[:1] or not (np.isfinite(latent_TD).all() and np.isfinite(energy_T).all()):
            raise ValueError(
                f"speaker {speaker}: latents and energies must be finite and of one length, given "
                f"{latent_TD.shape} and {energy_T.shape}: quarantine the utterance or extract it again"
            )
        if dimension is None:
            dimension, largest_D = latent_TD.shape[1], np.zeros(latent_TD.shape[1])
        frames[split] = frames.get(split, 0) + len(windows.eligible(len(latent_TD)))
        if split != EVAL:
            energies.append(np.asarray(energy_T, dtype=np.float32))
        if split == TRAIN and len(latent_TD):
            squared_TD = np.square(latent_TD, dtype=np.float64)
            norm = max(norm, float(squared_TD.sum(axis=1).max()) ** 0.5)
            power += Fraction(float(squared_TD.sum(axis=0).max()))
            largest_D = np.maximum(largest_D, np.abs(deltas(latent_TD, windows)).max(axis=0, initial=0.0))
    if dimension is None:
        raise ValueError("there is no utterance to survey: check the corpus and the splits")
    joined = np.concatenate(energies) if energies else np.zeros(0, np.float32)
    return Survey(windows, dimension, frames, largest_D, norm, power, joined)


def merge_surveys(first: Survey, second: Survey) -> Survey:
    """The survey of both shards together. ValueError if they saw different windows or dimensions."""
    if (first.windows, first.dimension) != (second.windows, second.dimension):
        raise ValueError(
            f"shards differ: {first.windows} of {first.dimension} dimensions and {second.windows} of "
            f"{second.dimension}; survey both with the same settings"
        )
    splits = {**first.frames, **second.frames}
    return Survey(
        first.windows,
        first.dimension,
        {split: first.frames.get(split, 0) + second.frames.get(split, 0) for split in splits},
        np.maximum(first.largest_step_D, second.largest_step_D),
        max(first.largest_norm, second.largest_norm),
        first.power + second.power,
        np.concatenate((first.energies, second.energies)),
    )


@dataclass
class ContextMoments:
    """Sums over eligible TRAIN frames from which targets are normalised and contexts of every lag get their PCA.

    base_DF holds sum_s x[s] x[s..s+W-1]^T over the N frames from 0 of an utterance with N contexts; edge_EDD[e] is what
    the block of the pair (offset o, apart k) gains when that range moves on by one frame, from o to o + 1.
    """

    windows: Windows
    count: int
    step: float  # grid of the frames
    delta_sum_D: Float[np.ndarray, " D"]
    delta_square_D: Float[np.ndarray, " D"]
    frame_sum_OD: Float[np.ndarray, "O D"]  # of the N frames from offset o
    base_DF: Float[np.ndarray, "D F"]
    edge_EDD: Float[np.ndarray, "E D D"]


def _span(windows: Windows) -> int:
    """The largest offset of a window's frame, over lags and positions."""
    return max(windows.lags) - min(windows.lags) + windows.window - 1


def _edge_pairs(windows: Windows) -> list[tuple[int, int]]:
    span = _span(windows)
    return [(o, k) for o in range(span) for k in range(windows.window) if o + k <= span]


def accumulate_moments(utterances: Utterances, known: Survey) -> ContextMoments:
    """One pass over the TRAIN utterances. `known` is the survey of ALL shards, the same for each of them."""
    windows, width = known.windows, known.dimension
    # |sum x y| <= max_d sum x^2 (Cauchy-Schwarz), also for partial sums, so this step keeps every product sum exact.
    step = power_of_two(math.sqrt(float(known.power))) * 2.0**-26
    bound_D = np.array([power_of_two(x) for x in known.largest_step_D])
    first_step_D = bound_D * grid_for_sum(1.0, known.contexts)
    second_step_D = bound_D**2 * grid_for_sum(1.0, known.contexts)
    span, pairs = _span(windows), _edge_pairs(windows)
    sums = ContextMoments(
        windows,
        0,
        step,
        np.zeros(width),
        np.zeros(width),
        np.zeros((span + 1, width)),
        np.zeros((width, windows.window * width)),
        np.zeros((len(pairs), width, width)),
    )
    frames, ends = [], []
    for _, latent_TD, _, split in utterances():
        count = len(windows.eligible(len(latent_TD)))
        if split != TRAIN or count == 0:
            continue
        x_TD, delta_ND = on_grid(latent_TD, step), deltas(latent_TD, windows)
        sums.count += count
        sums.delta_sum_D += on_grid(delta_ND, first_step_D).sum(axis=0)
        sums.delta_square_D += on_grid(delta_ND * delta_ND, second_step_D).sum(axis=0)
        sums.frame_sum_OD += np.stack([x_TD[o : o + count].sum(axis=0) for o in range(span + 1)])
        frames.append(x_TD[: count + windows.window - 1])
        ends.append((x_TD[: span + 1], x_TD[count : count + span + 1]))
        if sum(map(len, frames)) >= CHUNK:
            _add_products(sums, frames)
            frames = []
        if len(ends) >= EDGE_CHUNK:
            _add_edges(sums, ends, pairs)
            ends = []
    _add_products(sums, frames)
    _add_edges(sums, ends, pairs)
    return sums


def _add_products(sums: ContextMoments, frames: list[np.ndarray]) -> None:
    if not frames:
        return
    width = sums.windows.window
    left_ND = np.concatenate([x_TD[: len(x_TD) - width + 1] for x_TD in frames])
    right = [np.concatenate([x_TD[k : len(x_TD) - width + 1 + k] for x_TD in frames]) for k in range(width)]
    sums.base_DF += left_ND.T @ np.concatenate(right, axis=1)


def _add_edges(sums: ContextMoments, ends: list[tuple[np.ndarray, np.ndarray]], pairs: list[tuple[int, int]]) -> None:
    if not ends:
        return
    plus_OUD = np.stack([tail for _, tail in ends], axis=1)
    minus_OUD = np.stack([head for head, _ in ends], axis=1)
    left = np.concatenate((plus_OUD, -minus_OUD), axis=1)
    right = np.concatenate((plus_OUD, minus_OUD), axis=1)
    for edge_DD, (o, k) in zip(sums.edge_EDD, pairs, strict=True):
        edge_DD += left[o].T @ right[o + k]


def merge_moments(first: ContextMoments, second: ContextMoments) -> ContextMoments:
    """The moments of both shards together. ValueError if they were summed on different grids."""
    if (first.windows, first.step, first.base_DF.shape) != (second.windows, second.step, second.base_DF.shape):
        raise ValueError("shards were summed on different grids: survey all, merge the surveys, then accumulate")
    return ContextMoments(
        first.windows,
        first.count + second.count,
        first.step,
        first.delta_sum_D + second.delta_sum_D,
        first.delta_square_D + second.delta_square_D,
        first.frame_sum_OD + second.frame_sum_OD,
        first.base_DF + second.base_DF,
        first.edge_EDD + second.edge_EDD,
    )


class Normaliser(NamedTuple):
    """Mean and population standard deviation of the targets, the latter at least 1e-6."""

    mean_D: Float[np.ndarray, " D"]
    std_D: Float[np.ndarray, " D"]


def normaliser(sums: ContextMoments) -> Normaliser:
    """Mean and spread of delta over eligible TRAIN frames; the same for every lag. ValueError if there are none."""
    if sums.count == 0:
        raise ValueError(
            f"no eligible frame in the split {TRAIN!r}: utterances need more than {sums.windows.first} frames"
        )
    mean_D = sums.delta_sum_D / sums.count
    variance_D = np.maximum(sums.delta_square_D / sums.count - mean_D**2, 0.0)
    return Normaliser(mean_D, np.maximum(np.sqrt(variance_D), SIGMA_FLOOR))


def context_covariance(sums: ContextMoments, lag: int) -> tuple[Float[np.ndarray, " F"], Float[np.ndarray, "F F"]]:
    """Mean and covariance (divided by N - 1) of c_flat at `lag` over all eligible TRAIN frames."""
    windows, count = sums.windows, sums.count
    windows.check_lag(lag)
    if count < 2:
        raise ValueError(f"a covariance wants 2 or more contexts, given {count}: add {TRAIN!r} utterances")
    if max(np.abs(sums.base_DF).max(), np.abs(sums.edge_EDD).max(initial=0.0)) >= EXACT_STEPS * sums.step**2:
        raise ValueError("the moments outgrew their grid: survey every shard before accumulating any")
    width, size = windows.window, sums.base_DF.shape[0]
    edge = dict(zip(_edge_pairs(windows), sums.edge_EDD, strict=True))
    start = max(windows.lags) - lag
    mean_F = sums.frame_sum_OD[start : start + width].reshape(-1) / count
    covariance_FF = np.empty((width * size, width * size))
    blocks = covariance_FF.reshape(width, size, width, size)
    for apart in range(width):
        block_DD = sums.base_DF[:, apart * size : (apart + 1) * size].copy()
        for offset in range(start + width - apart):
            i = offset - start
            if i >= 0:
                blocks[i, :, i + apart] = block_DD
                blocks[i + apart, :, i] = block_DD.T
            if offset + 1 < start + width - apart:
                block_DD += edge[offset, apart]
    for row, mean in zip(covariance_FF, mean_F, strict=True):  # row by row: no second matrix of this size
        row -= (count * mean) * mean_F
        row /= count - 1
    return mean_F, covariance_FF


class Eigenpairs(NamedTuple):
    """The largest eigenvalues, largest first, and their unit vectors; `residual` is max ||A v - w v|| / w_1."""

    value_P: Float[np.ndarray, " P"]
    vector_FP: Float[np.ndarray, "F P"]
    residual: float


def top_eigenvectors(covariance_FF: Float[np.ndarray, "F F"], components: int, *, seed: int = 0) -> Eigenpairs:
    """The largest eigenpairs of a covariance, the same bits under any number of threads.

    Subspace iteration with a Chebyshev filter (Zhou, Saad, Tiago & Chelikowsky 2006), products by `exact_product`. A
    vector's sign makes its largest entry positive. Where eigenvalues coincide (white noise) their vectors are any basis
    of their space; the iteration then ends at MAX_FILTERS and the residual says how far it came.
    ValueError if more components are asked for than there are features.
    """
    size = len(covariance_FF)
    if not 1 <= components <= size:
        raise ValueError(f"{components} components of {size} features: allowed are 1 to {size}")
    if size <= DIRECT_SIZE:
        value_F, vector_FF = np.linalg.eigh(covariance_FF)
        return Eigenpairs(value_F[::-1][:components], _signed(vector_FF[:, ::-1][:, :components]), 0.0)
    width = min(components + GUARD_VECTORS, size)
    matrix = slice_matrix(covariance_FF)
    vector_FB = _orthonormal(np.random.default_rng(seed).standard_normal((size, width)))
    turn = 0
    while True:
        turn += 1
        image_FB = exact_product(matrix, vector_FB)
        small = np.einsum("fb,fc->bc", vector_FB, image_FB)
        value_B, turn_BB = np.linalg.eigh((small + small.T) / 2)
        value_B, turn_BB = value_B[::-1], turn_BB[:, ::-1]
        vector_FB = np.einsum("fb,bc->fc", vector_FB, turn_BB)
        image_FB = np.einsum("fb,bc->fc", image_FB, turn_BB)
        miss_FB = image_FB[:, :components] - vector_FB[:, :components] * value_B[:components]
        top = max(float(value_B[0]), np.finfo(np.float64).tiny)
        residual = float(np.sqrt(np.einsum("fb,fb->b", miss_FB, miss_FB)).max()) / top
        if residual <= RESIDUAL or turn == MAX_FILTERS:
            return Eigenpairs(value_B[:components], _signed(vector_FB[:, :components]), residual)
        # Damp everything below the smallest Ritz value; above it the polynomial grows fastest of all of its degree.
        half = max(float(value_B[-1]), 1e-12 * top) / 2
        before_FB, now_FB = vector_FB, (image_FB - half * vector_FB) / half
        for _ in range(FILTER_DEGREE - 1):
            before_FB, now_FB = now_FB, 2 * (exact_product(matrix, now_FB) - half * now_FB) / half - before_FB
        vector_FB = _orthonormal(now_FB)


def _orthonormal(columns_FB: np.ndarray) -> np.ndarray:
    """Gram-Schmidt; LAPACK's QR adds in another order when it has more threads.

    A column is projected again until projecting takes nothing away: what is left of one that lay in the space of those
    before it is rounding, which points back into that space, and nothing at all is replaced by noise.
    """
    rows_BF = np.ascontiguousarray(columns_FB.T)
    rng = np.random.default_rng(0)
    for i, row_F in enumerate(rows_BF):
        before, after = 1.0, 0.0
        while after < KEPT * before:
            largest = np.abs(row_F).max()
            row_F[:] = row_F / largest if largest > 0 else rng.standard_normal(row_F.size)
            before = math.sqrt(float(np.einsum("f,f->", row_F, row_F)))
            for done_F in rows_BF[:i]:
                row_F -= np.einsum("f,f->", done_F, row_F) * done_F
            after = math.sqrt(float(np.einsum("f,f->", row_F, row_F)))
        row_F /= after
    return np.ascontiguousarray(rows_BF.T)


def _signed(vector_FP: np.ndarray) -> np.ndarray:
    largest_P = np.abs(vector_FP).argmax(axis=0)
    return vector_FP * np.where(vector_FP[largest_P, np.arange(vector_FP.shape[1])] < 0, -1.0, 1.0)
