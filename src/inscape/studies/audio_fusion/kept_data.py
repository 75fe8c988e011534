"""Which sounds a figure is of: number and digest of each split, written once and copied into every later phase's run.

The built-in world is made anew by each first phase, and a folder of files can change: the digests tell two runs apart
whose configs are alike.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["DATA", "describe_split"]

DATA = "data.json"


def describe_split(kept: Mapping[str, Any], features: Path) -> dict[str, Any]:
    """How many clips, how many of them cut, and SHA-256, in hex, of what is said of them and of their features."""
    said = json.dumps([kept[name] for name in ("captions", "labels", "sources", "frames")])
    with features.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    digests = {"captions_sha256": hashlib.sha256(said.encode()).hexdigest(), "features_sha256": found}
    return {"clips": len(kept["captions"]), "cut": kept.get("cut", 0), **digests}
