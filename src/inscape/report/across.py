"""What across_seeds.json says, for pages and tables."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from inscape.core.estimate import Estimate
from inscape.report.words import OUTCOMES, in_words, measured, number

__all__ = ["AcrossSeeds", "read_across_seeds"]


class AcrossSeeds(NamedTuple):
    """An outcome, the seeds it is about, and rows (criterion in words, figure, outcome)."""

    outcome: str
    seeds: str
    rows: list[tuple[str, str, str]]


def read_across_seeds(path: Path) -> AcrossSeeds | None:
    """The file's content; None if there is none, UNREADABLE if it is damaged."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        rows = [_row(finding) for finding in content["findings"]]
        found = AcrossSeeds(str(content["outcome"]), ", ".join(map(str, content["seeds"])), rows)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return AcrossSeeds("UNREADABLE", "", [])
    known = found.outcome in OUTCOMES and all(outcome in OUTCOMES for _, _, outcome in rows)
    return found if known else AcrossSeeds("UNREADABLE", "", [])


def _row(finding: dict[str, Any]) -> tuple[str, str, str]:
    side, bound = ("at least", "at_least") if finding["at_least"] is not None else ("at most", "at_most")
    estimate = Estimate.from_json(finding["estimate"]) if finding["estimate"] else None
    criterion = f"{in_words(str(finding['metric']))} {side} {number(float(finding[bound]))}"
    return criterion, measured(estimate), str(finding["outcome"])
