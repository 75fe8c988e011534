"""What predictors read: A1's latents, split by A0, long enough by A2's rule; and the proof that windows end right.

Legend: N windows, W context frames.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from inscape.core.study import Context
from inscape.data.latent_store import LatentStore, open_store
from inscape.studies.audio_structure.eligible_frames import FrameRule, rule_of
from inscape.studies.audio_structure.frame_windows import StepBatches, UtterancesInMemory, step_windows
from inscape.studies.audio_structure.frames import split_of_utterances
from inscape.studies.audio_structure.latents import LATENTS

__all__ = ["NEEDS", "PredictedSpeech", "alignment_errors", "eligible_rows", "predicted_speech"]

NEEDS = ("A0", "A1", "A2")
COUNTED = 50  # frames of the latent that counts them


class PredictedSpeech(NamedTuple):
    """A store, and which of its utterances are fitted on, watched (new utterances, known voices), and tested on."""

    store: LatentStore
    train: np.ndarray
    heldout: np.ndarray
    eval: np.ndarray


def predicted_speech(context: Context) -> PredictedSpeech:
    """The latents of a run's inputs. ValueError if they do not fit together, or nothing is left to fit or test on."""
    split_of = split_of_utterances(context)
    store = open_store(context.inputs["A1"].path / LATENTS)
    return PredictedSpeech(store, **eligible_rows(store, split_of, rule_of(context)))


def eligible_rows(store: LatentStore, split_of: dict[str, str], rule: FrameRule) -> dict[str, np.ndarray]:
    """Numbers of the utterances of each split that A2's rule does not call too short.

    ValueError if there is none to fit on, or none to test on.
    """
    long_enough = [i for i, row in enumerate(store.utterances) if row.duration_sec >= rule.min_sec]
    rows = {
        split: np.array([i for i in long_enough if split_of.get(store.utterances[i].utterance_id) == split], np.int64)
        for split in ("train", "heldout", "eval")
    }
    if empty := [split for split in ("train", "eval") if not len(rows[split])]:
        raise ValueError(f"no utterance of {rule.min_sec:g} s or more is in the split {empty[0]}: give longer ones")
    return rows


def alignment_errors(window: int, horizons: tuple[int, ...], span: int = 1) -> tuple[int, int]:
    """How many of how many numbers are wrong where frame i is (i, 1 + 2 + ... + i), so that a step names its frames."""
    frame_T = np.arange(max(COUNTED, 2 * (window + max(horizons))), dtype=np.float32)
    corpus = UtterancesInMemory([np.column_stack((frame_T, frame_T.cumsum()))] * 2)
    first, wrong, checked = window - 1 + max(horizons), 0, 0
    for horizon in horizons:
        windows = step_windows(corpus, window, horizon, horizons=horizons, span=span)
        batches = list(StepBatches.of(windows, window, np.arange(windows.total)))
        context_NW = np.concatenate([batch.context_NWD[..., 0].numpy() for batch in batches])
        delta_N = np.concatenate([batch.delta_ND[:, 1].numpy() for batch in batches])
        target_N = np.tile(np.arange(first, len(frame_T)), 2)
        due_NW = target_N[:, None] - horizon + np.arange(1 - window, 1)
        due_N = (target_N[:, None] - np.arange(span)).sum(1)
        for found, due in ((context_NW, due_NW), (delta_N, due_N)):
            checked += due.size
            wrong += int((found != due).sum()) if found.shape == due.shape else due.size
    return wrong, checked
