"""inscape: learn a latent, test it honestly, and see it.

The package's names are resolved on first use: importing `inscape` costs milliseconds, not the second that torch takes.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inscape import stats
    from inscape.codec import VisualCodec

__all__ = ["VisualCodec", "__version__", "stats"]

__version__ = metadata.version("inscape")


def __getattr__(name: str) -> object:
    if name == "stats":
        return import_module("inscape.stats")
    if name == "VisualCodec":
        return import_module("inscape.codec").VisualCodec
    raise AttributeError(f"module 'inscape' has no attribute {name!r}")
