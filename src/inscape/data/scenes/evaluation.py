"""The fixed evaluation pack: the same sentences in the same order in every run, so that figures can be compared.

It is drawn from a fixed seed, not stored; `version` is a hash of all its text, and a test pins it. A change of the
grammar or the sampling that changed the pack would change the version that every published figure names.
"""

import hashlib
import json
from functools import cache
from typing import NamedTuple

import numpy as np

from inscape.data.scenes.augmentations import paraphrase
from inscape.data.scenes.counterfactuals import EDITS, counterfactual
from inscape.data.scenes.sampling import sample
from inscape.data.scenes.scene import MAX_FACTS, Scene
from inscape.data.scenes.wording import ORDERS, WORDING_DRAWS, canonical, choose_wording, write

__all__ = ["MONTAGE", "EvaluationItem", "EvaluationPack", "evaluation_pack"]

ITEMS = 100  # for each split and number of facts
KEPT_SPLITS = ("validation", "test", "heldout")
SEED = 20250101

# The pictures of these sentences stand side by side in every report. The first seven differ from the first by nothing
# (2), by its arguments, binding, colour, count and relation; 13 and 14 mean the same.
MONTAGE = (
    "a red ball is on the blue block",
    "the blue cube supports a red sphere",
    "the blue block is on a red ball",
    "a blue ball is on the red block",
    "a green ball is on the blue block",
    "two red balls are on the blue block",
    "a red ball is left of the blue block",
    "a small yellow cone is to the right of a large purple cylinder",
    "there is a white star in front of the black pyramid",
    "behind the black pyramid lies a white star",
    "the orange ring contains three tiny gray balls",
    "four brown rods are contained in a green plate",
    "a green plate is next to the big yellow star",
    "beside the big yellow star is a green plate",
    "a red cone is on the blue plate and a white ball is left of a black ring",
    "a purple pyramid stands behind a brown cylinder while a gray rod is under the orange disc "
    "and two red stars are inside a blue hoop",
)


class EvaluationItem(NamedTuple):
    """One kept scene in words."""

    split: str
    facts: int
    sentence: str
    paraphrase: str  # another wording, drawn freely
    canonical: str
    counterfactuals: dict[str, str]  # edit -> sentence as near in words as can be; edits that do not apply are absent


class EvaluationPack(NamedTuple):
    """All items, by split and number of facts in that order; the montage; and the hash that names the pack."""

    items: tuple[EvaluationItem, ...]
    montage: tuple[str, ...]
    version: str


@cache
def evaluation_pack() -> EvaluationPack:
    """The pack: 100 scenes for each of validation, test and heldout and each number of facts, and the montage."""
    rng = np.random.default_rng(SEED)
    items = tuple(
        _item(split, facts, rng) for split in KEPT_SPLITS for facts in range(1, MAX_FACTS + 1) for _ in range(ITEMS)
    )
    text = json.dumps([MONTAGE, items])
    return EvaluationPack(items, MONTAGE, hashlib.sha256(text.encode()).hexdigest()[:16])


def _item(split: str, facts: int, rng: np.random.Generator) -> EvaluationItem:
    scene = sample(rng, facts=facts, split=split)
    draws = rng.random(WORDING_DRAWS).tolist()
    sentence = write(choose_wording(scene, draws))
    others = {edit: counterfactual(scene, edit, rng) for edit in EDITS}
    near = {edit: _nearest(other, draws, sentence) for edit, other in others.items() if other is not None}
    return EvaluationItem(split, facts, sentence, paraphrase(sentence, rng), canonical(scene), near)


def _nearest(scene: Scene, draws: list[float], sentence: str) -> str:
    """`scene` worded by the draws that worded `sentence`, in the order of facts that keeps most words in place."""
    count = len(ORDERS[len(scene.facts)])
    texts = [write(choose_wording(scene, [order / count, *draws[1:]])) for order in range(count)]
    words = sentence.split()
    return max(texts, key=lambda text: sum(a == b for a, b in zip(text.split(), words, strict=False)))
