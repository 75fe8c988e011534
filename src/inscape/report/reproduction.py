"""The commands that make a run again: those of all that it builds on come first, for a new checkout has no runs."""

import json
import shlex
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from inscape.report.record import Record

__all__ = ["Link", "chain_of", "commands_of", "typed_in"]

OUT = "--out"


class Link(NamedTuple):
    """One run of a chain: the phase, STUDY/PHASE/PRESET/RUN, and its record, or None if it is not here."""

    code: str
    name: str
    record: Record | None


def chain_of(record: Record, find: Callable[[str], Record | None]) -> list[Link]:
    """All that a run builds on, at any remove, and the run itself at the end: each comes after what it builds on.

    find: the record of the run at a place that is named in `inputs` of an env.json; None if it is not here.
    """
    chain: dict[str, Link] = {}  # by name
    begun: set[str] = set()  # files that were edited may name each other

    def add(code: str, name: str, record: Record | None) -> None:
        begun.add(name)
        inputs = record.env.get("inputs") if record else None
        for needed, place in (inputs if isinstance(inputs, dict) else {}).items():
            if (of := _name(Path(str(place)))) not in begun:
                add(str(needed), of, find(str(place)))
        chain[name] = Link(code, name, record)

    add(record.phase, _name(record.path.absolute()), record)
    return list(chain.values())


def commands_of(chain: list[Link]) -> list[str]:
    """The lines that run a chain again, each part with the code that it was made with."""
    lines, commit = [], ""
    for code, name, record in chain:
        if record is None:
            lines.append(" ".join(f"# first what {name} ({code}) was run with: it is not here".split()))
            continue
        made_with = str(record.env.get("git_commit") or commit)
        if made_with != commit:
            lines.append(f"git checkout {shlex.quote(made_with)}")
        commit = made_with
        lines.append(_command(record))
    return lines


def typed_in(record: Record) -> str:
    """The command as it was typed; how the program was called may be several words already."""
    command = record.env.get("command")
    words = list(map(str, command)) if isinstance(command, list) else []
    return f"{words[0]} {shlex.join(words[1:])}".strip() if words else ""


def _command(record: Record) -> str:
    """The command that runs the same again, in today's words, whatever was typed then."""
    words = ["inscape", "run", f"{record.study}.{record.phase}", "--preset", record.preset]
    words += ["--seed", str(record.seed)] if record.seed is not None else []
    words += ["--device", str(record.env["device"])] if record.env.get("device") else []
    words += _out(record)
    words += ["--remedy"] if record.remedies else []
    words += ["--despite-gate", record.pushed] if record.pushed else []
    words += [*record.corpus, *(f"{key}={_yaml(value)}" for key, value in record.changes.items())]
    return "./" + shlex.join(words)


def _out(record: Record) -> list[str]:
    """Where the runs were kept, if that was not where they are kept anyway. What was typed is told by older runs."""
    if isinstance(kept := record.env.get("out"), str):
        return [OUT, kept] if Path(kept) != Path("runs") else []
    command = record.env.get("command")
    words = list(map(str, command)) if isinstance(command, list) else []
    given = [word.partition("=")[2] for word in words if word.startswith(f"{OUT}=")]
    given += [value for word, value in pairwise(words) if word == OUT]
    return [OUT, given[-1]] if given and Path(given[-1]) != Path("runs") else []


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _name(folder: Path) -> str:
    return "/".join(folder.parts[-4:])
