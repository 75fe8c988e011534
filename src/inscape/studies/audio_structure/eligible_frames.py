"""What the statistics read: A1's latents, speaker by speaker, in A0's splits, under the rule that A2 wrote down.

Legend: T frames, D latent dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from inscape.core.rundir import RunDir
from inscape.core.study import Context
from inscape.data.latent_store import LatentStore, open_store
from inscape.stats.context_windows import Utterance, Utterances
from inscape.studies.audio_structure.frames import COUNTS, split_of_utterances
from inscape.studies.audio_structure.latents import LATENTS, latents_sha256

__all__ = [
    "FrameRule",
    "centred_by_speaker",
    "eligible_utterances",
    "frame_rule",
    "miscounted",
    "rule_of",
    "stored_utterances",
]


class FrameRule(NamedTuple):
    """How A2's table was made, and what it holds."""

    latents_sha256: str  # what it is a table of
    window: int  # frames of a context
    max_lag: int
    min_sec: float  # shorter utterances are left out
    energy_median: float  # above it a frame is of high energy
    rows: Mapping[str, int]  # by split
    high_energy: Mapping[str, int]  # rows of high energy, by split


def frame_rule(run: RunDir) -> FrameRule:
    """The rule of a run of A2. ValueError if its file is damaged or of another version."""
    found = run.read_json(COUNTS)
    try:
        return FrameRule(**{name: found[name] for name in FrameRule._fields})
    except (KeyError, TypeError):
        raise ValueError(f"{run.path / COUNTS} is missing or of another version: run A2 again") from None


def rule_of(context: Context) -> FrameRule:
    """The rule of the run of A2 that a phase builds on. ValueError as `frame_rule`, or if A1's latents are others."""
    latents, table = context.inputs["A1"], context.inputs["A2"]
    rule = frame_rule(table)
    if rule.latents_sha256 != latents_sha256(latents):
        raise ValueError(f"the table in {table.path} is of other latents than {latents.path}: run A2 again")
    return rule


def stored_utterances(store: LatentStore, split_of: Mapping[str, str], min_sec: float) -> Utterances:
    """The utterances of a store that are in a split and of `min_sec` or more, speaker by speaker."""
    rows = [
        (row.speaker_id, row.utterance_id, i)
        for i, row in enumerate(store.utterances)
        if row.utterance_id in split_of and row.duration_sec >= min_sec
    ]

    def utterances() -> Iterator[Utterance]:
        for speaker, utterance, i in sorted(rows):
            yield Utterance(speaker, store.latents(i), store.energy(i), split_of[utterance])

    return utterances


def eligible_utterances(context: Context) -> tuple[Utterances, FrameRule]:
    """What a phase that builds on A0, A1 and A2 reads. ValueError if A1's latents are of another corpus or table."""
    split_of, rule = split_of_utterances(context), rule_of(context)
    return stored_utterances(open_store(context.inputs["A1"].path / LATENTS), split_of, rule.min_sec), rule


def miscounted(found: Mapping[str, int], table: Mapping[str, int]) -> int:
    """By how many frames counts by split differ from the table's."""
    return sum(abs(found.get(split, 0) - table.get(split, 0)) for split in {*found, *table})


def centred_by_speaker(utterances: Utterances) -> Utterances:
    """The same utterances, each speaker's latents less the mean over all of the speaker's frames.

    One pass for the means; memory: D numbers a speaker. Steps are what they were but for the rounding to float32.
    """
    total: dict[str, np.ndarray] = {}
    frames: dict[str, int] = {}
    for speaker, latent_TD, _, _ in utterances():
        total[speaker] = total.get(speaker, 0.0) + latent_TD.sum(axis=0, dtype=np.float64)
        frames[speaker] = frames.get(speaker, 0) + len(latent_TD)
    mean = {speaker: sum_D / max(frames[speaker], 1) for speaker, sum_D in total.items()}

    def centred() -> Iterator[Utterance]:
        for utterance in utterances():
            latent_TD = (utterance.latent_TD - mean[utterance.speaker_id]).astype(np.float32)
            yield utterance._replace(latent_TD=latent_TD)

    return centred
