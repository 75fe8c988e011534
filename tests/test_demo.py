"""The demo: which phases it runs, that it stops at the first that cannot, and what it says of itself."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from inscape import demo


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


def test_it_ends_with_what_its_verdicts_mean_and_with_commands_as_the_user_types_them(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INSCAPE_COMMAND", "./inscape")
    monkeypatch.setattr(demo, "inscape", lambda words: 0)
    run = SimpleNamespace(finished=True, path=Path("runs/here"), REPORT="report.html")
    monkeypatch.setattr(demo, "find_runs", lambda *place: [run])
    assert demo.main([]) == 0
    said = capsys.readouterr().out
    assert "or ./inscape status\n" in said
    assert said.splitlines()[-2:] == [
        "Minutes of training are too few for what P2 to P5 ask: a FAIL of theirs above is expected.",
        "What the preset small reached, seed by seed, stands in results/README.md.",
    ]
