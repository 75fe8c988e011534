"""The prompt-compression study on the tiny model: smoke runs, a run of C0 to build on, and what a run's controls said.

`begun` and `tiny_world` are for fixtures: root = pytest.fixture(begun, scope="module").
"""

from pathlib import Path

import pytest

from inscape.core.gate import Outcome
from inscape.core.rundir import RunDir
from inscape.core.runner import Request, run_study
from inscape.core.standing import judge
from inscape.core.study import SMOKE
from inscape.studies import study
from inscape.studies.prompt_compression import asking
from inscape.studies.prompt_compression.asking import AskingConfig, QuestionData

__all__ = ["CONFIG", "STUDY", "begun", "controls", "ran", "tiny_world"]

STUDY = study("prompt-compression")
CONFIG = AskingConfig(model="tiny", questions=12, new_tokens=8, gold="own", batch=4)


def ran(root: Path, code: str, *overrides: str) -> RunDir:
    request = Request(preset=SMOKE, device="cpu", root=root, overrides=overrides)
    return run_study(STUDY, [STUDY.phase(code)], request, lambda line: None, lambda run: None)[0]


def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of C0 to build on."""
    root = tmp_path_factory.mktemp("runs")
    ran(root, "C0")
    return root


def tiny_world() -> tuple:
    """The tiny model, its held-out prompts and the text run."""
    lm = asking.open_model(CONFIG, "cpu")
    return lm, *asking.ask(lm, QuestionData(), CONFIG)


def controls(run: RunDir) -> dict[str, Outcome]:
    """What each control of the run said."""
    return {f.criterion.metric: f.outcome for f in judge(run).findings if f.criterion.role == "control"}
