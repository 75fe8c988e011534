"""What across_seeds.json says, for pages and tables: worked out again from its bounds and figures, never believed."""

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from inscape.core.estimate import Estimate
from inscape.core.gate import Criterion, Finding, Gate
from inscape.core.rundir import is_run_named
from inscape.report.record import Record
from inscape.report.words import in_words, measured, number

__all__ = ["AcrossSeeds", "read_across_seeds"]

KNOWN = {field.name for field in fields(Criterion)}


class AcrossSeeds(NamedTuple):
    """An outcome, the seeds it is about, rows (criterion in words, figure, outcome), and why it is UNREADABLE."""

    outcome: str
    seeds: str
    rows: list[tuple[str, str, str]]
    note: str = ""


def read_across_seeds(path: Path, records: Sequence[Record] = ()) -> AcrossSeeds | None:
    """The file's content; None if there is none, UNREADABLE if it is damaged or says what its own figures do not give.

    records: the runs that it is shown beside. It is UNREADABLE too where it is of others, as far as it says of which.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        judged = Gate(_criterion(finding) for finding in content["findings"]).judge(_estimates(content["findings"]))
        seeds = ", ".join(map(str, content["seeds"]))
        said = [content["outcome"], *(finding["outcome"] for finding in content["findings"])]
        stale = _is_stale(content, records)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, AttributeError):
        return AcrossSeeds("UNREADABLE", "", [], f"{path.name} is damaged")
    found = AcrossSeeds(str(judged.outcome), seeds, [_row(finding) for finding in judged.findings])
    if said != [judged.outcome, *(finding.outcome for finding in judged.findings)]:
        return found._replace(outcome="UNREADABLE", note=f"{path.name} says something else than its own figures give")
    return found._replace(outcome="UNREADABLE", note=f"{path.name} is of other runs than these") if stale else found


def _criterion(finding: dict[str, Any]) -> Criterion:
    return Criterion(**{name: value for name, value in finding.items() if name in KNOWN})


def _estimates(findings: Sequence[dict[str, Any]]) -> dict[str, Estimate]:
    return {f["metric"]: Estimate.from_json(f["estimate"]) for f in findings if f["estimate"]}


def _is_stale(content: dict[str, Any], records: Sequence[Record]) -> bool:
    """Whether it is of other runs; files of before runs were named in them are taken to be of these."""
    configs = {record.fingerprint for record in records}
    if len(configs) > 1 or (configs and content.get("fingerprint", *configs) not in configs):
        return True
    runs = content.get("runs")
    return runs is not None and any(
        record.seed in content["seeds"] and not is_run_named(runs[str(record.seed)], record.path, record.env)
        for record in records
    )


def _row(finding: Finding) -> tuple[str, str, str]:
    side = "at least" if finding.criterion.at_least is not None else "at most"
    criterion = f"{in_words(finding.criterion.metric)} {side} {number(finding.criterion.bound)}"
    return criterion, measured(finding.estimate), str(finding.outcome)
