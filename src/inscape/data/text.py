"""Plain text files of any English as a corpus: read, de-duplicated, split without leaks, tokenised once, drawn from.

A file holds one sentence a line, or, if its name ends in .tsv, one group of paraphrases a line, separated by tabs.
Either may end in .gz or .xz. Two sentences that differ in case, whitespace or Unicode composition alone are the same
sentence: the first spelling is kept, so that no split holds another's sentence in different clothes.

Everything is flat arrays: 145,000 captions (9 MB) take 25 MB, and a batch is a pure function of (seed, step, rank).

Shapes: B sentences or pairs of this rank, T tokens, S sentences of the file, M members of all groups in a row.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, cast, final

import numpy as np

from inscape.data.epochs import dice, drawn, epoch_order, positions_of, two_of
from inscape.data.tokenizer import MAX_LENGTH, UNK, Ragged, Tokenizer, bucket_width, normalise, pad_rows

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["SPLITS", "Pairs", "TextCorpus", "TokenisedText", "is_grouped", "lines_of"]

SPLITS = ("train", "validation", "test")

_LONGEST_LINE = 1 << 20  # bytes; a binary file without line ends must not be swallowed whole
_OPENERS = {".gz": gzip.open, ".xz": lzma.open}


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
        groups = _of_two(distinct_groups)
        said_twice = len(distinct_groups.offsets) - len(groups.offsets)
        if said_twice and len(groups.offsets) == 1:
            raise ValueError(f"{path}: no line holds two different sentences; a TSV's columns are paraphrases")
        split_S = _split(raw.hashes, groups, validation, test)
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
        _refuse_empty_splits(str(path), np.bincount(split_S, minlength=3), (1 - validation - test, validation, test))
        return cls(source, raw, groups, split_S)

    def __len__(self) -> int:
        return len(self.split_S)

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
        self.groups = _of_two(_among(corpus.groups, fits_S))
        self.max_length = max_length
        self._corpus, self._fits_S = corpus, fits_S
        self._tokenizer = tokenizer.fingerprint
        split_S = np.where(fits_S, corpus.split_S, -1)
        self._rows = [np.flatnonzero(split_S == place) for place in range(len(SPLITS))]
        group_split = corpus.split_S[self.groups.ids[self.groups.offsets[:-1]]]
        self._groups = [np.flatnonzero(group_split == place) for place in range(len(SPLITS))]
        wanted = np.bincount(corpus.split_S, minlength=len(SPLITS))
        _refuse_empty_splits(corpus.source.file, np.array([len(rows) for rows in self._rows]), wanted)

    def rows(self, split: str = "train") -> NDArray[np.int64]:
        """Numbers of the sentences of a split that are short enough, in file order."""
        return self._rows[_place(split)]

    def tokens_of(self, rows_B: ArrayLike) -> NDArray[np.int64]:
        """tokens_BT of the sentences with these numbers, padded with 0 to a width of BUCKETS, at most max_length."""
        rows = np.asarray(rows_B, dtype=np.int64)
        longest = (self.tokens.offsets[rows + 1] - self.tokens.offsets[rows]).max(initial=0)
        return pad_rows(self.tokens, rows, bucket_width(int(longest), self.max_length))

    def batch_at(
        self, seed: int, step: int, rank: int, world: int, batch_size: int, split: str = "train"
    ) -> NDArray[np.int64]:
        """tokens_BT: this rank's part (batch_size / world rows) of the global batch of a step.

        A pure function of its arguments. Every epoch is a new permutation of the split, without replacement.
        ValueError: batch_size is not a multiple of world.
        """
        rows = self.rows(split)
        return self.tokens_of(rows[drawn(seed, len(rows), positions_of(step, rank, world, batch_size))])

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
        share = len(positions)
        block, place = divmod(step, sort_within)
        first_N, second_N = self._pairs_of(seed, groups, positions_of(block, 0, 1, sort_within * batch_size))
        offsets = self.tokens.offsets
        lengths_2N = [offsets[rows + 1] - offsets[rows] for rows in (first_N, second_N)]
        order_N = np.argsort(np.maximum(*lengths_2N), kind="stable")
        batch = int(epoch_order(seed, block, sort_within)[place])
        mine = order_N[batch * batch_size : (batch + 1) * batch_size][rank * share : (rank + 1) * share]
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
        """Numbers of the first two sentences of each group of a split, in file order."""
        starts = self.groups.offsets[self._groups[_place(split)]]
        return [(int(self.groups.ids[start]), int(self.groups.ids[start + 1])) for start in starts]

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


def is_grouped(path: Path | str) -> bool:
    """Whether a file of this name holds groups of paraphrases (.tsv, packed or not) rather than single sentences."""
    return next((suffix for suffix in reversed(Path(path).suffixes) if suffix not in _OPENERS), "") == ".tsv"


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a text file, decoded one by one; every way in which it can be unreadable is a ValueError."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a text file (.txt or .tsv, also .gz or .xz)")
    try:
        with cast(IO[bytes], _OPENERS.get(path.suffix, open)(path, "rb")) as file:
            for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE + 1), b""), start=1):
                yield _decoded(path, number, line)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except (gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is damaged or not a {path.suffix} file: {error}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


def _decoded(path: Path, number: int, line: bytes) -> str:
    if len(line) > _LONGEST_LINE:
        raise ValueError(f"{path}, line {number} is longer than {_LONGEST_LINE} bytes; put one sentence on a line")
    if b"\0" in line:
        raise ValueError(
            f"{path}, line {number}, byte {line.index(0) + 1} is NUL: a binary or UTF-16 file; save it as UTF-8 text"
        )
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}, line {number}, byte {error.start + 1} (0x{line[error.start]:02x}) is not UTF-8; save it as UTF-8"
        ) from None
    return text.removeprefix("\ufeff") if number == 1 else text


def _read(path: Path) -> tuple[_Raw, Ragged, int, int]:
    """Every sentence with its duplicates, the groups of a TSV, the number of lines and of blank ones."""
    grouped = is_grouped(path)
    text, ends, hashes, groups = bytearray(), array("q", [0]), array("Q"), array("q", [0])
    number = blank = 0
    for number, line in enumerate(lines_of(path), start=1):
        cells = [cell for cell in map(normalise, line.split("\t") if grouped else (line,)) if cell]
        blank += not cells
        if grouped and len(cells) == 1:
            raise ValueError(
                f"{path}, line {number} holds one sentence; in a TSV every line is a group of two or more paraphrases "
                "separated by tabs (for single sentences name the file .txt)"
            )
        for cell in cells:
            text += cell.encode()
            ends.append(len(text))
            hashes.append(_identity(cell))
        if grouped and cells:
            groups.append(len(hashes))
    if not hashes:
        raise ValueError(f"{path} holds {'only blank lines' if number else 'nothing: the file is empty'}")
    borders = np.array(ends, dtype=np.int64)
    raw = _Raw(text, borders[:-1], borders[1:], np.array(hashes, dtype=np.uint64))
    members = np.arange(len(hashes) if grouped else 0, dtype=np.int32)
    return raw, Ragged(members, np.array(groups, dtype=np.int64)), number, blank


def _identity(sentence: str) -> int:
    """64 bits that name a sentence whatever its case; two of ten million fall together with probability 3e-6."""
    return int.from_bytes(hashlib.blake2b(sentence.casefold().encode(), digest_size=8).digest(), "little")


def _distinct(raw: _Raw, groups: Ragged) -> tuple[_Raw, Ragged]:
    """The first of every sentence, in file order, and the groups as sets of these."""
    _, first, inverse = np.unique(raw.hashes, return_index=True, return_inverse=True)
    number = np.argsort(np.argsort(first))[inverse].astype(np.int32)
    kept = np.sort(first)
    owner = np.repeat(np.arange(len(groups.offsets) - 1, dtype=np.int32), np.diff(groups.offsets))
    owner_and_member = np.unique(np.stack([owner, number[groups.ids]]), axis=1)
    members = Ragged(owner_and_member[1], np.searchsorted(owner_and_member[0], np.arange(len(groups.offsets))))
    return _Raw(raw.text, raw.starts[kept], raw.ends[kept], raw.hashes[kept]), members


def _among(groups: Ragged, allowed_S: NDArray[np.bool_]) -> Ragged:
    """The groups without the sentences that are not allowed."""
    inside = allowed_S[groups.ids]
    return Ragged(groups.ids[inside], np.concatenate([[0], np.cumsum(inside)])[groups.offsets])


def _of_two(groups: Ragged) -> Ragged:
    """The groups that have two members or more."""
    sizes = np.diff(groups.offsets)
    members = groups.ids[np.repeat(sizes >= 2, sizes)]
    return Ragged(members, np.concatenate([[0], np.cumsum(sizes[sizes >= 2])]))


def _split(hashes: NDArray[np.uint64], groups: Ragged, validation: float, test: float) -> NDArray[np.int8]:
    """A split for every sentence, the same for all that groups tie together: by the least of their hashes, stirred."""
    least = hashes.copy()
    owner = np.repeat(np.arange(len(groups.offsets) - 1, dtype=np.int32), np.diff(groups.offsets))
    changed = len(owner) > 0
    while changed:
        of_group = np.minimum.reduceat(least[groups.ids], groups.offsets[:-1])
        changed = bool((least[groups.ids] != of_group[owner]).any())
        np.minimum.at(least, groups.ids, of_group[owner])
    # The least of several hashes is small; splitmix64 (Steele et al. 2014) makes it uniform again.
    mixed = (least ^ (least >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    uniform = ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
    return np.select([uniform < validation, uniform < validation + test], [1, 2], 0).astype(np.int8)


def _refuse_empty_splits(file: str, counts: ArrayLike, wanted: ArrayLike) -> None:
    """ValueError if a split that should have sentences has none."""
    for name, count, share in zip(SPLITS, np.asarray(counts).tolist(), np.asarray(wanted).tolist(), strict=True):
        if share > 0 and count == 0:
            raise ValueError(
                f"{file} has too few sentences to split: none falls to {name!r}; give more (200 are plenty), or other "
                "shares for validation and test (0 leaves a split out)"
            )
