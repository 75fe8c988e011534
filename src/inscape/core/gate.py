"""The only place that decides.

A gate is a list of criteria written down before the measurement. `Gate.judge` is a pure function of the metrics, so
anyone can replay a verdict from `gate.json` and `metrics.json`.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal

from inscape.core.estimate import Estimate

__all__ = ["Criterion", "Finding", "Gate", "Outcome", "Verdict", "fingerprint_of_gate"]


class Outcome(StrEnum):
    """What a gate can say. INVALID: the instrument failed, so the measurement says nothing either way."""

    PASS = "PASS"
    PARTIAL = "PARTIAL"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    INVALID = "INVALID"


@dataclass(frozen=True)
class Criterion:
    """One bound on one metric.

    role: `claim` is what the phase wants to show; `control` is what must hold for the instrument to be believed.
    source: `plan` thresholds are the source documents', verbatim; `calibrated` ones are ours, and `why` says why.
    partial: a weaker bound on the same side; a claim between the two is PARTIAL instead of FAIL.
    """

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    role: Literal["claim", "control"] = "claim"
    source: Literal["plan", "calibrated"] = "plan"
    why: str = field(default="", compare=False)  # words: rewording them changes no decision
    partial: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str):
            raise ValueError(f"a criterion's metric is {self.metric!r}; give its name as text")
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"criterion on {self.metric!r}: give exactly one of at_least and at_most")
        if self.role not in ("claim", "control") or self.source not in ("plan", "calibrated"):
            raise ValueError(f"criterion on {self.metric!r}: role {self.role!r} / source {self.source!r} are not known")
        if not all(math.isfinite(b) for b in (self.bound, self.partial or 0.0)):
            raise ValueError(f"criterion on {self.metric!r}: a bound that is not finite decides nothing: {self.bound}")
        if self.partial is not None and not self._holds_at(self.bound, self.partial):
            raise ValueError(
                f"criterion on {self.metric!r}: partial={self.partial} is stricter than the bound {self.bound}"
            )

    @property
    def bound(self) -> float:
        """The bound itself, whichever side it is on."""
        return float(self.at_least if self.at_least is not None else self.at_most)  # type: ignore[arg-type]

    def _holds_at(self, value: float, bound: float) -> bool:
        return value >= bound if self.at_least is not None else value <= bound

    def _decide(self, estimate: Estimate, bound: float) -> Outcome:
        worst, best = (estimate.low, estimate.high) if self.at_least is not None else (estimate.high, estimate.low)
        if self._holds_at(worst, bound):
            return Outcome.PASS
        return Outcome.INCONCLUSIVE if self._holds_at(best, bound) else Outcome.FAIL

    def decide(self, estimate: Estimate | None) -> Outcome:
        """PASS where the whole interval is on the right side, FAIL where none of it is, INCONCLUSIVE across the bound.

        A metric that was not measured is INCONCLUSIVE. A control knows only PASS and INVALID.
        """
        if estimate is None or not estimate.measured:
            outcome = Outcome.INCONCLUSIVE
        else:
            outcome = self._decide(estimate, self.bound)
            if (
                outcome is Outcome.FAIL
                and self.partial is not None
                and self._decide(estimate, self.partial) is Outcome.PASS
            ):
                outcome = Outcome.PARTIAL
        return Outcome.INVALID if self.role == "control" and outcome is not Outcome.PASS else outcome

    def __str__(self) -> str:
        return f"{self.metric} {'>=' if self.at_least is not None else '<='} {self.bound:g}"


@dataclass(frozen=True)
class Finding:
    """What one criterion said of one estimate (None: not measured)."""

    criterion: Criterion
    estimate: Estimate | None
    outcome: Outcome


@dataclass(frozen=True)
class Verdict:
    """The gate's outcome and how it came about."""

    outcome: Outcome
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """True for PASS alone."""
        return self.outcome is Outcome.PASS

    def outcome_of(self, source: Literal["plan", "calibrated"]) -> Outcome | None:
        """The outcome of the plan's claims alone, or of the calibrated ones; None where there are none.

        Controls count for both: a broken instrument says nothing about either.
        """
        claims = [f for f in self.findings if f.criterion.source == source and f.criterion.role == "claim"]
        controls = [f for f in self.findings if f.criterion.role == "control"]
        return _overall(claims + controls) if claims else None

    def to_json(self) -> dict[str, Any]:
        """What verdict.json holds."""
        return {
            "outcome": self.outcome,
            "plan": self.outcome_of("plan"),
            "calibrated": self.outcome_of("calibrated"),
            "findings": [
                {
                    **asdict(f.criterion),
                    "text": str(f.criterion),
                    "estimate": f.estimate.to_json() if f.estimate else None,
                    "outcome": f.outcome,
                }
                for f in self.findings
            ],
        }


class Gate:
    """A tuple of criteria, fixed before the measurement."""

    def __init__(self, criteria: Iterable[Criterion]) -> None:
        self.criteria = tuple(criteria)
        if not any(c.role == "claim" for c in self.criteria):
            raise ValueError("a gate needs at least one claim: without one, nothing measured would pass")
        if len(set(self.criteria)) < len(self.criteria):
            raise ValueError("a criterion stands twice in the gate")

    def judge(self, metrics: Mapping[str, Estimate]) -> Verdict:
        """Pure. A control not passed: INVALID; else the worst claim decides: FAIL, INCONCLUSIVE, PARTIAL, PASS."""
        findings = tuple(Finding(c, metrics.get(c.metric), c.decide(metrics.get(c.metric))) for c in self.criteria)
        return Verdict(_overall(findings), findings)

    def to_json(self) -> list[dict[str, Any]]:
        """What gate.json holds: enough to judge again without the code."""
        return [asdict(c) for c in self.criteria]

    @classmethod
    def from_json(cls, criteria: Iterable[Mapping[str, Any]]) -> "Gate":
        """The inverse of `to_json`; ValueError if it is not a gate."""
        try:
            return cls(Criterion(**c) for c in criteria)
        except (TypeError, OverflowError) as error:
            raise ValueError(f"not a gate: {error}") from None

    def __eq__(self, other: object) -> bool:
        """Equal where they decide alike: neither the order of the criteria nor the words of a `why` matter."""
        return isinstance(other, Gate) and set(self.criteria) == set(other.criteria)

    def __hash__(self) -> int:
        return hash(frozenset(self.criteria))

    def __repr__(self) -> str:
        return f"Gate({', '.join(map(str, self.criteria))})"


def fingerprint_of_gate(criteria: Any) -> str:
    """Sixteen hex digits that name exactly this content of a gate.json: others after any edit of it."""
    return hashlib.sha256(json.dumps(criteria, sort_keys=True).encode()).hexdigest()[:16]


def _overall(findings: Iterable[Finding]) -> Outcome:
    outcomes = {f.outcome for f in findings}
    worst_first = (Outcome.INVALID, Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PARTIAL)
    return next((o for o in worst_first if o in outcomes), Outcome.PASS)
