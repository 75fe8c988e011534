"""Hard negatives for text that no grammar describes: the sentence itself with two words exchanged, or one replaced.

Natural English has no parser that proves a change of meaning, so these are likely and not certain: "red and blue"
exchanged says the same. Three choices keep the share of such cases, and of cheap cues, low. Only content words are
moved: "the" for "a" changes next to nothing, so a closed list of function words stays. Only words of small letters are
moved: a capital in the middle or a full stop before the end would give the negative away without reading. (A word with
a character that the vocabulary knows only as bytes stays as well.) And a word is replaced by one of as many tokens and
like frequency, so neither length nor rareness tells. Grammar can: "an apple" may become "an dog", "two cats" "two red".

    words = lexicon(tokenizer, text.tokens, text.rows("train"))          once a corpus
    negatives = word_swap(words, tokens_BT, seed=0, step=7, row_B=np.arange(len(tokens_BT)))

A negative is a pure function of (sentence, seed, step, row): `row_B` are numbers in the global batch, so that ranks
draw what one process would. Source: exchanged words as negatives, Yuksekgonul et al. 2023; replaced words, Hsieh et al.
2023 (SugarCrepe), on what a blind model can tell from careless negatives.

Shapes: B sentences, T tokens, V ids of the vocabulary, W words of the lexicon, N tokens of a corpus in a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from inscape.data.scenes.fast import uniforms
from inscape.data.scenes.splits import mix
from inscape.data.tokenizer import SPECIALS, UNK, Ragged, pad_rows

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from inscape.data.tokenizer import Tokenizer

__all__ = ["FUNCTION_WORDS", "Lexicon", "TextNegatives", "lexicon", "word_replace", "word_swap"]

# Articles, pronouns, prepositions and particles, conjunctions, auxiliaries, negation, and adverbs of degree: the closed
# classes of English. "left", "right" and the numerals from two on are missing: a picture depends on them.
_CLOSED_CLASSES = """
    a an the this that these those some any each every either neither both all such no another other own same
    i me my mine myself you your yours yourself yourselves he him his himself she her hers herself it its itself
    we us our ours ourselves they them their theirs themselves one ones someone something anyone anything everyone
    everything nobody nothing who whom whose which what where when why how there here
    about above across after against along alongside amid among around as at atop away before behind below beneath
    beside besides between beyond by down during for from in inside into near next of off on onto out outside over past
    per since than through throughout till to together toward towards under underneath until up upon via with within
    without and but or nor so yet if because although though unless whereas while whether then
    am is are was were be been being have has had having do does did doing done will would shall should can could may
    might must not just very too also only even again still already almost quite rather more most less least much many
