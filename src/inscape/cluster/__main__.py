"""`python -m inscape.cluster JOBS.jsonl ID` runs one job of a sweep: what a batch file calls, and a hand can.

Exit status as of the inscape command: 0 done, 2 a mistake, 1 a fault, 130 interrupted and saved: call it again.
"""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from inscape.command_line import BAD_INPUT, OneLineParser

__all__ = ["main"]

DONE, FAULT, INTERRUPTED = 0, 1, 130


def main(words: Sequence[str] | None = None) -> int:
    """Run one job; returns the exit status."""
    parser = OneLineParser(prog="python -m inscape.cluster", description="Run one job of a sweep.")
    parser.add_argument("jobs", metavar="JOBS.jsonl")
    parser.add_argument("id", metavar="ID")
    asked = parser.parse_args(words)
    try:
        with _term_interrupts():
            return _run(asked.jobs, asked.id)
    except KeyboardInterrupt as error:
        return _complain(INTERRUPTED, str(error) or "interrupted")


def _run(jobs_file: str, number: str) -> int:
    from inscape.cluster.job import run_job
    from inscape.core.runner import MeasurementFailed
    from inscape.stopping import TrainingDiverged, TrainingInterrupted

    try:
        done = run_job(jobs_file, number)
    except TrainingInterrupted as error:
        return _complain(INTERRUPTED, error)
    except ValueError as error:
        return _complain(BAD_INPUT, error)
    except (MeasurementFailed, TrainingDiverged, OSError) as error:
        return _complain(FAULT, error)
    print(f"{done.outcome}: {done.run}")
    return DONE


@contextmanager
def _term_interrupts() -> Iterator[None]:
    """SIGTERM, by which a cluster says that time is up, is Ctrl-C: it ends what is being measured or drawn as well.

    A training takes both signals for itself while it lasts, and saves.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _complain(status: int, what: object) -> int:
    print(f"inscape.cluster: {' '.join(str(what).split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
