"""Plain text files of any English as a corpus: read, de-duplicated, split without leaks, tokenised once, drawn from.

A file holds one sentence a line, or, if its name ends in .tsv, one group of paraphrases a line, separated by tabs.
Either may end in .gz or .xz. Two sentences that differ in case, whitespace or Unicode composition alone are the same
sentence: the first spelling is kept. Those that differ in what is no letter and no digit, a full stop or the kind of
quotes, stay two, and go to the same split: no split holds another's sentence in different clothes.

Everything is flat arrays: 145,000 captions (9 MB) take 25 MB, and a batch is a pure function of (seed, step, rank).

Shapes: B sentences or pairs of this rank, T tokens, S sentences of the file, M members of all groups in a row.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, final

import numpy as np

from inscape.data.epochs import dice, drawn, positions_of, two_of
from inscape.data.text_lines import is_grouped, letters_of, lines_of, refuse_tabs, refuse_wordless
from inscape.data.text_splits import (
    SPLITS,
    alike,
    among,
    joined,
    least_tied,
    like_lengths,
    of_two,
    refuse_empty_splits,
    split_of_all,
    stirred,
)
from inscape.data.tokenizer import MAX_LENGTH, UNK, Ragged, Tokenizer, bucket_width, normalise, pad_rows

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["SPLITS", "Pairs", "TextCorpus", "TokenisedText"]

_ORDER = np.uint64(0x9E3779B97F4A7C15)  # stirs another order than the one that splits are made by


class Pairs(NamedTuple):
    """Two different sentences of one group, row by row."""

    first: NDArray[np.int64]  # (B, T)
    second: NDArray[np.int64]  # (B, T'), padded for itself


class _Source(NamedTuple):
    """What the file was: the part of the report that no tokenizer changes."""

    file: str
    sha256: str  # of the file as it lies on the disk
    lines: int
    blank: int
    sentences: int  # distinct ones
    duplicates: int  # dropped
    groups: int  # of two distinct sentences or more
    groups_dropped: int  # lines of one sentence said twice


class _Raw(NamedTuple):
    """Sentences as UTF-8 in a row: sentence s is `text[starts[s] : ends[s]]`."""

    text: bytearray
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    loose: NDArray[np.uint64]  # the same for all that differ in nothing but signs: they go to the same split


@final
class TextCorpus:
    """The distinct sentences of a text file, in file order, each in one split; built by `load`.

    The split is decided by a hash of the sentence, so it stays the same when the file grows or is shuffled. Groups
    that share a sentence go to the same split, decided by all their sentences together.
    """

    def __init__(self, source: _Source, raw: _Raw, groups: Ragged, split_S: NDArray[np.int8]) -> None:
        self.source = source
        self.groups = groups  # members are numbers of sentences
        self.split_S = split_S  # place in SPLITS
        self._raw = raw

    @classmethod
    def load(cls, path: Path | str, validation: float = 0.05, test: float = 0.05) -> TextCorpus:
        """Read a text file; `validation` and `test` are the shares held out.

        ValueError, one line: a missing file, a folder, a damaged archive, a line that is not UTF-8, a NUL byte,
        nothing but blank lines, a line of a TSV with one sentence, a share out of range, too few sentences to split.
        """
        if not (validation >= 0 and test >= 0 and validation + test < 1):
            raise ValueError(
                f"shares validation={validation} test={test}; allowed: 0 or more each, less than 1 together"
            )
        path = Path(path)
        everything, all_groups, lines, blank = _read(path)
        raw, distinct_groups = _distinct(everything, all_groups)
        groups = of_two(distinct_groups)
        said_twice = len(distinct_groups.offsets) - len(groups.offsets)
        if said_twice and len(groups.offsets) == 1:
            raise ValueError(f"{path}: no line holds two different sentences; a TSV's columns are paraphrases")
        least_S = least_tied(raw.hashes, joined(groups, alike(raw.loose)))
        split_S = split_of_all(least_S, validation, test)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        source = _Source(
            file=path.name,
            sha256=sha256,
            lines=lines,
            blank=blank,
            sentences=len(raw.hashes),
            duplicates=len(everything.hashes) - len(raw.hashes),
            groups=len(groups.offsets) - 1,
            groups_dropped=said_twice,
        )
        shares = (1 - validation - test, validation, test)
        tied = _most_tied(least_S, raw, groups)
        refuse_empty_splits(str(path), np.bincount(split_S, minlength=3), shares, tied)
        return cls(source, raw, groups, split_S)

    def __len__(self) -> int:
        return len(self.split_S)

    def shuffled(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of sentences in an order that the file's own says nothing about, the same one each time.

        A file may be sorted, by length, say, or by topic: its first thousand lines are no sample of it.
        """
        return rows[np.argsort(stirred(self._raw.hashes[rows] ^ _ORDER), kind="stable")]

    def holds(self, sentence: str) -> bool:
        """Whether the file holds this sentence, or one that differs in case, blanks or signs alone, in any split."""
        name = np.uint64(_loose(normalise(sentence)))
        place = int(np.searchsorted(self._names, name))
        return place < len(self._names) and bool(self._names[place] == name)

    @cached_property
    def _names(self) -> NDArray[np.uint64]:
        return np.sort(self._raw.loose)

    def __getitem__(self, number: int) -> str:
        return self._raw.text[self._raw.starts[number] : self._raw.ends[number]].decode()

    def sentences(self, split: str = "train") -> Iterator[str]:
        """The normalised sentences of one split: what a tokenizer is trained on."""
        return (self[number] for number in np.flatnonzero(self.split_S == _place(split)).tolist())

    def tokenise(
        self, tokenizer: Tokenizer, max_length: int = MAX_LENGTH, on_long: Literal["drop", "refuse"] = "drop"
    ) -> TokenisedText:
        """All sentences as ids; those of more than `max_length` tokens are dropped and counted, or refused.

        ValueError: an over-long sentence under "refuse"; every sentence of a split over-long.
        """
        if on_long not in ("drop", "refuse"):
            raise ValueError(f"on_long {on_long!r}; allowed: drop, refuse")
        tokens = tokenizer.encode_ragged(self[number] for number in range(len(self)))
        lengths_S = np.diff(tokens.offsets)
        fits_S = lengths_S <= max_length
        long = int((~fits_S).sum())
        if long and on_long == "refuse":
            longest = int(lengths_S.argmax())
            raise ValueError(
                f"{self.source.file}: {long} of {len(self)} sentences have more than {max_length} tokens, the longest "
                f"{lengths_S[longest]} ({self[longest][:48]!r}): split them, raise max_length or take on_long='drop'"
            )
        if long == len(self):
            raise ValueError(
                f"{self.source.file}: all {long} sentences have more than {max_length} tokens, the shortest "
                f"{lengths_S.min()}: one sentence a line, or raise max_length"
            )
        return TokenisedText(self, tokenizer, tokens, fits_S, max_length)


