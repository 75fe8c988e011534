"""From a scene to a sentence: choose the order of facts, a pattern for each, noun phrases and conjunctions, and write.

A choice is driven by WORDING_DRAWS uniform numbers. `fast.py` takes the same numbers by the same rule for whole arrays,
so both give the same sentence for the same draws, and there is one distribution.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, permutations, product
from math import factorial
from typing import NamedTuple

import numpy as np

from inscape.data.scenes.grammar import CONJUNCTIONS, PATTERNS, PATTERNS_OF, PHRASES, PHRASES_OF
from inscape.data.scenes.scene import MAX_FACTS, OBJECTS, Fact, Scene

__all__ = [
    "ORDERS",
    "WORDING_DRAWS",
    "Clause",
    "Sentence",
    "canonical",
    "canonical_sentence",
    "choose_wording",
    "clause_for",
    "meaning",
    "render",
    "wordings",
    "write",
]

# One draw for the order of facts, three a fact (pattern, phrase of the figure, phrase of the ground), the conjunctions.
WORDING_DRAWS = 1 + 3 * MAX_FACTS + MAX_FACTS - 1
ORDERS = tuple(tuple(permutations(range(n))) for n in range(MAX_FACTS + 1))

_CUMULATIVE = {r: list(accumulate(PATTERNS[i].weight for i in indices)) for r, indices in PATTERNS_OF.items()}


class Clause(NamedTuple):
    """One fact as said: index of the pattern, noun phrases of its subject X and other object Y."""

    pattern: int
    subject: int
    other: int


class Sentence(NamedTuple):
    """A sentence as its choices: clauses in the order said, and the conjunction before each but the first."""

    clauses: tuple[Clause, ...]
    conjunctions: tuple[int, ...]


def clause_for(pattern: int, figure: int, ground: int) -> Clause:
    """The clause with these noun phrases in the places that the pattern gives to figure and ground."""
    return Clause(pattern, ground, figure) if PATTERNS[pattern].swapped else Clause(pattern, figure, ground)


def meaning(sentence: Sentence) -> Scene:
    """The scene that the sentence states."""
    facts = []
    for clause in sentence.clauses:
        pattern = PATTERNS[clause.pattern]
        subject, other = OBJECTS[PHRASES[clause.subject].object], OBJECTS[PHRASES[clause.other].object]
        figure, ground = (other, subject) if pattern.swapped else (subject, other)
        facts.append(Fact(pattern.relation, figure, ground))
    return Scene(facts)


def write(sentence: Sentence) -> str:
    """The text: lower case, words separated by one space, no final stop."""
    pieces = []
    for i, (index, subject, other) in enumerate(sentence.clauses):
        pattern, x, y = PATTERNS[index], PHRASES[subject], PHRASES[other]
        if i:
            pieces.append(CONJUNCTIONS[sentence.conjunctions[i - 1]])
        if opening := pattern.opening[x.plural]:
            pieces.append(opening)
        first, second = (x, y) if pattern.subject_first else (y, x)
        pieces += (first.text, pattern.linking[x.plural], second.text)
    return " ".join(pieces)


def choose_wording(scene: Scene, draws: Sequence[float]) -> Sentence:
    """The wording that WORDING_DRAWS uniform numbers in [0, 1) select.

    The order of facts, the noun phrases of an object and the conjunctions are uniform; patterns follow their weight.
    """
    facts = scene.facts
    count = len(facts)
    clauses = []
    for place, which in enumerate(ORDERS[count][int(draws[0] * factorial(count))]):
        fact = facts[which]
        at, x, y = draws[1 + 3 * place : 4 + 3 * place]
        indices = PATTERNS_OF[fact.relation]
        pattern = indices[min(bisect_right(_CUMULATIVE[fact.relation], at), len(indices) - 1)]
        figures, grounds = PHRASES_OF[fact.figure.code], PHRASES_OF[fact.ground.code]
        clauses.append(clause_for(pattern, figures[int(x * len(figures))], grounds[int(y * len(grounds))]))
    joins = draws[1 + 3 * MAX_FACTS : 3 * MAX_FACTS + count]
    return Sentence(tuple(clauses), tuple(int(u * len(CONJUNCTIONS)) for u in joins))


def canonical_sentence(scene: Scene) -> Sentence:
    """The one wording that stands for the scene: facts in their order, first pattern, first noun phrases, "and"."""
    clauses = (
        clause_for(PATTERNS_OF[fact.relation][0], PHRASES_OF[fact.figure.code][0], PHRASES_OF[fact.ground.code][0])
        for fact in scene.facts
    )
    return Sentence(tuple(clauses), (0,) * (len(scene.facts) - 1))


def canonical(scene: Scene) -> str:
    """The canonical wording, such as "a small red ball is on two blue blocks"."""
    return write(canonical_sentence(scene))


def render(scene: Scene, rng: np.random.Generator | None = None) -> str:
    """The scene in words: a random wording, or the canonical one where no generator is given."""
    if rng is None:
        return canonical(scene)
    return write(choose_wording(scene, rng.random(WORDING_DRAWS).tolist()))


def wordings(scene: Scene) -> Iterator[str]:
    """Every sentence that means the scene, each once: 10^4 to 10^6 for one fact, astronomically many for three."""
    for order in permutations(scene.facts):
        options = [list(_clauses_of(fact)) for fact in order]
        for joins in product(range(len(CONJUNCTIONS)), repeat=len(order) - 1):
            for clauses in product(*options):
                yield write(Sentence(clauses, joins))


def _clauses_of(fact: Fact) -> Iterator[Clause]:
    choices = PATTERNS_OF[fact.relation], PHRASES_OF[fact.figure.code], PHRASES_OF[fact.ground.code]
    return (clause_for(*choice) for choice in product(*choices))
