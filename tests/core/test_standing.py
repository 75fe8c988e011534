"""Which runs open a gate, and every way to fool one: overrides, seeds, presets, edited files, changed declarations."""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from planted_study import GATE, PRESETS, MakeWorld, World, failing, measure

from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Criterion, Gate, Outcome
from inscape.core.rundir import RunDir, find_runs
from inscape.core.standing import judge
from inscape.core.study import SMOKE


def edit(run: RunDir, name: str, change: Callable[[Any], Any]) -> None:
    run.write_json(name, change(run.read_json(name)))


# --- what counts ------------------------------------------------------------------------------------------------


def test_an_overridden_run_opens_nothing_and_is_kept(world: MakeWorld) -> None:
    w = world()
    (run,) = w.run("P1", overrides=("signal=1.0",))
    assert judge(run).passed
    assert run.read_json(RunDir.ENV)["overrides"] == {"signal": 1.0}
    assert not w.standing()[0]


def test_an_override_that_changes_nothing_counts(world: MakeWorld) -> None:
    w = world()
    w.run("P1", overrides=("signal=0.9",))
    assert w.standing()[0]


def test_a_preset_opens_only_its_own_gate(world: MakeWorld) -> None:
    w = world()
    w.run("P1", preset="full")
    assert w.standing(preset="full")[0]
    assert not w.standing(preset="quick")[0]
    assert w.may_run("P2", "full")
    assert not w.may_run("P2", "quick")


def test_smoke_runs_everything_and_opens_nothing(world: MakeWorld) -> None:
    w = world(seeds=(0, 1))
    done = w.run(preset=SMOKE)
    assert [run.path.parent.parent.name for run in done] == ["P1", "P2", "P3"], "one seed each"
    assert all(judge(run).passed for run in done)
    assert w.standing(preset=SMOKE) == (False, ("smoke runs exercise the code and open nothing",))
    assert not w.may_run("P2", SMOKE)
    assert not w.may_run("P2", "quick")


def test_a_smoke_run_moved_into_another_preset_opens_nothing(world: MakeWorld, presets: Path) -> None:
    presets.write_text("smoke: {n: 50}\nquick:\n")  # even where the two configs are equal
    w = world()
    (run,) = w.run("P1", preset=SMOKE)
    shutil.copytree(run.path, w.root / "toy" / "P1" / "quick" / run.path.name)
    assert not w.standing()[0]


def test_every_declared_seed_must_pass_and_no_other_seed_helps(world: MakeWorld) -> None:
    w = world(seeds=(0, 1, 2))
    w.run("P1", seed=0)
    w.run("P1", seed=7)
    w.run("P1", seed=8)
    assert w.standing() == (False, ("P1 seed 1: not run", "P1 seed 2: not run"))
    w.run("P1", seed=1)
    w.run("P1", seed=2)
    assert w.standing()[0]


def test_one_failing_seed_shuts_the_gate(world: MakeWorld, presets: Path) -> None:
    presets.write_text("quick: {drift: -0.06}\n")
    w = world(seeds=(0, 1, 2))
    w.run("P1")
    assert w.standing() == (False, ("P1 seed 2: FAIL",))


def test_one_seed_may_climb_alone_and_passes_no_gate_by_that(world: MakeWorld) -> None:
    w = world()
    w = World(replace(w.study, phases=tuple(replace(phase, seeds=(0, 1, 2)) for phase in w.study.phases)), w.root)
    assert len(w.run(seed=1)) == 3, "P1 to P3"
    assert [run.read_json(RunDir.ENV)["despite_gate"] for run in w.run("P2", seed=1)] == [None]
    for phase in ("P2", "P3"):
        assert not w.may_run(phase, "quick")
    assert w.standing() == (False, ("P1 seed 0: not run", "P1 seed 2: not run"))
    assert w.run("P2", seed=0) == [], "another seed's pass opens nothing for it"
    assert w.run("P2", seed=7) == [], "nor for a seed that was not declared"
    assert w.run("P2") == []
    w.run("P1")
    assert w.may_run("P2", "quick")


