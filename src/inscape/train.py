"""`fit`: the one training loop of all studies. One function, no hooks.

What makes it safe to kill: batches and random draws are functions of (seed, step, rank), so weights, EMA and optimizer
state are all there is to save, and a run continued from step N takes the very steps the unbroken run would have taken.

Step numbers: `batch_at` and `loss_terms` get the index of the step under way, from 0. Log lines, checkpoints, messages
and `evaluate` count finished steps, so "step 10" is the state after ten.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from inscape.checkpoint import (
    Checkpoint,
    Slice,
    latest_checkpoint,
    prune_checkpoints,
    read_checkpoint,
    save_checkpoint,
)
from inscape.continuing import changes_of, check_same_run, circumstances
from inscape.core.program import program
from inscape.core.rundir import RunDir
from inscape.device import Processes, autocast_dtype, join_processes, keep_freed_memory, seed_step
from inscape.journal import Journal, forget_after
from inscape.optimization import FitConfig, ema_decay_at, learning_rate, make_optimizer, update_ema
from inscape.parallel import LossTerms, Weights, blocks_of, hold_weights
from inscape.stopping import DiskFull, TrainingDiverged, TrainingInterrupted, disk_full_in_one_line, stop_requests

__all__ = [
    "DiskFull",
    "FitConfig",
    "FitResult",
    "TrainingDiverged",
    "TrainingInterrupted",
    "fit",
    "learning_rate",
    "make_optimizer",
    "update_ema",
]

BatchAt = Callable[[int, int, int], Any]
Evaluate = Callable[[nn.Module, int], Mapping[str, float]]

GRAD_NORM = "the norm of the gradient"  # a column beside the loss terms, by a name no term has


class FitResult(NamedTuple):
    """A finished training: the weights, their average, and what the evaluations said."""

    model: nn.Module
    ema: nn.Module
    steps: int
    seconds: float  # of training, evaluation and saving, over all the times the run was continued
    evaluations: list[dict[str, Any]]  # {"step": N, "values": {...}}, in order


def fit(
    model: nn.Module,
    batch_at: BatchAt,
    loss_terms: LossTerms,
    config: FitConfig,
    run: RunDir,
    *,
    seed: int,
    device: torch.device | str,
    evaluate: Evaluate | None = None,
) -> FitResult:
    """Train `model`, or continue the training whose checkpoints lie in `run`.

    batch_at(i, rank, world): the rank's slice of the i-th batch, a tensor or nested dicts, lists, tuples of them, on
        the CPU; a pure function of its arguments that draws nothing from torch's global generator. Step s with
        accumulate=k takes batches k s .. k s + k - 1.
    loss_terms(model, batch, step): scalar terms by name, already weighted, the same names every step; their sum is
        minimised. Under torchrun each rank's mean counts alike, so slices must be equal in size.
    evaluate(ema, step): numbers for the log, every `eval_every` steps and at the last; on rank 0 only, in eval mode,
        without gradients.
    run: under torchrun that of the first process counts, which all must see.

    `model` is moved to `device` and trained in place; the result's models are whole and in eval mode. With shards it is
    empty meanwhile, and stays so after an early end: loss terms use the model that they are given.
    Raises TrainingDiverged, TrainingInterrupted (Ctrl-C or SIGTERM), DiskFull, each with one line for the user, and
    ValueError when the run's checkpoints belong to another model, seed or config.
    """
    device = torch.device(device)
    if device.type == "cpu":
        keep_freed_memory()
    with (
        join_processes(device) as processes,
        stop_requests(announce=processes.first) as stop,
        disk_full_in_one_line(run.path),
    ):
        run = _run_of_the_first(run, processes)
        training = _begin(model, config, run, seed, device, processes)
        with training.journal:
            if config.compile:
                _compile(model)
            while training.step < config.steps:
                _step(training, batch_at, loss_terms)
                last = training.step == config.steps
                if last or training.step % config.log_every == 0:
                    _log(training)
                if evaluate is not None and _is_due(config.eval_every, training):
                    _evaluate(training, evaluate)
                # Processes agree to stop at log lines only: asking at every step would make each wait for the others.
                asks = processes.world == 1 or training.step % config.log_every == 0
                stopping = asks and processes.any(stop.is_set(), device)
                if last or stopping or _is_due(config.checkpoint_every, training):
                    _save(training)
                if stopping:
                    raise TrainingInterrupted(
                        f"stopped after step {training.step} of {config.steps}, and saved; "
                        f"continue with: {program()} resume {run.path}"
                    )
            processes.barrier()
        ema = training.weights.finish()
    return FitResult(model.eval(), ema, training.step, training.seconds, _evaluations(run))


def _run_of_the_first(run: RunDir, processes: Processes) -> RunDir:
    path = processes.texts(str(run.path.absolute()))[0]
    return run if processes.first else RunDir(Path(path))


@final
@dataclass
class _Training:
    """One training under way."""

    weights: Weights
    config: FitConfig
    run: RunDir
    journal: Journal
    processes: Processes
    device: torch.device
    seed: int
    step: int = 0
    saved: int | None = None  # step of the last checkpoint
    before: float = 0.0  # seconds spent before this process took over
    began: float = field(default_factory=time.monotonic)
    paused: float = 0.0  # seconds of this process spent on evaluating and saving
    names: tuple[str, ...] = ()  # of the columns of `rows`: the loss terms, then the gradient norm
    pending: list[tuple[int, Tensor]] = field(default_factory=list)  # step and row, still on the device
    rows: list[list[float]] = field(default_factory=list)  # one a step since the last training line
    marked: tuple[int, float] = (0, 0.0)  # step and training time of the last training line

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.began

    @property
    def training_time(self) -> float:
        return time.monotonic() - self.began - self.paused


def _begin(
    model: nn.Module, config: FitConfig, run: RunDir, seed: int, device: torch.device, processes: Processes
) -> _Training:
    """Put everything on the device, at the last whole checkpoint if there is one."""
    notices: list[str] = []
    found = latest_checkpoint(run.checkpoints, notices.append) if processes.first else None
    step = processes.share(found.step if found else 0, device)
    if found is None and step > 0:
        found = read_checkpoint(run.checkpoints / f"step_{step}")
    if found is not None:
        check_same_run(found, config, seed, run)
        if processes.first:  # a crash between a checkpoint and the deletion of older ones leaves one too many
            prune_checkpoints(run.checkpoints, config.keep_checkpoints)
        notices += changes_of(found, device, config, processes)
    if processes.first:
        forget_after(run, step)
    training = _Training(
        weights=hold_weights(model.to(device).train(), config, processes),
        config=config,
        run=run,
        journal=Journal(run, config.steps, step, silent=not processes.first),
        processes=processes,
        device=device,
        seed=seed,
    )
    if found is not None:
        _restore(training, found)
    for notice in notices:
        training.journal.notice(notice)
    return training


def _restore(training: _Training, found: Checkpoint) -> None:
    try:
        training.weights.restore(found)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"checkpoint step_{found.step} is of another model: {reason}") from None
    training.step = found.step
    training.before = found.state["seconds"]
    training.names = tuple(found.state["names"])
    training.rows = found.state["rows"]
    training.saved = found.step
    training.marked = (found.step, 0.0)


def _step(training: _Training, batch_at: BatchAt, loss_terms: LossTerms) -> None:
    """One optimizer step. Where reading is free, a step that is not finite is refused before it is taken."""
    config, step, processes = training.config, training.step, training.processes
    seed_step(training.device, training.seed, step, processes.rank)
    rate = learning_rate(config, step)
    for group in training.weights.optimizer.param_groups:
        group["lr"] = rate * group.get("lr_share", 1.0)
    training.weights.optimizer.zero_grad(set_to_none=True)
    total = _accumulate_gradients(training, batch_at, loss_terms)
    norm = training.weights.clip_gradients(config.clip_norm)
    training.pending.append((step + 1, torch.cat([total, norm.detach().reshape(1)])))
    if _reading_is_free(training.device):
        _fetch(training)
    training.weights.optimizer.step()
    training.weights.update_average(ema_decay_at(config, step))
    training.step += 1
    training.journal.advance(training.step)


def _reading_is_free(device: torch.device) -> bool:
    """Whether a number can be looked at without waiting for the device to catch up."""
    return device.type == "cpu"


def _accumulate_gradients(training: _Training, batch_at: BatchAt, loss_terms: LossTerms) -> Tensor:
    """Forward and backward over the step's batches; returns the mean of each term, still on the device."""
    config, device, processes = training.config, training.device, training.processes
    dtype = autocast_dtype(device, config.precision)
    totals: list[Tensor] = []
    for micro in range(config.accumulate):
        index = training.step * config.accumulate + micro
        batch = _to_device(batch_at(index, processes.rank, processes.world), device)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            terms = training.weights.terms(loss_terms, batch, training.step)
        names = (*terms, GRAD_NORM)
        if training.names not in ((), names):
            raise ValueError(f"loss_terms gave {names[:-1]} after {training.names[:-1]}; every step needs the same")
        training.names = names
        values = torch.stack([value.float() for value in terms.values()]) / config.accumulate
        values.sum().backward()
        totals.append(values.detach())
    return totals[0] if len(totals) == 1 else torch.stack(totals).sum(0)


