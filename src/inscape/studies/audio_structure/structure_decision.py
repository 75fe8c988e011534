"""The decision, condition by condition: which numbers a condition is judged by, and what speaks against it.

The plan passes its phase 0 if ANY condition passes. So every condition is judged by the phase's own gate. One that
keeps the plan's rule leads, or else the one with the fewest violations: its numbers are what the core judges, and the
phase passes exactly if some condition keeps all criteria, the plan's and ours. Numbers are made here, bounds stand in
the gate alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Finding, Gate, Outcome, Verdict
from inscape.metrics.audio_structure import Row
from inscape.metrics.clustering import degradation
from inscape.stats.context_windows import EVAL, TRAIN
from inscape.studies.audio_structure.structure_rows import LagFindings, find, is_control, worse_for_strangers

__all__ = [
    "PRIMARY_LAG",
    "PRIMARY_SLICE",
    "ROBUST_SLICES",
    "Decision",
    "condition_metrics",
    "conditions_of",
    "control_metrics",
    "decide",
    "decision_file",
]

PRIMARY_LAG, PRIMARY_SLICE = 1, "all"  # the row that decides
ROBUST_SLICES = ("high_energy", "utterance_medial")  # where the structure must persist
SPLITS = (TRAIN, EVAL)
HONEST = 4  # standard deviations: of a hundred honest controls one is farther off in 1 run of 160, by chance alone


class Decision(NamedTuple):
    """What the gate says of each condition, and which one leads."""

    verdicts: dict[str, Verdict]
    leading: str

    @property
    def verdict(self) -> Verdict:
        """The phase's."""
        return self.verdicts[self.leading]

    @property
    def passing(self) -> list[str]:
        """Conditions that keep the whole of the plan's rule."""
        return [name for name, v in self.verdicts.items() if v.outcome_of("plan") is Outcome.PASS]


def conditions_of(found: LagFindings) -> list[str]:
    """The schemes, without their controls."""
    return [name for name in dict.fromkeys(row.condition for row in found.rows) if not is_control(name)]


def condition_metrics(primary: LagFindings, condition: str, checks: Mapping[str, float | None]) -> dict[str, Estimate]:
    """What one condition is judged by: its rows at the primary lag, and what A3 knows of its clusters."""
    whole = {split: find(primary.rows, condition, PRIMARY_SLICE, split) for split in SPLITS}
    people = {s: max((row.vr_adjusted.n for row in primary.rows if row.split == s), default=0) for s in SPLITS}

    def number(split: str, value: float | None) -> Estimate:
        return exact(math.nan if value is None else value, people[split], "speakers")

    def largest(values: Sequence[float]) -> float:
        return max(values) if values and not any(map(math.isnan, values)) else math.nan

    rows = [row for row in whole.values() if row]
    metrics = {f"vr_{split}": number(split, row.vr if row else None) for split, row in whole.items()}
    metrics["degradation"] = number(EVAL, worse_for_strangers(primary, condition, PRIMARY_SLICE))
    for slice_ in ROBUST_SLICES:
        for split in SPLITS:
            row = find(primary.rows, condition, slice_, split)
            metrics[f"vr_{split}_{slice_}"] = number(split, row.vr if row else None)
            metrics[f"vr_adjusted_{split}_{slice_}"] = row.vr_adjusted if row else number(split, None)
    for split, row in whole.items():
        metrics[f"vr_adjusted_{split}"] = row.vr_adjusted if row else number(split, None)
    new = whole[EVAL]
    metrics["degradation_adjusted"] = _worse(metrics["vr_adjusted_train"].value, metrics["vr_adjusted_eval"])
    metrics["vr_eval_with_train_means"] = new.vr_train_means if new else number(EVAL, None)
    metrics["permutation_p"] = number(EVAL, largest([row.p_value for row in rows]))
    metrics["excluded_share"] = number(TRAIN, largest([row.excluded for row in rows]))
    for name in ("voices_in_a_cluster", "clusters_at_one_loudness"):
        metrics[name] = number(TRAIN, checks.get(name))
    if new:
        own = new.speakers_adjusted
        metrics["ratio_inside_eval_speakers"] = Estimate(own.mean, own.low, own.high, own.n, "speakers")
        metrics["entropy_gain_nats_eval"] = number(EVAL, new.entropy.gain)
        metrics["entropy_gain_nats_per_dim_eval"] = number(EVAL, new.entropy.gain_per_dim)
    return metrics


def _worse(train: float, new: Estimate) -> Estimate:
    """(new - train) / train, with the interval over the new speakers; the train speakers' ratio is held."""
    value, low, high = (degradation(train, ratio) for ratio in (new.value, new.low, new.high))
    return Estimate(value, low, high, new.n, new.unit)


