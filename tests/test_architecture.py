"""The rules of the house, on the whole package; and for each rule a snippet that breaks it, so that it can fail."""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from architecture_rules import (
    MODULE_RULES,
    Module,
    all_is_sorted_and_true,
    core_stands_alone,
    files_are_short,
    functions_are_short,
    imported_names_are_declared,
    names_say_something,
    nothing_is_pickled,
    opens_with_a_docstring,
    read_modules,
    report_reads_only,
    studies_stay_apart,
)

from inscape.cli import build_parser

SOURCE = Path(__file__).parent.parent / "src"
MODULES = read_modules(SOURCE)

Rule = Callable[[Module], list[str]]


# --- the package keeps the rules ----------------------------------------------------------------------------------


def test_the_package_is_seen() -> None:
    names = {module.name for module in MODULES}
    assert {"inscape", "inscape.core.gate", "inscape.cli", "inscape.studies"} <= names


@pytest.mark.parametrize("rule", MODULE_RULES, ids=lambda rule: rule.__name__)
def test_rule(rule: Rule) -> None:
    assert [offence for module in MODULES for offence in rule(module)] == []


def test_imported_names_are_declared() -> None:
    assert imported_names_are_declared(MODULES) == []


# --- each rule can fail -------------------------------------------------------------------------------------------


def module(path: str, source: str) -> Module:
    return Module(PurePosixPath(path), source)


LONG_FUNCTION = "def f():\n" + "    pass\n" * 60

BROKEN: list[tuple[Rule, str, str]] = [
    (core_stands_alone, "inscape/core/gate.py", "import torch"),
    (core_stands_alone, "inscape/core/gate.py", "import torch.nn as nn"),
    (core_stands_alone, "inscape/core/gate.py", "def f():\n    from torch import nn"),
    (core_stands_alone, "inscape/core/gate.py", "if TYPE_CHECKING:\n    from torch import Tensor"),
    (core_stands_alone, "inscape/core/gate.py", "importlib.import_module('torch')"),
    (core_stands_alone, "inscape/core/gate.py", "from inscape.studies.visual import study"),
    (core_stands_alone, "inscape/core/gate.py", "from inscape import studies"),
    (core_stands_alone, "inscape/core/gate.py", "from ..train import fit"),
    (core_stands_alone, "inscape/core/__init__.py", "from ..train import fit"),
    (studies_stay_apart, "inscape/studies/visual/model.py", "from inscape.studies.audio.study import STUDY"),
    (studies_stay_apart, "inscape/studies/visual/model.py", "from inscape.studies import audio"),
    (studies_stay_apart, "inscape/studies/visual/model.py", "from inscape.studies import all_studies"),
    (studies_stay_apart, "inscape/studies/visual/model.py", "def f():\n    from ..audio import study"),
    (report_reads_only, "inscape/report/page.py", "from inscape.studies import all_studies"),
    (report_reads_only, "inscape/report/page.py", "import torch"),
    (names_say_something, "inscape/core/utils.py", ""),
    (names_say_something, "inscape/helpers/text.py", ""),
    (names_say_something, "inscape/common/__init__.py", ""),
    (files_are_short, "inscape/a.py", "\n" * 401),
    (functions_are_short, "inscape/a.py", LONG_FUNCTION),
    (functions_are_short, "inscape/a.py", "class A:\n" + "".join(f"    {x}\n" for x in LONG_FUNCTION.splitlines())),
    (opens_with_a_docstring, "inscape/a.py", "import os"),
    (opens_with_a_docstring, "inscape/a.py", '""" """'),
    (nothing_is_pickled, "inscape/a.py", "import pickle"),
    (nothing_is_pickled, "inscape/a.py", "from joblib import dump"),
    (nothing_is_pickled, "inscape/a.py", "torch.save(x, path)"),
    (nothing_is_pickled, "inscape/a.py", "torch.load(path)"),
    (nothing_is_pickled, "inscape/a.py", "torch.load(path, weights_only=False)"),
    (nothing_is_pickled, "inscape/a.py", "torch.load(path, weights_only=trusted)"),
    (nothing_is_pickled, "inscape/a.py", "from torch import load"),
    (nothing_is_pickled, "inscape/a.py", "np.load(path, allow_pickle=True)"),
    (nothing_is_pickled, "inscape/a.py", "np.load(path, allow_pickle=trusted)"),
    (all_is_sorted_and_true, "inscape/a.py", "__all__ = ['f', 'F']\nclass F: ...\ndef f(): ..."),
    (all_is_sorted_and_true, "inscape/a.py", "__all__ = ['Aa', 'MAX']\nMAX = 1\nclass Aa: ..."),
    (all_is_sorted_and_true, "inscape/a.py", "__all__ = ['f', 'f']\ndef f(): ..."),
    (all_is_sorted_and_true, "inscape/a.py", "__all__ = ['f', 'gone']\ndef f(): ..."),
]


