"""Which scenes may train, and which are kept: by fact, and by combinations that no training scene ever shows.

Held-out combinations. A (colour, shape, relation) is held out if its colour and shape meet in a Latin-square line:
    (colour + relation) even   and   shape = (2 colour + relation) mod 9       (indices into COLOURS, SHAPES, RELATIONS)
that is 25 of 450 combinations (5.6 %), five a relation with five colours and five shapes; no (colour, shape) is
held out with more than one relation, so every pair, colour, shape and relation is still trained in other company.
A fact is held out if its figure or its ground stands in a held-out combination with its relation, on either side and
in any wording; inverse relations are one relation here.

The other facts are dealt by a fixed hash of their code: 5 % validation, 5 % test, the rest train. A scene belongs to
the strictest split of its facts, in the order train < validation < test < heldout. So a training scene is made of
training facts only, and no fact of a later split was ever trained on, alone or in company.
"""

import numpy as np

from inscape.data.scenes.scene import COLOURS, NAME_COUNT, OBJECT_COUNT, RELATIONS, SHAPES, Scene

__all__ = ["HELD_OUT", "SPLITS", "mix", "split_of", "splits_of_facts"]

SPLITS = ("train", "validation", "test", "heldout")
VALIDATION_SHARE = TEST_SHARE = 0.05
_SALT = np.uint64(0x5CE7E5)  # never change it: other validation and test facts would void every published figure


def _held_out_table() -> np.ndarray:
    relation, colour, shape = np.indices((len(RELATIONS), len(COLOURS), len(SHAPES)))
    line = ((colour + relation) % 2 == 0) & (shape == (2 * colour + relation) % len(SHAPES))
    return line.reshape(len(RELATIONS), NAME_COUNT)


HELD_OUT = _held_out_table()  # (relation, name) -> bool


def mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014) on uint64: a bijection whose output bits look random."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def splits_of_facts(codes: np.ndarray) -> np.ndarray:
    """The split of each fact code as an index into SPLITS, same shape; padding (negative codes) counts as train."""
    rest, ground = np.divmod(np.maximum(codes, 0), OBJECT_COUNT)
    relation, figure = np.divmod(rest, OBJECT_COUNT)
    held_out = HELD_OUT[relation, figure % NAME_COUNT] | HELD_OUT[relation, ground % NAME_COUNT]
    share = (mix(codes.astype(np.uint64) + _SALT) >> np.uint64(11)) * 2.0**-53
    dealt = np.where(share < VALIDATION_SHARE, 1, np.where(share < VALIDATION_SHARE + TEST_SHARE, 2, 0))
    return np.where(codes < 0, 0, np.where(held_out, 3, dealt))


def split_of(scene: Scene) -> str:
    """The split of the scene: "train", "validation", "test" or "heldout"."""
    return SPLITS[splits_of_facts(np.array(scene.codes)).max()]
