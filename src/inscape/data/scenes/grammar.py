"""The grammar of scene sentences as tables, shared by the renderer, the parser and the array sampler.

    sentence -> clause (("and" | "while") clause){0,2}            lower case, no comma, no final stop
    clause   -> a form below, X its subject (the verb agrees with X), P a preposition or a passive participle
    object   -> quantifier size? colour noun                      "an" stands for "a" before "orange"

A pattern is a clause form with every word chosen: `opening object linking object`. A noun phrase is an integer too.
A sentence is thus a short list of integers, and each string of the grammar has exactly one such list (see tests).
"""

from collections.abc import Iterator
from functools import cache
from itertools import product
from math import factorial, prod
from typing import NamedTuple

from inscape.data.scenes.scene import COLOURS, MAX_FACTS, OBJECTS, RELATIONS, SHAPES, SYMMETRIC, Object

__all__ = [
    "COLOUR_WORDS",
    "CONJUNCTIONS",
    "NOUNS",
    "PATTERNS",
    "PATTERNS_OF",
    "PHRASES",
    "PHRASES_OF",
    "QUANTIFIERS",
    "SIZE_WORDS",
    "SYMMETRIC",
    "VERBS",
    "WORDS",
    "NounPhrase",
    "Pattern",
    "count_sentences",
]

CONJUNCTIONS = ("and", "while")

# Synonyms; the first of each group is the canonical word.
QUANTIFIERS = {1: ("a", "the", "one"), 2: ("two", "the two"), 3: ("three", "the three"), 4: ("four", "the four")}
SIZE_WORDS = {
    None: ("",),
    "small": ("small", "little", "tiny"),
    "medium": ("medium",),
    "large": ("large", "big", "huge"),
}
COLOUR_WORDS = {colour: (colour,) for colour in COLOURS} | {"gray": ("gray", "grey")}
NOUNS = {shape: (shape,) for shape in SHAPES} | {
    "block": ("block", "cube"),
    "ball": ("ball", "sphere"),
    "ring": ("ring", "hoop"),
    "plate": ("plate", "disc"),
    "rod": ("rod", "stick"),
}

# (relation, swapped) -> prepositions; swapped: the subject is the ground of the fact, not its figure.
PREPOSITIONS = {
    ("on", False): ("on", "on top of", "atop"),
    ("on", True): ("under", "below", "beneath", "underneath"),
    ("left of", False): ("left of", "to the left of"),
    ("left of", True): ("right of", "to the right of"),
    ("in front of", False): ("in front of",),
    ("in front of", True): ("behind",),
    ("inside", False): ("inside", "in", "within"),
    (SYMMETRIC, False): ("next to", "beside"),
    (SYMMETRIC, True): ("next to", "beside"),
}
# relation -> verbs whose subject is the ground: (singular, plural, passive participle with its preposition)
VERBS = {
    "on": (("supports", "support", "supported by"),),
    "inside": (("contains", "contain", "contained in"), ("holds", "hold", "held by")),
}

FORMS = {
    "preposition": {
        "plain": "X BE P Y",
        "posture": "X POSTURE P Y",
        "fronted": "P Y BE X",
        "fronted posture": "P Y POSTURE X",
        "fronted there": "P Y there BE X",
        "there": "there BE X P Y",
        "relative": "there BE X PRONOUN BE P Y",
        "relative posture": "there BE X PRONOUN POSTURE P Y",
    },
    "passive": {
        "plain": "X BE P Y",
        "fronted": "P Y BE X",
        "there": "there BE X P Y",
        "relative": "there BE X PRONOUN BE P Y",
    },
    "active": {"plain": "X VERB Y", "relative": "there BE X PRONOUN VERB Y"},
}
BE = ("is", "are")
POSTURES = (("sits", "sit"), ("stands", "stand"), ("lies", "lie"))
PRONOUNS = ("that", "which")


class NounPhrase(NamedTuple):
    """One wording of one object: "the two small red balls"."""

    quantifier: str
    size: str
    colour: str
    noun: str  # singular, as in NOUNS
    object: int  # code of the object it names
    plural: bool
    text: str


class Pattern(NamedTuple):
    """A clause with all words chosen except its two objects: `opening[plural] first linking[plural] second`.

    `plural` is the number of the subject X; `subject_first` tells whether X or Y comes first. `weight` is the chance of
    the pattern among all patterns of its relation: uniform over (voice, direction), then phrase, then form, then words.
    """

    relation: str
    swapped: bool
    voice: str
    phrase: str
    form: str
    posture: str
    pronoun: str
    opening: tuple[str, str]
    linking: tuple[str, str]
    subject_first: bool
    weight: float


def _noun_phrase(thing: Object, quantifier: str, size: str, colour: str, noun: str) -> NounPhrase:
    following = size or colour
    determiner = "an" if quantifier == "a" and following[0] in "aeiou" else quantifier
    words = (determiner, size, colour, noun if thing.count == 1 else f"{noun}s")
    text = " ".join(word for word in words if word)
    return NounPhrase(quantifier, size, colour, noun, thing.code, thing.count > 1, text)


