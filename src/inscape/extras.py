"""Packages of the optional extras, imported where they are used: a missing one is one clear line and no traceback."""

from importlib import import_module
from types import ModuleType

__all__ = ["load_extra"]


def load_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """The module, imported now. ValueError that names the extra to install if it is not there.

    purpose: what it is for, as the subject of the sentence ("reading audio").
    """
    try:
        return import_module(module)
    except ImportError:
        raise ValueError(
            f"{purpose} needs the package {module}: pip install 'inscape[{extra}]', "
            f"or in a clone pip install -e '.[{extra}]' into its .venv"
        ) from None
