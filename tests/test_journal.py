"""What a training writes into its log: enough for a reader to see how far it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from inscape import journal
from inscape.core.rundir import RunDir
from inscape.journal import Journal, forget_after
from inscape.train import _evaluations


def test_a_training_line_says_which_step_of_how_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    charted: list[str] = []
    monkeypatch.setattr(journal, "_tensorboard", lambda *_: None)
    monkeypatch.setattr(Journal, "_chart", lambda _, scalars, step: charted.extend(scalars))
    with Journal(RunDir(tmp_path), 9, 0, silent=False) as told:
        told.train(3, 0.5, {"tv": 0.25}, lr=0.1)
    assert RunDir(tmp_path).read_log() == [
        {"kind": "train", "step": 3, "total": 9, "loss": 0.5, "terms": {"tv": 0.25}, "lr": 0.1}
    ]
    assert charted == ["train/loss", "train/terms/tv", "train/lr"], "how many there will be is no curve"


def test_lines_of_no_step_are_forgotten_with_those_of_later_ones(tmp_path: Path) -> None:
    lines = [
        '{"kind": "train"}',
        '{"kind": "eval"}',
        '{"kind": "eval", "step": "2"}',
        "[]",
        '{"kind": "notice", "text": "halved"}',
    ]
    steps = [f'{{"kind": "train", "step": {step}}}' for step in (1, 2, 3)]
    (tmp_path / RunDir.LOG).write_text("".join(f"{line}\n" for line in (*lines, *steps)))
    assert _evaluations(RunDir(tmp_path)) == []
    forget_after(RunDir(tmp_path), 2)
    assert RunDir(tmp_path).read_log() == [
        {"kind": "notice", "text": "halved"},
        {"kind": "train", "step": 1},
        {"kind": "train", "step": 2},
    ]


def test_a_silent_journal_writes_nothing(tmp_path: Path) -> None:
    with Journal(RunDir(tmp_path), 9, 0, silent=True) as told:
        told.train(3, 0.5, {})
        told.notice("halved")
    assert list(tmp_path.iterdir()) == []
