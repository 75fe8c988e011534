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

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float

    from inscape.core.rundir import RunDir

__all__ = ["draw_latents"]

PHOTOGRAPHS = "90 % of photographs"
SHOWN = ("spectral_slope", "gradient_kurtosis", "total_variation", "haar_sparsity")


def draw_latents(
    run: RunDir,
    montage_NCHW: Float[Tensor, "N C H W"],
    sentences: Sequence[str],
    latent_NCHW: Float[Tensor, "N C H W"],
    evaluations: Sequence[dict[str, Any]],
) -> None:
    """Draw the montage of `sentences`, the statistics of `latent_NCHW`, and the course of the training."""
    folder = run.figures
    slope = BANDS["spectral_slope"]
    spectrum = stats.radial_spectrum(latent_NCHW)
    figures.channel_montage(montage_NCHW.numpy(), sentences, folder / "channel_montage.png")
    figures.power_spectra(
        spectrum.frequency.numpy(),
        spectrum.power.numpy(),
        stats.spectral_slope(latent_NCHW).mean(0).numpy(),
        folder / "power_spectra.png",
        photographs=Band(slope.low, slope.high, PHOTOGRAPHS),
    )
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
