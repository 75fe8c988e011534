"""report.txt: the decision and the numbers behind it, for somebody with nothing but a text editor.

It writes what was found; it measures nothing and decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from inscape.core.estimate import Estimate
from inscape.core.gate import Gate
from inscape.metrics.audio_structure import CONTROL_SUFFIX
from inscape.stats.context_windows import EVAL, HELD_OUT, SLICES, TRAIN
from inscape.studies.audio_structure.structure_decision import PRIMARY_LAG, PRIMARY_SLICE, conditions_of
from inscape.studies.audio_structure.structure_rows import LagFindings, find, worse_for_strangers

__all__ = ["Corpus", "report_txt"]

LEGEND = """\
VR      squared deviation of the next step that is left inside clusters, over all of it: 1 explains nothing.
VR adj  the same, divided by what random clusters of these sizes leave: 1 where clusters say nothing.
R2 new  1 - VR with the means of the train speakers: what the rule explains of voices that it was not found on.
p       chance that permuted cluster numbers explain as much; frames are exchanged as if they were independent.
nats    entropy of the step that knowing the cluster saves, diagonal Gaussian; a cluster of few frames looks sharper
        than it is.
+-      from, to: 95 % over speakers.
Published for Mimi: mean_vq64 0.997 (random 0.999), pca8_vq256 0.988 (random 0.995), which adjusted are 0.998 and 0.993.
The random ones are what so many clusters leave of 50,000 to 60,000 frames."""


class Corpus(NamedTuple):
    """What the latents are of."""

    name: str
    codec: str
    rate_hz: float
    dimension: int
    speakers: Mapping[str, int]  # by split
    hours: float


def report_txt(
    corpus: Corpus,
    decision: Mapping[str, Any],
    gate: Gate,
    findings: Sequence[LagFindings],
    centred: LagFindings | None,
) -> str:
    """The whole report, as plain text of lines up to 120 characters where names allow it."""
    primary = next(found for found in findings if found.lag == PRIMARY_LAG)
    parts = [_head(corpus, decision, primary), _reasons(decision), _rule(gate), _slices(primary)]
    parts += [_lags(findings, corpus.rate_hz), _speakers(primary)]
    if centred is not None:
        parts.append(_rows("Ablation: each speaker's mean taken off the latents (decides nothing)", centred))
    return "\n\n".join([*parts, LEGEND]) + "\n"


def _head(corpus: Corpus, decision: Mapping[str, Any], primary: LagFindings) -> str:
    order = [split for split in (TRAIN, HELD_OUT, EVAL) if split in primary.frames]
    frames = ", ".join(f"{split} {primary.frames[split]:,}" for split in order)
    speakers = ", ".join(f"{split} {count}" for split, count in corpus.speakers.items())
    passing = ", ".join(decision["conditions_passing"]) or "none"
    return "\n".join(
        (
            "AUDIO STRUCTURE, PHASE 0: does a coarse key of the recent past tell the next step, for every voice?",
            "",
            f"Decision: {decision['outcome']}   (the plan's rule: {decision['plan']}, ours: {decision['calibrated']})",
            f"Conditions that keep the plan's rule: {passing}; the nearest to it: {decision['leading_condition']}",
            "",
            f"Corpus: {corpus.name}, {corpus.hours:.2f} hours",
            f"Latents: {corpus.codec}, {corpus.dimension} numbers a frame, {corpus.rate_hz:g} frames a second",
            f"Speakers: {speakers}",
            f"Eligible frames: {frames}",
        )
    )


def _reasons(decision: Mapping[str, Any]) -> str:
    lines = ["What speaks against each condition"]
    lines += [f"  CONTROL, a fault of the instrument: {reason}" for reason in decision["controls"]["violations"]]
    for name, found in decision["conditions"].items():
        lines.append(f"  {name}: {found['plan']} by the plan, {found['calibrated']} by ours")
        lines += [f"    plan: {reason}" for reason in found["violations"]]
        lines += [f"    ours: {reason}" for reason in found["calibrated_violations"]]
    return "\n".join(lines)


def _rule(gate: Gate) -> str:
    lines = ["The rule, fixed before the measurement; any one condition that keeps it passes the phase"]
    lines += [f"  {c.source:<10}  {c.role:<7}  {c}" for c in gate.criteria]
    return "\n".join(lines)


def _slices(primary: LagFindings) -> str:
    decides = {PRIMARY_SLICE: " (decides)"}
    tables = [_rows(f"Lag {primary.lag}, slice {name}{decides.get(name, '')}", primary, name) for name in SLICES]
    return "\n\n".join(tables)


def _rows(title: str, found: LagFindings, slice_: str = PRIMARY_SLICE) -> str:
    header = ("condition", "split", "frames", "clusters", "excluded", "VR", "VR adj", "+-", "random", "R2 new")
    header += ("p", "nats", "nats/dim")
    lines = []
    for condition in conditions_of(found):
        for split in (TRAIN, HELD_OUT, EVAL):
            row = find(found.rows, condition, slice_, split)
            control = find(found.rows, condition + CONTROL_SUFFIX, slice_, split)
            if row is None or control is None:
                continue
            lines.append(
                (
                    condition,
                    split,
                    f"{row.n:,}",
                    str(row.clusters),
                    _number(row.excluded, "{:.1%}"),
                    _number(row.vr),
                    _number(row.vr_adjusted.value),
                    _between(row.vr_adjusted),
                    _number(control.vr_adjusted.value),
                    _number(1 - row.vr_train_means.value),
                    _number(row.p_value, "{:.1g}"),
                    _number(row.entropy.gain, "{:.2f}"),
                    _number(row.entropy.gain_per_dim, "{:.3f}"),
                )
            )
    return _table(title, header, lines)


def _lags(findings: Sequence[LagFindings], rate_hz: float) -> str:
    header = ("condition", "lag", "ms", "VR train", "VR eval", "adj train", "adj eval", "degradation", "R2 new")
    lines = []
    for condition in conditions_of(findings[0]):
        for found in findings:
            train, new = (find(found.rows, condition, PRIMARY_SLICE, split) for split in (TRAIN, EVAL))
            if train and new:
                ratios = (train.vr, new.vr, train.vr_adjusted.value, new.vr_adjusted.value)
                lines.append(
                    (
                        condition,
                        str(found.lag),
                        f"{1000 * found.lag / rate_hz:.0f}",
                        *map(_number, ratios),
                        _number(worse_for_strangers(found, condition, PRIMARY_SLICE), "{:+.1%}"),
                        _number(1 - new.vr_train_means.value),
                    )
                )
    return _table("Lags, slice all: from the context's last frame to the step", header, lines)


def _speakers(primary: LagFindings) -> str:
    header = ("condition", "split", "speakers", "VR", "VR adj", "+-", "std", "least", "most")
    lines = []
    for condition in conditions_of(primary):
        for split in (TRAIN, EVAL):
            row = find(primary.rows, condition, PRIMARY_SLICE, split)
            if row is not None:
                own = row.speakers_adjusted
                between = _between(Estimate(own.mean, own.low, own.high, own.n, "speakers"))
                means, numbers = (row.speakers.mean, own.mean), (own.std, own.min, own.max)
                lines.append((condition, split, str(own.n), *map(_number, means), between, *map(_number, numbers)))
    return _table("Inside single speakers of 50 frames or more, with their own means", header, lines)


def _number(value: float, form: str = "{:.4f}") -> str:
    return form.format(value) if math.isfinite(value) else "-"


def _between(estimate: Estimate) -> str:
    return f"{estimate.low:.4f}, {estimate.high:.4f}" if estimate.measured else "-"


def _table(title: str, header: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> str:
    rows = [header, *lines]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    text = []
    for row in rows:
        cells = [cell.rjust(w) if i > 1 else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        text.append("  ".join(cells))
    return "\n".join([title, *(f"  {line.rstrip()}" for line in text)])