"""
FUNCTION_WORDS = tuple(_CLOSED_CLASSES.split())

_SWAP_STREAM, _REPLACE_STREAM = 3 << 32, 4 << 32  # of `uniforms`; a step is added to them
_NEAREST = 10  # places among the frequencies on either side from which a word can always be taken
_ROWS_AT_ONCE = 8_192


class Lexicon(NamedTuple):
    """The content words of a corpus, by number of tokens and then by falling frequency, and how to tell them.

    Word w gives its place to another of the words `low_W[w] : high_W[w]`, all of as many tokens; a word of n tokens
    that the corpus has not to one of `low_rare[n] : high_rare[n]`, its rarest.
    """

    starts_V: NDArray[np.bool_]  # ids that start a word
    letters_V: NDArray[np.bool_]  # ids of small letters alone
    function_keys: NDArray[np.uint64]  # sorted
    tokens: Ragged  # of the words
    counts_W: NDArray[np.int64]
    low_W: NDArray[np.int64]
    high_W: NDArray[np.int64]
    low_rare: NDArray[np.int64]
    high_rare: NDArray[np.int64]
    keys_W: NDArray[np.uint64]  # sorted
    word_of_key_W: NDArray[np.int64]


class TextNegatives(NamedTuple):
    """Sentences of unchanged lengths, one word or two changed; rows that allow no change are as they were."""

    tokens_BT: NDArray[np.int64]
    changed_B: NDArray[np.bool_]


class _Words(NamedTuple):
    """At the place of the first token of each word: its length, its name, and whether it is a content word."""

    length_BT: NDArray[np.int64]  # tokens
    key_BT: NDArray[np.uint64]  # a hash of its tokens
    content_BT: NDArray[np.bool_]


def lexicon(tokenizer: Tokenizer, tokens: Ragged, rows_B: ArrayLike) -> Lexicon:
    """The content words of the sentences with these numbers, which should be those of the training split.

    ValueError if they hold no content word.
    """
    rows = np.asarray(rows_B, dtype=np.int64)
    letters_V = np.array([text.isalpha() and text == text.lower() for text in _texts(tokenizer)])
    starts_V = tokenizer.starts_word()
    # A piece can be the mark of a new word alone, with the letters in the next.
    letters_V |= starts_V & np.array([not text for text in _texts(tokenizer)])
    function = tokenizer.word_ids(FUNCTION_WORDS).values()
    function_keys = np.sort([_key(ids) for ids in function]).astype(np.uint64)
    parts = [
        _counted(tokens, rows[start : start + _ROWS_AT_ONCE], starts_V, letters_V, function_keys)
        for start in range(0, len(rows), _ROWS_AT_ONCE)
    ]
    if not sum(len(part[0]) for part in parts):
        raise ValueError(f"no content word of small letters in {len(rows)} sentences: give other rows or another text")
    key, count, place, length = (np.concatenate(column) for column in zip(*parts, strict=True))
    keys_W, first_W, inverse = np.unique(key, return_index=True, return_inverse=True)
    count_W = np.bincount(inverse, weights=count).astype(np.int64)
    order = np.lexsort((keys_W, -count_W, length[first_W]))
    length_W, count_W = length[first_W][order], count_W[order]
    offsets = np.concatenate([[0], np.cumsum(length_W)])
    source = np.repeat(place[first_W][order] - offsets[:-1], length_W) + np.arange(offsets[-1])
    return Lexicon(
        starts_V,
        letters_V,
        function_keys,
        Ragged(tokens.ids[source], offsets),
        count_W,
        *_like(length_W, count_W),
        keys_W,
        np.argsort(order),
    )


def word_swap(words: Lexicon, tokens_BT: ArrayLike, *, seed: int, step: int, row_B: ArrayLike) -> TextNegatives:
    """Each sentence with two different content words exchanged: the first uniform, then the second among the others.

    Every word is kept, and its number of tokens. tokens_BT: `bos w1 .. wn eos`, padded with 0, as `Tokenizer.encode`
    gives; start, end and padding stay. ValueError unless tokens are (B, T) integers and row_B is (B,).
    """
    tokens_BT, row_B = _checked(tokens_BT, row_B)
    found = _words(tokens_BT, words.starts_V, words.letters_V, words.function_keys)
    draws = uniforms(seed, _SWAP_STREAM + step, row_B, 2)
    first_B, _ = _pick(found.content_BT, draws[:, 0])
    rows = np.arange(len(tokens_BT))
    partners_BT = found.content_BT & (found.key_BT != found.key_BT[rows, first_B][:, None])
    second_B, changed_B = _pick(partners_BT, draws[:, 1])
    left, right = np.minimum(first_B, second_B)[:, None], np.maximum(first_B, second_B)[:, None]
    n_left, n_right = found.length_BT[rows[:, None], left], found.length_BT[rows[:, None], right]
    # Where each place takes its token from: the right word, what stood between, the left word; the rest stays.
    at = np.arange(tokens_BT.shape[1])
    between = left + n_right
    again = right + n_right - n_left
    moved = np.where(at < between, at - left + right, np.where(at < again, at - n_right + n_left, at - again + left))
    inside = (at >= left) & (at < right + n_right) & changed_B[:, None]
    return TextNegatives(np.take_along_axis(tokens_BT, np.where(inside, moved, at), axis=1), changed_B)


def word_replace(words: Lexicon, tokens_BT: ArrayLike, *, seed: int, step: int, row_B: ArrayLike) -> TextNegatives:
    """Each sentence with one content word, uniform, replaced by another of as many tokens and like frequency.

    Uniform among the words of half to twice its count in the corpus, and the 10 nearest on either side at least; a word
    that the corpus has not is taken to be one of its rarest. Arguments and errors as in `word_swap`.
    """
    tokens_BT, row_B = _checked(tokens_BT, row_B)
    found = _words(tokens_BT, words.starts_V, words.letters_V, words.function_keys)
    draws = uniforms(seed, _REPLACE_STREAM + step, row_B, 2)
    length_BT = np.minimum(found.length_BT, len(words.low_rare) - 1)
    place_BT = np.minimum(np.searchsorted(words.keys_W, found.key_BT), len(words.keys_W) - 1)
    known_BT = words.keys_W[place_BT] == found.key_BT
    word_BT = words.word_of_key_W[place_BT]
    low_BT = np.where(known_BT, words.low_W[word_BT], words.low_rare[length_BT])
    high_BT = np.where(known_BT, words.high_W[word_BT], words.high_rare[length_BT])
    others_BT = high_BT - low_BT - known_BT
    at_B, changed_B = _pick(found.content_BT & (others_BT > 0), draws[:, 0])
    here = np.arange(len(tokens_BT)), at_B
    chosen_B = low_BT[here] + (draws[:, 1] * others_BT[here]).astype(np.int64)
    chosen_B += known_BT[here] & (chosen_B >= word_BT[here])
    offset_BT = np.arange(tokens_BT.shape[1]) - at_B[:, None]
    inside = (offset_BT >= 0) & (offset_BT < found.length_BT[here][:, None]) & changed_B[:, None]
    start_B = words.tokens.offsets[np.where(changed_B, chosen_B, 0)]
    made_BT = tokens_BT.copy()
    made_BT[inside] = words.tokens.ids[(start_B[:, None] + offset_BT)[inside]]
    return TextNegatives(made_BT, changed_B)


def _checked(tokens_BT: ArrayLike, row_B: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    tokens, rows = np.asarray(tokens_BT), np.asarray(row_B)
    if tokens.ndim != 2 or rows.shape != tokens.shape[:1] or not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(
            f"tokens are {tokens.dtype} of shape {tokens.shape}, row numbers of shape {rows.shape}; "
            "needed: integers of shape (B, T) and (B,)"
        )
    return tokens.astype(np.int64), rows.astype(np.int64)


def _texts(tokenizer: Tokenizer) -> list[str]:
    """What each id says by itself; U+FFFD for a part of a character."""
    return tokenizer.decode(np.arange(tokenizer.vocab_size)[:, None])


def _hash(tokens: NDArray[np.int64], offset: NDArray[np.int64]) -> NDArray[np.uint64]:
    """One random-looking word for a token at this place of its word; the sum over a word names it."""
    with np.errstate(over="ignore"):
        return mix(mix(tokens.astype(np.uint64)) + offset.astype(np.uint64))


def _key(ids: list[int]) -> np.uint64:
    return _hash(np.array(ids, dtype=np.int64), np.arange(len(ids))).sum(dtype=np.uint64)


def _words(
    tokens_BT: NDArray[np.int64],
    starts_V: NDArray[np.bool_],
    letters_V: NDArray[np.bool_],
    function_keys: NDArray[np.uint64],
) -> _Words:
    count, width = tokens_BT.shape
    at = np.arange(width)
    said_BT = (tokens_BT >= len(SPECIALS)) | (tokens_BT == UNK)
    starts_BT = starts_V[tokens_BT]
    start_BT = np.maximum.accumulate(np.where(starts_BT, at, 0), axis=1)
    # A word ends where the next begins or the sentence does: the nearest such place behind each.
    borders_BT = np.where(starts_BT | ~said_BT, at, width)
    borders_BT = np.minimum.accumulate(borders_BT[:, ::-1], axis=1)[:, ::-1]
    end_BT = np.concatenate([borders_BT[:, 1:], np.full((count, 1), width)], axis=1)

    def summed(values_BT: NDArray) -> NDArray:
        """The sum from each place to the end of its word."""
        total_BT = np.concatenate([np.zeros((count, 1), values_BT.dtype), np.cumsum(values_BT, axis=1)], axis=1)
        return np.take_along_axis(total_BT, end_BT, axis=1) - total_BT[:, :-1]

    key_BT = summed(_hash(tokens_BT, at - start_BT))
    length_BT = np.where(starts_BT, end_BT - at, 0)
    spelt_BT = summed(letters_V[tokens_BT].astype(np.int64)) == length_BT
    return _Words(length_BT, key_BT, starts_BT & spelt_BT & ~np.isin(key_BT, function_keys))


def _pick(allowed_BT: NDArray[np.bool_], draw_B: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """One of the allowed places of each row, uniform, and whether there is one (the place is 0 where there is none)."""
    number_BT = np.cumsum(allowed_BT, axis=1)
    count_B = allowed_BT.sum(axis=1)
    wanted_B = 1 + (draw_B * count_B).astype(np.int64)
    return (allowed_BT & (number_BT == wanted_B[:, None])).argmax(axis=1), count_B > 0


def _counted(
    tokens: Ragged,
    rows: NDArray[np.int64],
    starts_V: NDArray[np.bool_],
    letters_V: NDArray[np.bool_],
    function_keys: NDArray[np.uint64],
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The distinct content words of some sentences: key, count, a place in `tokens.ids`, number of tokens."""
    found = _words(pad_rows(tokens, rows), starts_V, letters_V, function_keys)
    row, at = np.nonzero(found.content_BT)
    keys, first, counts = np.unique(found.key_BT[row, at], return_index=True, return_counts=True)
    row, at = row[first], at[first]
    return keys, counts, tokens.offsets[rows[row]] + at, found.length_BT[row, at]


def _like(
    length_W: NDArray[np.int64], count_W: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """For each word the range of words like it, and for each number of tokens the range of the rarest."""
    low_W, high_W = np.zeros_like(count_W), np.zeros_like(count_W)
    low_rare, high_rare = (np.zeros(int(length_W.max(initial=0)) + 2, dtype=np.int64) for _ in range(2))
    for length in np.unique(length_W).tolist():
        begin, end = np.searchsorted(length_W, [length, length + 1]).tolist()
        rarity = -count_W[begin:end]
        place = np.arange(end - begin)
        low = np.minimum(np.searchsorted(rarity, 2 * rarity, side="left"), place - _NEAREST)
        high = np.maximum(np.searchsorted(rarity, rarity / 2, side="right"), place + 1 + _NEAREST)
        low_W[begin:end], high_W[begin:end] = begin + np.maximum(low, 0), np.minimum(begin + high, end)
        low_rare[length], high_rare[length] = low_W[end - 1], end
    return low_W, high_W, low_rare, high_rare