def test_a_seed_does_not_climb_past_another_ones_failure(world: MakeWorld, presets: Path) -> None:
    presets.write_text("quick: {drift: -0.06}\n")
    w = world(seeds=(0, 1, 2))
    w.run("P1", seed=0)
    assert len(w.run("P2", seed=0)) == 1
    w.run("P1", seed=2)
    assert w.standing()[1] == ("P1 seed 1: not run", "P1 seed 2: FAIL")
    assert w.run("P2", seed=0) == []


def test_alone_a_seed_is_not_asked_for_a_spread_and_with_all_it_is(world: MakeWorld, presets: Path) -> None:
    presets.write_text("quick: {drift: -0.02}\n")
    narrow = Gate((Criterion("spread_of_recall", at_most=0.01, why="planted"),))
    w = world(seeds=(0, 1, 2), across_seeds=narrow)
    w.run("P1", seed=0)
    assert len(w.run("P2", seed=0)) == 1
    w.run("P1", seed=1)
    w.run("P1", seed=2)
    assert w.run("P2", seed=0) == []


@pytest.mark.parametrize("wanted", [2, 3])
def test_what_is_counted_over_seeds_is_judged_once_all_are_there(world: MakeWorld, wanted: int) -> None:
    asked: list[list[int]] = []

    def over_seeds(metrics: Mapping[int, Mapping[str, Estimate]]) -> dict[str, Estimate]:
        asked.append(sorted(metrics))
        return {"seeds_over_half": exact(sum(m["recall"].value > 0.5 for m in metrics.values()), len(metrics), "seeds")}

    gate = Gate([Criterion("spread_of_recall", at_most=0.5), Criterion("seeds_over_half", at_least=wanted)])
    w = world(seeds=(0, 1), across_seeds=gate, over_seeds=over_seeds)
    w.run("P1", seed=0)
    assert asked == []
    w.run("P1", seed=1)
    assert w.standing()[0] == (wanted == 2)
    assert asked
    assert all(seeds == [0, 1] for seeds in asked)


def test_seeds_of_different_declared_configs_are_not_added_up(world: MakeWorld, presets: Path) -> None:
    w = world(seeds=(0, 1))
    w.run("P1", seed=0)
    presets.write_text("quick: {n: 60}\n")
    w.run("P1", seed=1)
    assert w.standing() == (False, ("P1 seed 0: not run",))


def test_a_declared_phase_builds_on_no_undeclared_seed(world: MakeWorld, presets: Path) -> None:
    w = world()
    w.run("P1", seed=5)
    (declared,) = w.run("P1")
    (second,) = w.run("P2", seed=5)
    assert second.read_json(RunDir.ENV)["inputs"] == {"P1": str(declared.path.resolve())}


def test_the_latest_run_of_a_seed_decides(world: MakeWorld) -> None:
    outcomes = iter((0.9, 0.1))
    w = world(run=lambda c: {"recall": exact(next(outcomes), 50, "s"), "leak": exact(0.0, 4, "s")})
    w.run("P1")
    assert w.standing()[0]
    w.run("P1")
    assert w.standing() == (False, ("P1 seed 0: FAIL",))


# --- a changed declaration closes the gate again ------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"gate": Gate([*GATE.criteria, Criterion("recall", at_least=0.5)])},
        {"gate": Gate([Criterion("recall", at_least=0.1), GATE.criteria[1]])},
        {"gate": Gate([GATE.criteria[0]])},
        {"seeds": (0,)},
        {"seeds": (0, 1, 2)},
        {"across_seeds": Gate([Criterion("spread_of_recall", at_most=9.0)])},
    ],
    ids=["stricter", "looser", "control dropped", "seed dropped", "seed added", "across-seeds gate added"],
)
def test_a_changed_declaration_closes_the_gate(world: MakeWorld, changes: dict[str, Any]) -> None:
    w = world(seeds=(0, 1))
    w.run("P1")
    assert w.standing()[0]
    assert not w.with_phase(**changes).standing()[0]


def test_a_loosened_across_seeds_gate_opens_no_old_runs(world: MakeWorld, presets: Path) -> None:
    presets.write_text("quick: {drift: 0.5}\n")
    w = world(seeds=(0, 1), across_seeds=Gate([Criterion("spread_of_recall", at_most=0.1)]))
    w.run("P1")
    assert w.standing() == (False, ("P1 across seeds: FAIL",))
    assert not w.with_phase(across_seeds=Gate([Criterion("spread_of_recall", at_most=9.0)])).standing()[0]


