"""Pictures of a store of latents: a few recordings over time, and how each dimension's values are distributed.

They are there to be looked at: a dimension that never moves, a jump at the edge of a frame, a recording of nothing but
silence show here before they show in a number. Drawing only. No pyplot and no global state.

Legend: T frames, D dimensions, V bins of values.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inscape.core.rundir import RunDir, write_atomically
from inscape.data.latent_store import LatentStore

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.figure import Figure

__all__ = ["CAPTIONS", "draw_histograms", "draw_latents", "draw_trajectories", "value_histogram"]

TRAJECTORIES, HISTOGRAMS = "latent_trajectories.png", "latent_histograms.png"
CAPTIONS = {
    TRAJECTORIES: "Latents of a few recordings: time to the right, one row a dimension, each centred on its mean and "
    "in units of its standard deviation over these recordings. Below each, how loud the frame is. Speech shows as "
    "syllables; rows that stay of one colour carry nothing.",
    HISTOGRAMS: "How often each dimension takes which value, in standard deviations from its mean, on a logarithmic "
    "colour scale. A column with one lit bin is a dimension that never moves; a lit edge is a clipped one.",
}
SHOWN_SEC = 8.0
SAMPLED = 200  # recordings of the histogram
BINS, REACH = 80, 5.0  # of the histogram, in standard deviations
DPI = 110
GREY = "#555555"


def draw_latents(run: RunDir, store: LatentStore, rows: Sequence[int]) -> None:
    """Both figures with their captions, into the run's figures; `rows` are the recordings of the first."""
    titles = [f"{store.utterances[i].utterance_id}  (speaker {store.utterances[i].speaker_id})" for i in rows]
    shown = round(SHOWN_SEC * store.rate_hz)
    latents = [np.asarray(store.latents(i)[:shown]) for i in rows]
    energies = [np.asarray(store.energy(i)[:shown]) for i in rows]
    draw_trajectories(latents, energies, titles, store.rate_hz, run.figures / TRAJECTORIES)
    step = -(-len(store) // SAMPLED)
    draw_histograms(value_histogram([store.latents(i) for i in range(0, len(store), step)]), run.figures / HISTOGRAMS)
    run.write_json(f"{run.figures.name}/captions.json", CAPTIONS)


def value_histogram(latents: Sequence[Float[np.ndarray, "T D"]]) -> Float[np.ndarray, "V D"]:
    """Share of each dimension's values in each bin; values beyond the reach count in the outermost bins."""
    count = sum(map(len, latents))
    mean_D = sum(x_TD.sum(0, dtype=np.float64) for x_TD in latents) / count
    square_D = sum(((x_TD - mean_D) ** 2).sum(0) for x_TD in latents) / count
    scale_D = np.where(square_D > 0, np.sqrt(square_D), 1.0)
    dimensions = len(scale_D)
    found = np.zeros(BINS * dimensions)
    for x_TD in latents:
        place_TD = ((x_TD - mean_D) / scale_D + REACH) * (BINS / (2 * REACH))
        bin_TD = np.clip(np.nan_to_num(place_TD), 0, BINS - 1).astype(np.int64)
        found += np.bincount((bin_TD * dimensions + np.arange(dimensions)).ravel(), minlength=len(found))
    return found.reshape(BINS, dimensions) / count


def draw_trajectories(
    latents: Sequence[Float[np.ndarray, "T D"]],
    energies: Sequence[Float[np.ndarray, " T"]],
    titles: Sequence[str],
    rate_hz: float,
    path: Path,
) -> None:
    """One panel a recording: its latent as a picture, dimension over time, with its energy in decibel below."""
    whole = np.concatenate(latents).astype(np.float64)
    mean_D, scale_D = whole.mean(0), whole.std(0)
    scale_D[scale_D == 0] = 1.0
    figure = _new_figure((8.5, 2.6 * len(latents)))
    grid = figure.add_gridspec(2 * len(latents), 1, height_ratios=[3, 1] * len(latents))
    shown = None
    for k, (latent_TD, energy_T, title) in enumerate(zip(latents, energies, titles, strict=True)):
        seconds = len(latent_TD) / rate_hz
        above = figure.add_subplot(grid[2 * k])
        shown = above.imshow(
            ((latent_TD - mean_D) / scale_D).T, aspect="auto", origin="lower", cmap="PuOr", vmin=-3, vmax=3,
            extent=(0, seconds, 0, latent_TD.shape[1]), interpolation="nearest",
        )  # fmt: skip
        above.set_title(title, loc="left", fontsize=8.5).set_parse_math(False)
        above.set_ylabel("dimension", fontsize=8)
        above.tick_params(labelbottom=False)
        below = figure.add_subplot(grid[2 * k + 1], sharex=above)
        decibel_T = 20 * np.log10(np.maximum(energy_T, 1e-5))
        below.plot((np.arange(len(energy_T)) + 0.5) / rate_hz, decibel_T, color=GREY, linewidth=0.9)
        below.set_ylabel("dB", fontsize=8)
        below.spines[["top", "right"]].set_visible(False)
        if k == len(latents) - 1:
            below.set_xlabel("seconds", fontsize=8)
    if shown is not None:
        figure.colorbar(shown, ax=figure.axes, label="standard deviations", fraction=0.025, pad=0.01)
    _save(figure, path)


def draw_histograms(share_VD: Float[np.ndarray, "V D"], path: Path) -> None:
    """The histogram as a picture, one column a dimension."""
    from matplotlib.colors import LogNorm

    figure = _new_figure((8.5, 3.4))
    axes = figure.add_subplot()
    lit = share_VD[share_VD > 0]
    norm = LogNorm(max(float(lit.min()), 1e-6), max(float(lit.max()), 2e-6))
    shown = axes.imshow(
        np.ma.masked_equal(share_VD, 0), aspect="auto", origin="lower", cmap="viridis", norm=norm,
        extent=(0, share_VD.shape[1], -REACH, REACH), interpolation="nearest",
    )  # fmt: skip
    axes.set_xlabel("dimension", fontsize=8)
    axes.set_ylabel("standard deviations\nfrom the mean", fontsize=8)
    figure.colorbar(shown, ax=axes, label="share of frames", pad=0.01)
    _save(figure, path)


def _new_figure(size: tuple[float, float]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    """A PNG that is the same, byte for byte, on any day."""
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    write_atomically(path, content.getvalue())
