"""The lines of a text file, plain or packed, or one line of text that says why they cannot be read."""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

__all__ = ["is_grouped", "lines_of"]

_LONGEST_LINE = 1 << 20  # bytes; a binary file without line ends must not be swallowed whole
_OPENERS = {".gz": gzip.open, ".xz": lzma.open}


def is_grouped(path: Path | str) -> bool:
    """Whether a file of this name holds groups of paraphrases (.tsv, packed or not) rather than single sentences."""
    suffixes = (suffix.lower() for suffix in reversed(Path(path).suffixes))
    return next((suffix for suffix in suffixes if suffix not in _OPENERS), "") == ".tsv"


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a text file, decoded one by one; every way in which it can be unreadable is a ValueError."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a text file (.txt or .tsv, also .gz or .xz)")
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
