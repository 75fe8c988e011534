"""Killing, stopping, starving and multiplying real training processes: nothing may be lost and no bit may change."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_training import finish, free_port, loss_terms, rank_fit, slow_disk_fit, small_disk_fit, start, toy_fit

from inscape import checkpoint, train
from inscape.core.rundir import RunDir

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and fork servers are POSIX")


def final_bytes(path: Path) -> list[bytes]:
    return [(path / f"checkpoints/step_40/{part}.safetensors").read_bytes() for part in ("model", "ema", "optim")]


def lines_but_clocks(path: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in ("rate", "seconds")} for line in RunDir(path).read_log()]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training, never disturbed."""
    path = tmp_path_factory.mktemp("unbroken")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    toy_fit(path)
    torch.set_num_threads(threads)
    return path


def assert_as_if_unbroken(path: Path, unbroken: Path) -> None:
    assert final_bytes(path) == final_bytes(unbroken)
    assert lines_but_clocks(path) == lines_but_clocks(unbroken)
    assert sorted(p.name for p in (path / "checkpoints").iterdir()) == ["step_39", "step_40"]


# --- kill -9 ----------------------------------------------------------------------------------------------------


def test_kill_9_at_any_moment_changes_no_bit(tmp_path: Path, unbroken: Path) -> None:
    """Ten kills: half at random moments, half while a checkpoint is being written, then one run to the end."""
    moments = random.Random(0)
    inside = 0
    for attempt in range(10):
        process = start(slow_disk_fit, tmp_path)
        if attempt % 2:
            while not list(tmp_path.glob("checkpoints/*.unfinished")) and process.is_alive():
                time.sleep(0.001)
        else:
            time.sleep(moments.uniform(0.0, 0.5))
        process.kill()
        finish(process)
        inside += bool(list(tmp_path.glob("checkpoints/*.unfinished")))
    assert inside >= 2, "no kill hit a checkpoint being written"
    assert finish(start(slow_disk_fit, tmp_path)) == 0
    assert_as_if_unbroken(tmp_path, unbroken)


# --- Ctrl-C -----------------------------------------------------------------------------------------------------


