"""A toy with blocks, and trainings of it in several processes; importable by the processes that tests start."""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from toy_training import CONFIG, as_torchrun_would, batch_at, evaluate, finish, free_port, start

from inscape import train
from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Criterion, Gate
from inscape.core.rundir import RunDir
from inscape.core.runner import Request, run_study
from inscape.core.study import Context, Phase, Study
from inscape.followers import follow, follows, leading
from inscape.parallel import gathered


class Block(nn.Module):
    """A residual block, one of whose methods is called from outside."""

    called_beside_forward = ("look_up",)

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.key = nn.Linear(5, 7), nn.Linear(7, 5), nn.Linear(5, 5)

    def look_up(self, x_BD: Tensor) -> Tensor:
        return self.key(x_BD)

    def forward(self, x_BD: Tensor, looked_BD: Tensor) -> Tensor:
        return x_BD + self.down((self.up(x_BD)).tanh()) + looked_BD


class Blocks(nn.Module):
    """Every kind of weight: of 5 rows and of 1, tied, frozen, unused, in blocks and outside; a buffer that moves."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.spare = nn.ModuleList([Block()])  # never called
        self.norm = nn.LayerNorm(5)
        self.out, self.again = nn.Linear(5, 2), nn.Linear(5, 2, bias=False)
        self.again.weight = self.out.weight
        self.gain = nn.Parameter(torch.ones(1))
        self.frozen = nn.Parameter(torch.full((3,), 0.5), requires_grad=False)
        self.register_buffer("steps", torch.zeros(()))

    def encode(self, x_BF: Tensor) -> Tensor:
        x_BD = self.first(x_BF)
        looked = [block.look_up(x_BD) for block in self.blocks]  # pyright: ignore[reportCallIssue]
        for block, looked_BD in zip(self.blocks, looked, strict=True):
            x_BD = block(x_BD, looked_BD)
        return self.norm(x_BD)

    def read(self, x_BD: Tensor) -> Tensor:
        return self.gain * self.out(x_BD) + self.frozen.sum() * self.again(x_BD.tanh())

    def forward(self, x_BF: Tensor) -> Tensor:
        return self.read(self.encode(x_BF))


def make_blocks(seed: int = 3) -> Blocks:
    torch.manual_seed(seed)
    return Blocks()


def block_terms(model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
    """Terms that call methods of the model, one of them twice, and read a weight by itself."""
    assert isinstance(model, Blocks)
    model.get_buffer("steps").add_(1)
    state_BD = model.encode(batch["x"])
    again_BD = model.encode(0.5 * batch["x"])
    fit = (model.read(state_BD) - batch["y"]).square().mean()
    return {"fit": fit, "near": 0.1 * (state_BD - again_BD).square().mean(), "gain": 0.01 * model.gain.square().sum()}


def fit_blocks(path: Path, *, terms: Any = block_terms, seed: int = 3, **changes: Any) -> train.FitResult:
    """One fit of the toy in `path`."""
    path.mkdir(exist_ok=True)
    config = train.FitConfig(**CONFIG | {"clip_norm": 0.3} | changes)
    return train.fit(make_blocks(seed), batch_at, terms, config, RunDir(path), seed=11, device="cpu", evaluate=evaluate)


def run_of_blocks(
    path: Path, rank: int, world: int, port: int, changes: dict[str, Any], planted: dict[str, int]
) -> None:
    """One of `world` processes that train the toy together; writes what it ended with beside the run.

    planted: in which step the last process receives SIGTERM (stop), finds its disk full (full), or has a weight of its
    shard spoilt (spoil).
    """
    as_torchrun_would(rank, world, port)

    def terms(model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        assert isinstance(model, Blocks)
        if rank == world - 1:
            _plant(model, step, planted)
        with gathered(model), torch.no_grad():  # not as often in each
            for _ in range(rank + 1):
                model.encode(batch["x"])
        return block_terms(model, batch, step)

    told = path.with_name(f"rank{rank}.txt")
    try:
        result = fit_blocks(path, terms=terms, seed=3 + rank, **changes)  # rank 0's weights must win
        told.write_text(
            " ".join(str(float(p.double().sum())) for m in (result.model, result.ema) for p in m.parameters())
        )
    except (train.TrainingInterrupted, train.TrainingDiverged, train.DiskFull) as error:
        told.write_text(f"{type(error).__name__}: {error}")


def threads_after_training(folder: Path, rank: int, world: int, port: int) -> None:
    """One of `world` processes that train with shards; writes the names of the threads it has afterwards (Linux)."""
    as_torchrun_would(rank, world, port)
    fit_blocks(folder / "run", parallel="shard", steps=2, warmup_steps=0)
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    (folder / f"threads{rank}.txt").write_text("\n".join(names))


def _plant(model: nn.Module, step: int, planted: dict[str, int]) -> None:
    if step == planted.get("stop"):
        os.kill(os.getpid(), signal.SIGTERM)
    if step == planted.get("full"):

        def full(handle: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        os.fsync = full
    if step == planted.get("spoil"):
        weight: Any = model.spare[0].up.weight  # type: ignore[index,union-attr]
        weight.detach().to_local().fill_(torch.nan)


def train_blocks(path: Path, world: int, changes: dict[str, Any], **planted: int) -> list[str]:
    """What each of `world` processes said at the end of training the toy in path/run."""
    port = free_port()
    ranks = [start(run_of_blocks, path / "run", rank, world, port, changes, planted) for rank in range(world)]
    assert [finish(process) for process in ranks] == [0] * world
    return [(path / f"rank{rank}.txt").read_text() for rank in range(world)]


@dataclass(frozen=True)
class PlantedConfig:
    """Of a phase that trains the toy."""

    steps: int = 6
    parallel: str = "shard"
    broken: bool = False  # a mistake that shows before the training
    hidden: bool = False  # the runs' folder is not seen by the followers


def planted_run(context: Context) -> dict[str, Estimate]:
    """Train the toy; what is measured is the process's own."""
    if context.config.broken:
        raise ValueError("a mistake of the user")
    (context.run.path / "beside.txt").write_text(os.environ["RANK"])
    config = train.FitConfig(**CONFIG | {"steps": context.config.steps, "parallel": context.config.parallel})
    result = train.fit(make_blocks(), batch_at, block_terms, config, context.run, seed=11, device="cpu")
    return {"steps": exact(result.steps, 1, "trainings")}


