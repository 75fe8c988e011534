"""Pictures of latents, drawn the same way in every phase so that runs can be compared by eye.

Drawing only: the numbers are measured elsewhere and come in as numpy arrays. No pyplot and no global state, so drawing
inside a training loop or a server is safe. A collapsed latent (flat, or not finite) still gives a picture that says so.

Shapes: latents B sentences, C channels, H x W; spectra R rings; histories T evaluations.
"""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy import ndarray

from inscape.core.rundir import write_atomically

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "CAPTIONS",
    "Band",
    "Panel",
    "Statistic",
    "channel_covariance",
    "channel_montage",
    "gradient_histograms",
    "power_spectra",
    "statistics_vs_photographs",
    "trends",
]

CAPTIONS = {
    "channel_montage.png": "The latents themselves: one row a sentence, one column a channel. A column shares one "
    "colour scale, so its rows can be compared; rows that all look alike mean that the text is ignored.",
    "power_spectra.png": "Power against spatial frequency, both logarithmic, one panel a channel: the mean over "
    "sentences and the middle 90 % of them. Photographs fall off along a line inside the shaded wedge; white noise "
    "would be level.",
    "gradient_histograms.png": "Differences between neighbouring pixels, on a logarithmic scale. Photographs have many "
    "tiny and a few very large differences (edges), so the curve stays above the dashed Gaussian in the tails.",
    "channel_covariance.png": "Correlation between channels over all pixels and sentences. Zero off the diagonal means "
    "that no channel repeats another.",
    "trends.png": "The statistics at each evaluation during training, one line a channel. Shaded or between dashed "
    "lines: where they should be.",
    "statistics_vs_photographs.png": "How each statistic is distributed over single latent channels, against the range "
    "in which 90 % of photograph patches lie (shaded).",
}

# Okabe & Ito's eight colours, told apart with any colour vision, the palest moved to the end; markers tell them too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#b8a800")
MARKERS = "osD^vPX*"
SHADE = "#dbe9f6"
COLOUR_MAP = "viridis"
DIVERGING_MAP = "PuOr"
GREY = "#555555"
DPI = 110
PALETTE = 64  # colours a PNG keeps: half the size of 256, and no difference to the eye
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": "#222222",
    "axes.unicode_minus": True,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}
TILE, GAP = 64, 5  # pixels of the montage
SENTENCE_WIDTH, SENTENCE_LINES = 34, 3  # characters, lines


class Band(NamedTuple):
    """A range that is shaded; either end may be infinite."""

    low: float
    high: float
    label: str


class Panel(NamedTuple):
    """One panel of `trends`: values of shape (T, C), one line a channel, or (T,)."""

    title: str
    values: Float[ndarray, "T C"] | Float[ndarray, " T"]
    bands: tuple[Band, ...] = ()
    logarithmic: bool = False  # where the values are positive and span a decade


class Statistic(NamedTuple):
    """One row of `statistics_vs_photographs`: its values over single latent channels, and the photographs' range."""

    title: str
    values: Float[ndarray, " N"]
    photographs: Band
    median: float | None = None  # of the photographs


def power_spectra(
    frequency_R: Float[ndarray, " R"],
    power_BCR: Float[ndarray, "B C R"],
    alpha_C: Float[ndarray, " C"],
    path: Path,
    *,
    photographs: Band,
) -> None:
    """Log-log radial spectrum of each channel, with its fitted line of slope -alpha, 1/f^2, and the photographs' wedge.

    `photographs` is a band of alpha. Frequencies in cycles per pixel, without 0.
    """
    with _style():
        figure, panels = _grid(power_BCR.shape[1], (3.1, 2.5), share=True)
        frequency_R = np.asarray(frequency_R, dtype=np.float64)
        for channel, axes in enumerate(panels):
            axes.set_title(f"channel {channel}:  α = {alpha_C[channel]:.2f}")
            _spectrum(axes, frequency_R, np.asarray(power_BCR)[:, channel], float(alpha_C[channel]), photographs)
        figure.supxlabel("frequency (cycles per pixel)", fontsize=9)
        figure.supylabel("power, relative", fontsize=9)
        _legend_above(figure, panels)
        _save(figure, path)


