"""The four pictures of the injection diagnostic: one curve a mode, over the steps of a rollout.

Drawing only: the numbers come in as a `Diagnosis`. No pyplot and no global state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from inscape.studies.audio_structure.horizon_figures import band, finish, new_figure, save_figure
from inscape.studies.audio_structure.rollout import CURVES, Diagnosis

__all__ = ["CAPTIONS", "ROLLOUT_CAPTION", "draw_injection", "draw_rollout"]


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
ROLLOUT = "rollout_cosine.png"
ROLLOUT_CAPTION = {
    ROLLOUT: "Left to itself, does the predictor still point the right way, and does it still move? Before and after "
    "the training on its own rollouts. The dotted line above is the plan's bound at the last step; below, 1 moves as "
    "far as the truth, and 0 stands still. Bands: 95 % over the units."
}
COLOURS, MARKERS = ("#0072b2", "#009e73", "#e69f00", "#d55e00"), "osD^"


def draw_injection(diagnosis: Diagnosis, folder: Path) -> list[Path]:
    """Write injection_dnll, _direction_cosine, _magnitude_ratio and _state_error (.png) into `folder`."""
    return [_draw(diagnosis, name, folder / f"injection_{name}.png") for name in CURVES]


def draw_rollout(runs: Mapping[str, Diagnosis], bound: float, folder: Path) -> Path:
    """Write rollout_cosine.png: cosine and length ratio without any truth written, one curve for each of `runs`."""
    figure = new_figure((5.2, 4.8))
    above, below = figure.subplots(2, 1, sharex=True)
    for (label, diagnosis), colour in zip(runs.items(), COLOURS[::-1], strict=False):
        curves = diagnosis.curves["D_rollout"]
        for axes, name in ((above, "direction_cosine"), (below, "magnitude_ratio")):
            steps = range(1, len(curves[name]) + 1)
            band(axes, list(steps), curves[name], colour, label)
    above.axhline(bound, color="#555555", linewidth=0.8, linestyle=":")
    below.axhline(1, color="#555555", linewidth=0.8, linestyle=":")
    finish(above, LOOKS["direction_cosine"].label)
    finish(below, LOOKS["magnitude_ratio"].label)
    below.set_ylim(bottom=0)
    below.set_xlabel("step of the rollout")
    path = folder / ROLLOUT
    save_figure(figure, path)
    return path


def _draw(diagnosis: Diagnosis, name: str, path: Path) -> Path:
    figure = new_figure((5.2, 3.4))
    axes, look = figure.add_subplot(), LOOKS[name]
    for (mode, curves), colour, marker in zip(diagnosis.curves.items(), COLOURS, MARKERS, strict=True):
        steps = [k + 1 for k, e in enumerate(curves[name]) if math.isfinite(e.value)]
        estimates = [e for e in curves[name] if math.isfinite(e.value)]
        band(axes, steps, estimates, colour, mode, marker=marker)
    if look.reference is not None:
        axes.axhline(look.reference, color="#555555", linewidth=0.8, linestyle=":")
    axes.set_xlabel("step of the rollout")
    finish(axes, look.label)
    save_figure(figure, path)
    return path
