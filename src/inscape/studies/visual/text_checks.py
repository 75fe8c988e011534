"""What P0 asks of a user's own text: can anything be held out of it, and is what is held out really new?

The file is read again here, line by line, and sentences are named in a way of its own (letters and digits alone), so
that a fault of the reader or of the splits is not hidden by being made twice.

Legend: B tuples of a step, T tokens.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from inscape.core.estimate import Estimate, exact, proportion
from inscape.core.gate import Criterion
from inscape.data.text import SPLITS
from inscape.data.text_lines import lines_of
from inscape.studies.visual.sources import Mixture, TextSource

__all__ = ["CRITERIA", "near_copies", "text_checks"]

STEPS, BATCH = 40, 256  # of training tuples that are looked at
LOOKED_AT = 2000  # held-out sentences that are searched for in what is trained on
GRAM = 4  # words
COPIED = 0.9  # share of a sentence's runs of words that one training sentence has

CRITERIA = (
    Criterion("split_leaks", at_most=0, source="calibrated", why="what was trained on cannot be held out, whatever its "
              "case, blanks and signs"),
    Criterion("group_leaks", at_most=0, source="calibrated", why="sentences that mean the same lie in one split"),
    Criterion("near_copies", at_most=0.05, source="calibrated", why="held-out sentences of which one training sentence "
              "has nine tenths of the runs of four words"),
    Criterion("train_share", at_least=0.8, source="calibrated", why="groups that hang together may all be held out"),
    Criterion("too_long_share", at_most=0.1, source="calibrated", why="a codec of the short sentences alone"),
)  # fmt: skip


def text_checks(source: TextSource, file: Path) -> dict[str, Estimate]:
    """The metrics of `CRITERIA`, for a text file that lies at `file`; and how many units (sentences, groups) are held
    out."""
    corpus, tokens = source.corpus, source.tokens
    of_split = {name: set(map(_letters, corpus.sentences(name))) for name in SPLITS}
    train, *held_out = of_split.values()
    leaks = sum(len(train & names) for names in held_out) + len(held_out[0] & held_out[1])
    drawn = list(_trained_on(source))
    leaks += sum(_letters(text) in names for text in drawn for names in held_out)
    groups = list(_groups(file)) if source.has_groups else []
    parted = sum(sum(any(name in names for name in group) for names in of_split.values()) > 1 for group in groups)
    units = len(tokens.pairs("test")) if source.has_groups else len(tokens.rows("test"))
    fitting = {name: len(tokens.rows(name)) for name in SPLITS}
    looked_at = source.held_out(LOOKED_AT)
    copied = near_copies(looked_at, corpus.sentences("train"))
    return {
        "split_leaks": exact(leaks, len(corpus) + len(drawn), "sentences"),
        "group_leaks": exact(parted, max(1, len(groups)), "groups"),
        "near_copies": proportion(copied, len(looked_at), "sentences"),
        "held_out_units": exact(units, units, "groups" if source.has_groups else "sentences"),
        "train_share": exact(fitting["train"] / sum(fitting.values()), sum(fitting.values()), "sentences"),
        "too_long_share": exact(1 - sum(fitting.values()) / len(corpus), len(corpus), "sentences"),
    }


def near_copies(held_out: list[str], train: Iterator[str]) -> int:
    """How many held-out sentences have `COPIED` of their runs of four words in a single training sentence."""
    grams = [set(_grams(sentence)) for sentence in held_out]
    where: dict[tuple[str, ...], list[int]] = {}
    for number, own in enumerate(grams):
        for gram in own:
            where.setdefault(gram, []).append(number)
    copied: set[int] = set()
    for sentence in train:
        shared = Counter(chain.from_iterable(where.get(gram, ()) for gram in set(_grams(sentence))))
        copied |= {number for number, count in shared.items() if count >= COPIED * len(grams[number])}
    return len(copied)


def _grams(sentence: str) -> Iterator[tuple[str, ...]]:
    """Runs of four words, signs left out; a shorter sentence is one run."""
    words = [word for word in map(_letters, sentence.split()) if word]
    return (tuple(words[i : i + GRAM]) for i in range(max(1, len(words) - GRAM + 1)))


def _trained_on(source: TextSource) -> Iterator[str]:
    """Both sides of the tuples of some steps, as training draws them."""
    for step in range(STEPS):
        drawn = source.tuples_at(0, step, 0, 1, BATCH, Mixture())
        for tokens_BT in (drawn.sentence_BT, drawn.paraphrase_BT):
            yield from source.tokenizer.decode(tokens_BT)


def _groups(file: Path) -> Iterator[list[str]]:
    for line in lines_of(file):
        yield [name for name in map(_letters, line.split("\t")) if name]


def _letters(text: str) -> str:
    """Letters and digits alone, without case; of a text that has none, the text."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return "".join(filter(str.isalnum, plain)) or " ".join(plain.split())
