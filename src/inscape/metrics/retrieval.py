"""Does an embedding put what means the same together and what means something else apart?

Similarity is the cosine. Whatever is not told apart is counted as wrong: an embedding that says the same of everything
must come out at the bottom, and not at 1 because the right item happens to stand first among equals. Cosines that
differ by less than TIE are equal, since a product of matrices adds up equal columns in different orders.

Arguments are arrays or CPU tensors; rows need not have unit norm. A row of zeros has cosine 0 with everything. One row
of a query or an anchor counts as one independent unit, so each must come from its own scene.

Legend: N queries or anchors, M items of a pool, Z features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from inscape.core.estimate import Estimate, bootstrap_mean, proportion

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["TIE", "cosine_gap", "recall_at", "target_ranks", "told_apart"]

TIE = 1e-6  # the resolution of a cosine of float32 rows
BLOCK = 512  # queries at a time: 40 MB against a pool of 10,000


def target_ranks(
    query_NZ: Float[np.ndarray, "N Z"], pool_MZ: Float[np.ndarray, "M Z"], target_N: Int[np.ndarray, " N"]
) -> Int[np.ndarray, " N"]:
    """How many other items of the pool are at least as similar to each query as its target is; 0 is the best rank.

    `target_N[i]` is the index in the pool of the item that belongs to query i. Every other item is taken to be wrong,
    so the pool must hold each meaning once. ValueError on shapes that do not fit, indices outside the pool, NaN.
    """
    query_NZ, pool_MZ = _directions("query", query_NZ), _directions("pool", pool_MZ)
    target_N = np.asarray(target_N)
    count, pool = len(query_NZ), len(pool_MZ)
    if query_NZ.shape[1] != pool_MZ.shape[1] or target_N.shape != (count,):
        raise ValueError(
            f"retrieval wants queries and a pool of one width and a target for each query, given {query_NZ.shape}, "
            f"{pool_MZ.shape} and {target_N.shape}"
        )
    if not np.issubdtype(target_N.dtype, np.integer) or (count and not 0 <= target_N.min() <= target_N.max() < pool):
        raise ValueError(f"retrieval wants targets that are indices of the pool: integers from 0 to {pool - 1}")
    rank_N = np.empty(count, dtype=np.int64)
    for start in range(0, count, BLOCK):
        cosine_BM = query_NZ[start : start + BLOCK] @ pool_MZ.T
        target_B = target_N[start : start + BLOCK]
        bar_B = cosine_BM[np.arange(len(target_B)), target_B] - TIE
        rank_N[start : start + BLOCK] = (cosine_BM >= bar_B[:, None]).sum(1) - 1  # the target itself is among them
    return rank_N


def recall_at(
    query_NZ: Float[np.ndarray, "N Z"],
    pool_MZ: Float[np.ndarray, "M Z"],
    target_N: Int[np.ndarray, " N"],
    k: int,
    *,
    unit: str = "scenes",
) -> Estimate:
    """Share of queries whose target is among the `k` most similar of the pool; chance is k / M, all tied gives 0.

    ValueError on what `target_ranks` refuses, and on `k` outside 1 .. M - 1, where there would be nothing to find.
    """
    if not 1 <= k < len(pool_MZ):
        raise ValueError(f"recall_at: k is {k} of a pool of {len(pool_MZ)}; allowed: 1 or more, and less than the pool")
    rank_N = target_ranks(query_NZ, pool_MZ, target_N)
    return proportion(int((rank_N < k).sum()), len(rank_N), unit)


def cosine_gap(
    anchor_NZ: Float[np.ndarray, "N Z"],
    positive_NZ: Float[np.ndarray, "N Z"],
    other_MZ: Float[np.ndarray, "M Z"] | None = None,
    *,
    unit: str = "scenes",
) -> Estimate:
    """Mean cosine of an anchor to its positive, less its mean cosine to other items; a constant embedding has 0.

    The other items are `other_MZ`, which must hold no anchor's meaning, or else the positives of all other anchors. In
    [-2, 2]. ValueError on shapes that do not fit, NaN, an empty pool or, without one, fewer than two anchors.
    """
    anchor_NZ, positive_NZ = _alike(anchor=anchor_NZ, positive=positive_NZ)
    own_N = (anchor_NZ * positive_NZ).sum(1)
    if other_MZ is None:
        if len(anchor_NZ) < 2:
            raise ValueError(f"cosine_gap wants other items, or two or more anchors, given {len(anchor_NZ)}")
        other_N = (anchor_NZ @ positive_NZ.sum(0) - own_N) / (len(anchor_NZ) - 1)
    else:
        other_MZ = _directions("other", other_MZ)
        if not len(other_MZ) or other_MZ.shape[1] != anchor_NZ.shape[1]:
            raise ValueError(f"cosine_gap wants other items as wide as {anchor_NZ.shape}, given {other_MZ.shape}")
        other_N = anchor_NZ @ other_MZ.mean(0)  # the mean of cosines is the cosine with the mean direction
    return bootstrap_mean(own_N - other_N, unit)


def told_apart(
    anchor_NZ: Float[np.ndarray, "N Z"],
    positive_NZ: Float[np.ndarray, "N Z"],
    negative_NZ: Float[np.ndarray, "N Z"],
    *,
    unit: str = "scenes",
) -> Estimate:
    """Share of anchors that are closer to their positive than to their negative; chance is 0.5, a tie is wrong.

    ValueError on shapes that do not fit, and on NaN.
    """
    anchor_NZ, positive_NZ, negative_NZ = _alike(anchor=anchor_NZ, positive=positive_NZ, negative=negative_NZ)
    right_N = (anchor_NZ * positive_NZ).sum(1) > (anchor_NZ * negative_NZ).sum(1) + TIE
    return proportion(int(right_N.sum()), len(right_N), unit)


def _directions(name: str, rows_NZ: Float[np.ndarray, "N Z"]) -> Float[np.ndarray, "N Z"]:
    """The rows in float64 with unit norm; a row of zeros stays."""
    rows_NZ = np.asarray(rows_NZ, dtype=np.float64)
    if rows_NZ.ndim != 2 or rows_NZ.shape[1] == 0:
        raise ValueError(f"{name} embeddings are rows of a matrix, given shape {rows_NZ.shape}")
    if not np.isfinite(rows_NZ).all():
        raise ValueError(f"the {name} embeddings hold NaN or infinite values")
    # By the largest number first: the square of a very small or large one is 0 or infinite.
    largest_N1 = np.abs(rows_NZ).max(1, keepdims=True)
    rows_NZ = rows_NZ / np.where(largest_N1 > 0, largest_N1, 1)
    norm_N1 = np.sqrt((rows_NZ**2).sum(1, keepdims=True))
    return rows_NZ / np.where(norm_N1 > 0, norm_N1, 1)


def _alike(**rows: Float[np.ndarray, "N Z"]) -> list[Float[np.ndarray, "N Z"]]:
    """Each as directions; ValueError unless all have one shape."""
    directions = [_directions(name, given) for name, given in rows.items()]
    if len({given.shape for given in directions}) > 1:
        given = ", ".join(f"{name} {of.shape}" for name, of in zip(rows, directions, strict=True))
        raise ValueError(f"embeddings of one shape are compared row by row, given {given}")
    return directions
