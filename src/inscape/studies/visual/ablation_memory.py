"""The most memory that one arm of P7 held, of all that one process trains after another.

On a GPU torch counts for itself. Without one it is the resident memory of the process, whose peak Linux forgets when it
is asked to; what an earlier arm has freed is given back first. Elsewhere nothing is said.
"""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

import torch

__all__ = ["forget_peak", "peak"]

FORGET = Path("/proc/self/clear_refs")  # proc(5): 5 resets the peak resident set size
STATUS = Path("/proc/self/status")


def forget_peak() -> bool:
    """Begin to watch; False where there is nothing to watch by."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return True
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        FORGET.write_text("5")
        return _resident_bytes() > 0
    except (OSError, AttributeError, TypeError):  # not Linux, another libc, Windows, or a sandbox
        return False


def peak() -> dict[str, float]:
    """The most since then, in 10^9 bytes: what torch had of a GPU, or the process of the machine."""
    if torch.cuda.is_available():
        return {"gigabytes_at_most": torch.cuda.max_memory_allocated() / 1e9}
    return {"gigabytes_resident_at_most": _resident_bytes() / 1e9}


def _resident_bytes() -> int:
    lines = dict(line.split(":", 1) for line in STATUS.read_text(encoding="utf-8").splitlines() if ":" in line)
    return 1024 * int(lines.get("VmHWM", "0 kB").split()[0])
