"""Pictures of latents: written, small, the same every time, and drawn for collapsed latents as well."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inscape.studies.visual import figures
from inscape.studies.visual.figures import CAPTIONS, Band, Panel, Statistic

B, N = 16, 32
FREQUENCY_R = np.arange(1, N // 2 + 1) / N
PHOTOGRAPHS = Band(1.87, 3.14, "photographs")
SENTENCES = ["a red ball is on the blue block"] * B


def field(channels: int = 3, alpha: float = 2.0) -> np.ndarray:
    """Latents (B, C, H, W) whose power falls as 1 / frequency^alpha."""
    radius = np.hypot(np.fft.fftfreq(N)[:, None], np.fft.fftfreq(N)[None, :])
    radius[0, 0] = 1
    noise = np.fft.fft2(np.random.default_rng(0).standard_normal((B, channels, N, N)))
    return np.fft.ifft2(noise * radius ** (-alpha / 2)).real


def draw(name: str, latent_BCHW: np.ndarray, path: Path) -> None:
    """Draw one of the pictures of these latents."""
    values_NC = latent_BCHW.mean((2, 3))
    power_BCR = np.abs(latent_BCHW).mean((2, 3))[..., None] * FREQUENCY_R**-2.0
    collapsed = not np.isfinite(latent_BCHW).all() or latent_BCHW.std() == 0
    channels = latent_BCHW.shape[1]
    correlation_CC = np.full((channels, channels), np.nan) if collapsed else np.atleast_2d(np.corrcoef(values_NC.T))
    draws: dict[str, Callable[[], None]] = {
        "power_spectra.png": lambda: figures.power_spectra(
            FREQUENCY_R, power_BCR, np.full(channels, 2.0), path, photographs=PHOTOGRAPHS
        ),
        "channel_montage.png": lambda: figures.channel_montage(latent_BCHW, SENTENCES, path),
        "gradient_histograms.png": lambda: figures.gradient_histograms(
            latent_BCHW, np.full(latent_BCHW.shape[1], 3.0), path
        ),
        "channel_covariance.png": lambda: figures.channel_covariance(correlation_CC, path),
        "trends.png": lambda: figures.trends(
            np.arange(B),
            [
                Panel("alpha", values_NC, (Band(1.5, 2.5, "plan"), PHOTOGRAPHS)),
                Panel("kurtosis", np.abs(values_NC) + 1, (Band(3, np.inf, "plan"),), logarithmic=True),
                Panel("text dependence", values_NC[:, 0]),
            ],
            path,
        ),
        "statistics_vs_photographs.png": lambda: figures.statistics_vs_photographs(
            [Statistic("alpha", values_NC, PHOTOGRAPHS, median=2.6)] * 4, path
        ),
    }
    draws[name]()


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return imread(path)


@pytest.mark.parametrize("name", CAPTIONS)
def test_a_picture_is_small_uncut_and_always_the_same(name: str, tmp_path: Path) -> None:
    draw(name, field(6), tmp_path / name)
    draw(name, field(6), tmp_path / "again.png")
    assert (tmp_path / name).read_bytes() == (tmp_path / "again.png").read_bytes()
    assert (tmp_path / name).stat().st_size < 150_000
    shown = pixels(tmp_path / name)
    assert shown.shape[1] >= 400
    shown = shown[..., :3]
    assert all(np.allclose(edge, 1, atol=0.02) for edge in (shown[0], shown[-1], shown[:, 0], shown[:, -1]))
    assert len(np.unique(shown.reshape(-1, shown.shape[-1]), axis=0)) > 20
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("name", CAPTIONS)
@pytest.mark.parametrize("value", [3.0, np.nan, np.inf])
def test_collapsed_latents_are_drawn_without_a_warning(name: str, value: float, tmp_path: Path) -> None:
    draw(name, np.full((B, 3, N, N), value), tmp_path / name)
    assert (tmp_path / name).stat().st_size > 1000


@pytest.mark.parametrize("name", CAPTIONS)
def test_one_channel(name: str, tmp_path: Path) -> None:
    draw(name, field(1), tmp_path / name)
    assert (tmp_path / name).is_file()


@pytest.mark.parametrize("name", ["channel_montage.png", "channel_covariance.png", "trends.png"])
def test_more_channels_than_colours(name: str, tmp_path: Path) -> None:
    draw(name, field(12), tmp_path / name)
    assert (tmp_path / name).is_file()


def test_sentences_of_any_script_length_and_with_dollars(tmp_path: Path) -> None:
    sentences = ["costs $\\frac{$", "赤い玉", "word " * 60, "w" * 200, "", *SENTENCES[5:]]
    figures.channel_montage(field(), sentences, tmp_path / "m.png")
    figures.channel_montage(field(), SENTENCES, tmp_path / "n.png")
    assert (tmp_path / "m.png").read_bytes() != (tmp_path / "n.png").read_bytes()


def test_a_montage_wants_one_sentence_a_latent(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="16 latents but 3 sentences"):
        figures.channel_montage(field(), SENTENCES[:3], tmp_path / "m.png")


def test_a_column_of_the_montage_shares_its_colours(tmp_path: Path) -> None:
    """Flat sentences of three brightnesses: with a scale for each picture, or of the first alone, two would agree."""
    latent = np.zeros((B, 1, N, N))
    latent[3], latent[5] = 1.0, 2.0
    figures.channel_montage(latent, SENTENCES, tmp_path / "m.png")
    shown = pixels(tmp_path / "m.png")[..., :3]
    middle = 285 + 32  # left of the tiles, and half a tile
    rows = [shown[30 + row * 69 + 20, middle] for row in range(B)]
    assert all(np.allclose(rows[row], rows[0]) for row in range(B) if row not in (3, 5))
    assert not any(np.allclose(rows[a], rows[b], atol=0.2) for a, b in ((0, 3), (3, 5), (0, 5)))


def test_importing_the_pictures_imports_no_matplotlib_and_no_torch() -> None:
    code = "import sys, inscape.studies.visual.figures; print({'matplotlib', 'torch', 'PIL'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"