@final
class TokenisedText:
    """A corpus as one flat array of ids, and the batches drawn from it; built by `TextCorpus.tokenise`."""

    def __init__(
        self, corpus: TextCorpus, tokenizer: Tokenizer, tokens: Ragged, fits_S: NDArray[np.bool_], max_length: int
    ) -> None:
        self.tokens = tokens  # every sentence of the corpus, also those that are too long to be drawn
        self.groups = of_two(among(corpus.groups, fits_S))
        self.max_length = max_length
        self._corpus, self._fits_S = corpus, fits_S
        self._tokenizer = tokenizer.fingerprint
        split_S = np.where(fits_S, corpus.split_S, -1)
        self._rows = [np.flatnonzero(split_S == place) for place in range(len(SPLITS))]
        group_split = corpus.split_S[self.groups.ids[self.groups.offsets[:-1]]]
        self._groups = [np.flatnonzero(group_split == place) for place in range(len(SPLITS))]
        wanted = np.bincount(corpus.split_S, minlength=len(SPLITS))
        refuse_empty_splits(corpus.source.file, np.array([len(rows) for rows in self._rows]), wanted)

    def rows(self, split: str = "train") -> NDArray[np.int64]:
        """Numbers of the sentences of a split that are short enough, in file order."""
        return self._rows[_place(split)]

    def sampled(self, split: str) -> NDArray[np.int64]:
        """The same in an order that the file's own says nothing about: any first thousand are a sample of the split."""
        return self._corpus.shuffled(self.rows(split))

    def tokens_of(self, rows_B: ArrayLike) -> NDArray[np.int64]:
        """tokens_BT of the sentences with these numbers, padded with 0 to a width of BUCKETS, at most max_length."""
        rows = np.asarray(rows_B, dtype=np.int64)
        longest = (self.tokens.offsets[rows + 1] - self.tokens.offsets[rows]).max(initial=0)
        return pad_rows(self.tokens, rows, bucket_width(int(longest), self.max_length))

    def batch_at(
        self,
        seed: int,
        step: int,
        rank: int,
        world: int,
        batch_size: int,
        split: str = "train",
        *,
        sort_within: int = 1,
    ) -> NDArray[np.int64]:
        """tokens_BT: this rank's part (batch_size / world rows) of the global batch of a step.

        A pure function of its arguments. Every epoch is a new permutation of the split, without replacement.
        sort_within: see `pairs_at`. ValueError: batch_size is not a multiple of world.
        """
        rows = self.rows(split)
        positions = positions_of(step, rank, world, batch_size)
        if sort_within == 1:
            return self.tokens_of(rows[drawn(seed, len(rows), positions)])
        block = positions_of(step // sort_within, 0, 1, sort_within * batch_size)
        block_N = rows[drawn(seed, len(rows), block)]
        lengths_N = self.tokens.offsets[block_N + 1] - self.tokens.offsets[block_N]
        return self.tokens_of(
            block_N[like_lengths(lengths_N, seed, step, rank, len(positions), batch_size, sort_within)]
        )

    def pairs_at(
        self,
        seed: int,
        step: int,
        rank: int,
        world: int,
        batch_size: int,
        split: str = "train",
        *,
        sort_within: int = 1,
    ) -> Pairs:
        """Two different members of each of batch_size / world groups, in either order; pure, epoch by epoch.

        sort_within: batches of like lengths are made out of so many drawn together, and come in any order; most of
        what is computed for batches of unlike lengths is padding.
        ValueError: the file is no TSV, the split has no group, batch_size is not a multiple of world.
        """
        groups = self._groups[_place(split)]
        if not len(groups):
            raise ValueError(
                f"{self._corpus.source.file} has no group of paraphrases in {split!r}: pairs need a .tsv file with two "
                "or more columns"
            )
        positions = positions_of(step, rank, world, batch_size)
        if sort_within == 1:
            return Pairs(*map(self.tokens_of, self._pairs_of(seed, groups, positions)))
        block = positions_of(step // sort_within, 0, 1, sort_within * batch_size)
        first_N, second_N = self._pairs_of(seed, groups, block)
        offsets = self.tokens.offsets
        lengths_2N = [offsets[rows + 1] - offsets[rows] for rows in (first_N, second_N)]
        mine = like_lengths(np.maximum(*lengths_2N), seed, step, rank, len(positions), batch_size, sort_within)
        return Pairs(self.tokens_of(first_N[mine]), self.tokens_of(second_N[mine]))

    def _pairs_of(
        self, seed: int, groups: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The two members that lie at each of `positions`, as numbers of sentences."""
        groups = groups[drawn(seed, len(groups), positions)]
        starts = self.groups.offsets[groups]
        sizes = self.groups.offsets[groups + 1] - starts
        first, second = two_of(sizes, dice(seed, positions))
        return self.groups.ids[starts + first], self.groups.ids[starts + second]

    def pairs(self, split: str) -> list[tuple[int, int]]:
        """Numbers of the first two sentences of each group of a split; the groups in the order of `sampled`."""
        starts = self.groups.offsets[self._groups[_place(split)]]
        second = {int(self.groups.ids[start]): int(self.groups.ids[start + 1]) for start in starts}
        first_N = self._corpus.shuffled(np.array(list(second), dtype=np.int64))
        return [(first, second[first]) for first in first_N.tolist()]

    def report(self) -> dict[str, Any]:
        """What a run's report says of its data; JSON-ready. Lengths are in tokens, bos and eos included."""
        lengths = np.diff(self.tokens.offsets)[self._fits_S]
        low, middle, high = np.quantile(lengths, (0.05, 0.5, 0.95)).tolist()
        return {
            **self._corpus.source._asdict(),
            "tokenizer": self._tokenizer,
            "max_length": self.max_length,
            "too_long": int((~self._fits_S).sum()),
            "groups_too_long": self._corpus.source.groups - (len(self.groups.offsets) - 1),
            "tokens_per_sentence": {"p5": low, "p50": middle, "p95": high, "max": int(lengths.max())},
            "unknown_share": float((self.tokens.ids == UNK).mean()),
            "splits": {name: len(rows) for name, rows in zip(SPLITS, self._rows, strict=True)},
            "group_splits": {name: len(groups) for name, groups in zip(SPLITS, self._groups, strict=True)},
        }


def _place(split: str) -> int:
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; there are: {', '.join(SPLITS)}")
    return SPLITS.index(split)


def _read(path: Path) -> tuple[_Raw, Ragged, int, int]:
    """Every sentence with its duplicates, the groups of a TSV, the number of lines and of blank ones."""
    grouped = is_grouped(path)
    text, ends, hashes, groups = bytearray(), array("q", [0]), array("Q"), array("q", [0])
    loose, wordless, tabbed = array("Q"), [], 0
    number = blank = 0
    for number, line in enumerate(lines_of(path), start=1):
        cells = [cell for cell in map(normalise, line.split("\t") if grouped else (line,)) if cell]
        blank += not cells
        tabbed += "\t" in line.strip()
        if grouped and len(cells) == 1:
            raise ValueError(
                f"{path}, line {number} holds one sentence; in a TSV every line is a group of two or more paraphrases "
                "separated by tabs (for single sentences name the file .txt)"
            )
        for cell in cells:
            text += cell.encode()
            ends.append(len(text))
            hashes.append(_hash(cell.casefold()))
            loose.append(_loose(cell))
            if grouped and not any(map(str.isalpha, cell)):
                wordless.append(f"{cell!r} in line {number}")
        if grouped and cells:
            groups.append(len(hashes))
    if not hashes:
        raise ValueError(f"{path} holds {'only blank lines' if number else 'nothing: the file is empty'}")
    refuse_wordless(path, wordless, len(hashes))
    if not grouped:
        refuse_tabs(path, tabbed, number - blank)
    borders = np.array(ends, dtype=np.int64)
    raw = _Raw(text, borders[:-1], borders[1:], *(np.array(each, dtype=np.uint64) for each in (hashes, loose)))
    members = np.arange(len(hashes) if grouped else 0, dtype=np.int32)
    return raw, Ragged(members, np.array(groups, dtype=np.int64)), number, blank


def _hash(words: str) -> int:
    """64 bits that name a text; two of ten million fall together with probability 3e-6."""
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "little")


def _loose(sentence: str) -> int:
    """64 bits that name a sentence by its letters and digits, whatever stands between; by itself if it has none."""
    return _hash(letters_of(sentence))


def _distinct(raw: _Raw, groups: Ragged) -> tuple[_Raw, Ragged]:
    """The first of every sentence, in file order, and the groups as sets of these."""
    _, first, inverse = np.unique(raw.hashes, return_index=True, return_inverse=True)
    number = np.argsort(np.argsort(first))[inverse].astype(np.int32)
    kept = np.sort(first)
    owner = np.repeat(np.arange(len(groups.offsets) - 1, dtype=np.int32), np.diff(groups.offsets))
    owner_and_member = np.unique(np.stack([owner, number[groups.ids]]), axis=1)
    members = Ragged(owner_and_member[1], np.searchsorted(owner_and_member[0], np.arange(len(groups.offsets))))
    return _Raw(raw.text, raw.starts[kept], raw.ends[kept], raw.hashes[kept], raw.loose[kept]), members


def _most_tied(least_S: NDArray[np.uint64], raw: _Raw, groups: Ragged) -> str:
    """What to say where most of a file hangs together: how much of it, and by which sentence most lines do."""
    if not len(groups.ids):
        return ""
    _, sizes = np.unique(least_S, return_counts=True)
    if 2 * sizes.max() < len(least_S):
        return ""
    times_S = np.bincount(groups.ids, minlength=len(least_S))
    shared = int(times_S.argmax())
    text = raw.text[raw.starts[shared] : raw.ends[shared]].decode()
    return (
        f"; groups that share a sentence stay together, and {sizes.max()} of {len(least_S)} sentences do, "
        f"{times_S[shared]} groups by {text[:40]!r}: leave out what is no paraphrase, such as a column of labels"
    )