def _spectrum(axes: Axes, frequency_R: ndarray, power_BR: ndarray, alpha: float, wedge: Band) -> None:
    axes.set_xscale("log")
    axes.set_xlim(frequency_R[0], frequency_R[-1])
    ticks = [f for f in (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2) if frequency_R[0] * 0.999 <= f <= frequency_R[-1] * 1.001]
    axes.set_xticks(ticks, [f"1/{round(1 / f)}" for f in ticks])
    axes.minorticks_off()
    if not (np.isfinite(power_BR).all() and power_BR.mean(0).min() > 0):
        _say_nothing_to_draw(axes, "no power at some frequency:\nthe channel is flat or not finite")
        return
    octave_R = np.log(frequency_R) - np.log(frequency_R).mean()
    mean_R = power_BR.mean(0)
    scale = 1 / np.exp(np.log(mean_R).mean())  # so that every reference passes through the middle of the measured line
    axes.set_yscale("log")
    low_R, high_R = (np.exp(-slope * octave_R) for slope in (wedge.low, wedge.high))
    axes.fill_between(frequency_R, low_R, high_R, color=SHADE, label=wedge.label, linewidth=0)
    axes.plot(frequency_R, np.exp(-2 * octave_R), color=GREY, linestyle=":", label="1/f²")
    floor_R, top_R = np.quantile(power_BR, (0.05, 0.95), axis=0) * scale
    floor_R = np.maximum(floor_R, mean_R * scale * 1e-3)
    axes.fill_between(frequency_R, floor_R, top_R, color=COLOURS[0], alpha=0.22, linewidth=0, label="90 % of sentences")
    axes.plot(frequency_R, mean_R * scale, color=COLOURS[0], label="mean")
    if math.isfinite(alpha):
        axes.plot(
            frequency_R, np.exp(-alpha * octave_R), color=COLOURS[1], linestyle="--", label="fitted line, slope −α"
        )


def channel_montage(latent_BCHW: Float[ndarray, "B C H W"], sentences: Sequence[str], path: Path) -> None:
    """Every channel of every sentence as a picture: rows are sentences, and a column shares one colour scale.

    Composed as one image, pixel for pixel: a hundred axes would take seconds.
    """
    rows, channels, high, wide = latent_BCHW.shape
    if len(sentences) != rows:
        raise ValueError(f"{rows} latents but {len(sentences)} sentences: give one for each")
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    zoom = max(1, round(TILE / wide))
    step_x, step_y = wide * zoom + GAP, high * zoom + GAP
    above, below, left = 30, 40, 285  # pixels around the tiles
    size = (left + channels * step_x + 12, above + rows * step_y + below)
    canvas_YX4 = np.ones((rows * step_y, channels * step_x, 4))
    scale_YX4 = np.ones((9, channels * step_x, 4))
    colours = colormaps[COLOUR_MAP].with_extremes(bad=GREY)
    with _style():
        figure = Figure(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI)
        for channel in range(channels):
            plane_BHW = _finite(latent_BCHW[:, channel])
            floor, top = _range(plane_BHW)
            place = slice(channel * step_x, channel * step_x + wide * zoom)
            scale_YX4[:, place] = colours(np.linspace(0, 1, wide * zoom))
            shown_BHW4 = colours((plane_BHW - floor) / (top - floor))
            for row, tile_HW4 in enumerate(shown_BHW4):
                large = tile_HW4.repeat(zoom, axis=0).repeat(zoom, axis=1)
                canvas_YX4[row * step_y : row * step_y + high * zoom, place] = large
            middle = (left + place.start + wide * zoom / 2) / size[0]
            figure.text(middle, 1 - 18 / size[1], f"channel {channel}", ha="center", fontsize=7.5, weight="bold")
            for end, value, align in ((place.start, floor, "left"), (place.stop, top, "right")):
                figure.text((left + end) / size[0], 12 / size[1], f"{value:.2g}", ha=align, fontsize=6.5)
        figure.figimage(canvas_YX4, left, below, origin="upper")
        figure.figimage(scale_YX4, left, below - 14, origin="upper")
        for row, sentence in enumerate(sentences):
            middle = 1 - (above + row * step_y + high * zoom / 2) / size[1]
            text = figure.text((left - 12) / size[0], middle, _wrapped(sentence), ha="right", va="center", fontsize=8)
            text.set_parse_math(False)  # a sentence may hold dollar signs
        _save(figure, path)


