"""Batches of tokenised sentences at the rate of array code: hundreds of thousands of sentences a second on one core.

Sentence number `index` of a corpus is a pure function of (seed, index), whoever draws it and in whatever batch: every
random number is a hash of (seed, stream, index, draw). Nothing here knows words or grammar: patterns, noun phrases,
weights and the order of the draws are those of `grammar.py` and `wording.py`, so the sentences are those of `render`.

    vocabulary = phrase_table(word_ids)                       token ids of every piece of a sentence
    scenes_BF = draw_scenes(seed, index_B)                    what is said
    wording = draw_wordings(scenes_BF, seed, index_B)         how; another `stream` gives a paraphrase
    tokens_BT, lengths_B = tokenise(vocabulary, wording)
    canonical_wordings(scenes_BF)                             the one wording that stands for the scene
    batch_at(...)                                             all of it, for one step and rank

Legend: B sentences, F = 3 places for facts (ascending codes, -1 where there are fewer), D draws, S pieces of a
sentence, W tokens of a piece, T tokens of a sentence.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from inscape.data.scenes.grammar import CONJUNCTIONS, PATTERNS, PATTERNS_OF, PHRASES, PHRASES_OF, WORDS
from inscape.data.scenes.sampling import SCENE_DRAWS, check_facts, check_split
from inscape.data.scenes.scene import MAX_FACTS, NAME_COUNT, OBJECT_COUNT, RELATIONS, SYMMETRIC
from inscape.data.scenes.splits import SPLITS, mix, splits_of_facts
from inscape.data.scenes.wording import ORDERS, WORDING_DRAWS
from inscape.data.tokenizer import BOS, BUCKETS, EOS

__all__ = [
    "Batch",
    "PhraseTable",
    "assemble",
    "batch_at",
    "canonical_wordings",
    "draw_scenes",
    "draw_wordings",
    "first_fitting",
    "in_split",
    "phrase_table",
    "take_apart",
    "tokenise",
    "uniforms",
]

ROWS_AT_ONCE = 256

# (rows, attempts) -> their scenes, and which of them fit
Propose = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class Batch(NamedTuple):
    """A rank's sentences of one step: tokens padded with 0 to a bucket, their numbers, and the scenes as fact codes."""

    tokens_BT: np.ndarray  # int64
    lengths_B: np.ndarray  # int64, with bos and eos
    scenes_BF: np.ndarray  # int64, see `scene_from_codes`


class PhraseTable(NamedTuple):
    """Token ids of every piece a sentence is made of, one row a piece, padded with -1 behind."""

    pieces_SW: np.ndarray


# Rows of a PhraseTable, in this order: noun phrases, openings and linkings of the patterns (singular, then plural),
# conjunctions, bos, eos, nothing.
_OPENINGS = len(PHRASES)
_LINKINGS = _OPENINGS + 2 * len(PATTERNS)
_CONJUNCTIONS = _LINKINGS + 2 * len(PATTERNS)
_BOS = _CONJUNCTIONS + len(CONJUNCTIONS)
_EOS, _NOTHING = _BOS + 1, _BOS + 2

_PLURAL = np.array([phrase.plural for phrase in PHRASES])
_PHRASE_START = np.array([indices.start for indices in PHRASES_OF])
_PHRASE_COUNT = np.array([len(indices) for indices in PHRASES_OF])
_PATTERN_START = np.array([indices.start for indices in PATTERNS_OF.values()])
_PATTERN_END = np.array([indices.stop for indices in PATTERNS_OF.values()])
_SWAPPED = np.array([pattern.swapped for pattern in PATTERNS])
_SUBJECT_FIRST = np.array([pattern.subject_first for pattern in PATTERNS])
# Weights summed along all patterns: relation r covers (r, r + 1], so one search serves every relation.
_CUMULATIVE = np.concatenate(
    [r + np.cumsum([PATTERNS[i].weight for i in indices]) for r, indices in enumerate(PATTERNS_OF.values())]
)
_ORDER_COUNT = np.array([len(orders) for orders in ORDERS])
_ORDERS = np.array(
    [
        [(*orders[i % len(orders)], *range(n, MAX_FACTS)) for i in range(len(ORDERS[MAX_FACTS]))]
        for n, orders in enumerate(ORDERS)
    ]
)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SCENE_STREAM, _WORDING_STREAM = 0, 1 << 32


