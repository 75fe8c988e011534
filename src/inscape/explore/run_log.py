"""log.jsonl as a page reads it: some lines at a time while a training writes it, and whole as curves afterwards.

A run may be killed in the middle of a line and goes on writing while it is read, so a last line without an end is left
for the next time, and a damaged line harms no other.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from inscape.core.rundir import RunDir
from inscape.explore.run_files import is_name
from inscape.report import record
from inscape.report.curves import NO_CURVE, is_number

__all__ = [
    "DAMAGED",
    "LINES_AT_ONCE",
    "MOST_POINTS",
    "LogPage",
    "is_live",
    "log_lines",
    "log_page",
    "logs_of",
    "parts_of",
    "plain",
    "seconds_told",
    "series",
    "writing",
]

LINES_AT_ONCE = 500
MOST_POINTS = 200  # of one curve
LIVE = 30.0  # seconds: a log that was written to since is taken to belong to a process that is alive
TAIL = 32 << 10  # bytes at the end of a log in which the last training line is looked for
DEEPEST = 12  # levels of nesting that an answer keeps
DAMAGED = {"kind": "damaged"}  # stands in for a line that cannot be read, so that lines can be counted


class LogPage(NamedTuple):
    """Lines of a log from one on; ask again from `next`. A `next` below what was asked for: the log was cut back."""

    lines: list[dict[str, Any]]
    next: int
    total: int


def log_lines(path: Path) -> Iterator[dict[str, Any]]:
    """All whole lines, damaged ones as DAMAGED; none if there is no log. OSError if it may not be read."""
    return map(_parsed, _whole_lines(path))


def log_page(path: Path, after: int) -> LogPage:
    """At most LINES_AT_ONCE whole lines from number `after` (counted from 0) on. OSError if they may not be read."""
    chosen, total = [], 0
    for line in _whole_lines(path):
        if after <= total < after + LINES_AT_ONCE:
            chosen.append(line)
        total += 1
    return LogPage(list(map(_parsed, chosen)), min(after, total) + len(chosen), total)


def is_live(folder: Path) -> bool:
    """Whether the run seems to be at work now: no verdict, and a log, its own or of a training in it, written just now.

    A phase of several trainings keeps each in a folder of its own, at any depth, with a log.
    """
    if RunDir(folder).finished:
        return False
    return time.time() - max(_written(folder / log) for log in logs_of(folder)) < LIVE


def parts_of(folder: Path) -> list[str]:
    """The trainings inside a run that keep a log of their own, as relative paths that an address may hold."""
    return [part for part in record.parts_of(folder) if all(map(is_name, part.split("/")))]


def logs_of(folder: Path) -> list[str]:
    """The names of a run's logs: its own, there or not, and those of the trainings inside it."""
    return [RunDir.LOG, *(f"{part}/{RunDir.LOG}" for part in parts_of(folder))]


def writing(folder: Path) -> str:
    """Which log was written to last: the path of a training inside the run, or empty for the run's own."""
    return max(("", *parts_of(folder)), key=lambda part: _written(folder / part / RunDir.LOG))


def _written(log: Path) -> float:
    try:
        return log.stat().st_mtime
    except OSError:  # nothing was logged yet
        return 0.0


def seconds_told(path: Path) -> float | None:
    """How long the training had taken at its last line, in seconds. Only the log's end is read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            lines = file.read().split(b"\n")[:-1]
    except OSError:  # nothing was logged
        return None
    for line in map(_parsed, reversed(lines)):
        seconds = line.get("seconds")
        if line.get("kind") == "train" and is_number(seconds):
            return float(seconds)
    return None


def series(lines: Iterable[Mapping[str, Any]], kind: str) -> dict[str, list[tuple[float, float]]]:
    """(step, value) of each number in the lines of `kind`, in the order of steps, at most MOST_POINTS of each.

    Names are those of the lines, so that a page can go on with the lines it is sent: loss, terms.image, lr.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        step = line.get("step")
        if line.get("kind") != kind or not is_number(step):
            continue
        terms = line.get("terms")
        flat = {k: v for k, v in line.items() if k not in NO_CURVE}
        flat |= {f"terms.{k}": v for k, v in terms.items()} if isinstance(terms, Mapping) else {}
        for name, value in flat.items():
            if is_number(value):
                found.setdefault(name, []).append((float(step), float(value)))
    return {name: _thinned(sorted(points)) for name, points in found.items()}


def plain(value: Any, depth: int = DEEPEST) -> Any:
    """`value` as strict JSON holds it: what is no finite number becomes null, and so does what is nested too deep."""
    if isinstance(value, int | float):
        return value if abs(value) < 1e308 else None  # NaN compares as false
    if value is None or isinstance(value, str):
        return value
    if not depth:
        return None
    if isinstance(value, Mapping):
        return {str(key): plain(below, depth - 1) for key, below in value.items()}
    assert isinstance(value, list | tuple)
    return [plain(below, depth - 1) for below in value]


def _whole_lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from (line for line in file if line.endswith(b"\n"))
    except FileNotFoundError:
        return


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    return plain(found) if isinstance(found, dict) else dict(DAMAGED)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Few enough points to send; of each stretch the lowest and the highest stay, so no peak is lost."""
    if len(points) <= MOST_POINTS:
        return list(points)
    size = math.ceil(len(points) / (MOST_POINTS // 2 - 1))
    stretches = (points[start : start + size] for start in range(0, len(points), size))
    kept = {point for s in stretches for point in (min(s, key=lambda p: p[1]), max(s, key=lambda p: p[1]))}
    return sorted(kept | {points[-1]})