def test_a_changed_preset_closes_the_gate(world: MakeWorld, presets: Path) -> None:
    w = world()
    w.run("P1")
    presets.write_text(PRESETS.replace("quick:", "quick: {n: 51}"))
    assert not w.standing()[0]


def test_a_gate_shut_again_shuts_everything_that_builds_on_it(world: MakeWorld) -> None:
    w = world()
    w.run()
    assert w.may_run("P3")
    changed = w.with_phase(gate=Gate([Criterion("recall", at_least=0.85), GATE.criteria[1]]))
    assert changed.standing("P2") == (False, ("P2 seed 0 was built on a run of P1 that does not count (any more)",))
    assert not changed.may_run("P3"), "P2 passed on a P1 that no longer counts"


# --- what a run was built on --------------------------------------------------------------------------------------


def test_a_pass_on_another_config_of_what_it_needs_does_not_count(world: MakeWorld, tmp_path: Path) -> None:
    w = world()
    w.run()
    (tmp_path / "p1.yaml").write_text(PRESETS.replace("quick:", "quick: {n: 51}"))
    changed = w.with_phase(presets=tmp_path / "p1.yaml")
    changed.run("P1")
    assert changed.standing("P1")[0]
    assert changed.standing("P2")[1] == ("P2 seed 0 was built on a run of P1 that does not count (any more)",)
    assert changed.standing("P3")[1] == ("P3 seed 0 was built on a run of P2 that does not count (any more)",)
    assert not changed.may_run("P3")
    changed.run("P2")
    assert changed.standing("P2")[0], "a run on today's P1 counts beside the other"
    assert changed.may_run("P3")


def test_what_a_run_was_built_on_must_be_there_and_be_named(world: MakeWorld) -> None:
    w = world()
    first, second, _ = w.run()
    kept = second.read_json(RunDir.ENV)
    edit(second, RunDir.ENV, lambda env: env | {"inputs": {}})
    assert w.standing("P2")[1] == ("P2 seed 0 was built on no run of P1",)
    edit(second, RunDir.ENV, lambda env: env | {"inputs": {"P1": kept["inputs"]["P1"], "P2": str(second.path)}})
    assert w.standing("P2")[1] == ("P2 seed 0 was built on a run of P2 that does not count (any more)",)
    second.write_json(RunDir.ENV, kept)
    assert w.standing("P2")[0]
    first.path.rename(first.path.with_name(f"20010101T000000{first.path.name[15:]}"))
    assert w.standing("P1")[0]
    assert w.standing("P2")[1] == ("P2 seed 0 was built on a run of P1 that is not here",)
    assert not w.may_run("P3")


def test_what_a_run_was_built_on_must_have_passed_with_the_same_seed(world: MakeWorld) -> None:
    w = world(run=failing)
    w = World(replace(w.study, phases=tuple(replace(phase, seeds=(0, 1)) for phase in w.study.phases)), w.root)
    w.run("P1")
    w.run("P2", despite_gate="impatience")
    for run in find_runs(w.root, phase="P2"):
        edit(run, RunDir.ENV, lambda env: env | {"despite_gate": None})
    assert w.standing("P2")[1][0] == "P2 seed 0 was built on a run of P1 that has not passed: FAIL"
    w = w.with_phase(run=measure)
    _, _, one, two, *_ = w.run()
    assert w.may_run("P3")
    edit(one, RunDir.ENV, lambda env: env | {"inputs": two.read_json(RunDir.ENV)["inputs"]})
    assert w.standing("P2")[1] == ("P2 seed 0 was built on seed 1 of P1",)


def test_a_root_that_was_moved_still_counts(world: MakeWorld) -> None:
    w = world()
    w.run()
    moved = World(w.study, w.root.rename(w.root.with_name("elsewhere")))
    assert moved.standing("P3")[0]


def collected(w: World) -> World:
    from inscape.report import collect

    results = w.root.with_name("results")
    for run in find_runs(w.root):
        collect(run, results)
    return World(w.study, results)


