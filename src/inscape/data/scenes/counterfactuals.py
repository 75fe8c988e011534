"""Scenes that differ from a given one by one edit, and always in meaning: the hard negatives of the corpus.

    colour, shape, count   one object takes another value        size      one stated size becomes another stated size
    relation               one fact takes another relation       arguments figure and ground of one fact change places
    binding                the two objects of one fact exchange one attribute
    across                 two objects of different facts exchange one attribute, or change places

"a red ball" is not against "a small red ball", so a size is never added or dropped. The inverse of a relation is the
swap of its arguments, so it counts as `arguments` and not as `relation`. A swap that gives the same scene back, as with
the arguments of "next to", is never returned.
"""

from collections.abc import Iterator
from itertools import combinations, product

import numpy as np

from inscape.data.scenes.sampling import check_split
from inscape.data.scenes.scene import (
    COLOURS,
    COUNTS,
    INVERSES,
    NAME_COUNT,
    OBJECTS,
    RELATIONS,
    SHAPES,
    SIZES,
    Fact,
    Object,
    Scene,
    is_plain,
)
from inscape.data.scenes.splits import split_of

__all__ = ["EDITS", "all_counterfactuals", "counterfactual"]

# A scene laid flat: relation, figure, ground, relation, figure, ...; an edit is the places it sets.
Flat = list[str | Object]
Edit = tuple[tuple[int, str | Object], ...]

EDITS = ("colour", "shape", "size", "count", "relation", "arguments", "binding", "across")

_VALUES = {"count": COUNTS, "size": SIZES, "colour": COLOURS, "shape": SHAPES}
_STRIDES = {"count": len(SIZES) * NAME_COUNT, "size": NAME_COUNT, "colour": len(SHAPES), "shape": 1}


def _with(thing: Object, attribute: str, value: int | str | None) -> Object:
    values = _VALUES[attribute]
    steps = values.index(value) - values.index(getattr(thing, attribute))
    return OBJECTS[thing.code + steps * _STRIDES[attribute]]


def _exchanges(flat: list, a: int, b: int) -> Iterator[Edit]:
    """The edits by which the objects at places a and b exchange one attribute in which they differ."""
    for attribute in _VALUES:
        ours, theirs = getattr(flat[a], attribute), getattr(flat[b], attribute)
        if ours != theirs:
            yield (a, _with(flat[a], attribute, theirs)), (b, _with(flat[b], attribute, ours))


def _edits(flat: list, edit: str) -> Iterator[Edit]:
    """Every edit of this type, also those that turn out to keep the meaning or to leave the plain scenes."""
    facts = range(0, len(flat), 3)
    places = [place for fact in facts for place in (fact + 1, fact + 2)]
    if edit in _VALUES:
        for place in places:
            now = getattr(flat[place], edit)
            if now is not None:
                others = (v for v in _VALUES[edit] if v not in (now, None))
                yield from (((place, _with(flat[place], edit, value)),) for value in others)
    elif edit == "relation":
        for fact, relation in product(facts, (*RELATIONS, *INVERSES)):
            if INVERSES.get(relation, relation) != flat[fact]:
                yield ((fact, relation),)
    elif edit == "arguments":
        yield from (((fact + 1, flat[fact + 2]), (fact + 2, flat[fact + 1])) for fact in facts)
    elif edit == "binding":
        for fact in facts:
            yield from _exchanges(flat, fact + 1, fact + 2)
    else:
        for a, b in combinations(places, 2):
            if a // 3 != b // 3:
                yield from _exchanges(flat, a, b)
                yield (a, flat[b]), (b, flat[a])


def _flat(scene: Scene, edit: str) -> Flat:
    """The scene laid flat; ValueError if `edit` is not in EDITS."""
    if edit not in EDITS:
        raise ValueError(f"edit is {edit!r}; allowed: {', '.join(EDITS)}")
    return [part for fact in scene.facts for part in (fact.relation, fact.figure, fact.ground)]


def _after(scene: Scene, flat: Flat, edit: Edit) -> Scene | None:
    """The scene after the edit; None if that means the same, has lost a fact or is not plain."""
    changed: list = list(flat)
    for place, value in edit:
        changed[place] = value
    other = Scene(Fact(*changed[i : i + 3]) for i in range(0, len(changed), 3))
    return other if other != scene and len(other.facts) == len(scene.facts) and is_plain(other) else None


def all_counterfactuals(scene: Scene, edit: str) -> tuple[Scene, ...]:
    """Every scene that `counterfactual` can return for this edit, each once, in a fixed order; of any split.

    ValueError if `edit` is not in EDITS.
    """
    flat = _flat(scene, edit)
    others = (_after(scene, flat, chosen) for chosen in _edits(flat, edit))
    return tuple(dict.fromkeys(other for other in others if other is not None))


def counterfactual(scene: Scene, edit: str, rng: np.random.Generator, *, split: str | None = None) -> Scene | None:
    """A random scene one edit away that means something else; None if no edit of this type does.

    The result has as many facts, is plain (`is_plain`), and lies in `split` if one is given: negatives for training
    take split="train", so that they show no kept scene. ValueError if `edit` is not in EDITS.
    """
    flat = _flat(scene, edit)
    check_split(split)
    edits = list(_edits(flat, edit))
    while edits:
        chosen = edits.pop(int(rng.random() * len(edits)))
        other = _after(scene, flat, chosen)
        if other is not None and split in (None, split_of(other)):
            return other
    return None
