"""Does z mean what the sentence means: the measurements of P2 and P3, on held-out sentences.

Each is made for scenes of 1, 2 and 3 facts apart, and `worst` says which of them decides.

Legend: N queries, M items of the pool, C, H, W of the latent, Z width of z.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from inscape.core.estimate import Estimate, bootstrap_mean, proportion
from inscape.data.scenes import EDITS
from inscape.data.scenes.evaluation import evaluation_pack
from inscape.data.scenes.pools import EditPair, RetrievalPool, edit_pairs, retrieval_pool
from inscape.metrics.retrieval import target_ranks, told_apart
from inscape.studies.visual.coding import embed, embed_sentences
from inscape.studies.visual.model import TrainedCodec, encode

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

__all__ = [
    "HELD_OUT",
    "EncodedPairs",
    "EncodedPool",
    "by_facts",
    "deciding",
    "drop",
    "encode_pairs",
    "encode_pool",
    "encode_scene_pool",
    "found",
    "gap",
    "name_for",
    "near_pairs",
    "recall",
    "scene_pairs",
    "shuffled_recall",
    "told_apart_by_edit",
    "told_apart_near",
    "worst",
]

Change = Callable[[Tensor], Tensor]

HELD_OUT = "heldout"  # colour x shape x relation combinations that no training sentence has
NEAR_SPLITS = ("test", HELD_OUT)  # of the evaluation pack: nothing is trained on or chosen by either


class EncodedPool(NamedTuple):
    """A retrieval pool after the encoder: V of the queries, z of the pool, each query's row in it."""

    query_NCHW: Tensor
    pool_MZ: Float[np.ndarray, "M Z"]
    target_N: Int[np.ndarray, " N"]
    shuffled_N: Int[np.ndarray, " N"]  # another query's row: the control


class EncodedPairs(NamedTuple):
    """Anchors as V, their paraphrases and counterfactuals as z, and what was edited."""

    anchor_NCHW: Tensor
    paraphrase_NZ: Float[np.ndarray, "N Z"]
    counterfactual_NZ: Float[np.ndarray, "N Z"]
    edits: tuple[str, ...]


def encode_scene_pool(codec: TrainedCodec, size: int, facts: int, seed: int) -> EncodedPool:
    """A pool of `size` sentences with every one-edit counterfactual of every query, encoded."""
    pool: RetrievalPool = retrieval_pool(size, facts=facts, seed=seed, split=HELD_OUT)
    return encode_pool(codec, pool.queries, pool.pool, pool.targets_N)


def encode_pool(
    codec: TrainedCodec, queries: Sequence[str], pool: Sequence[str], target_N: Int[np.ndarray, " N"]
) -> EncodedPool:
    """Queries and pool through the encoder."""
    latent_NCHW = encode(codec.to_latent, list(queries))
    return EncodedPool(latent_NCHW, embed_sentences(codec, list(pool)), target_N, np.roll(target_N, 1))


def encode_pairs(codec: TrainedCodec, pairs: Sequence[EditPair]) -> EncodedPairs:
    """Triples through the encoder."""
    anchor_NCHW = encode(codec.to_latent, [p.anchor for p in pairs])
    paraphrase_NZ = embed_sentences(codec, [p.paraphrase for p in pairs])
    counterfactual_NZ = embed_sentences(codec, [p.counterfactual for p in pairs])
    return EncodedPairs(anchor_NCHW, paraphrase_NZ, counterfactual_NZ, tuple(p.edit for p in pairs))


def recall(codec: TrainedCodec, pools: Sequence[EncodedPool], k: int, change: Change | None = None) -> Estimate:
    """Share of queries, over all pools, whose paraphrase is among the `k` nearest; V of the query after `change`."""
    found_N = found(codec, pools, k, change)
    return proportion(int(found_N.sum()), len(found_N), "scenes")


def found(
    codec: TrainedCodec, pools: Sequence[EncodedPool], k: int, change: Change | None = None
) -> Bool[np.ndarray, " N"]:
    """What `recall` is the mean of, query by query, over all pools."""
    return np.concatenate([target_ranks(_z(codec, p.query_NCHW, change), p.pool_MZ, p.target_N) for p in pools]) < k


def drop(before_N: np.ndarray, after_N: np.ndarray, unit: str) -> Estimate:
    """Share right before less share right after, of the same units: the share lost less the share won.

    The interval is put together from Wilson's of both shares (Newcombe 1998, method 10), with the correlation that two
    shares of one whole have, -sqrt(l w / ((1 - l) (1 - w))). It keeps a width where nothing changed; a bootstrap would
    claim certainty there.
    """
    before_N, after_N = np.asarray(before_N, bool), np.asarray(after_N, bool)
    count = len(before_N)
    lost = proportion(int((before_N & ~after_N).sum()), count, unit)
    won = proportion(int((~before_N & after_N).sum()), count, unit)
    value = lost.value - won.value
    odds = [share.value / max(1 - share.value, 1 / (count + 1)) for share in (lost, won)]
    together = min(1.0, math.sqrt(odds[0] * odds[1]))

    def reach(one: float, other: float) -> float:
        return math.sqrt(one**2 + other**2 + 2 * together * one * other)

    low = value - reach(lost.value - lost.low, won.high - won.value)
    high = value + reach(lost.high - lost.value, won.value - won.low)
    return Estimate(value, low, high, count, unit)


