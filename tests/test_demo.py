"""The demo: which phases it runs, that it stops at the first that cannot, and what it says of itself."""

import pytest

from inscape import demo
from inscape.core.estimate import exact, proportion
from inscape.core.gate import Criterion, Gate
from inscape.core.rundir import FORMAT, RunDir, find_runs

GATE = Gate([Criterion("found", at_least=0.5), Criterion("kept", at_least=0.9, source="calibrated")])


def spoken(monkeypatch: pytest.MonkeyPatch, tmp_path, *statuses: int) -> list[str]:
    """The targets of the runs that the demo asks for, each of which answers with the next status."""
    asked, answers = [], iter(statuses)

    def inscape(words: list[str]) -> int:
        assert words[2:6] == ["--preset", "quick", "--seed", "0"]
        asked.append(words[1])
        return next(answers, 0)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "inscape", inscape)
    assert demo.main([]) == max(statuses, default=0)
    return asked


def test_the_demo_climbs_from_p0_to_p5_and_leaves_out_what_is_optional(monkeypatch, tmp_path):
    assert spoken(monkeypatch, tmp_path) == [f"visual.P{i}" for i in range(6)]


def test_the_demo_stops_at_a_phase_that_cannot_run(monkeypatch, tmp_path):
    assert spoken(monkeypatch, tmp_path, 0, 2) == ["visual.P0", "visual.P1"]


@pytest.mark.parametrize("words", [["--preset", "smoke"], ["small"]])
def test_words_that_it_would_not_follow_are_refused_before_it_trains(monkeypatch, capsys, words):
    monkeypatch.setattr(demo, "inscape", lambda words: pytest.fail("it has begun"))
    with pytest.raises(SystemExit) as left:
        demo.main(words)
    assert left.value.code == 2
    assert capsys.readouterr().err == (
        f"inscape demo: unrecognized arguments: {' '.join(words)}; see inscape demo --help\n"
    )


def test_its_help_says_how_long_it_takes_and_starts_nothing(monkeypatch, capsys):
    monkeypatch.setattr(demo, "inscape", lambda words: pytest.fail("it has begun"))
    monkeypatch.setattr("sys.argv", ["demo.py", "--help"])
    with pytest.raises(SystemExit) as left:
        demo.main()
    assert left.value.code == 0
    assert "6 to 8 minutes on 2 cores" in " ".join(capsys.readouterr().out.split())


def finished(phase: str, kept: float) -> RunDir:
    """A run of the visual study that has found everything and kept a share."""
    run = RunDir.create(demo.RUNS, "visual", phase, "quick", "0a1b2c3d", 0)
    asked = {"format": FORMAT, "study": "visual", "phase": phase, "preset": "quick", "seed": 0, "device": "cpu"}
    asked |= {"fingerprint": "0a1b2c3d", "overrides": {}, "remedies": [], "despite_gate": None, "inputs": {}}
    metrics = {"found": exact(1.0, 9, "scenes"), "kept": proportion(round(kept * 1000), 1000, "scenes")}
    run.write_json(RunDir.ENV, asked)
    run.write_json(RunDir.GATE, GATE.to_json())
    run.write_json(RunDir.METRICS, {name: estimate.to_json() for name, estimate in metrics.items()})
    run.write_json(RunDir.VERDICT, GATE.judge(metrics).to_json())
    return run


def played(monkeypatch: pytest.MonkeyPatch, tmp_path, capsys, **kept: float) -> str:
    """What the demo prints if each of its runs passes, but for those phases whose share is given."""

    def inscape(words: list[str]) -> int:
        if words[0] == "run":
            phase = words[1].removeprefix("visual.")
            finished(phase, kept.get(phase, 1.0))
        print(f"<{words[0]}>")
        return 0

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(demo, "inscape", inscape)
    assert demo.main([]) == 0
    return capsys.readouterr().out


def test_one_table_of_the_verdicts_of_this_demo_stands_before_the_sentences(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    finished("P1", kept=0.0)  # of another day
    said = played(monkeypatch, tmp_path, capsys, P3=0.4)
    table = said[said.rindex("<run>") : said.index("<encode>")]
    rows = [line for line in table.splitlines() if "visual." in line]
    assert [row.split("visual.")[1][:2] for row in rows] == list(demo.PHASES)
    assert [outcome for row in rows for outcome in ("PASS", "FAIL") if outcome in row.split("│")[3]] == [
        *("PASS", "PASS", "PASS"),
        *("FAIL", "PASS", "PASS"),
    ]
    assert [i for i, row in enumerate(rows) if "kept >= 0.9 (0.4 [0.37" in row] == [3], "what it missed, with how much"


def test_where_a_phase_leaves_no_run_there_is_no_table(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    for phase in demo.PHASES:
        finished(phase, kept=1.0)  # of another day
    monkeypatch.setattr(demo, "inscape", lambda words: 0)
    assert demo.main([]) == 0
    assert capsys.readouterr().out == ""


def test_it_ends_with_what_its_verdicts_mean_and_with_commands_as_the_user_types_them(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("INSCAPE_COMMAND", "./inscape")
    said = played(monkeypatch, tmp_path, capsys)
    last = list(find_runs(demo.RUNS, "visual", "P5"))[-1]
    assert f"Read the report:      {last.path}/report.html\n" in said
    assert "or ./inscape status\n" in said
    assert said.splitlines()[-2:] == [
        "Minutes of training are too few for what P2 to P5 ask: a FAIL of theirs above is expected.",
        "What the preset small reached, seed by seed, stands in results/README.md.",
    ]
