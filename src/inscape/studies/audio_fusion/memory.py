"""What to do where memory does not suffice: the same clips, fewer at once, and a line that says so."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import torch

__all__ = ["in_batches", "is_no_memory", "next_smaller", "release_memory"]

NO_MEMORY = ("can't allocate memory", "DefaultCPUAllocator")  # torch's words for it where there is no GPU

Found = TypeVar("Found")


def is_no_memory(error: RuntimeError) -> bool:
    """Whether torch says that it found no memory, on a GPU or without one."""
    return isinstance(error, torch.OutOfMemoryError) or any(each in str(error) for each in NO_MEMORY)


def next_smaller(batch: int) -> int:
    """The batch divided by the smallest number above 1 that divides it: half of an even one, a third of 9, 1 of 7.

    ValueError in one line where there is one clip only.
    """
    if batch < 2:
        raise ValueError(
            "memory does not suffice for 1 clip at once, which cannot be halved; use a smaller model, fewer audio "
            "tokens, shorter clips, or language.dtype=bfloat16"
        )
    return batch // next(each for each in range(2, batch + 1) if batch % each == 0)


def release_memory() -> None:
    """Give back what torch keeps for later on a GPU."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def in_batches(count: int, batch: int, of: Callable[[int, int], list[Found]]) -> list[Found]:
    """of(first, last) for clips in turn, `batch` at once; a part for which memory does not suffice is tried in halves.

    ValueError in one line where it does not suffice for one clip.
    """
    found: list[Found] = []
    while len(found) < count:
        first = len(found)
        last = min(count, first + batch)
        try:
            part = of(first, last)
        except RuntimeError as error:
            if not is_no_memory(error):
                raise
            part = None  # what the failed attempt held is let go with its error, and tried again below
        if part is None:
            next_smaller(last - first)
            batch = (last - first) // 2
            release_memory()
            print(f"out of memory: {batch} clips at once from here on in this evaluation", file=sys.stderr)
        else:
            assert len(part) == last - first
            found += part
    return found
