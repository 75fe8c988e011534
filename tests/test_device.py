"""The runtime: devices, formats, seeds, threads; processes that meet are tested where they train."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_training import finish, free_port, meet, start

from inscape import device

CPU = torch.device("cpu")


def test_auto_is_the_cpu_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.pick_device("auto") == device.pick_device("cpu") == CPU
    with pytest.raises(ValueError, match=r"^device='cuda' cannot be used: .+; use device auto or cpu$"):
        device.pick_device("cuda")
    with pytest.raises(ValueError, match=r"^device='tpu' is not known; use auto, cpu or cuda$"):
        device.pick_device("tpu")


def test_each_local_rank_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device.pick_device("auto") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device.pick_device("cuda") == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match=r"process 2 of this machine has no GPU of its own: there are 2"):
        device.pick_device("cuda")


@pytest.mark.parametrize(
    ("name", "avx", "amx", "fast"),
    [
        ("AMD EPYC", True, False, True),
        ("Intel Xeon", True, False, False),  # 162 GFLOP/s in bfloat16, 313 in float32 (Sapphire Rapids, AMX hidden)
        ("Intel Xeon", True, True, True),
        ("AMD EPYC", False, False, False),
    ],
)
def test_auto_precision_follows_the_processor(
    monkeypatch: pytest.MonkeyPatch, name: str, avx: bool, amx: bool, fast: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": name}, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert device.autocast_dtype(CPU, "auto") == (torch.bfloat16 if fast else None)
    assert device.autocast_dtype(CPU, "float32") is None
    assert device.autocast_dtype(CPU, "bfloat16") is torch.bfloat16


def test_a_torch_without_the_probes_is_taken_to_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    assert not device.fast_bfloat16(CPU)


@pytest.mark.parametrize(("capability", "fast"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_auto_precision_follows_the_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], fast: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert device.fast_bfloat16(torch.device("cuda", 0)) is fast


def test_the_probe_agrees_with_the_kernel() -> None:
    """Linux lists the processor's abilities; torch's probe, where this torch has one, must say the same."""
    if not hasattr(torch.cpu, "_is_avx512_bf16_supported"):
        pytest.skip("this torch has no probe")
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:  # noqa: PTH123
            lines = file.read().splitlines()
    except FileNotFoundError:
        pytest.skip("no /proc/cpuinfo")
    flags, vendor = (
        next((line.partition(":")[2].split() for line in lines if line.startswith(key)), [])
        for key in ("flags", "vendor_id")
    )
    if not flags:
        pytest.skip("not an x86 processor")
    assert device.fast_bfloat16(CPU) == ("amx_tile" in flags or ("avx512_bf16" in flags and vendor != ["GenuineIntel"]))


def test_unknown_precision() -> None:
    with pytest.raises(ValueError, match=r"^precision='float16' is not known; use one of auto, float32, bfloat16$"):
        device.autocast_dtype(CPU, "float16")


def test_step_seeds_differ_in_every_argument_and_never_change() -> None:
    seeds = {device.step_seed(seed, step, rank) for seed in range(8) for step in range(50) for rank in range(4)}
    assert len(seeds) == 8 * 50 * 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert device.step_seed(1, 11, 1) != device.step_seed(11, 1, 1)
    assert device.step_seed(0, 0, 0) == 4808561972376111626, "a changed seed breaks resuming of runs made before"


def test_seed_step_decides_what_torch_draws() -> None:
    draws = []
    for step in (3, 4, 3):
        device.seed_step(CPU, 7, step, 0)
        draws.append(torch.rand(5))
        torch.rand(3)
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])


def test_seed_everything_seeds_all_three_generators() -> None:
    def draw() -> list[float]:
        device.seed_everything(5)
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002

    assert draw() == draw()
    with pytest.raises(ValueError, match=r"^seed=-1 must be 0 or more$"):
        device.seed_everything(-1)


def test_determinism_switch() -> None:
    try:
        device.set_deterministic()
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"]
    finally:
        device.set_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        assert device.set_threads(1) == torch.get_num_threads() == 1
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert device.set_threads() == 1
        monkeypatch.delenv("OMP_NUM_THREADS")
        assert device.set_threads() == device.usable_cores() <= (os.cpu_count() or 1)
        with pytest.raises(ValueError, match=r"^threads=-1 must be 0 \(all usable cores\) or more$"):
            device.set_threads(-1)
    finally:
        torch.set_num_threads(before)


def test_alone_every_exchange_returns_its_input() -> None:
    with device.join_processes(CPU) as processes:
        assert processes == device.Processes(rank=0, world=1)
        assert processes.first
        processes.barrier()
        assert processes.mean(torch.tensor([2.0])).tolist() == [2.0]
        assert processes.any(True, CPU)
        assert not processes.any(False, CPU)
        assert processes.share(7, CPU) == 7


def test_two_processes_exchange(tmp_path: Path) -> None:
    """What torchrun sets, set by hand, so that it takes a second; the next test asks torchrun itself."""
    port = free_port()
    processes = [start(meet, rank, 2, port, tmp_path / f"{rank}.txt") for rank in range(2)]
    assert [finish(process) for process in processes] == [0, 0]
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)] == ["met", "met"]


@pytest.mark.slow
def test_torchrun_starts_processes_that_meet(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--local-addr=127.0.0.1"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--no-python", sys.executable, "-c"]
    script = "from pathlib import Path; from toy_training import check_exchanges; import os; "
    script += f"check_exchanges(Path({str(tmp_path)!r}) / os.environ['RANK'])"
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run([*command, script], capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["met", "met"]
