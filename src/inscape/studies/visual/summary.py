"""The plain summary of a trained phase: how long, on what data, with which result."""

from __future__ import annotations

from collections.abc import Mapping

from inscape.core.estimate import Estimate
from inscape.core.rundir import RunDir
from inscape.studies.visual.sources import Source
from inscape.train import FitResult

__all__ = ["write_summary"]


def write_summary(run: RunDir, result: FitResult, source: Source, metrics: Mapping[str, Estimate]) -> None:
    """Write evaluation_summary.json, which the plan asks for beside the metrics."""
    summary = {"steps": result.steps, "seconds": result.seconds, "data": source.report()}
    run.write_json("evaluation_summary.json", summary | {name: e.to_json() for name, e in metrics.items()})