def _phrases_of(thing: Object) -> Iterator[NounPhrase]:
    choices = QUANTIFIERS[thing.count], SIZE_WORDS[thing.size], COLOUR_WORDS[thing.colour], NOUNS[thing.shape]
    return (_noun_phrase(thing, *words) for words in product(*choices))


def _patterns(relation: str, swapped: bool, voice: str, phrases: tuple[tuple[str, str], ...]) -> Iterator[Pattern]:
    """All patterns of one voice and direction; `phrases` are (singular, plural) verbs or twice the same preposition."""
    forms = FORMS[voice]
    for phrase, (form, template) in product(phrases, forms.items()):
        postures = POSTURES if "POSTURE" in template else (("", ""),)
        pronouns = PRONOUNS if "PRONOUN" in template else ("",)
        weight = 1 / (len(phrases) * len(forms) * len(postures) * len(pronouns))
        for posture, pronoun in product(postures, pronouns):
            texts = []
            for number in (0, 1):
                values = {"BE": BE[number], "P": phrase[number], "VERB": phrase[number]}
                values |= {"POSTURE": posture[number], "PRONOUN": pronoun}
                texts.append(" ".join(values.get(word, word) for word in template.split()))
            parts = [[part.strip() for part in text.replace("Y", "X").split("X")] for text in texts]
            opening, linking = ((parts[0][i], parts[1][i]) for i in (0, 1))
            subject_first = template.index("X") < template.index("Y")
            yield Pattern(
                *(relation, swapped, voice, phrase[0], form, posture[0], pronoun),
                *(opening, linking, subject_first, weight),
            )


def _patterns_of(relation: str) -> list[Pattern]:
    groups = [
        list(_patterns(relation, swapped, "preposition", tuple((phrase, phrase) for phrase in phrases)))
        for (of, swapped), phrases in PREPOSITIONS.items()
        if of == relation
    ]
    if relation in VERBS:
        verbs = VERBS[relation]
        groups.append(list(_patterns(relation, True, "active", tuple((one, many) for one, many, _ in verbs))))
        groups.append(list(_patterns(relation, False, "passive", tuple((by, by) for _, _, by in verbs))))
    return [pattern._replace(weight=pattern.weight / len(groups)) for group in groups for pattern in group]


# A noun phrase and a pattern are known by their index here. PHRASES_OF[object] and PATTERNS_OF[relation] are ranges of
# indices; the first of each range is canonical.
PHRASES = tuple(phrase for thing in OBJECTS for phrase in _phrases_of(thing))
PATTERNS = tuple(pattern for relation in RELATIONS for pattern in _patterns_of(relation))


def _ranges(keys: list[int]) -> tuple[range, ...]:
    starts = [i for i, key in enumerate(keys) if i == 0 or key != keys[i - 1]]
    return tuple(range(a, b) for a, b in zip(starts, [*starts[1:], len(keys)], strict=True))


PHRASES_OF = _ranges([phrase.object for phrase in PHRASES])
PATTERNS_OF: dict[str, range] = dict(
    zip(RELATIONS, _ranges([RELATIONS.index(p.relation) for p in PATTERNS]), strict=True)
)

WORDS = tuple(
    sorted(
        set(CONJUNCTIONS)
        | {word for phrase in PHRASES for word in phrase.text.split()}
        | {word for pattern in PATTERNS for text in (*pattern.opening, *pattern.linking) for word in text.split()}
    )
)


@cache
def count_sentences(facts: int | None = None) -> int:
    """The exact number of distinct sentences that `sample` and `render` can give, for 1, 2, 3 facts or all (None).

    A sentence has one reading, so sentences are counted by their integers: the clause patterns as strings (both
    directions of the symmetric relation are the same strings), the conjunctions, and the noun phrases of 2 x facts
    different (colour, shape) names in order: (2 facts)! times the elementary symmetric polynomial of the number of
    noun phrases each name has.
    """
    if facts is None:
        return sum(count_sentences(n) for n in range(1, MAX_FACTS + 1))
    if facts not in range(1, MAX_FACTS + 1):
        raise ValueError(f"facts is {facts!r}; allowed: 1 to {MAX_FACTS}, or None for all")
    patterns = sum(not (p.relation == SYMMETRIC and p.swapped) for p in PATTERNS)
    shared = sum(map(len, QUANTIFIERS.values())) * sum(map(len, SIZE_WORDS.values()))
    elementary = [1] + [0] * (2 * facts)
    for name in product(COLOUR_WORDS.values(), NOUNS.values()):
        phrases = shared * prod(map(len, name))
        for degree in range(2 * facts, 0, -1):
            elementary[degree] += elementary[degree - 1] * phrases
    joined = len(CONJUNCTIONS) ** (facts - 1)
    return joined * patterns**facts * factorial(2 * facts) * elementary[2 * facts]
