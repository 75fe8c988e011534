"""Mean pooling: every run of `ratio` tokens becomes the mean of their states, mapped back into the space of input rows.

Li et al. 2025 (arXiv 2510.20797) find that means of contextual states serve a receiver better than learned compression
tokens. Three stages, each of use alone:

    layer 0, nothing fitted      the plain mean of table rows: order within a run is lost, the bag of words is not
    any layer, `fit`             a ridge regression from pooled states to pooled table rows, in closed form: a start
                                 that the receiver can read, and for layer 0 the identity
    `distilled`                  the map, and with rank > 0 low-rank adapters in the encoder, trained by distillation

The paper trains encoder and receiver wholly; here the receiver is frozen. Runs differ in length by one token at most,
so that floor(T / ratio) of them cover all T tokens whether or not the ratio divides T.

Legend: T tokens, M = floor(T / ratio) runs, D width of the embedding table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, final

import torch
from torch import Tensor, nn

from inscape.compressors.distillation import DistillationConfig, distil
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
from inscape.compressors.receiving import first_layers, states_of
from inscape.compressors.teaching_examples import Example
from inscape.core.rundir import RunDir
from inscape.nn.lora import LowRankAdapters, linear_sizes

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from inscape.pretrained.language_model import LanguageModel

__all__ = ["WIRE", "MeanPooled", "PooledEncoder", "run_bounds", "run_ends", "run_means", "wire_type"]

RIDGE = 1e-3  # of the mean variance of a standardised state, which is 1
WIRE = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def run_bounds(tokens: int, ratio: float) -> list[tuple[int, int]]:
    """Where each of floor(T / ratio) runs begins and ends; ValueError where a ratio cannot be met."""
    count = vector_count(tokens, ratio)
    return [(m * tokens // count, (m + 1) * tokens // count) for m in range(count)]


def run_ends(tokens: int, ratio: float) -> Int[Tensor, " M"]:
    """The place of each run's last token; ValueError where a ratio cannot be met."""
    return torch.tensor([stop - 1 for _, stop in run_bounds(tokens, ratio)])


def run_means(states_TD: Float[Tensor, "T D"], ratio: float) -> Float[Tensor, "M D"]:
    """The mean of each run."""
    bounds = run_bounds(len(states_TD), ratio)
    return torch.stack([states_TD[start:stop].mean(0) for start, stop in bounds])


def wire_type(name: str) -> torch.dtype:
    """The torch type of numbers that travel. ValueError for an unknown name."""
    if name not in WIRE:
        raise ValueError(f"wire={name!r} is not known; use one of {', '.join(WIRE)}")
    return WIRE[name]


@final
class PooledEncoder(nn.Module):
    """Pooled states of a layer and their rows: scale * map((pooled - mean) / deviation), and at layer 0 + pooled.

    Pooled table rows are rows already, so there the map starts at zero and adds what training finds. scale: the root
    mean square of the table, so that a step of the map is the same size whatever the model's units. sizes: inputs and
    outputs of the linear maps that get adapters, by name; none: the encoder is the frozen model and takes no gradient.
    """

    def __init__(self, dimension: int, *, layer: int, ratio: float, rank: int, sizes: dict[str, Sequence[int]]) -> None:
        super().__init__()
        self.layer, self.ratio, self.sizes = layer, ratio, sizes
        self.adapters = LowRankAdapters(sizes, rank=rank) if rank else None
        self.map = nn.Linear(dimension, dimension)
        nn.init.zeros_(self.map.weight)
        nn.init.zeros_(self.map.bias)
        self.mean_D: Tensor
        self.deviation_D: Tensor
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("mean_D", torch.zeros(dimension))
        self.register_buffer("deviation_D", torch.ones(dimension))

    def forward(self, lm: LanguageModel, contexts: Sequence[Int[Tensor, " T"]]) -> list[Float[Tensor, "M D"]]:
        """The rows that stand for each context."""
        pooled = [run_means(states_TD, self.ratio) for states_TD in self.states(lm, contexts)]
        rows = [self.scale * self.map((each.float() - self.mean_D) / self.deviation_D) for each in pooled]
        return rows if self.layer else [each + row for each, row in zip(pooled, rows, strict=True)]

    def states(self, lm: LanguageModel, contexts: Sequence[Int[Tensor, " T"]]) -> list[Float[Tensor, "T D"]]:
        """States after `layer` layers and the final norm, of each context read by itself."""
        rows = [lm.table_VD[ids_T] for ids_T in contexts]
        if self.layer == 0:
            return rows
        if self.adapters is None:
            with torch.no_grad():
                states_BND = states_of(lm, rows, depth=self.layer)
        else:
            with self.adapters.applied(lm.model):
                states_BND = states_of(lm, rows, depth=self.layer)
        return [states_ND[: len(each)] for states_ND, each in zip(states_BND, rows, strict=True)]


