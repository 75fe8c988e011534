"""Memory tokens: the language model reads a context and writes it into a few vectors that a copy of itself can read.

The encoder is the frozen model with low-rank adapters. Among the context's tokens it meets M = floor(T / ratio) memory
tokens; their last hidden states, through a small projection, are the rows that the receiver, the same model without
adapters, is fed in place of the context (ICAE, Ge et al. 2023, arXiv 2307.06945; PISCO, Louis et al. 2025, arXiv
2501.16075, whose adapters on the receiver are left out here: the receiver is frozen). Trained by `distillation`.

Where memory tokens stand. Both papers put them after the context, at positions that go on counting. Two things speak
against that here. All memory tokens are one learned row, so that contexts of any length have one for every run of
`ratio` tokens; what tells them apart is their rotary position alone. And a frozen model's heads know how to look a few
tokens back, not how to find the j-th run of a text from a hundred positions away. So memory token j carries the
position of the last token of run j (Zhao et al. 2024, arXiv 2409.14364, find such positions better than counting on),
and the context's own positions stay what they are for the model. The order, which decides what the causal mask lets it
see, is a setting:

    interleaved  behind its run: it sees the text up to there, every distance is one that the model was trained on
    end          behind the whole context: it sees all of it, later tokens at negative distances, new to the model

What a memory token starts from. With `skip` its input is the learned row plus the mean of its run's table rows, and
that mean, times a learned gain, is added to its output: training starts at plain mean pooling, which the receiver can
half read, instead of at noise. Without, inputs and outputs are as in the papers.

Legend: T tokens, M memory tokens, N = T + M, D width of the embedding table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from inscape.compressors.distillation import DistillationConfig, Objective, distil
from inscape.compressors.interface import (
    LATENT,
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
from inscape.compressors.receiving import first_layers, states_of
from inscape.compressors.teaching_examples import Example
from inscape.core.rundir import RunDir
from inscape.nn.lora import LowRankAdapters, linear_sizes

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from inscape.pretrained.language_model import LanguageModel

__all__ = ["LAYOUTS", "Layout", "MemoryEncoder", "MemoryTokens", "layout_of", "rows_to_read"]

LAYOUTS = ("interleaved", "end")


class Layout(NamedTuple):
    """What the encoder reads, in its order: places below T are the context's tokens, T + j is memory token j."""

    order_N: Tensor
    position_N: Tensor  # rotary positions, in that order
    memory_M: Tensor  # where in the order memory tokens stand


def layout_of(tokens: int, ratio: float, layout: str) -> Layout:
    """In which order a context of T tokens is read. ValueError for an unknown layout or a ratio that cannot be met."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r} is not known; use one of {', '.join(LAYOUTS)}")
    ends_M = run_ends(tokens, ratio)
    position_N = torch.cat((torch.arange(tokens), ends_M))
    # A stable sort by position puts a memory token right behind the token whose position it shares.
    order_N = position_N.argsort(stable=True) if layout == "interleaved" else torch.arange(len(position_N))
    return Layout(order_N, position_N[order_N], (order_N >= tokens).nonzero()[:, 0])


def rows_to_read(
    lm: LanguageModel, ids_T: Tensor, plan: Layout, mean_MD: Tensor | None, row_1D: Tensor
) -> Float[Tensor, "N D"]:
    """What the encoder is fed: the context's rows, and among them the memory tokens', each on top of its run's mean."""
    table_VD = lm.table_VD
    memory_MD = row_1D.expand(len(plan.memory_M), -1)
    memory_MD = memory_MD if mean_MD is None else memory_MD + mean_MD
    return torch.cat((table_VD[ids_T], memory_MD.to(table_VD.dtype)))[plan.order_N.to(lm.device)]


@final
class MemoryEncoder(nn.Module):
    """Adapters, the memory tokens' row and the projection: all that is trained, without the model itself."""

    def __init__(
        self,
        dimension: int,
        sizes: dict[str, Sequence[int]],
        *,
        ratio: float,
        rank: int,
        layout: str,
        skip: bool,
        depth: int,
    ) -> None:
        super().__init__()
        self.sizes, self.ratio, self.layout, self.skip, self.depth = sizes, ratio, layout, skip, depth
        self.adapters = LowRankAdapters(sizes, rank=rank)
        self.memory = nn.Embedding(1, dimension)  # in units of `scale`
        self.project = nn.Linear(dimension, dimension)
        nn.init.zeros_(self.project.bias)
        if skip:
            nn.init.zeros_(self.project.weight)
        else:
            nn.init.normal_(self.project.weight, std=dimension**-0.5)
        self.gain = nn.Parameter(torch.ones(1)) if skip else None
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))  # root mean square of the table: rows come out in its units

    def forward(self, lm: LanguageModel, contexts: Sequence[Int[Tensor, " T"]]) -> list[Float[Tensor, "M D"]]:
        """The rows that stand for each context."""
        plans = [layout_of(len(ids_T), self.ratio, self.layout) for ids_T in contexts]
        means = [run_means(lm.table_VD[ids_T], self.ratio).float() if self.skip else None for ids_T in contexts]
        row_1D = self.scale * self.memory.weight
        read = [rows_to_read(lm, *each, row_1D) for each in zip(contexts, plans, means, strict=True)]
        with self.adapters.applied(lm.model):
            states_BND = states_of(lm, read, [plan.position_N.to(lm.device) for plan in plans], depth=self.depth)
        rows = []
        for states_ND, plan, mean_MD in zip(states_BND, plans, means, strict=True):
            state_MD = states_ND[plan.memory_M.to(states_ND.device)].float()
            row_MD = self.scale * self.project(functional.rms_norm(state_MD, state_MD.shape[-1:])).float()
            rows.append(row_MD if self.gain is None or mean_MD is None else row_MD + self.gain * mean_MD)
        return rows


