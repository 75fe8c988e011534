"""What a codec is asked: sentences, what is wrong with them, and what is strange about them.

Every message calls a sentence by a name: its number, or what the caller calls it, such as the line of a file.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import numpy as np

from inscape.data.scenes import WORDS
from inscape.data.tokenizer import SPECIALS, Tokenizer

__all__ = ["checked_sentences", "names_of", "of_the_grammar", "refuse_long", "unknown_word"]

LONGEST_SHOWN = 40  # characters of a word in a message


def names_of(count: int, names: Sequence[str] | None = None) -> Sequence[str]:
    """What messages call each sentence: sentence 1, sentence 2, ..., unless the caller has names."""
    return [f"sentence {number}" for number in range(1, count + 1)] if names is None else names


def checked_sentences(sentences: Iterable[str], names: Sequence[str] | None = None) -> list[str]:
    """The sentences as a list; ValueError in one line on anything that is not one text or more."""
    if isinstance(sentences, str | bytes):
        raise ValueError("encode wants a list of sentences; for one sentence give [sentence]")
    try:
        given = iter(sentences)
    except TypeError:  # a tensor of one number calls itself iterable, and is not
        raise ValueError(f"a list of sentences is wanted; given: {str(sentences)[:LONGEST_SHOWN]}") from None
    found = list(given)
    if not found:
        raise ValueError("no sentence to encode; give one or more")
    for name, sentence in zip(names_of(len(found), names), found, strict=True):
        if not isinstance(sentence, str):
            raise ValueError(f"{name} is a {type(sentence).__name__}; give text")
        if not sentence.strip():
            raise ValueError(f"{name} is empty; leave it out")
        try:
            sentence.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{name} holds a lone surrogate at character {error.start + 1}; leave it out") from None
    return found


def refuse_long(texts: Sequence[str], names: Sequence[str], tokenizer: Tokenizer, limit: int) -> None:
    """ValueError in one line that names the first sentence of more than `limit` tokens."""
    length_B = np.diff(tokenizer.encode_ragged(texts).offsets)
    for row in np.flatnonzero(length_B > limit)[:1]:
        raise ValueError(
            f"{names[row]}: {length_B[row]} tokens with start and end, allowed {limit}; shorten or split it"
        )


def unknown_word(sentence: str) -> str:
    """The first word that is none of the grammar, in words; empty if all are."""
    stripped = sentence.strip().removesuffix(".")
    for word in f"{stripped[:1].lower()}{stripped[1:]}".split():
        if word not in WORDS:
            shown = word if len(word) <= LONGEST_SHOWN else f"{word[: LONGEST_SHOWN - 1]}…"
            near = difflib.get_close_matches(word[:LONGEST_SHOWN], WORDS, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            return f"not a scene sentence: {shown!r} is not one of the {len(WORDS)} words of the grammar{hint}"
    return ""


def of_the_grammar(tokenizer: Tokenizer) -> bool:
    """Whether each word of the grammar is one id, and every id but the specials and bytes a piece of such a word."""
    if tokenizer.unknown_words(" ".join(WORDS)) or max(map(len, tokenizer.word_ids(WORDS).values())) > 1:
        return False
    pieces = tokenizer.decode([[token] for token in range(len(SPECIALS), tokenizer.vocab_size)])
    return all(len(piece) < 2 or any(piece in word for word in WORDS) for piece in pieces)
