"""Reading comprehension in the SQuAD format: a JSON file (plain, .gz or .xz) or a data set of the Hugging Face hub.

    {"data": [{"title": ..., "paragraphs": [{"context": ..., "qas": [{"id", "question", "answers": [{"text"}]}]}]}]}

Every question keeps all its gold answers: scoring against the first alone costs several points of F1 for nothing.
Whatever is wrong with a file is one line that says where. Questions that a file itself marks as impossible (SQuAD 2)
have no answer to compare with, and are skipped and counted.

Source: Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text".
"""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, TypedDict, TypeVar, cast

import numpy as np

from inscape.data.questions.question import Question, source_text
from inscape.data.questions.scene_questions import draw_scene_questions
from inscape.data.questions.splits import of_split
from inscape.user_paths import is_there

__all__ = [
    "HELD_OUT",
    "SquadFile",
    "SquadRow",
    "load_squad_subset",
    "names_a_file",
    "never_trained_on",
    "read_hub",
    "read_squad",
    "squad_subset",
    "take",
]

HELD_OUT = "new_wiki"  # files whose names begin so are asked about and never trained on: their benchmark lives on that
_OPENERS = {".gz": gzip.open, ".xz": lzma.open}

T = TypeVar("T")


class SquadFile(NamedTuple):
    """The questions in the order of the file; those without an answer by their own mark are only counted."""

    questions: tuple[Question, ...]
    impossible: int


class SquadRow(TypedDict):
    """A question as text: `source` is "Context: <c>\\nQuestion: <q>\\n", `answer` the first of `answers`."""

    id: str
    source: str
    answer: str
    answers: tuple[str, ...]


def load_squad_subset(split: str, n: int, seed: int = 0, path: Path | str = "") -> list[SquadRow]:
    """Questions of a split as rows of text, under the name and in the order of the source document.

    path: as for `squad_subset`; without one the questions are about scenes, and nothing has to be fetched.
    """
    drawn = squad_subset(path, n, seed, split) if path else draw_scene_questions(n, seed=seed, split=split)
    return [SquadRow(id=one.id, source=source_text(one), answer=one.answers[0], answers=one.answers) for one in drawn]


def squad_subset(path: Path | str, n: int | None, seed: int = 0, split: str | None = "train") -> list[Question]:
    """The first `n` of the questions of a split, shuffled by the seed; None for all of them.

    path: a file, or the name of a data set on the hub (`squad`), whose own splits are then taken (see `read_hub`). A
    file is split by article (`split_of_group`); split=None takes it whole. ValueError, one line: whatever `read_squad`
    and `read_hub` refuse, a split without questions, fewer than `n`, and the train split of what nothing may be trained
    on (`never_trained_on`).
    """
    if split == "train" and (reason := never_trained_on(path)):
        raise ValueError(reason)
    if names_a_file(path):
        where = str(path) if split is None else f"split {split!r} of {path}"
        return take(of_split(read_squad(path).questions, split), n, seed, where)
    if split is None:
        raise ValueError(f"{path} is a data set of the hub, whose splits are read one by one: give a split")
    return take(read_hub(str(path), split).questions, n, seed, f"split {split!r} of {path}")


def never_trained_on(path: Path | str) -> str:
    """Why no training may see this file, in one line; empty if one may."""
    if not Path(path).name.startswith(HELD_OUT):
        return ""
    return (
        f"{path} is held-out data, on which nothing is trained: give it as data.held_out_path, and another file, or "
        "none for questions about scenes, as data.path"
    )


def take(questions: Iterable[Question], n: int | None, seed: int, where: str) -> list[Question]:
    """The first `n` of the shuffled questions (None: all). ValueError, naming `where`, if there are fewer or none."""
    pool = list(questions)
    if not pool:
        raise ValueError(f"{where} holds no question: too few articles to split; take another split, or None for all")
    if n is not None and not 1 <= n <= len(pool):
        raise ValueError(f"{n} questions wanted of {where}, which holds {len(pool)}; give 1 to {len(pool)}")
    return [pool[i] for i in np.random.default_rng(seed).permutation(len(pool))[:n]]


def read_squad(path: Path | str) -> SquadFile:
    """All questions of a file in the SQuAD format.

    Articles of one title, and articles that share a paragraph, are one group. ValueError, one line that says where: no
    such file, a folder, a damaged archive, no JSON, no "data", a part that is missing, of another kind or blank, an id
    that stands twice, a question without an answer that is not marked impossible, a file without questions.
    """
    path = Path(path)
    whole = _part(_json_of(path), dict, f"{path}", "an object")
    questions, impossible = [], 0
    for number, article in enumerate(_listed(whole, "data", str(path))):
        for group, context, qa, where in _asked(article, f"{path}: data[{number}]"):
            answers = _listed(qa, "answers", where)
            if qa.get("is_impossible") is True:
                impossible += 1
                continue
            if not answers:
                raise ValueError(f'{where}: "answers" is empty; give one, or mark the question "is_impossible": true')
            texts = [
                _text(_part(answer, dict, f"{where}.answers[{i}]", "an object"), "text", f"{where}.answers[{i}]")
                for i, answer in enumerate(answers)
            ]
            questions.append(
                Question(_text(qa, "id", where), context, _text(qa, "question", where), tuple(texts), group)
            )
    return SquadFile(_checked(questions, str(path)), impossible)


