"""A study in several processes: one run, written by the first, trained by all; and torchrun itself, once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist
from toy_processes import planted_run, planted_study, run_of_study
from toy_training import finish, free_port, start

from inscape.core.rundir import RunDir
from inscape.device import started_processes
from inscape.followers import check_several, follows, leading

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="fork servers are POSIX"),
    pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no gloo"),
]


def in_two_processes(folder: Path, *overrides: str) -> list[str]:
    (folder / "presets.yaml").write_text("smoke:\n")
    port = free_port()
    ranks = [start(run_of_study, folder, rank, 2, port, overrides) for rank in range(2)]
    assert [finish(process) for process in ranks] == [0, 0]
    return [(folder / f"rank{rank}.txt").read_text() for rank in range(2)]


@pytest.mark.parametrize("parallel", ["shard", "replicate"])
def test_two_processes_make_one_run(tmp_path: Path, parallel: str) -> None:
    assert in_two_processes(tmp_path, f"parallel={parallel}") == ["led 1", "followed"]
    (path,) = (tmp_path / "runs/planted/P1/smoke").iterdir()
    run = RunDir.open(path)
    assert run.finished
    assert (path / "beside.txt").read_text() == "0", "the first process alone writes the run"
    state = json.loads((path / "checkpoints/step_6/state.json").read_text())
    assert state["circumstances"]["processes"] == 2
    assert len(state["files"]) == (6 if parallel == "shard" else 3)


def test_a_mistake_is_told_by_the_first_process_alone(tmp_path: Path) -> None:
    assert in_two_processes(tmp_path, "broken=true")[0] == "a mistake of the user"
    assert not list((tmp_path / "runs").rglob("config.yaml"))


def test_a_follower_that_cannot_see_the_run_is_named(tmp_path: Path) -> None:
    told = in_two_processes(tmp_path, "hidden=true")
    assert told[0].startswith("process 1 cannot follow: ")
    assert told[0].endswith("is not a folder; a run is a folder runs/STUDY/PHASE/PRESET/TIME-..., see inscape status")


def test_alone_nothing_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    study = planted_study(tmp_path / "presets.yaml")
    with leading(study, "cpu") as led:
        assert led is study
    assert not follows()
    check_several(planted_study(tmp_path / "presets.yaml", several=False), study.phases)


def test_a_phase_of_one_process_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    study = planted_study(tmp_path / "presets.yaml", planted_run, several=False)
    with pytest.raises(ValueError, match=r"^torchrun started 3 processes, and planted.P1 runs in one; start "):
        check_several(study, study.phases)
    check_several(study, planted_study(tmp_path / "presets.yaml").phases)


@pytest.mark.parametrize("said", ["", "x", "0", "-1", "2.5", "\u00b2", "9" * 5000])
def test_a_number_of_processes_that_is_none_is_one_line(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", said)
    with pytest.raises(ValueError, match=r"^the environment variable WORLD_SIZE is '.*'; allowed: how many "):
        started_processes()


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["replicate", "shard"])
def test_torchrun_runs_a_phase_of_the_visual_study(tmp_path: Path, parallel: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--local-addr=127.0.0.1"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "-m", "inscape", "run", "--preset", "smoke"]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    for words in (["visual.P0"], ["visual.P1", f"fit.parallel={parallel}"]):
        done = subprocess.run(
            [*command, "--out", str(tmp_path), *words],
            capture_output=True,
            text=True,
            timeout=200,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "visual/P1/smoke").iterdir()
    assert RunDir.open(path).finished
    assert len(list((path / "checkpoints/step_6").glob("*.safetensors"))) == (6 if parallel == "shard" else 3)