@final
@dataclass(frozen=True, eq=False)
class MeanPooled:
    """Means of runs, as a compressor of contexts."""

    ratio: float  # tokens a vector, 1 or more
    layer: int = 0  # whose states are pooled: 0 the table's rows, k after k layers and the final norm
    rank: int = 0  # of the adapters that `distilled` trains in the encoder; 0 = none, the encoder stays frozen
    wire: str = "float32"  # the type vectors travel in: float32 | float16 | bfloat16
    encoder: PooledEncoder | None = field(default=None, repr=False)

    kind = "mean_pooled"
    needs_context_only = True

    def __post_init__(self) -> None:
        vector_count(2**31, self.ratio)
        wire_type(self.wire)
        if self.layer < 0 or self.rank < 0:
            raise ValueError(f"layer={self.layer}, rank={self.rank} are out of range; allowed: 0 or more")
        if self.rank and not self.layer:
            raise ValueError(
                f"rank={self.rank} at layer 0 adapts nothing: table rows pass no layer; use layer 1 or more"
            )

    @property
    def name(self) -> str:
        """See `Compressor.name`."""
        states = f"states of layer {self.layer}" if self.layer else "table rows"
        mapped = "" if self.encoder is None else " through a map"
        return f"mean-pooled {states}{mapped}{f', adapters of rank {self.rank}' if self.rank else ''}"

    def fit(
        self, lm: LanguageModel, sequences: Sequence[Int[Tensor, " T"]], *, seed: int, run: RunDir | None = None
    ) -> Self:
        """The map in closed form, from contexts; those shorter than one run are passed over.

        Ridge regression of pooled table rows on standardised pooled states; at layer 0 that is the identity, and only
        statistics are taken. `seed` starts the adapters; `run` is not needed.
        """
        encoder = self._fresh(lm, seed)
        moments = _Moments.of(lm.dimension)
        for ids_T in sequences:
            if len(ids_T) >= self.ratio:
                ids_T = ids_T.to(lm.device)
                with torch.no_grad():
                    pooled_MD = run_means(encoder.states(lm, [ids_T])[0], self.ratio)
                moments.add(pooled_MD, run_means(lm.table_VD[ids_T], self.ratio))
        _start_map(encoder, moments)
        return replace(self, encoder=encoder.eval().requires_grad_(False))

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
        """The map (and adapters) trained by distillation from where they are; `fit` on the contexts comes first."""
        start = self
        if start.encoder is None:
            start = self.fit(lm, [torch.tensor(example.context) for example in examples], seed=seed)
        encoder = self._fresh(lm, seed)
        assert start.encoder is not None
        encoder.load_state_dict(start.encoder.state_dict())
        trained = distil(lm, encoder, examples, config, run, seed=seed, watched=watched).ema
        assert isinstance(trained, PooledEncoder)
        return replace(self, encoder=trained)

    @torch.no_grad()
    def compress(self, lm: LanguageModel, ids_T: Int[Tensor, " T"]) -> Compressed:
        """See `Compressor.compress`."""
        check_ids(lm, ids_T)
        if self.encoder is None and self.layer:
            raise ValueError(f"nothing maps states of layer {self.layer} to rows yet; call fit, or pool layer 0")
        count = vector_count(len(ids_T), self.ratio)
        ids_T = ids_T.to(lm.device)
        if self.encoder is None:
            rows_MD = run_means(lm.table_VD[ids_T], self.ratio)
        else:
            (rows_MD,) = self.encoder.to(lm.device)(lm, [ids_T])
        return Compressed({LATENT: rows_MD.to(wire_type(self.wire))}, len(ids_T), count)

    def inject(self, lm: LanguageModel, compressed: Compressed) -> Injected:
        """See `Compressor.inject`: the vectors are rows already."""
        return Injected(compressed.tensors[LATENT].to(lm.table_VD))

    def bits(self, compressed: Compressed) -> float:
        """M D times the bits of a number."""
        return tensor_bits(compressed)

    def saved(self) -> Saved:
        """See `Compressor.saved`."""
        settings = {"ratio": self.ratio, "layer": self.layer, "rank": self.rank, "wire": self.wire}
        if self.encoder is None:
            return Saved(self.kind, settings, {})
        return Saved(self.kind, settings | {"sizes": self.encoder.sizes}, self.encoder.state_dict())

    @classmethod
    def from_saved(cls, saved: Saved) -> Self:
        """See `Compressor.from_saved`."""
        settings: dict[str, Any] = dict(saved.settings)
        sizes = settings.pop("sizes", None)
        plain = cls(**settings)
        if sizes is None:
            return plain
        encoder = PooledEncoder(
            len(saved.tensors["mean_D"]), layer=plain.layer, ratio=plain.ratio, rank=plain.rank, sizes=sizes
        )
        encoder.load_state_dict(saved.tensors)
        return replace(plain, encoder=encoder.eval().requires_grad_(False))

    def save(self, path: Path) -> None:
        """See `Compressor.save`."""
        write_saved(path, self.saved())

    @classmethod
    def load(cls, path: Path) -> Self:
        """See `Compressor.load`."""
        return cls.from_saved(read_saved(path, cls.kind))

    def _fresh(self, lm: LanguageModel, seed: int) -> PooledEncoder:
        with first_layers(lm, self.layer):
            sizes: dict[str, Sequence[int]] = dict(linear_sizes(lm.model)) if self.rank else {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = PooledEncoder(lm.dimension, layer=self.layer, ratio=self.ratio, rank=self.rank, sizes=sizes)
        encoder.scale.copy_(lm.table_VD.float().square().mean().sqrt())
        return encoder.to(lm.device)


class _Moments(NamedTuple):
    """Sums over pooled states x and pooled rows y, in float64: memory does not grow with the number of contexts."""

    number: Tensor
    x_D: Tensor
    y_D: Tensor
    xx_DD: Tensor
    xy_DD: Tensor

    @classmethod
    def of(cls, dimension: int) -> _Moments:
        zeros_D, zeros_DD = torch.zeros(dimension, dtype=torch.float64), torch.zeros(dimension, dimension).double()
        return cls(torch.zeros((), dtype=torch.float64), zeros_D, zeros_D.clone(), zeros_DD, zeros_DD.clone())

    def add(self, x_MD: Tensor, y_MD: Tensor) -> None:
        x_MD, y_MD = x_MD.double().cpu(), y_MD.double().cpu()
        more = (torch.tensor(len(x_MD)), x_MD.sum(0), y_MD.sum(0), x_MD.T @ x_MD, x_MD.T @ y_MD)
        for total, part in zip(self, more, strict=True):
            total += part


def _start_map(encoder: PooledEncoder, moments: _Moments) -> None:
    """Statistics of pooled states, and above layer 0 the ridge regression of pooled rows on them."""
    count = float(moments.number)
    if not count:
        raise ValueError(f"no context is {encoder.ratio:g} tokens long: there is nothing to fit mean pooling on")
    mean_D, target_D = moments.x_D / count, moments.y_D / count
    covariance_DD = moments.xx_DD / count - mean_D.outer(mean_D)
    variance_D = covariance_DD.diagonal().clamp_min(0)
    deviation_D = torch.where(variance_D > 0, variance_D.sqrt(), 1.0)
    with torch.no_grad():
        encoder.mean_D.copy_(mean_D)
        encoder.deviation_D.copy_(deviation_D)
        if encoder.layer:
            correlation_DD = covariance_DD / deviation_D.outer(deviation_D)
            cross_DD = (moments.xy_DD / count - mean_D.outer(target_D)) / deviation_D[:, None]
            ridge_DD = RIDGE * torch.eye(len(mean_D), dtype=torch.float64)
            weight_DD = torch.linalg.solve(correlation_DD + ridge_DD, cross_DD)
            encoder.map.weight.copy_(weight_DD.T / encoder.scale.cpu())
            encoder.map.bias.copy_(target_D / encoder.scale.cpu())
