"""The README's tables: made from the evidence, idempotent, and the real README's are up to date."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest
from planted_runs import ATTACK, OUTCOMES, planted_across_seeds, planted_run

from inscape.core.rundir import RunDir
from inscape.report import collect, update_readme
from inscape.report.tables import BEGIN, END, result_tables, with_tables
from inscape.studies import all_studies

ROOT = Path(__file__).parents[2]


def test_the_readme_is_up_to_date() -> None:
    stale = update_readme(ROOT / "README.md", ROOT / "results", write=False, studies=all_studies())
    assert not stale, "run: python -m inscape.report results --readme README.md"


def test_no_results_are_said_to_be_none(tmp_path: Path) -> None:
    assert result_tables(tmp_path / "results", tmp_path) == "No results have been committed yet."


def test_the_tables_say_what_the_evidence_says(tmp_path: Path) -> None:
    runs, results = tmp_path / "runs", tmp_path / "results"
    planted_across_seeds(runs, 0.01)
    for run in (
        planted_run(runs, seed=0),
        planted_run(runs, seed=1, metrics=OUTCOMES["FAIL"]),
        planted_run(runs, phase="P0"),
        planted_run(runs, study="audio-structure", phase="T1", words={"study_title": "Hearing"}),
    ):
        collect(run, results)
    tables = result_tables(results, tmp_path)
    assert tables.index("**Hearing**") < tables.index("**Seeing words**")
    assert tables.index("[visual.P0](results/visual/P0/quick)") < tables.index("[visual.P1](results/visual/P1/quick)")
    summary = next(line for line in tables.splitlines() if line.startswith("| [visual.P1]"))
    cells = [cell.strip() for cell in summary.strip("|").split("|")]
    assert cells[1:] == [
        "quick",
        "0, 1",
        "seed 0 ✓ pass, seed 1 ✗ fail",
        "✓ pass",
        "✓ pass",
        "seed 0 ✓ pass, seed 1 ✗ fail",
    ]
    assert "| accuracy | plan | at least 0.9 | 0.95 [0.93, 0.97] ✓ | 0.5 ✗ |" in tables
    assert "| spread of accuracy at most 0.05 | across seeds | | 0.01 ✓ | |" in tables


def test_a_verdict_without_all_declared_seeds_is_not_in_yet(tmp_path: Path) -> None:
    collect(planted_run(tmp_path / "runs", seed=1, words={"seeds": [0, 1, 2]}), tmp_path / "results")
    changed = planted_run(tmp_path / "runs", seed=1, words={"seeds": [0, 1, 2]}, overrides={"steps": 3})
    collect(changed, tmp_path / "results")
    declared, own = (
        line for line in result_tables(tmp_path / "results", tmp_path).splitlines() if "[visual.P1]" in line
    )
    assert "| 1 (of 0, 1, 2) |" in declared
    assert declared.endswith("| ✓ pass; not in yet: seeds 0, 2 |")
    assert "| 1 |" in own
    assert own.endswith("| ✓ pass |")


def test_nor_without_those_that_a_corpus_asks_for(tmp_path: Path) -> None:
    words = {"seeds": [0, 1]}
    corpus = {"corpus": ["data.text=own.tsv"], "overrides": {"data.text": "own.tsv"}}
    collect(planted_run(tmp_path / "runs", words=words, **corpus), tmp_path / "results")
    row = next(line for line in result_tables(tmp_path / "results", tmp_path).splitlines() if "[visual.P1]" in line)
    assert "| quick, data.text=own.tsv | 0 (of 0, 1) |" in row
    assert row.endswith("| ✓ pass; not in yet: seed 1 |")


@pytest.mark.parametrize(
    ("dirty", "said"),
    [
        ((True, True), "| ✓ pass; uncommitted changes |"),
        ((False, True), "| ✓ pass; uncommitted changes (seed 1) |"),
        ((False, False), "| ✓ pass |"),
    ],
)
def test_evidence_of_code_that_no_commit_holds_is_marked(tmp_path: Path, dirty: tuple[bool, bool], said: str) -> None:
    for seed, git_dirty in enumerate(dirty):
        collect(planted_run(tmp_path / "runs", seed=seed, git_dirty=git_dirty), tmp_path / "results")
    row = next(line for line in result_tables(tmp_path / "results", tmp_path).splitlines() if "[visual.P1]" in line)
    assert row.endswith(said)


def test_seeds_under_different_configs_are_no_plain_pass(tmp_path: Path) -> None:
    for seed, config in enumerate(("aaaaaaaa", "bbbbbbbb")):
        words = {"seeds": [[7], 0, 1]}  # of which one is none
        collect(planted_run(tmp_path / "runs", seed=seed, words=words, fingerprint=config), tmp_path / "results")
    planted_across_seeds(tmp_path / "results", 0.01)
    row = next(line for line in result_tables(tmp_path / "results", tmp_path).splitlines() if "[visual.P1]" in line)
    assert "| 0, 1 |" in row
    assert row.endswith(
        "| ! unreadable (across_seeds.json is of other runs than these) | ✓ pass; seeds under different configs |"
    )


def test_nor_are_seeds_that_read_different_contents(tmp_path: Path) -> None:
    own = {"corpus": ["data.text=x"], "overrides": {"data.text": "x"}, "words": {"seeds": [0, 1]}}
    for seed in (0, 1):
        run = planted_run(tmp_path / "runs", seed=seed, corpus_contents={"data.text=x": f"sha256:0{seed}"}, **own)
        collect(run, tmp_path / "results")
    row = next(line for line in result_tables(tmp_path / "results", tmp_path).splitlines() if "[visual.P1]" in line)
    assert row.endswith("| ✓ pass; seeds of different contents |")


def test_a_collected_across_seeds_is_of_the_collected_runs(tmp_path: Path) -> None:
    runs = [planted_run(tmp_path / "runs", seed=seed, fingerprint="0123abcd") for seed in (0, 1)]
    planted_across_seeds(tmp_path / "runs", 0.01, *runs, fingerprint="0123abcd")
    for run in runs:
        collect(run, tmp_path / "results")
    assert "| ✓ pass | ✓ pass |" in result_tables(tmp_path / "results", tmp_path)
    other = runs[1].path.rename(runs[1].path.with_name("20010101T000000-0123abcd-s1"))
    collect(RunDir(other), tmp_path / "results")
    assert "across_seeds.json is of other runs than these" in result_tables(tmp_path / "results", tmp_path)


def test_figures_that_their_verdict_does_not_confirm_are_no_pass(tmp_path: Path) -> None:
    place = collect(planted_run(tmp_path / "runs"), tmp_path / "results")
    (place / "metrics.json").write_text((place / "metrics.json").read_text().replace("0.95", "0.96"))
    tables = result_tables(tmp_path / "results", tmp_path)
    assert "| ! unreadable |" in tables
    assert "✓ pass" not in tables
    assert "* seed 0: verdict.json says something else" in tables


def test_every_row_has_as_many_cells_as_its_head(tmp_path: Path) -> None:
    planted_across_seeds(tmp_path / "runs", 0.01)
    for seed in (0, 1, 2):
        collect(planted_run(tmp_path / "runs", seed=seed, words={"question": "a|b\nc"}), tmp_path / "results")
    lines = result_tables(tmp_path / "results", tmp_path).splitlines()
    tables = [list(rows) for is_table, rows in groupby(lines, key=lambda line: line.startswith("|")) if is_table]
    assert [len(table) for table in tables] == [3, 6]
    for table in tables:
        assert {line.count("|") for line in table} == {table[0].count("|")}


def test_words_cannot_become_html_or_cells(tmp_path: Path) -> None:
    words = {"study_title": ATTACK, "phase_name": f"{ATTACK}|x", "question": ATTACK}
    collect(planted_run(tmp_path / "runs", words=words), tmp_path / "results")
    tables = result_tables(tmp_path / "results", tmp_path)
    assert "<script" not in tables
    assert "&lt;script" in tables
    assert "&#124;x" in tables


def test_damaged_evidence_is_named(tmp_path: Path) -> None:
    place = collect(planted_run(tmp_path / "runs"), tmp_path / "results")
    (place / "metrics.json").write_text("{")
    tables = result_tables(tmp_path / "results", tmp_path)
    assert "! unreadable" in tables
    assert "metrics.json is damaged" in tables


def test_writing_twice_changes_nothing_more(tmp_path: Path) -> None:
    collect(planted_run(tmp_path / "runs"), tmp_path / "results")
    readme = tmp_path / "README.md"
    readme.write_text(f"# before\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    assert update_readme(readme, tmp_path / "results", write=False)
    assert "old" in readme.read_text()
    assert update_readme(readme, tmp_path / "results")
    once = readme.read_text()
    assert not update_readme(readme, tmp_path / "results")
    assert readme.read_text() == once
    assert once.startswith("# before\n")
    assert once.endswith("\nafter\n")
    assert "old" not in once
    place = tmp_path / "results/visual/P1/quick/seed-0/metrics.json"
    place.write_text(place.read_text().replace("0.95", "0.96"))
    assert update_readme(readme, tmp_path / "results", write=False)


@pytest.mark.parametrize("named", ["result", "docs"])
def test_a_mistyped_folder_of_results_empties_no_table(tmp_path: Path, named: str) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/page.md").touch()
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\nmany figures\n{END}\n")
    with pytest.raises(ValueError, match=f"{named} holds no committed runs; give the folder that they were collected"):
        update_readme(readme, tmp_path / named)
    assert "many figures" in readme.read_text()
    assert not (tmp_path / named / "README.md").exists()


def test_a_folder_that_has_nothing_yet_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results/.gitkeep").touch()
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    assert update_readme(readme, tmp_path / "results")
    assert not update_readme(readme, tmp_path / "results")
    assert "No results have been committed yet." in readme.read_text()


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}", f"{END}{BEGIN}{END}"])
def test_a_text_without_its_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="results:begin"):
        with_tables(text, "x")


def test_a_missing_readme_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"README\.md cannot be read"):
        update_readme(tmp_path / "README.md", tmp_path)
