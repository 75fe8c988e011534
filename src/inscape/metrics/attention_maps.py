"""Where does a decoder look on the latent when it writes a word?

Three questions, since each of them alone has a cheap answer that means nothing: is a map concentrated (entropy), is it
concentrated in one region (localisation), and does each word have a map of its own (specificity)? A decoder that always
stares at one corner is perfectly localised and has specificity 0.

Everything is per sentence, and intervals are over sentences: the maps of one sentence depend on one another.

Legend: B sentences, T tokens written, M memory places attended to, K = h w of them on the latent's grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy import ndarray

from inscape.core.estimate import Estimate, bootstrap_mean

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = ["AttentionMaps", "attention_maps", "entropy_bits", "localisation", "scattered_localisation", "specificity"]


class AttentionMaps(NamedTuple):
    """What `attention_maps` measures; all but `entropy_bits` between 0 and 1, means over sentences."""

    on_latent: Estimate  # share of attention that falls on the latent's places rather than on the rest of the memory
    entropy_bits: Estimate  # of a map over the K places: 0 for one place, log2 K for all alike
    entropy: Estimate  # the same divided by log2 K
    localisation: Estimate  # share of a map within block x block places around its peak
    scattered_localisation: Estimate  # the same if the map's other weights lay at random places: the control
    specificity: Estimate  # mean total variation distance between the maps of two tokens of a sentence


def attention_maps(
    weight_BTM: Float[ndarray, "B T M"],
    keep_BT: Bool[ndarray, "B T"],
    grid: tuple[int, int],
    *,
    block: int = 3,
    seed: int = 0,
) -> AttentionMaps:
    """Measure cross-attention weights, of one head or averaged over heads and layers by the caller.

    The first h w of the M places are the latent's in row-major order, `grid` = (h, w); what is left is other memory,
    and maps are rescaled to sum to 1 without it. `keep_BT` marks the tokens that count. A sentence with fewer than two
    of them has no pair to compare and is left out; `n` says how many were measured.

    ValueError if shapes do not fit, weights are negative or not finite, or `block` does not fit into the grid.
    """
    weight_BTM, keep_BT = np.asarray(weight_BTM, dtype=np.float64), np.asarray(keep_BT, dtype=bool)
    _check(weight_BTM, keep_BT, grid, block)
    places = grid[0] * grid[1]
    rows = []
    for weight_TM, keep_T in zip(weight_BTM, keep_BT, strict=True):
        if keep_T.sum() < 2:
            continue
        weight_TM = weight_TM[keep_T]
        map_TK = _normalised(weight_TM[:, :places])
        bits = entropy_bits(map_TK).mean()
        rows.append(
            (
                (weight_TM[:, :places].sum(1) / np.maximum(weight_TM.sum(1), np.finfo(float).tiny)).mean(),
                bits,
                bits / np.log2(places),
                localisation(map_TK, grid, block).mean(),
                scattered_localisation(map_TK, block).mean(),
                specificity(map_TK),
            )
        )
    values_NF = np.array(rows).reshape(-1, len(AttentionMaps._fields))
    return AttentionMaps(*(bootstrap_mean(values_N, "sentences", seed=seed) for values_N in values_NF.T))


def _normalised(weight_TK: Float[ndarray, "T K"]) -> Float[ndarray, "T K"]:
    """Maps that sum to 1. A map without any weight, as underflow leaves it, points nowhere: it becomes uniform."""
    total_T1 = weight_TK.sum(-1, keepdims=True)
    uniform = np.full_like(weight_TK, 1 / weight_TK.shape[-1])
    return np.divide(weight_TK, total_T1, out=uniform, where=total_T1 > 0)


def entropy_bits(map_TK: Float[ndarray, "*T K"]) -> Float[ndarray, "*T"]:
    """Shannon entropy of maps that sum to 1. 2 to this power is the number of places attended to, wherever they lie.

    Uniform: log2 K. One place: 0. A Gaussian blob of s places: log2(2 pi e s^2), Cover & Thomas 2006, theorem 8.4.1.
    """
    map_TK = np.asarray(map_TK, dtype=np.float64)
    logarithm_TK = np.log2(map_TK, out=np.zeros_like(map_TK), where=map_TK > 0)
    return -(map_TK * logarithm_TK).sum(-1) + 0.0  # no minus before a zero


def localisation(map_TK: Float[ndarray, "*T K"], grid: tuple[int, int], block: int = 3) -> Float[ndarray, "*T"]:
    """Share of a map's weight within the `block` x `block` places around its peak: is the weight in one region?

    At a border the block is moved inside, so that it always counts block^2 places. A participation ratio or an entropy
    counts places wherever they lie, and could not tell one region from as many places strewn over the picture.

    Uniform: block^2 / K. One place: 1. A Gaussian blob of s places, peak in its middle: erf(block / (2 sqrt(2) s))^2.
    """
    map_THW = np.asarray(map_TK, dtype=np.float64).reshape(-1, *grid)
    corner_T2 = np.stack(np.unravel_index(map_THW.reshape(len(map_THW), -1).argmax(1), grid), axis=1) - block // 2
    corner_T2 = np.clip(corner_T2, 0, np.array(grid) - block)
    summed_THW = np.pad(map_THW.cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))
    token, top, left = np.arange(len(map_THW)), *corner_T2.T
    share_T = (
        summed_THW[token, top + block, left + block]
        - summed_THW[token, top, left + block]
        - summed_THW[token, top + block, left]
        + summed_THW[token, top, left]
    )
    return share_T.clip(0, 1).reshape(np.shape(map_TK)[:-1])


def scattered_localisation(map_TK: Float[ndarray, "*T K"], block: int = 3) -> Float[ndarray, "*T"]:
    """Mean `localisation` if all weights but the peak were dealt to the other places at random, exactly.

    peak + (1 - peak) (block^2 - 1) / (K - 1): the same entropy without the geometry. What `localisation` has above it
    is neighbourhood.
    """
    map_TK = np.asarray(map_TK, dtype=np.float64)
    peak_T = map_TK.max(-1)
    return peak_T + (1 - peak_T) * (block**2 - 1) / (map_TK.shape[-1] - 1)


def specificity(map_TK: Float[ndarray, "T K"]) -> float:
    """Mean total variation distance between the maps of two tokens: 0 if all look at the same, 1 if none overlap.

    Half the sum over places of |p - q| (Levin & Peres 2017, proposition 4.2), over all pairs. In a place's sorted
    weights the k-th of T is taken off k times and added T - 1 - k times less, so no pair has to be formed.
    """
    tokens = len(map_TK)
    sign_T1 = (2 * np.arange(tokens) - tokens + 1)[:, None]
    pairs = tokens * (tokens - 1) / 2
    return float(np.clip((sign_T1 * np.sort(map_TK, axis=0)).sum() / 2 / pairs, 0, 1))


def _check(weight_BTM: ndarray, keep_BT: ndarray, grid: tuple[int, int], block: int) -> None:
    if weight_BTM.ndim != 3 or keep_BT.shape != weight_BTM.shape[:2]:
        raise ValueError(
            f"attention_maps wants weights (sentences, tokens, places) and a mask (sentences, tokens), given "
            f"{weight_BTM.shape} and {keep_BT.shape}"
        )
    if min(grid) < 1 or not 2 <= grid[0] * grid[1] <= weight_BTM.shape[2]:
        raise ValueError(f"attention_maps: grid={grid} is out of range; allowed: 2 to {weight_BTM.shape[2]} places")
    if not 1 <= block <= min(grid):
        raise ValueError(f"attention_maps: block={block} is out of range; allowed: 1 to {min(grid)}")
    kept_NM = weight_BTM[keep_BT]
    if not np.isfinite(kept_NM).all() or (kept_NM < 0).any():
        raise ValueError("attention_maps: weights hold negative, NaN or infinite values; scores before a softmax do")
