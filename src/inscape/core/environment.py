"""Where and with what a run was made: versions, commit, machine. It goes into env.json and so into the report."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["environment"]

PACKAGES = ("inscape", "torch", "numpy", "omegaconf", "tokenizers", "safetensors")


def environment() -> dict[str, Any]:
    """Versions and the machine, for the record."""
    here = Path(__file__).parent
    return {
        "versions": {"python": platform.python_version()} | {n: _version(n) for n in PACKAGES},
        "git_commit": _git(here, "rev-parse", "HEAD"),
        "git_dirty": bool(_git(here, "status", "--porcelain", "--untracked-files=no")),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(folder: Path, *words: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
