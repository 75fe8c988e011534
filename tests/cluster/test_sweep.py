"""The verb: a sweep of a real phase from the words to the table; what it refuses; the same words again."""

import json
import subprocess
import sys
from pathlib import Path

import planted_jobs
import pytest
from planted_jobs import TOY

from inscape.cli import main
from inscape.cluster.jobs import JOBS
from inscape.core.rundir import RunDir, find_runs
from inscape.explore.runs import list_runs

P0 = ("sweep", "visual.P0", "draws=100,101", "--preset", "smoke", "--workers", "2")


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_sweep_of_a_real_phase_and_the_same_again(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*P0, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    place = Path(document["sweep"])
    assert place.parent == Path("runs/sweeps")
    assert (document["done"], document["left"]) == (2, 0)
    assert [job["overrides"] for job in document["jobs"]] == [["draws=100"], ["draws=101"]]
    for job in document["jobs"]:
        run = RunDir.open(job["run"])
        assert run.read_json(RunDir.VERDICT)["outcome"] == job["outcome"] == "PASS"
        assert (run.path / RunDir.REPORT).is_file()
        assert Path(job["log"]).read_text().endswith(f"visual.P0 seed 0: {job['outcome']}\n")
    index = (empty / "runs/index.html").read_text()
    assert "jobs/000" not in index, "what the sweep keeps of its jobs is no run"
    listed = list_runs(empty / "runs")
    assert (len(listed["studies"]), listed["unreadable"]) == (1, [])
    assert all(Path(job["run"]).name in index for job in document["jobs"])
    before = {str(p): p.stat().st_mtime_ns for p in empty.rglob("*") if p.is_file() and p.name != "index.html"}
    assert main([*P0]) == 0
    captured = capsys.readouterr()
    assert "2 jobs, 2 done before" in captured.err
    assert captured.out.count("PASS") == 2
    now = {str(p): p.stat().st_mtime_ns for p in empty.rglob("*") if p.is_file() and p.name != "index.html"}
    assert {p: t for p, t in now.items() if not p.endswith(".lock")} == {
        p: t for p, t in before.items() if not p.endswith(".lock")
    }
    assert len(list(find_runs(empty / "runs"))) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("visual draws=100", "name one phase: visual.P0, visual.P1"),
        ("visual.P9 draws=100", "no phase 'P9'"),
        ("nothing.P0", "there is no study 'nothing'"),
        ("visual.P0 draws=100,3", "draws=3 is out of range; allowed: 100 or more"),
        ("visual.P0 drawz=1,2", "did you mean draws"),
        ("visual.P0 draws", "is not key=a,b,c"),
        ("visual.P0 data.text=missing.txt", "missing.txt"),
        ("visual.P0 --seeds 0,x", "'x' is no seed"),
        ("visual.P0 --seeds=", "is no seed"),
        ("visual.P0 --workers 0", "--workers 0; allowed: 1 to 1000"),
        ("visual.P0 --runner cloud", "invalid choice: 'cloud'"),
        ("visual.P0 draws=100 --out /dev/null", "runs cannot be kept under /dev/null: /dev/null is a file"),
        ("visual.P0 draws=100 --out /dev/null/x", "runs cannot be kept under /dev/null/x: /dev/null is a file"),
        (f"visual.P0 draws=100 --out {'x' * 300}", "choose another folder with --out"),
        ("visual.P0 draws=100 --sweep /dev/null/x", "a sweep cannot be kept in /dev/null/x"),
        ("visual.P1 weights.tv=1,2", "visual.P0 has no finished quick run under runs for P1 to build on"),
        ("visual.P5 data.text=mine.txt --preset smoke", "mine.txt"),
    ],
)
def test_nonsense_is_one_line_and_nothing_is_written(empty: Path, capsys, words: str, said: str) -> None:
    assert main(["sweep", *words.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert said in line
    assert list(empty.iterdir()) == []


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """`inscape sweep` over the planted study; its jobs are run one after the other in this process."""
    from inscape.cluster import sweep
    from inscape.cluster.attempt import AttemptFailed, Result, attempt

    def one_by_one(path, ids, run_one, workers, retries):
        assert path.is_absolute(), "a worker may be in another folder, and of another machine"
        for number in ids:
            try:
                attempt(planted_jobs.run_planted, str(path), number)
                yield Result(number)
            except AttemptFailed as error:
                yield Result(number, str(error))

    monkeypatch.setitem(sweep.RUNNERS, "local", one_by_one)


@pytest.mark.usefixtures("by_hand")
def test_a_job_that_failed_is_named_at_the_end_and_missing_the_next_time(folder: Path, capsys) -> None:
    words = ["sweep", TOY, "data.text=shaky,a", "n=30", "--sweep", "mine"]
    assert main(words) == 1
    captured = capsys.readouterr()
    last = captured.err.splitlines()[-1]
    assert last == (
        "job 0000 (data.text=shaky n=30 seed 0) failed: RuntimeError: of two lines; its log: mine/jobs/0000/log.txt"
    )
    assert ("failed" in captured.out, captured.out.count("PASS")) == (True, 1)
    assert main([*words, "--json"]) == 0
    captured = capsys.readouterr()
    assert "2 jobs, 1 done before: mine" in captured.err
    assert [job["outcome"] for job in json.loads(captured.out)["jobs"]] == ["PASS", "PASS"]
    assert main(["sweep", TOY, "n=1,2", "--sweep", "mine"]) == 2
    assert "mine holds another sweep" in capsys.readouterr().err
    lines = (folder / "mine" / JOBS).read_text()
    (folder / "mine" / JOBS).write_text(lines[:-5])
    assert main(words) == 2
    assert "line 2, is damaged" in capsys.readouterr().err


@pytest.mark.usefixtures("by_hand")
def test_after_an_edit_of_the_text_every_seed_is_run_again(folder: Path, capsys) -> None:
    (folder / "mine.txt").write_text("one\n")
    words = ["sweep", TOY, "data.text=mine.txt", "--seeds", "0,1"]
    assert main(words) == main(words) == 0
    assert "2 jobs, 2 done before" in capsys.readouterr().err
    (folder / "mine.txt").write_text("two\n")
    assert main(words) == 0
    assert "2 jobs, 0 done before" in capsys.readouterr().err
    assert len(list(find_runs(folder / "runs"))) == 4


@pytest.mark.usefixtures("by_hand")
def test_a_second_sweep_at_the_same_time_is_refused(folder: Path, capsys) -> None:
    words = ["sweep", TOY, "n=10,20", "--sweep", "mine"]
    (folder / "mine").mkdir()
    with RunDir(folder / "mine").exclusive():
        assert main(words) == 2
    assert "mine is being run by another process; wait for it, or stop it first" in capsys.readouterr().err
    assert not list(find_runs(folder / "runs"))
    assert main(words) == 0


@pytest.mark.usefixtures("by_hand")
def test_a_failed_sweep_of_nothing_writes_no_index(folder: Path) -> None:
    assert main(["sweep", TOY, "data.text=broken"]) == 1
    assert not (folder / "runs/index.html").exists()


def test_a_job_by_hand(folder: Path) -> None:
    planted_jobs.planted(folder, "n=10")

    def call(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "inscape.cluster", *words], capture_output=True, text=True, check=False
        )
        return done.returncode, done.stderr

    assert call("missing.jsonl", "0") == (
        2,
        f"inscape.cluster: {folder}/missing.jsonl does not exist; inscape sweep writes one\n",
    )
    assert call("sweep/jobs.jsonl", "7") == (
        2,
        f"inscape.cluster: {folder}/sweep/jobs.jsonl has no job '7'; there are 0 to 0\n",
    )
