"""Collected evidence: it replays the verdict, and says nothing of the machine."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
from planted_runs import OUTCOMES, planted_across_seeds, planted_run

from inscape.core.rundir import RunDir
from inscape.core.standing import judge
from inscape.report import collect, evidence, write_report
from inscape.report.__main__ import main
from inscape.report.evidence import _without_paths
from inscape.report.tables import result_tables


def test_a_copy_replays_the_verdict_and_holds_no_log_or_checkpoint(tmp_path: Path) -> None:
    run = planted_run(tmp_path / "runs", seed=3, metrics=OUTCOMES["PARTIAL"])
    (run.checkpoints / "step_10").mkdir(parents=True)
    planted_across_seeds(tmp_path / "runs", 0.01)
    place = collect(run, tmp_path / "results")
    assert place == tmp_path / "results/visual/P1/quick/seed-3"
    assert {p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file()} == {
        "config.yaml",
        "gate.json",
        "env.json",
        "metrics.json",
        "verdict.json",
        "figures/a.png",
        "figures/b.png",
        "figures/captions.json",
    }
    assert judge(RunDir.open(place)) == judge(run)
    assert (place.parent / "across_seeds.json").is_file()
    assert [p.name for p in place.parent.iterdir() if p.name.startswith(".")] == []
    assert "missing" not in write_report(RunDir(place)).read_text(encoding="utf-8")


def test_a_run_copied_to_a_place_of_another_shape_is_collected(tmp_path: Path) -> None:
    copy = tmp_path / "one/two/three/four"
    copy.parent.mkdir(parents=True)
    run = RunDir(planted_run(tmp_path / "runs").path.rename(copy))
    planted_across_seeds(tmp_path, 0.01)  # four folders up, and not of these runs
    place = collect(run, tmp_path / "results")
    assert judge(RunDir.open(place)).passed
    assert not (place.parent / "across_seeds.json").exists()


def test_collecting_again_replaces_the_older_copy(tmp_path: Path) -> None:
    collect(planted_run(tmp_path / "runs", metrics=OUTCOMES["FAIL"]), tmp_path / "results")
    place = collect(planted_run(tmp_path / "runs"), tmp_path / "results")
    assert judge(RunDir(place)).passed
    assert len(list(place.parent.iterdir())) == 1


def test_a_seed_that_was_run_again_says_so(tmp_path: Path) -> None:
    """With each run of one seed and config, what rounding does to a training is another draw."""
    run, results = planted_run(tmp_path / "runs"), tmp_path / "results"
    planted_run(tmp_path / "runs", seed=1)
    collect(run, results)
    assert "runs" not in result_tables(results, tmp_path)
    shutil.copytree(run.path, run.path.with_name(f"30{run.path.name[2:]}"))
    collect(run, results)
    assert "the last of 2 runs" in result_tables(results, tmp_path)


@pytest.mark.parametrize("stop", [OSError(errno.EACCES, "Permission denied"), KeyboardInterrupt()])
def test_where_the_newer_copy_finds_no_place_the_older_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    run = planted_run(tmp_path / "runs")
    place = collect(run, tmp_path / "results")
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if target == place and not self.name.endswith(".older"):
            raise stop
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(type(stop)):
            collect(run, tmp_path / "results", figures=False)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
    assert list(place.parent.iterdir()) == [place]


def test_a_file_that_cannot_be_removed_costs_neither_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = planted_run(tmp_path / "runs")
    place = collect(run, tmp_path / "results")
    (place / "metrics.json").write_text("older")

    def rmtree(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(evidence.shutil, "rmtree", rmtree)
    assert main([str(tmp_path / "results"), "--collect", str(run.path)]) == 2
    assert judge(RunDir.open(place)) == judge(run)
    (older,) = (path for path in place.parent.iterdir() if path != place)
    assert (older / "metrics.json").read_text() == "older"
    said = f"inscape.report: {older} cannot be read or written: Permission denied; give another folder or file\n"
    assert capsys.readouterr().err == said


def test_nothing_of_the_machine_is_kept(tmp_path: Path) -> None:
    run = planted_run(
        tmp_path / "runs",
        inputs={"P0": "/home/ada/inscape/runs/visual/P0/quick/20260101T000000-aa-s0"},
        command=["inscape", "run", "visual.P1", "--out=/home/ada/runs", r"data.text=C:\Users\ada\my.txt", "~/x/y"],
        overrides={"data.text": "/home/ada/text.txt", "data.codec": "lyra:/home/ada/lyra", "url": "https://a.b/c"},
        corpus=["data.text=/home/ada/text.txt", "data.codec=lyra:/home/ada/lyra"],
        corpus_contents={
            "data.text=/home/ada/text.txt": f"sha256:{'0a' * 32}",
            "data.codec=lyra:/home/ada/lyra": f"sha256:{'0b' * 32}",
        },
    )
    (run.path / run.CONFIG).write_text("data:\n  text: /home/ada/text.txt\n")
    run.write_json("pack.json", {"sha256": "abc"})
    place = collect(run, tmp_path / "results")
    everything = "".join(p.read_text() for p in place.glob("*.*"))
    assert "ada" not in everything
    assert "somehost" not in everything
    env = json.loads((place / "env.json").read_text())
    assert env["inputs"] == {"P0": "visual/P0/quick/20260101T000000-aa-s0"}
    assert env["command"] == ["inscape", "run", "visual.P1", "--out=runs", "data.text=my.txt", "y"]
    assert env["platform"] == "Linux x86_64"
    words = ["data.text=text.txt", "data.codec=lyra:lyra"]
    assert env["corpus"] == list(env["corpus_contents"]) == words, "the words still fit each other"
    assert env["overrides"] == {"data.text": "text.txt", "data.codec": "lyra:lyra", "url": "https://a.b/c"}
    assert f"Contents of data.text=text.txt</dt><dd><code>sha256:{'0a' * 32}" in write_report(RunDir(place)).read_text()
    assert env["hashes"] == {"pack.sha256": "abc"}
    assert run.path.name.startswith(env["started"])
    assert (place / "config.yaml").read_text() == "data:\n  text: text.txt\n"


def test_a_studys_own_report_is_kept_without_paths_and_figures_only_if_wanted(tmp_path: Path) -> None:
    run = planted_run(tmp_path / "runs")
    (run.path / "phase0").mkdir()
    (run.path / "phase0" / "report.txt").write_text("Corpus: /home/ada/speech, 3 hours\nVR/VR adj 0.9\n")
    (run.path / "phase0" / "decision.json").write_text('{"outcome": "FAIL"}')
    (run.path / "frontier.csv").write_text("compressor,ratio\npca,2\n")
    (run.path / "phase0" / "frames.bin").write_text("large")
    place = collect(run, tmp_path / "results", figures=False)
    assert (place / "phase0/report.txt").read_text() == "Corpus: speech, 3 hours\nVR/VR adj 0.9\n"
    assert (place / "phase0/decision.json").read_text() == '{"outcome": "FAIL"}'
    assert (place / "frontier.csv").read_text() == "compressor,ratio\npca,2\n", "a table that lies in the run itself"
    assert not (place / "phase0/frames.bin").exists()
    assert not (place / "figures").exists()
    assert main([str(tmp_path / "results"), "--collect", str(run.path), "--no-figures"]) == 0
    assert not (place / "figures").exists()
    assert main([str(tmp_path / "results"), "--collect", str(run.path)]) == 0
    assert (place / "figures").exists()


@pytest.mark.parametrize("text", ["and/or", "a / b", "https://example.org/a/b", "1/f^2", "visual/P0/quick/x"])
def test_what_is_no_absolute_path_is_left_alone(text: str) -> None:
    assert _without_paths(text) == text


def test_a_home_folder_with_a_space_is_left_out_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada lovelace")
    monkeypatch.setenv("USERPROFILE", "/home/ada lovelace")
    assert _without_paths({"text": ["/home/ada lovelace/runs/a.txt"]}) == {"text": ["a.txt"]}


def test_changed_and_pushed_runs_never_pass_for_the_declared_one(tmp_path: Path) -> None:
    collect(planted_run(tmp_path / "runs"), tmp_path / "results")
    planted_across_seeds(tmp_path / "runs", 0.01)
    changed = collect(planted_run(tmp_path / "runs", overrides={"recipe": "as planned"}), tmp_path / "results")
    pushed = collect(planted_run(tmp_path / "runs", despite_gate="why not"), tmp_path / "results")
    corpus = {"data.text": "../texts/own.tsv", "data.codec": "lyra:../assets/lyra"}
    words = [f"{key}={value}" for key, value in corpus.items()]
    other = collect(planted_run(tmp_path / "runs", overrides=corpus, corpus=words), tmp_path / "results")
    assert other.parent.name == "quick+data.text=own.tsv+data.codec=lyra_lyra"
    assert changed.parent.name == "quick+recipe=as_planned"
    assert pushed.parent.name == "quick+despite-gate"
    assert not (changed.parent / "across_seeds.json").exists()
    assert not (other.parent / "across_seeds.json").exists(), "it is of the runs on the declared corpus"


def test_what_is_no_evidence_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    smoke, unfinished, damaged = (planted_run(tmp_path / "runs", preset=p) for p in ("smoke", "quick", "quick"))
    (unfinished.path / unfinished.VERDICT).unlink()
    (damaged.path / damaged.METRICS).write_text("{")
    for run, said in ((smoke, "smoke"), (unfinished, "not finished"), (damaged, "metrics.json is damaged")):
        with pytest.raises(ValueError, match=said):
            collect(run, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_the_command_collects_writes_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, results, readme = planted_run(tmp_path / "runs"), tmp_path / "results", tmp_path / "README.md"
    readme.write_text("<!-- results:begin -->\n<!-- results:end -->\n")
    assert main([str(results), "--collect", str(run.path)]) == 0
    assert main([str(results), "--readme", str(readme), "--check"]) == 1
    assert main([str(results), "--readme", str(readme)]) == 0
    assert "visual.P1" in readme.read_text()
    assert main([str(results), "--readme", str(readme), "--check"]) == 0
    assert capsys.readouterr().err == ""
    assert main([str(results), "--collect", str(tmp_path)]) == 2
    told = capsys.readouterr()
    assert "not a run folder" in told.err
    assert told.err.count("\n") == 1


def test_a_place_that_takes_no_evidence_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("")
    assert main([str(readme), "--collect", str(planted_run(tmp_path / "runs").path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"inscape.report: {readme}")
    assert line.endswith(" cannot be read or written: Not a directory; give another folder or file")


@pytest.mark.parametrize(("words", "said"), [([], "required: results"), ([""], "'' names no file or folder")])
def test_a_mistyped_command_is_one_line(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(words)
    assert leaving.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m inscape.report: ")
    assert line.endswith(f"{said}; see python -m inscape.report --help")


def test_a_check_of_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, run = tmp_path / "results", planted_run(tmp_path / "runs")
    assert main([str(results), "--check", "--collect", str(run.path)]) == 2
    assert capsys.readouterr().err == (
        "inscape.report: --check compares the tables of a file; name it with --readme, such as --readme README.md\n"
    )
    assert not results.exists()
    (tmp_path / "README.md").write_text("<!-- results:begin -->\n<!-- results:end -->\n")
    assert main([str(results), "--readme", str(tmp_path / "README.md"), "--check"]) == 2
    assert "results holds no committed runs" in capsys.readouterr().err
