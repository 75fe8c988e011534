"""The three ways a training ends early, each as one line for the user and with nothing lost.

Free of torch, so that the command line can name these failures without loading it.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from inscape.core.program import program
from inscape.core.rundir import RunDir

__all__ = ["DiskFull", "TrainingDiverged", "TrainingInterrupted", "disk_full_in_one_line", "part_of", "stop_requests"]

OUT_OF_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class TrainingDiverged(RuntimeError):
    """A loss term, the gradient or a weight is no longer a finite number. The last checkpoint is from before."""


class TrainingInterrupted(RuntimeError):
    """Training was asked to stop and has saved its state; the message says how to go on."""


class DiskFull(OSError):
    """There is no room to write; what was written before is whole."""


@contextmanager
def stop_requests(*, announce: bool) -> Iterator[threading.Event]:
    """Turn Ctrl-C and SIGTERM into an event that is looked at between steps; a second one stops at once.

    Outside the main thread, where Python delivers no signals, the event is never set.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        if announce:  # a system call, for print may be in the middle of a line
            os.write(2, b"\nstopping after this step; once more to stop at once, losing what is not saved\n")

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def disk_full_in_one_line(folder: Path) -> Iterator[None]:
    """Say what a full disk means for the run in `folder`, whoever was writing."""
    try:
        yield
    except OSError as error:
        if error.errno not in OUT_OF_ROOM:
            raise
        raise DiskFull(
            error.errno,
            f"{error.strerror} while writing in {folder}; what was saved before is whole: "
            f"make room, then continue with: {program()} resume {folder}",
        ) from None


@contextmanager
def part_of(run: RunDir, name: str) -> Iterator[RunDir]:
    """A folder of `run` for a training of its own; where that ends early, the message names the run to continue."""
    part = RunDir(run.path / name)
    part.path.mkdir(parents=True, exist_ok=True)
    try:
        yield part
    except TrainingInterrupted:
        raise TrainingInterrupted(
            f"stopped within {name}, and saved; continue with: {program()} resume {run.path}"
        ) from None
    except DiskFull as error:
        raise DiskFull(error.errno, str(error.strerror).replace(str(part.path), str(run.path))) from None
