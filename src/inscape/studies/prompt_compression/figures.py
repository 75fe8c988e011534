"""The pictures of the prompt-compression study. Drawing only: numbers come in. No pyplot and no global state."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from inscape.core.estimate import Estimate
from inscape.core.rundir import RunDir, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_kept", "draw_ledger"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
DPI = 110
TICKS = 6  # most ratios that are all named on the axis
CAPTIONS = "figures/captions.json"


def draw_ledger(run: RunDir, costs: Mapping[str, Any]) -> None:
    """Bits a token of each form a prompt can be sent in."""
    from matplotlib.figure import Figure

    forms = list(costs["forms"])
    bits = [costs["forms"][form]["bits_per_token"] for form in forms]
    figure = Figure(figsize=(7, 0.28 * len(forms) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(forms, [b["value"] for b in bits], color=COLOURS[0])
    for i, b in enumerate(bits):
        axes.text(b["value"], i, f" {b['value']:,.1f}", va="center")
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("bits a token of the prompt")
    axes.set_xlim(right=4 * max((b["value"] for b in bits), default=1))  # room for the longest number
    caption = "What a prompt costs to send: as it is, as a row of so many numbers a token, and as a model's cache"
    _keep(run, "ledger.png", figure, f"{caption}. A row of 512 float16 is 8,192 bits.")


def draw_kept(
    run: RunDir, name: str, curves: Mapping[str, Sequence[tuple[float, Estimate]]], along: str, caption: str
) -> None:
    """Share of the text run's F1 that is left, with its interval, against a ratio or a price, for each compressor.

    What was not measured is left out; of nothing no picture is made.
    """
    from matplotlib.figure import Figure

    known = {label: [(at, kept) for at, kept in points if kept.measured] for label, points in curves.items()}
    known = {label: points for label, points in known.items() if points}
    if not known:
        return
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for i, (label, points) in enumerate(known.items()):
        x, y = [at for at, _ in points], [kept.value for _, kept in points]
        spread = [[kept.value - kept.low for _, kept in points], [kept.high - kept.value for _, kept in points]]
        axes.errorbar(x, y, spread, label=label, color=COLOURS[i % len(COLOURS)], marker="o", ms=4, capsize=2, lw=1.2)
    for level in (0.95, 0.9, 0.8):
        axes.axhline(level, color="#bbbbbb", lw=0.7, zorder=0)
    axes.set_xscale("log")
    ticks = sorted({at for points in known.values() for at, _ in points})
    if len(ticks) <= TICKS:  # ratios are few, and read better as they are than as powers of ten
        axes.set_xticks(ticks, [f"{at:g}" for at in ticks])
        axes.set_xticks([], minor=True)
    axes.set_xlabel(along)
    axes.set_ylabel("F1 over the text run's F1")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    _keep(run, name, figure, caption)


def _keep(run: RunDir, name: str, figure: Figure, caption: str) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI)
    write_atomically(run.figures / name, buffer.getvalue())
    run.write_json(CAPTIONS, (run.read_json(CAPTIONS) or {}) | {name: caption})
