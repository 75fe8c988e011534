"""One run as the page lists it: its verdict in a word, when and how it was run, or why it cannot be shown at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from inscape.core.rundir import RunDir
from inscape.explore.run_files import is_name, is_run, strays
from inscape.explore.run_log import is_live, logs_of, seconds_told
from inscape.report.record import Record, read_record

__all__ = ["READ", "Shown", "files_read", "read_run", "summary_of"]

# what is opened of every run; figures and the report are sent by run_files
READ = (RunDir.ENV, RunDir.GATE, RunDir.CONFIG, RunDir.METRICS, RunDir.VERDICT, RunDir.LOG)


class Shown(NamedTuple):
    """A run that can be shown, under the names of its folder: STUDY, PHASE, PRESET, RUN."""

    names: tuple[str, ...]
    record: Record
    seconds: float | None  # that its trainings took


def files_read(root: Path, folder: Path) -> list[str]:
    """What is opened of this run: READ, and the logs of the trainings inside it."""
    logs = logs_of(folder) if is_run(root, folder.relative_to(root).parts) else []
    return list(dict.fromkeys((*READ, *logs)))


def read_run(root: Path, folder: Path) -> Shown | str:
    """The run without its log, or why it cannot be shown."""
    names = folder.relative_to(root).parts
    if not all(map(is_name, names)):
        return "its name holds characters that an address may not hold"
    try:
        if found := strays(root, folder, files_read(root, folder)):
            return "; ".join(found)
        record = read_record(folder, log=False)
    except (ArithmeticError, OSError, RecursionError):
        return "its files may not be read, or hold numbers or lists within lists that no run writes"
    if not record.env:
        return record.problems[0] if record.problems else f"{RunDir.ENV} is empty"
    if record.verdict and not all(isinstance(f.criterion.metric, str) for f in record.verdict.findings):
        return f"{RunDir.GATE} names what is no metric"
    told = [seconds for log in logs_of(folder) if (seconds := seconds_told(folder / log)) is not None]
    return Shown(names, record, sum(told) if told else None)


def summary_of(root: Path, shown: Shown) -> dict[str, Any]:
    """What a list of runs tells of one."""
    record = shown.record
    verdict = record.verdict if record.metrics else None
    return {
        "id": "/".join(shown.names),
        "seed": record.seed,
        "outcome": record.outcome,
        "plan": verdict and verdict.outcome_of("plan"),
        "calibrated": verdict and verdict.outcome_of("calibrated"),
        "started": record.started.isoformat() if record.started else None,
        "seconds": shown.seconds,
        "finished": record.finished,
        "running": is_live(root.joinpath(*shown.names)),
        "declared": record.declared,
        "corpus": list(record.corpus),
        "pushed": record.pushed,
        "problems": list(record.problems),
    }
