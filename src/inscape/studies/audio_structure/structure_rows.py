"""What is measured of one lag, and the files that hold it: rows condition x lag x slice x split, as JSON and as CSV.

A lag is written when it is done, so that an interrupted run does not measure it again; everything later (the decision,
the report, the plots) reads what was written. NaN is null in JSON and empty in CSV.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from inscape.core.estimate import Estimate
from inscape.metrics.audio_structure import CONTROL_SUFFIX, ConfidencePoint, Row, rows_of
from inscape.metrics.clustering import ClusterDiagnostics, EntropyReduction, SpeakerSpread
from inscape.metrics.structure_passes import (
    MeasureConfig,
    Plan,
    assign_utterances,
    plan_measurement,
    speaker_terms,
    sum_targets,
)
from inscape.stats.conditioning import Conditioning
from inscape.stats.context_windows import EVAL, SLICES, TRAIN, Utterances

__all__ = [
    "LagFindings",
    "find",
    "findings_from_json",
    "findings_to_json",
    "is_control",
    "measure_lag",
    "metrics_file",
    "renamed",
    "tables_csv",
    "worse_for_strangers",
]


class LagFindings(NamedTuple):
    """Everything measured at one lag."""

    lag: int
    rows: list[Row]
    confidence: list[ConfidencePoint]
    diagnostics: dict[str, ClusterDiagnostics]  # of each scheme, on TRAIN
    effective: dict[str, int]  # clusters of each scheme with enough TRAIN frames
    sizes: dict[str, list[list[int]]]  # of each scheme: [TRAIN frames of a cluster, how many such clusters], not of 0
    frames: dict[str, int]  # eligible ones by split
    high_energy: dict[str, int]  # of these, of high energy
    histogram_errors: int  # frames by which the control's histogram of numbers differs from the scheme's
    exact: bool  # whether no sum was rounded


def measure_lag(
    utterances: Utterances, conditioning: Conditioning, threshold: float, config: MeasureConfig
) -> LagFindings:
    """All numbers of one lag, in three passes over `utterances`, speaker by speaker; above `threshold` is loud."""
    assignment = assign_utterances(utterances, conditioning)
    plan = plan_measurement(assignment, conditioning, threshold, config)
    totals = sum_targets(utterances, plan)
    found = rows_of(plan, totals, [speaker_terms(utterances, plan, totals)])
    loud = list(SLICES["high_energy"])
    return LagFindings(
        conditioning.lag,
        found.rows,
        found.confidence,
        found.diagnostics,
        found.effective,
        dict(zip(conditioning.config.schemes, map(_sizes, assignment.label_SN[TRAIN]), strict=True)),
        {split: int(count_A.sum()) for split, count_A in totals.eligible.items()},
        {split: int(count_A[loud].sum()) for split, count_A in totals.eligible.items()},
        _histogram_errors(plan),
        found.exact,
    )


def _sizes(label_N: np.ndarray) -> list[list[int]]:
    size_M, clusters_M = np.unique(np.unique(label_N, return_counts=True)[1], return_counts=True)
    return np.stack((size_M, clusters_M), axis=1).tolist()


def _histogram_errors(plan: Plan) -> int:
    """A permutation keeps how often each number occurs; numbers drawn anew do not."""
    errors = 0
    for split, label_SN in plan.label_SN.items():
        for label_N, control_N in zip(label_SN, plan.control_SN[split], strict=True):
            size = int(max(label_N.max(initial=-1), control_N.max(initial=-1))) + 2
            one, other = (np.bincount(x + 1, minlength=size) for x in (label_N, control_N))
            errors += int(np.abs(one - other).sum())
    return errors


def is_control(condition: str) -> bool:
    """Whether a condition is the permuted one of a scheme."""
    return condition.endswith(CONTROL_SUFFIX)


def find(rows: Iterable[Row], condition: str, slice_: str, split: str) -> Row | None:
    """The row of one condition, slice and split among rows of one lag; None if that split has no frames."""
    wanted = (condition, slice_, split)
    return next((row for row in rows if (row.condition, row.slice, row.split) == wanted), None)


def renamed(found: LagFindings, suffix: str) -> LagFindings:
    """The same findings under other names of conditions."""

    def name(condition: str) -> str:
        scheme = condition.removesuffix(CONTROL_SUFFIX)
        return scheme + suffix + condition[len(scheme) :]

    return found._replace(
        rows=[row._replace(condition=name(row.condition)) for row in found.rows],
        confidence=[point._replace(condition=name(point.condition)) for point in found.confidence],
        diagnostics={name(scheme): x for scheme, x in found.diagnostics.items()},
        effective={name(scheme): x for scheme, x in found.effective.items()},
        sizes={name(scheme): x for scheme, x in found.sizes.items()},
    )


# --- JSON ---------------------------------------------------------------------------------------------------------


def findings_to_json(found: LagFindings) -> dict[str, Any]:
    """As plain values; NaN is null."""
    diagnostics = {
        scheme: {name: array.tolist() for name, array in x._asdict().items()} for scheme, x in found.diagnostics.items()
    }
    return _plain(
        found._replace(
            rows=[_row_to_json(row) for row in found.rows],
            confidence=[point._asdict() for point in found.confidence],
            diagnostics=diagnostics,
        )._asdict()  # type: ignore[arg-type]
    )


def findings_from_json(content: Mapping[str, Any]) -> LagFindings:
    """The inverse of `findings_to_json`. ValueError if it is of another version or damaged."""
    try:
        found = LagFindings(**content)
        return found._replace(
            rows=[_row_from_json(row) for row in content["rows"]],
            confidence=[ConfidencePoint(**_numbers(point)) for point in content["confidence"]],
            diagnostics={
                scheme: ClusterDiagnostics(
                    np.array(x["cluster_K"], dtype=np.int64),
                    np.array(x["count_K"], dtype=np.int64),
                    np.array(x["variance_K"], dtype=np.float64),
                    np.array(x["plane_K2"], dtype=np.float64).reshape(-1, 2),
                )
                for scheme, x in content["diagnostics"].items()
            },
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"measured numbers of a lag are damaged ({error}): measure them again") from None


def _row_to_json(row: Row) -> dict[str, Any]:
    nested = {name: getattr(row, name)._asdict() for name in ("entropy", "speakers", "speakers_adjusted")}
    estimates = {name: getattr(row, name).to_json() for name in ("vr_adjusted", "vr_train_means")}
    return row._asdict() | nested | estimates


def _row_from_json(content: Mapping[str, Any]) -> Row:
    return Row(
        **{
            **_numbers(content),
            "vr_adjusted": Estimate.from_json(content["vr_adjusted"]),
            "vr_train_means": Estimate.from_json(content["vr_train_means"]),
            "entropy": EntropyReduction(**_numbers(content["entropy"])),
            "speakers": SpeakerSpread(**_numbers(content["speakers"])),
            "speakers_adjusted": SpeakerSpread(**_numbers(content["speakers_adjusted"])),
        }
    )


def _numbers(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in content.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


# --- the plan's files ---------------------------------------------------------------------------------------------


def worse_for_strangers(found: LagFindings, condition: str, slice_: str) -> float:
    """Cross-speaker degradation (VR_eval - VR_train) / VR_train; NaN where one of them was not measured."""
    train, new = (find(found.rows, condition, slice_, split) for split in (TRAIN, EVAL))
    return (new.vr - train.vr) / train.vr if train and new and train.vr else math.nan


def metrics_file(findings: Sequence[LagFindings]) -> dict[str, Any]:
    """The plan's metrics.json: rows condition x lag x slice, each with its splits; then the diagnostics."""
    rows = []
    for found in findings:
        for condition, slice_ in dict.fromkeys((row.condition, row.slice) for row in found.rows):
            mine = [row for row in found.rows if (row.condition, row.slice) == (condition, slice_)]
            splits = {row.split: {k: v for k, v in _row_to_json(row).items() if k not in _NAMES} for row in mine}
            worse = worse_for_strangers(found, condition, slice_)
            named = {"condition": condition, "lag": found.lag, "slice": slice_}
            rows.append({**named, "degradation": worse, "splits": splits})
    return _plain(
        {
            "rows": rows,
            "effective_clusters": [{"lag": found.lag, **found.effective} for found in findings],
            "most_confident": [point._asdict() for found in findings for point in found.confidence],
            "sums_exact": all(found.exact for found in findings),
        }
    )


