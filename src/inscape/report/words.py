"""Verdicts, criteria and numbers in words that a reader who never saw the code understands."""

import math
import re
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from inscape.core.estimate import Estimate
from inscape.core.gate import Criterion, Finding, Outcome, Verdict

__all__ = [
    "OUTCOMES",
    "Meaning",
    "asked",
    "date",
    "duration",
    "in_words",
    "measured",
    "number",
    "over",
    "verdict_sentence",
]


class Meaning(NamedTuple):
    """How an outcome is shown: a sign and a word beside the colour, so that colour alone never carries it."""

    sign: str
    word: str
    explanation: str


OUTCOMES = {
    "PASS": Meaning("✓", "pass", "Every criterion holds, with the whole 95 % interval on the right side of its bound."),
    "PARTIAL": Meaning("◐", "partial", "The full bound was missed, but the weaker bound set beforehand was reached."),
    "FAIL": Meaning("✗", "fail", "At least one claim is on the wrong side of its bound, with its whole interval."),
    "INCONCLUSIVE": Meaning(
        "?", "inconclusive", "An interval lies across its bound, or something was not measured: it cannot be decided."
    ),
    "INVALID": Meaning("⊘", "invalid", "A control did not hold. The instrument failed, so nothing is said either way."),
    "UNFINISHED": Meaning("…", "unfinished", "The run has not been measured to the end, so there is no verdict yet."),
    "UNREADABLE": Meaning("!", "unreadable", "The files that the verdict is worked out from are missing or damaged."),
}


def in_words(name: str) -> str:
    """A metric's or file's name as words."""
    return re.sub(r"\.(?!\d)", ": ", name.replace("_", " ")).strip()


def asked(criterion: Criterion) -> str:
    """The bound in words."""
    side = "at least" if criterion.at_least is not None else "at most"
    weaker = f" (partly reached: {side} {number(criterion.partial)})" if criterion.partial is not None else ""
    return f"{side} {number(criterion.bound)}{weaker}"


def measured(estimate: Estimate | None) -> str:
    """The figure with its interval."""
    if estimate is None or not estimate.measured:
        return "not measured"
    if estimate.low == estimate.high:
        return number(estimate.value)
    return f"{number(estimate.value)} [{number(estimate.low)}, {number(estimate.high)}]"


def over(estimate: Estimate | None) -> str:
    """What the figure was counted over."""
    return f"{estimate.n:,} {estimate.unit}" if estimate is not None and estimate.n else ""


def number(value: float) -> str:
    """Four significant digits, with thousands set apart."""
    if not math.isfinite(value):
        return "not a number"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """A time span as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def date(moment: datetime | None) -> str:
    """Day and minute, in UTC."""
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC" if moment else "at an unknown time"


def verdict_sentence(verdict: Verdict) -> str:
    """The verdict in one or two sentences: how many claims hold, and which do not."""
    claims = [f for f in verdict.findings if f.criterion.role == "claim"]
    controls = [f for f in verdict.findings if f.criterion.role == "control"]
    broken = [f for f in controls if f.outcome is not Outcome.PASS]
    held = [f for f in claims if f.outcome is Outcome.PASS]
    sentence = f"{len(held)} of {_count(claims, 'claim')} {'holds' if len(held) == 1 else 'hold'}"
    for outcome, verb in (
        (Outcome.PARTIAL, "reached in part"),
        (Outcome.FAIL, "missed"),
        (Outcome.INCONCLUSIVE, "undecided"),
    ):
        some = [f for f in claims if f.outcome is outcome]
        if some:
            sentence += f"; {verb}: {_names(some)}"
    if broken:
        return f"{_count(broken, 'control')} did not hold ({_names(broken)}), so the rest says nothing. {sentence}."
    return f"{sentence}. {'All controls hold.' if controls else 'This gate has no controls.'}"


def _count(findings: Sequence[Finding], what: str) -> str:
    return f"{len(findings)} {what}{'' if len(findings) == 1 else 's'}"


def _names(findings: Sequence[Finding]) -> str:
    return ", ".join(in_words(f.criterion.metric) for f in findings)
