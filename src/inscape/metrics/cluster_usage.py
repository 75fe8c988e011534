"""How many clusters are really used, in all and where something else is known: effective numbers.

The exponential of an entropy counts: 64 equal clusters are 64, and 63 empty ones beside one full one are 1. Given
something else (a voice, a loudness), it says how many are left: 1 where clusters are that thing under another name.
Source: Hill 1973, "Diversity and evenness" (order 1); Jost 2007 for the conditional number.

Legend: K clusters, B bins of something else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["contingency", "effective_number", "effective_number_given"]


def effective_number(count_K: Int[np.ndarray, " K"] | Float[np.ndarray, " K"]) -> float:
    """exp(-sum p ln p) of the shares p; 0 where nothing was counted."""
    total = count_K.sum()
    if not total > 0:
        return 0.0
    share_K = count_K[count_K > 0] / total
    return float(np.exp(-(share_K * np.log(share_K)).sum()))


def effective_number_given(count_KB: Int[np.ndarray, "K B"]) -> float:
    """exp(H(K | B)): how many rows are in use inside a column, columns weighted by their counts; 0 of nothing."""
    total = count_KB.sum()
    if not total > 0:
        return 0.0
    weight_B = count_KB.sum(axis=0) / total
    inside = [np.log(effective_number(column_K)) * w for column_K, w in zip(count_KB.T, weight_B, strict=True) if w]
    return float(np.exp(sum(inside)))


def contingency(label_N: Int[np.ndarray, " N"], bin_N: Int[np.ndarray, " N"]) -> Int[np.ndarray, "K B"]:
    """How often each pair occurs; both count from 0."""
    rows, columns = (int(x.max(initial=-1)) + 1 for x in (label_N, bin_N))
    return np.bincount(label_N * columns + bin_N, minlength=rows * columns).reshape(rows, columns)
