"""k-means over streams of frames, whose centroids are the same bits on one thread, on two, and on any machine.

Rows and centroids are rounded to a grid of 2^-24 of the largest row norm. Then every product, every distance and every
sum of a cluster is exact (see exact_sums), so neither BLAS nor the order of blocks can tip a tie.

The `restarts` compete on a sample of the rows, since ten full runs over a corpus cost ten times as much and the seeds
differ far less than the sample's error; the best one then runs Lloyd's iteration over ALL rows until nothing moves.
Where all rows fit the sample, this is the textbook algorithm on all of them.

Legend: N rows, D dimensions, K clusters, J candidates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from inscape.stats.exact_sums import grid_for_sum, on_grid, power_of_two

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["Blocks", "KMeans", "KMeansConfig", "Nearest", "fit_kmeans", "nearest_centroids"]

GRID_BITS = 24  # float32 holds every multiple of the grid, and a product of two norms stays 2^5 below exactness
BLOCK = 2048  # rows a distance is computed for at a time

Blocks = Callable[[], Iterable[np.ndarray]]  # a fresh pass over blocks (N, D) of the same rows in the same order


@dataclass(frozen=True)
class KMeansConfig:
    """How centroids are sought; the defaults are the plan's."""

    restarts: int = 10  # k-means++ starts, the best by inertia wins
    iterations: int = 100  # of Lloyd's algorithm, at most
    seed: int = 42
    tolerance: float = 1e-4  # stop when an iteration lowers the inertia by no more than this share of it
    sample_per_cluster: int = 64  # rows for each cluster that the restarts compete on
    cache_bytes: int = 2**30  # rows are kept as float32 up to here, and read again for each iteration above


class KMeans(NamedTuple):
    """Fitted centroids: multiples of `step`, in the units of the rows."""

    centroid_KD: Float[np.ndarray, "K D"]
    step: float
    inertia: float  # sum of squared distances of all rows to their centroid
    iterations: int  # assignments of all rows
    settled: bool  # False where `iterations` ran out before the inertia stopped falling


class Nearest(NamedTuple):
    """The nearest centroid of each row, the lowest number among equals, and the squared distance to it."""

    label_N: Int[np.ndarray, " N"]
    squared_N: Float[np.ndarray, " N"]


def nearest_centroids(x_ND: Float[np.ndarray, "N D"], centroid_KD: Float[np.ndarray, "K D"], step: float) -> Nearest:
    """Assign rows, any float type, to centroids that lie on the grid `step`."""
    label_N, squared_N = np.empty(len(x_ND), dtype=np.int64), np.empty(len(x_ND))
    for start in range(0, len(x_ND), BLOCK):
        rows = slice(start, start + BLOCK)
        x_BD = on_grid(x_ND[rows], step)
        label_N[rows], score_B = _best(x_BD, centroid_KD)
        squared_N[rows] = np.einsum("bd,bd->b", x_BD, x_BD) - 2 * score_B
    return Nearest(label_N, np.maximum(squared_N, 0.0))