def read_hub(name: str, split: str) -> SquadFile:
    """The questions of one of the splits of a data set in the SQuAD form on the Hugging Face hub.

    Where it has no test split, as SQuAD itself, its validation split is what is held out. ValueError, one line: the
    package `datasets` is not installed, the hub or the data set or the split is out of reach, a row is not of the SQuAD
    form.
    """
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(
            f"{name!r} is no file here, and reading it from the Hugging Face hub needs the package datasets: "
            "pip install datasets, or give the path of a SQuAD JSON file (.json, .json.gz or .json.xz)"
        ) from None
    try:
        try:
            rows = datasets.load_dataset(name, split=split)
        except ValueError as error:
            if split != "test" or "split" not in str(error).lower():
                raise
            rows = datasets.load_dataset(name, split="validation")
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"split {split!r} of {name!r} cannot be read from the Hugging Face hub ({reason}); "
            "give the path of a SQuAD JSON file instead"
        ) from None
    questions, impossible = [], 0
    for number, row in enumerate(rows):
        where = f"{name}[{split}][{number}]"
        row = _part(row, dict, where, "an object")
        texts = _part(row.get("answers"), dict, f"{where}.answers", 'an object with "text"').get("text")
        if texts == []:  # the hub's SQuAD 2 marks impossible questions in no other way
            impossible += 1
            continue
        texts = _part(texts, list, f"{where}.answers.text", "a list")
        answers = tuple(_text({"text": text}, "text", f"{where}.answers") for text in texts)
        context = _text(row, "context", where)
        group = _group(row.get("title"), context)
        questions.append(Question(_text(row, "id", where), context, _text(row, "question", where), answers, group))
    return SquadFile(_checked(questions, f"{name}[{split}]"), impossible)


def names_a_file(path: Path | str) -> bool:
    """Whether this means a file, there or not: hub names have no suffix of ours and at most one slash."""
    given = Path(path)
    suffixed = given.suffix in (".json", *_OPENERS)
    return isinstance(path, Path) or suffixed or is_there(given) or given.is_absolute() or len(given.parts) > 2


def _json_of(path: Path) -> Any:
    if is_there(path) and path.is_dir():
        raise ValueError(f"{path} is a folder; name a SQuAD JSON file (.json, .json.gz or .json.xz)")
    try:
        with cast(IO[bytes], _OPENERS.get(path.suffix, open)(path, "rb")) as file:
            return json.loads(file.read().decode("utf-8-sig"))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; give the path of a SQuAD JSON file") from None
    except (gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is damaged or not a {path.suffix} file: {error}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, byte {error.start + 1} is not UTF-8; a SQuAD file is JSON in UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except ValueError as error:  # a number of thousands of digits
        raise ValueError(f"{path} is not JSON: {error}") from None
    except RecursionError:
        raise ValueError(f"{path} is not a SQuAD file: its JSON is nested without end") from None


def _asked(article: Any, where: str) -> Iterator[tuple[str, str, Mapping[str, Any], str]]:
    """Group, context and entry of every question of an article, and where it stands."""
    article = _part(article, dict, where, "an object")
    paragraphs = _listed(article, "paragraphs", where)
    title = article.get("title")
    for p, paragraph in enumerate(paragraphs):
        place = f"{where}.paragraphs[{p}]"
        paragraph = _part(paragraph, dict, place, "an object")
        context = _text(paragraph, "context", place)
        title = _group(title, context)
        for q, qa in enumerate(_listed(paragraph, "qas", place)):
            yield title, context, _part(qa, dict, f"{place}.qas[{q}]", "an object"), f"{place}.qas[{q}]"


def _group(title: object, context: str) -> str:
    """The name of an article: its title, or where it has none a hash of its first paragraph."""
    if isinstance(title, str) and title.strip():
        return title
    return f"untitled {hashlib.blake2b(context.encode(), digest_size=8).hexdigest()}"


def _checked(questions: list[Question], where: str) -> tuple[Question, ...]:
    """The questions, their groups joined where they share a context. ValueError on none, or an id that stands twice."""
    if not questions:
        raise ValueError(f"{where} holds no question that has an answer")
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise ValueError(f"{where}: the id {question.id!r} stands twice; predictions are filed by id")
        seen.add(question.id)
    parent: dict[str, str] = {}
    of_context: dict[str, str] = {}

    def root(group: str) -> str:
        while parent.setdefault(group, group) != group:
            group = parent[group]
        return group

    for question in questions:
        first = root(of_context.setdefault(question.context, question.group))
        parent[root(question.group)] = first
    return tuple(question._replace(group=root(question.group)) for question in questions)


def _listed(fields: Mapping[str, Any], name: str, where: str) -> list[Any]:
    if name not in fields:
        raise ValueError(f'{where} has no "{name}"; this is not the SQuAD format')
    return _part(fields[name], list, f"{where}.{name}", "a list")


def _part(value: Any, kind: type[T], where: str, name: str) -> T:
    if not isinstance(value, kind):
        raise ValueError(f"{where} is {type(value).__name__}, not {name}; this is not the SQuAD format")
    return value


def _text(fields: Mapping[str, Any], name: str, where: str) -> str:
    """The text in a field. ValueError if it is missing, no text, blank, or half a character (which has no bytes)."""
    value = fields.get(name)
    if not isinstance(value, str):
        given = f"is {type(value).__name__}, not a text" if name in fields else "is missing"
        raise ValueError(f'{where}: "{name}" {given}')
    if not value.strip():
        raise ValueError(f'{where}: "{name}" is empty')
    if any("\ud800" <= sign <= "\udfff" for sign in value):
        raise ValueError(f'{where}: "{name}" holds half a surrogate pair, which is no character')
    return value
