"""The plain summary of a trained phase: how long, on what data, with which result; and all its numbers as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

from inscape.core.estimate import Estimate
from inscape.core.rundir import RunDir, write_atomically
from inscape.studies.visual.sources import Source
from inscape.train import FitResult

__all__ = ["METRICS_CSV", "write_summary"]

METRICS_CSV = "metrics.csv"
COLUMNS: tuple[str, ...] = ("kind", "step", "metric", "value", "low", "high", "n", "unit")


def write_summary(run: RunDir, result: FitResult, source: Source, metrics: Mapping[str, Estimate]) -> None:
    """Write evaluation_summary.json and metrics.csv, which the plan asks for beside the metrics.

    metrics.csv: a row for each number of each evaluation during the training (kind `evaluation`), and for each metric
    at its end (kind `final`) with its interval, independent units and their name; what was not measured is empty.
    """
    summary = {"steps": result.steps, "seconds": result.seconds, "data": source.report()}
    run.write_json("evaluation_summary.json", summary | {name: e.to_json() for name, e in metrics.items()})
    rows = [
        {"kind": "evaluation", "step": evaluation["step"], "metric": name, "value": value}
        for evaluation in result.evaluations
        for name, value in evaluation["values"].items()
    ]
    rows += [{"kind": "final", "step": result.steps, "metric": name, **e.to_json()} for name, e in metrics.items()]
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(run.path / METRICS_CSV, table.getvalue())
