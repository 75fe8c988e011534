"""What a run tells while it trains: log.jsonl, TensorBoard where it is installed, and one moving line on a terminal.

Only rank 0 tells anything. Everything shown goes to standard error; standard output belongs to results.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Mapping
from typing import Any, final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from inscape.core.rundir import RunDir, write_atomically

__all__ = ["Journal", "forget_after"]

TRAINING_KINDS = ("train", "eval")
PLAIN_EVERY = 30.0  # seconds between lines where there is no terminal: a log stays readable, a watcher sees life
REDRAW_EVERY = 0.1  # seconds


def forget_after(run: RunDir, step: int) -> None:
    """Drop the training and evaluation lines of later steps from log.jsonl: those steps are about to be done again.

    The log then reads as if the run had never been interrupted; lines of other kinds are kept. Lines of no step go too.
    """
    if not (run.path / run.LOG).is_file():
        return
    kept = [line for line in run.read_log() if line.get("kind") not in TRAINING_KINDS or _is_done(line, step)]
    write_atomically(run.path / run.LOG, "".join(json.dumps(line) + "\n" for line in kept))


def _is_done(line: Mapping[str, Any], step: int) -> bool:
    return isinstance(line.get("step"), int) and line["step"] <= step


@final
class Journal:
    """Writes and shows the progress of one training run from step `start` to step `total`; use it in a `with`."""

    def __init__(self, run: RunDir, total: int, start: int, *, silent: bool) -> None:
        self.run, self.total, self.start, self.silent = run, total, start, silent
        console = Console(stderr=True)
        self._bar = None
        if not silent and console.is_terminal:
            columns = (TextColumn("training"), BarColumn(24), MofNCompleteColumn(), TextColumn("{task.fields[told]}"))
            self._bar = Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task("", total=total, completed=start, told="")
        self._board = None if silent else _tensorboard(run, start)
        self._losses: list[str] = []
        self._began = self._told_at = time.monotonic()

    def __enter__(self) -> Journal:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._board is not None:
            self._board.close()

    def notice(self, text: str) -> None:
        """One line for the reader, kept in the log as well."""
        if self.silent:
            return
        self._say(text)
        self.run.append_log({"kind": "notice", "text": text})

    def advance(self, step: int) -> None:
        """Show that `step` steps are done, with the losses of the last training line."""
        now = time.monotonic()
        if self.silent or now - self._told_at < (REDRAW_EVERY if self._bar is not None else PLAIN_EVERY):
            return
        self._told_at = now
        rate = (step - self.start) / (now - self._began)
        told = [*self._losses, f"{rate:.2f} steps/s", f"{_duration((self.total - step) / rate)} left"]
        if self._bar is not None:
            self._bar.update(self._task, completed=step, told="  ".join(told))
        else:
            self._say(f"step {step}/{self.total}  " + "  ".join(told))

    def train(self, step: int, loss: float, terms: Mapping[str, float], **figures: float) -> None:
        """One training line: means since the last one."""
        if self.silent:
            return
        self._losses = [f"loss {loss:.4g}", *(f"{name} {value:.3g}" for name, value in terms.items())]
        line = {"kind": "train", "step": step, "total": self.total, "loss": loss, "terms": dict(terms)}
        self.run.append_log(line | figures)
        scalars = {"loss": loss} | {f"terms/{name}": value for name, value in terms.items()} | figures
        self._chart({f"train/{name}": value for name, value in scalars.items()}, step)

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """One evaluation line."""
        if self.silent:
            return
        self.run.append_log({"kind": "eval", "step": step} | dict(values))
        self._chart({f"eval/{name}": value for name, value in values.items()}, step)

    def _chart(self, scalars: Mapping[str, float], step: int) -> None:
        if self._board is not None:
            for name, value in scalars.items():
                self._board.add_scalar(name, value, step)

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)


def _tensorboard(run: RunDir, start: int) -> Any:
    """A TensorBoard writer in RUN/tensorboard, or None if tensorboard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(run.path / "tensorboard", purge_step=start + 1)


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 1.5:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if hours < 1.5 else f"{hours:.1f} h"
