"""Rewordings that keep the meaning, each kind by its name, and free paraphrases.

shuffle      the facts in another order                     synonym   another word, but not noun
determiner   a / the / one, two / the two                   renaming  another noun for a shape: block, cube
voice        supports <-> is supported by, contains ...     inverse   on <-> under, inside <-> contains, next to turned
"""

from collections.abc import Callable
from functools import cache

import numpy as np

from inscape.data.scenes.grammar import PATTERNS, PATTERNS_OF, PHRASES, PHRASES_OF, VERBS
from inscape.data.scenes.parser import parse, read
from inscape.data.scenes.scene import Scene
from inscape.data.scenes.wording import ORDERS, Clause, Sentence, clause_for, render, write

__all__ = ["AUGMENTATIONS", "augment", "paraphrase"]

# What can stand instead at one field of a clause.
Options = Callable[[Clause, int], tuple[int, ...]]

_OTHER_VOICE = {a: b for verbs in VERBS.values() for verb in verbs for a, b in (verb[::2], verb[::-2])}


@cache
def _same_but(index: int, *fields: str) -> tuple[int, ...]:
    """Other phrases of the same object that differ at most in these fields."""
    kept = set(PHRASES[index]._fields) - {*fields, "text"}
    same = [all(getattr(PHRASES[i], f) == getattr(PHRASES[index], f) for f in kept) for i in _phrase_range(index)]
    return tuple(i for i, fits in zip(_phrase_range(index), same, strict=True) if fits and i != index)


def _phrase_range(index: int) -> range:
    return PHRASES_OF[PHRASES[index].object]


@cache
def _synonym_patterns(index: int) -> tuple[int, ...]:
    """Patterns of the same form and direction with other words."""
    given = PATTERNS[index]
    kind = given.swapped, given.voice, given.form
    return tuple(i for i in _alike(index) if (PATTERNS[i].swapped, PATTERNS[i].voice, PATTERNS[i].form) == kind)


@cache
def _voice_patterns(index: int) -> tuple[int, ...]:
    """The same verb in the other voice, in the same form or, where that has none, the plain one."""
    phrase = _OTHER_VOICE.get(PATTERNS[index].phrase)
    return _in_form([i for i in _alike(index) if PATTERNS[i].phrase == phrase], PATTERNS[index].form)


@cache
def _inverse_patterns(index: int) -> tuple[int, ...]:
    """Patterns whose subject is the other argument: prepositions, or active verbs for a relation that has no such."""
    turned = [i for i in _alike(index) if PATTERNS[i].swapped != PATTERNS[index].swapped]
    prepositions = [i for i in turned if PATTERNS[i].voice == "preposition"]
    return _in_form(prepositions or turned, PATTERNS[index].form)


def _alike(index: int) -> list[int]:
    return [i for i in PATTERNS_OF[PATTERNS[index].relation] if i != index]


def _in_form(indices: list[int], form: str) -> tuple[int, ...]:
    same = tuple(i for i in indices if PATTERNS[i].form == form)
    return same or tuple(i for i in indices if PATTERNS[i].form == "plain")


def _pick(options: tuple[int, ...], rng: np.random.Generator) -> int:
    return options[int(rng.random() * len(options))]


def _rewrite(sentence: Sentence, options_of: Options, rng: np.random.Generator) -> Sentence | None:
    """Replace words at a random non-empty subset of the places that have options; None if there is no such place.

    A place is (clause, field of Clause); a pattern that turns the subject also turns the clause's two objects.
    """
    places = [(c, f) for c, clause in enumerate(sentence.clauses) for f in range(3) if options_of(clause, f)]
    if not places:
        return None
    sure = int(rng.random() * len(places))
    clauses = list(sentence.clauses)
    for i, (c, field) in enumerate(places):
        if i == sure or rng.random() < 0.5:
            clauses[c] = _replace(clauses[c], field, _pick(options_of(sentence.clauses[c], field), rng))
    return sentence._replace(clauses=tuple(clauses))


def _replace(clause: Clause, field: int, value: int) -> Clause:
    if field > 0:
        return clause._replace(**{Clause._fields[field]: value})
    old = PATTERNS[clause.pattern]
    figure, ground = (clause.other, clause.subject) if old.swapped else (clause.subject, clause.other)
    return clause_for(value, figure, ground)


def _pattern_options(options: Callable[[int], tuple[int, ...]]) -> Options:
    return lambda clause, field: options(clause.pattern) if field == 0 else ()


def _phrase_options(*fields: str) -> Options:
    return lambda clause, field: _same_but(clause[field], *fields) if field else ()


def _synonym_options(clause: Clause, field: int) -> tuple[int, ...]:
    return _same_but(clause[field], "size", "colour") if field else _synonym_patterns(clause.pattern)


def _shuffle(sentence: Sentence, rng: np.random.Generator) -> Sentence | None:
    orders = ORDERS[len(sentence.clauses)][1:]  # the first leaves everything where it is
    if not orders:
        return None
    order = orders[int(rng.random() * len(orders))]
    return sentence._replace(clauses=tuple(sentence.clauses[i] for i in order))


_OPTIONS = {
    "determiner": _phrase_options("quantifier"),
    "inverse": _pattern_options(_inverse_patterns),
    "renaming": _phrase_options("noun"),
    "synonym": _synonym_options,
    "voice": _pattern_options(_voice_patterns),
}
AUGMENTATIONS = ("shuffle", *_OPTIONS)


def augment(text: str, name: str, rng: np.random.Generator) -> str | None:
    """`text` reworded by the augmentation `name`, always a different sentence with the same scene.

    None where it does not apply: one fact has no order, a cone no other name, a preposition no passive.
    ValueError if `name` is not in AUGMENTATIONS or `text` is outside the grammar.
    """
    if name not in AUGMENTATIONS:
        raise ValueError(f"augmentation is {name!r}; allowed: {', '.join(AUGMENTATIONS)}")
    sentence = read(text)
    changed = _shuffle(sentence, rng) if name == "shuffle" else _rewrite(sentence, _OPTIONS[name], rng)
    return None if changed is None or write(changed) == write(sentence) else write(changed)


def paraphrase(scene_or_text: Scene | str, rng: np.random.Generator) -> str:
    """A random wording of the scene, or of the scene that the text states and then never the text itself."""
    if isinstance(scene_or_text, Scene):
        return render(scene_or_text, rng)
    scene, given = parse(scene_or_text), write(read(scene_or_text))
    while (text := render(scene, rng)) == given:
        pass
    return text
