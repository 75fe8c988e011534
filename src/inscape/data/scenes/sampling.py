"""Scenes drawn at random: relation, figure and ground of each fact uniformly, over plain scenes or those of one split.

Both orders of "next to" are one scene, so each of these is drawn twice as often as one of another relation.

`fast.py` draws whole arrays by the same rule.
"""

import numpy as np

from inscape.data.scenes.scene import MAX_FACTS, OBJECT_COUNT, OBJECTS, RELATIONS, Fact, Scene, is_plain
from inscape.data.scenes.splits import SPLITS, split_of

__all__ = ["SCENE_DRAWS", "check_facts", "check_split", "sample"]

SCENE_DRAWS = 3 * MAX_FACTS  # relation, figure and ground of each fact


def check_facts(facts: int | None) -> None:
    """ValueError unless `facts` is 1, 2, 3 or None (mixed)."""
    if facts is not None and (isinstance(facts, bool) or facts not in range(1, MAX_FACTS + 1)):
        raise ValueError(f"facts is {facts!r}; allowed: 1 to {MAX_FACTS}, or None for a mixture")


def check_split(split: str | None) -> None:
    """ValueError unless `split` is one of SPLITS or None (all)."""
    if split is not None and split not in SPLITS:
        raise ValueError(f"split is {split!r}; allowed: {', '.join(SPLITS)}, or None for all")


def sample(
    rng: int | np.random.Generator | None = None, *, facts: int | None = None, split: str | None = None
) -> Scene:
    """A random plain scene: no two of its objects share colour and shape, so every swap of it has a meaning.

    rng: a generator, a seed, or None for a fresh draw. facts: 1 to 3, or None for a uniform choice of the three.
    split: "train", "validation", "test" or "heldout", or None for any.
    """
    check_facts(facts)
    check_split(split)
    rng = rng if isinstance(rng, np.random.Generator) else np.random.default_rng(rng)
    count = facts or 1 + int(rng.random() * MAX_FACTS)
    while True:
        u = rng.random(SCENE_DRAWS).tolist()
        scene = Scene(
            Fact(
                RELATIONS[int(u[i] * len(RELATIONS))],
                OBJECTS[int(u[i + 1] * OBJECT_COUNT)],
                OBJECTS[int(u[i + 2] * OBJECT_COUNT)],
            )
            for i in range(0, 3 * count, 3)
        )
        if is_plain(scene) and len(scene.facts) == count and split in (None, split_of(scene)):
            return scene
