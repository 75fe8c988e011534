"""A training small enough to run hundreds of steps a second, importable by the processes that tests start and kill."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inscape import train
from inscape.core.rundir import RunDir
from inscape.device import join_processes

CONFIG: dict[str, Any] = {
    "steps": 40,
    "lr": 1e-2,
    "warmup_steps": 5,
    "precision": "float32",
    "log_every": 7,
    "eval_every": 10,
    "checkpoint_every": 3,
}

PROCESSES = multiprocessing.get_context("forkserver")  # torch is loaded once; each process is a fork of that server
PROCESSES.set_forkserver_preload(["inscape.train", "torch._dynamo"])  # the latter at an optimizer's first step


def start(target: Any, *arguments: Any) -> Any:
    process = PROCESSES.Process(target=target, args=arguments)
    process.start()
    return process


def finish(process: Any) -> int:
    process.join(60)
    assert process.exitcode is not None, "a training process hangs"
    return process.exitcode


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def make_model(dropout: float = 0.2, seed: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Dropout(dropout), nn.LayerNorm(12), nn.Linear(12, 2))


def batch_at(index: int, rank: int, world: int) -> dict[str, Tensor]:
    """The rank's rows of a global batch of 8 rows, whatever the number of ranks."""
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(index))
    rows = slice(rank * 8 // world, (rank + 1) * 8 // world)
    return {"x": x[rows], "y": x[rows, :2].sin()}


def loss_terms(model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
    out = model(batch["x"])
    return {"fit": (out - batch["y"]).square().mean(), "size": 0.01 * out.square().mean()}


def evaluate(ema: nn.Module, step: int) -> dict[str, float]:
    batch = batch_at(10_000, 0, 1)
    return {"error": float((ema(batch["x"]) - batch["y"]).square().mean()), "draw": float(torch.rand(()))}


def toy_fit(
    path: Path, *, dropout: float = 0.2, model_seed: int = 3, terms: Any = loss_terms, **changes: Any
) -> train.FitResult:
    """One fit of the toy in `path`."""
    path.mkdir(exist_ok=True)
    config = train.FitConfig(**CONFIG | changes)
    model = make_model(dropout, model_seed)
    return train.fit(model, batch_at, terms, config, RunDir(path), seed=11, device="cpu", evaluate=evaluate)


def slow_disk_fit(path: Path) -> None:
    """The toy on a disk that takes 10 ms for every flush, so that most of the time is spent inside checkpoints."""
    torch.set_num_threads(1)
    flush = os.fsync

    def slow(handle: int) -> None:
        time.sleep(0.01)
        flush(handle)

    os.fsync = slow
    toy_fit(path)


def small_disk_fit(path: Path, limit: int, answer: Path) -> None:
    """The toy where, from step 20 on, no file may grow beyond `limit` bytes; writes what fit raised into `answer`."""
    import resource  # POSIX only

    torch.set_num_threads(1)

    def terms(model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        if step == 20:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return loss_terms(model, batch, step)

    try:
        toy_fit(path, terms=terms, checkpoint_every=9)
    except train.DiskFull as error:
        answer.write_text(str(error))


def rank_fit(path: Path, rank: int, world: int, port: int, changes: dict[str, Any], stop_at: int) -> None:
    """One of `world` processes that train together; rank 1 receives SIGTERM in step `stop_at` (never if negative)."""
    as_torchrun_would(rank, world, port)

    def terms(model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        assert len(batch["x"]) == 8 // world
        if rank == 1 and step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss_terms(model, batch, step)

    try:
        result = toy_fit(path, dropout=0.0, model_seed=3 + rank, terms=terms, **changes)  # rank 0's weights must win
        told = " ".join(str(float(p.double().sum())) for p in result.model.parameters())
    except train.TrainingInterrupted as error:
        told = str(error)
    path.with_name(f"rank{rank}.txt").write_text(told)


def meet(rank: int, world: int, port: int, answer: Path) -> None:
    """One of two processes that only exchange numbers."""
    as_torchrun_would(rank, world, port)
    check_exchanges(answer)


def check_exchanges(answer: Path) -> None:
    """Every exchange between two processes; writes `met` into `answer` at the end."""
    cpu = torch.device("cpu")
    with join_processes(cpu) as outer:
        with join_processes(cpu) as inner:
            assert inner == outer
            assert inner.world == 2
        assert outer.mean(torch.tensor([float(outer.rank)])).tolist() == [0.5]
        assert outer.any(outer.rank == 1, cpu)
        assert not outer.any(False, cpu)
        assert outer.share(10 + outer.rank, cpu) == 10
        weight, unused = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))
        weight.grad = torch.full((3,), float(outer.rank))
        outer.average_gradients([weight, unused])
        assert weight.grad.tolist() == [0.5] * 3
        assert unused.grad is None
        outer.barrier()
    answer.write_text("met")


def as_torchrun_would(rank: int, world: int, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
