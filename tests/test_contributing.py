"""CONTRIBUTING's recipes: their files are put in place, as by one who copies them, and must then do as they say."""

import importlib
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from architecture_rules import MODULE_RULES, read_modules
from test_contract import docstring_offences, order_offences

import inscape.metrics
import inscape.studies
from inscape import cli
from inscape.core.gate import Outcome
from inscape.core.rundir import RunDir
from inscape.core.runner import Request, run_study
from inscape.core.standing import judge
from inscape.core.study import Study
from inscape.show import study_rows

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = {
    match[1]: textwrap.dedent(match[0]).partition("\n")[2]
    for match in re.finditer(r"^    # src/(inscape/\S+)\n(?:(?:    .*)?\n)+", TEXT, re.M)
}


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that holds the recipes' files, from which the package's own imports are then also made."""
    before = set(sys.modules)
    for name, source in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    (tmp_path / "inscape/studies/coins/__init__.py").write_text('"""Coins."""\n', encoding="utf-8")
    for package in (inscape.studies, inscape.metrics):
        added = tmp_path.joinpath(*package.__name__.split("."))
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(added)])
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(("inscape.studies.coins", "inscape.metrics.alternation")):
            del sys.modules[name]


def coins() -> Study:
    return importlib.import_module("inscape.studies.coins.study").STUDY


def coin() -> ModuleType:
    return importlib.import_module("inscape.studies.coins.coin")


def thrown(root: Path, *overrides: str, preset: str = "quick") -> RunDir:
    study = coins()
    request = Request(preset=preset, root=root, overrides=overrides)
    (run,) = run_study(study, study.phases, request, lambda _: None, lambda _: None)
    return run


def test_each_recipe_has_its_files() -> None:
    studies = [f"inscape/studies/coins/{name}" for name in ("study.py", "coin.py", "coin.yaml")]
    assert list(FILES) == [*studies, "inscape/metrics/alternation.py"]


def test_the_files_keep_the_rules_of_the_house(copied: Path) -> None:
    modules = read_modules(copied)
    assert len(modules) == 4
    assert [offence for rule in MODULE_RULES for module in modules for offence in rule(module)] == []
    phase = FILES["inscape/studies/coins/coin.py"]
    assert order_offences(phase) == docstring_offences(phase) == []
    assert max(len(line) for source in FILES.values() for line in source.splitlines()) <= 120


def test_the_study_is_listed_with_a_phase_that_keeps_the_contract(copied: Path) -> None:
    (row,) = study_rows([coins()])
    (phase,) = coins().phases
    assert row["phases"][0]["presets"] == ["smoke", "quick", "small", "full"] == list(phase.preset_names)
    assert all(isinstance(phase.preset(name), phase.config) for name in phase.preset_names)
    assert row["hypothesis"].endswith(".")
    assert phase.question.endswith("?")
    assert {criterion.role for criterion in phase.gate.criteria} == {"claim", "control"}
    assert all(criterion.why for criterion in phase.gate.criteria)


@pytest.mark.parametrize("preset", ["smoke", "quick"])
def test_a_fair_coin_passes(copied: Path, preset: str) -> None:
    assert judge(thrown(copied / "runs", preset=preset)).outcome is Outcome.PASS


@pytest.mark.parametrize("heads", [0.0, 0.4, 0.6, 1.0])
def test_a_loaded_coin_fails(copied: Path, heads: float) -> None:
    assert judge(thrown(copied / "runs", f"heads={heads}")).outcome is Outcome.FAIL


def test_who_sees_every_coin_as_fair_is_no_instrument(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coin(), "throw", lambda heads, throws, rng: np.arange(throws) % 2 == 0)
    assert judge(thrown(copied / "runs")).outcome is Outcome.INVALID


def test_a_study_of_a_coin_is_run_from_the_command_line(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inscape.studies, "all_studies", lambda: (coins(),))
    monkeypatch.setattr(cli, "_finish", lambda run: None)
    assert cli.main(["run", "coins", "--preset", "smoke", "--out", str(copied / "runs")]) == 0
    assert "coins.C0 seed 0: PASS" in capsys.readouterr().err
    assert cli.main(["run", "coins", "heads=2", "--out", str(copied / "runs")]) == 2
    assert capsys.readouterr().err == "inscape: heads=2.0 is out of range; allowed: 0 to 1\n"


def test_the_metric_is_what_its_recipe_asks_for(copied: Path) -> None:
    alternation = importlib.import_module("inscape.metrics.alternation").alternation
    there_and_back_N = np.arange(101) % 2 == 0
    assert alternation(there_and_back_N).value == 1, "a closed form: of 50 pairs all differ, and one throw is left over"
    assert alternation(there_and_back_N).n == 50
    chance = alternation(np.random.default_rng(0).random(10_000) < 0.5)
    assert chance.low < 0.5 < chance.high, "the planted world"
    assert alternation(np.ones(100, dtype=bool)).high < 0.1, "a coin with one side"
    assert not alternation(np.zeros(1, dtype=bool)).measured, "nothing to count"
    with pytest.raises(ValueError, match=r"throws are int64 of shape \(2, 2\); allowed: bool \(N,\)"):
        alternation(np.zeros((2, 2), dtype=np.int64))
