"""Gates: what they decide, that nothing fools them, and that a verdict can be replayed from what is stored."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Criterion, Finding, Gate, Outcome, Verdict

METRICS = ("recall", "slope", "leak")
NUMBERS = st.floats(-10, 10)


@st.composite
def estimates(draw: st.DrawFn) -> Estimate:
    low, value, high = sorted(draw(st.tuples(NUMBERS, NUMBERS, NUMBERS)))
    return Estimate(value, low, high, draw(st.integers(0, 3)), "scenes")


@st.composite
def criteria(draw: st.DrawFn, role: str | None = None) -> Criterion:
    side, bound = draw(st.sampled_from(("at_least", "at_most"))), draw(NUMBERS)
    weaker = draw(st.none() | st.floats(0, 5))
    return Criterion(
        draw(st.sampled_from(METRICS)),
        **{side: bound},  # pyright: ignore[reportArgumentType]
        role=role or draw(st.sampled_from(("claim", "control"))),  # pyright: ignore[reportArgumentType]
        source=draw(st.sampled_from(("plan", "calibrated"))),
        why=draw(st.text(max_size=5)),
        partial=None if weaker is None else bound - weaker if side == "at_least" else bound + weaker,
    )


@st.composite
def gates(draw: st.DrawFn) -> Gate:
    chosen = draw(st.lists(criteria(), max_size=5, unique=True))
    claim = draw(criteria(role="claim"))
    return Gate([*(c for c in chosen if c != claim), claim])


MEASURED = st.dictionaries(st.sampled_from(METRICS), estimates())


def between(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high, 100, "scenes")


# --- one criterion ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.8, 0.9, Outcome.PASS),  # the bound itself is inside
        (0.81, 0.9, Outcome.PASS),
        (0.79, 0.9, Outcome.INCONCLUSIVE),
        (0.7, 0.8, Outcome.INCONCLUSIVE),  # only its end reaches the bound
        (0.6, 0.79, Outcome.PARTIAL),
        (0.5, 0.79, Outcome.FAIL),  # across the weaker bound: the claim has failed for certain, PARTIAL is not certain
        (0.1, 0.2, Outcome.FAIL),
    ],
)
def test_a_claim_decides_by_its_whole_interval(low: float, high: float, outcome: Outcome) -> None:
    assert Criterion("recall", at_least=0.8, partial=0.6).decide(between(low, high)) is outcome
    mirrored = Estimate(-(low + high) / 2, -high, -low, 100, "scenes")
    assert Criterion("recall", at_most=-0.8, partial=-0.6).decide(mirrored) is outcome


@pytest.mark.parametrize(
    "estimate",
    [None, exact(math.nan, 9, "scenes"), exact(math.inf, 9, "scenes"), exact(0.99, 0, "scenes")],
    ids=["missing", "nan", "infinite", "counted on nothing"],
)
def test_what_was_not_measured_passes_nothing(estimate: Estimate | None) -> None:
    bounds: tuple[dict[str, Any], ...] = ({"at_least": -1e9}, {"at_most": 1e9})
    for bound in bounds:
        assert Criterion("recall", **bound).decide(estimate) is Outcome.INCONCLUSIVE
        assert Criterion("recall", **bound, role="control").decide(estimate) is Outcome.INVALID


@given(criteria(role="claim"), estimates(), st.floats(0, 5), st.floats(0, 5))
def test_a_wider_interval_never_says_more(criterion: Criterion, estimate: Estimate, down: float, up: float) -> None:
    wider = Estimate(estimate.value, estimate.low - down, estimate.high + up, estimate.n, estimate.unit)
    before, after = criterion.decide(estimate), criterion.decide(wider)
    assert not (after is Outcome.PASS and before is not Outcome.PASS)
    assert not (after is Outcome.FAIL and before in (Outcome.PASS, Outcome.INCONCLUSIVE))


@given(criteria(role="claim"), estimates(), st.floats(0, 5))
def test_a_better_measurement_never_decides_worse(criterion: Criterion, estimate: Estimate, better: float) -> None:
    shift = better if criterion.at_least is not None else -better
    moved = Estimate(*(x + shift for x in (estimate.value, estimate.low, estimate.high)), n=estimate.n, unit="scenes")
    rank = {Outcome.FAIL: 0, Outcome.PARTIAL: 1, Outcome.INCONCLUSIVE: 1, Outcome.PASS: 2}
    assert rank[criterion.decide(moved)] >= rank[criterion.decide(estimate)]


@given(criteria(role="control"), st.none() | estimates())
def test_a_control_knows_only_pass_and_invalid(control: Criterion, estimate: Estimate | None) -> None:
    assert control.decide(estimate) in (Outcome.PASS, Outcome.INVALID)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "exactly one of at_least and at_most"),
        ({"at_least": 1, "at_most": 2}, "exactly one of at_least and at_most"),
        ({"at_least": 1, "role": "hope"}, "role 'hope'"),
        ({"at_least": 1, "source": "folklore"}, "'folklore'"),
        ({"at_least": 1, "partial": 2}, "partial=2 is stricter than the bound 1"),
        ({"at_most": 1, "partial": 0}, "partial=0 is stricter than the bound 1"),
        ({"at_least": math.nan}, "not finite"),
        ({"at_least": -math.inf}, "not finite"),
        ({"at_least": 1, "partial": -math.inf}, "not finite"),
    ],
)
def test_a_criterion_that_cannot_decide_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="criterion on 'recall'") as refusal:
        Criterion("recall", **fields)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


# --- the whole gate ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metrics", "outcome"),
    [
        ({"recall": 0.9, "slope": 2.0, "leak": 0.0}, Outcome.PASS),
        ({"recall": 0.7, "slope": 2.0, "leak": 0.0}, Outcome.PARTIAL),
        ({"recall": 0.9, "leak": 0.0}, Outcome.INCONCLUSIVE),
        ({"recall": 0.7, "leak": 0.0}, Outcome.INCONCLUSIVE),
        ({"recall": 0.1, "leak": 0.0}, Outcome.FAIL),
        ({"recall": 0.1, "slope": 2.0, "leak": 0.5}, Outcome.INVALID),
        ({"recall": 0.9, "slope": 2.0}, Outcome.INVALID),
        ({}, Outcome.INVALID),
    ],
)
def test_the_worst_finding_decides(metrics: dict[str, float], outcome: Outcome) -> None:
    gate = Gate(
        [
            Criterion("recall", at_least=0.8, partial=0.6),
            Criterion("slope", at_most=2.5),
            Criterion("leak", at_most=0.1, role="control"),
        ]
    )
    verdict = gate.judge({name: exact(value, 50, "scenes") for name, value in metrics.items()})
    assert verdict.outcome is outcome
    assert verdict.passed == (outcome is Outcome.PASS)


@given(gates(), MEASURED, st.randoms())
def test_judging_is_pure_and_knows_no_order(gate: Gate, metrics: dict[str, Estimate], random: Any) -> None:
    copy, shuffled = dict(metrics), list(gate.criteria)
    random.shuffle(shuffled)
    first = gate.judge(metrics)
    assert metrics == copy
    assert gate.judge(metrics) == first
    assert Gate(shuffled).judge(dict(reversed(metrics.items()))).outcome is first.outcome


@given(gates(), MEASURED, estimates())
def test_a_gate_passes_only_if_each_criterion_does(gate: Gate, metrics: dict[str, Estimate], other: Estimate) -> None:
    verdict = gate.judge(metrics)
    assert verdict.passed == all(f.outcome is Outcome.PASS for f in verdict.findings)
    assert (verdict.outcome is Outcome.INVALID) == any(f.outcome is Outcome.INVALID for f in verdict.findings)
    assert gate.judge(metrics | {"of no concern": other}) == verdict


@given(gates(), MEASURED)
def test_the_verdict_can_be_replayed_from_json(gate: Gate, metrics: dict[str, Estimate]) -> None:
    def stored(content: Any) -> Any:
        return json.loads(json.dumps(content, allow_nan=False))

    kept = Gate.from_json(stored(gate.to_json()))
    assert kept == gate
    assert hash(kept) == hash(gate)
    again = kept.judge({k: Estimate.from_json(stored(e.to_json())) for k, e in metrics.items()})
    verdict = gate.judge(metrics)
    assert stored(again.to_json()) == stored(verdict.to_json())
    assert stored(verdict.to_json())["outcome"] == verdict.outcome.value


@pytest.mark.parametrize(
    "stored",
    [
        5,
        [],
        [3],
        ["recall"],
        [{"metric": "recall"}],
        [{"metric": "recall", "at_least": 1, "colour": "red"}],
        [{"metric": "recall", "at_least": "high"}],
        [{"metric": ["recall"], "at_least": 1}],
        [{"metric": "recall", "at_least": 1, "role": "control"}],
    ],
)
def test_what_is_not_a_gate_is_refused_in_one_line(stored: Any) -> None:
    with pytest.raises(ValueError, match=r".+") as refusal:
        Gate.from_json(stored)
    assert "\n" not in str(refusal.value)


def test_a_gate_without_a_claim_or_with_a_double_is_refused() -> None:
    control = Criterion("leak", at_most=0.1, role="control")
    with pytest.raises(ValueError, match="at least one claim"):
        Gate([control])
    with pytest.raises(ValueError, match="stands twice"):
        Gate([Criterion("recall", at_least=1), Criterion("recall", at_least=1.0)])


# --- plan and calibrated apart ------------------------------------------------------------------------------------


def verdict_of(*findings: tuple[str, str, Outcome]) -> Verdict:
    made = tuple(
        Finding(Criterion("recall", at_least=i, source=source, role=role), None, outcome)  # pyright: ignore[reportArgumentType]
        for i, (source, role, outcome) in enumerate(findings)
    )
    return Verdict(Outcome.PASS, made)


def test_plan_and_calibrated_are_told_apart_and_controls_count_for_both() -> None:
    apart = verdict_of(("plan", "claim", Outcome.PASS), ("calibrated", "claim", Outcome.FAIL))
    assert (apart.outcome_of("plan"), apart.outcome_of("calibrated")) == (Outcome.PASS, Outcome.FAIL)
    broken = verdict_of(("plan", "claim", Outcome.PASS), ("calibrated", "control", Outcome.INVALID))
    assert broken.outcome_of("plan") is Outcome.INVALID
    assert broken.outcome_of("calibrated") is None, "a control alone claims nothing"
    assert verdict_of(("calibrated", "claim", Outcome.PASS)).outcome_of("plan") is None
