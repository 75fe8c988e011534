"""A phase may have another gate for another corpus, or nothing to ask of it: decided by the config alone, and kept."""

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest
from planted_study import GATE, Config, Data, MakeWorld, World, failing

from inscape import cli
from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Criterion, Gate, Outcome
from inscape.core.rundir import RunDir
from inscape.core.standing import judge
from inscape.core.study import Context, Remedy

MINE = ("data.text=mine",)
LENIENT = Gate([Criterion("recall", at_least=0.05)])


def gate_for(config: Config) -> Gate:
    return LENIENT if config.data.text else GATE


def test_the_gate_that_holds_is_a_function_of_the_config(world: MakeWorld) -> None:
    first, second, _ = world(gate_for=gate_for).study.phases
    assert first.gate_of(Config()) == GATE
    assert first.gate_of(Config(data=Data("mine"))) == LENIENT
    assert second.gate_of(Config(data=Data("mine"))) == GATE, "without gate_for there is one gate for all"


def test_each_corpus_is_judged_by_its_own_gate(world: MakeWorld) -> None:
    w = world(run=failing, gate_for=gate_for)
    (declared,), (mine,) = w.run("P1"), w.run("P1", overrides=MINE)
    assert (judge(declared).outcome, judge(mine).outcome) == (Outcome.FAIL, Outcome.PASS)
    assert Gate.from_json(mine.read_json(RunDir.GATE)) == LENIENT
    assert (w.may_run("P2"), w.may_run("P2", corpus=MINE)) == (False, True)


def test_a_gate_for_the_corpus_that_changed_since_opens_nothing(world: MakeWorld) -> None:
    w = world(gate_for=gate_for)
    w.run("P1", overrides=MINE)
    assert w.standing(corpus=MINE)[0]
    stricter = Gate([Criterion("recall", at_least=0.06)])
    assert not w.with_phase(gate_for=lambda config: stricter).standing(corpus=MINE)[0]
    assert w.with_phase(gate=stricter).standing(corpus=MINE)[0], "the declared corpus's gate is none of its business"


def test_a_gate_that_a_remedy_changes_opens_the_next_phase(world: MakeWorld) -> None:
    """As a decoder's: once the encoder is let move, more is asked."""

    def asks_more(config: Config) -> Gate:
        return Gate((*GATE.criteria, Criterion("more", at_least=0.5))) if config.n > 50 else GATE

    def measured(context: Context) -> Mapping[str, Estimate]:
        value = 0.9 if context.config.n > 50 else 0.1
        return {name: exact(value, 50, "scenes") for name in ("recall", "more")} | {"leak": exact(0.0, 4, "scenes")}

    w = world(run=measured, gate_for=asks_more, remedies=(Remedy(("recall",), {"n": 60}, "more scenes"),))
    first, second = w.run("P1", remedy=True)
    assert (judge(first).outcome, judge(second).outcome) == (Outcome.FAIL, Outcome.PASS)
    assert w.standing()[0]
    assert w.may_run("P2")
    assert not w.with_phase(gate_for=lambda config: GATE).may_run("P2"), "of a remedied run, too, the gate is today's"


# --- skipped phases -----------------------------------------------------------------------------------------------


def skip(config: Config) -> str:
    return "it needs a parser" if config.data.text else ""


def test_a_skipped_phase_is_named_with_its_reason_and_opens_nothing(world: MakeWorld) -> None:
    w = world(skip=skip)
    assert [run.path.parts[-3] for run in w.run()] == ["P1", "P2", "P3"]
    assert not any("is skipped" in line for line in w.said)
    assert w.run(overrides=MINE) == []
    assert w.said[0] == "toy.P1 is skipped: it needs a parser"
    assert "toy.P2 is shut: P1 has no finished quick run" in w.said[1], "a skipped phase opens nothing"


def test_the_last_phase_skipped_leaves_the_others_done(world: MakeWorld) -> None:
    w = world()
    *others, last = w.study.phases
    w = World(replace(w.study, phases=(*others, replace(last, skip=skip))), w.root)
    assert [run.path.parts[-3] for run in w.run(overrides=MINE)] == ["P1", "P2"]
    assert w.said[-1] == "toy.P3 is skipped: it needs a parser"


# --- the verb -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("overrides", "outcome"), [((), "FAIL"), (MINE, "PASS")])
def test_judge_compares_with_todays_gate_of_the_same_corpus(
    world: MakeWorld,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    overrides: tuple[str, ...],
    outcome: str,
) -> None:
    w = world(run=failing, gate_for=gate_for)
    (run,) = w.run("P1", overrides=overrides)
    monkeypatch.setattr(cli, "_study", lambda name: w.study)
    said = _judged(run, capsys)
    assert (said["outcome"], said["gate_changed_since"], said["under_todays_gate"]) == (outcome, False, outcome)

    stricter = w.with_phase(gate_for=lambda config: Gate([Criterion("recall", at_least=0.5)]))
    monkeypatch.setattr(cli, "_study", lambda name: stricter.study)
    said = _judged(run, capsys)
    assert (said["outcome"], said["gate_changed_since"], said["under_todays_gate"]) == (outcome, True, "FAIL")


def test_a_pass_that_todays_gate_would_not_give_is_none_to_strict_judges(
    world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = world()
    (run,) = w.run("P1")
    for gate, status in (
        (GATE, 0),
        (Gate([Criterion("recall", at_least=0.7)]), 0),
        (Gate([Criterion("recall", at_least=0.95)]), 3),
    ):
        monkeypatch.setattr(cli, "_study", lambda name, of=gate: w.with_phase(gate=of).study)
        assert cli.main(["judge", str(run.path), "--strict"]) == status
        assert cli.main(["judge", str(run.path)]) == 0


def test_where_todays_gate_cannot_be_worked_out_the_stored_verdict_is_shown(
    world: MakeWorld, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    w = world(gate_for=gate_for)
    (run,) = w.run("P1")
    config = run.path / RunDir.CONFIG
    monkeypatch.setattr(cli, "_study", lambda name: w.study)
    config.write_text(config.read_text() + "of_other_code: 1\n")
    said = _judged(run, capsys)
    assert (said["outcome"], said["gate_changed_since"], said["under_todays_gate"]) == ("PASS", None, None)
    assert cli.main(["judge", str(run.path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "What today's gate would say cannot be worked out: unknown config key 'of_other_code'" in shown
    assert cli.main(["judge", str(run.path), "--strict"]) == 3
    capsys.readouterr()
    monkeypatch.undo()  # and there is no study toy
    assert _judged(run, capsys)["under_todays_gate"] is None


def _judged(run: RunDir, capsys: pytest.CaptureFixture[str]) -> dict:
    assert cli.main(["judge", str(run.path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)
