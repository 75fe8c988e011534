"""Lines that are meant to be copied begin with what the user calls the program."""

import ast
import re
from pathlib import Path

import pytest

import inscape
from inscape.core.program import program
from inscape.core.rundir import RunDir
from inscape.stopping import TrainingInterrupted, part_of

PACKAGE = Path(inscape.__file__).parent
WHERE = [*PACKAGE.glob("core/*.py"), *PACKAGE.glob("report/*.py")]
WHERE += [PACKAGE / f"{name}.py" for name in ("cli", "codec", "demo", "show", "stopping", "train")]
COMMAND = re.compile(r"(?<![\w/])(\./)?inscape (run|resume|status|judge|report|explore|paraphrase|encode|demo)\b")


def test_it_is_the_bootstraps_word_or_the_installed_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INSCAPE_COMMAND", raising=False)
    assert program() == "inscape"
    monkeypatch.setenv("INSCAPE_COMMAND", "../clone/inscape")
    assert program() == "../clone/inscape"
    monkeypatch.setenv("INSCAPE_COMMAND", "")
    assert program() == "inscape"


def test_hints_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSCAPE_COMMAND", "./inscape")
    with pytest.raises(ValueError, match=r", see \./inscape status$"):
        RunDir.open(tmp_path / "missing")
    with pytest.raises(TrainingInterrupted, match=r": \./inscape resume "), part_of(RunDir(tmp_path), "k1"):
        raise TrainingInterrupted("stopped")


@pytest.mark.parametrize("path", WHERE, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_message_takes_the_name_for_granted(path: Path) -> None:
    assert hard_coded(path.read_text(encoding="utf-8")) == []


def test_the_rule_finds_what_it_is_for() -> None:
    assert hard_coded('"""See inscape run."""\nx = f"go on with: inscape resume {run}"') == ["inscape resume"]
    assert hard_coded('x = f"{program()} resume {run}"') == []


def hard_coded(source: str) -> list[str]:
    """Commands in a module's strings, its docstrings aside."""
    tree = ast.parse(source)
    of_docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    strings = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in of_docs]
    return [found[0] for text in strings if isinstance(text, str) for found in COMMAND.finditer(text)]
