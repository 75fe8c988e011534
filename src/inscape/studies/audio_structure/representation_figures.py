"""The picture of T4: the comparison frame by frame beside the one in seconds, so that one sees how the first misleads.

Drawing only. No pyplot and no global state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from inscape.core.estimate import Estimate
from inscape.studies.audio_structure.horizon_figures import new_figure, save_figure

__all__ = ["CAPTIONS", "draw_comparison"]

COMPARISON = "representations.png"
CAPTIONS = {
    COMPARISON: "Above, frame by frame: eight frames of context, the next frame as target, whatever a frame lasts. "
    "Faster frames hardly move, so their numbers are those of another question. Below, the same stretches of time for "
    "all, and nats a second: representations of one sound are compared with each other. Whiskers: 95 % over speakers.",
}
PANELS = (
    ("naive_gain_per_frame", "gain, nats a frame", "frame by frame"),
    ("naive_cosine", "cosine", "frame by frame"),
    ("gain_per_second", "gain, nats a second", "same time"),
    ("matched_cosine", "cosine", "same time"),
)
COLOURS = ("#0072b2", "#009e73", "#e69f00", "#d55e00", "#cc79a7", "#56b4e9")


def draw_comparison(rows: Sequence[tuple[str, Mapping[str, Estimate]]], folder: Path) -> Path:
    """Write representations.png: a bar a representation in each panel."""
    figure = new_figure((7.4, 1.4 + 1.0 * len(rows)))
    panels = figure.subplots(2, 2, sharey=True).ravel()
    for axes, (name, label, title) in zip(panels, PANELS, strict=True):
        for i, (_, estimates) in enumerate(rows):
            e = estimates[name]
            axes.barh(i, e.value, color=COLOURS[i % len(COLOURS)], height=0.55)
            if e.measured:
                axes.plot([e.low, e.high], [i, i], color="#333333", linewidth=1.4)
        axes.axvline(0, color="#555555", linewidth=0.8)
        axes.set_yticks(range(len(rows)), [label for label, _ in rows])
        axes.tick_params(labelsize=8)
        axes.set_xlabel(label, fontsize=8)
        axes.set_title(title, loc="left", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(y=0.15)
    panels[0].invert_yaxis()  # shared: the first representation above
    path = folder / COMPARISON
    save_figure(figure, path)
    return path
