"""The runner on planted studies: worlds that pass, empty ones that fail, remedies, interruptions and mistakes."""

import json
import multiprocessing
import os
import re
import statistics
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted_study import GATE, MakeWorld, World, failing, measure, mended_world

from inscape import cli
from inscape.core.estimate import Estimate, bootstrap_mean, exact
from inscape.core.gate import Criterion, Gate, Outcome
from inscape.core.rundir import RunDir, across_seeds_path, find_runs
from inscape.core.runner import MeasurementFailed, record_across_seeds, resume
from inscape.core.standing import judge
from inscape.core.study import Context, Remedy

# --- a planted world passes, an empty one fails ---------------------------------------------------------------------


def test_a_planted_world_passes_phase_by_phase(world: MakeWorld) -> None:
    w = world()
    assert [w.may_run(code) for code in ("P1", "P2", "P3")] == [True, False, False]
    done = w.run()
    assert [judge(run).outcome for run in done] == [Outcome.PASS] * 3
    assert [w.standing(code) for code in ("P1", "P2", "P3")] == [(True, ())] * 3
    assert w.reported == [run.path for run in done]
    assert done[1].read_json(RunDir.ENV)["inputs"] == {"P1": str(done[0].path.resolve())}


def test_an_empty_world_fails_and_shuts_what_follows(world: MakeWorld) -> None:
    w = world(run=lambda context: {"recall": exact(0.1, 50, "scenes"), "leak": exact(0.0, 4, "scenes")})
    (run,) = w.run()
    assert judge(run).outcome is Outcome.FAIL
    assert w.standing() == (False, ("P1 seed 0: FAIL",))
    assert w.said[-2].startswith("toy.P2 is shut: P1 seed 0: FAIL. Pass those, or give --despite-gate WHY")
    assert w.said[-1].startswith("toy.P3 is shut: P1 seed 0: FAIL; P2 has no finished quick run")


def test_a_run_holds_exactly_the_files_of_the_design(world: MakeWorld) -> None:
    (run,) = world().run("P1")
    assert {p.name for p in run.path.iterdir()} == {
        "config.yaml",
        "gate.json",
        "env.json",
        "metrics.json",
        "verdict.json",
        ".lock",
    }
    assert run.read_json(RunDir.VERDICT) == json.loads(json.dumps(judge(run).to_json()))
    env = run.read_json(RunDir.ENV)
    assert (env["study"], env["phase"], env["preset"], env["seed"]) == ("toy", "P1", "quick", 0)
    assert env["versions"]["python"]


@pytest.mark.parametrize(
    ("metrics", "outcome"),
    [
        ({}, Outcome.INVALID),
        ({"leak": exact(0, 4, "s")}, Outcome.INCONCLUSIVE),
        ({"recall": exact(float("nan"), 50, "s"), "leak": exact(0, 4, "s")}, Outcome.INCONCLUSIVE),
        ({"recall": exact(1.0, 0, "s"), "leak": exact(0, 4, "s")}, Outcome.INCONCLUSIVE),
        ({"recall": Estimate(0.85, 0.7, 0.9, 9, "s"), "leak": exact(0, 4, "s")}, Outcome.INCONCLUSIVE),
        ({"recall": exact(1.0, 50, "s"), "leak": exact(0.5, 4, "s")}, Outcome.INVALID),
        ({"recall": exact(1.0, 50, "s"), "leak": exact(float("nan"), 4, "s")}, Outcome.INVALID),
    ],
)
def test_what_is_not_shown_opens_nothing(world: MakeWorld, metrics: dict[str, Estimate], outcome: Outcome) -> None:
    w = world(run=lambda context: metrics)
    (run,) = w.run("P1")
    assert judge(run).outcome is outcome
    assert w.standing() == (False, (f"P1 seed 0: {outcome}",))


# --- a phase that mends another -----------------------------------------------------------------------------------


