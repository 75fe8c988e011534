"""One job: done once, resumed where it stopped, started through the runner past a gate that is shut."""

from pathlib import Path

import pytest
from planted_jobs import planted, run_planted

from inscape.cluster import job as job_module
from inscape.cluster.__main__ import main
from inscape.cluster.jobs import JOBS, Done, job_folder, read_begun, read_done, write_begun
from inscape.core.rundir import RunDir, find_runs
from inscape.core.standing import standing
from inscape.core.study import Context


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


def test_a_job_is_done_once(folder: Path) -> None:
    (one,) = planted(folder, "n=20")
    done = run_planted(folder / "sweep" / JOBS, "0")
    (run,) = find_runs(folder / "runs")
    assert done == Done(str(run.path), "PASS") == read_done(folder / "sweep", one)
    assert (run.path / RunDir.REPORT).is_file()
    env = run.read_json(RunDir.ENV)
    assert (env["overrides"], env["seed"], env["despite_gate"]) == ({"n": 20}, 0, None)
    before = contents(folder)
    assert run_planted(folder / "sweep" / JOBS, "0000") == done
    assert contents(folder) == before, "nothing was touched"


def test_a_mistyped_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main([JOBS])
    assert leaving.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m inscape.cluster: ")
    assert line.endswith("required: ID; see python -m inscape.cluster --help")


def test_a_run_that_was_begun_is_resumed(folder: Path) -> None:
    (one,) = planted(folder, "data.text=shaky")
    path, place = folder / "sweep" / JOBS, folder / "sweep"
    with pytest.raises(RuntimeError, match="planted fault"):
        run_planted(path, "0")
    (run,) = find_runs(folder / "runs")
    assert read_begun(place, one) == str(run.path)
    assert read_done(place, one) is None
    assert run_planted(path, "0").run == str(run.path)
    assert len(list(find_runs(folder / "runs"))) == 1, "no second run was begun"
    assert len(run.read_log()) == 2, "it went on in its folder"


def test_killed_between_verdict_and_marker_it_only_needs_its_marker(folder: Path) -> None:
    (one,) = planted(folder, "n=20")
    path = folder / "sweep" / JOBS
    done = run_planted(path, "0")
    (folder / "sweep" / one.done).unlink()
    (Path(done.run) / RunDir.REPORT).unlink()
    assert run_planted(path, "0") == done
    assert len(RunDir(Path(done.run)).read_log()) == 1, "it was not measured again"
    assert (Path(done.run) / RunDir.REPORT).is_file()


def test_a_run_that_was_taken_away_is_begun_anew(folder: Path) -> None:
    import shutil

    planted(folder, "data.text=shaky")
    path = folder / "sweep" / JOBS
    with pytest.raises(RuntimeError):
        run_planted(path, "0")
    (run,) = find_runs(folder / "runs")
    shutil.rmtree(run.path)
    with pytest.raises(RuntimeError):
        run_planted(path, "0")
    assert run_planted(path, "0").outcome == "PASS"


def test_a_run_that_is_no_longer_there_is_run_again(folder: Path) -> None:
    import shutil

    planted(folder, "n=20")
    path = folder / "sweep" / JOBS
    done = run_planted(path, "0")
    shutil.rmtree(done.run)
    again = run_planted(path, "0")
    assert (Path(again.run) / RunDir.METRICS).is_file()


def test_a_run_that_is_beyond_use_is_run_again_beside_it(folder: Path) -> None:
    planted(folder, "n=20")
    path = folder / "sweep" / JOBS
    done = run_planted(path, "0")
    (Path(done.run) / RunDir.METRICS).unlink()
    again = run_planted(path, "0")
    assert (again.run != done.run, again.outcome) == (True, "PASS")


def test_a_run_of_another_job_is_not_gone_on_with(folder: Path) -> None:
    (one, _) = planted(folder, "n=20,30")
    path, place = folder / "sweep" / JOBS, folder / "sweep"
    other = run_planted(path, "1")
    write_begun(place, one, Path(other.run))
    done = run_planted(path, "0")
    assert done.run != other.run
    assert RunDir(Path(done.run)).read_json(RunDir.ENV)["overrides"] == {"n": 20}


def test_a_run_on_an_older_text_is_not_gone_on_with(folder: Path, tmp_path_factory, monkeypatch) -> None:
    """`shaky` is what the job does, and the name of a file as well."""
    (folder / "shaky").write_text("a red ball\n")
    (one,) = planted(folder, "data.text=shaky")
    path, place = folder / "sweep" / JOBS, folder / "sweep"
    with pytest.raises(RuntimeError, match="planted fault"):
        run_planted(path, "0")
    (folder / "shaky").write_text("a blue ball\n")
    with pytest.raises(RuntimeError, match="planted fault"):
        run_planted(path, "0")
    assert len(list(find_runs(folder / "runs"))) == 2, "the second text has a run of its own"
    done = run_planted(path, "0")
    assert len(list(find_runs(folder / "runs"))) == 2, "which is gone on with"
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert read_done(place, one) == done
    (folder / "shaky").write_text("a green ball\n")
    assert read_done(place, one) is None, "wherever it is asked from"