@pytest.mark.parametrize(("rule", "path", "source"), BROKEN)
def test_a_broken_rule_is_seen(rule: Rule, path: str, source: str) -> None:
    assert len(rule(module(path, source))) == 1


KEPT: list[tuple[Rule, str, str]] = [
    (core_stands_alone, "inscape/core/gate.py", "from inscape.core.estimate import Estimate\nimport torchless"),
    (core_stands_alone, "inscape/train.py", "import torch"),
    (studies_stay_apart, "inscape/studies/visual/model.py", "from inscape.studies.visual import losses"),
    (studies_stay_apart, "inscape/studies/__init__.py", "from inscape.studies.visual.study import STUDY"),
    (report_reads_only, "inscape/report/page.py", "from inscape.core.rundir import RunDir"),
    (files_are_short, "inscape/a.py", "\n" * 400),
    (functions_are_short, "inscape/a.py", "@wraps(\n    g\n)\ndef f():\n" + "    pass\n" * 59),
    (
        nothing_is_pickled,
        "inscape/a.py",
        "torch.load(p, weights_only=True)\nnp.load(p, allow_pickle=False)",
    ),
    (all_is_sorted_and_true, "inscape/a.py", "__all__ = ['MAX', 'Aa', 'f']\nMAX = 1\nclass Aa: ...\ndef f(): ..."),
    (
        all_is_sorted_and_true,
        "inscape/a.py",
        "__all__ = ['late']\ndef __getattr__(n):\n    return {'late': 1}[n]",
    ),
    (all_is_sorted_and_true, "inscape/a.py", "def f(): ..."),
]


@pytest.mark.parametrize(("rule", "path", "source"), KEPT)
def test_a_kept_rule_is_left_alone(rule: Rule, path: str, source: str) -> None:
    assert rule(module(path, source)) == []


def test_an_undeclared_name_taken_from_another_module_is_seen() -> None:
    giver = module("inscape/a.py", "__all__ = ['f']\ndef f(): ...\nG = 1")
    assert imported_names_are_declared([giver, module("inscape/b.py", "from inscape.a import f")]) == []
    assert len(imported_names_are_declared([giver, module("inscape/b.py", "from inscape.a import G")])) == 1
    assert len(imported_names_are_declared([giver, module("inscape/b.py", "from .a import f, G, h")])) == 2
    silent = module("inscape/a.py", "def f(): ...")
    assert len(imported_names_are_declared([silent, module("inscape/b.py", "from inscape.a import f")])) == 1


# --- what an import drags along -----------------------------------------------------------------------------------


def loaded_by(code: str, *heavy: str) -> list[str]:
    """Which of `heavy` are loaded after `code` has run in a fresh interpreter."""
    check = f"{code}\nimport sys\nprint(*(name for name in {heavy!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()


CORE = sorted(m.name for m in MODULES if m.name.startswith("inscape.core"))


def test_the_core_works_without_torch() -> None:
    assert loaded_by(f"import {', '.join(CORE)}", "torch", "inscape.studies") == []
    assert loaded_by("import inscape.device", "torch") == ["torch"], "this test can fail"


def test_the_report_works_without_torch() -> None:
    assert loaded_by("import inscape.report", "torch", "inscape.studies") == []


