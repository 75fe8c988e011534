"""The tables of the terminal: what a run folder holds is shown as it stands there."""

import pytest
from planted_study import MakeWorld

from inscape.core.estimate import exact
from inscape.core.gate import Criterion, Gate
from inscape.core.rundir import RunDir
from inscape.show import verdict_table, verdicts


def test_words_of_a_run_are_no_markup(
    world: MakeWorld, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    gate = Gate([Criterion("recall[/x]", at_least=0.8)])
    w = world(gate=gate, run=lambda context: {"recall[/x]": exact(0.1, 50, "scenes")})
    (run,) = w.run("P1")
    run.write_json(RunDir.ENV, run.read_json(RunDir.ENV) | {"study": "[/toy]", "preset": "[/quick]"})
    verdict_table(run)
    shown = capsys.readouterr().out
    assert [shown.count(words) for words in ("[/toy].P1", "[/quick]", "recall[/x] >= 0.8")] == [1, 1, 1]
    verdicts([run, run])
    shown = capsys.readouterr().out
    assert shown.count("[/toy].P1") == shown.count("recall[/x] >= 0.8 (") == 2
