"""Paths as users write them: a home folder that there is not, or a name that no disk takes, is one clear line."""

from pathlib import Path

__all__ = ["is_there", "user_path"]


def user_path(given: Path | str) -> Path:
    """The path with `~` and `~name` as home folders, there or not; ValueErrors as said above."""
    try:
        path = Path(given).expanduser()
    except RuntimeError:
        raise ValueError(f"{given} names a home folder that is not known here; give the whole path") from None
    is_there(path)
    return path


def is_there(path: Path) -> bool:
    """Whether there is a file or folder; ValueError where that cannot be looked up, as of a name that is too long."""
    try:
        return path.exists()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; give another path") from None
