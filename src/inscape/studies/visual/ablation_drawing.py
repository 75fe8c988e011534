"""P7's table and pictures: every variant beside the one that it is held against.

Legend: V variants, N channels of sentences, C channels.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from inscape.core.estimate import Estimate, bootstrap_mean
from inscape.core.rundir import RunDir, write_atomically
from inscape.stats.photographs import BANDS
from inscape.studies.visual import figures
from inscape.studies.visual.ablation_arm import Arm
from inscape.studies.visual.ablation_effects import AGAIN, TARGETS
from inscape.studies.visual.ablation_variants import VARIANTS
from inscape.studies.visual.health import SLOPE_RANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COLUMNS", "TABLES", "draw_ablations", "write_tables"]

TABLES = "ablations/tables.csv"
COLUMNS = ("variant", "beside", "metric", "value", "low", "high", "n", "loss", "loss_low", "loss_high")
CAPTIONS = {
    "losses.png": "What each variant loses beside the one that it is held against, of the same held-out sentences: "
    "right of the line is worse. `In band` is the share of channels in the range of 90 % of photographs. Whiskers are "
    "95 % intervals over sentences, which say nothing of another training: the band is as wide as what the whole "
    "recipe loses or gains when it goes on with other batches, and `anew` begins with other weights.",
    "slopes.png": "Spectral slopes (alpha) of single latent channels of held-out sentences, for each variant. Shaded: "
    "the range of 90 % of photographs; dashed: the plan's.",
    "correlations.png": "Correlation between the latent's channels over all pixels and sentences, for each variant. "
    "Zero off the diagonal means that no channel repeats another.",
}


def write_tables(run: RunDir, arms: Mapping[str, Arm], losses: Mapping[str, Mapping[str, Estimate]]) -> None:
    """One row a variant and metric: the figure, and in a target what it loses; figures of cost have no interval."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for variant, arm in arms.items():
        beside = VARIANTS[variant].beside
        for metric, values in arm.values.items():
            found, lost = bootstrap_mean(values, "scenes"), losses.get(variant, {}).get(metric)
            figures_of_loss = (lost.value, lost.low, lost.high) if lost else ()
            numbers = [f"{x:.6g}" for x in (found.value, found.low, found.high, found.n, *figures_of_loss)]
            table.writerow([variant, beside, metric, *numbers, *[""] * (7 - len(numbers))])
        for name, figure in arm.figures.items():
            table.writerow([variant, beside, name, f"{figure:.6g}", "", "", "", "", "", ""])
    write_atomically(run.path / TABLES, text.getvalue())


def draw_ablations(run: RunDir, arms: Mapping[str, Arm], losses: Mapping[str, Mapping[str, Estimate]]) -> None:
    """What is lost, target by target; slopes and correlations of channels, variant by variant."""
    _draw_losses(run, losses)
    _draw_slopes(run, {name: np.array(arm.slopes) for name, arm in arms.items() if arm.slopes})
    _draw_correlations(run, {name: np.array(arm.correlation) for name, arm in arms.items() if arm.correlation})
    run.write_json("figures/captions.json", CAPTIONS)


def _draw_losses(run: RunDir, losses: Mapping[str, Mapping[str, Estimate]]) -> None:
    names = [name for name in losses if name != AGAIN]
    with figures._style():
        figure, panels = figures._grid(len(TARGETS), (2.9, 0.9 + 0.17 * len(names)), columns=4)
        for place, (target, axes) in enumerate(zip(TARGETS, panels, strict=True)):
            _losses(axes, {name: losses[name].get(target) for name in names}, named=place % 4 == 0)
            once_more = losses.get(AGAIN, {}).get(target)
            if once_more:
                axes.axvspan(-abs(once_more.value), abs(once_more.value), color=figures.SHADE, zorder=0)
            axes.set_title(target.replace("_in_photo_band", ", in band").replace("_", " "))
        figures._save(figure, run.figures / "losses.png")


def _losses(axes: Axes, lost: Mapping[str, Estimate | None], *, named: bool) -> None:
    for place, estimate in enumerate(lost.values()):
        if estimate is None or not estimate.measured:
            continue
        axes.plot([estimate.low, estimate.high], [place, place], color=figures.COLOURS[0], lw=1.2)
        axes.plot(estimate.value, place, "o", color=figures.COLOURS[0], ms=3.5)
    axes.axvline(0, color=figures.GREY, lw=0.8)
    axes.set_yticks(range(len(lost)), list(lost) if named else [""] * len(lost))
    axes.set_ylim(len(lost) - 0.5, -0.5)


def _draw_slopes(run: RunDir, slopes: Mapping[str, np.ndarray]) -> None:
    band = BANDS["spectral_slope"]
    edges = np.linspace(-1, 4, 51)
    with figures._style():
        figure, panels = figures._grid(len(slopes), (2.3, 1.3), columns=5)
        for (name, slope_N), axes in zip(slopes.items(), panels, strict=True):
            axes.hist(np.clip(slope_N, edges[0], edges[-1]), bins=list(edges), color=figures.COLOURS[0])
            axes.axvspan(band.low, band.high, color=figures.SHADE, zorder=0)
            for end in SLOPE_RANGE:
                axes.axvline(end, color=figures.GREY, lw=0.8, ls="--")
            axes.set_yticks([])
            axes.set_title(name)
        figures._save(figure, run.figures / "slopes.png")


def _draw_correlations(run: RunDir, correlations: Mapping[str, np.ndarray]) -> None:
    with figures._style():
        figure, panels = figures._grid(len(correlations), (1.5, 1.6), columns=6)
        image = None
        for (name, correlation_CC), axes in zip(correlations.items(), panels, strict=True):
            image = axes.imshow(correlation_CC, vmin=-1, vmax=1, cmap=figures.DIVERGING_MAP)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(name)
        if image is not None:
            figure.colorbar(image, ax=panels, shrink=0.6)
        figures._save(figure, run.figures / "correlations.png")