def signalling(number: int, at: int, times: int = 1) -> Any:
    def terms(model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        for _ in range(times if step == at else 0):
            os.kill(os.getpid(), number)
        return loss_terms(model, batch, step)

    return terms


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("one_thread")
def test_a_stop_finishes_the_step_saves_and_says_how_to_go_on(tmp_path: Path, unbroken: Path, number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(train.TrainingInterrupted) as caught:
        toy_fit(tmp_path, terms=signalling(number, 19))
    assert str(caught.value) == f"stopped after step 20 of 40, and saved; continue with: inscape resume {tmp_path}"
    assert signal.getsignal(number) is before
    assert checkpoint.read_checkpoint(tmp_path / "checkpoints/step_20").step == 20
    result = toy_fit(tmp_path)
    assert_as_if_unbroken(tmp_path, unbroken)
    assert [e["step"] for e in result.evaluations] == [10, 20, 30, 40]


def test_a_stop_in_the_last_step_is_not_forgotten(tmp_path: Path) -> None:
    with pytest.raises(train.TrainingInterrupted, match="stopped after step 40 of 40, and saved"):
        toy_fit(tmp_path, terms=signalling(signal.SIGINT, 39))
    assert toy_fit(tmp_path).steps == 40


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        toy_fit(tmp_path, terms=signalling(signal.SIGINT, 19, times=2))
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step_15", "step_18"]


@pytest.fixture
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = toy_fit(tmp_path)

    def never(*_: object) -> dict[str, Tensor]:
        raise AssertionError

    again = toy_fit(tmp_path, terms=never)
    assert again.evaluations == first.evaluations
    for a, b in zip(first.ema.parameters(), again.ema.parameters(), strict=True):
        assert torch.equal(a, b)


# --- damage -----------------------------------------------------------------------------------------------------


def truncate(folder: Path) -> str:
    file = folder / "optim.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    return "optim.safetensors has"


def flip(folder: Path) -> str:
    file = folder / "ema.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 0x10
    file.write_bytes(content)
    return "ema.safetensors is not what was written"


def lose(folder: Path) -> str:
    (folder / "model.safetensors").unlink()
    return "model.safetensors is missing"


def edit_state(folder: Path) -> str:
    file = folder / "state.json"
    file.write_text(file.read_text().replace('"seconds": ', '"seconds": 1'))
    return "state.json is not what was written"


def halve_state(folder: Path) -> str:
    file = folder / "state.json"
    file.write_text(file.read_text()[:100])
    return "state.json is not what was written"


@pytest.mark.parametrize("damage", [truncate, flip, lose, edit_state, halve_state])
@pytest.mark.usefixtures("one_thread")
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(
    tmp_path: Path, unbroken: Path, capsys: pytest.CaptureFixture[str], damage: Any
) -> None:
    with pytest.raises(train.TrainingInterrupted):
        toy_fit(tmp_path, terms=signalling(signal.SIGINT, 25))
    capsys.readouterr()
    what = damage(tmp_path / "checkpoints/step_26")
    steps = []

    def watched(model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        steps.append(step)
        return loss_terms(model, batch, step)

    toy_fit(tmp_path, terms=watched)
    said = [line for line in capsys.readouterr().err.splitlines() if "damaged" in line]
    assert len(said) == 1
    assert what in said[0]
    assert said[0].endswith("set aside as step_26.damaged")
    assert steps[0] == 24
    assert final_bytes(tmp_path) == final_bytes(unbroken)
    kept = [line for line in lines_but_clocks(tmp_path) if line["kind"] != "notice"]
    assert kept == lines_but_clocks(unbroken)


@pytest.mark.usefixtures("one_thread")
def test_with_no_whole_checkpoint_left_it_says_so_and_starts_over(
    tmp_path: Path, unbroken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(train.TrainingInterrupted):
        toy_fit(tmp_path, terms=signalling(signal.SIGINT, 25))
    for folder in (tmp_path / "checkpoints").iterdir():
        flip(folder)
    toy_fit(tmp_path)
    assert "no whole checkpoint is left: training starts over from step 0" in capsys.readouterr().err
    assert final_bytes(tmp_path) == final_bytes(unbroken)
    assert [line for line in lines_but_clocks(tmp_path) if line["kind"] != "notice"] == lines_but_clocks(unbroken)


def test_other_settings_are_refused(tmp_path: Path) -> None:
    toy_fit(tmp_path)
    with pytest.raises(ValueError, match=r"other settings \(lr 0.01 became 0.02, weight_decay 0.01 became 0.0\)"):
        toy_fit(tmp_path, lr=0.02, weight_decay=0.0)
    assert toy_fit(tmp_path, log_every=1, keep_checkpoints=1).steps == 40


def test_a_checkpoint_that_a_crash_kept_from_deletion_goes_with_the_next_call(tmp_path: Path) -> None:
    toy_fit(tmp_path)
    folder = tmp_path / "checkpoints"
    kept = {path.name for path in folder.iterdir()}
    shutil.copytree(folder / "step_40", folder / "step_20")
    toy_fit(tmp_path)
    assert {path.name for path in folder.iterdir()} == kept


def test_another_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_fit(tmp_path)
    monkeypatch.setattr("toy_training.make_model", lambda dropout, seed: nn.Linear(6, 2))
    with pytest.raises(ValueError, match=r"^checkpoint step_40 is of another model: .*"):
        toy_fit(tmp_path)


# --- full disks -------------------------------------------------------------------------------------------------


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["inscape.checkpoint.os.fsync", "inscape.core.rundir.RunDir.append_log"])
@pytest.mark.usefixtures("one_thread")
def test_a_full_disk_is_one_line_and_loses_nothing(
    tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def fills(model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        if step == 19:
            monkeypatch.setattr(where, no_space)
        return loss_terms(model, batch, step)

    with pytest.raises(train.DiskFull) as caught:
        toy_fit(tmp_path, terms=fills)
    assert caught.value.errno == errno.ENOSPC
    line = str(caught.value.strerror)
    assert line.startswith(f"No space left on device while writing in {tmp_path}; what was saved before is whole: ")
    assert line.endswith(f"continue with: inscape resume {tmp_path}")
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step_15", "step_18"]
    monkeypatch.undo()
    toy_fit(tmp_path)
    assert_as_if_unbroken(tmp_path, unbroken)


def test_a_disk_that_really_refuses_leaves_the_old_checkpoint_whole(tmp_path: Path, unbroken: Path) -> None:
    """The kernel cuts a checkpoint off in the middle of its second file."""
    answer = tmp_path / "answer.txt"
    largest = max(len(content) for content in final_bytes(unbroken))
    assert finish(start(small_disk_fit, tmp_path / "run", largest - 100, answer)) == 0
    assert "File too large while writing in" in answer.read_text()
    assert sorted(p.name for p in (tmp_path / "run/checkpoints").iterdir()) == ["step_18", "step_9"]
    assert checkpoint.read_checkpoint(tmp_path / "run/checkpoints/step_18").step == 18


# --- several processes ------------------------------------------------------------------------------------------


def train_together(path: Path, changes: dict[str, Any], stop_at: int = -1) -> list[str]:
    port = free_port()
    ranks = [start(rank_fit, path / "run", rank, 2, port, changes, stop_at) for rank in range(2)]
    assert [finish(process) for process in ranks] == [0, 0]
    return [(path / f"rank{rank}.txt").read_text() for rank in range(2)]


def test_two_processes_train_as_one_on_the_same_global_batch(tmp_path: Path) -> None:
    told = train_together(tmp_path, {"accumulate": 2})
    assert told[0] == told[1], "the processes ended with different weights"
    alone = toy_fit(tmp_path / "alone", dropout=0.0, accumulate=2)
    together = checkpoint.load_weights(tmp_path / "run/checkpoints/step_40/model.safetensors")
    for name, weights in alone.model.state_dict().items():
        torch.testing.assert_close(together[name], weights, rtol=1e-4, atol=1e-5)
    for one, two in zip(lines_but_clocks(tmp_path / "alone"), lines_but_clocks(tmp_path / "run"), strict=True):
        assert one.keys() == two.keys()
        assert one["step"] == two["step"]
        if one["kind"] == "train":
            assert one["terms"] == pytest.approx(two["terms"], rel=1e-4)


def test_a_stop_of_one_process_stops_all_at_the_same_step(tmp_path: Path) -> None:
    """Rank 1 alone gets the signal in step 17; both stop after step 21, the next log line, and go on from there."""
    told = train_together(tmp_path, {}, stop_at=16)
    assert told == [f"stopped after step 21 of 40, and saved; continue with: inscape resume {tmp_path / 'run'}"] * 2
    told = train_together(tmp_path, {})
    assert told[0] == told[1]
    alone = toy_fit(tmp_path / "alone", dropout=0.0)
    together = checkpoint.load_weights(tmp_path / "run/checkpoints/step_40/model.safetensors")
    for name, weights in alone.model.state_dict().items():
        torch.testing.assert_close(together[name], weights, rtol=1e-4, atol=1e-5)