def uniforms(seed: int, stream: int | np.ndarray, index_B: np.ndarray, draws: int) -> np.ndarray:
    """Uniform numbers in [0, 1), (B, draws), each a hash of (seed, stream, index, draw): SplitMix64 over a counter.

    One stream for all, or one a row.
    """
    with np.errstate(over="ignore"):
        key = mix(np.array([seed], dtype=np.uint64) * _GOLDEN + np.uint64(1))
        key_B = mix((key + np.asarray(stream).astype(np.uint64)) * _GOLDEN)
        state_B = mix(key_B + index_B.astype(np.uint64) * _GOLDEN)
        bits_BD = mix(state_B[:, None] + np.arange(1, draws + 1, dtype=np.uint64) * _GOLDEN)
    return (bits_BD >> np.uint64(11)) * 2.0**-53


def phrase_table(word_ids: Mapping[str, Sequence[int]]) -> PhraseTable:
    """The token ids of every piece, from a tokenizer in which each word encodes by itself.

    `word_ids` maps every word of the grammar to its ids, as `Tokenizer.word_ids(WORDS)` does.
    ValueError if a word is missing or has no id.
    """
    missing = [word for word in WORDS if not len(word_ids.get(word, ()))]
    if missing:
        raise ValueError(f"word_ids must give token ids for every word of the grammar; missing: {', '.join(missing)}")
    texts = [phrase.text for phrase in PHRASES]
    texts += [text for pattern in PATTERNS for text in pattern.opening]
    texts += [text for pattern in PATTERNS for text in pattern.linking]
    texts += CONJUNCTIONS
    pieces = [[i for word in text.split() for i in word_ids[word]] for text in texts] + [[BOS], [EOS], []]
    pieces_SW = np.full((len(pieces), max(map(len, pieces))), -1, dtype=np.int64)
    for row, ids in enumerate(pieces):
        pieces_SW[row, : len(ids)] = ids
    return PhraseTable(pieces_SW)


