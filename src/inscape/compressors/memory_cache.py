"""Memory in the cache: the language model reads a context, and what it computes at a few memory tokens is kept of it.

The encoder is the frozen model with low-rank adapters. Among the context's tokens it meets M = floor(T / ratio) memory
tokens, and what travels is not their last states, as with `memory_tokens`, but their keys and values in every layer.
The receiver, the same model without adapters, finds them in its cache and goes on with the question (gist tokens, Mu et
al. 2023, arXiv 2304.08467; compressed context memory, Kim et al. 2024, arXiv 2312.03414). A context takes as few places
of the receiver's window as with memory tokens, and many times as many bits: 2 L K E numbers a vector in the place of D.

Why it learns sooner: a row that is fed must survive every layer of a receiver that never met such rows. Keys and values
are what each layer looks for already, so that training starts where the pruning of a cache ends.

Memory token j stands right behind the last token of run j, at its position, and starts from a learned row plus the mean
of its run's table rows (see `memory_tokens`). With `own` there are none: the last token of each run is kept itself, so
that before training this is a cache thinned at even distances, which a model can be taught to fill (`reader`). The
prefix ("Context: ") is read in front, as it will stand in front for the receiver, who reads it itself: it costs
nothing. Trained by `distillation`.

Legend: T tokens, M memory tokens, P tokens of the prefix, L layers, K key heads, E width of a head, D width of the
embedding table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, final

import torch
from torch import Tensor, nn

from inscape.compressors.distillation import DistillationConfig, Objective, distil
from inscape.compressors.interface import (
    Compressed,
    Injected,
    Saved,
    check_ids,
    read_saved,
    tensor_bits,
    vector_count,
    write_saved,
)
from inscape.compressors.mean_pooled import run_ends, run_means, wire_type
from inscape.compressors.memory_tokens import layout_of, rows_to_read
from inscape.compressors.receiving import CacheMemory, cache_layers, injected_cache, states_of
from inscape.compressors.teaching_examples import Example
from inscape.core.rundir import RunDir
from inscape.nn.lora import LowRankAdapters, linear_sizes

if TYPE_CHECKING:
    from jaxtyping import Int

    from inscape.pretrained.language_model import LanguageModel

__all__ = ["CacheEncoder", "MemoryCache"]


@final
class CacheEncoder(nn.Module):
    """Adapters and the memory tokens' row, if there are any (`dimension` is not None): all that is trained."""

    def __init__(
        self,
        dimension: int | None,
        sizes: dict[str, Sequence[int]],
        *,
        ratio: float,
        rank: int,
        prefix: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.sizes, self.ratio, self.prefix = sizes, ratio, prefix
        self.adapters = LowRankAdapters(sizes, rank=rank)
        self.memory = None if dimension is None else nn.Embedding(1, dimension)  # in units of `scale`
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))  # root mean square of the table

    def forward(self, lm: LanguageModel, contexts: Sequence[Int[Tensor, " T"]]) -> list[CacheMemory]:
        """What stands for each context."""
        from transformers import DynamicCache

        plan = self._as_it_is if self.memory is None else self._among_memory_tokens
        read, positions, kept = plan(lm, contexts)
        cache: Any = DynamicCache()
        with self.adapters.applied(lm.model):
            states_of(lm, read, positions, cache=cache)
        layers = cache_layers(lm, cache)
        return [
            CacheMemory(self.prefix, *(torch.stack([layer[side][i][:, at_M] for layer in layers]) for side in (0, 1)))
            for i, at_M in enumerate(kept)
        ]

    def _among_memory_tokens(
        self, lm: LanguageModel, contexts: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor] | None, list[Tensor]]:
        # Rows to read, where each of them stands, and which of them are kept.
        assert self.memory is not None
        ahead, row_1D = len(self.prefix), self.scale * self.memory.weight
        prefix_PD = lm.rows(self.prefix)
        plans = [layout_of(len(ids_T), self.ratio, "interleaved") for ids_T in contexts]
        read, positions = [], []
        for ids_T, plan in zip(contexts, plans, strict=True):
            mean_MD = run_means(lm.table_VD[ids_T], self.ratio).float()
            read.append(torch.cat((prefix_PD, rows_to_read(lm, ids_T, plan, mean_MD, row_1D))))
            positions.append(torch.cat((torch.arange(ahead), ahead + plan.position_N)).to(lm.device))
        return read, positions, [(ahead + plan.memory_M).to(lm.device) for plan in plans]

    def _as_it_is(
        self, lm: LanguageModel, contexts: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor] | None, list[Tensor]]:
        read = [torch.cat((lm.rows(self.prefix), lm.table_VD[ids_T])) for ids_T in contexts]
        return read, None, [len(self.prefix) + run_ends(len(i), self.ratio).to(lm.device) for i in contexts]


