"""The page's bench, small: every figure is there, and nothing went wrong."""

import shutil
import sys

import pytest

from inscape import cli
from inscape.bench.explore import run


def test_a_few_visitors_for_a_moment():
    found = run(clients=3, seconds=1.5, touches=3)
    assert found["errors"] == 0
    assert found["answers"] >= 6
    assert found["page kB"] < found["page kB limit"]
    assert 0 < found["touch ms, median"] <= found["touch ms, 95 %"]
    assert found["typing ms, 95 %"] == pytest.approx(found["typing ms, 95 %"]), "a number"


@pytest.mark.skipif(shutil.which("true") is None, reason="needs a command that says nothing")
def test_a_server_that_does_not_start_is_a_fault_of_ours(monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", shutil.which("true"))
    assert cli.main(["bench", "explore"]) == 1
    assert capsys.readouterr().err == "inscape: the page's server did not start; see what inscape explore says\n"