HEAVY = ("torch", "matplotlib", "omegaconf", "tokenizers", "numpy", "rich")


def test_importing_the_package_costs_nothing() -> None:
    assert loaded_by("import inscape", *HEAVY) == []


def test_help_loads_nothing_heavy() -> None:
    assert loaded_by("from inscape.cli import main\nassert main(['--help']) == 0", *HEAVY) == []


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="needs wait4 for the processor time of a child")
def test_help_is_instant() -> None:
    # Half a second of processor time, the best of three: wall-clock time on a shared machine measures the others.
    times = []
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-m", "inscape", "--help"], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        times.append(used.ru_utime + used.ru_stime)
    assert min(times) < 0.5


# --- the verbs are frozen -----------------------------------------------------------------------------------------

PRESETS = ("smoke", "quick", "small", "full")

VERBS: dict[str, dict[str, Any]] = {
    # verb -> option -> what it takes: a tuple of choices, "flag", or the name of the type
    "run": {
        "target": "str",
        "overrides": "str*",
        "--preset": PRESETS,
        "--seed": "int",
        "--device": ("auto", "cpu", "cuda"),
        "--out": "Path",
        "--remedy": "flag",
        "--despite-gate": "str",
    },
    "resume": {"run": "str"},
    "judge": {"run": "str", "--json": "flag", "--strict": "flag"},
    "report": {"run": "str"},
    "status": {"--json": "flag", "--out": "Path"},
    "list": {"--json": "flag"},
    "config": {"target": "str", "overrides": "str*", "--preset": PRESETS},
    "sweep": {
        "target": "str",
        "overrides": "str*",
        "--seeds": "str",
        "--preset": PRESETS,
        "--out": "Path",
        "--sweep": "Path",
        "--runner": ("local", "slurm", "ray"),
        "--workers": "int",
        "--json": "flag",
    },
    "encode": {
        "texts": "str*",
        "--file": "Path",
        "--weights": "Path",
        "--out": "Path",
        "--png": "Path",
        "--strict": "flag",
    },
    "decode": {"latents": "Path", "--grammar": "Path", "--weights": "Path"},
    "paraphrase": {"text": "str", "-n": "int", "--weights": "Path", "--json": "flag"},
    "embed": {"--file": "Path", "--out": "Path", "--weights": "Path"},
    "similarity": {"first": "str", "second": "str", "--weights": "Path", "--json": "flag"},
    "bench": {"name": "str", "--json": "flag"},
    "export": {"out": "Path", "--format": "str", "--weights": "str"},
    "explore": {"--port": "int", "--host": "str", "--weights": "Path", "--out": "Path"},
}


def takes(action: argparse.Action) -> Any:
    if action.nargs == 0:
        return "flag"
    kind = getattr(action.type, "__name__", "str") + ("*" if action.nargs == "*" else "")
    return tuple(action.choices) if action.choices else kind


def verbs_of(parser: argparse.ArgumentParser) -> dict[str, dict[str, Any]]:
    (verbs,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return {
        name: {
            (action.option_strings or [action.dest])[0]: takes(action)
            for action in verb._actions
            if not isinstance(action, argparse._HelpAction)
        }
        for name, verb in verbs.choices.items()
    }


def test_the_verbs_are_frozen() -> None:
    # Scripts lean on these words. A new verb or option is added here by its issue; none is taken away or renamed.
    assert verbs_of(build_parser()) == VERBS


def test_the_defaults_are_frozen() -> None:
    def parse(*words: str) -> argparse.Namespace:
        return build_parser().parse_args(words)

    run = parse("run", "visual")
    assert (run.preset, run.seed, run.device, run.out) == ("quick", None, "auto", Path("runs"))
    assert (run.overrides, run.remedy, run.despite_gate) == ([], False, None)
    assert parse("status").out == Path("runs")
    assert parse("encode", "a red ball").out == Path("latents.safetensors")
    assert parse("encode", "a red ball").weights is None
    assert parse("paraphrase", "a red ball").n == 5
