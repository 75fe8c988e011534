"""Splits of a text file that tie together what must not be parted, and batches of like lengths.

Shapes: S sentences of the file, N of a few batches that are drawn together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from inscape.data.epochs import epoch_order
from inscape.data.tokenizer import Ragged

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "SPLITS",
    "alike",
    "among",
    "joined",
    "least_tied",
    "like_lengths",
    "of_two",
    "refuse_empty_splits",
    "split_of_all",
    "stirred",
]

SPLITS = ("train", "validation", "test")


def among(groups: Ragged, allowed_S: NDArray[np.bool_]) -> Ragged:
    """The groups without the sentences that are not allowed."""
    inside = allowed_S[groups.ids]
    return Ragged(groups.ids[inside], np.concatenate([[0], np.cumsum(inside)])[groups.offsets])


def of_two(groups: Ragged) -> Ragged:
    """The groups that have two members or more."""
    sizes = np.diff(groups.offsets)
    members = groups.ids[np.repeat(sizes >= 2, sizes)]
    return Ragged(members, np.concatenate([[0], np.cumsum(sizes[sizes >= 2])]))


def alike(loose_S: NDArray[np.uint64]) -> Ragged:
    """The groups of sentences that have the same loose name."""
    order_S = np.argsort(loose_S, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], loose_S[order_S][1:] != loose_S[order_S][:-1]]))
    return of_two(Ragged(order_S.astype(np.int32), np.concatenate([starts, [len(order_S)]])))


def joined(first: Ragged, second: Ragged) -> Ragged:
    ids = np.concatenate([first.ids, second.ids])
    return Ragged(ids, np.concatenate([first.offsets, first.offsets[-1] + second.offsets[1:]]))


def least_tied(hashes_S: NDArray[np.uint64], groups: Ragged) -> NDArray[np.uint64]:
    """For every sentence the least hash of all that groups tie to it, however many steps away."""
    least = hashes_S.copy()
    owner = np.repeat(np.arange(len(groups.offsets) - 1, dtype=np.int32), np.diff(groups.offsets))
    changed = len(owner) > 0
    while changed:
        of_group = np.minimum.reduceat(least[groups.ids], groups.offsets[:-1])
        changed = bool((least[groups.ids] != of_group[owner]).any())
        np.minimum.at(least, groups.ids, of_group[owner])
    return least


def stirred(hashes_S: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Splitmix64 (Steele et al. 2014): the least of several hashes is small, and is made uniform again."""
    mixed = (hashes_S ^ (hashes_S >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def split_of_all(least_S: NDArray[np.uint64], validation: float, test: float) -> NDArray[np.int8]:
    """A split for every sentence, the same for all that are tied together."""
    uniform = (stirred(least_S) >> np.uint64(11)) * 2.0**-53
    return np.select([uniform < validation, uniform < validation + test], [1, 2], 0).astype(np.int8)


def like_lengths(
    lengths_N: NDArray[np.int64], seed: int, step: int, rank: int, share: int, batch_size: int, sort_within: int
) -> NDArray[np.int64]:
    """This rank's places of a step's batch: `sort_within` batches drawn together, sorted by length, cut, shuffled."""
    block, place = divmod(step, sort_within)
    order_N = np.argsort(lengths_N, kind="stable")
    batch = int(epoch_order(seed, block, sort_within)[place])
    return order_N[batch * batch_size : (batch + 1) * batch_size][rank * share : (rank + 1) * share]


def refuse_empty_splits(file: str, counts: ArrayLike, wanted: ArrayLike, tied: str = "") -> None:
    """ValueError if a split that should have sentences has none. tied: what may be the reason."""
    for name, count, share in zip(SPLITS, np.asarray(counts).tolist(), np.asarray(wanted).tolist(), strict=True):
        if share > 0 and count == 0:
            raise ValueError(
                f"{file} has too few sentences to split: none falls to {name!r}; give more (400 nearly always do), or "
                f"other shares for validation and test (0 leaves a split out){tied}"
            )
