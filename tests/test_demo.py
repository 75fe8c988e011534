"""The demo: which phases it runs, and that it stops at the first that cannot."""

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
    assert demo.main() == max(statuses, default=0)
    return asked


def test_the_demo_climbs_from_p0_to_p5_and_leaves_out_what_is_optional(monkeypatch, tmp_path):
    assert spoken(monkeypatch, tmp_path) == [f"visual.P{i}" for i in range(6)]


def test_the_demo_stops_at_a_phase_that_cannot_run(monkeypatch, tmp_path):
    assert spoken(monkeypatch, tmp_path, 0, 2) == ["visual.P0", "visual.P1"]
