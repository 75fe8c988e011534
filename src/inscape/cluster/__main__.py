"""`python -m inscape.cluster JOBS.jsonl ID` runs one job of a sweep: what a batch file calls, and a hand can.

Exit status as of the inscape command: 0 done, 2 a mistake, 1 a fault, 130 interrupted and saved: call it again.
"""

import argparse
import sys
from collections.abc import Sequence

__all__ = ["main"]

DONE, FAULT, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(words: Sequence[str] | None = None) -> int:
    """Run one job; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m inscape.cluster", description="Run one job of a sweep.")
    parser.add_argument("jobs", metavar="JOBS.jsonl")
    parser.add_argument("id", metavar="ID")
    asked = parser.parse_args(words)
    from inscape.cluster.job import run_job
    from inscape.core.runner import MeasurementFailed
    from inscape.stopping import TrainingDiverged, TrainingInterrupted

    try:
        done = run_job(asked.jobs, asked.id)
    except (TrainingInterrupted, KeyboardInterrupt) as error:
        return _complain(INTERRUPTED, str(error) or "interrupted")
    except ValueError as error:
        return _complain(BAD_INPUT, error)
    except (MeasurementFailed, TrainingDiverged, OSError) as error:
        return _complain(FAULT, error)
    print(f"{done.outcome}: {done.run}")
    return DONE


def _complain(status: int, what: object) -> int:
    print(f"inscape.cluster: {' '.join(str(what).split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