def shuffled_recall(codec: TrainedCodec, pools: Sequence[EncodedPool]) -> Estimate:
    """Control: the same with another query's paraphrase as the right answer."""
    rank_N = np.concatenate([target_ranks(embed(codec, p.query_NCHW), p.pool_MZ, p.shuffled_N) for p in pools])
    return proportion(int((rank_N < 1).sum()), len(rank_N), "scenes")


def told_apart_by_edit(codec: TrainedCodec, pairs: EncodedPairs, change: Change | None = None) -> dict[str, Estimate]:
    """For each type of edit, the share of anchors that are nearer to the paraphrase than to the counterfactual."""
    z_NZ, edit_N = _z(codec, pairs.anchor_NCHW, change), np.array(pairs.edits)
    return {
        edit: told_apart(z_NZ[rows], pairs.paraphrase_NZ[rows], pairs.counterfactual_NZ[rows])
        for edit in dict.fromkeys(pairs.edits)
        if (rows := edit_N == edit).any()
    }


def near_pairs(facts: Sequence[int]) -> list[EditPair]:
    """The evaluation pack's triples of scenes of so many facts: a sentence, a free wording of its scene, and for each
    edit that applies the wording of the edited scene that shares most words with the sentence."""
    return [
        EditPair(item.sentence, item.paraphrase, near, edit)
        for item in evaluation_pack().items
        if item.split in NEAR_SPLITS and item.facts in facts
        for edit, near in item.counterfactuals.items()
    ]


def told_apart_near(codec: TrainedCodec, facts: Sequence[int]) -> dict[str, Estimate]:
    """`told_apart_near_EDIT`: the share of `near_pairs` whose sentence is nearer to its paraphrase, all `facts`
    together, intervals over scenes; and `told_apart_near_worst`, the one whose interval reaches lowest.

    A z that counts words prefers the counterfactual nearly always: in words it is the nearer one. Random wordings, as
    in `scene_pairs`, say nothing either way, and such a z is at chance there. ValueError where the pack has no triple.
    """
    pairs = near_pairs(facts)
    if not pairs:
        raise ValueError(f"facts={tuple(facts)}: the evaluation pack has scenes of 1, 2 and 3 facts")
    row_of = {text: row for row, text in enumerate(dict.fromkeys(text for pair in pairs for text in pair[:3]))}
    z_MZ = embed_sentences(codec, list(row_of))
    found = {}
    for edit in (edit for edit in EDITS if any(pair.edit == edit for pair in pairs)):
        rows_3N = zip(*([row_of[text] for text in pair[:3]] for pair in pairs if pair.edit == edit), strict=True)
        found[f"told_apart_near_{edit}"] = told_apart(*(z_MZ[list(rows)] for rows in rows_3N))
    return found | {"told_apart_near_worst": min(found.values(), key=lambda estimate: estimate.low)}


def gap(codec: TrainedCodec, pairs: EncodedPairs) -> Estimate:
    """Mean of cos(z, z of the paraphrase) - cos(z, z of the counterfactual)."""
    z_NZ = embed(codec, pairs.anchor_NCHW)
    own_N = (z_NZ * pairs.paraphrase_NZ).sum(1)
    return bootstrap_mean(own_N - (z_NZ * pairs.counterfactual_NZ).sum(1), "scenes")


def scene_pairs(facts: int, per_edit: int, seed: int) -> list[EditPair]:
    """Held-out triples for every edit that applies to scenes of so many facts, in the order of EDITS."""
    pairs = edit_pairs(per_edit, facts=facts, seed=seed, split=HELD_OUT)
    return sorted(pairs, key=lambda pair: EDITS.index(pair.edit))


def by_facts(name: str, estimates: Mapping[int, Estimate]) -> dict[str, Estimate]:
    """Names for a measurement made for each number of facts: see `name_for`."""
    return {name_for(name, n): estimate for n, estimate in estimates.items()}


def name_for(name: str, facts: int) -> str:
    """The name of a measurement on scenes of so many facts: recall_at_1_2_facts."""
    return f"{name}_{facts}_fact{'s' if facts > 1 else ''}"


def deciding(facts: Sequence[int], decide: int) -> tuple[int, ...]:
    """The numbers of facts that decide: those up to `decide`, or all where none is so small."""
    return tuple(n for n in facts if n <= decide) or tuple(facts)


def worst(estimates: Mapping[int, Estimate], decide: int, *, largest: bool = False) -> Estimate:
    """The estimate that decides among the scenes that `deciding` names: one that was not measured, or else the one
    whose interval reaches lowest (or highest)."""
    among = [estimates[n] for n in deciding(tuple(estimates), decide)]
    unknown = next((estimate for estimate in among if not estimate.measured), None)
    if unknown is not None:
        return unknown
    return max(among, key=lambda e: e.high) if largest else min(among, key=lambda e: e.low)


def _z(codec: TrainedCodec, latent_NCHW: Tensor, change: Change | None) -> Float[np.ndarray, "N Z"]:
    return embed(codec, latent_NCHW if change is None else change(latent_NCHW))
