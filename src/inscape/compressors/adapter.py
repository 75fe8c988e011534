"""A trained receiver of projected rows: Phase 1 of the plan, in which nothing but the rows' squared error is learned.

Rows are functions of ids, so a batch of 64 prompts is its different ids, each weighted by how often it occurs. That is
the mean over all token rows to the last digit, at a fifth of the work; dropout alone is drawn once for an id instead of
once for each of its tokens. What the receiver is trained on is what travels: latents after rounding to their wire type.

It starts at the mean row: the usual random start has outputs of variance 1, a thousand times that of a table's rows,
and the first hundreds of steps would only shrink them.

The norm of a row. A receiver that rescales its rows to the norms of the ORIGINAL rows has been told one number a token
that nobody sent (the record's fix of a broken output norm, and its oracle leak). Here "stored" sends that number, the
ledger counts it, and "none" leaves norms to what was learned.

Legend: P prompts, T tokens, N different ids of all prompts, U of a batch, d width of the latent, D of the table.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple, final

import numpy as np
import torch
from torch import Tensor, nn

from inscape.checkpoint import weights_of
from inscape.compressors.interface import (
    LATENT,
    Compressed,
    Injected,
    Saved,
    nested,
    nested_in,
    read_saved,
    tensor_bits,
    write_saved,
)
from inscape.compressors.linear_inverse import least_squares_inverse
from inscape.compressors.projection import (
    CHUNK,
    RowProjector,
    as_sent,
    moments_of_prompts,
    project,
    projected,
    rows_of,
    token_counts,
)
from inscape.core.rundir import RunDir
from inscape.data.epochs import drawn, positions_of
from inscape.nn.embedding_adapter import EmbeddingAdapter
from inscape.train import FitConfig, fit

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from inscape.pretrained.language_model import LanguageModel

__all__ = [
    "Adapter",
    "AdapterConfig",
    "RowBatch",
    "TrainingRows",
    "made_rows",
    "new_adapter",
    "reconstruction_loss",
    "row_batch",
    "train_adapter",
    "training_rows",
]

NORM = "norm"  # among the tensors that travel
NORMS = ("none", "stored")
STARTS = ("mean", "linear")


@dataclass(frozen=True)
class AdapterConfig:
    """The receiver and its training. Defaults are the plan's."""

    hidden_mult: int = 4  # hidden width over d
    dropout: float = 0.1  # of the second hidden layer
    norms: str = "none"  # none | stored: whether a row's norm travels and the receiver's row is given it
    start: str = "mean"  # mean: of the training rows, whatever the latent | linear: the closed-form linear inverse
    epochs: float = 3.0  # passes over the training prompts
    batch: int = 64  # prompts a step
    lr: float = 5e-4  # peak rate of AdamW, falling by a cosine
    clip_norm: float = 1.0  # largest gradient norm
    weight_decay: float = 0.01  # of matrices
    log_every: int = 10  # steps between training lines of the log
    eval_every: int = 0  # steps between evaluations, where one is given; 0 = only at the end
    checkpoint_every: int = 0  # steps between checkpoints; 0 = only at the end

    def __post_init__(self) -> None:
        for name, allowed in (("norms", NORMS), ("start", STARTS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is not known; allowed: {' | '.join(allowed)}")
        if not 1 <= self.hidden_mult <= 64:
            raise ValueError(f"hidden_mult={self.hidden_mult} is out of range; allowed: 1 to 64")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} is out of range; allowed: at least 0 and below 1")
        if not (math.isfinite(self.epochs) and self.epochs > 0):
            raise ValueError(f"epochs={self.epochs} is out of range; allowed: above 0")
        if self.batch < 1:
            raise ValueError(f"batch={self.batch} is out of range; allowed: 1 or more prompts")
        self.fit_config(1)  # the ranges of all that it hands on

    def fit_config(self, prompts: int) -> FitConfig:
        """The settings of `inscape.train.fit`. The plan averages no weights, and small squares want float32."""
        steps = max(1, math.ceil(self.epochs * prompts / self.batch))
        return FitConfig(
            steps=steps,
            lr=self.lr,
            beta2=0.999,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
            ema_decay=0.0,
            precision="float32",
            log_every=self.log_every,
            eval_every=self.eval_every or steps,
            checkpoint_every=self.checkpoint_every,
        )


@final
@dataclass(frozen=True, eq=False)
class Adapter:
    """The sender of `inner` and a trained receiver."""

    kind: ClassVar[str] = "adapter"
    inner: RowProjector
    config: AdapterConfig = AdapterConfig()
    module: EmbeddingAdapter | None = None

    @property
    def name(self) -> str:
        """See `Compressor.name`."""
        return f"{self.inner.name}, adapter" + (", stored norms" if self.config.norms == "stored" else "")

    @property
    def ratio(self) -> float:
        """See `Compressor.ratio`."""
        return self.inner.ratio

    @property
    def needs_context_only(self) -> bool:
        """See `Compressor.needs_context_only`."""
        return False

    def fit(
        self, lm: LanguageModel, sequences: Sequence[Int[Tensor, " T"]], *, seed: int, run: RunDir | None = None
    ) -> Adapter:
        """See `Compressor.fit`: an inner compressor that is not fitted is fitted first. `run` is this training's own.

        Continued from the checkpoints in `run`, if there are any. See `train_adapter` for evaluations on the way.
        """
        inner = self.inner
        if inner.projection is None:
            inner = inner.fit(lm, sequences, seed=seed, run=run)
        if run is not None:
            return replace(self, inner=inner, module=train_adapter(lm, inner, sequences, self.config, run, seed=seed))
        with tempfile.TemporaryDirectory() as folder:
            module = train_adapter(lm, inner, sequences, self.config, RunDir(Path(folder)), seed=seed)
        return replace(self, inner=inner, module=module)

    def compress(self, lm: LanguageModel, ids_T: Int[Tensor, " T"]) -> Compressed:
        """See `Compressor.compress`; with stored norms one more number a token."""
        sent = self.inner.compress(lm, ids_T)
        if self.config.norms == "none":
            return sent
        norm_T = as_sent(rows_of(lm, ids_T).double().norm(dim=1), self.inner.wire)
        return sent._replace(tensors=sent.tensors | {NORM: norm_T})

    @torch.no_grad()
    def inject(self, lm: LanguageModel, compressed: Compressed) -> Injected:
        """See `Compressor.inject`."""
        module, device = self._fitted(), lm.device
        norm_T = compressed.tensors.get(NORM)
        latent_Td = compressed.tensors[LATENT].to(device).float()
        row_TD = made_rows(module.to(device).eval(), latent_Td, None if norm_T is None else norm_T.to(device).float())
        return Injected(row_TD.to(lm.dtype))

    def bits(self, compressed: Compressed) -> float:
        """See `Compressor.bits`; norms that travel are among what is counted."""
        return tensor_bits(compressed)

    def saved(self) -> Saved:
        """See `Compressor.saved`."""
        module = self._fitted()
        settings, tensors = nested("inner", self.inner.saved())
        settings |= {"config": asdict(self.config), "width": module.width, "dimension": module.dimension}
        return Saved(self.kind, settings, tensors | {f"module/{k}": v for k, v in weights_of(module).items()})

    @classmethod
    def from_saved(cls, saved: Saved) -> Adapter:
        """See `Compressor.from_saved`."""
        from inscape.compressors.stored import restored_projector

        config = AdapterConfig(**saved.settings["config"])
        module = new_adapter(saved.settings["width"], saved.settings["dimension"], config, seed=0)
        prefix = "module/"
        module.load_state_dict({k.removeprefix(prefix): v for k, v in saved.tensors.items() if k.startswith(prefix)})
        return cls(restored_projector(nested_in(saved, "inner")), config, module.eval().requires_grad_(False))

    def save(self, path: Path) -> None:
        """See `Compressor.save`."""
        write_saved(path, self.saved())

    @classmethod
    def load(cls, path: Path) -> Adapter:
        """See `Compressor.load`."""
        return cls.from_saved(read_saved(path, cls.kind))

    def _fitted(self) -> EmbeddingAdapter:
        if self.module is None:
            raise ValueError(f"{self.name} is not fitted: call fit(lm, sequences, seed=...) first")
        return self.module


def new_adapter(width: int, dimension: int, config: AdapterConfig, *, seed: int) -> EmbeddingAdapter:
    """An untrained receiver, a function of the seed; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return EmbeddingAdapter(width, dimension, hidden_mult=config.hidden_mult, rate=config.dropout)


def made_rows(
    module: nn.Module, latent: Float[Tensor, "... d"], norm: Float[Tensor, ...] | None = None
) -> Float[Tensor, "... D"]:
    """The receiver's rows; where norms were sent, with these norms."""
    row = module(latent)
    return row if norm is None else row * (norm / row.norm(dim=-1).clamp(min=1e-12)).unsqueeze(-1)


class TrainingRows(NamedTuple):
    """All that training looks at: each different id once, and which ids each prompt has how often."""

    latent_Nd: Float[Tensor, "N d"]  # as received
    row_ND: Float[Tensor, "N D"]
    norm_N: Float[Tensor, " N"] | None  # as received, where norms travel
    places: tuple[Int[np.ndarray, " T"], ...]  # for each prompt, the place of each of its tokens among the N


def training_rows(
    lm: LanguageModel, inner: RowProjector, sequences: Sequence[Int[Tensor, " T"]], norms: str = "none"
) -> TrainingRows:
    """The rows of all tokens of `sequences`, on the model's device. ValueError where a prompt is empty."""
    if not sequences or any(not len(ids_T) for ids_T in sequences):
        raise ValueError("an adapter is trained on prompts that are not empty, one or more; leave empty ones out")
    projection = projected(inner)
    ids_N = torch.nonzero(token_counts(sequences, lm.vocab_size)).flatten()
    place_V = np.full(lm.vocab_size, -1)
    place_V[ids_N.numpy()] = np.arange(len(ids_N))
    row_ND = rows_of(lm, ids_N)
    sent = [as_sent(project(projection, some), inner.wire).float() for some in row_ND.split(CHUNK)]
    norm_N = as_sent(row_ND.double().norm(dim=1), inner.wire).float() if norms == "stored" else None
    places = tuple(place_V[ids_T.cpu().numpy()] for ids_T in sequences)
    return TrainingRows(torch.cat(sent), row_ND.float(), norm_N, places)


class RowBatch(NamedTuple):
    """Some prompts: which they are, their different ids, and the share of all their tokens that each id has."""

    prompt_B: Int[Tensor, " B"]
    place_U: Int[Tensor, " U"]
    share_U: Float[Tensor, " U"]  # sums to 1


def row_batch(rows: TrainingRows, prompts: Sequence[int] | Int[np.ndarray, " B"]) -> RowBatch:
    """The batch of these prompts, on the CPU."""
    tokens = np.concatenate([rows.places[i] for i in prompts])
    place_U, count_U = np.unique(tokens, return_counts=True)
    share_U = torch.from_numpy(count_U / len(tokens)).float()
    return RowBatch(torch.as_tensor(np.asarray(prompts)), torch.from_numpy(place_U), share_U)


def reconstruction_loss(module: nn.Module, rows: TrainingRows, batch: RowBatch) -> Float[Tensor, ""]:
    """Mean squared error over all numbers of all token rows of the batch."""
    norm_U = None if rows.norm_N is None else rows.norm_N[batch.place_U]
    made_UD = made_rows(module, rows.latent_Nd[batch.place_U], norm_U)
    return ((made_UD - rows.row_ND[batch.place_U]).square().mean(1) * batch.share_U.to(made_UD.device)).sum()


LossTerms = Callable[[nn.Module, TrainingRows, RowBatch, int], Mapping[str, Tensor]]


def train_adapter(
    lm: LanguageModel,
    inner: RowProjector,
    sequences: Sequence[Int[Tensor, " T"]],
    config: AdapterConfig,
    run: RunDir,
    *,
    seed: int,
    module: EmbeddingAdapter | None = None,
    loss_terms: LossTerms | None = None,
    evaluate: Callable[[EmbeddingAdapter, int], Mapping[str, float]] | None = None,
) -> EmbeddingAdapter:
    """Train a receiver of what `inner` sends, or continue the training in `run`; returns it in eval mode, frozen.

    Batches and dropout are functions of (seed, step, rank). module: what to go on from, such as an earlier phase's.
    loss_terms(module, rows, batch, step): what is minimised, if not the mean squared error alone. evaluate: as `fit`'s.
    Raises what `inscape.train.fit` raises.
    """
    rows = training_rows(lm, inner, sequences, config.norms)
    if module is None:
        module = new_adapter(rows.latent_Nd.shape[1], rows.row_ND.shape[1], config, seed=seed)
        moments = moments_of_prompts(lm, sequences)
        inverse = least_squares_inverse(projected(inner), moments)
        known = config.start == "linear"
        module.start_from(inverse.weight_dD * known, inverse.bias_D if known else moments.mean_D)
    else:
        module = copy.deepcopy(module)  # the earlier phase keeps its own
    module.requires_grad_(True)

    def batch_at(index: int, rank: int, world: int) -> RowBatch:
        return row_batch(rows, drawn(seed, len(sequences), positions_of(index, rank, world, config.batch)))

    def terms(module: nn.Module, batch: RowBatch, step: int) -> Mapping[str, Tensor]:
        if loss_terms is not None:
            return loss_terms(module, rows, batch, step)
        return {"recon": reconstruction_loss(module, rows, batch)}

    def watched(average: nn.Module, step: int) -> Mapping[str, float]:
        assert evaluate is not None
        assert isinstance(average, EmbeddingAdapter)
        return evaluate(average, step)

    ema = fit(
        module,
        batch_at,
        terms,
        config.fit_config(len(sequences)),
        run,
        seed=seed,
        device=lm.device,
        evaluate=None if evaluate is None else watched,
    ).ema
    assert isinstance(ema, EmbeddingAdapter)
    return ema.eval().requires_grad_(False)
