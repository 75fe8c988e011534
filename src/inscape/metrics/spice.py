"""SPICE (Anderson et al. 2016) of pycocoevalcap, where that package and the Java that it wants are installed.

None is brought along: it starts a parser in Java and fetches the parser's models when it is first called.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

__all__ = ["Spice", "SpiceFailed", "installed_spice"]

Spice = Callable[[Sequence[str], Sequence[Sequence[str]]], Sequence[float]]


class SpiceFailed(RuntimeError):
    """SPICE is installed, and its parser did not run: another Java than it wants, or no network for its models."""


def installed_spice() -> Spice | None:
    """SPICE of each caption in [0, 1], or None where there is none; what it gives raises SpiceFailed in one line."""
    try:
        scorer = import_module("pycocoevalcap.spice.spice").Spice
    except ImportError:
        return None
    if shutil.which("java") is None:
        print("SPICE is installed and java is not: SPIDEr is not measured", file=sys.stderr)
        return None

    def spice(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        places = range(len(candidates))
        try:
            _, found = scorer().compute_score(
                {i: list(references[i]) for i in places}, {i: [candidates[i]] for i in places}
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise SpiceFailed(" ".join(str(error).split())[:200]) from None
        return [float(each["All"]["f"]) for each in found]

    return spice