def _to_device(batch: Any, device: torch.device) -> Any:
    """Tensors in nested dicts, lists and tuples, moved; to a GPU without waiting for it."""
    if isinstance(batch, Tensor):
        return batch.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else batch.to(device)
    if isinstance(batch, Mapping):
        return {name: _to_device(value, device) for name, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_to_device(value, device) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(_to_device(value, device) for value in batch)
    return batch


def _fetch(training: _Training) -> None:
    """Bring pending rows to the host, as means over the processes; TrainingDiverged at the first that is not finite."""
    if not training.pending:
        return
    steps, rows = zip(*training.pending, strict=True)
    training.pending = []
    fetched: list[list[float]] = training.processes.mean(torch.stack(rows)).tolist()
    for step, row in zip(steps, fetched, strict=True):
        for name, value in zip(training.names, row, strict=True):
            if not math.isfinite(value):
                raise _divergence(training, name if name == GRAD_NORM else f"loss term {name!r}", value, step)
    training.rows += fetched


def _divergence(training: _Training, what: str, value: float, step: int) -> TrainingDiverged:
    kept = "no checkpoint was written yet" if training.saved is None else f"checkpoint step_{training.saved} is whole"
    rate = learning_rate(training.config, step - 1)
    return TrainingDiverged(
        f"{what} became {value} in step {step}, at learning rate {rate:.3g}; {kept}; lower lr or lengthen warmup_steps"
    )


def _log(training: _Training) -> None:
    """One training line: means over the steps since the last one."""
    _fetch(training)
    step, time_now = training.step, training.training_time
    means = [sum(column) / len(training.rows) for column in zip(*training.rows, strict=True)]
    terms = dict(zip(training.names, means, strict=True))
    norm = terms.pop(GRAD_NORM)
    training.journal.train(
        step,
        sum(terms.values()),
        terms,
        lr=learning_rate(training.config, step - 1),
        grad_norm=norm,
        rate=(step - training.marked[0]) / (time_now - training.marked[1]),
        seconds=training.seconds,
    )
    training.rows, training.marked = [], (step, time_now)


def _is_due(every: int, training: _Training) -> bool:
    return every > 0 and (training.step % every == 0 or training.step == training.config.steps)


def _evaluate(training: _Training, evaluate: Evaluate) -> None:
    _fetch(training)
    began = time.monotonic()
    with training.weights.average() as ema, torch.no_grad():
        values = evaluate(ema, training.step) if training.processes.first else {}
    training.journal.evaluation(training.step, {name: float(value) for name, value in values.items()})
    training.paused += time.monotonic() - began


def _evaluations(run: RunDir) -> list[dict[str, Any]]:
    lines = [line for line in run.read_log() if line.get("kind") == "eval" and isinstance(line.get("step"), int)]
    return [{"step": line.pop("step"), "values": {k: v for k, v in line.items() if k != "kind"}} for line in lines]


def _compile(model: nn.Module) -> None:
    """torch.compile of what loss terms call: the model, or where it is only its parts that are called, their layers.

    ValueError if there are none: nothing would be compiled, and nobody told.
    """
    whole = type(model).forward is not nn.Module.forward
    parts = [model] if whole else [part for part in blocks_of(model) if type(part).forward is not nn.Module.forward]
    if not parts:
        raise ValueError(f"fit.compile=true finds nothing to compile in {type(model).__name__}; leave it out")
    for part in parts:
        part.compile(dynamic=False)  # a few bucketed lengths: one specialised graph each


def _save(training: _Training) -> None:
    """A checkpoint of finite weights, or TrainingDiverged."""
    _fetch(training)
    config, processes = training.config, training.processes
    if config.parallel == "replicate" and not processes.first:
        return
    began = time.monotonic()
    parts = training.weights.parts()
    _check_finite(training, parts)
    if processes.first:
        training.run.sync_log()  # a step that is never made again must not lose its lines
    state = {
        "seed": training.seed,
        "seconds": training.seconds,
        "config": asdict(config),
        "circumstances": circumstances(training.device, config, processes),
        "names": list(training.names),
        "rows": training.rows,
    }
    writers = processes if config.parallel == "shard" else Processes()
    save_checkpoint(training.run.checkpoints, training.step, parts, state, config.keep_checkpoints, writers)
    training.saved = training.step
    training.paused += time.monotonic() - began


def _check_finite(training: _Training, parts: Mapping[str, Mapping[str, Tensor | Slice]]) -> None:
    """TrainingDiverged in every process that saves, if one of them holds a weight that is not finite."""
    spoilt = ""
    for part in ("model", "ema"):
        for name, value in parts[part].items():
            weights = value.rows if isinstance(value, Slice) else value
            if not spoilt and weights.is_floating_point() and not weights.isfinite().all():
                spoilt = f"{part} weight {name!r}"
    found = training.processes.texts(spoilt) if training.config.parallel == "shard" else [spoilt]
    if named := next(filter(None, found), ""):
        raise _divergence(training, named, math.nan, training.step)