def tables_csv(findings: Sequence[LagFindings]) -> str:
    """The plan's tables.csv: one line a row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    lines = [(row, _columns(row, found)) for found in findings for row in found.rows]
    writer.writerow(lines[0][1])
    for _, columns in lines:
        writer.writerow(["" if isinstance(x, float) and math.isnan(x) else x for x in columns.values()])
    return text.getvalue()


def _columns(row: Row, found: LagFindings) -> dict[str, Any]:
    own = {f"speaker_{name}": value for name, value in row.speakers._asdict().items()}
    own |= {f"speaker_adjusted_{name}": value for name, value in row.speakers_adjusted._asdict().items()}
    return {
        **{name: getattr(row, name) for name in (*_NAMES, "n", "clusters", "excluded")},
        "vr": row.vr,
        **{f"vr_adjusted{end}": getattr(row.vr_adjusted, key) for end, key in _ENDS},
        **{f"vr_train_means{end}": getattr(row.vr_train_means, key) for end, key in _ENDS},
        "permutation_p": row.p_value,
        "degradation": worse_for_strangers(found, row.condition, row.slice),
        "entropy_gain_nats": row.entropy.gain,
        "entropy_gain_nats_per_dim": row.entropy.gain_per_dim,
        "entropy_ratio": row.entropy.ratio,
        "entropy_ratio_reliable": row.entropy.ratio_reliable,
        **own,
    }


_NAMES = ("condition", "lag", "slice", "split")
_ENDS = (("", "value"), ("_low", "low"), ("_high", "high"))
