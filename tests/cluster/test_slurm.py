"""The batch file, run by bash with a stand-in for SLURM's commands; and submitit, on this machine."""

import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from planted_jobs import planted, run_planted, wait_for

from inscape.cli import main
from inscape.cluster import slurm
from inscape.cluster.jobs import JOBS, read_done
from inscape.cluster.sweep import run_missing
from inscape.core.rundir import find_runs

HERE = str(Path(__file__).parent)
BY_HAND = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import planted_jobs, inscape.studies
inscape.studies.study = lambda name: planted_jobs.toy(Path.cwd())
from inscape.cluster.__main__ import main
sys.exit(main(sys.argv[2:]))
"""


def stand_in(folder: Path, srun: str) -> dict[str, str]:
    """An environment whose srun is `srun`, and whose scontrol writes down what it was asked."""
    tools = folder / "tools"
    tools.mkdir()
    for name, body in {"srun": srun, "scontrol": f'echo "$*" >> {tools}/asked'}.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    return {"PATH": f"{tools}:/usr/bin:/bin", "SLURM_ARRAY_JOB_ID": "77", "OMP_NUM_THREADS": "1"}


def test_the_batch_file_of_a_sweep(folder: Path) -> None:
    jobs = planted(folder, "n=10,20,30")
    place = folder / "sweep"
    text = slurm.write_script(place, jobs, 2).read_text()
    assert (place / slurm.SCRIPT).read_text() == text
    assert "#SBATCH --array=0-2%2\n" in text
    assert "#SBATCH --array=0-2\n" in slurm.batch_script(place, jobs, None)
    assert "#SBATCH --signal=TERM@120\n#SBATCH --requeue\n" in text
    assert f'#SBATCH --output="{place}/jobs/%4a/log.txt"\n#SBATCH --open-mode=append\n' in text
    assert "\n#SBATCH" not in text[text.index("\nset ") :], "what comes after a command is no directive"
    assert all((place / "jobs" / job.id).is_dir() for job in jobs), "SLURM makes no folders for its logs"
    assert subprocess.run(["bash", "-n", place / slurm.SCRIPT], check=True).returncode == 0


def test_a_folder_with_strange_signs_is_quoted(folder: Path) -> None:
    jobs = planted(folder, "n=10")
    text = slurm.batch_script(folder / "100% of it's", jobs, None)
    assert "100%% of it's/jobs/%4a/log.txt" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=True).returncode == 0


def test_without_slurm_the_file_is_written_and_the_same_command_collects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    words = ["sweep", "visual.P0", "draws=100", "--preset", "smoke", "--runner", "slurm", "--sweep", "my sweep"]
    assert main(words) == 1, "nothing has been run"
    captured = capsys.readouterr()
    script = tmp_path / "my sweep" / slurm.SCRIPT
    assert "nothing is submitted, for there is no sbatch on this machine. Where it can be: sbatch" in captured.err
    assert "not run" in captured.out
    env = stand_in(tmp_path, 'shift; exec "$@"')
    done = subprocess.run(["bash", script], env=env | {"SLURM_ARRAY_TASK_ID": "0"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "PASS: " in done.stdout
    (run,) = find_runs(tmp_path / "runs")
    assert run.finished
    assert main(words) == 0
    assert "1 job, 1 done before" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "restarts", "asked"),
    [(130, 0, "requeue 77_3\n"), (130, 100, None), (1, 0, None), (0, 0, None)],
)
def test_what_was_interrupted_and_saved_is_queued_again(folder: Path, status: int, restarts: int, asked) -> None:
    script = slurm.write_script(folder / "sweep", planted(folder, "n=10"), None)
    env = stand_in(folder, f"exit {status}") | {"SLURM_ARRAY_TASK_ID": "3", "SLURM_RESTART_COUNT": str(restarts)}
    assert subprocess.run(["bash", script], env=env, check=False).returncode == status
    record = folder / "tools/asked"
    assert (record.read_text() if record.exists() else None) == asked


@pytest.mark.parametrize(("cpus", "asked"), [("8", "--ntasks=1 --cpus-per-task=8 "), (None, "--ntasks=1 /")])
def test_the_step_has_the_cpus_that_the_job_was_given(folder: Path, cpus: str | None, asked: str) -> None:
    """Of an allocation's --cpus-per-task srun takes nothing over by itself, since SLURM 22.05."""
    script = slurm.write_script(folder / "sweep", planted(folder, "n=10"), None)
    env = stand_in(folder, f'echo "$*" > {folder}/words') | {"SLURM_ARRAY_TASK_ID": "0"}
    env |= {"SLURM_CPUS_PER_TASK": cpus} if cpus else {}
    assert subprocess.run(["bash", script], env=env, check=False).returncode == 0
    assert (folder / "words").read_text().startswith(asked)


