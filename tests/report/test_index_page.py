"""index.html: every run in its place, trends that leave out what does not count, and nothing that stops it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from planted_runs import ATTACK, OUTCOMES, planted_across_seeds, planted_run
from test_run_page import text_of, unbalanced

from inscape.core.estimate import exact
from inscape.core.rundir import RunDir
from inscape.report import write_index, write_report
from inscape.report.record import natural_key, run_folders


def index_of(root: Path) -> str:
    page = write_index(root).read_text(encoding="utf-8")
    assert not unbalanced(page)
    return page


def at(run: RunDir, day: int) -> RunDir:
    """The same run, as if started on another day."""
    moved = run.path.with_name(f"202601{day:02d}T000000{run.path.name[15:]}")
    run.path.rename(moved)
    return RunDir(moved)


def rung(page: str, code: str) -> str:
    """The text of one rung of the ladder."""
    return text_of(re.search(rf"<li[^>]*><b>{code}</b>.*?</li>", page, re.S)[0])  # type: ignore[index]


def test_an_empty_root_gives_an_empty_index(tmp_path: Path) -> None:
    assert "0 runs" in text_of(index_of(tmp_path))


def test_studies_phases_and_presets_stand_apart(tmp_path: Path) -> None:
    for study, phase, preset in (
        ("visual", "P1", "quick"),
        ("visual", "P1", "smoke"),
        ("visual", "P0", "small"),
        ("audio-structure", "T1", "quick"),
    ):
        run = planted_run(tmp_path, study=study, phase=phase, preset=preset, words={"study_title": f"About {study}"})
        write_report(run)
    page = index_of(tmp_path)
    text = text_of(page)
    assert "4 runs" in text
    assert text.index("About audio-structure audio-structure") < text.index("About visual visual")
    assert text.index("visual.P0") < text.index("visual.P1")
    links = re.findall(r'href="([^"#]+)"', page)
    assert len(links) == 4
    assert all((tmp_path / link).is_file() and link.endswith("report.html") for link in links)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_outcome_is_shown(tmp_path: Path, outcome: str) -> None:
    planted_run(tmp_path, metrics=OUTCOMES[outcome])
    assert f'class="badge {outcome} "' in index_of(tmp_path)


def test_the_ladder_shows_the_newest_declared_run_of_each_seed(tmp_path: Path) -> None:
    seeds = {"seeds": [0, 1]}
    at(planted_run(tmp_path, seed=0, metrics=OUTCOMES["FAIL"], words=seeds), 1)
    at(planted_run(tmp_path, seed=0, words=seeds), 2)
    at(planted_run(tmp_path, seed=0, metrics=OUTCOMES["INVALID"], words=seeds, despite_gate="impatience"), 3)
    at(planted_run(tmp_path, seed=0, metrics=OUTCOMES["INVALID"], words=seeds, overrides={"lr": 1}), 4)
    page = index_of(tmp_path)
    assert "unfinished" in rung(page, "P1")  # seed 1 is declared and missing
    assert "seed 0 ✓" in rung(page, "P1")
    assert "not run yet" in rung(page, "P0")
    assert "not run yet" in rung(page, "P2")
    at(planted_run(tmp_path, seed=1, words=seeds), 5)
    assert "quick: ✓ pass seed 0 ✓ · seed 1 ✓" in rung(index_of(tmp_path), "P1")
    at(planted_run(tmp_path, seed=1, metrics=OUTCOMES["FAIL"], words=seeds), 6)
    assert "quick: ✗ fail seed 0 ✓ · seed 1 ✗" in rung(index_of(tmp_path), "P1")


def test_each_corpus_has_a_ladder_of_its_own(tmp_path: Path) -> None:
    own = {"corpus": ["data.text=own.tsv"], "overrides": {"data.text": "own.tsv"}}
    at(planted_run(tmp_path, metrics={"accuracy": exact(0.2, 9, "scenes")} | OUTCOMES["FAIL"], **own), 1)
    page = index_of(tmp_path)
    assert "quick on data.text=own.tsv: ✗ fail seed 0 ✗" in rung(page, "P1")
    assert "config changed" not in page
    at(planted_run(tmp_path, **own), 2)
    at(planted_run(tmp_path, metrics=OUTCOMES["INVALID"]), 3)
    at(
        planted_run(
            tmp_path, metrics=OUTCOMES["FAIL"], corpus=own["corpus"], overrides={"data.text": "own.tsv", "lr": 1}
        ),
        4,
    )
    planted_across_seeds(tmp_path, 0.5)  # of the declared corpus's runs
    page = index_of(tmp_path)
    told = rung(page, "P1")
    assert "quick: ⊘ invalid seed 0 ⊘ · across seeds ✗" in told
    assert "quick on data.text=own.tsv: ✓ pass seed 0 ✓" in told
    assert told.index("quick:") < told.index("quick on")
    assert told.count("across seeds") == 1
    text = text_of(page)
    assert "quick 1 run" in text
    assert "quick on data.text=own.tsv 3 runs" in text
    assert "config changed: lr=1" in text
    assert "2 values, last 0.95" in page, "a trend is of one corpus, and of no run that was changed by hand"


def test_across_seeds_is_shown_and_shuts_the_rung(tmp_path: Path) -> None:
    planted_run(tmp_path)
    planted_across_seeds(tmp_path, 0.01)
    page = index_of(tmp_path)
    assert "Across seeds 0, 1: ✓ pass" in text_of(page)
    assert "spread of accuracy at most 0.05: 0.01 ✓ pass" in text_of(page)
    assert "pass seed 0 ✓ · across seeds ✓" in rung(page, "P1")
    planted_across_seeds(tmp_path, 0.5)
    assert "fail seed 0 ✓ · across seeds ✗" in rung(index_of(tmp_path), "P1")


def test_seeds_under_different_configs_pass_no_rung(tmp_path: Path) -> None:
    seeds = {"seeds": [0, 1]}
    planted_run(tmp_path, seed=0, words=seeds, fingerprint="aaaaaaaa")
    planted_run(tmp_path, seed=1, words=seeds, fingerprint="bbbbbbbb")
    told = rung(index_of(tmp_path), "P1")
    assert "quick: … unfinished seed 0 ✓ · seed 1 ✓ · seeds under different configs" in told


def test_seeds_that_read_other_contents_pass_no_rung(tmp_path: Path) -> None:
    own = {"corpus": ["data.text=x"], "overrides": {"data.text": "x"}, "words": {"seeds": [0, 1]}}
    for seed in (0, 1):
        planted_run(tmp_path, seed=seed, corpus_contents={"data.text=x": "sha256:0a"}, **own)
    assert "quick on data.text=x: ✓ pass seed 0 ✓ · seed 1 ✓" in rung(index_of(tmp_path), "P1")
    at(planted_run(tmp_path, seed=0, corpus_contents={"data.text=x": "sha256:0b"}, **own), 1)
    assert "✓ pass" in rung(index_of(tmp_path), "P1"), "the older run of a seed is not asked"
    planted_run(tmp_path, seed=0, corpus_contents={"data.text=x": "sha256:0b"}, **own)
    told = rung(index_of(tmp_path), "P1")
    assert "unfinished seed 0 ✓ · seed 1 ✓ · seeds of different contents" in told


@pytest.mark.parametrize("name", ["declared seeds", "seeds"])
def test_seeds_that_are_none_do_no_harm(tmp_path: Path, name: str) -> None:
    planted_run(tmp_path, words={"seeds": [[0], None, "1"] if name == "seeds" else {"0": 1}})
    assert "quick: ✓ pass seed 0 ✓" in rung(index_of(tmp_path), "P1")


def test_across_seeds_of_other_runs_is_not_believed(tmp_path: Path) -> None:
    runs = [planted_run(tmp_path, seed=seed, fingerprint="0123abcd") for seed in (0, 1)]
    planted_across_seeds(tmp_path, 0.01, *runs, fingerprint="0123abcd")
    assert "across seeds ✓" in rung(index_of(tmp_path), "P1")
    planted_across_seeds(tmp_path, 0.01, *runs, fingerprint="ffffffff")
    page = index_of(tmp_path)
    assert "across seeds !" in rung(page, "P1")
    assert "! unreadable across_seeds.json is of other runs than these" in text_of(page)
    planted_across_seeds(tmp_path, 0.01, *runs, fingerprint="0123abcd")
    at(planted_run(tmp_path, seed=1, fingerprint="0123abcd"), 1)
    assert "across seeds ✓" in rung(index_of(tmp_path), "P1"), "the older run of a seed is not asked"
    planted_run(tmp_path, seed=1, fingerprint="0123abcd")
    assert "! unreadable across_seeds.json is of other runs than these" in text_of(index_of(tmp_path))


def test_across_seeds_is_worked_out_again(tmp_path: Path) -> None:
    planted_run(tmp_path)
    planted_across_seeds(tmp_path, 0.5)
    path = tmp_path / "visual/P1/quick/across_seeds.json"
    for old, new in (('"outcome": "FAIL"', '"outcome": "PASS"'), ('"at_most": 0.05', '"at_most": 5.0')):
        planted_across_seeds(tmp_path, 0.5)
        path.write_text(path.read_text().replace(old, new))
        page = index_of(tmp_path)
        assert "across seeds !" in rung(page, "P1")
        assert "across_seeds.json says something else than its own figures give" in text_of(page)


@pytest.mark.parametrize("rubbish", ["{", "[]", '{"findings": 3}', '{"outcome": "YES", "seeds": [], "findings": []}'])
def test_a_damaged_across_seeds_is_named(tmp_path: Path, rubbish: str) -> None:
    run = planted_run(tmp_path)
    (run.path.parent / "across_seeds.json").write_text(rubbish)
    assert "across_seeds.json is damaged" in text_of(index_of(tmp_path))


def test_one_run_is_a_trend_of_one_point(tmp_path: Path) -> None:
    planted_run(tmp_path)
    page = index_of(tmp_path)
    assert page.count('class="spark"') == 4
    assert page.count("1 values, last") == 4
    assert 'points="55,13"' in page


def test_trends_go_from_old_to_new_and_leave_out_what_does_not_count(tmp_path: Path) -> None:
    at(planted_run(tmp_path, metrics={"accuracy": exact(0.2, 9, "scenes")}), 1)
    at(planted_run(tmp_path, metrics={"accuracy": exact(0.6, 9, "scenes")}), 2)
    at(planted_run(tmp_path, metrics={"accuracy": exact(0.4, 9, "scenes")}), 3)
    at(planted_run(tmp_path, metrics={"accuracy": exact(9.0, 9, "scenes")}, overrides={"lr": 1}), 4)
    page = index_of(tmp_path)
    assert "3 values, last 0.4" in page
    assert 'points="3,23 55,3 107,13"' in page


def test_damaged_and_foreign_folders_are_named_and_do_no_harm(tmp_path: Path) -> None:
    planted_run(tmp_path)
    (planted_run(tmp_path, phase="P0").path / RunDir.ENV).write_text("{")
    (planted_run(tmp_path, phase="P2").path / RunDir.METRICS).write_text("{")
    (tmp_path / "some" / "other" / "deep" / "folder").mkdir(parents=True)
    (tmp_path / "some" / "file").write_text("x")
    text = text_of(index_of(tmp_path))
    assert "2 runs" in text
    assert "some/other/deep/folder : env.json is missing" in text
    assert "env.json is damaged" in text
    assert "metrics.json is damaged" in text
    assert "unreadable" in text


@pytest.mark.parametrize("place", ["sweeps/visual.P1-0123abcd", "of/mine"])
def test_what_a_sweep_keeps_is_no_run(tmp_path: Path, place: str) -> None:
    run = planted_run(tmp_path)
    (tmp_path / place / "jobs/0000").mkdir(parents=True)
    (tmp_path / place / "jobs.jsonl").write_text("{}\n")
    assert run_folders(tmp_path) == [run.path]
    (tmp_path / "jobs.jsonl").write_text("{}\n")  # a sweep in the folder of the runs itself hides none of them
    assert run_folders(tmp_path) == [run.path]
    (tmp_path / place / "jobs.jsonl").unlink()  # as one is told to where it is damaged
    assert (run_folders(tmp_path) == [run.path]) == place.startswith("sweeps")


def test_words_are_escaped(tmp_path: Path) -> None:
    words = dict.fromkeys(("study_title", "hypothesis", "question", "phase_name"), ATTACK) | {"phases": {"P1": ATTACK}}
    planted_run(tmp_path, despite_gate=ATTACK, overrides={"data": ATTACK}, words=words)
    (planted_run(tmp_path, phase="P2").path / RunDir.ENV).write_text("{")
    page = index_of(tmp_path)
    assert "<script" not in page
    assert "&lt;script" in page


def test_nothing_is_fetched(tmp_path: Path) -> None:
    planted_run(tmp_path)
    page = index_of(tmp_path)
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|<script|<link|@import|\bsrc=", page)


def test_many_runs_fold_the_older_ones_away(tmp_path: Path) -> None:
    for _ in range(14):
        planted_run(tmp_path)
    assert "2 older" in text_of(index_of(tmp_path))


def test_numbers_in_names_sort_as_numbers(tmp_path: Path) -> None:
    for phase in ("P10", "P2", "P1"):
        planted_run(tmp_path, phase=phase)
    assert [folder.parts[-3] for folder in run_folders(tmp_path)] == ["P1", "P2", "P10"]
    assert sorted(["seed-10", "seed-9", "10", "a"], key=natural_key) == ["10", "a", "seed-9", "seed-10"]


@pytest.mark.parametrize("name", ["\u00b2", "P\u2460", "9" * 5000])
def test_digits_that_make_no_number_sort_as_text(tmp_path: Path, name: str) -> None:
    planted_run(tmp_path)
    (tmp_path / "a/b/c" / name[:200]).mkdir(parents=True)
    assert len(run_folders(tmp_path)) == 2
    assert write_index(tmp_path).is_file()
    assert sorted(["a", name, "7"], key=natural_key)[0] == "7"
