"""What a runner is, and one attempt at a job as every runner makes it: its output in a log, its failure in one line."""

import os
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

from inscape.cluster.jobs import job_log

__all__ = ["AttemptFailed", "Result", "RunOne", "Runner", "attempt", "last_line"]


class Result(NamedTuple):
    """How an attempt at a job ended."""

    id: str
    error: str = ""  # empty: the job is done
    again: bool = False  # it failed, and is tried once more


RunOne = Callable[[str, str], Any]
"""(path of jobs.jsonl, id of a job): does the job, or raises. Importable by name, for it is called elsewhere."""

Runner = Callable[[Path, Sequence[str], RunOne, int, int], Generator[Result, None, None]]
"""(path of jobs.jsonl in full, ids, run_one, workers, retries): does the jobs, `workers` at a time, in any order.

A job that fails is tried `retries` times more. Closing the iterator stops what is running.
"""


class AttemptFailed(RuntimeError):
    """A job's attempt has failed; the message is one line, and the log tells the rest."""


def attempt(run_one: RunOne, jobs_file: str, number: str) -> None:
    """Call `run_one` with its output in the job's log.txt; AttemptFailed if it raises."""
    with _output_to(job_log(Path(jobs_file).parent, number)):
        print(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}, process {os.getpid()}", flush=True)
        try:
            run_one(jobs_file, number)
        except Exception as error:
            traceback.print_exc()
            said = (str(error).strip().splitlines() or [""])[-1]
            line = f"{type(error).__name__}: {said}"
            print(line, flush=True)
            raise AttemptFailed(line) from None


def last_line(log: Path) -> str:
    """The last line with something on it, of the end of a log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().decode(errors="replace").split("\n")
    except FileNotFoundError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Append what this process says to `path`, what C++ says included, until the end of the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _open_what_was_closed()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    kept = os.dup(1), os.dup(2)
    with (
        path.open("a", buffering=1, encoding="utf-8", errors="backslashreplace") as log,  # a name may be no UTF-8
        redirect_stdout(log),
        redirect_stderr(log),
    ):
        try:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            yield
        finally:
            for number, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, number)
                os.close(copy)


def _open_what_was_closed() -> None:
    # After `>&-` the next file to be opened would be standard output, and its copy cannot be made.
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
