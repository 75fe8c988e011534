"""From a sentence to its scene, exactly: a deterministic automaton over the tables of the grammar.

Every clause pattern is a path through a trie whose edges are words, a singular object or several objects. No state has
two ways on for the same word (checked when the trie is built), so a text has one reading or none, and at the first
word that has no way on the parser knows what could have stood there.
"""

from collections.abc import Iterable
from itertools import product

from inscape.data.scenes.grammar import (
    COLOUR_WORDS,
    CONJUNCTIONS,
    NOUNS,
    PATTERNS,
    PHRASES,
    QUANTIFIERS,
    SIZE_WORDS,
    SYMMETRIC,
)
from inscape.data.scenes.scene import MAX_FACTS, Scene
from inscape.data.scenes.wording import Clause, Sentence, meaning

__all__ = ["parse", "read"]

LONGEST_SHOWN = 40  # characters of a word in a message


class _State:
    """A place in a clause: the words that may follow, or an object by its number, and the pattern if it ends here."""

    __slots__ = ("objects", "pattern", "words")

    def __init__(self) -> None:
        self.words: dict[str, _State] = {}
        self.objects: dict[bool, _State] = {}  # plural -> next state
        self.pattern: int | None = None


_QUANTIFIERS = [words for group in QUANTIFIERS.values() for words in group]
_DETERMINERS = {"an", *(words.split()[0] for words in _QUANTIFIERS)}
_NUMERALS = {words.split()[1] for words in _QUANTIFIERS if " " in words}
_SIZES = {word for words in SIZE_WORDS.values() for word in words if word}
_COLOURS = {word for words in COLOUR_WORDS.values() for word in words}
_SINGULAR = {noun: noun for nouns in NOUNS.values() for noun in nouns}
_PLURAL = {f"{noun}s": noun for noun in _SINGULAR}
_PHRASE_INDEX = {(p.quantifier, p.size, p.colour, p.noun): i for i, p in enumerate(PHRASES)}


def _build() -> _State:
    root = _State()
    for index, pattern in enumerate(PATTERNS):
        if pattern.relation == SYMMETRIC and pattern.swapped:
            continue  # the same strings as unswapped, with the same meaning
        for x, y in product((False, True), repeat=2):
            first, second = (x, y) if pattern.subject_first else (y, x)
            state = root
            for step in (*pattern.opening[x].split(), first, *pattern.linking[x].split(), second):
                if isinstance(step, str):
                    state = state.words.setdefault(step, _State())
                else:
                    state = state.objects.setdefault(step, _State())
                assert not (state.objects and _DETERMINERS & state.words.keys()), "a determiner with two ways on"
            assert state.pattern in (None, index), f"patterns {state.pattern} and {index} are the same words"
            state.pattern = index
    return root


_CLAUSE = _build()


class _Refusal(ValueError):
    """Carries a refusal from the automaton to `read`, which words it; users see a ValueError."""

    def __init__(self, position: int, *expected: str) -> None:
        super().__init__(position, expected)
        self.position, self.expected = position, expected


def _listed(words: Iterable[str]) -> str:
    return ", ".join(sorted(words))


def _read_object(words: list[str], at: int, allowed: dict[bool, _State]) -> tuple[int, int]:
    """The index of the noun phrase that starts at word `at`, and the position after it."""
    start = at
    quantifier = words[at]
    at += 1
    if quantifier == "the" and words[at] in _NUMERALS:
        quantifier = f"the {words[at]}"
        at += 1
    plural = quantifier.split()[-1] in _NUMERALS
    several = f"a number ({_listed(_NUMERALS)})"
    if plural not in allowed and plural:
        raise _Refusal(at - 1, "one object (the verb is singular)")
    if plural not in allowed:
        if quantifier == "the":
            raise _Refusal(at, f"{several}, since the verb is plural")
        raise _Refusal(start, "several objects (the verb is plural)")
    size = ""
    if words[at] in _SIZES:
        size = words[at]
        at += 1
    colour = words[at]
    if colour not in _COLOURS:
        sizes = () if size else (f"a size ({_listed(_SIZES)})",)
        numerals = (several,) if at == start + 1 and quantifier == "the" and True in allowed else ()
        raise _Refusal(at, *numerals, *sizes, f"a colour ({_listed(_COLOURS)})")
    if quantifier in ("a", "an"):
        article = "an" if words[start + 1][0] in "aeiou" else "a"
        if quantifier != article:
            raise _Refusal(start, f"'{article}' before '{words[start + 1]}'")
        quantifier = "a"
    at += 1
    noun = (_PLURAL if plural else _SINGULAR).get(words[at])
    if noun is None:
        number, nouns = ("plural", _PLURAL) if plural else ("singular", _SINGULAR)
        raise _Refusal(at, f"a {number} shape ({_listed(nouns)})")
    return _PHRASE_INDEX[quantifier, size, colour, noun], at + 1


def _read_clause(words: list[str], at: int) -> tuple[Clause, int]:
    state = _CLAUSE
    phrases: list[int] = []
    while state.pattern is None:
        word = words[at]
        if word in state.words:
            state = state.words[word]
            at += 1
        elif state.objects and word in _DETERMINERS:
            phrase, at = _read_object(words, at, state.objects)
            phrases.append(phrase)
            state = state.objects[PHRASES[phrase].plural]
        else:
            objects = (f"an object ({_listed(_DETERMINERS)})",) if state.objects else ()
            raise _Refusal(at, *objects, *([_listed(state.words)] if state.words else []))
    first, second = phrases
    subject, other = (first, second) if PATTERNS[state.pattern].subject_first else (second, first)
    return Clause(state.pattern, subject, other), at


def _read(words: list[str]) -> Sentence:
    """`words` ends with an empty word, so that the end of the text is a word like any other that has no way on."""
    clause, at = _read_clause(words, 0)
    clauses, conjunctions = [clause], []
    while words[at]:
        if len(clauses) == MAX_FACTS:
            raise _Refusal(at, f"the end, after {MAX_FACTS} facts")
        if words[at] not in CONJUNCTIONS:
            raise _Refusal(at, " or ".join((*map(repr, CONJUNCTIONS), "the end")))
        conjunctions.append(CONJUNCTIONS.index(words[at]))
        clause, at = _read_clause(words, at + 1)
        clauses.append(clause)
    return Sentence(tuple(clauses), tuple(conjunctions))


def read(text: str) -> Sentence:
    """The choices that wrote `text`: `write(read(text)) == text` up to a capital first letter, a final stop and spaces.

    ValueError on a text outside the grammar: it names the first word that cannot stand where it stands, its position
    (the first word is word 1) and what could.
    """
    if not isinstance(text, str):
        raise ValueError(f"not a scene sentence: given {_cut(repr(text))}; give text")
    stripped = text.strip().removesuffix(".")
    words = f"{stripped[:1].lower()}{stripped[1:]}".split()
    try:
        return _read([*words, ""])
    except _Refusal as refusal:
        at, expected = refusal.position, " or ".join(refusal.expected)
    found = f"word {at + 1} '{_cut(words[at])}'" if at < len(words) else f"word {at + 1}, where the text ends"
    after = f" (after '{' '.join(map(_cut, words[max(0, at - 4) : at]))}')" if at else ""
    raise ValueError(f"not a scene sentence: {found}{after}; expected {expected}")


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"


def parse(text: str) -> Scene:
    """The scene that the sentence states; ValueError that points at the first word outside the grammar.

    A capital first letter, a final stop and repeated spaces are forgiven, nothing else.
    """
    return meaning(read(text))