def test_in_collected_evidence_it_is_found_by_when_it_began(world: MakeWorld) -> None:
    w = world()
    w.run()
    results = collected(w)
    assert [results.standing(code) for code in ("P1", "P2", "P3")] == [(True, ())] * 3
    copy = RunDir(results.root / "toy/P1/quick/seed-0")
    edit(copy, RunDir.ENV, lambda env: env | {"started": "20010101T000000"})
    assert results.standing("P1")[0]
    assert results.standing("P2")[1] == ("P2 seed 0 was built on a run of P1 that is not here",)
    assert results.standing("P3")[1] == ("P3 seed 0 was built on a run of P2 that does not count (any more)",)


def test_files_are_read_once_for_one_answer(world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    w = world()
    done = w.run()
    read: list[Path] = []
    read_json = RunDir.read_json
    monkeypatch.setattr(RunDir, "read_json", lambda run, name: read.append(run.path / name) or read_json(run, name))
    assert w.may_run("P3")
    assert [read.count(run.path / RunDir.METRICS) for run in done] == [1, 1, 0]


# --- past a shut gate -----------------------------------------------------------------------------------------------


def test_a_run_pushed_past_a_shut_gate_is_marked_and_opens_nothing(world: MakeWorld) -> None:
    w = world(run=failing)
    w.run("P1")
    (second,) = w.run("P2", despite_gate="to see the decoder run")
    assert judge(second).passed
    assert second.read_json(RunDir.ENV)["despite_gate"] == "to see the decoder run"
    assert not w.standing("P2")[0]
    assert not w.may_run("P3")


def test_a_pushed_run_does_not_count_even_after_the_gate_has_opened(world: MakeWorld) -> None:
    w = world(run=failing)
    w.run("P1")
    w.run("P2", despite_gate="impatience")
    mended = w.with_phase(run=measure)
    mended.run("P1")
    assert mended.may_run("P2")
    assert not mended.standing("P2")[0]


def test_a_reason_is_not_recorded_where_the_gate_was_open(world: MakeWorld) -> None:
    (run,) = world().run("P1", despite_gate="just in case")
    assert run.read_json(RunDir.ENV)["despite_gate"] is None


def test_a_pushed_run_needs_something_to_build_on(world: MakeWorld) -> None:
    w = world()
    with pytest.raises(ValueError, match=r"toy\.P1 has no finished quick run to build on; first: inscape run toy\.P1"):
        w.run("P2", despite_gate="impatience")
    assert w.files() == set()


# --- edited and damaged files -------------------------------------------------------------------------------------


def test_an_edited_verdict_fools_nobody(world: MakeWorld) -> None:
    w = world(run=failing)
    (run,) = w.run("P1")
    edit(run, RunDir.VERDICT, lambda verdict: verdict | {"outcome": "PASS"})
    assert judge(run).outcome is Outcome.FAIL
    assert not w.standing()[0]


@pytest.mark.parametrize("metric", [0.95, 0.9000001])
def test_edited_metrics_open_nothing_where_the_verdict_says_otherwise(world: MakeWorld, metric: float) -> None:
    w = world(run=failing)
    (run,) = w.run("P1")
    edit(run, RunDir.METRICS, lambda m: m | {"recall": m["recall"] | dict.fromkeys(("value", "low", "high"), metric)})
    assert judge(run).passed
    said = "P1 seed 0 does not count: its verdict.json is not what metrics.json and gate.json give"
    assert w.standing() == (False, (said,))
    assert not w.may_run("P2")


@pytest.mark.parametrize("verdict", [{}, [], None, {"outcome": "PASS"}])
def test_a_verdict_without_its_findings_opens_nothing(world: MakeWorld, verdict: Any) -> None:
    w = world()
    (run,) = w.run("P1")
    run.write_json(RunDir.VERDICT, verdict)
    assert not w.standing()[0]


def test_a_gate_that_was_edited_since_the_run_began_judges_nothing(world: MakeWorld) -> None:
    w = world()
    (run,) = w.run("P1")
    edit(run, RunDir.GATE, lambda criteria: [criteria[0] | {"at_least": 0.0}, criteria[1]])
    with pytest.raises(ValueError, match=r"gate\.json was edited since the run began; undo that, or run"):
        judge(run)
    assert not w.standing()[0]


def test_an_edited_gate_of_a_run_without_its_fingerprint_fools_nobody(world: MakeWorld) -> None:
    w = world(run=failing)
    (run,) = w.run("P1")
    edit(run, RunDir.ENV, lambda env: {key: value for key, value in env.items() if key != "gate_fingerprint"})
    edit(run, RunDir.GATE, lambda criteria: [criteria[0] | {"at_least": 0.0}, criteria[1]])
    assert judge(run).passed, "judged by the gate in its folder"
    assert not w.standing()[0], "but that is not the gate of the phase"


def test_an_edited_config_fools_nobody(world: MakeWorld) -> None:
    w = world()
    (run,) = w.run("P1", overrides=("signal=1.0",))
    path = run.path / RunDir.CONFIG
    path.write_text(path.read_text().replace("signal: 1.0", "signal: 0.9"))
    assert not w.standing()[0]


@pytest.mark.parametrize("name", [RunDir.METRICS, RunDir.GATE, RunDir.CONFIG, RunDir.ENV])
@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        '{"recall": 1}',
        '{"recall": {"value": 0, "low": 0, "high": 0, "n": 1e999, "unit": "s"}}',
        '[{"metric": 1}]',
        f'[{{"metric": "recall", "at_least": 1{"0" * 400}}}]',
        "\x00",
    ],
)
def test_a_damaged_file_opens_nothing_and_hides_no_other_run(world: MakeWorld, name: str, content: str) -> None:
    w = world(seeds=(0, 1))
    whole, other = w.run("P1")
    (other.path / name).write_text(content)
    assert w.standing() == (False, ("P1 seed 1: not run",))
    assert judge(whole).passed


