"""Faults of local workers: killed, broken, silent, orphaned. Each costs an attempt at one job, and the rest is done."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from planted_jobs import TOY, alive, killed_before_anything, pids, planted, run_planted, says_nothing, wait_for

from inscape.cluster import local
from inscape.cluster.attempt import Result
from inscape.cluster.jobs import JOBS, job_log, read_done
from inscape.cluster.sweep import run_missing
from inscape.core.rundir import RunDir, find_runs


def marks(place: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in place.glob("jobs/*/*") if p.name != ".lock"}


def test_a_killed_worker_costs_one_attempt_and_its_run_goes_on(folder: Path) -> None:
    jobs = planted(folder, "data.text=killed,a,b,c")
    assert run_missing(folder / "sweep", jobs, local.run, 2, run_planted) == {}
    done = [read_done(folder / "sweep", job) for job in jobs]
    assert [each and each.outcome for each in done] == ["PASS"] * 4
    assert len(list(find_runs(folder / "runs"))) == 4, "the killed run was resumed, and none begun beside it"
    assert done[0] is not None
    first, second = RunDir(Path(done[0].run)).read_log()
    assert first != second, "two processes"
    assert os.getpid() not in pids(folder / "sweep")


def test_a_worker_killed_before_its_job_began(folder: Path) -> None:
    jobs = planted(folder, "n=10,20")
    results = list(local.run(folder / "sweep" / JOBS, ["0000", "0001"], killed_before_anything, 1, 1))
    assert results == [
        Result("0000", "killed by SIGKILL, for want of memory?", again=True),
        Result("0001"),
        Result("0000"),
    ]
    assert all(read_done(folder / "sweep", job) for job in jobs)


def test_a_job_that_fails_twice_is_named_and_the_rest_is_done(folder: Path, capsys) -> None:
    jobs = planted(folder, "data.text=broken,a,shaky")
    place = folder / "sweep"
    errors = run_missing(place, jobs, local.run, 2, run_planted)
    assert errors == {"0000": "RuntimeError: of two lines"}
    log = job_log(place, "0000").read_text()
    assert (log.count("about to break"), log.count("Traceback")) == (2, 2)
    said = capsys.readouterr().err
    assert "job 0000 failed and is tried again: RuntimeError: of two lines" in said
    assert "job 0002: PASS" in said
    before = {path: time for path, time in marks(place).items() if "/0000/" not in path}
    assert run_missing(place, jobs, local.run, 2, run_planted) == errors, "fresh attempts"
    assert job_log(place, "0000").read_text().count("about to break") == 4
    assert {path: time for path, time in marks(place).items() if "/0000/" not in path} == before, "what is done rests"
    assert "3 jobs, 2 done before" in capsys.readouterr().err


def test_a_job_that_ends_without_its_marker_is_not_done(folder: Path) -> None:
    jobs = planted(folder, "n=10")
    assert run_missing(folder / "sweep", jobs, local.run, 1, says_nothing) == {"0000": "it ended without its marker"}


def test_the_cores_are_divided_and_what_the_user_set_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    import inscape.device

    monkeypatch.setattr(inscape.device, "usable_cores", lambda: 8)
    for name in local.THREADS:
        monkeypatch.delenv(name, raising=False)
    assert [share["OMP_NUM_THREADS"] for share in local._shares(3)] == ["2"] * 3
    assert local._shares(16)[0]["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert "OMP_NUM_THREADS" not in local._shares(2)[0]


def test_several_gpus_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [share["CUDA_VISIBLE_DEVICES"] for share in local._shares(3)] == ["0", "1", "0"]
    assert local.default_workers(9) == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert [share["CUDA_VISIBLE_DEVICES"] for share in local._shares(2)] == ["4", "7"]


# --- the sweep's own process is stopped ---------------------------------------------------------------------------


def start_sweep(folder: Path, *words: str) -> subprocess.Popen[str]:
    """The command in a process, and a process group, of its own; it hears Ctrl-C even where these tests do not."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import planted_jobs as p; "
    code += f"sys.exit(p.main(['sweep', '{TOY}', *{list(words)!r}, '--sweep', 'sweep']))"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's `&` has it ignored
    )


def begun(folder: Path) -> list[RunDir]:
    return [run for run in find_runs(folder / "runs") if run.read_log()]


def test_ctrl_c_stops_the_workers_which_save_and_says_how_to_go_on(folder: Path) -> None:
    sweep = start_sweep(folder, "data.text=slow", "--workers", "2", "--seeds", "0,1,2")
    wait_for(lambda: len(begun(folder)) == 2)
    workers = pids(folder / "sweep")
    os.killpg(sweep.pid, signal.SIGINT)
    _, said = sweep.communicate(timeout=60)
    assert sweep.returncode == 130
    assert said.splitlines()[-1].startswith(
        "inscape: stopped; 0 of 3 jobs done, what was saved is kept; go on with the same command: sweep"
    )
    assert not any(map(alive, workers))
    assert [run.read_log()[-1] for run in begun(folder)] == [{"saved": True}] * 2
    # Those two are resumed; the third begins, is slow, and is told to stop by hand, which costs it an attempt.
    sweep = start_sweep(folder, "data.text=slow", "--workers", "2", "--seeds", "0,1,2")
    wait_for(lambda: len(begun(folder)) == 3)
    os.kill(begun(folder)[-1].read_log()[0]["process"], signal.SIGTERM)
    table, said = sweep.communicate(timeout=60)
    assert sweep.returncode == 0, said
    assert "is tried again: TrainingInterrupted: stopped, and saved" in said
    assert table.count("PASS") == 3
    assert len(begun(folder)) == 3


def test_workers_do_not_outlive_a_sweep_that_was_killed(folder: Path) -> None:
    sweep = start_sweep(folder, "data.text=slow")
    wait_for(lambda: begun(folder))
    (worker,) = pids(folder / "sweep")
    sweep.kill()
    sweep.communicate()
    wait_for(lambda: not alive(worker))
    assert begun(folder)[0].read_log()[-1] == {"saved": True}
    assert run_planted(folder / "sweep" / JOBS, "0").run == str(begun(folder)[0].path.absolute())
