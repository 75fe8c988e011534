"""Which item a training step meets: epochs of permutations, as pure functions of (seed, step, rank)."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["dice", "drawn", "epoch_order", "positions_of", "two_of"]


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order in which an epoch visits 0 .. count - 1; read-only, and the same on every machine and numpy version.

    Sorts the raw output of the counter-based generator Philox (Salmon et al. 2011) keyed by (seed, epoch): raw bits
    are guaranteed by numpy, shuffles are not.
    """
    key = np.array([seed, epoch], dtype=np.uint64)
    order = np.argsort(np.random.Philox(key=key).random_raw(count), kind="stable")
    order.setflags(write=False)
    return order


def positions_of(step: int, rank: int, world: int, batch_size: int) -> NDArray[np.int64]:
    """Where this rank's rows of this step lie in the endless row of epochs. ValueError if ranks cannot share alike."""
    assert 0 <= rank < world
    assert step >= 0
    if batch_size < 1 or batch_size % world:
        raise ValueError(f"batch size {batch_size} on {world} processes; allowed: a positive multiple of {world}")
    share = batch_size // world
    return step * batch_size + rank * share + np.arange(share)


def drawn(seed: int, count: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which of 0 .. count - 1 lies at each position of the endless row of epochs."""
    epochs, places = np.divmod(positions, count)
    parts = [epoch_order(seed, int(epoch), count)[places[epochs == epoch]] for epoch in np.unique(epochs)]
    return np.concatenate(parts)


def dice(seed: int, positions: NDArray[np.int64]) -> NDArray[np.uint64]:
    """One random word a position: four words lie at each place of Philox's counter."""
    key = np.array([seed, 2**64 - 1], dtype=np.uint64)  # no epoch reaches this number
    first = int(positions[0])
    words = np.random.Philox(key=key, counter=first // 4).random_raw(first % 4 + len(positions))
    return words[first % 4 :]


def two_of(sizes: NDArray[np.int64], words: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One of the size * (size - 1) ordered pairs of different members each, by a random word each."""
    roll = (words % (sizes * (sizes - 1)).astype(np.uint64)).astype(np.int64)
    first, second = np.divmod(roll, sizes - 1)
    return first, second + (second >= first)
