"""What the user calls this program: lines that are meant to be copied begin with it."""

import os

__all__ = ["program"]


def program() -> str:
    """`inscape`, or how the bootstrap was called, such as `./inscape`: it says so in INSCAPE_COMMAND."""
    return os.environ.get("INSCAPE_COMMAND") or "inscape"
