"""Files that come back bit for bit, and one clear line for those that cannot."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from inscape import checkpoint
from inscape.train import FitConfig, make_optimizer


def save(folder: Path, step: int, keep: int = 2) -> Path:
    parts = {part: {"w": torch.full((3,), float(step))} for part in ("model", "ema", "optim")}
    return checkpoint.save_checkpoint(folder, step, parts, {"seed": 5}, keep)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    read = checkpoint.read_checkpoint(save(tmp_path, 4))
    assert read.step == 4
    assert read.state["seed"] == 5
    assert read.model["w"].tolist() == read.optim["w"].tolist() == [4.0] * 3


def test_only_the_last_are_kept_and_by_number_not_by_name(tmp_path: Path) -> None:
    for step in (8, 9, 10, 11):
        save(tmp_path, step)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_10", "step_11"]


def test_nothing_but_tensors_and_json(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    names = ["ema.safetensors", "model.safetensors", "optim.safetensors", "state.json"]
    assert sorted(p.name for p in folder.iterdir()) == names


def test_a_sealed_state_that_names_other_files_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    record = json.loads((folder / "state.json").read_text())
    del record["sha256"]
    record["files"]["../model.safetensors"] = record["files"]["model.safetensors"]
    seal = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    (folder / "state.json").write_text(json.dumps(record | {"sha256": seal}))
    with pytest.raises(ValueError, match=r"step_1 is damaged: state\.json is not what was written"):
        checkpoint.read_checkpoint(folder)


def test_a_state_nested_without_end_is_set_aside(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    (folder / "state.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"step_1 is damaged: state\.json is not what was written$"):
        checkpoint.read_checkpoint(folder)
    said: list[str] = []
    assert checkpoint.latest_checkpoint(tmp_path, said.append) is None
    assert said[0].endswith("set aside as step_1.damaged")


def test_a_crash_before_the_rename_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every flush is a place to crash; only after the rename is there a step_2, and then it is whole."""
    save(tmp_path, 1)
    flush, crashes = os.fsync, 0
    for crash_at in range(10):
        calls = 0

        def crash(handle: int, crash_at: int = crash_at) -> None:
            nonlocal calls
            calls += 1
            if calls > crash_at:
                raise OSError(28, "No space left on device")
            flush(handle)

        monkeypatch.setattr(os, "fsync", crash)
        try:
            save(tmp_path, 2)
        except OSError:
            crashes += 1
        latest = checkpoint.latest_checkpoint(tmp_path, print)
        assert latest is not None
        assert not list(tmp_path.glob("*.unfinished"))
        if latest.step == 2:
            break
        assert [p.name for p in tmp_path.iterdir()] == ["step_1"]
    assert crashes == 6, "four files, their folder, and the folder of checkpoints after the rename"


def test_leftovers_of_a_kill_are_cleared(tmp_path: Path) -> None:
    save(tmp_path, 1)
    leftover = tmp_path / "step_2.unfinished"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    latest = checkpoint.latest_checkpoint(tmp_path, print)
    assert latest is not None
    assert latest.step == 1
    assert not leftover.exists()


def test_no_folder_is_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.latest_checkpoint(tmp_path / "none", print) is None


def test_tied_and_transposed_weights_survive(tmp_path: Path) -> None:
    first, second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    model.register_buffer("view", torch.arange(6.0).reshape(2, 3).T)
    weights = checkpoint.weights_of(model)
    path = checkpoint.save_checkpoint(tmp_path, 1, {"model": weights, "ema": weights, "optim": {}}, {}, 1)
    first.weight.data.zero_()
    model.load_state_dict(checkpoint.read_checkpoint(path).model)
    assert torch.equal(second.weight, weights["0.weight"])
    assert model.get_buffer("view").tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


def test_optimizer_state_comes_back_bit_for_bit() -> None:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    config = FitConfig(steps=9, lr=0.1)
    optimizer = make_optimizer(model, config)
    step(model, optimizer, 1)
    twin = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    twin.load_state_dict(model.state_dict())
    other = make_optimizer(twin, config)
    checkpoint.restore_optimizer(other, twin, checkpoint.optimizer_tensors(optimizer, model))
    step(model, optimizer, 2)
    step(twin, other, 2)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match=r"speaks of 'ghost', which this model does not have"):
        checkpoint.restore_optimizer(other, twin, {"exp_avg/ghost": torch.zeros(1)})


def test_load_weights_reads_what_safetensors_writes(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.arange(3)}, tmp_path / "w.safetensors")
    assert checkpoint.load_weights(tmp_path / "w.safetensors")["a"].tolist() == [0, 1, 2]


def damaged_files(folder: Path) -> dict[str, str]:
    good = safetensors.torch.save({"a": torch.arange(300)})
    torch.save({"a": torch.arange(3)}, folder / "pickle.pt")
    (folder / "cut").write_bytes(good[:-7])
    (folder / "empty").write_bytes(b"")
    (folder / "words").write_text("a red ball is on the blue block")
    (folder / "folder").mkdir()
    header = b'{"a":{"dtype":"F8_E8M0","shape":[2],"data_offsets":[0,2]}}'
    (folder / "exponents").write_bytes(len(header).to_bytes(8, "little") + header + b"12")
    broken = "is not a safetensors file or is cut short"
    return {
        "cut": broken,
        "empty": broken,
        "words": broken,
        "pickle.pt": "looks like a pickle, which is never read",
    } | {
        "exponents": "holds numbers of kind 'F8_E8M0', which cannot be read here; convert them",
        "folder": "is a folder; give the path of a .safetensors file in it",
        "x" * 300: "cannot be read: File name too long; give another path",
        "nowhere": "does not exist; give the path of a .safetensors file",
    }


def test_every_other_file_is_one_clear_line(tmp_path: Path) -> None:
    for name, reason in damaged_files(tmp_path).items():
        with pytest.raises(ValueError, match=re.escape(reason)) as caught:
            checkpoint.load_weights(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_a_file_that_may_not_be_read_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    safetensors.torch.save_file({"a": torch.arange(3)}, tmp_path / "w.safetensors")
    monkeypatch.setattr(Path, "read_bytes", forbidden)
    with pytest.raises(ValueError, match=r"w\.safetensors cannot be read: Permission denied; give a file that may be"):
        checkpoint.load_weights(tmp_path / "w.safetensors")
