"""Committed evidence whose gate or config is not today's says so in its table."""

from dataclasses import replace
from pathlib import Path

from planted_study import MakeWorld

from inscape.core.gate import Criterion, Gate
from inscape.core.standing import standing
from inscape.core.study import Study
from inscape.report import collect
from inscape.report.tables import result_tables
from inscape.report.today import EARLIER


def test_a_verdict_by_a_gate_or_of_a_config_that_is_not_todays_says_so(
    world: MakeWorld, presets: Path, tmp_path: Path
) -> None:
    w = world()
    (run,) = w.run("P1")
    (by_hand,) = w.run("P1", overrides=("signal=1.0",))
    results = tmp_path / "evidence"
    for each in (run, by_hand):
        collect(each, results)

    def rows(today: Study) -> list[str]:
        tables = result_tables(results, tmp_path, studies=(today,))
        found = (line for line in tables.splitlines() if line.startswith("| [toy.P1]"))
        said = [line.rstrip(" |").rpartition("| ")[2].split("; ") for line in found]
        return ["; ".join(word for word in words if "earlier" in word) for words in said]

    first, *others = w.study.phases
    assert rows(w.study) == ["", ""]
    stricter = replace(first, gate=Gate((*first.gate.criteria, Criterion("recall", at_least=0.1, why="also"))))
    assert rows(replace(w.study, phases=(stricter, *others))) == ["by an earlier gate"] * 2
    presets.write_text("quick: {drift: 0.001}\n")
    assert rows(w.study) == ["by an earlier config", ""], "what was changed by hand is compared by its gate alone"
    assert rows(replace(w.study, name="other")) == ["", ""], "nothing is said of a study that is no more"
    presets.write_text("full:\n")
    assert rows(w.study) == ["by an earlier config"] * 2, "a config that cannot be asked for any more"


def test_what_was_built_on_evidence_that_does_not_count_says_so(
    world: MakeWorld, presets: Path, tmp_path: Path
) -> None:
    w = world()
    results = tmp_path / "evidence"
    for run in w.run("P1", "P2", "P3"):
        collect(run, results)

    def said(today: Study) -> list[str]:
        tables = result_tables(results, tmp_path, studies=(today,))
        rows = (line.rstrip(" |").split("; ")[1:] for line in tables.splitlines() if line.startswith("| [toy."))
        return ["; ".join(word for word in words if word in EARLIER) for words in rows]

    assert said(w.study) == ["", "", ""]
    first, *others = w.study.phases
    stricter = replace(first, gate=Gate((*first.gate.criteria, Criterion("recall", at_least=0.1, why="also"))))
    built = "built on what no longer counts"
    assert said(replace(w.study, phases=(stricter, *others))) == ["by an earlier gate", built, built]


def test_evidence_on_a_corpus_is_found_by_what_was_built_on_it(world: MakeWorld, tmp_path: Path) -> None:
    w = world()
    corpus = ("data.size=3",)
    results = tmp_path / "evidence"
    for run in w.run(overrides=corpus):
        collect(run, results)
    assert {path.parent.name for path in results.glob("toy/*/*/seed-0")} == {"quick+data.size=3"}
    assert standing(w.study, w.study.phase("P3"), "quick", results, corpus).open
    assert not standing(w.study, w.study.phase("P3"), "quick", results).open, "nor does it open the declared corpus"
    assert not any(word in result_tables(results, tmp_path, studies=(w.study,)) for word in EARLIER)
