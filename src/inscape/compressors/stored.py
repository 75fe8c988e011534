"""The one door to compressors on the disk: a file says of which kind it is, and wrappers hold others inside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from inscape.compressors.interface import Compressor, Saved, read_saved

if TYPE_CHECKING:
    from inscape.compressors.projection import RowProjector

__all__ = ["load_compressor", "restored", "restored_projector"]


def load_compressor(path: Path) -> Compressor:
    """Whatever `save` of a compressor wrote. ValueError in one line for any other file."""
    return restored(read_saved(path))


def restored(saved: Saved) -> Compressor:
    """The compressor of what `saved` gave. ValueError for a kind that this version does not know."""
    from inscape.compressors.adapter import Adapter
    from inscape.compressors.attention_matching import AttentionMatching
    from inscape.compressors.controls import EmptyContext, Replay
    from inscape.compressors.kv_pruning import KvPruning
    from inscape.compressors.linear_inverse import LinearInverse
    from inscape.compressors.mean_pooled import MeanPooled
    from inscape.compressors.memory_cache import MemoryCache
    from inscape.compressors.memory_tokens import MemoryTokens
    from inscape.compressors.quantised import Quantised
    from inscape.compressors.truncation import EqualBits, EqualVectors

    if saved.kind in PROJECTORS:
        return restored_projector(saved)
    row_wise = (LinearInverse, Adapter, Quantised, Replay)
    contexts = (
        MeanPooled,
        MemoryTokens,
        MemoryCache,
        KvPruning,
        AttentionMatching,
        EmptyContext,
        EqualVectors,
        EqualBits,
    )
    for made in (*row_wise, *contexts):
        if made.kind == saved.kind:
            return made.from_saved(saved)
    raise ValueError(f"a compressor of kind {saved.kind!r} is not known to this version; use the one that wrote it")


PROJECTORS = ("pca", "random_orthogonal")


def restored_projector(saved: Saved) -> RowProjector:
    """As `restored`, for those that other receivers can be fitted to. ValueError for any other kind."""
    from inscape.compressors.pca import Pca
    from inscape.compressors.random_orthogonal import RandomOrthogonal

    if saved.kind == Pca.kind:
        return Pca.from_saved(saved)
    if saved.kind == RandomOrthogonal.kind:
        return RandomOrthogonal.from_saved(saved)
    raise ValueError(f"{saved.kind!r} is no projection of rows; allowed: {', '.join(PROJECTORS)}")