@pytest.mark.parametrize("doing", ["told", "slow"])
def test_a_job_whose_time_is_up_ends_to_be_queued_again(folder: Path, doing: str) -> None:
    """`told` is told while it measures, `slow` while it trains, which saves."""
    planted(folder, f"data.text={doing}")
    words = [sys.executable, "-c", BY_HAND, HERE, "sweep/jobs.jsonl", "0"]
    with subprocess.Popen(words, cwd=folder, stderr=subprocess.PIPE, text=True) as job:
        if doing == "slow":
            wait_for(lambda: any(run.read_log() for run in find_runs(folder / "runs")))
            time.sleep(0.2)  # from the line in its log to where it waits for the signal
            job.terminate()
        assert job.wait(30) == 130
        assert job.stderr is not None
        (line,) = job.stderr.read().splitlines()
    assert line.startswith("inscape.cluster: ")
    assert subprocess.run(words, cwd=folder, check=False).returncode == 0
    (run,) = find_runs(folder / "runs")
    assert ({"saved": True} in run.read_log()) == (doing == "slow")


def test_submitit_queues_a_job_again_as_often_as_the_batch_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class Executor:
        def __init__(self, **words: Any) -> None:
            asked.update(words)

        def update_parameters(self, **words: Any) -> None:
            asked.update(words)

    monkeypatch.setattr(slurm, "load_extra", lambda *words: SimpleNamespace(AutoExecutor=Executor))
    monkeypatch.delenv(slurm.CPUS, raising=False)
    assert list(slurm.run(folder / JOBS, [], run_planted, 1, 1)) == []
    assert asked["slurm_max_num_timeout"] == slurm.MOST_REQUEUES == 100
    assert asked["slurm_signal_delay_s"] == 120
    assert "cpus_per_task" not in asked, "the site's default"
    monkeypatch.setenv("SRUN_CPUS_PER_TASK", "8")
    assert list(slurm.run(folder / JOBS, [], run_planted, 1, 1)) == []
    assert asked["cpus_per_task"] == 8


@pytest.mark.parametrize("given", ["0", "x", "-2", "1.5"])
def test_cpus_that_cannot_be_given_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, given: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SRUN_CPUS_PER_TASK", given)
    assert main(["sweep", "visual.P0", "--preset", "smoke", "--runner", "slurm"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        f"SRUN_CPUS_PER_TASK={given}; allowed: a whole number from 1 on; unset it for the site's default"
    )
    assert list(tmp_path.iterdir()) == []


def test_why_nothing_can_be_submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert slurm.why_not() == "there is no sbatch on this machine"
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/sbatch")
    monkeypatch.setattr(slurm, "find_spec", lambda name: None)
    assert "submitit is not installed: pip install 'inscape[cluster]'" in slurm.why_not()
    monkeypatch.setattr(slurm, "find_spec", lambda name: "found")
    assert slurm.why_not() == ""


def test_submitit_runs_the_jobs_and_tries_the_failed_ones_again(folder: Path, monkeypatch, capsys) -> None:
    pytest.importorskip("submitit", reason="needs the extra `cluster`")
    monkeypatch.setenv("PYTHONPATH", HERE)
    jobs = planted(folder, "data.text=a,shaky,killed,broken")
    runner = partial(slurm.run, cluster="local", poll_sec=0.1)
    errors = run_missing(folder / "sweep", jobs, runner, 4, run_planted)
    assert errors == {"0003": "RuntimeError: of two lines"}
    assert [bool(read_done(folder / "sweep", job)) for job in jobs] == [True, True, True, False]
    assert "job 0002 failed and is tried again: ended without a result, state" in capsys.readouterr().err
    assert len(list(find_runs(folder / "runs"))) == 4, "each went on in its run"


def test_without_submitit_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ValueError, match=r"SLURM runner needs the package submitit: pip install 'inscape\[cluster\]'"):
        next(slurm.run(folder / JOBS, ["0000"], run_planted, 1, 1))