@pytest.mark.parametrize("name", [RunDir.METRICS, RunDir.GATE, RunDir.CONFIG, RunDir.ENV, RunDir.VERDICT])
def test_a_missing_file_opens_nothing(world: MakeWorld, name: str) -> None:
    w = world(seeds=(0, 1))
    (w.run("P1")[1].path / name).unlink()
    assert w.standing() == (False, ("P1 seed 1: not run",))


@pytest.mark.parametrize(
    "metrics",
    [
        {"recall": {"value": 0.9, "low": 0.95, "high": 0.8, "n": 3, "unit": "s"}},
        {"recall": {"value": "high", "low": 0, "high": 1, "n": 3, "unit": "s"}},
        {"recall": {"value": 0.9}},
        {"recall": 0.9},
        {"recall": {"value": 0.9, "low": 0.9, "high": 0.9, "n": math.inf, "unit": "s"}},
        {"recall": {"value": 10**400, "low": 0.9, "high": 0.9, "n": 3, "unit": "s"}},
        [],
    ],
)
def test_damaged_metrics_are_named_when_judged(world: MakeWorld, metrics: Any) -> None:
    (run,) = world().run("P1")
    (run.path / RunDir.METRICS).write_text(json.dumps(metrics))
    again = r"run the phase again: inscape run toy\.P1 --preset quick --seed 0"
    with pytest.raises(ValueError, match=rf"metrics\.json is damaged .*; restore it, or {again}") as refusal:
        judge(run)
    assert "\n" not in str(refusal.value)


def test_judging_again_changes_nothing_and_can_use_another_gate(world: MakeWorld) -> None:
    w = world()
    (run,) = w.run("P1")
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    assert judge(run) == judge(run)
    assert judge(run, Gate([Criterion("recall", at_least=0.99)])).outcome is Outcome.FAIL
    assert before == {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}


def test_a_run_without_metrics_or_gate_cannot_be_judged(world: MakeWorld) -> None:
    (run,) = world().run("P1")
    (run.path / RunDir.GATE).unlink()
    with pytest.raises(ValueError, match=r"gate\.json is missing, so there is nothing to .* inscape run toy\.P1"):
        judge(run)
    (run.path / RunDir.METRICS).unlink()
    with pytest.raises(ValueError, match=r"metrics\.json is missing, though the run is fin.* inscape run toy\.P1"):
        judge(run)
    (run.path / RunDir.VERDICT).unlink()
    with pytest.raises(ValueError, match=r"metrics\.json is missing: it has not been measured yet; inscape resume"):
        judge(run)
