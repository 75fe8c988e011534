"""The plots of the decision: ratios, controls, clusters and confidence.

Drawing only: numbers come in as findings. Each plot is written into phase0/plots, where the plan has it, and into the
run's figures with a caption. No pyplot and no global state.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inscape.core.rundir import RunDir, write_atomically
from inscape.metrics.audio_structure import CONTROL_SUFFIX
from inscape.metrics.clustering import ClusterDiagnostics
from inscape.stats.context_windows import EVAL, SLICES, TRAIN
from inscape.studies.audio_structure.structure_decision import PRIMARY_LAG, PRIMARY_SLICE, conditions_of
from inscape.studies.audio_structure.structure_rows import LagFindings, find

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["CAPTIONS", "draw_structure"]

CAPTIONS = {
    "variance_ratio.png": "What clusters leave unexplained of the next step, at lag 1: the adjusted ratio of train and "
    "eval speakers with its 95 % interval over speakers, eval with the means of the train speakers (the true test), "
    "and the random control. Below the line is what the plan asks for.",
    "slices_and_control.png": "The adjusted ratio on every slice at lag 1, and that of the random control at every "
    "lag. A control that leaves 1 is a fault of the instrument.",
    "lags.png": "The adjusted ratio of eval speakers against how far the context ends before the step.",
    "speakers.png": "The adjusted ratio inside single speakers, with their own means: mean with its 95 % interval, and "
    "the range from the least to the most predictable voice.",
    "cluster_sizes.png": "How many train frames the clusters hold. Those left of the line are left out everywhere.",
    "variance_against_size.png": "Variance of the normalised step inside each cluster against how many frames it "
    "holds. 1 is the variance of all frames; clusters of loud or moving sound lie above it, those of rest below.",
    "mean_steps.png": "The mean step of each cluster in the plane in which the means differ most; a disc's area is the "
    "cluster's size. A rule shows as discs far from the centre; the axes are in standard deviations of a step.",
    "confidence.png": "The ratio where only the share of frames nearest to their centroid is kept. If keys were sharp "
    "near their centroids, curves would fall to the left.",
}
COLOURS, MARKERS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7"), "osD^"
GREY = "#555555"
DPI = 110


def draw_structure(
    run: RunDir, folder: Path, findings: Sequence[LagFindings], rate_hz: float, wanted: float, min_cluster: int
) -> None:
    """Every plot into `folder` and into the run's figures. `wanted`: the ratio that the plan asks to stay below."""
    primary = next(found for found in findings if found.lag == PRIMARY_LAG)
    drawn: dict[str, Callable[[], Figure]] = {
        "variance_ratio.png": lambda: _ratios(primary, wanted),
        "slices_and_control.png": lambda: _slices(primary, findings),
        "lags.png": lambda: _lags(findings, rate_hz, wanted),
        "speakers.png": lambda: _speakers(primary),
        "cluster_sizes.png": lambda: _sizes(primary, min_cluster),
        "variance_against_size.png": lambda: _variances(primary),
        "mean_steps.png": lambda: _means(primary),
        "confidence.png": lambda: _confidence(primary),
    }
    for name, draw in drawn.items():
        content = io.BytesIO()
        draw().savefig(content, format="png", metadata={"Software": None})
        for place in (folder, run.figures):
            write_atomically(place / name, content.getvalue())
    run.write_json(f"{run.figures.name}/captions.json", CAPTIONS)


def _ratios(primary: LagFindings, wanted: float) -> Figure:
    figure, (axes,) = _panels(1, (5.6, 3.4))
    conditions = conditions_of(primary)
    looks = (
        ("train", TRAIN, "vr_adjusted"),
        ("eval", EVAL, "vr_adjusted"),
        ("eval, train means", EVAL, "vr_train_means"),
    )
    for k, (label, split, what) in enumerate(looks):
        points = [find(primary.rows, condition, PRIMARY_SLICE, split) for condition in conditions]
        estimates = [getattr(row, what) if row else None for row in points]
        _points(axes, np.arange(len(conditions)) + (k - 1) * 0.2, estimates, COLOURS[k], MARKERS[k], label)
    controls = [find(primary.rows, condition + CONTROL_SUFFIX, PRIMARY_SLICE, EVAL) for condition in conditions]
    values = [row.vr_adjusted.value if row else math.nan for row in controls]
    axes.plot(np.arange(len(conditions)) + 0.4, values, "x", color=GREY, label="random, eval")
    axes.axhline(wanted, color="black", linewidth=0.9, linestyle="--", label="the plan's bound")
    axes.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_ylim(bottom=0)
    axes.set_xlim(-0.5, len(conditions) - 0.4)
    _names(axes, [f"{name}\n{primary.effective[name]} clusters" for name in conditions])
    _finish(axes, "", "adjusted variance ratio", legend=True)
    return figure


