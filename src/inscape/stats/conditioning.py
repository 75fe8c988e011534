"""The coarse keys of a context: three schemes that turn W frames into the number of a cluster, and their control.

Each scheme is fitted once per lag on all eligible TRAIN frames and then only assigns:
mean_vq64 (k-means of the mean frame), pca8_vq256 (k-means of 8 principal components of the stacked frames) and
pca8_quartile (each of 8 components cut at its train quartiles). The control permutes the assigned numbers.

Legend: N eligible frames, D latent dimensions, W frames of a context, F = W D, P components, K clusters, S schemes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from inscape.stats.context_windows import EVAL, TRAIN, Utterances, Windows, mean_contexts
from inscape.stats.exact_sums import on_grid, power_of_two
from inscape.stats.kmeans import KMeans, KMeansConfig, fit_kmeans, nearest_centroids
from inscape.stats.streamed_pca import (
    ContextMoments,
    Normaliser,
    Survey,
    context_covariance,
    normaliser,
    top_eigenvectors,
)

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = [
    "Assigned",
    "Conditioning",
    "ConditioningConfig",
    "context_scores",
    "fit_conditioning",
    "load_conditioning",
    "permuted_ids",
]

PROJECTION_STEP = 2.0**-26  # unit vectors on this grid times frames on a grid of 26 bits: exact scores
CONTROL_SEEDS = {TRAIN: 1000, EVAL: 2000}  # added to the seed; other splits take 3000
QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class ConditioningConfig:
    """The sizes of the schemes; the defaults are the plan's."""

    windows: Windows = field(default_factory=Windows)
    mean_clusters: int = 64
    components: int = 8
    score_clusters: int = 256
    kmeans: KMeansConfig = field(default_factory=KMeansConfig)

    def __post_init__(self) -> None:
        if min(self.mean_clusters, self.score_clusters) < 2 or not 1 <= self.components <= 15:
            raise ValueError(
                f"conditioning wants 2 or more clusters and 1 to 15 components, given {self.mean_clusters}, "
                f"{self.score_clusters} and {self.components}"
            )

    @property
    def schemes(self) -> tuple[str, str, str]:
        """Their names, in the order of their numbers."""
        return (
            f"mean_vq{self.mean_clusters}",
            f"pca{self.components}_vq{self.score_clusters}",
            f"pca{self.components}_quartile",
        )

    @property
    def clusters(self) -> tuple[int, int, int]:
        """How many numbers each scheme can assign."""
        return self.mean_clusters, self.score_clusters, 4**self.components


class Assigned(NamedTuple):
    """What every scheme says of the eligible frames of one utterance."""

    label_SN: Int[np.ndarray, "S N"]
    distance_SN: Float[np.ndarray, "S N"]  # to the centroid; NaN for pca8_quartile, which has none


