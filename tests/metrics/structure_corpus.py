"""A small corpus with real structure, and the whole pipeline over it; also a program, so that a test can start it.

python structure_corpus.py      prints one hash over all centroids and numbers
"""

import hashlib

import numpy as np

from inscape.metrics.audio_structure import measure
from inscape.metrics.structure_passes import MeasureConfig
from inscape.stats.conditioning import ConditioningConfig, fit_conditioning
from inscape.stats.context_windows import EVAL, HELD_OUT, TRAIN, Utterance
from inscape.stats.kmeans import KMeansConfig
from inscape.stats.streamed_pca import accumulate_moments, survey

CONFIG = ConditioningConfig(
    mean_clusters=8, score_clusters=16, components=2, kmeans=KMeansConfig(restarts=2, sample_per_cluster=100)
)
MEASURE = MeasureConfig(min_cluster=20, min_speaker=30, resamples=100, shares=(0.25, 0.5, 1.0))


def corpus(dimension=5, speakers=21, frames=60):
    """Damped walks, so that steps depend on where they start; three utterances a speaker."""
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((dimension, dimension))
    for speaker in range(speakers):
        for turn in range(3):
            x = np.zeros((frames + int(rng.integers(0, 30)), dimension))
            for t in range(1, len(x)):
                x[t] = 0.8 * x[t - 1] + rng.standard_normal(dimension)
            split = EVAL if speaker % 4 == 3 else HELD_OUT if turn == 2 else TRAIN
            energy = np.abs(rng.standard_normal(len(x))).astype(np.float32)
            yield Utterance(f"s{speaker:02d}", (x @ mix).astype(np.float32), energy, split)


def fitted(utterances, lag, config=CONFIG):
    """(survey, conditioning)"""
    known = survey(utterances, config.windows)
    return known, fit_conditioning(utterances, known, accumulate_moments(utterances, known), lag, config)


if __name__ == "__main__":

    def wide():
        return corpus(dimension=60, speakers=8)

    known, conditioning = fitted(wide, 2)
    measured = measure(wide, conditioning, known.energy_threshold, MEASURE)
    digest = hashlib.sha256(repr((measured.rows, measured.confidence, measured.degradation)).encode())
    for array in (conditioning.mean_vq.centroid_KD, conditioning.score_vq.centroid_KD, conditioning.projection_FP):
        digest.update(np.ascontiguousarray(array).tobytes())
    print(digest.hexdigest())