def _points(axes: Axes, at: np.ndarray, estimates: Sequence[Any], colour: str, marker: str, label: str) -> None:
    for x, estimate in zip(at, estimates, strict=True):
        if estimate is not None and math.isfinite(estimate.value):
            if estimate.measured:
                axes.plot([x, x], [estimate.low, estimate.high], color=colour, linewidth=1.4)
            axes.plot([x], [estimate.value], color=colour, marker=marker, markersize=4.5, linestyle="", label=label)
            label = "_nolegend_"


def _slices(primary: LagFindings, findings: Sequence[LagFindings]) -> Figure:
    figure, (left, right) = _panels(2, (9.4, 3.6))
    places, names = np.arange(len(SLICES)), [name.replace("utterance_", "") for name in SLICES]
    for k, condition in enumerate(conditions_of(primary)):
        for split, filled in ((TRAIN, "none"), (EVAL, COLOURS[k])):
            rows = [find(primary.rows, condition, slice_, split) for slice_ in SLICES]
            values = [row.vr_adjusted.value if row else math.nan for row in rows]
            left.plot(
                places + 0.12 * (k - 1), values, MARKERS[k], color=COLOURS[k], markerfacecolor=filled,
                label=f"{condition}, {split}" if np.isfinite(values).any() else "_nolegend_",
            )  # fmt: skip
        for found in findings:
            rows = [find(found.rows, condition + CONTROL_SUFFIX, s, split) for s in SLICES for split in (TRAIN, EVAL)]
            values = np.array([row.vr_adjusted.value if row else math.nan for row in rows]).reshape(len(SLICES), 2)
            at = places[:, None] + 0.12 * (k - 1) + np.array([-0.03, 0.03])
            label = f"{condition}, random" if found.lag == primary.lag and np.isfinite(values).any() else "_nolegend_"
            right.plot(at.ravel(), values.ravel(), MARKERS[k], color=COLOURS[k], markersize=3.5, label=label)
    right.axhspan(0.95, 1.05, color=GREY, alpha=0.12, linewidth=0)
    for axes, title in ((left, "lag 1"), (right, "random control, all lags")):
        axes.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
        _names(axes, names)
        _finish(axes, title, "adjusted variance ratio", legend=True)
    return figure


def _lags(findings: Sequence[LagFindings], rate_hz: float, wanted: float) -> Figure:
    figure, (axes,) = _panels(1, (5.2, 3.2))
    at = np.array([1000 * found.lag / rate_hz for found in findings])
    width = 0.012 * float(at.max())
    for k, condition in enumerate(conditions_of(findings[0])):
        rows = [find(found.rows, condition, PRIMARY_SLICE, EVAL) for found in findings]
        estimates = [row.vr_adjusted if row else None for row in rows]
        _points(axes, at + width * (k - 1), estimates, COLOURS[k], MARKERS[k], condition)
    axes.axhline(wanted, color="black", linewidth=0.9, linestyle="--", label="the plan's bound")
    axes.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("from the context's last frame to the step, milliseconds", fontsize=8)
    _finish(axes, "", "adjusted variance ratio, eval", legend=True)
    return figure


def _speakers(primary: LagFindings) -> Figure:
    figure, (axes,) = _panels(1, (5.2, 3.2))
    names = []
    for condition in conditions_of(primary):
        for k, split in enumerate((TRAIN, EVAL)):
            row = find(primary.rows, condition, PRIMARY_SLICE, split)
            if row is None or not row.speakers_adjusted.n:
                continue
            own, x = row.speakers_adjusted, len(names)
            axes.plot([x, x], [own.min, own.max], color=COLOURS[k], linewidth=0.8)
            if math.isfinite(own.low):
                axes.plot([x, x], [own.low, own.high], color=COLOURS[k], linewidth=4, alpha=0.45, solid_capstyle="butt")
            axes.plot([x], [own.mean], MARKERS[k], color=COLOURS[k], markersize=4.5)
            names.append(f"{condition}\n{split}, {own.n}")
    axes.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
    _names(axes, names)
    _finish(axes, "", "adjusted variance ratio inside a speaker")
    return figure


