"""The model card of an exported folder: what the hub reads above, what people read below."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["model_card"]

UNSAID = """# inscape visual codec

Sentence to picture-like latent to sentence, trained on text alone. These weights carry no account of themselves:
how they were trained, and how well they do, is for whoever made them to say here."""


def model_card(about: str, usage: str, *, library: str, tags: Sequence[str] = ()) -> str:
    """Markdown with YAML front matter. about: what the weights say of themselves; usage: how to run this folder."""
    every_tag = "\n".join(f"- {tag}" for tag in ("inscape", *tags, "sentence-similarity", "text-to-latent"))
    return f"""---
language: en
license: apache-2.0
library_name: {library}
pipeline_tag: sentence-similarity
tags:
{every_tag}
---

{about or UNSAID}

{usage.strip()}
"""