def test_a_phase_that_mends_another_opens_when_that_has_failed_and_builds_on_it(presets: Path) -> None:
    w = mended_world(presets.parent, run=failing, seeds=(0, 1))
    assert not w.may_run("P2"), "not run is not failed"
    w.run("P1", seed=0)
    assert not w.may_run("P2"), "every seed first"
    w.run("P1", seed=1)
    (run,) = w.run("P2")
    assert judge(run).outcome is Outcome.PASS
    assert list(run.read_json(RunDir.ENV)["inputs"]) == ["P1"]
    assert w.standing("P2") == (True, ())


def test_where_there_is_nothing_to_mend_the_phase_is_skipped(presets: Path) -> None:
    w = mended_world(presets.parent)
    assert [run.path.parts[-3] for run in w.run()] == ["P1"]
    assert w.said[-1] == "toy.P2 is skipped: P1 has passed, so there is nothing to mend"
    (run,) = w.run("P2", despite_gate="to see what it does")
    assert run.read_json(RunDir.ENV)["despite_gate"] == "to see what it does"


@pytest.mark.parametrize("metrics", [("recall",), ("slope",), ("slope", "recall")])
def test_what_was_missed_must_be_what_the_phase_mends(metrics: tuple[str, ...], presets: Path) -> None:
    gate = Gate([Criterion("recall", at_least=2.0), Criterion("slope", at_least=0.0)])
    measured = {"recall": exact(1.0, 9, "scenes"), "slope": exact(1.0, 9, "scenes")}
    w = mended_world(presets.parent, run=lambda context: measured, gate=gate)
    one, two = w.study.phases
    w = World(replace(w.study, phases=(one, replace(two, mends_only=metrics))), w.root)
    w.run("P1")
    assert w.may_run("P2") == ("recall" in metrics)
    if metrics == ("slope",):
        w.run()
        assert w.said[-1] == "toy.P2 is skipped: P1 has reached its slope, so there is nothing to mend"


def test_a_broken_instrument_is_not_mended(presets: Path) -> None:
    w = mended_world(presets.parent, run=lambda context: {"leak": exact(0.5, 4, "scenes")})
    w.run()
    assert w.said[-1].startswith("toy.P2 is shut: P1 seed 0: INVALID")


def test_a_smoke_run_of_a_phase_that_mends_needs_no_failure(presets: Path) -> None:
    assert [judge(run).outcome for run in mended_world(presets.parent).run(preset="smoke")] == [Outcome.PASS] * 2


# --- across seeds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("drift", "passes"), [(0.01, True), (0.2, False)])
def test_the_spread_over_seeds_is_judged(world: MakeWorld, presets: Path, drift: float, passes: bool) -> None:
    presets.write_text(f"quick: {{drift: {drift}}}\n")
    w = world(seeds=(0, 1, 2), across_seeds=Gate([Criterion("spread_of_recall", at_most=0.1)]))
    path = across_seeds_path(w.root, "toy", "P1", "quick")
    w.run("P1", seed=0)
    w.run("P1", seed=1)
    assert not path.exists(), "there is no spread until every declared seed has run"
    w.run("P1", seed=2)
    assert w.standing() == ((True, ()) if passes else (False, ("P1 across seeds: FAIL",)))
    kept = json.loads(path.read_text())
    assert (kept["outcome"], kept["seeds"]) == ("PASS" if passes else "FAIL", [0, 1, 2])
    runs = {str(run.read_json(RunDir.ENV)["seed"]): run for run in find_runs(w.root)}
    assert kept["runs"] == {seed: run.path.name for seed, run in runs.items()}
    assert {kept["fingerprint"]} == {run.read_json(RunDir.ENV)["fingerprint"] for run in runs.values()}
    assert kept["findings"][0]["estimate"]["value"] == pytest.approx(2 * drift)


