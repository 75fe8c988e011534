"""What of the runs folder may be sent to a browser, and nothing beside it.

An address is split into names and each name is checked. The file that it leads to, links followed, must again lie
where a file that may be sent lies: a run that was unpacked from elsewhere can hold a link to anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, final

from inscape.core.rundir import RunDir
from inscape.report.run_page import KINDS

__all__ = [
    "DEPTH",
    "FIGURES",
    "Declined",
    "File",
    "figure_names",
    "is_name",
    "is_run",
    "is_servable",
    "names_of",
    "run_folder",
    "servable_file",
    "strays",
]

INDEX, FIGURES = "index.html", "figures"
LONGEST_NAME = 255  # bytes, as most file systems have it
NEVER_IN_NAMES = frozenset("/\\:")  # separators here or elsewhere, drives
DEPTH = 4  # STUDY/PHASE/PRESET/RUN


@final
class Declined(Exception):
    """One line for the visitor, which holds no path of this machine; its HTTP status, and the field it came in."""

    def __init__(self, message: str, status: int = 404, field: str = "") -> None:
        super().__init__(message)
        self.status, self.field = status, field


class File(NamedTuple):
    """What is sent."""

    content: bytes
    media_type: str


def is_name(name: str) -> bool:
    """Whether an address may hold `name` between two slashes: no hidden file, no way up, nothing unprintable."""
    return (
        bool(name)
        and name.isprintable()
        and not name.startswith(".")
        and NEVER_IN_NAMES.isdisjoint(name)
        and len(name.encode()) <= LONGEST_NAME
    )


def names_of(address: str) -> tuple[str, ...]:
    """The names in an address that was decoded already; Declined if one of them is not allowed."""
    names = tuple(address.split("/"))
    if not all(map(is_name, names)):
        raise Declined("this is no address of a run or of its files; /api/runs lists the runs")
    return names


def run_folder(root: Path, names: Sequence[str]) -> Path:
    """The folder of the run STUDY/PHASE/PRESET/RUN; Declined if there is none inside `root`."""
    if len(names) != DEPTH:
        raise Declined("a run is addressed as STUDY/PHASE/PRESET/RUN; /api/runs lists those there are")
    if not is_run(root, names):
        raise Declined(f"there is no run {'/'.join(names)}; /api/runs lists those there are")
    return root.joinpath(*names)


def is_run(root: Path, names: Sequence[str]) -> bool:
    """Whether a run could lie under these names: a folder inside `root`, links followed."""
    real = _inside(root, root.joinpath(*names)) if len(names) == DEPTH and all(map(is_name, names)) else None
    return real is not None and real.is_dir()


def servable_file(root: Path, names: Sequence[str]) -> File:
    """The report, figure or index at this address; Declined for anything else."""
    none = Declined(
        f"there is no such file; served are {INDEX}, a run's {RunDir.REPORT} "
        f"and its {FIGURES}/NAME with {', '.join(KINDS)}; /api/runs lists the runs"
    )
    real = _servable(root, names)
    if real is None:
        raise none
    try:
        content = real.read_bytes()
    except OSError:
        raise none from None
    return File(content, KINDS.get(Path(names[-1]).suffix.lower(), "text/html; charset=utf-8"))


def is_servable(root: Path, names: Sequence[str]) -> bool:
    """Whether `servable_file` would send it."""
    return _servable(root, names) is not None


def figure_names(root: Path, run: Sequence[str]) -> list[str]:
    """The figures of a run that `servable_file` would send, by name."""
    try:
        found = sorted(path.name for path in root.joinpath(*run, FIGURES).iterdir())
    except OSError:  # none were drawn
        return []
    return [name for name in found if is_servable(root, (*run, FIGURES, name))]


def strays(root: Path, folder: Path, names: Iterable[str]) -> list[str]:
    """Which of these files of a run must not be opened, and why: a link leads out of `root`, or it is no plain file.

    OSError where a file may not be looked at.
    """
    found = []
    for path in (folder / name for name in names):
        if not os.path.lexists(path):
            continue
        real = _inside(root, path)
        if real is None:
            found.append(f"{path.name} is reached by a link that leads out of the runs folder, or nowhere")
        elif not real.is_file():  # a folder, or a pipe that would keep the reader waiting for ever
            found.append(f"{path.name} is no plain file")
    return found


def _servable(root: Path, names: Sequence[str]) -> Path | None:
    """Where the file really lies, if it is there and may be sent under this address and under its own."""
    real = _inside(root, root.joinpath(*names)) if _may_be_sent(names) else None
    if real is None or not _may_be_sent(real.relative_to(root.resolve()).parts):
        return None
    return real if real.is_file() else None  # a pipe would keep the reader waiting for ever


def _may_be_sent(names: Sequence[str]) -> bool:
    """Whether a file of this kind lies at a place like this one; says nothing of whether it is there."""
    if not all(map(is_name, names)):
        return False
    if tuple(names) == (INDEX,):
        return True
    of_run = names[DEPTH:]
    if len(of_run) == 2:
        return of_run[0] == FIGURES and Path(of_run[1]).suffix.lower() in KINDS
    return len(of_run) == 1 and of_run[0] == RunDir.REPORT


def _inside(root: Path, path: Path) -> Path | None:
    """Where `path` really lies, links followed; None if that is not below `root`, or is nowhere."""
    try:
        home, real = root.resolve(strict=True), path.resolve(strict=True)
    except (OSError, RuntimeError):  # not there, not ours to see, or (up to Python 3.12) links in a ring
        return None
    return real if home in real.parents else None
