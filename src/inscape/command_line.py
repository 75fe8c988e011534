"""What the words and the output of every verb go through: options in any order, errors in one line, any encoding."""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["BAD_INPUT", "OneLineParser", "escape_what_cannot_be_printed", "flush_stdout", "parse_words"]

BAD_INPUT = 2
TAKEN = "\0"  # stands before a word that begins with "-" and is no option; no command line can hold it


class OneLineParser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line: what was wrong and where the help is. No path is the empty word."""

    def __init__(self, *words: Any, **more: Any) -> None:
        super().__init__(*words, **more)
        self.register("type", Path, _path)

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message.replace(TAKEN, '')}; see {self.prog} --help\n")


def parse_words(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """Parse with options and key=value words in any order, which argparse offers to a verb's own parser only.

    What follows `--` is never an option, even where it begins with one's sign: argparse forgets that in any order.
    """
    verbs = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices
    if not words or words[0] not in verbs:
        return parser.parse_args(words)
    end = words.index("--") if "--" in words else len(words)
    marked = [f"{TAKEN}{word}" if word.startswith("-") else word for word in words[end + 1 :]]
    found = verbs[words[0]].parse_intermixed_args([*words[1:end], *marked])
    for name, value in vars(found).items():
        setattr(found, name, [_unmarked(each) for each in value] if isinstance(value, list) else _unmarked(value))
    return found


def _path(word: str) -> Path:
    """No word at all would be read as the folder where one stands."""
    if not word:
        raise argparse.ArgumentTypeError("'' names no file or folder")
    return Path(word)


def _unmarked(value: Any) -> Any:
    return type(value)(str(value).removeprefix(TAKEN)) if isinstance(value, str | Path) else value


def escape_what_cannot_be_printed() -> None:
    """Let stdout write what its encoding lacks as stderr does, as an escape: a file's name is no reason to fail."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def flush_stdout() -> None:
    """Write what was printed so far; a stdout that was closed (`>&-`) has nothing to write.

    OSError if it cannot be written. It is then let go, or it would fail again when the program ends.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise
