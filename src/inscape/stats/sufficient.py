"""What is kept of the targets of every cluster: count, sum and sum of squares, so that no frame is kept.

One pass fills them for all slices at once: frames are summed by (atom, cluster), and every slice is a union of atoms.
Rows exist only for the pairs that occur, so 65,536 cells cost what is occupied of them. Targets are rounded to a grid
that keeps every sum exact (see exact_sums), hence the sums of seven shards are those of one, bit for bit.

Legend: N frames, D dimensions, R rows that occur, K clusters of a slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np
import torch

from inscape.stats.exact_sums import EXACT_STEPS, on_grid

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["ClusterSums", "GridTargets", "SliceSums", "grid_targets"]

# Targets have unit variance, so these leave room for 2^29 (half a billion) mean squares and 2^33 of the sums.
TARGET_STEP = 2.0**-20
SQUARE_STEP = 2.0**-24
FIRST_ROWS = 64


class GridTargets(NamedTuple):
    """Normalised targets and their powers, all on their grids: what is added to sums."""

    delta_ND: Float[np.ndarray, "N D"]
    square_ND: Float[np.ndarray, "N D"]
    norm_N: Float[np.ndarray, " N"]  # ||delta||^2


def grid_targets(
    delta_ND: Float[np.ndarray, "N D"], mean_D: Float[np.ndarray, " D"], std_D: Float[np.ndarray, " D"]
) -> GridTargets:
    """(delta - mean) / std on the grid of the sums. The step is 2^-20 of a standard deviation."""
    scaled_ND = on_grid((delta_ND - mean_D) / std_D, TARGET_STEP)
    square_ND = on_grid(scaled_ND * scaled_ND, SQUARE_STEP)
    return GridTargets(scaled_ND, square_ND, square_ND.sum(axis=1))


class SliceSums(NamedTuple):
    """The sums of one sample set, a row for each cluster that occurs in it, in ascending order of clusters."""

    cluster_K: Int[np.ndarray, " K"]
    count_K: Int[np.ndarray, " K"]
    sum_KD: Float[np.ndarray, "K D"]
    square_KD: Float[np.ndarray, "K D"] | None  # where the table keeps them
    norm_K: Float[np.ndarray, " K"]  # sum of ||delta||^2

    @property
    def n(self) -> int:
        """Samples of the set."""
        return int(self.count_K.sum())


@final
class ClusterSums:
    """Sums by key, where key = part * clusters + cluster (a part is an atom, or a bin of confidence)."""

    def __init__(self, clusters: int, parts: int, dimension: int, *, squares: bool) -> None:
        self.clusters, self.parts, self.dimension, self.squares = clusters, parts, dimension, squares
        self._row_of = np.full(clusters * parts, -1, dtype=np.int32)
        self._key_R = np.empty(0, dtype=np.int64)
        self._count_R = np.zeros(0, dtype=np.int64)
        self._norm_R = np.zeros(0)
        self._sum_RD = np.zeros((0, dimension))
        self._square_RD = np.zeros((0, dimension if squares else 0))

    @property
    def rows(self) -> int:
        """How many keys occur."""
        return len(self._key_R)

    @property
    def exact(self) -> bool:
        """False where a sum outgrew its grid: it is then rounded as floats are, and its last digits depend on order.

        It takes targets of thousands of standard deviations, as where a dimension is still in TRAIN and moves in EVAL.
        """
        pairs = ((self._sum_RD, TARGET_STEP), (self._square_RD, SQUARE_STEP), (self._norm_R, SQUARE_STEP))
        return all(float(np.abs(x).max(initial=0.0)) < step * EXACT_STEPS for x, step in pairs)

    def add(self, key_N: Int[np.ndarray, " N"], targets: GridTargets) -> None:
        """Add frames to the rows of their keys; a key of -1 is left out."""
        inside = key_N >= 0
        if not inside.all():
            key_N, targets = key_N[inside], GridTargets(*(x[inside] for x in targets))
        if not key_N.size:
            return
        row_N = self._rows(key_N)
        index = torch.from_numpy(row_N.astype(np.int64))
        torch.from_numpy(self._sum_RD).index_add_(0, index, torch.from_numpy(targets.delta_ND))
        if self.squares:
            torch.from_numpy(self._square_RD).index_add_(0, index, torch.from_numpy(targets.square_ND))
        capacity = len(self._count_R)
        self._count_R += np.bincount(row_N, minlength=capacity)
        self._norm_R += np.bincount(row_N, targets.norm_N, minlength=capacity)

    def merge(self, other: ClusterSums) -> None:
        """Add another shard's sums. ValueError if it counts other keys."""
        shape = (self.clusters, self.parts, self.dimension, self.squares)
        given = (other.clusters, other.parts, other.dimension, other.squares)
        if shape != given:
            raise ValueError(f"sums over (clusters, parts, dimension, squares) {shape} do not take those over {given}")
        if other.rows:
            row_R = self._rows(other._key_R)
            self._count_R[row_R] += other._count_R[: other.rows]
            self._norm_R[row_R] += other._norm_R[: other.rows]
            self._sum_RD[row_R] += other._sum_RD[: other.rows]
            self._square_RD[row_R] += other._square_RD[: other.rows]

    def of_parts(self, parts: Sequence[int]) -> SliceSums:
        """The sums over the union of `parts`, by cluster."""
        key_R, row_R = np.sort(self._key_R), np.argsort(self._key_R)
        wanted = np.isin(key_R // self.clusters, parts)
        key_R, row_R = key_R[wanted], row_R[wanted]
        cluster_K, place_R = np.unique(key_R % self.clusters, return_inverse=True)
        count_K = np.zeros(len(cluster_K), dtype=np.int64)
        norm_K, sum_KD = np.zeros(len(cluster_K)), np.zeros((len(cluster_K), self.dimension))
        square_KD = np.zeros((len(cluster_K), self._square_RD.shape[1]))
        for part in parts:  # a cluster occurs once in a part, so plain indexing adds each row
            mine = key_R // self.clusters == part
            place, row = place_R[mine], row_R[mine]
            count_K[place] += self._count_R[row]
            norm_K[place] += self._norm_R[row]
            sum_KD[place] += self._sum_RD[row]
            if self.squares:
                square_KD[place] += self._square_RD[row]
        return SliceSums(cluster_K, count_K, sum_KD, square_KD if self.squares else None, norm_K)

    def _rows(self, key_N: np.ndarray) -> np.ndarray:
        """The row of every key, new rows at the end for those that are new."""
        row_N = self._row_of[key_N]
        new = np.unique(key_N[row_N < 0])
        if not new.size:
            return row_N
        used = self.rows + len(new)
        if used > len(self._count_R):
            capacity = max(FIRST_ROWS, used, min(2 * len(self._count_R), self.clusters * self.parts))
            for name in ("_count_R", "_norm_R", "_sum_RD", "_square_RD"):
                old = getattr(self, name)
                grown = np.zeros((capacity, *old.shape[1:]), dtype=old.dtype)
                grown[: len(old)] = old
                setattr(self, name, grown)
        self._row_of[new] = np.arange(self.rows, used)
        self._key_R = np.concatenate((self._key_R, new))
        return self._row_of[key_N]