def test_a_metric_that_one_seed_did_not_measure_has_no_spread(world: MakeWorld) -> None:
    def forgetful(context: Context) -> Mapping[str, Estimate]:
        extra = {"slope": exact(2.0, 4, "s")} if context.seed == 0 else {"slope": exact(float("nan"), 4, "s")}
        return {**measure(context), **extra}

    w = world(run=forgetful, seeds=(0, 1), across_seeds=Gate([Criterion("spread_of_slope", at_most=9)]))
    w.run("P1")
    assert w.standing() == (False, ("P1 across seeds: INCONCLUSIVE",))


# --- remedies ---------------------------------------------------------------------------------------------------

WEAK = "quick: {signal: 0.5}\n"
REMEDIES = (
    Remedy(("elsewhere",), {"n": 1000}, "not for this metric"),
    Remedy(("recall",), {"n": 60}, "more scenes"),
    Remedy(("recall",), {"signal": 0.95}, "more signal"),
    Remedy(("recall",), {"signal": 1.0}, "never reached"),
)


def test_the_second_remedy_opens_the_gate(world: MakeWorld, presets: Path) -> None:
    presets.write_text(WEAK)
    w = world(remedies=REMEDIES)
    done = w.run("P1", remedy=True)
    assert [run.read_json(RunDir.ENV)["remedies"] for run in done] == [[], [1], [1, 2]]
    assert [judge(run).outcome for run in done] == [Outcome.FAIL, Outcome.FAIL, Outcome.PASS]
    assert "signal: 0.95" in (done[2].path / RunDir.CONFIG).read_text()
    assert "remedy: n=60 because more scenes" in w.said
    assert w.standing()[0], "a remedy is part of the declaration"
    assert w.may_run("P2")


def test_without_remedy_none_is_applied(world: MakeWorld, presets: Path) -> None:
    presets.write_text(WEAK)
    assert len(world(remedies=REMEDIES).run("P1")) == 1


def test_used_up_remedies_leave_the_gate_shut(world: MakeWorld, presets: Path) -> None:
    presets.write_text(WEAK)
    w = world(remedies=(REMEDIES[1], Remedy(("recall",), {"n": 61}, "one more scene")))
    assert len(w.run("P1", remedy=True)) == 3
    assert w.said[-1] == "toy.P1: no remedy is left for recall"
    assert not w.standing()[0]


def test_a_remedy_that_the_preset_has_already_is_passed_over(world: MakeWorld, presets: Path) -> None:
    presets.write_text("quick: {signal: 0.5, n: 60}\n")
    done = world(remedies=REMEDIES).run("P1", remedy=True)
    assert [run.read_json(RunDir.ENV)["remedies"] for run in done] == [[], [2]]


def test_a_config_with_a_remedy_is_checked_before_it_runs(world: MakeWorld, presets: Path) -> None:
    def check(config: Any) -> None:
        if config.n == 60:
            raise ValueError("n=60 is too many for this machine")

    presets.write_text(WEAK)
    w = world(remedies=REMEDIES, check=check)
    with pytest.raises(ValueError, match="too many"):
        w.run("P1", remedy=True)
    assert len(list(find_runs(w.root))) == 1, "what ran without it is kept"


def test_a_remedy_that_one_seed_needs_is_applied_to_all(world: MakeWorld, presets: Path) -> None:
    presets.write_text("quick: {drift: -0.2}\n")  # seed 0 passes, seed 1 does not
    w = world(seeds=(0, 1), remedies=(Remedy(("recall",), {"drift": -0.01}, "steadier"),))
    done = w.run("P1", remedy=True)
    asked = [run.read_json(RunDir.ENV) for run in done]
    assert [(env["seed"], env["remedies"]) for env in asked] == [(0, []), (1, []), (0, [0]), (1, [0])]
    assert w.standing()[0]


