"""The scene corpus: a closed English grammar of coloured objects and spatial relations, with an exact parser.

    scene = sample(0, facts=2, split="train")      a random scene
    text = render(scene, rng)                      one of its wordings (without a generator: the canonical one)
    assert parse(text) == scene                    for every wording

Because meaning is computable here, paraphrases, counterfactuals and splits are right by proof and not by judgement.
"""

from inscape.data.scenes.augmentations import AUGMENTATIONS, augment, paraphrase
from inscape.data.scenes.counterfactuals import EDITS, counterfactual
from inscape.data.scenes.grammar import WORDS, count_sentences
from inscape.data.scenes.parser import parse
from inscape.data.scenes.sampling import sample
from inscape.data.scenes.scene import Fact, Object, Scene, is_plain
from inscape.data.scenes.splits import SPLITS, split_of
from inscape.data.scenes.wording import canonical, render, wordings

__all__ = [
    "AUGMENTATIONS",
    "EDITS",
    "SPLITS",
    "WORDS",
    "Fact",
    "Object",
    "Scene",
    "augment",
    "canonical",
    "count_sentences",
    "counterfactual",
    "is_plain",
    "paraphrase",
    "parse",
    "render",
    "sample",
    "split_of",
    "wordings",
]
