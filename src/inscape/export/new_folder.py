"""A folder that is seen whole or not at all: written beside its place under another name, and renamed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["check_new_folder", "new_folder"]


def check_new_folder(out: Path) -> None:
    """ValueError in one line if a folder cannot be made there: only what is not there, or empty, is written to."""
    try:
        if not out.resolve().parent.is_dir():
            raise ValueError(f"{out} cannot be written: its parent folder is missing")
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out} is a file; give the name of a new folder")
        if out.is_dir() and any(out.iterdir()):
            raise ValueError(f"{out} exists and is not empty; give the name of a new folder")
        tempfile.TemporaryDirectory(prefix=_hidden(out), dir=out.resolve().parent).cleanup()
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead to each other
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{out} cannot be written: {reason}; give another name or folder") from None


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Where to write; it becomes `out` at the end, and is removed if anything fails."""
    check_new_folder(out)
    target = out.resolve()
    try:
        folder = Path(tempfile.mkdtemp(prefix=_hidden(out), dir=target.parent))
        try:
            yield folder
            folder.chmod(0o755)  # mkdtemp lets nobody else in
            if target.is_dir():
                target.rmdir()
            folder.rename(target)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    except OSError as error:
        raise ValueError(f"{out} cannot be written: {error.strerror or error}; give another name or folder") from None


def _hidden(out: Path) -> str:
    return f".{out.resolve().name}."
