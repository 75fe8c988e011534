"""What contrast and decoding are trained on: a sentence, another wording of its scene, and the canonical wording.

A batch is made of families: a scene drawn anew, and `edited` scenes that are one edit away from it. So each sentence
has its hard negatives in the batch, and a negative is a scene like any other, decoded like any other.

All sentences of a step say the same number of facts, drawn anew each step: sentences of like length waste no padding,
and the other sentences of a batch cannot be told apart by their length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from inscape.data.scenes.counterfactuals import EDITS
from inscape.data.scenes.fast import (
    PhraseTable,
    canonical_wordings,
    draw_scenes,
    draw_wordings,
    tokenise,
    uniforms,
)
from inscape.data.scenes.fast_counterfactuals import draw_counterfactuals
from inscape.data.tokenizer import EOS

__all__ = ["SWAPS", "Tuples", "tuples_at"]

SWAPS = ("arguments", "binding", "across")  # the same words in other places: what a bag of words cannot tell apart
BUCKETS = (16, 20, 24, 32, 36, 40, 48, 56, 64)  # tokens; sentences of 1, 2, 3 facts have at most 20, 37, 54
REWORDINGS = 3  # of which one is chosen as a target, if nothing else is said
_FACTS_STREAM = 3 << 32
_NEXT, _STAND_IN = 1 << 40, 1 << 50  # between the numbers of a family's edits, and to those of scenes that stand in


class Tuples(NamedTuple):
    """A rank's share of a step; all tokens (B, T) int64 of one width, padded with 0.

    The first F rows are scenes of families; row i + k F is row i's scene after its k-th edit. Where no edit applies, or
    only one that was made already, a scene drawn anew stands in.
    """

    sentence_BT: np.ndarray
    paraphrase_BT: np.ndarray
    canonical_BT: np.ndarray
    reworded_BT: np.ndarray  # of some more wordings, the one that shares the fewest pairs of words with the paraphrase
    edit_E: np.ndarray  # index into EDITS for each row from F on; -1: none


def tuples_at(
    table: PhraseTable,
    *,
    seed: int,
    step: int,
    size: int,
    rank: int = 0,
    world: int = 1,
    facts: Sequence[float] = (1, 1, 1),
    swaps: int = 2,
    edited: int = 1,
    rewordings: int = REWORDINGS,
    split: str | None = "train",
) -> Tuples:
    """The slice of rank `rank` of the `size` tuples of step `step`: a pure function of its arguments.

    facts: weights of steps with 1, 2 and 3 facts. swaps: how many times as often as the other edits SWAPS are drawn, on
    top of once. edited: edited scenes in a family. rewordings: how many `reworded_BT` is chosen from; more make it less
    like the paraphrase. ValueError if `size` is not a multiple of (1 + edited) `world`, or on weights that are not a
    distribution.
    """
    family = 1 + edited
    if rewordings < 1:
        raise ValueError(f"rewordings {rewordings}: wanted 1 or more")
    if edited < 1 or size < 2 * family * world or size % (family * world) or not 0 <= rank < world:
        raise ValueError(
            f"size {size}, edited {edited}, rank {rank}, world {world}: size must be a multiple of (1 + edited) x world"
            f" ({family * world}), and at least twice that"
        )
    number = facts_of_step(seed, step, facts)
    families = size // world // family
    index_F = (step * world + rank) * families + np.arange(families)
    scenes_FC = draw_scenes(seed, index_F, facts=number, split=split)
    index_E = np.concatenate([index_F + _NEXT * n for n in range(edited)])
    edited_EC, edit_E = _one_edit_away(scenes_FC, seed, index_E, number, swaps=swaps, split=split)
    scenes_BF = np.concatenate([scenes_FC, edited_EC])
    index_B = np.concatenate([index_F, index_E])
    stream_B = np.repeat([0, 2], [families, families * edited])
    rows = [
        draw_wordings(scenes_BF, seed, index_B, stream=stream_B),
        draw_wordings(scenes_BF, seed, index_B, stream=stream_B + 1),
        canonical_wordings(scenes_BF),
        *(draw_wordings(scenes_BF, seed, index_B, stream=stream_B + 4 * n) for n in range(1, 1 + rewordings)),
    ]
    tokens_BT, _ = tokenise(table, np.concatenate(rows), buckets=BUCKETS)
    sentence_BT, paraphrase_BT, canonical_BT, *others = np.split(tokens_BT, 3 + rewordings)
    shared_NB = np.stack([shared_pairs(paraphrase_BT, other_BT) for other_BT in others])
    reworded_BT = np.stack(others)[shared_NB.argmin(0), np.arange(len(sentence_BT))]
    return Tuples(sentence_BT, paraphrase_BT, canonical_BT, reworded_BT, edit_E)


def _one_edit_away(
    scenes_FC: np.ndarray, seed: int, index_E: np.ndarray, facts: int, *, swaps: int, split: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """The edited scenes of all families, and the edits; what would be there twice is drawn anew instead."""
    families, times = len(scenes_FC), len(index_E) // len(scenes_FC)
    found = draw_counterfactuals(
        np.tile(scenes_FC, (times, 1)), seed, index_E, edits=(*EDITS, *SWAPS * swaps), split=split
    )
    edited_KFC, edit_E = found.scenes_BF.reshape(times, families, -1), found.edit_B.copy()
    for n in range(1, times):
        again_F = (edited_KFC[:n] == edited_KFC[n]).all(2).any(0)
        edit_E[n * families : (n + 1) * families][again_F] = -1
    stand_in_EC = draw_scenes(seed, index_E + _STAND_IN, facts=facts, split=split)
    return np.where(edit_E[:, None] >= 0, found.scenes_BF, stand_in_EC), edit_E


def shared_pairs(first_BT: np.ndarray, second_BT: np.ndarray) -> np.ndarray:
    """How many neighbouring pairs of tokens of the second sentence stand in the first as well, (B,)."""
    both = [(t[:, :-1] << 32) + t[:, 1:] for t in (first_BT, second_BT)]
    return ((both[0][:, None] == both[1][:, :, None]).any(2) & (second_BT[:, 1:] > EOS)).sum(1)


def facts_of_step(seed: int, step: int, facts: Sequence[float]) -> int:
    """How many facts the scenes of a step have: drawn with weights `facts`."""
    weights = np.asarray(facts, dtype=np.float64)
    if weights.shape != (3,) or not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
        raise ValueError(f"facts={tuple(facts)} are weights of 1, 2 and 3 facts: three numbers, 0 or more, not all 0")
    draw = uniforms(seed, _FACTS_STREAM, np.array([step]), 1)[0, 0]
    return 1 + int(np.searchsorted(np.cumsum(weights / weights.sum()), draw, side="right").clip(0, 2))
