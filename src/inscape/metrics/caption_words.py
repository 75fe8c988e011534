"""What a word of a caption is, so that every caption metric reads the same ones; and which captions are stuck.

The papers' tables come from Stanford's PTB tokenizer, which needs Java. `words` does what it does to plain captions, in
two regular expressions: of the 52,313 captions of AudioCaps (Kim et al. 2019) 18 come out differently, half of them
because the original keeps a bracket as the word "-lrb-", which is a slip of its list of signs.

A caption model that fails does not write wrong sentences, it gets stuck: nothing, or one thing again and again. No mean
of overlaps shows this as what it is, so `degenerate` looks for it in the caption alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import chain

__all__ = ["check_groups", "degenerate", "reference_words", "run_counts", "word_pairs", "words"]

_CLITIC = r"'(?:s|re|ve|ll|d|m)\b"
_BEFORE_CLITIC = re.compile(rf"(?<=\w)(?=n't\b|{_CLITIC})")
_SIGN = re.compile(
    r"""[?!;"`“”…()\[\]{}–—]|(?<!\d)[.,:]|[.,:](?!\d)|(?<!\w)-|-(?!\w)|'(?!\w)"""
    rf"|(?<!\w)(?!{_CLITIC})'"
)
_TWO_WORDS = {"cannot": ("can", "not"), "gonna": ("gon", "na"), "gotta": ("got", "ta"), "wanna": ("wan", "na")}

SAME_WORD, SAME_NGRAM = 4, 3  # so many times in a row is stuck: "very very very loud" is English
FEW_OF, FEW = 9, 3  # among so many words or more, fewer than one in `FEW` distinct is stuck


def words(caption: str) -> list[str]:
    """The words of a caption, lower case: what stands between spaces once the signs are gone.

    Removed: . , : (kept between two digits: 3.5, 10:30), ? ! ; quotes, brackets, dashes, dots in a row, a hyphen or an
    apostrophe that is not inside a word ("high-pitched" and "o'clock" are one word). Parted as PTB does: dog's ->
    dog 's, isn't -> is n't, they're -> they 're, cannot -> can not, gonna -> gon na. Signs that are read aloud stay
    (& % $ /). Unlike PTB, an abbreviation loses its dots ("p.a." -> p a).
    """
    text = caption.lower().replace("’", "'")
    if "'" in text:
        text = _BEFORE_CLITIC.sub(" ", text)
    found = _SIGN.sub(" ", text).split()
    if _TWO_WORDS.keys().isdisjoint(found):
        return found
    return [part for word in found for part in _TWO_WORDS.get(word, (word,))]


def run_counts(caption_words: Sequence[str]) -> Counter[tuple[str, ...]]:
    """How often each run of 1 to 4 words occurs, all lengths in one."""
    second, third, fourth = caption_words[1:], caption_words[2:], caption_words[3:]
    return Counter(
        chain(
            zip(caption_words, strict=False),
            zip(caption_words, second, strict=False),
            zip(caption_words, second, third, strict=False),
            zip(caption_words, second, third, fourth, strict=False),
        )
    )


def reference_words(references: Sequence[Sequence[str]]) -> list[list[list[str]]]:
    """The words of the references of each clip. ValueError if a clip has none, or text stands where a list should."""
    if isinstance(references, str):
        raise ValueError("references: given one text, wanted a list with a list of captions for each clip")
    for clip, captions in enumerate(references):
        if isinstance(captions, str):
            raise ValueError(f"references[{clip}]: given one text, wanted a list of captions: put it into brackets")
        if not len(captions):
            raise ValueError(f"references[{clip}] is empty: a clip without references cannot be scored, leave it out")
        _check_texts(captions, f"references[{clip}]")
    return [[words(caption) for caption in captions] for captions in references]


def word_pairs(
    candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> list[tuple[list[str], list[list[str]]]]:
    """For each clip the words of its caption and of its references; ValueError in one line on what does not fit."""
    if isinstance(candidates, str):
        raise ValueError("candidates: given one text, wanted a list with a caption for each clip")
    _check_texts(candidates, "candidates")
    of_references = reference_words(references)
    if len(candidates) != len(of_references):
        raise ValueError(
            f"given {len(candidates)} captions and references of {len(of_references)} clips, wanted as many of both"
        )
    return list(zip(map(words, candidates), of_references, strict=True))


def check_groups(groups: Sequence[Hashable] | None, clips: int) -> None:
    """ValueError unless there is a group for each clip, or none at all."""
    if groups is not None and len(groups) != clips:
        raise ValueError(f"wanted a group for each clip, given {len(groups)} groups and {clips} clips")


def degenerate(caption: str) -> str:
    """Why the caption is stuck, in a few words, or "" if it is not; it may well be wrong otherwise.

    Stuck: no word; a word 4 times in a row; two or more words 3 times in a row; among 9 words or more, fewer than a
    third distinct.
    """
    written = words(caption)
    if not written:
        return "empty"
    for n in range(1, len(written) // SAME_NGRAM + 1):
        length, start = _longest_repeat(written, n)
        times = length // n + 1
        if times >= (SAME_WORD if n == 1 else SAME_NGRAM):
            return f'"{" ".join(written[start : start + n])}" {times} times in a row'
    distinct = len(set(written))
    if len(written) >= FEW_OF and FEW * distinct < len(written):
        return f"{distinct} distinct of {len(written)} words"
    return ""


def _longest_repeat(written: Sequence[str], n: int) -> tuple[int, int]:
    """The longest run of words that are the same as those `n` later, and where it starts; the first of the longest."""
    longest, at, run = 0, 0, 0
    for place in range(len(written) - n):
        run = run + 1 if written[place] == written[place + n] else 0
        if run > longest:
            longest, at = run, place - run + 1
    return longest, at


def _check_texts(captions: Sequence[str], name: str) -> None:
    for place, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise ValueError(f"{name}[{place}] is {type(caption).__name__}, wanted a caption as text")
