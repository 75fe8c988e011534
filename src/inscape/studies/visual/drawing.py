"""All pictures of a set of latents, measured here and drawn by `figures`, under the file names that people know.

Legend: N sentences, C channels, H, W of the latent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from inscape import stats
from inscape.stats.photographs import BANDS, STATISTICS, describe
from inscape.studies.visual import figures
from inscape.studies.visual.figures import CAPTIONS, Band, Panel, Statistic
from inscape.studies.visual.health import SLOPE_RANGE
from inscape.studies.visual.losses import pooled_correlation
from inscape.studies.visual.model import encode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from jaxtyping import Float

    from inscape.core.rundir import RunDir
    from inscape.studies.visual.model import TextToLatent
    from inscape.train import FitConfig

__all__ = ["draw_latents", "draw_step", "is_drawn"]

PHOTOGRAPHS = "90 % of photographs"
SHOWN = ("spectral_slope", "gradient_kurtosis", "total_variation", "haar_sparsity")
STEPS, MOST_DRAWN = "steps", 8  # folder of the pictures of the course in figures/, and how many evaluations it has


def draw_latents(
    run: RunDir,
    montage_NCHW: Float[Tensor, "N C H W"],
    sentences: Sequence[str],
    latent_NCHW: Float[Tensor, "N C H W"],
    evaluations: Sequence[dict[str, Any]],
) -> None:
    """Draw the montage of `sentences`, the statistics of `latent_NCHW`, and the course of the training."""
    folder = run.figures
    figures.channel_montage(montage_NCHW.numpy(), sentences, folder / "channel_montage.png")
    _draw_spectra(latent_NCHW, folder / "power_spectra.png")
    kurtosis_C = stats.gradient_kurtosis(latent_NCHW).median(0).values
    figures.gradient_histograms(latent_NCHW.numpy(), kurtosis_C.numpy(), folder / "gradient_histograms.png")
    figures.channel_covariance(pooled_correlation(latent_NCHW).numpy(), folder / "channel_covariance.png")
    described_KS = describe(latent_NCHW.flatten(0, 1))
    rows = [
        Statistic(name, described_KS[:, STATISTICS.index(name)], Band(band.low, band.high, PHOTOGRAPHS), band.median)
        for name, band in ((name, BANDS[name]) for name in SHOWN)
    ]
    figures.statistics_vs_photographs(rows, folder / "statistics_vs_photographs.png")
    if evaluations:
        _draw_trends(run, evaluations, latent_NCHW.shape[1])
    drawn = {name: text for name, text in CAPTIONS.items() if (folder / name).is_file()}
    run.write_json("figures/captions.json", drawn)


def draw_step(run: RunDir, encoder: TextToLatent, sentences: Sequence[str], step: int, fit: FitConfig) -> None:
    """Montage and spectra of `sentences` at this evaluation, where it is one that `is_drawn`:
    figures/steps/step_N_montage.png and step_N_spectra.png. They stay with the run: report and evidence have the last.
    """
    if not is_drawn(step, fit):
        return
    latent_NCHW = encode(encoder, list(sentences))
    begin = run.figures / STEPS / f"step_{step:06d}"
    figures.channel_montage(latent_NCHW.numpy(), sentences, begin.with_name(f"{begin.name}_montage.png"))
    _draw_spectra(latent_NCHW, begin.with_name(f"{begin.name}_spectra.png"))


def is_drawn(step: int, fit: FitConfig) -> bool:
    """Whether the evaluation at this step is drawn: at most `MOST_DRAWN`, evenly spread; not the last, which all the
    pictures at the end are of."""
    if not fit.eval_every or step >= fit.steps:
        return False
    number, of = step // fit.eval_every, max((fit.steps - 1) // fit.eval_every, MOST_DRAWN)
    return number * MOST_DRAWN // of > (number - 1) * MOST_DRAWN // of


def _draw_spectra(latent_NCHW: Tensor, path: Path) -> None:
    slope, spectrum = BANDS["spectral_slope"], stats.radial_spectrum(latent_NCHW)
    figures.power_spectra(
        spectrum.frequency.numpy(),
        spectrum.power.numpy(),
        stats.spectral_slope(latent_NCHW).mean(0).numpy(),
        path,
        photographs=Band(slope.low, slope.high, PHOTOGRAPHS),
    )


def _draw_trends(run: RunDir, evaluations: Sequence[dict[str, Any]], channels: int) -> None:
    def of(name: str) -> np.ndarray:
        keys = [f"{name}_{c}" for c in range(channels)]
        return np.array([[e["values"][key] for key in keys] for e in evaluations])

    def one(name: str) -> np.ndarray:
        return np.array([e["values"][name] for e in evaluations])

    def photographs(name: str) -> Band:
        return Band(BANDS[name].low, BANDS[name].high, PHOTOGRAPHS)

    panels = (
        Panel("spectral slope", of("slope"), (Band(*SLOPE_RANGE, "the plan"), photographs("spectral_slope"))),
        Panel("gradient kurtosis", of("kurtosis"), (photographs("gradient_kurtosis"),), logarithmic=True),
        Panel("total variation of V", of("tv"), (), logarithmic=True),
        Panel("share of variance between sentences", one("text_share")),
        Panel("speckle: share above half of Nyquist", one("speckle")),
    )
    figures.trends(np.array([e["step"] for e in evaluations]), panels, run.figures / "trends.png")