def test_no_time_is_spent_on_a_config_that_one_seed_has_failed(world: MakeWorld, presets: Path) -> None:
    presets.write_text(WEAK)
    done = world(seeds=(0, 1), remedies=(REMEDIES[2],)).run("P1", remedy=True)
    asked = [run.read_json(RunDir.ENV) for run in done]
    assert [(env["seed"], env["remedies"]) for env in asked] == [(0, []), (0, [0]), (1, [0])]


def test_a_seed_begins_with_the_remedies_that_another_has_passed_with(world: MakeWorld, presets: Path) -> None:
    """So that seeds which are run one by one end under one config, and none is measured without them in vain."""
    presets.write_text("quick: {signal: 0.5}\n")
    w = world(seeds=(0, 1), remedies=(REMEDIES[1], Remedy(("recall",), {"signal": 0.9}, "stronger")))
    first = w.run("P1", remedy=True, seed=0)
    assert [run.read_json(RunDir.ENV)["remedies"] for run in first] == [[], [0], [0, 1]]
    own = w.run("P1", remedy=True, seed=1, overrides=("n=7",))
    assert own[0].read_json(RunDir.ENV)["remedies"] == [], "a config of one's own begins with nothing"
    second = w.run("P1", remedy=True, seed=1)
    assert [run.read_json(RunDir.ENV)["remedies"] for run in second] == [[0, 1]]
    assert "remedy from the start, since a seed has passed with it: stronger" in w.said
    assert w.standing()[0]


def test_a_spread_over_seeds_has_remedies_too(world: MakeWorld, presets: Path) -> None:
    presets.write_text("quick: {drift: 0.2}\n")
    w = world(
        seeds=(0, 1),
        across_seeds=Gate([Criterion("spread_of_recall", at_most=0.1)]),
        remedies=(Remedy(("spread_of_recall",), {"drift": 0.0}, "steadier"),),
    )
    assert len(w.run("P1", remedy=True)) == 4
    assert w.standing()[0]


def test_an_earlier_remedy_is_still_there_when_a_later_one_shows_its_need(world: MakeWorld, presets: Path) -> None:
    def two_faults(context: Context) -> Mapping[str, Estimate]:
        leak = 0.0 if context.config.n == 60 else 0.5 if context.config.signal == 0.95 else 0.05
        return {**measure(context), "leak": exact(leak, 4, "scenes")}

    presets.write_text(WEAK)
    w = world(run=two_faults, remedies=(Remedy(("leak",), {"n": 60}, "less leak"), REMEDIES[2]))
    assert [run.read_json(RunDir.ENV)["remedies"] for run in w.run("P1", remedy=True)] == [[], [1], [1, 0]]
    assert w.standing()[0]


def test_a_remedied_run_with_overrides_opens_nothing(world: MakeWorld) -> None:
    w = world(remedies=REMEDIES)
    done = w.run("P1", remedy=True, overrides=("signal=0.5",))
    assert judge(done[-1]).passed
    assert not w.standing()[0]


# --- interrupted and resumed --------------------------------------------------------------------------------------