def gradient_histograms(latent_BCHW: Float[ndarray, "B C H W"], kurtosis_C: Float[ndarray, " C"], path: Path) -> None:
    """Log-density of horizontal and vertical differences of each channel, with the Gaussian of equal variance.

    Differences are shown in units of their standard deviation. `kurtosis_C` (3 for a Gaussian) is only written.
    """
    with _style():
        figure, panels = _grid(latent_BCHW.shape[1], (3.1, 2.4), share=True)
        for channel, axes in enumerate(panels):
            axes.set_title(f"channel {channel}:  kurtosis = {kurtosis_C[channel]:.1f}")
            _histogram(axes, _finite(latent_BCHW[:, channel]))
        figure.supxlabel("difference / its standard deviation", fontsize=9)
        figure.supylabel("density", fontsize=9)
        _legend_above(figure, panels)
        _save(figure, path)


def _histogram(axes: Axes, plane_BHW: ndarray) -> None:
    differences = {"horizontal": np.diff(plane_BHW, axis=2).ravel(), "vertical": np.diff(plane_BHW, axis=1).ravel()}
    spread = float(np.sqrt(np.mean(np.concatenate(list(differences.values())) ** 2)))
    if not (math.isfinite(spread) and spread > 0):
        _say_nothing_to_draw(axes, "no differences:\nthe channel is flat or not finite")
        return
    reach = max(4.0, min(20.0, float(np.abs(np.concatenate(list(differences.values()))).max()) / spread))
    edges = np.linspace(-reach, reach, 81)
    centres = (edges[1:] + edges[:-1]) / 2
    for (name, values), colour in zip(differences.items(), COLOURS, strict=False):
        density, _ = np.histogram(values / spread, edges)
        density = density / (values.size * (edges[1] - edges[0]))
        axes.plot(centres, np.where(density > 0, density, np.nan), color=colour, label=f"{name} differences")
    axes.plot(centres, np.exp(-(centres**2) / 2) / math.sqrt(2 * math.pi), color=GREY, linestyle="--", label="Gaussian")
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.3 / (differences["vertical"].size * (edges[1] - edges[0])))
    axes.set_xlim(-reach, reach)


