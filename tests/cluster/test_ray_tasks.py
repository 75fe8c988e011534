"""Ray: a cluster of two cores on this machine, whose workers are killed in the middle of their tasks."""

import sys
from pathlib import Path

import pytest
from planted_jobs import planted, run_planted

from inscape.cli import main
from inscape.cluster import local, ray_tasks
from inscape.cluster.jobs import job_log, read_done
from inscape.cluster.sweep import _default_workers, run_missing
from inscape.core.rundir import RunDir, find_runs


def test_a_killed_worker_is_replaced_and_the_rest_is_done(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="needs the extra `cluster`")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    jobs = planted(folder, "data.text=killed,shaky,a,broken")
    errors = run_missing(folder / "sweep", jobs, ray_tasks.run, 2, run_planted)
    assert errors == {"0003": "RuntimeError: of two lines"}
    done = [read_done(folder / "sweep", job) for job in jobs]
    assert [each and each.outcome for each in done] == ["PASS", "PASS", "PASS", None]
    assert done[0] is not None
    first, second = RunDir(Path(done[0].run)).read_log()
    assert first != second, "two workers, one run"
    assert len(list(find_runs(folder / "runs"))) == 4
    assert job_log(folder / "sweep", "0003").read_text().count("about to break") == 2, "tried once more, not oftener"


def test_on_this_machine_as_many_jobs_run_at_a_time_as_it_has_cores_or_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "default_workers", lambda jobs: min(jobs, 2))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert _default_workers("ray", 500) == 2
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert _default_workers("ray", 500) == 500, "a cluster's scheduler knows what it has"


def test_without_ray_the_extra_is_named_and_nothing_written(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["sweep", "visual.P0", "--preset", "smoke", "--runner", "ray"]) == 2
    assert "the Ray runner needs the package ray: pip install 'inscape[cluster]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
