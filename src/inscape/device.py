"""Where a run computes: the device, its fast number format, its seeds, and its fellow processes.

One small module instead of a training framework. Everything a step draws is a function of (seed, step, rank), so no
generator state is ever saved; processes are found through the variables that torchrun sets, and there is nothing else
to configure.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import importlib
import json
import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, final

import numpy as np
import torch
import torch.distributed as dist

__all__ = [
    "PRECISIONS",
    "Processes",
    "autocast_dtype",
    "fast_bfloat16",
    "join_processes",
    "keep_freed_memory",
    "pick_device",
    "seed_everything",
    "seed_step",
    "set_deterministic",
    "set_threads",
    "started_processes",
    "step_seed",
    "usable_cores",
]

# Names and numbers of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = 2**31 - 1

PRECISIONS = ("auto", "float32", "bfloat16")

# Rank 0 evaluates, draws and saves while the others wait for it in the next exchange of gradients.
PATIENCE = timedelta(hours=2)

MESHES: list[Any] = []  # those of the meeting under way


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`: auto (CUDA where there is one, else the CPU), cpu, or cuda.

    Under torchrun, cuda means this process's own GPU. ValueError for an unknown name, or for cuda where there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device={name!r} is not known; use auto, cpu or cuda")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        reason = "torch is built without CUDA" if torch.version.cuda is None else "torch sees no NVIDIA GPU"
        raise ValueError(f"device='cuda' cannot be used: {reason}; use device auto or cpu")
    index = int(os.environ.get("LOCAL_RANK", "0"))
    if index >= torch.cuda.device_count():
        raise ValueError(
            f"process {index} of this machine has no GPU of its own: there are {torch.cuda.device_count()}"
        )
    return torch.device("cuda", index)


def fast_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are faster than in float32: AMX, AMD's AVX512_BF16, Ampere and later.

    On Intel's cores AVX512_BF16 without AMX, which virtual machines may hide, has half of float32's throughput.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return _cpu_can("_is_amx_tile_supported") or (_cpu_can("_is_avx512_bf16_supported") and not _is_intel())
    return False


def _cpu_can(probe: str) -> bool:
    # Private names, so a torch without them (before 2.6, or after a renaming) is taken to be slow, not broken.
    asked = getattr(torch.cpu, probe, None)
    return asked is not None and asked()


def _is_intel() -> bool:
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return "intel" in str(capabilities.get("cpu_name", "")).lower()


def autocast_dtype(device: torch.device, precision: str = "auto") -> torch.dtype | None:
    """The type matrix products are autocast to, or None for plain float32.

    precision: auto (bfloat16 where `fast_bfloat16`), float32, bfloat16. Weights and sums stay float32 in each.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r} is not known; use one of {', '.join(PRECISIONS)}")
    if precision == "bfloat16" or (precision == "auto" and fast_bfloat16(device)):
        return torch.bfloat16
    return None


def step_seed(seed: int, step: int, rank: int) -> int:
    """A 63-bit seed for everything process `rank` draws in `step`; unrelated for neighbouring arguments."""
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators (every device): call it before the model is made."""
    if seed < 0:
        raise ValueError(f"seed={seed} must be 0 or more")
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - what third-party code draws from is the global generator
    torch.manual_seed(seed)


def seed_step(device: torch.device, seed: int, step: int, rank: int) -> None:
    """Seed what torch draws from in one step, on the CPU and on `device`.

    Not torch.manual_seed: that formats a stack trace for every kind of device not in use, 0.3 ms a step.
    """
    number = step_seed(seed, step, rank)
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)


def set_deterministic(on: bool = True) -> None:
    """Make torch refuse operations whose result differs from call to call.

    CPUs need it for nothing we use; a GPU run is repeatable with it, and some 10 % slower.
    """
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(on)
    torch.backends.cudnn.benchmark = False


def usable_cores() -> int:
    """Cores this process may run on: its CPU affinity, cut to the container's quota (cgroup v2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:  # noqa: PTH123
            quota, period = file.read().split()
        return cores if quota == "max" else max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores


