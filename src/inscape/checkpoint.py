"""Checkpoints that survive a power cut, and weights read from files that may be broken or somebody else's.

    checkpoints/step_N/{model, ema, optim}.safetensors   tensors only: nothing in a run is a pickle
    checkpoints/step_N/state.json                        step, seed, config, and size and SHA-256 of the other files

Of processes that hold a shard each, every one writes its own: model-00001-of-00002.safetensors and so on. state.json
says which rows of which tensor lie in which file, and a reader puts them together, whatever the number of processes.

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

from inscape.device import Processes
from inscape.user_paths import is_there

__all__ = [
    "Checkpoint",
    "Slice",
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
FILE = re.compile(r"(model|ema|optim)(-\d{5}-of-\d{5})?\.safetensors")
UNFINISHED = ".unfinished"
DAMAGED = ".damaged"


class Checkpoint(NamedTuple):
    """What one step_N folder holds: tensors on the CPU, and the JSON state."""

    step: int
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    optim: dict[str, Tensor]
    state: dict[str, Any]


class Slice(NamedTuple):
    """Rows of a tensor that several processes hold together."""

    rows: Tensor
    first: int  # number of the first of these rows in the whole
    total: int  # rows of the whole


def load_weights(path: Path | str) -> dict[str, Tensor]:
    """Tensors of a safetensors file, on the CPU; ValueError in one line for anything else."""
    path = Path(path)
    if not is_there(path):
        raise ValueError(f"{path} does not exist; give the path of a .safetensors file")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the path of a .safetensors file in it")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; give a file that may be read") from None
    return _tensors(content, path)


def _tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(content)
    except KeyError as error:  # safetensors knows more kinds of numbers than torch
        raise ValueError(f"{path} holds numbers of kind {error}, which cannot be read here; convert them") from None
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


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, module: nn.Module, take: Callable[[Tensor], Tensor] = _copy
) -> dict[str, Tensor]:
    """The optimizer's state by parameter name: `exp_avg/<parameter>`, `exp_avg_sq/<parameter>`, `step/<parameter>`.

    take: what is made of each tensor; by default a copy on the CPU.
    """
    names = _names_in_order(optimizer, module)
    state = optimizer.state_dict()["state"]
    return {f"{slot}/{names[i]}": take(value) for i, slots in state.items() for slot, value in slots.items()}


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
    folder: Path,
    step: int,
    parts: Mapping[str, Mapping[str, Tensor | Slice]],
    state: Mapping[str, Any],
    keep: int,
    processes: Processes | None = None,
) -> Path:
    """Write folder/step_N and delete all but the last `keep` checkpoints; OSError leaves what was there as it was.

    parts: CPU tensors of model, ema and optim. state: anything JSON can hold.
    processes: all of them call, each with the slices that it holds, in a folder that all of them see; tensors that
        every process holds whole, and `state`, are taken from the first. An OSError in one is raised in all.
    """
    assert set(parts) == set(PARTS)
    processes = processes or Processes()
    final = folder / f"step_{step}"
    unfinished = folder / f"step_{step}{UNFINISHED}"

    def seal(written: list[str]) -> None:
        files = {name: entry for text in written for name, entry in json.loads(text).items()}
        _write_through(unfinished / STATE, _sealed({"step": step, "files": files} | dict(state)))
        _flush_folder(unfinished)
        unfinished.rename(final)

    def settle() -> None:
        _flush_folder(folder)
        prune_checkpoints(folder, keep)

    processes.in_first(lambda: unfinished.mkdir(parents=True))
    try:
        written = processes.together(lambda: json.dumps(_write_parts(unfinished, parts, processes)))
        processes.in_first(lambda: seal(written))
    except BaseException:
        if processes.first:
            shutil.rmtree(unfinished, ignore_errors=True)
        raise
    processes.in_first(settle)
    return final


def _write_parts(
    folder: Path, parts: Mapping[str, Mapping[str, Tensor | Slice]], processes: Processes
) -> dict[str, dict[str, Any]]:
    """Write this process's file of each part; returns what state.json is to say of each."""
    files: dict[str, dict[str, Any]] = {}
    shard = f"-{processes.rank + 1:05d}-of-{processes.world:05d}" if processes.world > 1 else ""
    for part, values in parts.items():
        slices = {name: value for name, value in values.items() if isinstance(value, Slice)}
        tensors = {name: value.rows for name, value in slices.items()}
        if processes.first:
            tensors |= {name: value for name, value in values.items() if isinstance(value, Tensor)}
        content = safetensors.torch.save(tensors)
        entry: dict[str, Any] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        if slices:
            entry["slices"] = {name: [value.first, value.total] for name, value in slices.items()}
        files[f"{part}{shard}.safetensors"] = entry
        _write_through(folder / f"{part}{shard}.safetensors", content)
    return files


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
    """The checkpoint in `path`, every byte checked; ValueError in one line says what is wrong with it.

    Tensors are whole, by however many processes they were written.
    """
    not_ours = f"{path} is damaged: {STATE} is not what was written"
    try:
        record = json.loads((path / STATE).read_bytes())
        seal = record.pop("sha256")
        files, step = record["files"], record["step"]
        found = {name: FILE.fullmatch(name) for name in files}
        sealed = seal == _seal(record)
    except FileNotFoundError:
        raise ValueError(f"{path} is damaged: {STATE} is missing") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(not_ours) from None
    if not sealed or path.name != f"step_{step}" or not all(found.values()):
        raise ValueError(not_ours)
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    rows: dict[tuple[str, str], int] = {}  # that are still to come, by part and tensor
    for name, match in found.items():
        assert match is not None
        part, slices = parts[match[1]], files[name].get("slices", {})
        for key, value in _tensors(_checked(path, name, files[name]), path / name).items():
            if key not in slices:
                part[key] = value
                continue
            first, total = slices[key]
            if key not in part:
                part[key] = value.new_empty(total, *value.shape[1:])
                rows[match[1], key] = total
            part[key][first : first + len(value)] = value
            rows[match[1], key] -= len(value)
    if any(rows.values()):
        raise ValueError(f"{path} is damaged: {next(key for key, left in rows.items() if left)[1]} is not whole")
    return Checkpoint(step, **parts, state=record)


def _checked(path: Path, name: str, entry: Mapping[str, Any]) -> bytes:
    """The content of a checkpoint's file, if it is what was written."""
    try:
        content = (path / name).read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path} is damaged: {name} is missing") from None
    if len(content) != entry["bytes"]:
        raise ValueError(f"{path} is damaged: {name} has {len(content)} bytes instead of {entry['bytes']}")
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise ValueError(f"{path} is damaged: {name} is not what was written (its SHA-256 differs)")
    return content


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
