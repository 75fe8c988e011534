"""A folder of its own for each test, with the planted study in it."""

from pathlib import Path

import pytest
from planted_jobs import toy

import inscape.studies


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder; `inscape.studies` has the planted study and nothing else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inscape.studies, "study", lambda name: toy(tmp_path))
    return tmp_path
