"""Where and with what a run was made: versions, commit, machine. It goes into env.json and so into the report."""

import os
import platform
import re
import subprocess
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from inscape.core.program import program

__all__ = ["environment"]

NAME = re.compile(r"[\w.-]+")  # at the start of a requirement
OF_THE_TESTS = re.compile(r"""extra\s*==\s*['"]dev""")  # nothing that is measured rests on these


def environment() -> dict[str, Any]:
    """Versions and the machine, for the record."""
    here = Path(__file__).parent
    return {
        "versions": {"python": platform.python_version()} | _versions(),
        "git_commit": _git(here, "rev-parse", "HEAD"),
        "git_dirty": bool(_git(here, "status", "--porcelain", "--untracked-files=no")),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "command": [_called(Path(sys.argv[0])), *sys.argv[1:]],
    }


def _versions() -> dict[str, str]:
    """Of inscape, and of each package that it or one of its extras asks for and that is installed."""
    try:
        wanted = metadata.requires("inscape") or []
    except metadata.PackageNotFoundError:  # code that was never installed
        wanted = []
    names = {found[0] for line in wanted if not OF_THE_TESTS.search(line) and (found := NAME.match(line))}
    versions = {}
    for name in sorted({"inscape"} | names, key=str.lower):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _called(file: Path) -> str:
    """How the program that runs was called; a worker, a script or a test names itself."""
    _, found, below = file.parent.as_posix().rpartition("/inscape")
    if file.name == "__main__.py" and found and all(part.isidentifier() for part in below.split("/")[1:]):
        return f"python -m inscape{below.replace('/', '.')}" if below else program()
    return program() if file.stem == "inscape" else file.name


def _git(folder: Path, *words: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
