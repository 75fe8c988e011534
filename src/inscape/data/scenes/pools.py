"""Kept sentences arranged as questions: find the paraphrase among every one-edit counterfactual, tell the two apart,
and say the sentence again.

A pool of random sentences is easy: one shared colour already rules most of them out. Here each query's own
counterfactuals stand in the pool, all of them, so it is found only if every object, relation and binding was kept.
Everything is drawn from (facts, seed) and split: "test" is looked at once; "validation" is for anything that is chosen.

Only the scenes asked about are held to the split. Their counterfactuals are of any split, also scenes that were trained
on: kept to the split, 95 of 100 would be missing for one fact, and those left would be no fair sample of an edit.

Shapes: N queries, P sentences of the pool, C counterfactuals of one query.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from inscape.data.scenes.counterfactuals import EDITS, all_counterfactuals, counterfactual
from inscape.data.scenes.sampling import check_facts, check_split, sample
from inscape.data.scenes.wording import render

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from inscape.data.scenes.scene import Scene

__all__ = ["CodecSet", "Distractors", "EditPair", "RetrievalPool", "codec_set", "edit_pairs", "retrieval_pool"]

_POOL, _PAIRS, _CODEC = range(3)  # the sets of one seed are drawn apart


class Distractors(NamedTuple):
    """The counterfactuals of one query, pair by pair; a scene that two types of edit give is named once for each."""

    rows_C: NDArray[np.int64]  # into the pool
    edits_C: NDArray[np.int64]  # into EDITS


class RetrievalPool(NamedTuple):
    """Queries and the pool they are searched in. All scenes of the pool differ, so a query has one right answer."""

    queries: tuple[str, ...]  # N
    targets_N: NDArray[np.int64]  # row of the pool that words the query's scene otherwise
    pool: tuple[str, ...]  # P, in random order
    scenes: tuple[Scene, ...]  # P, what each sentence of the pool means
    distractors: tuple[Distractors, ...]  # N


class EditPair(NamedTuple):
    """Three sentences: the paraphrase means what the anchor means, the counterfactual does not, by one edit."""

    anchor: str
    paraphrase: str
    counterfactual: str
    edit: str


class CodecSet(NamedTuple):
    """Sentences with what they mean, no two the same in either."""

    sentences: tuple[str, ...]
    scenes: tuple[Scene, ...]


def retrieval_pool(
    size: int = 10_000, *, facts: int | None = None, seed: int = 0, split: str = "test"
) -> RetrievalPool:
    """A pool of `size` sentences that holds, for every query, its paraphrase and all its one-edit counterfactuals.

    As many random scenes of `split` as fit are asked for (for 10,000: about 180, 80 and 50 for 1, 2 and 3 facts), until
    the first that does not fit; random scenes of `split` fill the other places. Every wording is drawn at random, and
    no sentence but the target means what a query means. The counterfactuals are of any split.

    facts: 1 to 3 a scene, or None for a mixture. ValueError: an unknown split, facts out of range, a pool too small
    for the first query.
    """
    rng = _generator(_POOL, facts, seed, split)
    asked: dict[Scene, dict[str, tuple[Scene, ...]]] = {}
    row_of: dict[Scene, int] = {}
    while True:
        scene = sample(rng, facts=facts, split=split)
        # Another query, or a counterfactual of one: that would be answer and distractor at once. Edits go both ways,
        # so none of its own counterfactuals is another query either.
        if scene in row_of:
            continue
        others = {edit: all_counterfactuals(scene, edit) for edit in EDITS}
        added = dict.fromkeys([scene, *(other for found in others.values() for other in found)])
        new = [other for other in added if other not in row_of]
        if len(row_of) + len(new) > size:
            break
        asked[scene] = others
        row_of.update(zip(new, range(len(row_of), size), strict=False))
    if not asked:
        raise ValueError(f"size is {size}; allowed: {len(added)} or more, which the first query takes")
    while len(row_of) < size:
        row_of.setdefault(sample(rng, facts=facts, split=split), len(row_of))

    # Rows in the order drawn would tell a target by its place.
    row_of = dict(zip(row_of, rng.permutation(size).tolist(), strict=True))
    scenes = tuple(sorted(row_of, key=row_of.__getitem__))
    pool = tuple(render(scene, rng) for scene in scenes)
    targets_N = np.array([row_of[scene] for scene in asked], dtype=np.int64)
    queries = tuple(_otherwise(scenes[row], pool[row], rng) for row in targets_N)
    return RetrievalPool(queries, targets_N, pool, scenes, tuple(_distractors(row_of, o) for o in asked.values()))


def edit_pairs(per_edit: int = 500, *, facts: int | None = None, seed: int = 0, split: str = "test") -> list[EditPair]:
    """`per_edit` triples for each edit that applies (`across` takes two facts), edit by edit in the order of EDITS.

    No two anchors of the list share a scene. The counterfactual is uniform over the possible edits and of any split;
    all three sentences are worded at random, so that nearness in words says nothing.

    facts: 1 to 3 a scene, or None for a mixture. ValueError: an unknown split, facts out of range, per_edit below 1.
    """
    rng = _generator(_PAIRS, facts, seed, split)
    if per_edit < 1:
        raise ValueError(f"per_edit is {per_edit}; allowed: 1 or more")
    pairs: list[EditPair] = []
    seen: set[Scene] = set()
    for edit in EDITS:
        wanted = len(pairs) + (per_edit if edit != "across" or facts != 1 else 0)
        while len(pairs) < wanted:
            scene = sample(rng, facts=facts, split=split)
            other = None if scene in seen else counterfactual(scene, edit, rng)
            if other is not None:
                seen.add(scene)
                anchor = render(scene, rng)
                pairs.append(EditPair(anchor, _otherwise(scene, anchor, rng), render(other, rng), edit))
    return pairs


def codec_set(count: int, *, facts: int | None = None, seed: int = 0, split: str = "test") -> CodecSet:
    """`count` random sentences of `split`, of as many different scenes; a longer set begins with the shorter one.

    To look at during training and to choose by: split="validation", so that "test" stays unseen until the end.

    facts: 1 to 3 a scene, or None for a mixture. ValueError: an unknown split, facts out of range, count below 1.
    """
    rng = _generator(_CODEC, facts, seed, split)
    if count < 1:
        raise ValueError(f"count is {count}; allowed: 1 or more")
    worded: dict[Scene, str] = {}
    while len(worded) < count:
        scene = sample(rng, facts=facts, split=split)
        worded.setdefault(scene, render(scene, rng))
    return CodecSet(tuple(worded.values()), tuple(worded))


def _generator(purpose: int, facts: int | None, seed: int, split: str) -> np.random.Generator:
    check_facts(facts)
    check_split(split)
    return np.random.default_rng((purpose, facts or 0, seed))


def _otherwise(scene: Scene, text: str, rng: np.random.Generator) -> str:
    """A random wording of the scene that is not `text`."""
    while (other := render(scene, rng)) == text:
        pass
    return other


def _distractors(row_of: dict[Scene, int], others: dict[str, tuple[Scene, ...]]) -> Distractors:
    pairs = [(row_of[other], EDITS.index(edit)) for edit, found in others.items() for other in found]
    rows_C, edits_C = np.array(pairs, dtype=np.int64).T
    return Distractors(rows_C, edits_C)