@final
@dataclass(frozen=True, eq=False)
class MemoryTokens:
    """Memory tokens, as a compressor of contexts."""

    ratio: float  # tokens a vector, 1 or more
    rank: int = 16  # of the adapters
    layout: str = "interleaved"  # interleaved | end: where memory tokens stand
    skip: bool = True  # start from the means of table rows
    depth: int = 0  # layers of the model that encode, before its final norm; 0 = all: fewer are cheaper to train
    wire: str = "float32"  # the type vectors travel in: float32 | float16 | bfloat16
    training: DistillationConfig = field(  # of `fit`, which has no questions
        default_factory=lambda: DistillationConfig(objective=Objective(answer_kl=0, question_kl=0, reconstruction=1))
    )
    encoder: MemoryEncoder | None = field(default=None, repr=False)

    kind = "memory_tokens"
    needs_context_only = True

    def __post_init__(self) -> None:
        vector_count(2**31, self.ratio)
        wire_type(self.wire)
        if self.rank < 1:
            raise ValueError(f"rank={self.rank} is out of range; allowed: 1 or more")
        if self.depth < 0:
            raise ValueError(f"depth={self.depth} is out of range; allowed: 0 (all layers) or more")
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout={self.layout!r} is not known; use one of {', '.join(LAYOUTS)}")

    @property
    def name(self) -> str:
        """See `Compressor.name`."""
        return f"memory tokens, {self.layout}, adapters of rank {self.rank}"

    def fit(
        self, lm: LanguageModel, sequences: Sequence[Int[Tensor, " T"]], *, seed: int, run: RunDir | None = None
    ) -> Self:
        """Pretraining on contexts alone: the receiver reads them back (ICAE's autoencoding), as `training` says."""
        examples = [Example((), tuple(ids_T.tolist())) for ids_T in sequences if len(ids_T) >= self.ratio]
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
        """Trained as `config` says, from where it is, or from the start if nothing was trained yet."""
        encoder = self._fresh(lm, seed)
        if self.encoder is not None:
            encoder.load_state_dict(self.encoder.state_dict())
        trained = distil(lm, encoder, examples, config, run, seed=seed, watched=watched).ema
        assert isinstance(trained, MemoryEncoder)
        return replace(self, encoder=trained)

    @torch.no_grad()
    def compress(self, lm: LanguageModel, ids_T: Int[Tensor, " T"]) -> Compressed:
        """See `Compressor.compress`."""
        check_ids(lm, ids_T)
        count = vector_count(len(ids_T), self.ratio)
        if self.encoder is None:
            raise ValueError("these memory tokens were never trained; call fit or distilled, or load a trained file")
        (rows_MD,) = self.encoder.to(lm.device)(lm, [ids_T.to(lm.device)])
        return Compressed({LATENT: rows_MD.to(wire_type(self.wire))}, len(ids_T), count)

    def inject(self, lm: LanguageModel, compressed: Compressed) -> Injected:
        """See `Compressor.inject`: the vectors are rows already."""
        return Injected(compressed.tensors[LATENT].to(lm.table_VD))

    def bits(self, compressed: Compressed) -> float:
        """M D times the bits of a number."""
        return tensor_bits(compressed)

    def saved(self) -> Saved:
        """See `Compressor.saved`. How it was trained is told by the run, not by the file."""
        if self.encoder is None:
            raise ValueError("these memory tokens were never trained: there is nothing to save; call fit or distilled")
        names = ("ratio", "rank", "layout", "skip", "depth", "wire")
        settings = {name: getattr(self, name) for name in names} | {"sizes": self.encoder.sizes}
        return Saved(self.kind, settings, self.encoder.state_dict())

    @classmethod
    def from_saved(cls, saved: Saved) -> Self:
        """See `Compressor.from_saved`."""
        settings: dict[str, Any] = dict(saved.settings)
        sizes = settings.pop("sizes")
        plain = cls(**settings)
        encoder = plain._encoder(saved.tensors["memory.weight"].shape[1], sizes)
        encoder.load_state_dict(saved.tensors)
        return replace(plain, encoder=encoder.eval().requires_grad_(False))

    def save(self, path: Path) -> None:
        """See `Compressor.save`."""
        write_saved(path, self.saved())

    @classmethod
    def load(cls, path: Path) -> Self:
        """See `Compressor.load`."""
        return cls.from_saved(read_saved(path, cls.kind))

    def _encoder(self, dimension: int, sizes: dict[str, Sequence[int]]) -> MemoryEncoder:
        parts = {"rank": self.rank, "layout": self.layout, "skip": self.skip, "depth": self.depth}
        return MemoryEncoder(dimension, sizes, ratio=self.ratio, **parts)

    def _fresh(self, lm: LanguageModel, seed: int) -> MemoryEncoder:
        with first_layers(lm, self.depth):
            sizes: dict[str, Sequence[int]] = dict(linear_sizes(lm.model))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = self._encoder(lm.dimension, sizes)
        encoder.scale.copy_(lm.table_VD.float().square().mean().sqrt())
        return encoder.to(lm.device)
