"""Requests that come together are computed together, and one visitor's mistake is not another's."""

import threading
from concurrent.futures import Future
from typing import Any

import pytest

from inscape.explore.batching import MOST_AT_ONCE, Batcher


def gate_and_batches() -> tuple[threading.Event, list[list[int]], Batcher]:
    """A batcher whose function waits for the event and keeps its batches; odd numbers are refused."""
    opened, batches = threading.Event(), []

    def double(items: list[int]) -> list[Any]:
        opened.wait(5)
        batches.append(items)
        return [ValueError(f"{item} is odd") if item % 2 else 2 * item for item in items]

    def broken(items: list[int]) -> list[Any]:
        raise RuntimeError("no batch works")

    return opened, batches, Batcher({"double": double, "broken": broken})


def test_what_waits_is_computed_at_once_and_in_order():
    opened, batches, batcher = gate_and_batches()
    answers = [batcher.submit("double", 2 * i) for i in range(MOST_AT_ONCE + 10)]
    opened.set()
    assert [answer.result(5) for answer in answers] == [4 * i for i in range(MOST_AT_ONCE + 10)]
    assert len(batches) <= 3
    assert max(map(len, batches)) <= MOST_AT_ONCE
    batcher.close()


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
    batcher.close()
    assert cancelled
    assert sum(map(len, batches)) == 5 - cancelled


def test_closing_finishes_what_was_asked():
    opened, _, batcher = gate_and_batches()
    answers = [batcher.submit("double", 2 * i) for i in range(5)]
    opened.set()
    batcher.close()
    assert [answer.result(0) for answer in answers] == [0, 4, 8, 12, 16]