@final
@dataclass(frozen=True, eq=False)
class MemoryCache:
    """Keys and values of memory tokens, as a compressor of contexts."""

    ratio: float  # tokens a vector, 1 or more
    rank: int = 16  # of the adapters
    prefix: tuple[int, ...] = ()  # ids in front of every context, which the receiver knows
    wire: str = "float16"  # the type keys and values travel in: float32 | float16 | bfloat16
    own: bool = False  # keep the last token of each run itself, and add no memory token
    training: DistillationConfig = field(  # of `fit`, which has no questions
        default_factory=lambda: DistillationConfig(objective=Objective(answer_kl=0, question_kl=0, reconstruction=1))
    )
    encoder: CacheEncoder | None = field(default=None, repr=False)

    kind = "memory_cache"
    needs_context_only = True

    def __post_init__(self) -> None:
        vector_count(2**31, self.ratio)
        wire_type(self.wire)
        if self.rank < 1:
            raise ValueError(f"rank={self.rank} is out of range; allowed: 1 or more")

    @property
    def name(self) -> str:
        """See `Compressor.name`."""
        kept = "the last token of each run" if self.own else "memory tokens"
        return f"keys and values of {kept}, adapters of rank {self.rank}"

    def fit(
        self, lm: LanguageModel, sequences: Sequence[Int[Tensor, " T"]], *, seed: int, run: RunDir | None = None
    ) -> Self:
        """Pretraining on contexts alone: the receiver reads them back (ICAE's autoencoding), as `training` says."""
        examples = [Example(self.prefix, tuple(ids_T.tolist())) for ids_T in sequences if len(ids_T) >= self.ratio]
        return self.distilled(lm, examples, self.training, seed=seed, run=run)

    def distilled(
        self,
        lm: LanguageModel,
        examples: Sequence[Example],
        config: DistillationConfig,
        *,
        seed: int,
        run: RunDir | None = None,
        watched: Sequence[Example] = (),
    ) -> Self:
        """Trained as `config` says, from where it is, or from the start if nothing was trained yet.

        ValueError where an example has another prefix: its keys and values would be those of another text.
        """
        if other := next((e.prefix for e in (*examples, *watched) if tuple(e.prefix) != self.prefix), None):
            raise ValueError(f"an example begins with the ids {other} and this memory with {self.prefix}; use one")
        encoder = self._fresh(lm, seed)
        if self.encoder is not None:
            encoder.load_state_dict(self.encoder.state_dict())
        trained = distil(lm, encoder, examples, config, run, seed=seed, watched=watched).ema
        assert isinstance(trained, CacheEncoder)
        return replace(self, encoder=trained)

    @torch.no_grad()
    def compress(self, lm: LanguageModel, ids_T: Int[Tensor, " T"]) -> Compressed:
        """See `Compressor.compress`."""
        check_ids(lm, ids_T)
        count = vector_count(len(ids_T), self.ratio)
        if self.encoder is None:
            raise ValueError("this memory was never trained; call fit or distilled, or load a trained file")
        (memory,) = self.encoder.to(lm.device)(lm, [ids_T.to(lm.device)])
        wire = wire_type(self.wire)
        tensors = {"keys": memory.keys_LKME.to(wire), "values": memory.values_LKME.to(wire)}
        return Compressed(tensors, len(ids_T), count)

    def inject(self, lm: LanguageModel, compressed: Compressed) -> Injected:
        """A cache of prefix and memory; each memory token stands where the last token of its run stood."""
        return injected_cache(lm, compressed, self.prefix, run_ends(compressed.tokens, self.ratio).tolist())

    def bits(self, compressed: Compressed) -> float:
        """L * 2 * K * E * M times the bits of a number."""
        return tensor_bits(compressed)

    def saved(self) -> Saved:
        """See `Compressor.saved`. How it was trained is told by the run, not by the file."""
        if self.encoder is None:
            raise ValueError("this memory was never trained: there is nothing to save; call fit or distilled")
        settings = {name: getattr(self, name) for name in ("ratio", "rank", "prefix", "wire", "own")}
        return Saved(self.kind, settings | {"sizes": self.encoder.sizes}, self.encoder.state_dict())

    @classmethod
    def from_saved(cls, saved: Saved) -> Self:
        """See `Compressor.from_saved`."""
        settings: dict[str, Any] = saved.settings | {"prefix": tuple(saved.settings["prefix"])}
        sizes = settings.pop("sizes")
        plain = cls(**settings)
        encoder = plain._encoder(0 if plain.own else saved.tensors["memory.weight"].shape[1], sizes)
        encoder.load_state_dict(saved.tensors)
        return replace(plain, encoder=encoder.eval().requires_grad_(False))

    def save(self, path: Path) -> None:
        """See `Compressor.save`."""
        write_saved(path, self.saved())

    @classmethod
    def load(cls, path: Path) -> Self:
        """See `Compressor.load`."""
        return cls.from_saved(read_saved(path, cls.kind))

    def _encoder(self, dimension: int, sizes: dict[str, Sequence[int]]) -> CacheEncoder:
        given = None if self.own else dimension
        return CacheEncoder(given, sizes, ratio=self.ratio, rank=self.rank, prefix=self.prefix)

    def _fresh(self, lm: LanguageModel, seed: int) -> CacheEncoder:
        sizes: dict[str, Sequence[int]] = dict(linear_sizes(lm.model))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = self._encoder(lm.dimension, sizes)
        encoder.scale.copy_(lm.table_VD.float().square().mean().sqrt())
        return encoder.to(lm.device)