def _sizes(primary: LagFindings, min_cluster: int) -> Figure:
    figure, panels = _panels(len(primary.sizes), (9.4, 2.9))
    for axes, (scheme, sizes), colour in zip(panels, primary.sizes.items(), COLOURS, strict=False):
        size_M, clusters_M = np.array(sizes).T
        edges = np.geomspace(0.8 * min(min_cluster, size_M.min()), 1.2 * max(min_cluster, size_M.max()), 28)
        axes.hist(size_M, bins=edges.tolist(), weights=clusters_M, color=colour, alpha=0.8)
        axes.axvline(min_cluster, color="black", linewidth=0.9, linestyle="--")
        if clusters_M.sum() > 50 * len(edges):
            axes.set_yscale("log")
        _frames_axis(axes)
        _finish(axes, f"{scheme}: {primary.effective[scheme]:,} of {clusters_M.sum():,} count", "clusters")
    return figure


def _frames_axis(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=7))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("train frames of a cluster", fontsize=8)


def _say_if_empty(axes: Axes, found: ClusterDiagnostics) -> None:
    if not len(found.count_K):
        axes.text(0.5, 0.6, "no cluster has enough frames", ha="center", fontsize=8, transform=axes.transAxes)
        axes.set_xticks([])
        axes.set_yticks([])


def _variances(primary: LagFindings) -> Figure:
    schemes = list(primary.diagnostics)
    figure, panels = _panels(len(schemes), (9.4, 2.9))
    for axes, scheme, colour in zip(panels, schemes, COLOURS, strict=False):
        found = primary.diagnostics[scheme]
        axes.plot(found.count_K, found.variance_K, "o", color=colour, markersize=3, alpha=0.6)
        axes.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
        _frames_axis(axes)
        _say_if_empty(axes, found)
        _finish(axes, scheme, "variance of the step")
    return figure


def _means(primary: LagFindings) -> Figure:
    schemes = list(primary.diagnostics)
    figure, panels = _panels(len(schemes), (9.4, 3.2))
    for axes, scheme, colour in zip(panels, schemes, COLOURS, strict=False):
        found = primary.diagnostics[scheme]
        area_K = 150 * found.count_K / max(int(found.count_K.max(initial=0)), 1)
        axes.scatter(found.plane_K2[:, 0], found.plane_K2[:, 1], s=area_K, color=colour, alpha=0.5, linewidths=0)
        axes.axhline(0, color=GREY, linewidth=0.6, linestyle=":")
        axes.axvline(0, color=GREY, linewidth=0.6, linestyle=":")
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xlabel("first direction", fontsize=8)
        _say_if_empty(axes, found)
        _finish(axes, scheme, "second direction")
    return figure


def _confidence(primary: LagFindings) -> Figure:
    figure, (axes,) = _panels(1, (5.2, 3.2))
    conditions = list(dict.fromkeys(point.condition for point in primary.confidence))
    for k, condition in enumerate(conditions):
        for split, style in ((TRAIN, ":"), (EVAL, "-")):
            points = [p for p in primary.confidence if (p.condition, p.split) == (condition, split)]
            shares, values = [100 * p.share for p in points], [p.vr_adjusted for p in points]
            axes.plot(
                shares, values, style, color=COLOURS[k], marker=MARKERS[k], markersize=3, label=f"{condition}, {split}"
            )
    axes.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_xlabel("frames kept, nearest to their centroid first, %", fontsize=8)
    _finish(axes, "", "adjusted variance ratio", legend=True)
    return figure


def _panels(count: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _names(axes: Axes, names: Sequence[str]) -> None:
    axes.set_xticks(range(len(names)), names, fontsize=7.5)


def _finish(axes: Axes, title: str, label: str, *, legend: bool = False) -> None:
    axes.set_title(title, loc="left", fontsize=9).set_parse_math(False)
    axes.set_ylabel(label, fontsize=8)
    axes.tick_params(labelsize=7.5)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(frameon=False, fontsize=7)