def _controls(findings: Sequence[LagFindings], split: str) -> Iterator[tuple[Row, float]]:
    """Each control that can be measured, with how far its ratio is beyond the chance of one permutation.

    Random numbers leave (N - K) / (N - 1) on average, so |VR - that| is the plan's |random - 1| where frames abound,
    and small where they hardly outnumber the clusters, as VR_adj then divides by next to nothing. One permutation of
    few frames scatters about it: 30 in 5 clusters by 0.045. So HONEST standard deviations over all permutations
    (`permuted_moments`) are taken off, and what is below 0 is within chance; where nothing can be permuted there is
    nothing to judge.
    """
    for found in findings:
        for row in found.rows:
            if is_control(row.condition) and row.split == split and math.isfinite(row.permuted_std):
                off = abs(row.vr - (row.n - row.clusters) / (row.n - 1))
                yield row, off - HONEST * row.permuted_std


def control_metrics(findings: Sequence[LagFindings], unlike_table: int) -> dict[str, Estimate]:
    """What must hold of the instrument, over all conditions, lags and slices."""
    frames = sum(findings[0].frames.values())
    metrics = {
        "frames_unlike_table": exact(unlike_table, frames, "frames"),
        "control_histogram_errors": exact(sum(found.histogram_errors for found in findings), frames, "frames"),
    }
    chances = []
    for split in SPLITS:
        found = list(_controls(findings, split))
        worst = max((max(off, 0.0) for _, off in found), default=math.nan)
        metrics[f"control_deviation_{split}"] = exact(worst, len(found), "controls")
        chances += [row.p_value for row, _ in found if row.slice == PRIMARY_SLICE and math.isfinite(row.p_value)]
    metrics["control_p"] = exact(min(chances, default=math.nan), len(chances), "controls")
    return metrics


def decide(gate: Gate, conditions: Mapping[str, Mapping[str, Estimate]]) -> Decision:
    """Judge every condition by `gate`. Those that keep the plan's rule lead, then those with the fewest violations of
    all criteria, then the lowest ratio: a scheme that leaves out most frames must not lead by the few it keeps.
    """
    verdicts = {name: gate.judge(metrics) for name, metrics in conditions.items()}

    def against(name: str) -> tuple[bool, int, float]:
        ratio = conditions[name]["vr_eval"].value
        plan, ours = (len(_violated(verdicts[name], source)) for source in ("plan", "calibrated"))
        return plan > 0, plan + ours, ratio if math.isfinite(ratio) else math.inf

    return Decision(verdicts, min(verdicts, key=against))


def _violated(verdict: Verdict, source: str, role: str = "claim") -> list[Finding]:
    return [
        f
        for f in verdict.findings
        if f.criterion.source == source and f.criterion.role == role and f.outcome is not Outcome.PASS
    ]


def _in_words(finding: Finding) -> str:
    return f"{finding.criterion.metric} is {finding.estimate or 'not measured'}, wanted {finding.criterion}".replace(
        f"wanted {finding.criterion.metric} ", "wanted "
    )


def decision_file(decision: Decision, findings: Sequence[LagFindings]) -> dict[str, Any]:
    """The plan's decision.json: the outcome, and for each condition every reason against it."""
    verdict = decision.verdict
    broken = [f for source in ("plan", "calibrated") for f in _violated(verdict, source, "control")]
    off = [(row, deviation) for split in SPLITS for row, deviation in _controls(findings, split)]
    worst = max(off, key=lambda pair: pair[1], default=None)
    return {
        "outcome": verdict.outcome,
        "plan": verdict.outcome_of("plan"),
        "calibrated": verdict.outcome_of("calibrated"),
        "primary_row": {"lag": PRIMARY_LAG, "slice": PRIMARY_SLICE},
        "leading_condition": decision.leading,
        "conditions_passing": decision.passing,
        "controls": {
            "violations": [_in_words(f) for f in broken],
            "farthest": _named(*worst) if worst else None,
        },
        "conditions": {
            name: {
                "passes": v.outcome_of("plan") is Outcome.PASS,
                "plan": v.outcome_of("plan"),
                "calibrated": v.outcome_of("calibrated"),
                "violations": [_in_words(f) for f in _violated(v, "plan")],
                "calibrated_violations": [_in_words(f) for f in _violated(v, "calibrated")],
            }
            for name, v in decision.verdicts.items()
        },
    }


def _named(row: Row, deviation: float) -> dict[str, Any]:
    where = {name: getattr(row, name) for name in ("condition", "lag", "slice", "split", "n", "clusters", "vr")}
    return {**where, "vr_adjusted": row.vr_adjusted.value, "deviation": deviation}
