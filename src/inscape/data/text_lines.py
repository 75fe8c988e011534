"""The lines of a text file, plain or packed, or one line of text that says why they cannot be read."""

from __future__ import annotations

import gzip
import lzma
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import IO, cast

from inscape.user_paths import is_there

__all__ = ["first_cells", "is_grouped", "letters_of", "lines_of", "refuse_tabs", "refuse_wordless"]

_LONGEST_LINE = 1 << 20  # bytes; a binary file without line ends must not be swallowed whole
_OPENERS = {".gz": gzip.open, ".xz": lzma.open}
_MOST_WORDLESS = 0.01  # share of a TSV's sentences that may have no letter
_LOOKED_AT = 2000  # lines of a text that is only measured, by which a table is told from sentences
_OTHERS = {  # what is no text of sentences, by its name
    ".csv": "a table; write its column of sentences into a .txt file, one a line",
    ".json": "JSON; write its sentences into a .txt file, one a line",
    ".jsonl": "JSON; write its sentences into a .txt file, one a line",
}


def is_grouped(path: Path | str) -> bool:
    """Whether a file of this name holds groups of paraphrases (.tsv, packed or not) rather than single sentences."""
    return _kind(Path(path)) == ".tsv"


def _kind(path: Path) -> str:
    """The ending of the name in lower case, that of the packing left out."""
    suffixes = (suffix.lower() for suffix in reversed(path.suffixes))
    return next((suffix for suffix in suffixes if suffix not in _OPENERS), "")


def letters_of(sentence: str) -> str:
    """The letters and digits alone, without case, by which sentences are told apart; without any, all of it."""
    plain = unicodedata.normalize("NFKC", sentence).casefold()
    return "".join(filter(str.isalnum, plain)) or plain


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a text file, decoded one by one; every way in which it can be unreadable is a ValueError."""
    if is_there(path) and path.is_dir():
        raise ValueError(f"{path} is a folder; name a text file (.txt or .tsv, also .gz or .xz)")
    if path.is_file() and _kind(path) in _OTHERS:
        raise ValueError(f"{path} is {_OTHERS[_kind(path)]} (docs/own-text.md has the command)")
    try:
        with cast(IO[bytes], _OPENERS.get(path.suffix.lower(), open)(path, "rb")) as file:
            for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE + 1), b""), start=1):
                yield _decoded(path, number, line)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except (gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is damaged or not a {path.suffix} file: {error}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


def first_cells(path: Path) -> Iterator[str]:
    """What stands before the first tab of each line; ValueError also if the first lines are another kind of table."""
    lines, grouped = lines_of(path), is_grouped(path)
    head = list(islice(lines, _LOOKED_AT))
    if grouped:
        first = [(number, line.split("\t")[0].strip()) for number, line in enumerate(head, start=1)]
        wordless = [f"{cell!r} in line {number}" for number, cell in first if cell and not any(map(str.isalpha, cell))]
        refuse_wordless(path, wordless, len(first))
    else:
        refuse_tabs(path, sum("\t" in line.strip() for line in head), sum(bool(line.strip()) for line in head))
    yield from (line.split("\t")[0] for line in chain(head, lines))


def refuse_wordless(path: Path, wordless: Sequence[str], sentences: int) -> None:
    """ValueError if too many of a TSV's sentences have no letter. wordless: these in words, with their places."""
    if len(wordless) > _MOST_WORDLESS * sentences:
        raise ValueError(
            f"{path}: {len(wordless)} of {sentences} sentences have no letter, the first {wordless[0]}; a column of "
            "numbers or labels is no paraphrase: leave it out"
        )


def refuse_tabs(path: Path, tabbed: int, lines: int) -> None:
    """ValueError if most lines of a file of single sentences, blank ones not counted, hold tabs."""
    if 2 * tabbed > lines:
        raise ValueError(
            f"{path}: {tabbed} of {lines} lines hold tabs; if their columns are paraphrases of each other name the "
            "file .tsv, else keep the column that holds the sentence"
        )


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