def _best(x_BD: np.ndarray, centroid_KD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For rows on the grid: the nearest centroid c and its score x . c - ||c||^2 / 2, the largest."""
    score_BK = x_BD @ centroid_KD.T
    score_BK -= np.einsum("kd,kd->k", centroid_KD, centroid_KD) / 2
    label_B = score_BK.argmax(axis=1)
    return label_B, score_BK[np.arange(len(x_BD)), label_B]


def fit_kmeans(blocks: Blocks, rows: int, clusters: int, config: KMeansConfig | None = None) -> KMeans:
    """k-means of the `rows` rows that `blocks` yields: k-means++ restarts on a sample, then Lloyd on all.

    A cluster that loses all its rows keeps its centroid. ValueError if there are fewer rows than clusters, or another
    number of rows than announced. Source: Lloyd 1982; Arthur & Vassilvitskii 2007, with the greedy choice among
    2 + ln K candidates that scikit-learn uses.
    """
    config = config or KMeansConfig()
    if rows < clusters:
        raise ValueError(f"{clusters} clusters want as many rows, given {rows}: add data or ask for fewer clusters")
    norm, sample_SD = _scan(blocks, rows, config.sample_per_cluster * clusters, config.seed)
    step = power_of_two(norm) * 2.0**-GRID_BITS
    blocks = _cached(blocks, rows, sample_SD.shape[1], step, config.cache_bytes)
    sample_SD = on_grid(sample_SD, step)
    rng = np.random.default_rng(config.seed)

    def sampled() -> Iterator[np.ndarray]:
        yield sample_SD

    runs = (_lloyd(sampled, _plus_plus(sample_SD, clusters, rng), step, norm, config) for _ in range(config.restarts))
    best = min(runs, key=lambda run: run.inertia)
    if len(sample_SD) == rows:
        return best
    return _lloyd(blocks, best.centroid_KD, step, norm, config)


def _scan(blocks: Blocks, rows: int, sample: int, seed: int) -> tuple[float, np.ndarray]:
    """The largest norm, and a random sample of the rows in their order."""
    wanted = np.arange(rows)
    if rows > sample:
        wanted = np.sort(np.random.default_rng(seed).choice(rows, sample, replace=False))
    norm2, taken, seen = 0.0, [], 0
    for x_BD in blocks():
        norm2 = max(norm2, float(np.einsum("bd,bd->b", x_BD, x_BD, dtype=np.float64).max(initial=0.0)))
        taken.append(x_BD[wanted[np.searchsorted(wanted, seen) : np.searchsorted(wanted, seen + len(x_BD))] - seen])
        seen += len(x_BD)
    if seen != rows:
        raise ValueError(f"{rows} rows were announced and {seen} came")
    return math.sqrt(norm2), np.concatenate(taken)


def _cached(blocks: Blocks, rows: int, width: int, step: float, limit: int) -> Blocks:
    """The same rows on the grid: from one float32 array where they fit the limit, else read again each time."""
    if rows * width * 4 > limit:

        def streamed() -> Iterator[np.ndarray]:
            for x_BD in blocks():
                yield on_grid(x_BD, step)

        return streamed
    kept_ND = np.empty((rows, width), dtype=np.float32)
    start = 0
    for x_BD in blocks():
        kept_ND[start : start + len(x_BD)] = on_grid(x_BD, step)
        start += len(x_BD)

    def kept() -> Iterator[np.ndarray]:
        for first in range(0, rows, BLOCK):
            yield kept_ND[first : first + BLOCK].astype(np.float64)

    return kept


def _plus_plus(x_ND: np.ndarray, clusters: int, rng: np.random.Generator) -> np.ndarray:
    """k-means++ seeding: rows drawn with a chance in proportion to their squared distance from those drawn before."""
    squared_N = np.einsum("nd,nd->n", x_ND, x_ND)
    candidates = 2 + int(math.log(clusters))
    chosen = [int(rng.integers(len(x_ND)))]
    nearest_N = _distances(x_ND, squared_N, np.array(chosen))[0]
    for _ in range(1, clusters):
        heap_N = np.cumsum(nearest_N)
        draw_J = np.minimum(np.searchsorted(heap_N, rng.random(candidates) * heap_N[-1], side="right"), len(x_ND) - 1)
        distance_JN = np.minimum(_distances(x_ND, squared_N, draw_J), nearest_N)
        best = int(distance_JN.sum(axis=1).argmin())
        chosen.append(int(draw_J[best]))
        nearest_N = distance_JN[best]
    return x_ND[chosen]


def _distances(x_ND: np.ndarray, squared_N: np.ndarray, chosen_J: np.ndarray) -> np.ndarray:
    product_JN = x_ND[chosen_J] @ x_ND.T
    product_JN *= -2
    product_JN += squared_N
    product_JN += squared_N[chosen_J, None]
    return np.maximum(product_JN, 0.0)


def _lloyd(blocks: Blocks, centroid_KD: np.ndarray, step: float, norm: float, config: KMeansConfig) -> KMeans:
    """Lloyd's iteration over rows on the grid; cluster sums are corrected by the rows that changed sides, exactly."""
    sum_KD = torch.zeros(centroid_KD.shape, dtype=torch.float64)
    count_K = np.zeros(len(centroid_KD), dtype=np.int64)
    labels: list[np.ndarray] = []  # of each block: four bytes a row is all that grows
    turn, inertia, settled = 0, math.inf, False
    while True:
        turn, before, inertia, changed = turn + 1, inertia, 0.0, 0
        for i, x_BD in enumerate(blocks()):
            new_B, score_B = _best(x_BD, centroid_KD)
            squared_B = np.einsum("bd,bd->b", x_BD, x_BD) - 2 * score_B
            inertia += float(on_grid(squared_B, _inertia_step(norm)).sum())
            if i == len(labels):
                labels.append(np.full(len(new_B), -1, dtype=np.int32))
            changed += _move(x_BD, labels[i], new_B, sum_KD, count_K)
            labels[i] = new_B.astype(np.int32)
        settled = changed == 0 or before - inertia <= config.tolerance * inertia
        if settled or turn >= config.iterations:
            return KMeans(centroid_KD, step, inertia, turn, settled)
        full_K1 = count_K[:, None] > 0
        centroid_KD = on_grid(np.where(full_K1, sum_KD.numpy() / np.maximum(count_K, 1)[:, None], centroid_KD), step)


def _inertia_step(norm: float) -> float:
    """A grid on which the squared distances of 2^26 rows add up exactly: when to stop must not hang on their order."""
    return grid_for_sum(4 * norm * norm, 2**26)


def _move(x_BD: np.ndarray, old_B: np.ndarray, new_B: np.ndarray, sum_KD: torch.Tensor, count_K: np.ndarray) -> int:
    """Take rows that changed from the sums of their old cluster to those of the new; how many changed."""
    moved = np.flatnonzero(old_B != new_B)
    left = moved[old_B[moved] >= 0]
    for where, label_B, sign in ((moved, new_B, 1), (left, old_B, -1)):
        if where.size:
            target = torch.from_numpy(label_B[where].astype(np.int64))
            sum_KD.index_add_(0, target, torch.from_numpy(x_BD[where]), alpha=sign)
            count_K += sign * np.bincount(label_B[where], minlength=len(count_K))
    return moved.size
