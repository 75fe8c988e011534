"""The file of jobs and the marks beside it: read as they were written, refused in one line when they are damaged."""

import json
from pathlib import Path

import pytest
from planted_jobs import planted, run_planted

from inscape.cluster.jobs import (
    JOBS,
    Job,
    find_job,
    read_begun,
    read_done,
    read_jobs,
    run_of,
    write_done,
    write_jobs,
)
from inscape.core.rundir import RunDir


def test_jobs_are_read_as_they_were_written(folder: Path) -> None:
    jobs = planted(folder, "data.text='','a,b'", "n=1,2")
    path = folder / "sweep" / JOBS
    assert read_jobs(path) == jobs
    first = json.loads(path.read_text().splitlines()[0])
    assert list(first) == ["id", "study", "phase", "preset", "overrides", "seed", "out", "cwd", "done", "config"]
    assert first["done"] == "jobs/0000/done.json"
    assert find_job(path, "3") == find_job(path, "0003") == jobs[3]
    for number in ("4", "-1", "x", ""):
        with pytest.raises(ValueError, match=r"has no job .*; there are 0 to 3"):
            find_job(path, number)


def test_the_same_jobs_are_left_alone_and_others_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(folder, "n=1,2")
    path = folder / "sweep" / JOBS
    before = path.stat().st_mtime_ns
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    planted(folder, "n=1,2")
    assert path.stat().st_mtime_ns == before, "written once"
    assert read_jobs(path)[0].cwd == str(folder), "relative paths are meant from where it was first asked"
    with pytest.raises(ValueError, match=r"holds another sweep: 2 jobs of toy\.P1, preset quick.*another folder with"):
        planted(folder, "n=1,2,3")
    with pytest.raises(ValueError, match="is not a folder; give another with --sweep"):
        write_jobs(folder / "presets.yaml", read_jobs(path))


def test_a_preset_that_has_changed_is_named_and_not_another_sweep(folder: Path) -> None:
    planted(folder, "n=1,2")
    (folder / "presets.yaml").write_text("quick: {drift: 0.1}\n")
    with pytest.raises(
        ValueError, match=r"toy\.P1's preset quick has changed since .*; delete .*sweep/jobs\.jsonl, and"
    ):
        planted(folder, "n=1,2")
    with pytest.raises(ValueError, match="holds another sweep: 2 jobs"):
        planted(folder, "n=1,2,3")
    (folder / "sweep" / JOBS).unlink()
    jobs = planted(folder, "n=1,2")
    assert read_jobs(folder / "sweep" / JOBS) == jobs


def test_the_documentation_names_every_field() -> None:
    told = (Path(__file__).parents[2] / "docs/scaling.md").read_text(encoding="utf-8")
    assert f"    jobs.jsonl            one JSON object a line: {', '.join(Job._fields)}\n" in told


def change(**fields):
    return lambda lines: [lines[0], json.dumps(json.loads(lines[1]) | fields)]


def without_config(lines):
    fields = json.loads(lines[1])
    del fields["config"]
    return [lines[0], json.dumps(fields)]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda lines: [lines[0], lines[1][:-9]], "line 2, is damaged ("),
        (lambda lines: [lines[0], "7"], "line 2, is damaged (it holds no object)"),
        (lambda lines: [lines[0], "7" * 5000], "line 2, is damaged (Exceeds the limit"),
        (lambda lines: [lines[0], '{"id": "0001"}'], "line 2, is damaged (missing or unknown: config, cwd"),
        (
            without_config,
            "line 2, is damaged (it is of an earlier version, and does not name its run's config); delete",
        ),
        (change(more=1), "missing or unknown: more"),
        (change(seed="1"), "of a wrong type: seed"),
        (change(overrides=[1]), "of a wrong type: overrides"),
        (lambda lines: [lines[1], lines[0]], "line 1, is damaged (id 0001 is not 0000)"),
        (lambda lines: [], "is damaged: it is empty"),
    ],
)
def test_a_damaged_file_is_one_line(folder: Path, damage, said: str) -> None:
    planted(folder, "n=1,2")
    path = folder / "sweep" / JOBS
    path.write_text("\n".join(damage(path.read_text().splitlines())))
    with pytest.raises(ValueError, match=r".+") as refusal:
        read_jobs(path)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_not_there_or_not_text_is_one_line(folder: Path) -> None:
    with pytest.raises(ValueError, match="does not exist; inscape sweep writes one"):
        read_jobs(folder / JOBS)
    (folder / JOBS).write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="cannot be read"):
        read_jobs(folder / JOBS)


def test_marks_are_of_one_job_and_no_other(folder: Path) -> None:
    one, two = planted(folder, "n=1,2")
    place = folder / "sweep"
    assert read_done(place, one) is read_begun(place, one) is None
    done = run_planted(place / JOBS, "0")
    assert read_begun(place, one) == done.run
    assert read_done(place, one) == done
    assert read_done(place, two) is None
    assert read_done(place, one._replace(seed=9)) is None, "a mark that another job has left in this folder"
    (place / one.done).write_text('{"job": 3}')
    with pytest.raises(ValueError, match=r"done\.json is damaged; delete it, and the job is run again"):
        read_done(place, one)
    for damaged in ("{", "7" * 5000):
        (place / one.done).write_text(damaged)
        with pytest.raises(ValueError, match=r"done\.json is damaged \("):
            read_done(place, one)


def test_what_a_job_has_come_to_is_asked_of_its_run(folder: Path) -> None:
    (one,) = planted(folder, "n=20")
    place = folder / "sweep"
    done = run_planted(place / JOBS, "0")
    write_done(place, one, done._replace(outcome="TOTALLY PASS"))
    assert read_done(place, one) == done
    run = RunDir(Path(done.run))
    metrics = run.read_json(RunDir.METRICS)
    run.write_json(RunDir.METRICS, metrics | {"recall": metrics["recall"] | {"value": 0.1, "low": 0.1, "high": 0.1}})
    assert read_done(place, one) == done._replace(outcome="FAIL")


@pytest.mark.parametrize(
    "change",
    [
        {"study": "other"},
        {"phase": "P2"},
        {"preset": "full"},
        {"seed": 1},
        {"fingerprint": "ffffffff"},
    ],
)
def test_a_marker_of_a_run_of_anything_else_is_none(folder: Path, change: dict) -> None:
    (one,) = planted(folder, "n=20")
    place = folder / "sweep"
    run = RunDir(Path(run_planted(place / JOBS, "0").run))
    assert run_of(one, str(run.path)) is not None
    run.write_json(RunDir.ENV, run.read_json(RunDir.ENV) | change)
    assert run_of(one, str(run.path)) is None
    assert read_done(place, one) is None


@pytest.mark.parametrize("name", [RunDir.METRICS, RunDir.GATE, RunDir.ENV])
def test_a_marker_of_a_damaged_run_is_none(folder: Path, name: str) -> None:
    (one,) = planted(folder, "n=20")
    run = RunDir(Path(run_planted(folder / "sweep" / JOBS, "0").run))
    (run.path / name).write_text("{")
    assert read_done(folder / "sweep", one) is None


def test_a_folder_that_cannot_be_made_is_one_line(folder: Path) -> None:
    jobs = planted(folder, "n=1")
    (folder / "file").write_text("")
    for place in (folder / "file" / "sweep", folder / ("x" * 300)):
        with pytest.raises(
            ValueError, match=r"a sweep cannot be kept in .*; choose another folder with --sweep or --out"
        ):
            write_jobs(place, jobs)
