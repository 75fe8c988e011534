"""Pictures of predictors over their horizons: likelihood, direction, the frames they do worst on, their certainty.

Drawing only: the numbers come in measured. No pyplot and no global state.

Legend: B bins.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inscape.core.estimate import Estimate
from inscape.core.rundir import write_atomically
from inscape.studies.audio_structure.prediction_measures import QUANTILES, Measured

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "CAPTIONS",
    "band",
    "draw_certainty",
    "draw_direction",
    "draw_likelihood",
    "draw_tails",
    "finish",
    "new_figure",
    "save_figure",
]

LIKELIHOOD, DIRECTION, TAILS, CERTAINTY = (
    f"{name}.png" for name in ("likelihood_by_horizon", "direction_by_horizon", "worst_frames", "certainty")
)
CAPTIONS = {
    LIKELIHOOD: "How much better than its baseline the predictor expects the true step of an unheard voice, against "
    "how far ahead it looks. Below zero is better. Mean, and two averages that a few frames cannot carry away. Where a "
    "line for contexts of other places is drawn, that much is the shape of the steps and the recording's level, and no "
    "prediction. Bands: 95 % over speakers.",
    DIRECTION: "Whether the predicted step points where the true one does. The rule of drift goes back to the mean by "
    "a fixed share; on pure noise it reaches 0.71 one frame ahead and nothing beyond. Bands: 95 % over speakers.",
    TAILS: "The frames sorted by how the predictor did on them against its baseline, from the best to the worst. A "
    "curve that shoots up at the right end has a mean that a few frames decide.",
    CERTAINTY: "Frames in ten groups by how sure the predictor is of the direction: the cosine that its concentration "
    "promises, against the cosine that was found. On the line it is as sure as it should be.",
}
BLUE, GREEN, ORANGE, RED, GREY = "#0072b2", "#009e73", "#e69f00", "#d55e00", "#555555"
COLOURS = (BLUE, GREEN, ORANGE, RED, "#cc79a7", "#56b4e9", "#000000", "#f0e442")
DPI = 110
AVERAGES = (
    ("dnll", "mean", BLUE),
    ("dnll_median", "median", GREEN),
    ("dnll_trimmed", "mean of the middle 98 %", ORANGE),
)


def draw_likelihood(
    found: Mapping[int, Measured], rate_hz: float, folder: Path, *, strangers: Estimate | None = None
) -> None:
    """likelihood_by_horizon.png; strangers: what a predictor gains that saw the contexts of other places."""
    figure = new_figure((5.6, 3.6))
    axes = figure.add_subplot()
    for name, label, colour in AVERAGES:
        band(axes, list(found), [at.metrics[name] for at in found.values()], colour, label)
    if all("dnll_direction" in at.metrics for at in found.values()):
        estimates = [at.metrics["dnll_direction"] for at in found.values()]
        band(axes, list(found), estimates, RED, "direction's share of the mean")
    if strangers is not None:
        _level(axes, strangers, "contexts of other places")
    axes.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
    axes.margins(y=0.15)  # room for the legend
    finish(axes, "NLL - baseline, nats a frame")
    _horizon_axis(axes, list(found), rate_hz)
    save_figure(figure, folder / LIKELIHOOD)


def draw_direction(
    found: Mapping[int, Measured], rate_hz: float, folder: Path, *, strangers: Estimate | None = None
) -> None:
    """direction_by_horizon.png; strangers: the cosine of a predictor that saw the contexts of other places."""
    figure = new_figure((5.6, 3.6))
    axes = figure.add_subplot()
    for name, label, colour in (
        ("direction_cosine", "predictor", BLUE),
        ("drift_cosine", "rule of drift", ORANGE),
    ):
        band(axes, list(found), [at.metrics[name] for at in found.values()], colour, label)
    if strangers is not None:
        _level(axes, strangers, "contexts of other places")
    axes.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
    finish(axes, "cosine with the true step")
    _horizon_axis(axes, list(found), rate_hz)
    save_figure(figure, folder / DIRECTION)


def draw_tails(found: Mapping[int, Measured], folder: Path) -> None:
    """worst_frames.png: quantiles of dNLL over frames, one curve a horizon."""
    figure = new_figure((5.6, 3.6))
    axes = figure.add_subplot()
    place = [_logit(min(max(q, 2e-4), 1 - 2e-4)) for q in QUANTILES]
    for (k, at), colour in zip(found.items(), _cycled(len(found)), strict=True):
        axes.plot(place, at.quantiles, color=colour, marker="o", markersize=3, linewidth=1.2, label=f"horizon {k}")
    axes.set_yscale("symlog", linthresh=10)
    axes.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_xticks(place, ["best" if q == 0 else "worst" if q == 1 else f"{100 * q:g}" for q in QUANTILES])
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlabel("percentile of the frames")
    finish(axes, "NLL - baseline, nats")
    save_figure(figure, folder / TAILS)


def draw_certainty(promised_B: Float[np.ndarray, " B"], found_B: Float[np.ndarray, " B"], folder: Path) -> None:
    """certainty.png: the promised and the found cosine of each group."""
    figure = new_figure((4.2, 4.0))
    axes = figure.add_subplot()
    ends = [min(0.0, *promised_B, *found_B), max(*promised_B, *found_B) * 1.08]
    axes.plot(ends, ends, color=GREY, linewidth=0.8, linestyle=":", label="as sure as it should be")
    axes.plot(promised_B, found_B, color=BLUE, marker="o", markersize=4, linewidth=1.0, label="a tenth of the frames")
    axes.set_xlabel("cosine that is promised")
    finish(axes, "cosine that is found")
    save_figure(figure, folder / CERTAINTY)


def band(
    axes: Axes, at: Sequence[float], estimates: Sequence[Estimate], colour: str, label: str, *, marker: str = "o"
) -> None:
    """A curve of values with the band of its intervals, where these were measured."""
    values = [e.value for e in estimates]
    axes.plot(at, values, color=colour, marker=marker, markersize=3.5, linewidth=1.2, label=label)
    measured = [(x, e.low, e.high) for x, e in zip(at, estimates, strict=True) if e.measured]
    if measured:
        where, low, high = zip(*measured, strict=True)
        axes.fill_between(where, low, high, color=colour, alpha=0.13, linewidth=0)


def finish(axes: Axes, label: str) -> None:
    """The y-axis' label, and a legend without a frame."""
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)


def new_figure(size: tuple[float, float]) -> Figure:
    """An empty figure, inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """A PNG that is the same, byte for byte, on any day."""
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    write_atomically(path, content.getvalue())


def _level(axes: Axes, estimate: Estimate, label: str) -> None:
    axes.axhline(estimate.value, color=GREY, linewidth=1.2, linestyle="--", label=label)
    if estimate.measured:
        axes.axhspan(estimate.low, estimate.high, color=GREY, alpha=0.12, linewidth=0)


def _horizon_axis(axes: Axes, horizons: Sequence[int], rate_hz: float) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(horizons), [f"{k}\n{1000 * k / rate_hz:g} ms" for k in horizons])
    axes.minorticks_off()
    axes.set_xlabel("horizon, frames")


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def _cycled(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]
