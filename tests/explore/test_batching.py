"""Requests that come together are computed together, and one visitor's mistake or patience is not another's."""

import threading
import time
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

from inscape.explore.batching import MOST_WAITING, Batcher, Busy, Kind


def gate_and_batches() -> tuple[threading.Event, list[list[int]], Batcher]:
    """A batcher whose functions wait for the event and keep their batches; odd numbers are refused by `double`."""
    opened, batches = threading.Event(), []

    def double(items: list[int]) -> list[Any]:
        opened.wait(5)
        batches.append(items)
        return [ValueError(f"{item} is odd") if item % 2 else 2 * item for item in items]

    def slow(items: list[int]) -> list[int]:
        opened.wait(5)
        batches.append(items)
        return items

    def broken(items: list[int]) -> list[Any]:
        raise RuntimeError("no batch works")

    return opened, batches, Batcher({"double": Kind(double, 64), "slow": Kind(slow, 2), "broken": Kind(broken, 64)})


def test_what_waits_is_computed_at_once_and_in_order():
    opened, batches, batcher = gate_and_batches()
    answers = [batcher.submit("double", 2 * i) for i in range(74)]
    opened.set()
    assert [answer.result(5) for answer in answers] == [4 * i for i in range(74)]
    assert len(batches) <= 3
    assert max(map(len, batches)) <= 64
    batcher.close()


def test_slow_ones_come_a_few_at_a_time_and_quick_ones_in_between():
    opened, batches, batcher = gate_and_batches()
    first = batcher.submit("slow", -1)
    many = [batcher.submit("slow", 100 + i) for i in range(6)]
    quick = batcher.submit("double", 2)
    opened.set()
    assert quick.result(5) == 4
    assert [answer.result(5) for answer in (first, *many)] == [-1, *range(100, 106)]
    batcher.close()
    assert batches.index([2]) <= 2, "after the batch that was running, and one more of the slow at most"
    assert max(len(batch) for batch in batches) == 2


def test_an_exception_is_its_items_alone_unless_the_whole_batch_fails():
    opened, _, batcher = gate_and_batches()
    even, odd, broken = batcher.submit("double", 4), batcher.submit("double", 3), batcher.submit("broken", 0)
    opened.set()
    assert even.result(5) == 8
    with pytest.raises(ValueError, match="3 is odd"):
        odd.result(5)
    with pytest.raises(RuntimeError, match="no batch works"):
        broken.result(5)
    assert batcher.submit("double", 6).result(5) == 12, "the worker lives on"
    batcher.close()


def test_what_nobody_waits_for_any_more_is_not_computed():
    opened, batches, batcher = gate_and_batches()
    first = batcher.submit("double", 0)
    gone: list[Future[Any]] = [batcher.submit("double", 2 * i) for i in range(1, 5)]
    cancelled = sum(answer.cancel() for answer in gone)
    opened.set()
    first.result(5)
    for answer in gone:
        if not answer.cancelled():
            answer.result(5)
    batcher.close()
    assert cancelled
    assert sum(map(len, batches)) == 5 - cancelled


def test_too_much_at_once_is_refused_and_closing_leaves_what_waits():
    opened, _, batcher = gate_and_batches()
    first = batcher.submit("slow", 0)
    while not first.running():  # taken by the worker: it counts no more
        time.sleep(0.001)
    waiting = [batcher.submit("slow", i) for i in range(MOST_WAITING)]
    with pytest.raises(Busy):
        batcher.submit("slow", 1)
    threading.Timer(0.2, opened.set).start()
    batcher.close()
    assert first.result(5) == 0
    with pytest.raises(CancelledError):
        waiting[-1].result(5)
    with pytest.raises(Busy):
        batcher.submit("slow", 1)