def channel_covariance(correlation_CC: Float[ndarray, "C C"], path: Path) -> None:
    """Heatmap of the correlation between channels, with the numbers written in."""
    from matplotlib.figure import Figure

    matrix_CC = np.asarray(correlation_CC, dtype=np.float64)
    channels = len(matrix_CC)
    with _style():
        figure = Figure(figsize=(1.6 + 0.56 * channels, 1.0 + 0.56 * channels), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        picture = axes.imshow(matrix_CC, cmap=DIVERGING_MAP, vmin=-1, vmax=1)
        for row in range(channels):
            for column in range(channels):
                value = round(matrix_CC[row, column], 2) + 0.0  # no minus before a zero
                text = f"{value:.2f}" if math.isfinite(value) else "–"
                colour = "white" if abs(value) > 0.6 else "black"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
        axes.set_xticks(range(channels))
        axes.set_yticks(range(channels))
        axes.tick_params(length=0)
        axes.set_xlabel("channel")
        axes.set_ylabel("channel")
        axes.spines[:].set_visible(False)
        figure.colorbar(picture, ax=axes, shrink=0.85, ticks=[-1, 0, 1], label="correlation")
        _save(figure, path)


def trends(step_T: Float[ndarray, " T"], panels: Sequence[Panel], path: Path) -> None:
    """Each panel's values against the training step, one line a channel, with the ranges they should be in shaded."""
    from matplotlib.ticker import LogLocator

    with _style():
        figure, axes_of = _grid(len(panels), (4.3, 2.5), columns=2)
        channels = 1
        for panel, axes in zip(panels, axes_of, strict=True):
            values_TC = _finite(panel.values).reshape(len(step_T), -1)
            channels = max(channels, values_TC.shape[1])
            for line in range(values_TC.shape[1]):
                colour, marker = COLOURS[line % len(COLOURS)], MARKERS[line % len(MARKERS)]
                axes.plot(step_T, values_TC[:, line], label=f"channel {line}", c=colour, marker=marker, ms=3.5, lw=1.3)
            axes.set_title(panel.title)
            least = np.nanmin(values_TC, initial=math.inf)
            if panel.logarithmic and 0 < least < np.nanmax(values_TC, initial=0) / 10:
                axes.set_yscale("log", subs=[])
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.yaxis.set_major_formatter("{x:g}")
            if panel.bands:
                _shade(axes, panel.bands)
            axes.margins(x=0.03)
        figure.supxlabel("training step", fontsize=9)
        if channels > 1:
            _legend_above(figure, axes_of, columns=min(channels, 8))
        _save(figure, path)


def _shade(axes: Axes, bands: Sequence[Band]) -> None:
    """The first band as a shade, a second one as dashed lines, so that both can be read where they overlap."""
    ends = [end for band in bands for end in (band.low, band.high) if math.isfinite(end)]
    axes.update_datalim([(axes.dataLim.x0, end) for end in ends])
    axes.autoscale_view()
    low, high = axes.set_ylim(axes.get_ylim())
    handles: list[Any] = []
    for place, band in enumerate(bands):
        if place == 0:
            handles.append(axes.axhspan(max(band.low, low), min(band.high, high), color=SHADE, zorder=0, linewidth=0))
        else:
            handles += [axes.axhline(x, c=GREY, ls="--", lw=1) for x in band[:2] if x in ends][:1]  # both are drawn
    labels = [band.label for band in bands]
    axes.legend(handles, labels, loc="lower right", bbox_to_anchor=(1, 1.07), ncols=2, borderpad=0)


def statistics_vs_photographs(statistics: Sequence[Statistic], path: Path) -> None:
    """How each statistic is distributed over single latent channels, against the photographs' range and median."""
    with _style():
        figure, panels = _grid(len(statistics), (3.1, 1.9))
        for statistic, axes in zip(statistics, panels, strict=True):
            values_N = _finite(statistic.values).ravel()
            axes.set_title(statistic.title)
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            finite_N = values_N[np.isfinite(values_N)]
            if not finite_N.size:
                _say_nothing_to_draw(axes, "not measured")
                continue
            _distribution(axes, finite_N, statistic)
        _legend_above(figure, panels)
        _save(figure, path)


def _distribution(axes: Axes, values_N: ndarray, statistic: Statistic) -> None:
    band = statistic.photographs
    low, high = min(band.low, *np.quantile(values_N, [0.005])), max(band.high, *np.quantile(values_N, [0.995]))
    margin = 0.06 * (high - low) or 1.0
    edges = np.linspace(low - margin, high + margin, 49)
    count, _ = np.histogram(np.clip(values_N, edges[0], edges[-1]), edges)
    axes.axvspan(band.low, band.high, color=SHADE, label=band.label, linewidth=0)
    if statistic.median is not None:
        axes.axvline(statistic.median, color=GREY, linestyle=":", label="photographs, median")
    axes.stairs(count / count.max(), edges, fill=True, color=COLOURS[0], alpha=0.55, label="latent channels")
    axes.axvline(float(np.median(values_N)), color=COLOURS[1], linestyle="--", label="latent channels, median")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1.12)


def _style() -> Any:
    import matplotlib as mpl

    return mpl.rc_context(STYLE)


def _grid(panels: int, size: tuple[float, float], columns: int = 3, share: bool = False) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    columns = min(columns, panels)
    rows = -(-panels // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows + 0.4), dpi=DPI, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.06, w_pad=0.06)  # type: ignore[union-attr, call-arg]
    axes = list(np.atleast_1d(figure.subplots(rows, columns, sharex=share, sharey=share)).ravel())
    for unused in axes[panels:]:
        unused.set_axis_off()
    return figure, axes[:panels]


def _legend_above(figure: Figure, panels: Sequence[Axes], columns: int = 5) -> None:
    handles, labels = max((axes.get_legend_handles_labels() for axes in panels), key=lambda found: len(found[0]))
    if handles:
        figure.legend(handles, labels, loc="outside upper center", ncols=columns)


def _say_nothing_to_draw(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)


def _finite(values: ndarray) -> ndarray:
    """In double precision, with every infinity a NaN: what is not finite is left out of pictures, without warnings."""
    values = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _range(values: ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    low, high = np.quantile(finite, (0.01, 0.99)) if finite.size else (0.0, 0.0)
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


def _wrapped(sentence: str) -> str:
    lines = textwrap.wrap(" ".join(sentence.split()), SENTENCE_WIDTH, max_lines=SENTENCE_LINES, placeholder=" …")
    return "\n".join(lines)


def _save(figure: Figure, path: Path) -> None:
    """Write a PNG of few colours; the same arrays give the same bytes on any day."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)  # text of any script
        canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    buffer = io.BytesIO()
    picture.quantize(PALETTE, dither=Image.Dither.NONE).save(buffer, format="png", optimize=True)
    write_atomically(Path(path), buffer.getvalue())
