"""Which corpus a run is about: the `data.*` overrides, and what the files that they name held when it began."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from inscape.core.config import single_overrides

__all__ = ["CONTENTS", "CORPUS", "changed_contents", "contents_of", "corpus_of"]

CORPUS = "data."  # overrides that begin so name the corpus
CONTENTS = "corpus_contents"  # in env.json: what `contents_of` gave when the run began
BLOCK = 2**20  # bytes read at a time
READ_WHOLE = 2 * 10**9  # bytes of a folder of weights; each process that asks reads them again


def corpus_of(overrides: Sequence[str]) -> tuple[str, ...]:
    """The overrides that name the corpus, in one order, each of a single key."""
    group = f"{CORPUS.removesuffix('.')}="
    words = [
        word
        for item in overrides
        for word in (single_overrides(item) if item.strip().startswith(group) else [item.strip()])
    ]
    return tuple(sorted(word for word in words if word.startswith(CORPUS)))


def contents_of(corpus: Sequence[str], folder: Path | str = ".", *, folders: bool = True) -> dict[str, str]:
    """A fingerprint of each file or folder that these overrides name, by the override; of what is not here, none.

    A file is read whole (SHA-256). Of a folder the names and sizes count, not what is in its files: a folder of sounds
    may hold more than can be read each time it is asked. What stands behind a kind and a colon, as in
    data.codec=lyra:FOLDER, are weights, and read whole up to READ_WHOLE: weights that were trained further have the
    size they had. Of more, as of data.model=llava:FOLDER with its 26 GB, and of a folder without a kind before it, as
    data.model=FOLDER, names and sizes count.

    folder: where relative names are meant from. folders: False leaves them out, as when a run begins, which may be what
    fills them.
    """
    found = {}
    for word in corpus:
        value = word.partition("=")[2].strip().strip("'\"")
        if not value:
            continue
        try:
            path = Path(folder) / Path(value).expanduser()
            kind, _, where = value.partition(":")
            if weights := bool(where) and kind.replace("-", "").isalnum() and not path.exists():
                path = Path(folder) / Path(where).expanduser()
            if path.is_file():
                found[word] = _of_file(path)
            elif path.is_dir() and weights:
                found[word] = _of_folder(path, _of_file if _bytes_in(path) <= READ_WHOLE else _size)
            elif path.is_dir() and folders:
                found[word] = _of_folder(path, _size)
        except (OSError, ValueError, RuntimeError):  # no name of a file: the phase will say so
            continue
    return found


def changed_contents(then: Mapping[str, str], corpus: Sequence[str], folder: Path | str = ".") -> list[str]:
    """The overrides whose file or folder is here and no longer holds what it held `then`; `folder` as above."""
    return [word for word, now in contents_of(corpus, folder).items() if then.get(word) != now]


def _of_file(path: Path) -> str:
    status = path.stat()
    return _of_file_as_it_is(str(path.resolve()), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _of_file_as_it_is(path: str, size: int, modified: int) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def _size(path: Path) -> str:
    return str(path.stat().st_size)


def _bytes_in(path: Path) -> int:
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())


def _of_folder(path: Path, of: Callable[[Path], str]) -> str:
    digest = hashlib.sha256()
    for file in sorted(each for each in path.rglob("*") if each.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{of(file)}\n".encode(errors="surrogateescape"))
    return f"{'names-and-sizes' if of is _size else 'names-and-contents'}:{digest.hexdigest()}"
