"""Questions about scenes, made rather than collected: the question set that needs no file, no hub and no licence.

A context is 1 to 30 facts, said in sentences of one to three facts each, in random wordings of the scene grammar:

    "The tiny red ball sits on two blue blocks while a green cone is behind the gray disc. There is a white rod ..."

and is asked about in five kinds of question:

    object    What is under the red ball?                     two blue blocks
    place     Where is the green cone?                        behind the gray disc
    colour    What colour is the ball on the blue blocks?     red         or, of the only ball: What colour is the ball?
    shape     What shape is the gray thing behind the rod?    disc        or, of the only gray one: ... the gray thing?
    count     How many blocks are under the red ball?         two         or: How many blue blocks are there?

Why an answer is unique. No two objects of a context share colour and shape, so a name points at one object; every
object stands in one fact, so "under the red ball" holds of one object, no fact follows from two others ("on" twice
over), and none can contradict another. A question without a place ("the ball") is asked only where one object has that
shape, or that colour.

Why the question alone does not tell. Relations, colours, shapes, counts and sizes are drawn uniformly and
independently (up to the combinations that the scene splits hold out), and the kinds and the object asked about are
drawn without looking at them: the most frequent answer is right for 1 in 10 colours, 1 in 9 shapes, 1 in 4 counts.

What counts as right: the object by colour and shape; its count and size may be left out and must be right if said; any
determiner and any synonym of the grammar. Splits share no fact, hence no sentence: each is drawn from the facts of the
scene split of its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from inscape.data.questions.question import Question
from inscape.data.scenes.fast import draw_scenes
from inscape.data.scenes.grammar import (
    COLOUR_WORDS,
    NOUNS,
    PATTERNS,
    PATTERNS_OF,
    PHRASES,
    QUANTIFIERS,
    SIZE_WORDS,
    NounPhrase,
)
from inscape.data.scenes.sampling import check_split
from inscape.data.scenes.scene import MAX_FACTS, OBJECTS, Fact, Scene, fact_from_code
from inscape.data.scenes.splits import SPLITS
from inscape.data.scenes.wording import WORDING_DRAWS, Sentence, choose_wording, write

__all__ = ["KINDS", "draw_scene_questions", "kind_of"]

KINDS = ("object", "place", "colour", "shape", "count")
MOST_FACTS = 30  # of 90 names each fact takes two

_STRIDE = 1 << 12  # fact numbers kept for one context
_LINKS = {  # (relation, whether what is asked for is the ground) -> how the question says it
    ("on", False): "on",
    ("on", True): "under",
    ("left of", False): "to the left of",
    ("left of", True): "to the right of",
    ("in front of", False): "in front of",
    ("in front of", True): "behind",
    ("inside", False): "inside",
    ("inside", True): None,  # the grammar has no preposition for it: "the ring that contains the ball"
    ("next to", False): "next to",
    ("next to", True): "next to",
}


class _Place(NamedTuple):
    """An object as the context says it, and the one fact that it stands in."""

    relation: str
    swapped: bool  # the object is the ground of the fact
    target: NounPhrase
    anchor: NounPhrase
    only_shape: bool  # no other object of the context has this shape
    only_colour: bool


def draw_scene_questions(
    n: int,
    *,
    seed: int = 0,
    split: str = "train",
    facts: tuple[int, int] = (3, 9),
    per_context: int = 1,
    kinds: Sequence[str] = KINDS,
    synonyms: bool = False,
) -> list[Question]:
    """`n` contexts and `per_context` different questions about each; a pure function of its arguments.

    split: one of the scene corpus: train, validation, test, or heldout (combinations never trained on). facts: least
    and most facts of a context, drawn uniformly; 3 to 9 facts are 30 to 130 words. kinds: what to ask, drawn
    uniformly. synonyms: questions say an object in words drawn anew ("cube" for the context's "block"). The first gold
    answer is in the words of the context; `group` names the context. ValueError on anything out of range.
    """
    _check(n, seed, split, facts, per_context, kinds)
    questions = []
    for number, said in enumerate(_facts_of_contexts(n, seed, split, facts)):
        rng = np.random.default_rng([seed, SPLITS.index(split), number])
        sentences = list(_sentences(said, rng))
        context = " ".join(f"{text[0].upper()}{text[1:]}." for text in map(write, sentences))
        group = f"scenes/{split}/{seed}/{number}"
        chosen = list(_choose(_places(sentences), kinds, per_context, rng))  # before words are drawn for them
        for i, (kind, place, free) in enumerate(chosen):
            named = _renamed(place, rng) if synonyms else place
            text = _QUESTION[kind](named, free)
            questions.append(Question(f"{group}/{i}/{kind}", context, text, tuple(_answers(kind, place)), group))
    return questions


def kind_of(question: Question) -> str:
    """Which of KINDS a question of `draw_scene_questions` is. ValueError for a question of another set."""
    kind = question.id.rpartition("/")[2]
    if not question.id.startswith("scenes/") or kind not in KINDS:
        raise ValueError(f"question {question.id!r} is not one of the generated scene questions; those have a kind")
    return kind


def _check(n: int, seed: int, split: str, facts: tuple[int, int], per_context: int, kinds: Sequence[str]) -> None:
    check_split(split)
    if split is None:
        raise ValueError(f"split is None; allowed: {', '.join(SPLITS)}")
    if n < 1 or seed < 0:
        raise ValueError(f"n is {n} and seed {seed}; allowed: n from 1, seed from 0")
    if len(facts) != 2 or not 1 <= facts[0] <= facts[1] <= MOST_FACTS:
        raise ValueError(f"facts is {facts}; wanted the least and the most of a context, 1 to {MOST_FACTS}")
    if isinstance(kinds, str) or not kinds or len(set(kinds)) != len(kinds) or set(kinds) - set(KINDS):
        raise ValueError(f"kinds is {kinds!r}; allowed: one or more of {', '.join(KINDS)}, each once")
    if not 1 <= per_context <= facts[0] * len(kinds):
        raise ValueError(
            f"per_context is {per_context}; {facts[0]} facts and {len(kinds)} kinds allow 1 to {facts[0] * len(kinds)}"
        )


def _facts_of_contexts(n: int, seed: int, split: str, facts: tuple[int, int]) -> Iterator[list[Fact]]:
    """The facts of each context: of those drawn for it, the first whose objects have names not yet taken."""
    least, most = facts
    counts_N = np.random.default_rng([seed, SPLITS.index(split)]).integers(least, most + 1, n)
    candidates = most + 6
    index_NC = np.arange(n)[:, None] * _STRIDE + np.arange(candidates)
    codes_NC = draw_scenes(seed, index_NC.ravel(), facts=1, split=split)[:, 0].reshape(n, candidates)
    for number, count in enumerate(counts_N.tolist()):
        codes = codes_NC[number].tolist()
        found: list[Fact] = []
        taken: set[tuple[str, str]] = set()
        at = 0
        while len(found) < count:
            if at == len(codes):  # rare: nearly all names are taken
                more = number * _STRIDE + np.arange(at, at + candidates)
                codes += draw_scenes(seed, more, facts=1, split=split)[:, 0].tolist()
            fact = fact_from_code(codes[at])
            names = {fact.figure.name, fact.ground.name}
            if not names & taken:
                found.append(fact)
                taken |= names
            at += 1
        yield found


def _sentences(facts: Sequence[Fact], rng: np.random.Generator) -> Iterator[Sentence]:
    at = 0
    while at < len(facts):
        size = int(rng.integers(1, MAX_FACTS + 1))
        yield choose_wording(Scene(facts[at : at + size]), rng.random(WORDING_DRAWS).tolist())
        at += size


def _places(sentences: Iterable[Sentence]) -> list[_Place]:
    """Every object of the context, in the order said."""
    places = []
    for clause in (clause for sentence in sentences for clause in sentence.clauses):
        pattern, subject, other = PATTERNS[clause.pattern], PHRASES[clause.subject], PHRASES[clause.other]
        for target, anchor, swapped in ((subject, other, pattern.swapped), (other, subject, not pattern.swapped)):
            places.append(_Place(pattern.relation, swapped, target, anchor, False, False))
    shapes = [OBJECTS[place.target.object].shape for place in places]
    colours = [OBJECTS[place.target.object].colour for place in places]
    return [
        place._replace(only_shape=shapes.count(shape) == 1, only_colour=colours.count(colour) == 1)
        for place, shape, colour in zip(places, shapes, colours, strict=True)
    ]


def _choose(
    places: list[_Place], kinds: Sequence[str], count: int, rng: np.random.Generator
) -> Iterator[tuple[str, _Place, bool]]:
    """`count` different (kind, object, without its place): a kind first, then one of the questions of this kind."""
    unique = {
        "colour": [place for place in places if place.only_shape],
        "shape": [place for place in places if place.only_colour],
        "count": places,
    }
    left: dict[str, list[tuple[_Place, bool]]] = {}
    for kind in kinds:
        related = [place for place in places if kind != "place" or _LINKS[place.relation, place.swapped]]
        left[kind] = [(place, False) for place in related] + [(place, True) for place in unique.get(kind, ())]
    for _ in range(count):
        open_kinds = [kind for kind in kinds if left[kind]]
        kind = open_kinds[int(rng.integers(len(open_kinds)))]
        place, free = left[kind].pop(int(rng.integers(len(left[kind]))))
        yield kind, place, free


# --- the questions ------------------------------------------------------------------------------------------------


def _noun(phrase: NounPhrase) -> str:
    return f"{phrase.noun}s" if phrase.plural else phrase.noun


def _named(phrase: NounPhrase) -> str:
    return f"the {phrase.colour} {_noun(phrase)}"


def _be(place: _Place) -> str:
    return "are" if place.target.plural else "is"


def _standing(place: _Place) -> str:
    """Behind a noun: where it stands, as in "the ball ON THE BLUE BLOCK"."""
    if link := _LINKS[place.relation, place.swapped]:
        return f" {link} {_named(place.anchor)}"
    return f" that {'contain' if place.target.plural else 'contains'} {_named(place.anchor)}"


def _ask_object(place: _Place, free: bool) -> str:
    if link := _LINKS[place.relation, place.swapped]:
        return f"What is {link} {_named(place.anchor)}?"
    return f"What contains {_named(place.anchor)}?"


def _ask_place(place: _Place, free: bool) -> str:
    return f"Where {_be(place)} {_named(place.target)}?"


def _ask_colour(place: _Place, free: bool) -> str:
    return f"What colour {_be(place)} the {_noun(place.target)}{'' if free else _standing(place)}?"


def _ask_shape(place: _Place, free: bool) -> str:
    things = "things" if place.target.plural else "thing"
    return f"What shape {_be(place)} the {place.target.colour} {things}{'' if free else _standing(place)}?"


def _ask_count(place: _Place, free: bool) -> str:
    noun = place.target.noun
    if free:
        return f"How many {place.target.colour} {noun}s are there?"
    if link := _LINKS[place.relation, place.swapped]:
        return f"How many {noun}s are {link} {_named(place.anchor)}?"
    return f"How many {noun}s contain {_named(place.anchor)}?"


_QUESTION = {
    "object": _ask_object,
    "place": _ask_place,
    "colour": _ask_colour,
    "shape": _ask_shape,
    "count": _ask_count,
}


def _renamed(place: _Place, rng: np.random.Generator) -> _Place:
    """The same place with the words for shapes and colours drawn anew."""

    def anew(phrase: NounPhrase) -> NounPhrase:
        thing = OBJECTS[phrase.object]
        colour, noun = (str(rng.choice(words)) for words in (COLOUR_WORDS[thing.colour], NOUNS[thing.shape]))
        return phrase._replace(colour=colour, noun=noun)

    return place._replace(target=anew(place.target), anchor=anew(place.anchor))


# --- the answers --------------------------------------------------------------------------------------------------


def _answers(kind: str, place: _Place) -> list[str]:
    """All gold answers, the first in the words of the context."""
    target, thing = place.target, OBJECTS[place.target.object]
    if kind == "object":
        return list(_wordings(target))
    if kind == "place":
        links = dict.fromkeys((str(_LINKS[place.relation, place.swapped]), *_links(place.relation, place.swapped)))
        return [f"{link} {what}" for link, what in product(links, _wordings(place.anchor))]
    if kind == "colour":
        return list(dict.fromkeys((target.colour, *COLOUR_WORDS[thing.colour])))
    if kind == "count":
        return [QUANTIFIERS[thing.count][-1].removeprefix("the "), str(thing.count)]
    nouns = dict.fromkeys((target.noun, *NOUNS[thing.shape]))
    numbers = ("s", "") if target.plural else ("", "s")
    return [f"{noun}{s}" for noun in nouns for s in numbers]


def _links(relation: str, swapped: bool) -> tuple[str, ...]:
    """All prepositions and passives of the grammar for the figure, or the ground, of a relation."""
    said = [PATTERNS[i] for i in PATTERNS_OF[relation]]
    return tuple(dict.fromkeys(p.phrase for p in said if p.swapped == swapped and p.voice != "active"))


def _wordings(phrase: NounPhrase) -> dict[str, None]:
    """Every way to name the object, as it was said first: with or without determiner, count and size."""
    thing = OBJECTS[phrase.object]
    quantifiers = dict.fromkeys(("", "the", *QUANTIFIERS[thing.count]))
    sizes = dict.fromkeys((*SIZE_WORDS[thing.size], ""))
    found = {phrase.text: None}
    for quantifier, size, colour, noun in product(quantifiers, sizes, COLOUR_WORDS[thing.colour], NOUNS[thing.shape]):
        determiner = "an" if quantifier == "a" and (size or colour)[0] in "aeiou" else quantifier
        words = (determiner, size, colour, f"{noun}s" if phrase.plural else noun)
        found[" ".join(word for word in words if word)] = None
    return found
