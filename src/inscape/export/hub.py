"""Where weights come from when they are named and not pointed at: `owner/name` on the Hugging Face hub.

Only what a codec needs is fetched, and none of it can hold code: JSON, Markdown and safetensors.
"""

from __future__ import annotations

import re
from pathlib import Path

from safetensors import safe_open

from inscape.extras import load_extra
from inscape.studies.visual.latent_prior import PRIOR_WEIGHTS
from inscape.studies.visual.model import CODEC_WEIGHTS, MODEL_WEIGHTS
from inscape.user_paths import is_there

__all__ = ["FILES", "about_weights", "resolve_pretrained"]

FILES = ("config.json", MODEL_WEIGHTS, PRIOR_WEIGHTS, "tokenizer.json", "README.md")  # a prior only where there is one
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def resolve_pretrained(name_or_path: Path | str) -> Path:
    """The path itself, unless nothing is there and it reads as `owner/name`: that is fetched, or found in the cache.

    ValueError in one line if it cannot be fetched or is no model. A path that is not there is left to its reader.
    """
    if not isinstance(name_or_path, str | Path) or not str(name_or_path):
        allowed = "a run or exported folder, a weights file, or owner/name on the hub; leave it out for the package's"
        raise ValueError(f"weights={name_or_path!r}; allowed: {allowed}")
    path, name = Path(name_or_path), Path(name_or_path).as_posix()
    there = is_there(path)
    explicit = str(name_or_path).startswith((".", "~")) or path.parent.is_dir()  # a mistyped name in a folder of ours
    if there or explicit or path.suffix == ".safetensors" or not REPOSITORY.fullmatch(name):
        return path
    hub = load_extra("huggingface_hub", "sbert", f"{name} is no file or folder here, and fetching it from the hub")
    try:
        folder = Path(hub.snapshot_download(name, allow_patterns=list(FILES)))
    except Exception as error:  # the client, its two HTTP libraries and the cache each raise their own
        reason = "there is none of that name there, or it is private"
        if not isinstance(error, hub.errors.RepositoryNotFoundError):
            reason = (str(error).splitlines() or [""])[0].strip()[:200] or type(error).__name__
        raise ValueError(f"{name} is no file or folder here, and cannot be fetched from the hub: {reason}") from None
    if not (folder / MODEL_WEIGHTS).is_file():
        raise ValueError(f"{name} on the hub has no {MODEL_WEIGHTS}; give one that inscape export --format hf made")
    return folder


def about_weights(path: Path) -> str:
    """What a codec's file or folder that has been read says about itself, in Markdown; empty if it says nothing."""
    file = next(file for file in (path, path / MODEL_WEIGHTS, path / CODEC_WEIGHTS) if file.is_file())
    with safe_open(file, "pt") as opened:
        return (opened.metadata() or {}).get("about", "").strip()
