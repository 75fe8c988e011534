"""Many visitors, one codec: what is asked at the same time is computed at the same time.

A sentence alone takes nearly as long as thirty at once, so requests wait in one queue, and a single worker takes
whatever has gathered there: under load the batches grow and the waiting does not. One worker, because several would
share the same cores.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, final

__all__ = ["Batcher"]

MOST_AT_ONCE = 64


class _Job(NamedTuple):
    """One request: which function, and on what."""

    kind: str
    item: Any
    answer: Future[Any]


@final
class Batcher:
    """Runs functions over batches of what was submitted, in a thread of its own.

    functions: by name, from a list of items to as many answers. An answer that is an exception is that of its item
    alone; an exception that the function raises is that of the whole batch.
    """

    def __init__(self, functions: dict[str, Callable[[list[Any]], Sequence[Any]]]) -> None:
        self._functions = functions
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="inscape-codec", daemon=True)
        self._thread.start()

    def submit(self, kind: str, item: Any) -> Future[Any]:
        """Queue one item; the future holds its answer."""
        assert kind in self._functions, kind
        answer: Future[Any] = Future()
        self._queue.put(_Job(kind, item, answer))
        return answer

    def close(self) -> None:
        """Finish what is queued and stop."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            jobs, last = self._gathered()
            for kind in dict.fromkeys(job.kind for job in jobs):
                self._run(kind, [job for job in jobs if job.kind == kind])
            if last:
                return

    def _gathered(self) -> tuple[list[_Job], bool]:
        """Wait for one job, then take what else is there; and whether the end was among it."""
        jobs: list[_Job] = []
        job = self._queue.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) == MOST_AT_ONCE:
                return jobs, False
            try:
                job = self._queue.get_nowait()
            except Empty:
                return jobs, False
        return jobs, True

    def _run(self, kind: str, jobs: list[_Job]) -> None:
        jobs = [job for job in jobs if job.answer.set_running_or_notify_cancel()]  # a visitor who left asks no more
        if not jobs:
            return
        try:
            answers = self._functions[kind]([job.item for job in jobs])
        except Exception as error:
            answers = [error] * len(jobs)
        for job, answer in zip(jobs, answers, strict=True):
            if isinstance(answer, Exception):
                job.answer.set_exception(answer)
            else:
                job.answer.set_result(answer)
