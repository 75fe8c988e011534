"""The plainest compressor: keep the beginning of the context as text and drop the rest. Two ways to be fair with it.

At equal vectors it may use as many places of the model's window as a sequence compressor does; at equal bits, as many
tokens as another compressor's bits carry as plain ids. At 15.6 bits an id and 16 bits a number the second is nearly
always the whole context: a latent of one float16 a token already costs what the token costs.

The ids travel as one number in base |V|, in whole bytes: K log2 |V| bits, rounded up to 8.

Legend: T tokens of the context, K tokens kept, V rows of the table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

import torch

from inscape.compressors.interface import (
    Compressed,
    Compressor,
    Injected,
    Saved,
    check_ids,
    nested,
    nested_in,
    read_saved,
    tensor_bits,
    vector_count,
    write_saved,
)
from inscape.core.rundir import RunDir

if TYPE_CHECKING:
    from jaxtyping import Int, UInt8
    from torch import Tensor

    from inscape.pretrained.language_model import LanguageModel

__all__ = ["EqualBits", "EqualVectors", "ids_from_bytes", "ids_to_bytes", "tokens_within"]

IDS = "ids"


@final
@dataclass(frozen=True)
class EqualVectors:
    """The context's first floor(T / ratio) tokens; the question is never touched."""

    kind: ClassVar[str] = "equal_vectors"
    ratio: float  # tokens before and after

    @property
    def name(self) -> str:
        """See `Compressor.name`."""
        return "truncation at equal vectors"

    @property
    def needs_context_only(self) -> bool:
        """See `Compressor.needs_context_only`."""
        return True

    def fit(
        self, lm: LanguageModel, sequences: Sequence[Tensor], *, seed: int, run: RunDir | None = None
    ) -> EqualVectors:
        """See `Compressor.fit`."""
        return self

    def compress(self, lm: LanguageModel, ids_T: Int[Tensor, " T"]) -> Compressed:
        """See `Compressor.compress`."""
        check_ids(lm, ids_T)
        return _kept(lm, ids_T, vector_count(len(ids_T), self.ratio))

    def inject(self, lm: LanguageModel, compressed: Compressed) -> Injected:
        """See `Compressor.inject`."""
        return _rows(lm, compressed)

    def bits(self, compressed: Compressed) -> float:
        """See `Compressor.bits`."""
        return tensor_bits(compressed)

    def saved(self) -> Saved:
        """See `Compressor.saved`."""
        return Saved(self.kind, {"ratio": self.ratio}, {})

    @classmethod
    def from_saved(cls, saved: Saved) -> EqualVectors:
        """See `Compressor.from_saved`."""
        return cls(**saved.settings)

    def save(self, path: Path) -> None:
        """See `Compressor.save`."""
        write_saved(path, self.saved())

    @classmethod
    def load(cls, path: Path) -> EqualVectors:
        """See `Compressor.load`."""
        return cls.from_saved(read_saved(path, cls.kind))


@final
@dataclass(frozen=True, eq=False)
class EqualBits:
    """The context's first tokens, as many as the bits of `inner` for this context carry as ids; all if they can."""

    kind: ClassVar[str] = "equal_bits"
    inner: Compressor

    @property
    def name(self) -> str:
        """See `Compressor.name`."""
        return f"truncation at the bits of {self.inner.name}"

    @property
    def ratio(self) -> float:
        """See `Compressor.ratio`: that of the compressor whose bits it may use."""
        return self.inner.ratio

    @property
    def needs_context_only(self) -> bool:
        """See `Compressor.needs_context_only`."""
        return True

    def fit(self, lm: LanguageModel, sequences: Sequence[Tensor], *, seed: int, run: RunDir | None = None) -> EqualBits:
        """See `Compressor.fit`."""
        return replace(self, inner=self.inner.fit(lm, sequences, seed=seed, run=run))

    def compress(self, lm: LanguageModel, ids_T: Int[Tensor, " T"]) -> Compressed:
        """See `Compressor.compress`. No token is kept where the bits do not carry one."""
        budget = self.inner.bits(self.inner.compress(lm, ids_T))
        return _kept(lm, ids_T, tokens_within(budget, lm.vocab_size, len(ids_T)))

    def inject(self, lm: LanguageModel, compressed: Compressed) -> Injected:
        """See `Compressor.inject`."""
        return _rows(lm, compressed)

    def bits(self, compressed: Compressed) -> float:
        """See `Compressor.bits`."""
        return tensor_bits(compressed)

    def saved(self) -> Saved:
        """See `Compressor.saved`."""
        return Saved(self.kind, *nested("inner", self.inner.saved()))

    @classmethod
    def from_saved(cls, saved: Saved) -> EqualBits:
        """See `Compressor.from_saved`."""
        from inscape.compressors.stored import restored

        return cls(restored(nested_in(saved, "inner")))

    def save(self, path: Path) -> None:
        """See `Compressor.save`."""
        write_saved(path, self.saved())

    @classmethod
    def load(cls, path: Path) -> EqualBits:
        """See `Compressor.load`."""
        return cls.from_saved(read_saved(path, cls.kind))


def _kept(lm: LanguageModel, ids_T: Int[Tensor, " T"], kept: int) -> Compressed:
    return Compressed({IDS: ids_to_bytes(ids_T[:kept], lm.vocab_size)}, len(ids_T), kept)


def _rows(lm: LanguageModel, compressed: Compressed) -> Injected:
    ids_K = ids_from_bytes(compressed.tensors[IDS], lm.vocab_size, compressed.vectors)
    return Injected(lm.table_VD.detach()[ids_K.to(lm.device)])


def tokens_within(bits: float, rows: int, tokens: int) -> int:
    """How many of `tokens` ids of a table of `rows` fit into `bits`, in whole bytes."""
    kept = min(tokens, math.floor(bits / math.log2(rows)) if rows > 1 else tokens)
    while kept > 0 and 8 * _byte_count(kept, rows) > bits:
        kept -= 1
    return kept


def _byte_count(tokens: int, rows: int) -> int:
    return ((rows**tokens - 1).bit_length() + 7) // 8


def ids_to_bytes(ids_K: Int[Tensor, " K"], rows: int) -> UInt8[Tensor, " bytes"]:
    """Ids as the digits of one number in base `rows`, the first one last, in little-endian bytes."""
    number = 0
    for token in reversed(ids_K.tolist()):
        number = number * rows + token
    content = number.to_bytes(_byte_count(len(ids_K), rows), "little")
    return torch.tensor(list(content), dtype=torch.uint8)


def ids_from_bytes(content: UInt8[Tensor, " bytes"], rows: int, tokens: int) -> Int[Tensor, " K"]:
    """The inverse of `ids_to_bytes`."""
    number, ids = int.from_bytes(bytes(content.tolist()), "little"), []
    for _ in range(tokens):
        number, token = divmod(number, rows)
        ids.append(token)
    return torch.tensor(ids, dtype=torch.int64)
