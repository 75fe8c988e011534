"""The grammar of scene sentences as the smallest automaton over token ids, for decoders that can say nothing else.

`scene_automaton(tokenizer)` accepts the token ids `w1 .. wn eos` of exactly the texts that `parser.read` reads and that
are written as `write` writes them: 1 to 3 clauses in all their forms, with the agreement of verbs, the plural of nouns,
"a" and "an". Its tables come from the strings of `grammar.py` alone, so that parser and automaton can check each other.

What is left out is what makes a sampled scene plain. Those sentences are finitely many, so an automaton could know
them, but only with a state for every set of names already said (47 million sets of up to 5 of 90 names). So it also
accepts what `sample` never gives: two objects of one colour and shape (`is_plain` is false), and a fact said twice. And
it knows nothing of meaning: a sentence about another scene is as good as one about the right scene.

With one id a word it has 241 states, 96 columns (94 words, pad, eos) and 2,464 transitions.

Legend: B sentences, T tokens, S states, A columns (the token ids that occur, pad and eos among them).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from inscape.data.scenes.grammar import CONJUNCTIONS, PATTERNS, PHRASES, WORDS
from inscape.data.scenes.scene import MAX_FACTS
from inscape.data.tokenizer import EOS, PAD, UNK

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from inscape.data.tokenizer import Tokenizer

__all__ = ["FORBIDDEN", "Automaton", "scene_automaton"]

FORBIDDEN = -1

_UNREACHED = np.iinfo(np.int32).max - 1  # one less than the largest, so that a step can be added

Label: TypeAlias = str | int
Ways: TypeAlias = Mapping[Label, int]  # what leads on from a state, and where to


class Automaton(NamedTuple):
    """A deterministic automaton over token ids; the state before the first token is 0, the last state is the end.

    `next_SA[s, a]` is the state after token `ids_A[a]` in state s, or FORBIDDEN. Every sentence ends with eos, which
    leads to the end; there pad leads back to the end, and nothing else is allowed. From every state the end is reached.
    """

    next_SA: NDArray[np.int32]
    ids_A: NDArray[np.int64]  # ascending

    @property
    def end(self) -> int:
        """The state after eos."""
        return len(self.next_SA) - 1

    def accepts(self, tokens_BT: ArrayLike) -> NDArray[np.bool_]:
        """Which rows, `w1 .. wn eos` and then pad, are sentences, (B,)."""
        tokens = np.asarray(tokens_BT)
        column_BT = np.searchsorted(self.ids_A, tokens).clip(max=len(self.ids_A) - 1)
        known_BT = self.ids_A[column_BT] == tokens
        state_B = np.zeros(len(tokens), dtype=np.int64)
        for column_B, known_B in zip(column_BT.T, known_BT.T, strict=True):
            # -1, FORBIDDEN, stays: there is no state to go on from.
            state_B = np.where(known_B & (state_B >= 0), self.next_SA[state_B, column_B], FORBIDDEN)
        return state_B == self.end

    def distances(self) -> NDArray[np.int32]:
        """Tokens from each state to the end, eos included, by the shortest way, (S,)."""
        distance_S = np.full(len(self.next_SA), _UNREACHED, dtype=np.int32)
        distance_S[self.end] = 0
        while True:
            reached_SA = np.where(self.next_SA >= 0, distance_S[self.next_SA], _UNREACHED)
            shorter_S = np.minimum(distance_S, reached_SA.min(axis=1) + 1)
            if (shorter_S == distance_S).all():
                return distance_S
            distance_S = shorter_S


class _Paths:
    """Labelled paths between numbered places, several ways with one label allowed: a nondeterministic automaton."""

    def __init__(self) -> None:
        self.ways: list[dict[Label, set[int]]] = []

    def place(self) -> int:
        self.ways.append(defaultdict(set))
        return len(self.ways) - 1

    def add(self, start: int, labels: Sequence[Label], end: int) -> None:
        """A path of one or more labels, through places of its own."""
        for label in labels[:-1]:
            middle = self.place()
            self.ways[start][label].add(middle)
            start = middle
        self.ways[start][labels[-1]].add(end)

    def minimal(self, start: int) -> list[Ways]:
        """The smallest deterministic automaton that reads the same from `start` to where no way leads on.

        Subset construction and, since there are no cycles, minimisation in the same pass: two states are one if they
        have the same ways on (Revuz 1992). A state is its ways, label -> state; state 0 is the start, each way leads to
        a higher number and the last state is the end.
        """
        register: dict[tuple[tuple[Label, int], ...], int] = {}
        known: dict[frozenset[int], int] = {}

        def state_of(places: frozenset[int]) -> int:
            if places not in known:
                united: dict[Label, set[int]] = defaultdict(set)
                for place in sorted(places):
                    for label, ends in self.ways[place].items():
                        united[label] |= ends
                assert not united or all(self.ways[place] for place in places), "a sentence goes on where another ends"
                on = sorted(((label, state_of(frozenset(ends))) for label, ends in united.items()), key=repr)
                known[places] = register.setdefault(tuple(on), len(register))
            return known[places]

        last = state_of(frozenset({start}))
        return [{label: last - to for label, to in ways} for ways in reversed(register)]


def _minimal(strings: Iterable[Sequence[Label]]) -> list[Ways]:
    paths = _Paths()
    start, end = paths.place(), paths.place()
    for labels in strings:
        paths.add(start, labels, end)
    return paths.minimal(start)


def _noun_phrases(plural: bool) -> list[Ways]:
    return _minimal([phrase.text.split() for phrase in PHRASES if phrase.plural == plural])


def _clauses() -> list[Ways]:
    """Clauses over words, and over False and True for one object and several."""
    strings = []
    for pattern in PATTERNS:
        for subject in (False, True):
            for other in (False, True):
                first, second = (subject, other) if pattern.subject_first else (other, subject)
                strings.append((*pattern.opening[subject].split(), first, *pattern.linking[subject].split(), second))
    return _minimal(strings)


class _Spelling(NamedTuple):
    """What a label of a clause stands for: a word for its token ids, False and True for one object and several."""

    ids: Mapping[str, Sequence[int]]
    objects: Mapping[bool, list[Ways]]


def _insert(paths: _Paths, start: int, automaton: list[Ways], end: int, spelt: _Spelling) -> None:
    """All that the automaton reads as paths from `start` to `end`, spelt in token ids."""
    places = [start, *(paths.place() for _ in automaton[1:-1]), end]
    for place, ways in zip(places, automaton, strict=True):
        for label, to in ways.items():
            if isinstance(label, str):
                paths.add(place, spelt.ids[label], places[to])
            else:
                _insert(paths, place, spelt.objects[bool(label)], places[to], spelt)


def scene_automaton(tokenizer: Tokenizer) -> Automaton:
    """The automaton of the scene grammar over this tokenizer's ids; words of several ids are followed id by id.

    ValueError if the tokenizer cannot write a word of the grammar.
    """
    ids = tokenizer.word_ids(WORDS)
    if unknown := [word for word in WORDS if UNK in ids[word]]:
        raise ValueError(f"the tokenizer does not know these words of the scene grammar: {', '.join(unknown)}")
    spelt = _Spelling(ids, {plural: _noun_phrases(plural) for plural in (False, True)})
    paths, clause = _Paths(), _clauses()
    end, start = paths.place(), paths.place()
    begin = start
    for facts in range(1, MAX_FACTS + 1):
        said = paths.place()
        _insert(paths, begin, clause, said, spelt)
        paths.add(said, [EOS], end)
        if facts < MAX_FACTS:
            begin = paths.place()
            for conjunction in CONJUNCTIONS:
                paths.add(said, ids[conjunction], begin)
    return _table(paths.minimal(start))


def _table(states: list[Ways]) -> Automaton:
    moves = [(state, int(token), to) for state, ways in enumerate(states) for token, to in ways.items()]
    moves.append((len(states) - 1, PAD, len(states) - 1))
    ids_A = np.unique([token for _, token, _ in moves])
    next_SA = np.full((len(states), len(ids_A)), FORBIDDEN, dtype=np.int32)
    for state, token, to in moves:
        next_SA[state, np.searchsorted(ids_A, token)] = to
    return Automaton(next_SA, ids_A)
