"""What contrast and decoding are trained on: a sentence, another wording of its scene, and the canonical wording.

Half of a batch are scenes drawn anew, the other half are one edit away from them: each sentence has its hard negative
in the batch, and the negative is a scene like any other, decoded like any other.

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
REWORDINGS = 3
_FACTS_STREAM = 3 << 32


class Tuples(NamedTuple):
    """A rank's share of a step; all tokens (B, T) int64 of one width, padded with 0.

    Row i + B/2 is row i's scene after one edit; where no edit applies, another scene stands in.
    """

    sentence_BT: np.ndarray
    paraphrase_BT: np.ndarray
    canonical_BT: np.ndarray
    reworded_BT: np.ndarray  # of three more wordings, the one that shares the fewest pairs of words with the paraphrase
    edit_E: np.ndarray  # index into EDITS for each of the B/2 pairs; -1: none


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
    split: str | None = "train",
) -> Tuples:
    """The slice of rank `rank` of the `size` tuples of step `step`: a pure function of its arguments.

    facts: weights of steps with 1, 2 and 3 facts. swaps: how many times as often as the other edits SWAPS are drawn, on
    top of once. ValueError if `size` is not a multiple of 2 `world`, or on weights that are not a distribution.
    """
    if size < 4 * world or size % (2 * world) or not 0 <= rank < world:
        raise ValueError(
            f"size {size}, rank {rank}, world {world}: size must be a multiple of 2 x world, and 4 x world or more"
        )
    number = facts_of_step(seed, step, facts)
    pairs = size // world // 2
    index_E = (step * world + rank) * pairs + np.arange(pairs)
    scenes_EF = draw_scenes(seed, index_E, facts=number, split=split)
    edits = draw_counterfactuals(scenes_EF, seed, index_E, edits=(*EDITS, *SWAPS * swaps), split=split)
    stand_in_EF = np.roll(scenes_EF, 1, axis=0)
    edited_EF = np.where(edits.edit_B[:, None] >= 0, edits.scenes_BF, stand_in_EF)
    scenes_BF = np.concatenate([scenes_EF, edited_EF])
    index_B = np.concatenate([index_E, index_E])
    stream_B = np.repeat([0, 2], pairs)
    rows = [
        draw_wordings(scenes_BF, seed, index_B, stream=stream_B),
        draw_wordings(scenes_BF, seed, index_B, stream=stream_B + 1),
        canonical_wordings(scenes_BF),
        *(draw_wordings(scenes_BF, seed, index_B, stream=stream_B + 4 * n) for n in range(1, 1 + REWORDINGS)),
    ]
    tokens_BT, _ = tokenise(table, np.concatenate(rows), buckets=BUCKETS)
    sentence_BT, paraphrase_BT, canonical_BT, *others = np.split(tokens_BT, 3 + REWORDINGS)
    shared_NB = np.stack([shared_pairs(paraphrase_BT, other_BT) for other_BT in others])
    reworded_BT = np.stack(others)[shared_NB.argmin(0), np.arange(len(sentence_BT))]
    return Tuples(sentence_BT, paraphrase_BT, canonical_BT, reworded_BT, edits.edit_B)


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
