"""SPICE where it is installed: planted in its package's place, since it wants an old Java and a parser's models."""

import shutil
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest

from inscape.metrics.cider import cider_d
from inscape.metrics.spice import SpiceFailed, installed_spice
from inscape.studies.audio_fusion.measures import measure_spider
from inscape.studies.audio_fusion.sounds import Sounds

SAID = ["rain on a roof", "a dog barks", "bells", "wind"]
MEANT = [("rain on a roof", "it rains"), ("a dog barks",), ("a bell rings",), ("the sea",)]
CLIPS = Sounds(np.zeros((4, 1, 1)), np.ones(4), MEANT, [""] * 4, False)


class Planted:
    """Words in common / words of both, in the form of pycocoevalcap's answer."""

    def compute_score(self, references: dict, candidates: dict):
        rows = []
        for i in sorted(references):
            (said,), meant = candidates[i], references[i][0]
            both = set(said.split()) & set(meant.split())
            rows.append({"All": {"f": len(both) / len(set(said.split()) | set(meant.split()))}, "Object": {"f": 0.5}})
        return 0.0, rows


class Broken:
    """What another Java than the wanted one does."""

    def compute_score(self, references: dict, candidates: dict):
        raise subprocess.CalledProcessError(1, ["java", "-jar", "spice.jar"])


def plant(monkeypatch: pytest.MonkeyPatch, scorer: type | None, java: str | None = "/usr/bin/java") -> None:
    module = ModuleType("pycocoevalcap.spice.spice")
    monkeypatch.setattr(module, "Spice", scorer, raising=False)
    monkeypatch.setitem(sys.modules, "pycocoevalcap.spice.spice", module if scorer else None)
    for name in ("pycocoevalcap", "pycocoevalcap.spice"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(shutil, "which", lambda name: java)


def test_spider_is_measured_where_spice_is_installed(monkeypatch) -> None:
    plant(monkeypatch, Planted)
    spice = installed_spice()
    assert spice is not None
    assert spice(SAID, MEANT) == [1, 1, 0, 0]
    found = measure_spider(SAID, CLIPS)
    assert found.value == pytest.approx(100 * (cider_d(SAID, MEANT) + np.array([1, 1, 0, 0])).mean() / 2)
    assert (found.n, found.unit) == (4, "clips")


@pytest.mark.parametrize(("scorer", "java"), [(None, "/usr/bin/java"), (Planted, None), (Broken, "/usr/bin/java")])
def test_where_spice_does_not_run_spider_is_not_measured_and_never_zero(monkeypatch, capsys, scorer, java) -> None:
    plant(monkeypatch, scorer, java)
    assert not measure_spider(SAID, CLIPS).measured
    said = capsys.readouterr().err
    assert said.count("\n") == (scorer is not None)


def test_a_failure_of_the_parser_is_one_line(monkeypatch) -> None:
    plant(monkeypatch, Broken)
    spice = installed_spice()
    assert spice is not None
    with pytest.raises(SpiceFailed, match=r"java.*spice\.jar") as caught:
        spice(SAID, MEANT)
    assert "\n" not in str(caught.value)
