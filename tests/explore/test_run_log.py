"""A log is read a page at a time without losing or repeating a line, and however it is damaged."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inscape.core.rundir import RunDir
from inscape.explore.run_log import (
    DAMAGED,
    LINES_AT_ONCE,
    MOST_POINTS,
    is_live,
    log_lines,
    log_page,
    parts_of,
    plain,
    seconds_told,
    series,
    writing,
)


def written(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"".join(line if isinstance(line, bytes) else line.encode() + b"\n" for line in lines))
    return path


def test_pages_follow_each_other_without_a_gap(tmp_path: Path) -> None:
    path = written(tmp_path / "log", *(json.dumps({"step": i}) for i in range(1203)))
    after, sizes, steps = 0, [], []
    while (page := log_page(path, after)).lines:
        assert page.total == 1203
        sizes.append(len(page.lines))
        steps += [line["step"] for line in page.lines]
        after = page.next
    assert sizes == [LINES_AT_ONCE, LINES_AT_ONCE, 203]
    assert steps == list(range(1203))
    assert page.next == 1203


def test_half_a_line_is_left_for_the_next_time(tmp_path: Path) -> None:
    path = written(tmp_path / "log", '{"step": 1}', b'{"step"')
    assert log_page(path, 0) == ([{"step": 1}], 1, 1)
    with path.open("ab") as file:
        file.write(b": 2}\n")
    assert log_page(path, 1) == ([{"step": 2}], 2, 2)


def test_a_log_that_was_cut_back_says_so(tmp_path: Path) -> None:
    path = written(tmp_path / "log", '{"step": 1}', '{"step": 2}')
    assert log_page(path, 9) == ([], 2, 2)
    assert log_page(tmp_path / "none", 9) == ([], 0, 0)


@pytest.mark.parametrize(
    "rubbish", [b"", b"{", b"\xff\xfe", b"[1]", b"null", b"3", b"[" * 2000, b'{"a":' * 2000, b"9" * 5000, b"\x00"]
)
def test_a_damaged_line_harms_no_other(tmp_path: Path, rubbish: bytes) -> None:
    path = written(tmp_path / "log", '{"step": 1}', rubbish + b"\n", '{"step": 2}')
    assert log_page(path, 0).lines == [{"step": 1}, DAMAGED, {"step": 2}]
    assert list(log_lines(path)) == [{"step": 1}, DAMAGED, {"step": 2}]


@given(st.lists(st.binary(max_size=30)), st.integers(0, 40))
def test_every_line_has_its_number(tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes], after: int) -> None:
    path = tmp_path_factory.getbasetemp() / "any.log"
    path.write_bytes(b"\n".join(chunks))
    whole = path.read_bytes().count(b"\n")
    page = log_page(path, after)
    assert page.total == whole
    assert len(page.lines) == max(0, whole - after)
    assert page.next == whole
    json.dumps(page.lines, allow_nan=False)


def test_numbers_that_are_none_become_null(tmp_path: Path) -> None:
    path = written(tmp_path / "log", '{"loss": NaN, "terms": {"a": -Infinity, "b": 1e999, "c": 1, "d": true}}')
    assert log_page(path, 0).lines == [{"loss": None, "terms": {"a": None, "b": None, "c": 1, "d": True}}]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda below: st.lists(below) | st.dictionaries(st.text(), below),
)


@given(JSON)
def test_plain_is_strict_json_and_keeps_what_was(value: Any) -> None:
    text = json.dumps(plain(value, 99), allow_nan=False)
    spoilt = "NaN" in json.dumps(value) or "Infinity" in json.dumps(value) or "e+30" in json.dumps(value)
    assert spoilt or json.loads(text) == value


def test_a_number_that_no_float_holds_is_no_point_of_a_curve() -> None:
    lines = [{"kind": "train", "step": 1, "loss": 10**400}, {"kind": "train", "step": 2, "loss": 3}]
    assert series(lines, "train") == {"loss": [(2.0, 3.0)]}


def test_plain_cuts_what_no_page_can_hold() -> None:
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    assert plain(deep, 2) == [[None]]
    assert plain(10**400) is None
    assert plain((1, "a")) == [1, "a"]


def test_a_run_is_live_while_it_logs_and_has_no_verdict(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert not is_live(tmp_path)
    run.append_log({"kind": "train"})
    assert is_live(tmp_path)
    old = time.time() - 31
    os.utime(tmp_path / run.LOG, (old, old))
    assert not is_live(tmp_path)
    for part in ("training", "begun/0123abcd/past"):
        inner = RunDir(tmp_path / part)
        inner.path.mkdir(parents=True)
        inner.append_log({"kind": "train"})
        assert is_live(tmp_path), part
        os.utime(inner.path / run.LOG, (old, old))
        assert not is_live(tmp_path)
    (tmp_path / run.LOG).touch()
    assert is_live(tmp_path)
    run.write_json(run.VERDICT, {})
    assert not is_live(tmp_path)


def test_the_log_that_grows_is_named_however_deep_it_lies(tmp_path: Path) -> None:
    assert writing(tmp_path) == ""
    for age, part in ((9, ""), (5, "arms/wide"), (1, "arms/wide/picture"), (7, ".hidden"), (0, "checkpoints/step_1")):
        inner = RunDir(tmp_path / part)
        inner.path.mkdir(parents=True, exist_ok=True)
        inner.append_log({"kind": "train"})
        written = time.time() - age
        os.utime(inner.path / inner.LOG, (written, written))
    assert parts_of(tmp_path) == ["arms/wide", "arms/wide/picture"]
    assert writing(tmp_path) == "arms/wide/picture"
    (tmp_path / RunDir.LOG).touch()
    assert writing(tmp_path) == ""


def test_the_time_taken_is_that_of_the_last_training_line(tmp_path: Path) -> None:
    many = (json.dumps({"kind": "train", "step": i, "seconds": i / 2}) for i in range(2000))
    path = written(tmp_path / "log", *many, '{"kind": "eval", "seconds": 9e9}', '{"kind": "train"}', b'{"kind": "tr')
    assert seconds_told(path) == 1999 / 2
    assert seconds_told(written(tmp_path / "other", '{"kind": "notice"}')) is None
    assert seconds_told(tmp_path / "none") is None


def test_curves_have_the_names_and_the_order_of_steps() -> None:
    lines = [
        {"kind": "train", "step": 2, "loss": 0.5, "terms": {"tv": 3}, "lr": 0.1, "seconds": 7.0, "total": 9},
        {"kind": "train", "step": 1, "loss": 0.9, "terms": {"tv": None}, "rate": True},
        {"kind": "eval", "step": 2, "alpha": 2.0},
        {"kind": "train", "step": None, "loss": 8.0},
        {"kind": "train", "step": 3, "loss": None, "terms": [1]},
    ]
    assert series(lines, "train") == {"loss": [(1.0, 0.9), (2.0, 0.5)], "lr": [(2.0, 0.1)], "terms.tv": [(2.0, 3.0)]}
    assert series(lines, "eval") == {"alpha": [(2.0, 2.0)]}


@pytest.mark.parametrize("n", [MOST_POINTS, MOST_POINTS + 1, 399, 1000, 12345])
def test_thinned_curves_keep_their_peaks_and_their_end(n: int) -> None:
    values = [math.sin(i) + (9 if i == n // 3 else 0) - (9 if i == n // 2 else 0) for i in range(n)]
    lines = [{"kind": "train", "step": i, "loss": v} for i, v in enumerate(values)]
    points = series(lines, "train")["loss"]
    assert MOST_POINTS / 3 < len(points) <= MOST_POINTS
    assert {(float(n // 3), values[n // 3]), (float(n // 2), values[n // 2])} <= set(points)
    assert points[-1] == (n - 1.0, values[-1])
    assert points == sorted(points)
