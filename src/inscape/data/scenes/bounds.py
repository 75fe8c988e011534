"""How far a sentence can be reworded: the least ROUGE-L that any wording of the same scene has with it.

A paraphraser that keeps the meaning cannot go below this number, so a measured ROUGE-L is read against it: 0.5 is a
timid paraphrase where the grammar allows 0.2, and as far as one can go where it allows no less.

The minimum is exact, though three facts have more wordings than can be listed. Read a wording word by word beside the
sentence. All that matters later of the words read so far is how many they are and one row of the table of longest
common subsequences: row[j] = LCS(words so far, first j words of the sentence). If of two beginnings that tell the same
facts one has a row nowhere higher and no fewer words, then with any ending at all its F1 = 2 LCS / (words + words) is
no higher, and the other beginning can be dropped. A few hundred are left at a time: 3 ms for one fact, 15 ms for two,
0.1 to 1 s for three.

Rows are kept as bits and grow by a word in four operations (Hyyro 2004, "Bit-parallel LCS-length computation
revisited"): bit j is 0 where the row steps up at word j.

Legend: K beginnings, J words of the sentence, C costs.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from inscape.data.scenes.grammar import CONJUNCTIONS, PATTERNS, PATTERNS_OF, PHRASES, PHRASES_OF
from inscape.data.scenes.parser import read
from inscape.data.scenes.scene import Fact
from inscape.data.scenes.wording import meaning, write

if TYPE_CHECKING:
    from jaxtyping import Int, Int8, UInt64

__all__ = ["least_rouge_l", "most_reworded"]

Segment = tuple[str, ...]  # words that follow each other: a noun phrase, or what stands before or between the two


class _Beginnings(NamedTuple):
    """Wordings of some of the facts, as far as they have been read."""

    row_K: UInt64[np.ndarray, " K"]  # 64 bits are enough: the longest sentence of the grammar has 56 words
    length_K: Int[np.ndarray, " K"]
    texts: tuple[str, ...]


def least_rouge_l(sentence: str) -> float:
    """The least ROUGE-L F1 over words, exactly, between `sentence` and a wording of its scene.

    ValueError if the sentence is outside the grammar.
    """
    return _search(write(read(sentence)))[0]


def most_reworded(sentence: str) -> str:
    """A wording of the scene of `sentence` that has `least_rouge_l` with it. ValueError outside the grammar."""
    return _search(write(read(sentence)))[1]


@lru_cache(maxsize=4096)
def _search(sentence: str) -> tuple[float, str]:
    words = sentence.split()
    count = len(words)
    # Bit j of a word's mask is set where it is word j of the sentence.
    mask_of = {word: np.uint64(sum(1 << j for j in range(count) if words[j] == word)) for word in words}
    facts = meaning(read(sentence)).facts
    conjunctions = _told_apart(((word,) for word in CONJUNCTIONS), mask_of)
    nothing = _Beginnings(np.array([(1 << count) - 1], dtype=np.uint64), np.zeros(1, dtype=np.int64), ("",))
    telling: dict[frozenset[Fact], _Beginnings] = {frozenset(): nothing}
    for size in range(1, len(facts) + 1):
        for told in combinations(facts, size):
            ways = []
            for last in told:
                before = telling[frozenset(told) - {last}]
                if size > 1:
                    before = _best(_extended(before, conjunctions, mask_of), count)
                ways.append(_with_clause(before, last, mask_of, count))
            telling[frozenset(told)] = _best(_joined(ways), count)
    whole = telling[frozenset(facts)]
    score_K = 2 * _rows(whole.row_K, count)[:, -1] / (count + whole.length_K)
    least = int(score_K.argmin())
    return float(score_K[least]), whole.texts[least]


def _with_clause(before: _Beginnings, fact: Fact, mask_of: dict[str, np.uint64], count: int) -> _Beginnings:
    """`before` followed by the fact in each of its patterns and noun phrases."""
    # (first noun phrase's object, second's) -> opening -> what links the two
    patterns: dict[tuple[int, int], dict[Segment, list[Segment]]] = {}
    for index in PATTERNS_OF[fact.relation]:
        pattern = PATTERNS[index]
        subject, other = (fact.ground, fact.figure) if pattern.swapped else (fact.figure, fact.ground)
        first, second = (subject, other) if pattern.subject_first else (other, subject)
        opening, linking = (tuple(words[subject.count > 1].split()) for words in (pattern.opening, pattern.linking))
        patterns.setdefault((first.code, second.code), {}).setdefault(opening, []).append(linking)
    ways = []
    for (first, second), linkings_of in patterns.items():
        half = []
        for opening, linkings in linkings_of.items():
            opened = _extended(before, [opening], mask_of)
            named = _best(_extended(opened, _noun_phrases(first, mask_of), mask_of), count)
            half.append(_best(_extended(named, _told_apart(linkings, mask_of), mask_of), count))
        ways.append(_extended(_best(_joined(half), count), _noun_phrases(second, mask_of), mask_of))
    return _joined(ways)


def _noun_phrases(thing: int, mask_of: dict[str, np.uint64]) -> list[Segment]:
    return _told_apart((tuple(PHRASES[i].text.split()) for i in PHRASES_OF[thing]), mask_of)


def _told_apart(segments: Iterable[Segment], mask_of: dict[str, np.uint64]) -> list[Segment]:
    """One segment of each kind: words that the sentence does not hold are all the same to the row."""
    return list({tuple(word if word in mask_of else "" for word in segment): segment for segment in segments}.values())


def _extended(before: _Beginnings, segments: list[Segment], mask_of: dict[str, np.uint64]) -> _Beginnings:
    """Each beginning followed by each segment."""
    ways = []
    for segment in segments:
        row_K = before.row_K
        for word in segment:
            if word in mask_of:
                match_K = row_K & mask_of[word]
                row_K = (row_K + match_K) | (row_K - match_K)
        texts = tuple(" ".join(filter(None, (text, *segment))) for text in before.texts)
        ways.append(_Beginnings(row_K, before.length_K + len(segment), texts))
    return _joined(ways)


def _joined(ways: list[_Beginnings]) -> _Beginnings:
    rows, lengths, texts = zip(*ways, strict=True)
    return _Beginnings(np.concatenate(rows), np.concatenate(lengths), tuple(text for part in texts for text in part))


def _rows(row_K: UInt64[np.ndarray, " K"], count: int) -> Int8[np.ndarray, "K J"]:
    """LCS with the first 1 .. `count` words of the sentence."""
    bit_KJ = (row_K[:, None] >> np.arange(count, dtype=np.uint64)) & np.uint64(1)
    return np.cumsum(bit_KJ == 0, axis=1, dtype=np.int8)


def _best(beginnings: _Beginnings, count: int) -> _Beginnings:
    """The beginnings that no other equals or betters: a row nowhere higher, and no fewer words."""
    # Of equal rows the longest goes on; that is quick, and leaves less to compare with each other.
    order = np.lexsort((-beginnings.length_K, beginnings.row_K))
    row_K = beginnings.row_K[order]
    order = order[np.append(True, row_K[1:] != row_K[:-1])]
    cost_CK = np.vstack((_rows(beginnings.row_K[order], count).T, -beginnings.length_K[order].astype(np.int8)))
    # In the order of their sums a beginning can only be bettered by one before it.
    by_sum = np.argsort(cost_CK.sum(0, dtype=np.int64), kind="stable")
    order, cost_CK = order[by_sum], cost_CK[:, by_sum]
    kept = []
    while order.size:
        kept.append(order[0])
        going = np.flatnonzero((cost_CK < cost_CK[:, :1]).any(0))
        order, cost_CK = order[going], cost_CK.take(going, axis=1)
    return _Beginnings(beginnings.row_K[kept], beginnings.length_K[kept], tuple(beginnings.texts[i] for i in kept))