def test_a_run_goes_on_in_a_folder_that_it_fills_itself(folder: Path) -> None:
    (folder / "shaky").mkdir()
    (one,) = planted(folder, "data.text=shaky")
    path, place = folder / "sweep" / JOBS, folder / "sweep"
    with pytest.raises(RuntimeError, match="planted fault"):
        run_planted(path, "0")
    (folder / "shaky" / "a.wav").write_bytes(b"1234")
    run_planted(path, "0")
    assert len(list(find_runs(folder / "runs"))) == 1
    assert read_done(place, one) is not None
    (folder / "shaky" / "b.wav").write_bytes(b"5")
    assert read_done(place, one) is None


def test_a_preset_that_has_changed_since_is_not_run_under_its_old_name(folder: Path) -> None:
    planted(folder, "n=20")
    (folder / "presets.yaml").write_text("quick: {drift: 0.1}\n")
    with pytest.raises(
        ValueError, match=r"toy\.P1's preset quick has changed since the sweep was asked for; delete .*"
    ):
        run_planted(folder / "sweep" / JOBS, "0")
    assert not list(find_runs(folder / "runs"))


def test_a_mistake_that_shows_only_in_the_run_leaves_none_behind(folder: Path, monkeypatch) -> None:
    import planted_jobs

    def refuse(context: Context) -> None:
        raise ValueError("no such corpus")

    planted(folder, "n=20")
    path = folder / "sweep" / JOBS
    with monkeypatch.context() as patch:
        patch.setattr(planted_jobs, "behave", refuse)
        with pytest.raises(ValueError, match="no such corpus"):
            run_planted(path, "0")
    assert not list(find_runs(folder / "runs"))
    assert run_planted(path, "0").outcome == "PASS"


def test_a_shut_gate_is_walked_past_and_that_is_recorded(folder: Path) -> None:
    import planted_jobs
    from planted_jobs import toy

    from inscape.cluster.jobs import write_jobs
    from inscape.cluster.product import make_jobs

    study = toy(folder)
    planted(folder, "signal=0.1")  # P1 fails
    assert run_planted(folder / "sweep" / JOBS, "0").outcome == "FAIL"
    jobs = make_jobs(study, study.phase("P2"), "quick", {}, (0,), folder / "runs")
    write_jobs(folder / "two", jobs)
    assert planted_jobs.run_planted(folder / "two" / JOBS, "0").outcome == "PASS"
    (run,) = find_runs(folder / "runs", phase="P2")
    assert run.read_json(RunDir.ENV)["despite_gate"] == "a sweep (two, job 0000) compares runs"
    assert not standing(study, study.phase("P2"), "quick", folder / "runs").open


def test_a_sweep_of_seeds_alone_opens_what_run_would(folder: Path) -> None:
    from planted_jobs import toy

    planted(folder)
    run_planted(folder / "sweep" / JOBS, "0")
    study = toy(folder)
    assert standing(study, study.phase("P1"), "quick", folder / "runs").open


def test_a_smoke_job_has_no_gate_to_walk_past(folder: Path) -> None:
    planted(folder, preset="smoke")
    run_planted(folder / "sweep" / JOBS, "0")
    (run,) = find_runs(folder / "runs")
    assert run.read_json(RunDir.ENV)["despite_gate"] is None


def test_relative_paths_are_meant_from_where_the_sweep_was_asked(folder: Path, tmp_path_factory, monkeypatch) -> None:
    (one,) = planted(folder, "n=20")
    path = folder / "sweep" / JOBS
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    run_planted(path, "0")
    assert Path.cwd() == elsewhere
    assert not list(elsewhere.iterdir())
    (folder / "sweep" / one.done).unlink()
    path.write_text(path.read_text().replace(f'"cwd": "{folder}"', '"cwd": "/nowhere"'))
    with pytest.raises(ValueError, match=r"/nowhere, where the sweep was asked for, is not a folder of this machine"):
        job_module.run_job(path, "0")


def test_a_job_that_another_process_has_is_waited_for_and_then_left(folder: Path, monkeypatch) -> None:
    (one,) = planted(folder, "n=20")
    monkeypatch.setattr(job_module, "PATIENCE_SEC", 0.3)
    place = job_folder(folder / "sweep", one.id)
    place.mkdir(parents=True)
    with RunDir(place).exclusive(), pytest.raises(ValueError, match="is being run by another process"):
        run_planted(folder / "sweep" / JOBS, "0")
    assert not list(find_runs(folder / "runs"))
    assert run_planted(folder / "sweep" / JOBS, "0").outcome == "PASS"


def test_what_the_other_process_has_done_meanwhile_is_not_done_again(folder: Path, monkeypatch) -> None:
    planted(folder, "n=20")
    path = folder / "sweep" / JOBS
    done = run_planted(path, "0")
    before_the_lock = iter([None])
    monkeypatch.setattr(job_module, "read_done", lambda *words: next(before_the_lock, done))
    monkeypatch.setattr(job_module, "write_done", lambda *words: pytest.fail("it was done already"))
    assert run_planted(path, "0") == done
