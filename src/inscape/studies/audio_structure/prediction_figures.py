"""The four pictures of the injection diagnostic: one curve a mode, over the steps of a rollout.

Drawing only: the numbers come in as a `Diagnosis`. No pyplot and no global state.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from inscape.core.rundir import write_atomically
from inscape.studies.audio_structure.rollout import CURVES, Diagnosis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["CAPTIONS", "draw_injection"]


class _Look(NamedTuple):
    label: str
    reference: float | None  # a line to compare with
    caption: str


LOOKS = {
    "dnll": _Look(
        "NLL - baseline, nats a frame",
        0.0,
        "How much better than its baseline the predictor expects the true step, given the context it has by then. "
        "Below the line is better than the baseline.",
    ),
    "direction_cosine": _Look(
        "cosine with the true step",
        0.0,
        "Whether the predicted step points where the true one does. Zero is chance.",
    ),
    "magnitude_ratio": _Look(
        "predicted / true length",
        1.0,
        "Whether the predictor moves as far as the truth. Falling to zero is standing still.",
    ),
    "state_error": _Look(
        "distance from the true frame",
        None,
        "How far the context's last frame is from the true one, before each step.",
    ),
}
CAPTIONS = {
    f"injection_{name}.png": f"{look.caption} A: the context is always true. B: the truth is written after every few "
    "steps. C: after the first step only. D: never. Bands: 95 % over the units."
    for name, look in LOOKS.items()
}
COLOURS, MARKERS = ("#0072b2", "#009e73", "#e69f00", "#d55e00"), "osD^"
DPI = 110


def draw_injection(diagnosis: Diagnosis, folder: Path) -> list[Path]:
    """Write injection_dnll, _direction_cosine, _magnitude_ratio and _state_error (.png) into `folder`."""
    return [_draw(diagnosis, name, folder / f"injection_{name}.png") for name in CURVES]


def _draw(diagnosis: Diagnosis, name: str, path: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.4), layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    axes, look = figure.add_subplot(), LOOKS[name]
    for (mode, curves), colour, marker in zip(diagnosis.curves.items(), COLOURS, MARKERS, strict=True):
        estimates = curves[name]
        steps = [k + 1 for k, e in enumerate(estimates) if math.isfinite(e.value)]
        values = [e.value for e in estimates if math.isfinite(e.value)]
        axes.plot(steps, values, color=colour, marker=marker, markersize=3.5, linewidth=1.2, label=mode)
        measured = [(k + 1, e.low, e.high) for k, e in enumerate(estimates) if e.measured]
        if measured:
            at, low, high = zip(*measured, strict=True)
            axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
    if look.reference is not None:
        axes.axhline(look.reference, color="#555555", linewidth=0.8, linestyle=":")
    _finish(axes, look.label)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    write_atomically(path, content.getvalue())
    return path


def _finish(axes: Axes, label: str) -> None:
    axes.set_xlabel("step of the rollout")
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
