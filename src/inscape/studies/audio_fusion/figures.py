"""The pictures of the audio-fusion study. Drawing only: numbers come in. No pyplot and no global state."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from inscape.core.estimate import Estimate
from inscape.core.rundir import RunDir, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_conditions", "draw_fixes", "draw_retention"]

COLOUR, OTHER = "#0072b2", "#d55e00"
DPI = 110
CAPTIONS = "figures/captions.json"
WORDS = {
    "own": "its own sound",
    "shuffled": "another clip's sound",
    "masked": "its own sound, masked",
    "silence": "silence",
    "no_audio": "no audio",
    "constant": "one caption for all",
    "reranked": "its own sound, best of several",
}


def draw_conditions(run: RunDir, cider: Mapping[str, np.ndarray]) -> None:
    """CIDEr of the same clips under each condition: means, and every clip as a point."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.6 * len(cider) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    for place, each in enumerate(cider.values()):
        spread = np.random.default_rng(0).uniform(-0.25, 0.25, len(each))
        axes.plot(each, place + spread, ".", color="#bbbbbb", ms=3, zorder=1)
        axes.plot(each.mean(), place, "o", color=COLOUR, ms=8, zorder=2)
        axes.annotate(
            f"{each.mean():.1f}", (each.mean(), place), xytext=(0, 9), textcoords="offset points", ha="center"
        )
    axes.set_yticks(range(len(cider)), [WORDS.get(name, name) for name in cider])
    axes.invert_yaxis()
    axes.set_xlabel("CIDEr-D of each held-out clip, percent")
    _keep(
        run, "conditions.png", figure, "The same clips under every condition: who does not listen is as good under all."
    )


def draw_retention(run: RunDir, found: Mapping[str, tuple[Estimate, Estimate]]) -> None:
    """What each variant leaves of text against what it hears."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, (ratio, cider) in found.items():
        x = [[ratio.value - ratio.low], [ratio.high - ratio.value]]
        y = [[cider.value - cider.low], [cider.high - cider.value]]
        axes.errorbar(ratio.value, cider.value, y, x, fmt="o", color=COLOUR, capsize=2)
        axes.annotate(name, (ratio.value, cider.value), xytext=(6, 6), textcoords="offset points")
    axes.axvline(1, color="#999999", lw=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("perplexity of other text beside a sound, over the frozen model's")
    axes.set_ylabel("CIDEr-D of captions, percent")
    _keep(run, "retention.png", figure, "Text left alone is to the left, hearing is up.")


def draw_fixes(run: RunDir, found: Mapping[str, Estimate]) -> None:
    """CIDEr of each variant with its interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.4 * len(found) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    for place, (name, each) in enumerate(found.items()):
        spread = [[each.value - each.low], [each.high - each.value]]
        colour = OTHER if name in ("baseline", "phase1") else COLOUR
        axes.errorbar(each.value, place, xerr=spread, fmt="o", color=colour, capsize=2)
    axes.set_yticks(range(len(found)), [name.replace("_", " ") for name in found])
    axes.invert_yaxis()
    axes.set_xlabel("CIDEr-D on held-out clips, percent")
    _keep(run, "fixes.png", figure, "The plan's two configs, and each change between them alone and taken back.")


def _keep(run: RunDir, name: str, figure: Figure, caption: str) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI)
    write_atomically(run.figures / name, buffer.getvalue())
    run.write_json(CAPTIONS, (run.read_json(CAPTIONS) or {}) | {name: caption})