def keep_freed_memory() -> bool:
    """Ask glibc to keep what is freed instead of giving it back; True if it agreed, False where there is no glibc.

    By default activations of some megabytes go back to the system as soon as they are freed, and the next step pays for
    them page by page: 100,000 page faults and 15 % of the time of a full-size step on two cores.
    """
    if sys.platform != "linux":
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(set_option(M_MMAP_THRESHOLD, LARGEST // 2) and set_option(M_TRIM_THRESHOLD, LARGEST))


def set_threads(count: int = 0) -> int:
    """Let torch compute with `count` threads (0: OMP_NUM_THREADS if set, else every usable core); returns the number.

    torch counts the machine's cores; in a container with a quota that is too many, and each step pays for it.
    """
    if count < 0:
        raise ValueError(f"threads={count} must be 0 (all usable cores) or more")
    count = count or int(os.environ.get("OMP_NUM_THREADS") or usable_cores())
    torch.set_num_threads(count)
    return count


@final
@dataclass(frozen=True)
class Processes:
    """The processes of one run and this one's place among them; alone, every exchange returns its input."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"  # where tensors that are exchanged must lie

    @property
    def first(self) -> bool:
        """True in the one process that writes."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world > 1:
            dist.barrier()

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over the processes, the same bits in each."""
        if self.world > 1:
            dist.all_reduce(values)
            values /= self.world
        return values

    def any(self, flag: bool, device: torch.device) -> bool:
        """True in every process if `flag` is true in one of them."""
        return bool(self.mean(torch.tensor(float(flag), device=device)) > 0) if self.world > 1 else flag

    def share(self, number: int, device: torch.device) -> int:
        """Rank 0's `number`."""
        return int(self.broadcast([torch.tensor(number, device=device)])[0]) if self.world > 1 else number

    def broadcast(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """Overwrite `tensors` by rank 0's."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)
        return tensors

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over the processes, the same bits in each."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def texts(self, text: str) -> list[str]:
        """Every process's `text`, by rank, in each of them."""
        if self.world == 1:
            return [text]
        content = torch.tensor(list(text.encode()), dtype=torch.uint8, device=self.device)
        sizes = self._all(torch.tensor([len(content)], device=self.device))
        longest = int(max(sizes))
        padded = self._all(torch.cat([content, content.new_zeros(longest - len(content))])) if longest else sizes
        return [bytes(part[: int(size)].tolist()).decode() for part, size in zip(padded, sizes, strict=True)]

    def _all(self, own: torch.Tensor) -> list[torch.Tensor]:
        found = [torch.empty_like(own) for _ in range(self.world)]
        dist.all_gather(found, own)
        return found

    def together(self, action: Callable[[], str]) -> list[str]:
        """Every process's answer to `action`; OSError in each of them, with its number, if it was raised in one."""
        error: OSError | None = None
        answer = ""
        try:
            answer = action()
        except OSError as raised:
            error = raised
        told = self.texts(json.dumps([answer, *([error.errno, str(error)] if error else [])]))
        if error:
            raise error
        answers = [json.loads(text) for text in told]
        for rank, (_, *failure) in enumerate(answers):
            if failure:
                raise OSError(failure[0], f"process {rank}: {failure[1]}")
        return [answer for answer, *_ in answers]

    def in_first(self, action: Callable[[], object]) -> None:
        """Do it in the first process, and wait for that; an OSError is raised in all."""

        def act() -> str:
            if self.first:
                action()
            return ""

        self.together(act)

    def mesh(self) -> Any:
        """The processes as torch's DeviceMesh of one dimension, until they part."""
        from torch.distributed.device_mesh import init_device_mesh

        MESHES.append(init_device_mesh(torch.device(self.device).type, (self.world,)))
        return MESHES[-1]

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes, in one exchange.

        The same parameters must take part on every rank. This is what DistributedDataParallel computes, without its
        wrapper: a loss may then call any method of the model, not only forward.
        """
        if self.world == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = self.mean(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        parts = flat.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [part.view_as(of) for part, of in zip(parts, gradients, strict=True)])


def started_processes() -> int:
    """How many processes torchrun has started; 1 without it. ValueError if its variable does not say that."""
    said = os.environ.get("WORLD_SIZE", "1")
    if not (said.isascii() and said.isdigit() and len(said) < 10 and int(said)):
        raise ValueError(
            f"the environment variable WORLD_SIZE is {said!r}; allowed: how many processes there are, 1 or more, as "
            "torchrun sets it; unset it to run one"
        )
    return int(said)


@contextmanager
def join_processes(device: torch.device) -> Iterator[Processes]:
    """Meet the other processes that torchrun started (gloo on CPUs, NCCL on GPUs) and part at the end.

    Without torchrun this is one process. Nested calls share the outermost meeting.
    """
    if dist.is_available() and dist.is_initialized():
        yield Processes(dist.get_rank(), dist.get_world_size(), str(device))
        return
    world = started_processes()
    if world == 1:
        yield Processes()
        return
    if not dist.is_available():
        raise ValueError(f"WORLD_SIZE={world}, but this torch is built without torch.distributed; run one process")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Its functions' defaults are the group there is when it is first loaded, by an optimizer's first step. See _part.
    importlib.import_module("torch.distributed.nn")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), str(device))
    finally:
        _part()


def _part() -> None:
    """End the meeting, and the threads of its group: one that outlives the interpreter may crash in its last breath.

    Whatever refers to the group keeps them alive: shards in reference cycles, and meshes, which caches of torch hold.
    """
    for mesh in MESHES:
        getattr(mesh, "_pg_registry", {}).clear()
    MESHES.clear()
    gc.collect()
    dist.destroy_process_group()
