"""Many visitors, one codec: what is asked at the same time is computed at the same time.

A sentence alone takes nearly as long as thirty at once, so requests wait in queues, one a kind, and a single worker
goes round them and takes what has gathered: under load the batches grow and the waiting does not. One worker, because
several would share the same cores; a bound for each kind, because the slow ones must not keep the quick ones waiting.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, final

__all__ = ["Batcher", "Busy", "Kind"]

MOST_WAITING = 1024  # jobs of all kinds


class Busy(Exception):
    """More is waiting than can be answered soon."""


class Kind(NamedTuple):
    """A function from a list of items to as many answers, and how many items it is given at once.

    An answer that is an exception is that of its item alone; one that the function raises is that of the whole batch.
    """

    function: Callable[[list[Any]], Sequence[Any]]
    most: int


class _Job(NamedTuple):
    """One request."""

    item: Any
    answer: Future[Any]


@final
class Batcher:
    """Runs functions over batches of what was submitted, in a thread of its own."""

    def __init__(self, kinds: dict[str, Kind]) -> None:
        self._kinds = kinds
        self._waiting: dict[str, deque[_Job]] = {name: deque() for name in kinds}
        self._change = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="inscape-codec", daemon=True)
        self._thread.start()

    def submit(self, kind: str, item: Any) -> Future[Any]:
        """Queue one item; the future holds its answer. Busy if too much is waiting."""
        answer: Future[Any] = Future()
        with self._change:
            if self._closed or sum(map(len, self._waiting.values())) >= MOST_WAITING:
                raise Busy
            self._waiting[kind].append(_Job(item, answer))
            self._change.notify()
        return answer

    def close(self) -> None:
        """Stop after the batch that is being computed; what is still waiting is cancelled."""
        with self._change:
            self._closed = True
            for waiting in self._waiting.values():
                while waiting:
                    waiting.popleft().answer.cancel()
            self._change.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._closed or any(self._waiting.values()))
                if self._closed:
                    return
            for name, kind in self._kinds.items():
                with self._change:
                    waiting = self._waiting[name]
                    jobs = [waiting.popleft() for _ in range(min(kind.most, len(waiting)))]
                _run(kind, jobs)


def _run(kind: Kind, jobs: list[_Job]) -> None:
    jobs = [job for job in jobs if job.answer.set_running_or_notify_cancel()]  # those that were cancelled are left out
    if not jobs:
        return
    try:
        answers = kind.function([job.item for job in jobs])
    except Exception as error:
        answers = [error] * len(jobs)
    for job, answer in zip(jobs, answers, strict=True):
        if isinstance(answer, Exception):
            job.answer.set_exception(answer)
        else:
            job.answer.set_result(answer)
