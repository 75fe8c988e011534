"""What a sentence of the corpus means, as a value: two sentences mean the same exactly when their scenes are equal.

A scene is a set of one to three facts `relation(figure, ground)`. Everything that does not change the meaning is
normalised away: the order of facts, inverse relations (under(a, b) is on(b, a)), the two arguments of the symmetric
"next to", synonyms and determiners. An object is a kind of thing with a count, not an individual: a determiner carries
no reference, so "the red ball" in two facts makes no claim that it is the same ball.

Every object, fact and scene also has integer codes, so that millions of them can be drawn as arrays:
    object = (count - 1, size, colour, shape) in mixed radix 4 x 4 x 10 x 9        name = (colour, shape) = object % 90
    fact   = (relation, figure, ground) in mixed radix 5 x 1440 x 1440
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = [
    "COLOURS",
    "COUNTS",
    "INVERSES",
    "MAX_FACTS",
    "NAME_COUNT",
    "OBJECTS",
    "OBJECT_COUNT",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "SYMMETRIC",
    "Fact",
    "Object",
    "Scene",
    "fact_from_code",
    "is_plain",
    "scene_from_codes",
]

COUNTS = (1, 2, 3, 4)
SIZES = (None, "small", "medium", "large")
COLOURS = ("red", "blue", "green", "yellow", "orange", "purple", "black", "white", "brown", "gray")
SHAPES = ("block", "ball", "cone", "ring", "plate", "rod", "pyramid", "cylinder", "star")
RELATIONS = ("on", "left of", "in front of", "inside", "next to")
INVERSES = {"under": "on", "right of": "left of", "behind": "in front of", "contains": "inside"}
SYMMETRIC = "next to"

MAX_FACTS = 3
NAME_COUNT = len(COLOURS) * len(SHAPES)
OBJECT_COUNT = len(COUNTS) * len(SIZES) * NAME_COUNT

_RELATION_INDEX = {name: i for i, name in enumerate(RELATIONS)}


@dataclass(frozen=True, slots=True)
class Object:
    """One to four equal things: count, size (None if not said), colour and shape. ValueError outside the vocabulary."""

    count: int
    size: str | None
    colour: str
    shape: str
    code: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        code = 0
        for name, allowed in (("count", COUNTS), ("size", SIZES), ("colour", COLOURS), ("shape", SHAPES)):
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"Object.{name} is {value!r}; allowed: {', '.join(map(str, allowed))}")
            code = code * len(allowed) + allowed.index(value)
        object.__setattr__(self, "code", code)

    @property
    def name(self) -> tuple[str, str]:
        """What sets the objects of a sampled scene apart: (colour, shape)."""
        return self.colour, self.shape


OBJECTS = tuple(Object(n, size, c, s) for n in COUNTS for size in SIZES for c in COLOURS for s in SHAPES)


@dataclass(frozen=True, slots=True)
class Fact:
    """`figure` stands in `relation` to `ground`; inverse relations and symmetric arguments are normalised."""

    relation: str
    figure: Object
    ground: Object
    code: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        relation, figure, ground = self.relation, self.figure, self.ground
        if relation in INVERSES:
            relation, figure, ground = INVERSES[relation], ground, figure
        if relation not in _RELATION_INDEX:
            allowed = ", ".join((*RELATIONS, *INVERSES))
            raise ValueError(f"Fact.relation is {relation!r}; allowed: {allowed}")
        if relation == SYMMETRIC and figure.code > ground.code:
            figure, ground = ground, figure
        code = (_RELATION_INDEX[relation] * OBJECT_COUNT + figure.code) * OBJECT_COUNT + ground.code
        for name, value in (("relation", relation), ("figure", figure), ("ground", ground), ("code", code)):
            object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True)
class Scene:
    """One to three different facts, sorted by code. A fact said twice is one fact. ValueError on none or too many."""

    facts: tuple[Fact, ...]

    def __init__(self, facts: Iterable[Fact]) -> None:
        ordered = tuple(sorted(set(facts), key=lambda fact: fact.code))
        if not 1 <= len(ordered) <= MAX_FACTS:
            raise ValueError(f"a scene holds 1 to {MAX_FACTS} different facts, given {len(ordered)}")
        object.__setattr__(self, "facts", ordered)

    @property
    def codes(self) -> tuple[int, ...]:
        """The codes of the facts, ascending."""
        return tuple(fact.code for fact in self.facts)

    @property
    def objects(self) -> tuple[Object, ...]:
        """Figure and ground of every fact, in the order of the facts."""
        return tuple(thing for fact in self.facts for thing in (fact.figure, fact.ground))


def fact_from_code(code: int) -> Fact:
    """The fact with this integer code."""
    rest, ground = divmod(int(code), OBJECT_COUNT)
    relation, figure = divmod(rest, OBJECT_COUNT)
    return Fact(RELATIONS[relation], OBJECTS[figure], OBJECTS[ground])


def scene_from_codes(codes: Iterable[int]) -> Scene:
    """The scene of these fact codes; negative codes are padding and are skipped."""
    return Scene(fact_from_code(code) for code in codes if code >= 0)


def is_plain(scene: Scene) -> bool:
    """Whether no two objects of the scene share colour and shape: the scenes that `sample` and `counterfactual` give.

    In a plain scene a name points at one object, so no fact can contradict another or hold of an object and itself, and
    every swap of arguments or attributes is a question with a definite answer. `parse` accepts the others too: a
    decoder may say them, and a metric must be able to read what it said.
    """
    things = scene.objects
    return len({thing.name for thing in things}) == len(things)