def draw_scenes(seed: int, index_B: np.ndarray, *, facts: int | None = None, split: str | None = "train") -> np.ndarray:
    """Scenes as fact codes, (B, F): scene `index` of this seed, drawn by the rule of `sample`."""
    check_facts(facts)
    check_split(split)
    index_B = np.asarray(index_B, dtype=np.int64)
    count_B = np.full(len(index_B), facts or 0)
    if facts is None:
        count_B = 1 + (uniforms(seed, _SCENE_STREAM, index_B, 1)[:, 0] * MAX_FACTS).astype(np.int64)

    def propose(rows: np.ndarray, attempts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        draws = uniforms(seed, _SCENE_STREAM + attempts, index_B[rows], SCENE_DRAWS).reshape(-1, MAX_FACTS, 3)
        relation, figure, ground = (
            (draws[..., i] * n).astype(np.int64) for i, n in enumerate((len(RELATIONS), OBJECT_COUNT, OBJECT_COUNT))
        )
        codes, plain = assemble(relation, figure, ground, np.arange(MAX_FACTS) < count_B[rows, None])
        return codes, plain & in_split(codes, split)

    return first_fitting(len(index_B), propose)[0]


def first_fitting(count: int, propose: Propose, *, at_most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Rejection sampling for `count` rows: each row's scene at its first attempt that fits, and the attempt, from 1 on.

    `propose(rows, attempts)` gives the scene of each (row, attempt) and whether it fits. Rows for which none of
    `at_most` attempts fits get scenes of -1 and attempt 0.
    """
    scenes_BF, attempt_B = np.full((count, MAX_FACTS), -1), np.zeros(count, dtype=np.int64)
    pending, tried = np.arange(count), 0
    while len(pending) and tried != at_most:
        # A few rows left cost as much as many, so they get several attempts at once; the first that fits counts.
        several = max(1, ROWS_AT_ONCE // len(pending))
        attempts = tried + 1 + np.arange(several if at_most is None else min(several, at_most - tried))
        tried = int(attempts[-1])
        codes, fits = propose(np.repeat(pending, len(attempts)), np.tile(attempts, len(pending)))
        fits = fits.reshape(len(pending), -1)
        found, first = fits.any(axis=1), fits.argmax(axis=1)
        scenes_BF[pending[found]] = codes.reshape(*fits.shape, MAX_FACTS)[found, first[found]]
        attempt_B[pending[found]] = attempts[first[found]]
        pending = pending[~found]
    return scenes_BF, attempt_B


def assemble(
    relation_BF: np.ndarray, figure_BF: np.ndarray, ground_BF: np.ndarray, said_BF: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Normalised scenes of the facts that are said (the others become -1), and which of the scenes are plain."""
    turned = (relation_BF == RELATIONS.index(SYMMETRIC)) & (figure_BF > ground_BF)
    figure, ground = np.where(turned, ground_BF, figure_BF), np.where(turned, figure_BF, ground_BF)
    # An absent object gets a name of its own, so that it is never taken for a repeated one.
    own_names = -1 - np.arange(2 * MAX_FACTS).reshape(MAX_FACTS, 2)
    names = np.where(said_BF[..., None], np.stack([figure, ground], axis=-1) % NAME_COUNT, own_names)
    names = np.sort(names.reshape(len(names), -1), axis=1)
    plain = (names[:, 1:] != names[:, :-1]).all(axis=1)
    codes = (relation_BF * OBJECT_COUNT + figure) * OBJECT_COUNT + ground
    largest = np.iinfo(np.int64).max
    codes = np.sort(np.where(said_BF, codes, largest), axis=1)
    return np.where(codes == largest, -1, codes), plain


def in_split(scenes_BF: np.ndarray, split: str | None) -> np.ndarray:
    """Which of the scenes lie in the split; all of them for None."""
    if split is None:
        return np.ones(len(scenes_BF), dtype=bool)
    return splits_of_facts(scenes_BF).max(axis=1) == SPLITS.index(split)


def take_apart(scenes_BF: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Relation, figure and ground of every fact as indices, (B, F) each; zeros where there is no fact."""
    rest, ground = np.divmod(np.maximum(scenes_BF, 0), OBJECT_COUNT)
    relation, figure = np.divmod(rest, OBJECT_COUNT)
    return relation, figure, ground


def draw_wordings(scenes_BF: np.ndarray, seed: int, index_B: np.ndarray, *, stream: int | np.ndarray = 0) -> np.ndarray:
    """A random wording of each scene as rows of a PhraseTable, (B, S). Each stream is an independent wording; one for
    all, or one a row.

    It is `choose_wording(scene, uniforms(seed, 2**32 + stream, index, WORDING_DRAWS))`, for all scenes at once.
    """
    draws = uniforms(seed, _WORDING_STREAM + stream, np.asarray(index_B), WORDING_DRAWS)
    count_B = (scenes_BF >= 0).sum(axis=1)
    order = _ORDERS[count_B, (draws[:, 0] * _ORDER_COUNT[count_B]).astype(np.int64)]
    said_BF = np.take_along_axis(scenes_BF, order, axis=1)
    relation, figure, ground = take_apart(said_BF)
    at, x, y = np.moveaxis(draws[:, 1 : 1 + 3 * MAX_FACTS].reshape(-1, MAX_FACTS, 3), -1, 0)
    pattern = np.searchsorted(_CUMULATIVE, relation + at, side="right")
    pattern = np.clip(pattern, _PATTERN_START[relation], _PATTERN_END[relation] - 1)
    figure = _PHRASE_START[figure] + (x * _PHRASE_COUNT[figure]).astype(np.int64)
    ground = _PHRASE_START[ground] + (y * _PHRASE_COUNT[ground]).astype(np.int64)
    joins = (draws[:, 1 + 3 * MAX_FACTS :] * len(CONJUNCTIONS)).astype(np.int64)
    return _lay_out(said_BF >= 0, pattern, figure, ground, joins)


def canonical_wordings(scenes_BF: np.ndarray) -> np.ndarray:
    """The canonical wording of each scene as rows of a PhraseTable, (B, S)."""
    relation, figure, ground = take_apart(scenes_BF)
    joins = np.zeros((len(scenes_BF), MAX_FACTS - 1), dtype=np.int64)
    return _lay_out(scenes_BF >= 0, _PATTERN_START[relation], _PHRASE_START[figure], _PHRASE_START[ground], joins)


def _lay_out(
    said_BF: np.ndarray, pattern_BF: np.ndarray, figure_BF: np.ndarray, ground_BF: np.ndarray, joins: np.ndarray
) -> np.ndarray:
    """The rows of each sentence in order: bos; conjunction, opening, object, linking, object of each fact; eos."""
    subject = np.where(_SWAPPED[pattern_BF], ground_BF, figure_BF)
    other = figure_BF + ground_BF - subject
    first = np.where(_SUBJECT_FIRST[pattern_BF], subject, other)
    number = _PLURAL[subject]
    rows = np.full((len(said_BF), 2 + 5 * MAX_FACTS), _NOTHING)
    rows[:, 0], rows[:, -1] = _BOS, _EOS
    clauses = rows[:, 1:-1].reshape(len(said_BF), MAX_FACTS, 5)
    clauses[:, 1:, 0] = _CONJUNCTIONS + joins
    clauses[..., 1] = _OPENINGS + 2 * pattern_BF + number
    clauses[..., 2] = first
    clauses[..., 3] = _LINKINGS + 2 * pattern_BF + number
    clauses[..., 4] = subject + other - first
    clauses[~said_BF] = _NOTHING
    rows[:, 1:-1] = clauses.reshape(len(said_BF), -1)
    return rows


def tokenise(
    table: PhraseTable, rows_BS: np.ndarray, *, buckets: Iterable[int] = BUCKETS
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids (B, T) padded with 0 to the smallest bucket that holds the longest sentence, and the lengths (B,).

    ValueError if a sentence is longer than the largest bucket.
    """
    loose = table.pieces_SW[rows_BS].reshape(len(rows_BS), -1)
    kept = loose >= 0
    lengths_B = kept.sum(axis=1)
    longest = int(lengths_B.max(initial=0))
    fitting = [bucket for bucket in buckets if bucket >= longest]
    if not fitting:
        raise ValueError(f"a sentence of {longest} tokens is longer than the largest bucket, {max(buckets)}")
    tokens_BT = np.zeros((len(rows_BS), min(fitting)), dtype=np.int64)
    tokens_BT[np.arange(tokens_BT.shape[1]) < lengths_B[:, None]] = loose[kept]
    return tokens_BT, lengths_B


def batch_at(
    table: PhraseTable,
    *,
    seed: int,
    step: int,
    size: int,
    rank: int = 0,
    world: int = 1,
    facts: int | None = None,
    split: str | None = "train",
    buckets: Iterable[int] = BUCKETS,
) -> Batch:
    """The slice of rank `rank` of the `size` sentences of step `step`: a pure function of its arguments.

    The ranks' slices in order are the batch that one process would draw. facts: 1 to 3, or None for a uniform mixture.
    ValueError if `size` is not a multiple of `world`.
    """
    if size < 1 or size % world or not 0 <= rank < world:
        raise ValueError(
            f"size {size}, rank {rank}, world {world}: size must be a positive multiple of world, rank in it"
        )
    share = size // world
    index_B = step * size + rank * share + np.arange(share)
    scenes_BF = draw_scenes(seed, index_B, facts=facts, split=split)
    tokens_BT, lengths_B = tokenise(table, draw_wordings(scenes_BF, seed, index_B), buckets=buckets)
    return Batch(tokens_BT, lengths_B, scenes_BF)
