"""Fixtures of the core's tests: a folder with presets, and a maker of planted studies in it."""

from functools import partial
from pathlib import Path

import pytest
from planted_study import PRESETS, MakeWorld, make_world


@pytest.fixture
def presets(tmp_path: Path) -> Path:
    path = tmp_path / "presets.yaml"
    path.write_text(PRESETS)
    return path


@pytest.fixture
def world(tmp_path: Path, presets: Path) -> MakeWorld:
    return partial(make_world, tmp_path)
