"""Checkpoints that survive a power cut, and weights read from files that may be broken or somebody else's.

    checkpoints/step_N/{model, ema, optim}.safetensors   tensors only: nothing in a run is a pickle
    checkpoints/step_N/state.json                        step, seed, config, and size and SHA-256 of the other files

A checkpoint is written under a temporary name, flushed to the disk and renamed, so that step_N is whole or absent. What
a disk does to it afterwards shows in the hashes; such a checkpoint is set aside as `step_N.damaged`, never deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

__all__ = [
    "Checkpoint",
    "latest_checkpoint",
    "load_weights",
    "optimizer_tensors",
    "prune_checkpoints",
    "read_checkpoint",
    "restore_optimizer",
    "save_checkpoint",
    "weights_of",
]

STATE = "state.json"
PARTS = ("model", "ema", "optim")
UNFINISHED = ".unfinished"
DAMAGED = ".damaged"


class Checkpoint(NamedTuple):
    """What one step_N folder holds: tensors on the CPU, and the JSON state."""

    step: int
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    optim: dict[str, Tensor]
    state: dict[str, Any]


def load_weights(path: Path | str) -> dict[str, Tensor]:
    """Tensors of a safetensors file, on the CPU; ValueError in one line for anything else."""
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist; give the path of a .safetensors file")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the path of a .safetensors file in it")
    return _tensors(path.read_bytes(), path)


def _tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(content)
    except SafetensorError as error:
        if content[:2] == b"PK" or content[:1] == b"\x80":
            hint = "it looks like a pickle, which is never read here: convert it with safetensors.torch.save_file"
        else:
            hint = "fetch or copy it again, or use another file"
        raise ValueError(f"{path} is not a safetensors file or is cut short ({error}); {hint}") from None


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the module's parameters and buffers on the CPU; tied weights appear under each of their names."""
    return {name: _copy(value) for name, value in module.state_dict().items()}


def _copy(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True).contiguous()


def optimizer_tensors(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state by parameter name: `exp_avg/<parameter>`, `exp_avg_sq/<parameter>`, `step/<parameter>`."""
    names = _names_in_order(optimizer, module)
    state = optimizer.state_dict()["state"]
    return {f"{slot}/{names[i]}": _copy(value) for i, slots in state.items() for slot, value in slots.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`, bit for bit; ValueError if the state is another model's."""
    position = {name: i for i, name in enumerate(_names_in_order(optimizer, module))}
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        slot, name = key.split("/", 1)
        if name not in position:
            raise ValueError(f"the optimizer state speaks of {name!r}, which this model does not have")
        state.setdefault(position[name], {})[slot] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _names_in_order(optimizer: torch.optim.Optimizer, module: nn.Module) -> list[str]:
    name_of = {id(parameter): name for name, parameter in module.named_parameters()}
    return [name_of[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def save_checkpoint(
    folder: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], keep: int
) -> Path:
    """Write folder/step_N and delete all but the last `keep` checkpoints; OSError leaves what was there as it was.

    parts: CPU tensors of model, ema and optim. state: anything JSON can hold.
    """
    assert set(parts) == set(PARTS)
    final = folder / f"step_{step}"
    unfinished = folder / f"step_{step}{UNFINISHED}"
    unfinished.mkdir(parents=True)
    try:
        files = {}
        for part, tensors in parts.items():
            content = safetensors.torch.save(dict(tensors))
            files[f"{part}.safetensors"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            _write_through(unfinished / f"{part}.safetensors", content)
        record = {"step": step, "files": files} | dict(state)
        _write_through(unfinished / STATE, _sealed(record))
        _flush_folder(unfinished)
        unfinished.rename(final)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    _flush_folder(folder)
    prune_checkpoints(folder, keep)
    return final


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the last `keep` checkpoints in `folder`."""
    for old in _steps(folder)[keep:]:
        shutil.rmtree(folder / f"step_{old}")


def _write_through(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Make renames in `folder` durable, where the system can (Windows cannot open a folder)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sealed(record: dict[str, Any]) -> bytes:
    """JSON whose last field is the SHA-256 of the rest: state.json vouches for the other files, this for state.json."""
    return json.dumps(record | {"sha256": _seal(record)}, indent=1, allow_nan=False).encode()


def _seal(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in `folder`, latest first."""
    found = (re.fullmatch(r"step_(\d+)", entry.name) for entry in folder.iterdir()) if folder.is_dir() else ()
    return sorted((int(match[1]) for match in found if match), reverse=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in `path`, every byte checked; ValueError in one line says what is wrong with it."""
    try:
        record = json.loads((path / STATE).read_bytes())
        seal = record.pop("sha256")
        files, step = record["files"], record["step"]
        contents = {part: (path / f"{part}.safetensors").read_bytes() for part in PARTS}
    except FileNotFoundError as error:
        raise ValueError(f"{path} is damaged: {Path(error.filename).name} is missing") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is damaged: {STATE} is not what was written") from None
    if seal != _seal(record) or path.name != f"step_{step}":
        raise ValueError(f"{path} is damaged: {STATE} is not what was written")
    for part, content in contents.items():
        name = f"{part}.safetensors"
        if len(content) != files[name]["bytes"]:
            raise ValueError(f"{path} is damaged: {name} has {len(content)} bytes instead of {files[name]['bytes']}")
        if hashlib.sha256(content).hexdigest() != files[name]["sha256"]:
            raise ValueError(f"{path} is damaged: {name} is not what was written (its SHA-256 differs)")
    tensors = {part: _tensors(content, path / f"{part}.safetensors") for part, content in contents.items()}
    return Checkpoint(step, **tensors, state=record)


def latest_checkpoint(folder: Path, report: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint in `folder`, or None; clears away what a crash left behind.

    Damaged ones are renamed to step_N.damaged and reported in one line each; half-written ones are deleted.
    """
    if folder.is_dir():
        for leftover in folder.glob(f"step_*{UNFINISHED}"):
            shutil.rmtree(leftover)
    steps = _steps(folder)
    for step in steps:
        path = folder / f"step_{step}"
        try:
            return read_checkpoint(path)
        except ValueError as error:
            aside = path.with_name(f"{path.name}{DAMAGED}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            report(f"{error}; set aside as {aside.name}")
    if steps:
        report("no whole checkpoint is left: training starts over from step 0")
    return None
