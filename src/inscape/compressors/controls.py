"""What a compressor must be held against before its score means anything.

    Replay         the rows themselves, uncompressed: must give exactly the text run's output
    EmptyContext   nothing travels: what the model answers from the question and its memory
    other_prompt   each prompt gets the latent of another one, of another article or scene
    travels_alone  catches a receiver that knows more than it was sent

Truncation at equal vectors and at equal bits is in `truncation`.

Legend: T tokens, D width of the table, P prompts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np
import torch

from inscape.compressors.interface import (
    LATENT,
    Compressed,
    Compressor,
    Injected,
    Saved,
    check_ids,
    read_saved,
    tensor_bits,
    write_saved,
)
from inscape.compressors.projection import rows_of
from inscape.core.rundir import RunDir

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from inscape.pretrained.language_model import LanguageModel

__all__ = ["EmptyContext", "Replay", "check_groups", "other_prompt", "travels_alone"]


@final
@dataclass(frozen=True)
class Replay:
    """The rows of the table, uncompressed: the model fed by rows must answer as the model fed by ids."""

    kind: ClassVar[str] = "replay"

    @property
    def name(self) -> str:
        """See `Compressor.name`."""
        return "replay"

    @property
    def ratio(self) -> float:
        """See `Compressor.ratio`."""
        return 1.0

    @property
    def needs_context_only(self) -> bool:
        """See `Compressor.needs_context_only`."""
        return False

    def fit(self, lm: LanguageModel, sequences: Sequence[Tensor], *, seed: int, run: RunDir | None = None) -> Replay:
        """See `Compressor.fit`."""
        return self

    def compress(self, lm: LanguageModel, ids_T: Tensor) -> Compressed:
        """See `Compressor.compress`: in the table's own numbers, bit for bit."""
        return Compressed({LATENT: rows_of(lm, ids_T)}, len(ids_T), len(ids_T))

    def inject(self, lm: LanguageModel, compressed: Compressed) -> Injected:
        """See `Compressor.inject`."""
        return Injected(compressed.tensors[LATENT].to(lm.dtype))

    def bits(self, compressed: Compressed) -> float:
        """See `Compressor.bits`."""
        return tensor_bits(compressed)

    def saved(self) -> Saved:
        """See `Compressor.saved`."""
        return Saved(self.kind, {}, {})

    @classmethod
    def from_saved(cls, saved: Saved) -> Replay:
        """See `Compressor.from_saved`."""
        return cls()

    def save(self, path: Path) -> None:
        """See `Compressor.save`."""
        write_saved(path, self.saved())

    @classmethod
    def load(cls, path: Path) -> Replay:
        """See `Compressor.load`."""
        return cls.from_saved(read_saved(path, cls.kind))


@final
@dataclass(frozen=True)
class EmptyContext:
    """No vector in the place of the context: its score is what needs no context at all."""

    kind: ClassVar[str] = "empty_context"

    @property
    def name(self) -> str:
        """See `Compressor.name`."""
        return "empty context"

    @property
    def ratio(self) -> float:
        """See `Compressor.ratio`."""
        return math.inf

    @property
    def needs_context_only(self) -> bool:
        """See `Compressor.needs_context_only`."""
        return True

    def fit(
        self, lm: LanguageModel, sequences: Sequence[Tensor], *, seed: int, run: RunDir | None = None
    ) -> EmptyContext:
        """See `Compressor.fit`."""
        return self

    def compress(self, lm: LanguageModel, ids_T: Tensor) -> Compressed:
        """See `Compressor.compress`."""
        check_ids(lm, ids_T)
        return Compressed({}, len(ids_T), 0)

    def inject(self, lm: LanguageModel, compressed: Compressed) -> Injected:
        """See `Compressor.inject`: no row."""
        return Injected(lm.table_VD.new_zeros((0, lm.dimension)))

    def bits(self, compressed: Compressed) -> float:
        """See `Compressor.bits`."""
        return 0.0

    def saved(self) -> Saved:
        """See `Compressor.saved`."""
        return Saved(self.kind, {}, {})

    @classmethod
    def from_saved(cls, saved: Saved) -> EmptyContext:
        """See `Compressor.from_saved`."""
        return cls()

    def save(self, path: Path) -> None:
        """See `Compressor.save`."""
        write_saved(path, self.saved())

    @classmethod
    def load(cls, path: Path) -> EmptyContext:
        """See `Compressor.load`."""
        return cls.from_saved(read_saved(path, cls.kind))


def check_groups(groups: Sequence[str]) -> None:
    """ValueError where one group holds more than half of the prompts: some would have to meet their own."""
    largest = max(Counter(groups).values(), default=0)
    if 2 * largest > len(groups) or not largest:
        raise ValueError(
            f"{largest} of {len(groups)} prompts are of one group, so some cannot get another group's latent; "
            "evaluate on prompts of more articles or scenes"
        )


def other_prompt(groups: Sequence[str], seed: int) -> Int[np.ndarray, " P"]:
    """For each prompt the index of one of another group (article, scene), each prompt taken once; by seed.

    Prompts of one article share facts, or the very context, so a latent of the same article would still help.
    Groups in a random order, one after the other, turned by the size of the largest: none then meets itself.
    ValueError as `check_groups`.
    """
    check_groups(groups)
    names, group_P, size_G = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    largest = int(size_G.max())
    draw = np.random.default_rng(seed)
    rank_G = draw.permutation(len(names))
    order_P = np.lexsort((draw.random(len(group_P)), rank_G[group_P]))
    other_P = np.empty(len(group_P), dtype=np.int64)
    other_P[order_P] = np.roll(order_P, -largest)
    return other_P


def travels_alone(compressor: Compressor, lm: LanguageModel, first_T: Tensor, second_T: Tensor) -> bool:
    """Whether the rows, or the cache, that a receiver makes of a prompt are a function of what travelled.

    A copy of the tensors of `first_T`, handed over after the compressor has seen `second_T`, must give the very numbers
    that the original gave at once. A receiver that peeks at the source (its norms, say) gives others, or those of the
    second prompt. Give prompts of one length and of different words.
    """
    sent = compressor.compress(lm, first_T)
    copy = Compressed({name: tensor.clone() for name, tensor in sent.tensors.items()}, sent.tokens, sent.vectors)
    at_once = _numbers(compressor.inject(lm, sent))
    compressor.inject(lm, compressor.compress(lm, second_T))
    later = _numbers(compressor.inject(lm, copy))
    return len(at_once) == len(later) and all(map(torch.equal, at_once, later))


def _numbers(injected: Injected) -> list[Tensor]:
    """All that the model is fed, copied: a cache may be changed in place."""
    if injected.rows_MD is not None:
        return [injected.rows_MD.clone()]
    assert injected.cache is not None
    cache, positions_M = injected.cache
    return [positions_M.clone(), *(part.clone() for layer in cache.layers for part in (layer.keys, layer.values))]
