"""What is known of fitted schemes before any step is predicted: are they clusters, of sound, that new recordings share?

Everything is counted on the frames that the schemes were fitted on, and compared with the utterances of the same
speakers that were held out.

Legend: N frames, S schemes, K clusters.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from inscape.metrics.cluster_usage import contingency, effective_number, effective_number_given
from inscape.metrics.structure_passes import Assignment, assign_utterances
from inscape.stats.conditioning import Conditioning
from inscape.stats.context_windows import HELD_OUT, TRAIN, Utterances, mean_contexts

__all__ = ["SchemeChecks", "check_schemes", "differing_labels"]

FLOOR = 1e-3  # of the centroids' spread: distances below are rounding


class SchemeChecks(NamedTuple):
    """One scheme at one lag, on TRAIN; NaN where a number does not exist."""

    scheme: str
    lag: int
    possible: int  # numbers that the scheme can give
    dead: int  # of these, without a frame
    effective: int  # of these, with enough frames
    excluded: float  # share of frames in clusters that are not effective
    excluded_heldout: float
    clusters_used: float  # effective number of clusters, of the effective ones
    voices_in_a_cluster: float  # effective number of speakers inside a cluster
    clusters_at_one_loudness: float  # effective number of clusters among contexts that are equally loud
    heldout_distance: float  # mean distance to the centroid, held-out utterances over those fitted on
    speakers: int  # of TRAIN


class _Frames(NamedTuple):
    speaker_N: np.ndarray
    loudness_N: np.ndarray  # mean energy of the context


def check_schemes(utterances: Utterances, conditioning: Conditioning, min_cluster: int) -> list[SchemeChecks]:
    """Two passes over `utterances`: for the labels, and for who speaks how loud. `min_cluster`: frames of TRAIN."""
    assignment = assign_utterances(utterances, conditioning)
    frames = _train_frames(utterances, conditioning)
    return [_checks(scheme, assignment, conditioning, frames, min_cluster) for scheme in range(3)]


def _train_frames(utterances: Utterances, conditioning: Conditioning) -> _Frames:
    windows, number = conditioning.config.windows, {}
    speakers, loudness = [], []
    for speaker, _, energy_T, split in utterances():
        if split == TRAIN:
            mean_N1 = mean_contexts(np.asarray(energy_T, dtype=np.float64)[:, None], conditioning.lag, windows)
            loudness.append(mean_N1[:, 0])
            speakers.append(np.full(len(mean_N1), number.setdefault(speaker, len(number))))
    return _Frames(np.concatenate(speakers), np.concatenate(loudness))


def _checks(
    scheme: int, assignment: Assignment, conditioning: Conditioning, frames: _Frames, min_cluster: int
) -> SchemeChecks:
    possible = conditioning.config.clusters[scheme]
    label_N = assignment.label_SN[TRAIN][scheme]
    count_K = np.bincount(label_N, minlength=possible)
    kept_K = count_K >= min_cluster
    inside_N = kept_K[label_N]
    mine_N = (np.cumsum(kept_K) - 1)[label_N[inside_N]]
    # As many classes of loudness as clusters: where clusters are loudness, about one is left in each class.
    loudness_N = _equal_classes(frames.loudness_N[inside_N], max(int(kept_K.sum()), 1))
    held_N = assignment.label_SN.get(HELD_OUT, np.empty((3, 0), dtype=np.int32))[scheme]
    return SchemeChecks(
        conditioning.config.schemes[scheme],
        conditioning.lag,
        possible,
        int((count_K == 0).sum()),
        int(kept_K.sum()),
        float(1 - inside_N.mean()),
        float(1 - kept_K[held_N].mean()) if held_N.size else math.nan,
        effective_number(count_K[kept_K]),
        effective_number_given(contingency(frames.speaker_N[inside_N], mine_N)),
        effective_number_given(contingency(mine_N, loudness_N)),
        _heldout_distance(scheme, assignment, conditioning, count_K),
        len(np.unique(frames.speaker_N)),
    )


def _equal_classes(value_N: np.ndarray, classes: int) -> np.ndarray:
    """The class of each value, where classes hold equally many."""
    if not value_N.size:
        return np.empty(0, dtype=np.int64)
    return np.searchsorted(np.quantile(value_N, np.arange(1, classes) / classes), value_N)


def _heldout_distance(scheme: int, assignment: Assignment, conditioning: Conditioning, count_K: np.ndarray) -> float:
    fitted = (conditioning.mean_vq, conditioning.score_vq)
    if scheme >= len(fitted) or HELD_OUT not in assignment.distance_SN:
        return math.nan
    centroid_KD, share_K = fitted[scheme].centroid_KD, count_K / count_K.sum()
    centred_KD = centroid_KD - share_K @ centroid_KD
    floor = FLOOR * math.sqrt(float((share_K * np.square(centred_KD).sum(axis=1)).sum())) + np.finfo(np.float64).tiny
    held, fit = (float(assignment.distance_SN[split][scheme].mean()) for split in (HELD_OUT, TRAIN))
    return (held + floor) / (fit + floor)


def differing_labels(utterances: Utterances, one: Conditioning, other: Conditioning, least: int = 2000) -> int:
    """How many labels differ between two fits, in the first utterances with `least` frames together."""
    wrong = seen = 0
    for _, latent_TD, _, _ in utterances():
        first, second = one.assign(latent_TD).label_SN, other.assign(latent_TD).label_SN
        wrong += int((first != second).sum())
        seen += first.shape[1]
        if seen >= least:
            break
    return wrong