def planted_study(presets: Path, run: Any = planted_run, several: bool = True) -> Study:
    """A study of one phase, to be trained by several processes."""
    phase = Phase(
        code="P1",
        name="planted",
        question="Is it trained?",
        config=PlantedConfig,
        presets=presets,
        gate=Gate((Criterion("steps", at_least=6),)),
        run=run,
        several=several,
    )
    return Study("planted", "A study", "It is.", (phase,))


def _not_there(path: Path | str) -> RunDir:
    raise ValueError(f"{path} is not a folder; a run is a folder runs/STUDY/PHASE/PRESET/TIME-..., see inscape status")


def run_of_study(folder: Path, rank: int, world: int, port: int, overrides: tuple[str, ...]) -> None:
    """One of `world` processes of `inscape run planted`; writes what it did into folder/rank<rank>.txt."""
    as_torchrun_would(rank, world, port)
    study = planted_study(folder / "presets.yaml")
    if follows():
        if "hidden=true" in overrides:  # as on another machine, that does not share the folder
            RunDir.open = classmethod(lambda cls, path: _not_there(path))  # type: ignore[method-assign]
        follow(study, "cpu")
        told = "followed"
    else:
        try:
            with leading(study, "cpu") as led:
                request = Request(preset="smoke", device="cpu", root=folder / "runs", overrides=overrides)
                done = run_study(led, led.phases, request, lambda line: None, lambda run: None)
            told = f"led {len(done)}"
        except ValueError as error:
            told = str(error)
    (folder / f"rank{rank}.txt").write_text(told)