@dataclass(frozen=True)
class Conditioning:
    """The fitted schemes of one lag, and what normalises its targets."""

    config: ConditioningConfig
    lag: int
    targets: Normaliser
    mean_vq: KMeans
    projection_FP: Float[np.ndarray, "F P"]  # principal axes, on a grid
    offset_P: Float[np.ndarray, " P"]  # the mean context's scores
    variance_P: Float[np.ndarray, " P"]  # of each component over TRAIN
    latent_step: float  # grid of the frames that are projected
    score_vq: KMeans
    edge_P3: Float[np.ndarray, "P 3"]  # train quartiles of each score

    def scores(self, latent_TD: Float[np.ndarray, "T D"]) -> Float[np.ndarray, "N P"]:
        """The principal components of c_flat of every eligible frame, float32."""
        return context_scores(
            latent_TD, self.lag, self.config.windows, self.projection_FP, self.offset_P, self.latent_step
        )

    def assign(self, latent_TD: Float[np.ndarray, "T D"]) -> Assigned:
        """The clusters of every eligible frame of an utterance."""
        mean_ND = mean_contexts(latent_TD, self.lag, self.config.windows)
        first = nearest_centroids(mean_ND, self.mean_vq.centroid_KD, self.mean_vq.step)
        score_NP = self.scores(latent_TD)
        second = nearest_centroids(score_NP, self.score_vq.centroid_KD, self.score_vq.step)
        # digit = how many quartiles a score reaches: at an edge it goes up.
        digit_NP = (score_NP[:, :, None] >= self.edge_P3).sum(axis=2)
        cell_N = digit_NP @ (4 ** np.arange(digit_NP.shape[1]))
        return Assigned(
            np.stack((first.label_N, second.label_N, cell_N)),
            np.stack((np.sqrt(first.squared_N), np.sqrt(second.squared_N), np.full(len(cell_N), np.nan))),
        )

    def save(self, path: Path) -> None:
        """Write everything as one npz, under a temporary name first."""
        config = {**asdict(self.config.windows), **asdict(self.config.kmeans)}
        config |= {name: getattr(self.config, name) for name in ("mean_clusters", "components", "score_clusters")}
        arrays = {f"config_{name}": np.asarray(value) for name, value in config.items()}
        for name in ("lag", "projection_FP", "offset_P", "variance_P", "latent_step", "edge_P3"):
            arrays[name] = np.asarray(getattr(self, name))
        for name in ("targets", "mean_vq", "score_vq"):
            arrays |= {f"{name}_{key}": np.asarray(value) for key, value in getattr(self, name)._asdict().items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".npz.part")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def load_conditioning(path: Path) -> Conditioning:
    """The inverse of `Conditioning.save`. ValueError if the file is not one."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:  # numpy leaves a damaged file open
        kept = dict(stored)
    if "projection_FP" not in kept:
        raise ValueError(f"{path} holds no conditioning (found {sorted(kept)[:5]}): fit it again")
    config = {key.removeprefix("config_"): kept[key].tolist() for key in kept if key.startswith("config_")}
    windows = Windows(config.pop("window"), tuple(config.pop("lags")))
    sizes = {name: config.pop(name) for name in ("mean_clusters", "components", "score_clusters")}
    whole = ConditioningConfig(windows, **sizes, kmeans=KMeansConfig(**config))

    def centroids(name: str) -> KMeans:
        numbers = [kept[f"{name}_{key}"].item() for key in KMeans._fields[1:]]
        return KMeans(kept[f"{name}_centroid_KD"], *numbers)

    return Conditioning(
        config=whole,
        lag=kept["lag"].item(),
        targets=Normaliser(kept["targets_mean_D"], kept["targets_std_D"]),
        mean_vq=centroids("mean_vq"),
        projection_FP=kept["projection_FP"],
        offset_P=kept["offset_P"],
        variance_P=kept["variance_P"],
        latent_step=kept["latent_step"].item(),
        score_vq=centroids("score_vq"),
        edge_P3=kept["edge_P3"],
    )


def fit_conditioning(
    utterances: Utterances, known: Survey, moments: ContextMoments, lag: int, config: ConditioningConfig | None = None
) -> Conditioning:
    """Fit the three schemes of one lag on all eligible TRAIN frames.

    Memory: the covariance (F x F) three times over, 4 bytes x P a frame for the scores, and the cache of k-means.
    ValueError if the settings do not fit those of `known`, or TRAIN has fewer eligible frames than clusters.
    """
    config = config or ConditioningConfig()
    windows, rows = config.windows, known.contexts
    if known.windows != windows or moments.windows != windows:
        raise ValueError(f"the survey was made for {known.windows} and the schemes for {windows}: survey again")
    windows.check_lag(lag)
    if rows < max(config.mean_clusters, config.score_clusters):
        raise ValueError(
            f"{rows} eligible {TRAIN} frames are too few for {max(config.mean_clusters, config.score_clusters)} "
            f"clusters: add utterances of more than {windows.first} frames or lower the number of clusters"
        )
    mean_F, covariance_FF = context_covariance(moments, lag)
    axes = top_eigenvectors(covariance_FF, min(config.components, len(mean_F)))
    del covariance_FF
    projection_FP = on_grid(axes.vector_FP, PROJECTION_STEP)
    offset_P = np.einsum("f,fp->p", mean_F, projection_FP)
    latent_step = power_of_two(known.largest_norm * windows.window**0.5) * PROJECTION_STEP
    score_NP = np.concatenate(
        [context_scores(x_TD, lag, windows, projection_FP, offset_P, latent_step) for x_TD in _train(utterances)]
    )

    def scored() -> Iterator[np.ndarray]:
        yield score_NP

    def averaged() -> Iterator[np.ndarray]:
        return (mean_contexts(x_TD, lag, windows) for x_TD in _train(utterances))

    return Conditioning(
        config,
        lag,
        normaliser(moments),
        fit_kmeans(averaged, rows, config.mean_clusters, config.kmeans),
        projection_FP,
        offset_P,
        axes.value_P,
        latent_step,
        fit_kmeans(scored, rows, config.score_clusters, config.kmeans),
        np.quantile(score_NP, QUARTILES, axis=0).T.copy(),
    )


def _train(utterances: Utterances) -> Iterator[np.ndarray]:
    return (utterance.latent_TD for utterance in utterances() if utterance.split == TRAIN)


def context_scores(
    latent_TD: Float[np.ndarray, "T D"],
    lag: int,
    windows: Windows,
    projection_FP: Float[np.ndarray, "F P"],
    offset_P: Float[np.ndarray, " P"],
    step: float,
) -> Float[np.ndarray, "N P"]:
    """c_flat @ projection - offset of every eligible frame, float32, without c_flat: each frame is projected once for
    each place it can stand at. step: the grid that frames are rounded to, so that sums are exact.
    """
    count, width, components = len(windows.eligible(len(latent_TD))), windows.window, projection_FP.shape[1]
    start = windows.first - lag - width + 1
    x_TD = on_grid(latent_TD[start : start + count + width - 1], step)
    by_place_DWP = projection_FP.reshape(width, -1, components).transpose(1, 0, 2)
    part_TWP = (x_TD @ by_place_DWP.reshape(x_TD.shape[1], -1)).reshape(-1, width, components)
    total_NP = np.zeros((count, components))
    for place in range(width):
        total_NP += part_TWP[place : place + count, place]
    return (total_NP - offset_P).astype(np.float32)


def permuted_ids(label_N: Int[np.ndarray, " N"], split: str, seed: int = 42) -> Int[np.ndarray, " N"]:
    """The control: the ids of one split in random order, so their histogram is kept exactly."""
    return np.random.default_rng(seed + CONTROL_SEEDS.get(split, 3000)).permutation(label_N)