class Interrupted:
    """A `run` that is killed on its first call, after it has written something down."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, context: Context) -> Mapping[str, Estimate]:
        self.calls += 1
        context.run.append_log({"call": self.calls})
        if self.calls == 1:
            raise KeyboardInterrupt
        return measure(context)


def interrupted(w: World) -> RunDir:
    with pytest.raises(KeyboardInterrupt):
        w.run("P1")
    (run,) = find_runs(w.root)
    return run


def test_an_interrupted_run_opens_nothing_until_it_is_resumed(world: MakeWorld) -> None:
    w = world(run=Interrupted())
    run = interrupted(w)
    assert not run.finished
    assert not w.standing()[0]
    reported = []
    assert resume(w.study, run, reported.append).passed
    assert reported == [run]
    assert run.read_log() == [{"call": 1}, {"call": 2}], "it went on in its own folder"
    assert w.standing()[0]


def test_a_kill_between_metrics_and_verdict_is_mended_by_resume(world: MakeWorld) -> None:
    w = world()
    (run,) = w.run("P1")
    (run.path / RunDir.VERDICT).unlink()
    assert not w.standing()[0]
    resume(w.study, run, lambda _: None)
    assert w.standing()[0]


WRITES = (RunDir.CONFIG, RunDir.GATE, RunDir.ENV, RunDir.METRICS, RunDir.VERDICT)


@pytest.mark.parametrize("moment", range(len(WRITES)), ids=WRITES)
def test_a_kill_at_any_write_opens_nothing_and_loses_nothing(
    world: MakeWorld, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    w, left = world(), iter([None] * moment)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: next(left))  # StopIteration: the process ends here
        with pytest.raises(StopIteration):
            w.run("P1")
    runs = list(find_runs(w.root))
    assert not w.standing()[0]
    assert len(runs) == (1 if moment > WRITES.index(RunDir.ENV) else 0), "what was not asked for whole is no run"
    assert bool(w.files()) == bool(runs), "and leaves nothing behind"
    assert all(resume(w.study, run, lambda _: None).passed for run in runs)
    assert w.standing()[0] == bool(runs)
    w.run("P1")
    assert w.standing()[0]


def test_a_finished_run_is_not_resumed(world: MakeWorld) -> None:
    w = world()
    (run,) = w.run("P1")
    with pytest.raises(ValueError, match=r"is finished; start another with inscape run toy\.P1"):
        resume(w.study, run, lambda _: None)


def test_a_run_whose_config_was_edited_is_not_resumed(world: MakeWorld) -> None:
    w = world(run=Interrupted())
    run = interrupted(w)
    path = run.path / RunDir.CONFIG
    path.write_text(path.read_text().replace("0.9", "1.0"))
    with pytest.raises(ValueError, match=r"config\.yaml was edited since the run began"):
        resume(w.study, run, lambda _: None)
    assert not run.finished


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"gate\.json is missing"),
        ("{", r"gate\.json is damaged"),
        ("[]", r"gate\.json was edited since the run began"),
        ('[{"metric": "recall", "at_least": 0.0}]', r"gate\.json was edited since the run began"),
    ],
)
def test_a_run_whose_gate_is_not_the_one_it_began_with_is_not_resumed(
    world: MakeWorld, content: str | None, said: str
) -> None:
    w = world(run=Interrupted())
    run = interrupted(w)
    (run.path / RunDir.GATE).unlink()
    if content is not None:
        (run.path / RunDir.GATE).write_text(content)
    with pytest.raises(ValueError, match=said):
        resume(w.study, run, lambda _: None)
    assert run.read_log() == [{"call": 1}], "nothing was measured"
    assert not run.finished


def test_a_gate_edited_while_the_run_measures_judges_nothing(world: MakeWorld) -> None:
    def edits_its_gate(context: Context) -> Mapping[str, Estimate]:
        context.run.write_json(RunDir.GATE, [{"metric": "recall", "at_least": 0.0}])
        return failing(context)

    w = world(run=edits_its_gate)
    with pytest.raises(ValueError, match=r"gate\.json was edited since the run began"):
        w.run("P1")
    (run,) = find_runs(w.root)
    assert not run.finished


def test_a_run_whose_corpus_is_no_words_is_not_resumed(world: MakeWorld) -> None:
    w = world(run=Interrupted())
    run = interrupted(w)
    run.write_json(RunDir.ENV, run.read_json(RunDir.ENV) | {"corpus": [1]})
    with pytest.raises(ValueError, match=r"env\.json is damaged: corpus missing or of a wrong type"):
        resume(w.study, run, lambda _: None)


def test_a_run_of_before_gates_were_fingerprinted_is_resumed(world: MakeWorld) -> None:
    w = world(run=Interrupted())
    run = interrupted(w)
    env = run.read_json(RunDir.ENV)
    del env["gate_fingerprint"]
    run.write_json(RunDir.ENV, env)
    assert resume(w.study, run, lambda _: None).passed


def test_a_run_that_was_copied_to_a_place_of_another_shape_is_resumed_there(world: MakeWorld) -> None:
    w = world(run=Interrupted())
    run = RunDir(interrupted(w).path.rename(w.root.with_name("copy")))
    assert run.root is None
    assert resume(w.study, run, lambda _: None).passed


def test_a_run_in_use_is_not_resumed(world: MakeWorld) -> None:
    w = world(run=Interrupted())
    run = interrupted(w)
    with run.exclusive(), pytest.raises(ValueError, match="is being run by another process"):
        resume(w.study, run, lambda _: None)
    assert run.read_log() == [{"call": 1}]


def test_the_last_seed_resumed_completes_the_spread(world: MakeWorld) -> None:
    class LastSeed(Interrupted):
        def __call__(self, context: Context) -> Mapping[str, Estimate]:
            return measure(context) if context.seed == 0 else super().__call__(context)

    w = world(run=LastSeed(), seeds=(0, 1), across_seeds=Gate([Criterion("spread_of_recall", at_most=0.1)]))
    with pytest.raises(KeyboardInterrupt):
        w.run("P1")
    _, last = find_runs(w.root)
    resume(w.study, last, lambda _: None)
    assert json.loads(across_seeds_path(w.root, "toy", "P1", "quick").read_text())["outcome"] == "PASS"
    assert w.standing()[0]


def test_collected_seeds_are_judged_together_under_their_own_names(world: MakeWorld) -> None:
    """What was run in two folders and copied into one: copies lie in folders that are named otherwise."""
    w = world(seeds=(0, 1), across_seeds=Gate([Criterion("spread_of_recall", at_most=0.1)]))
    runs = [w.run("P1", seed=seed)[0] for seed in (0, 1)]
    path = across_seeds_path(w.root, "toy", "P1", "quick")
    path.unlink()
    for seed, run in enumerate(runs):
        run.write_json(RunDir.ENV, run.read_json(RunDir.ENV) | {"started": run.path.name[:15]})
        run.path.rename(run.path.with_name(f"seed-{seed}"))
    assert record_across_seeds(w.study, w.study.phase("P1"), "quick", w.root, ()) is not None
    names = {seed: re.sub(r"\.\d+", "", run.path.name) for seed, run in zip("01", runs, strict=True)}
    assert json.loads(path.read_text())["runs"] == names
    (path.parent / "seed-1" / RunDir.VERDICT).unlink()
    assert record_across_seeds(w.study, w.study.phase("P1"), "quick", w.root, ()) is None


# --- mistakes are refused before anything is written --------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"preset": "tiny"}, "no preset 'tiny'"),
        ({"overrides": ("signla=1",)}, "did you mean signal?"),
        ({"overrides": ("signal=high",)}, "signal: Value 'high'"),
        ({"overrides": ("signal=3",)}, "signal=3.0: wanted 0 to 2"),
        ({"overrides": ("signal=nan",)}, "signal=nan: wanted 0 to 2"),
        ({"seed": -1}, "--seed -1: wanted 0 to 2147483647"),
        ({"seed": 2**31}, "--seed 2147483648: wanted"),
        ({"despite_gate": "  "}, "--despite-gate wants a reason"),
        ({"remedy": True, "overrides": ("n=3",)}, "signal=7.0: wanted 0 to 2"),
    ],
)
def test_a_mistake_leaves_nothing_behind(world: MakeWorld, wish: dict[str, Any], message: str) -> None:
    w = world(remedies=(Remedy(("recall",), {"signal": 7}, "out of range"),))
    with pytest.raises(ValueError, match=r".+") as refusal:
        w.run(**wish)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert w.files() == set()


def test_a_mistake_that_shows_only_in_the_run_leaves_nothing_behind(world: MakeWorld) -> None:
    def cannot_start(context: Context) -> Mapping[str, Estimate]:
        raise ValueError("corpus.txt is not UTF-8")

    w = world(run=cannot_start)
    with pytest.raises(ValueError, match=r"corpus\.txt is not UTF-8"):
        w.run("P1")
    assert w.files() == set()


def test_a_mistake_after_something_was_measured_keeps_it(world: MakeWorld) -> None:
    def stops_later(context: Context) -> Mapping[str, Estimate]:
        context.run.append_log({"step": 1})
        raise ValueError("the checkpoint is damaged")

    w = world(run=stops_later)
    with pytest.raises(ValueError, match="damaged"):
        w.run("P1")
    assert [run.read_log() for run in find_runs(w.root)] == [[{"step": 1}]]


def test_scores_that_are_no_numbers_are_a_fault_and_the_run_is_kept(world: MakeWorld) -> None:
    def diverged(context: Context) -> Mapping[str, Estimate]:
        return {"recall": bootstrap_mean([1.0, float("nan")], "scenes")}

    w = world(run=diverged)
    with pytest.raises(MeasurementFailed, match=r"toy\.P1 seed 0 failed: 1 of 2 values are not finite") as failure:
        w.run("P1")
    (run,) = find_runs(w.root)
    assert str(run.path) in str(failure.value)
    assert not isinstance(failure.value, ValueError), "no bad input"
    with pytest.raises(MeasurementFailed):
        resume(w.study, run, lambda _: None)


def test_a_fault_is_no_bad_input_to_the_verb(
    world: MakeWorld, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    w = world(run=lambda context: {"recall": bootstrap_mean([float("inf")], "scenes")})
    monkeypatch.setattr(cli, "_study", lambda name: w.study)
    assert cli.main(["run", "toy.P1", "--out", str(w.root)]) == 1
    assert "inscape: toy.P1 seed 0 failed: 1 of 1 values are not finite" in capsys.readouterr().err


def shapes_that_do_not_fit(context: Context) -> Mapping[str, Estimate]:
    return {"recall": bootstrap_mean(np.zeros(2) + np.zeros(3), "scenes")}


def a_word_for_a_number(context: Context) -> Mapping[str, Estimate]:
    return {"recall": exact(float("many"), 1, "scenes")}


def a_library_that_refuses(context: Context) -> Mapping[str, Estimate]:
    return {"recall": exact(statistics.NormalDist(0, 1).inv_cdf(2.0), 1, "scenes")}


@pytest.mark.parametrize("run", [shapes_that_do_not_fit, a_word_for_a_number, a_library_that_refuses])
def test_what_no_line_of_ours_refuses_is_a_fault_of_ours_and_the_run_is_kept(
    world: MakeWorld,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    run: Callable[[Context], Mapping[str, Estimate]],
) -> None:
    w = world(run=run)
    monkeypatch.setattr(cli, "_study", lambda name: w.study)
    assert cli.main(["run", "toy.P1", "--out", str(w.root)]) == 1
    (kept,) = find_runs(w.root)
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("inscape: toy.P1 seed 0 failed, by a fault of the code: ")
    assert said.endswith(f"; what there is of it is kept; to see all: INSCAPE_TRACEBACK=1 inscape resume {kept.path}")
    monkeypatch.setenv("INSCAPE_TRACEBACK", "1")
    with pytest.raises(MeasurementFailed) as failure:
        cli.main(["resume", str(kept.path)])
    assert isinstance(failure.value.__cause__, ValueError)


def test_a_fault_is_named_by_the_line_of_the_package_that_it_passed_last(world: MakeWorld) -> None:
    w = world(run=lambda context: {"recall": bootstrap_mean(["many"], "scenes")})
    with pytest.raises(MeasurementFailed, match=r"fault of the code in inscape/core/estimate\.py:\d+: could not con"):
        w.run("P1")


def refuse_in_a_process() -> None:
    raise ValueError("corpus.txt is not UTF-8")


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_what_a_worker_refuses_is_bad_input(world: MakeWorld, pool: type[Executor]) -> None:
    def divided(context: Context) -> Mapping[str, Estimate]:
        with pool(1) if pool is ThreadPoolExecutor else pool(1, multiprocessing.get_context("spawn")) as workers:
            return workers.submit(refuse_in_a_process).result()

    w = world(run=divided)
    with pytest.raises(ValueError, match=r"corpus\.txt is not UTF-8"):
        w.run("P1")
    assert w.files() == set()


def fail_in_a_process() -> None:
    np.zeros(2) + np.zeros(3)


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_a_fault_of_a_worker_is_a_fault_of_ours(world: MakeWorld, pool: type[Executor]) -> None:
    def divided(context: Context) -> Mapping[str, Estimate]:
        with pool(1) if pool is ThreadPoolExecutor else pool(1, multiprocessing.get_context("spawn")) as workers:
            return workers.submit(fail_in_a_process).result()

    with pytest.raises(MeasurementFailed, match=r"fault of the code.*could not be broadcast"):
        world(run=divided).run("P1")


# --- what is built on ---------------------------------------------------------------------------------------------


def built_on(run: RunDir) -> Path:
    return Path(run.read_json(RunDir.ENV)["inputs"]["P1"])


def test_past_a_shut_gate_the_same_seed_goes_before_what_finished_last(world: MakeWorld) -> None:
    w = world(run=failing)
    firsts = {seed: w.run("P1", seed=seed, overrides=("signal=1.0",))[0] for seed in (0, 1, 2)}
    for seed, first in firsts.items():
        (second,) = w.run("P2", seed=seed, despite_gate="why")
        assert built_on(second) == first.path.resolve()
        assert w.said[0].endswith(f"; built on P1 seed {seed} (FAIL): {first.path.resolve()}")
    (other,) = w.run("P2", seed=3, despite_gate="why")
    assert built_on(other) == firsts[2].path.resolve(), "of equals the last"


def test_past_a_shut_gate_a_declared_config_goes_before_what_finished_last(world: MakeWorld) -> None:
    w = world(run=failing)
    w.run("P1", seed=1, overrides=("signal=1.0",))
    (declared,) = w.run("P1", seed=4)
    w.run("P1", seed=2, overrides=("signal=1.0",))
    (second,) = w.run("P2", seed=0, despite_gate="why")
    assert built_on(second) == declared.path.resolve()
    (declared,) = w.run("P1")
    w.run("P1", overrides=("signal=1.0",))
    (second,) = w.run("P2", despite_gate="why")
    assert built_on(second) == declared.path.resolve(), "of one seed the one under the declared config"


def test_a_smoke_run_is_built_on_the_same_seed_under_the_declared_config(world: MakeWorld) -> None:
    w = world()
    (declared,) = w.run("P1", preset="smoke")
    w.run("P1", preset="smoke", overrides=("signal=0.1",), seed=5)
    (second,) = w.run("P2", preset="smoke")
    assert built_on(second) == declared.path.resolve()


def test_a_phase_declares_its_seeds_well(world: MakeWorld) -> None:
    for seeds in ((), (0, 0), (-1,)):
        with pytest.raises(ValueError, match="wanted at least one, all different, none below 0"):
            world(seeds=seeds)
    with pytest.raises(ValueError, match="across_seeds would always pass over the one seed"):
        world(across_seeds=GATE)


def test_a_phase_is_found_by_its_code_in_any_case(world: MakeWorld) -> None:
    study = world().study
    assert study.phase("p2") is study.phases[1]
    assert study.phases[0].preset_names == ("smoke", "quick", "full")
    with pytest.raises(ValueError, match="study toy has no phase 'P9'; there are: P1, P2, P3"):
        study.phase("P9")
