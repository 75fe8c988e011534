"""A reader: the language model, taught by low-rank adapters to answer from a text, and frozen again afterwards.

What is lost of an answer can only be told where there is an answer. A small model that was never taught writes much the
same with and without the text, and what it writes hangs on logits that nearly tie; a taught one answers rightly, and is
sure of it. The adapters (Hu et al. 2021, LoRA) are added into its weights, so that to everything else it is a model of
the same shape.

A context that several questions share is read once: the questions are read behind its keys and values, which under a
causal mask is what reading each prompt whole would give. Some of the questions may be asked behind a thinned cache
(`thinned`), in which nothing of the context is left but the last token of each run: so the model learns to gather a run
there, as with gist tokens (Mu et al. 2023, arXiv 2304.08467), and to answer from either.

Legend: B prompts, N padded length of a prompt, Q tokens of all answers, V vocabulary, D width of the embedding table.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from inscape.compressors.distillation import Spans, check_head, spans_of
from inscape.compressors.interface import Saved, read_saved, write_saved
from inscape.compressors.mean_pooled import run_ends
from inscape.compressors.receiving import CacheMemory, Turn, cache_layers, states_of, tail_logits
from inscape.compressors.teaching_examples import (
    Example,
    ExampleBatch,
    batch_members,
    batch_of,
    questions_together,
)
from inscape.core.rundir import RunDir
from inscape.nn.lora import LowRankAdapters, linear_sizes
from inscape.pretrained.language_model import LanguageModel
from inscape.train import FitConfig, fit

if TYPE_CHECKING:
    from jaxtyping import Bool

__all__ = [
    "Reader",
    "ReaderConfig",
    "answer_loss",
    "answer_losses",
    "load_reader",
    "save_reader",
    "taught_model",
    "teach",
]

KIND = "reader"


@dataclass(frozen=True)
class ReaderConfig:
    """How a model is taught to answer from the text, before anything is compressed."""

    train: int = 0  # training questions with their gold answers; 0: the model is taken as it is
    path: str = ""  # reader.safetensors of an earlier run of the same model, which is then not taught again
    rank: int = 16  # of the adapters
    batch: int = 8  # contexts a step, over all processes
    questions: int = 4  # most questions of one context in a step
    thinned: float = 0.0  # share of questions that are asked behind a thinned cache, and not behind the whole context
    ratio: float = 4.0  # tokens of a run, of which a thinned cache keeps the last
    fit: FitConfig = field(default_factory=lambda: FitConfig(steps=400, lr=1e-3, warmup_steps=20))

    def __post_init__(self) -> None:
        for name, least, most in (("train", 0, 10**7), ("rank", 1, 4096), ("batch", 1, 10**5), ("questions", 1, 64)):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"reader.{name}={getattr(self, name)} is out of range; allowed: {least} to {most}")
        if not 0 <= self.thinned <= 1:
            raise ValueError(f"reader.thinned={self.thinned} is out of range; allowed: 0 to 1, a share")
        if not self.ratio >= 1:
            raise ValueError(f"reader.ratio={self.ratio} is out of range; allowed: 1 token a run or more")
        if self.path and self.train:
            raise ValueError(f"reader.path={self.path} is a reader already: set reader.train=0, or leave the path out")
        if self.train and self.train < self.batch:
            raise ValueError(f"reader.train={self.train} questions do not fill a batch of reader.batch={self.batch}")


@final
class Reader(nn.Module):
    """Adapters on every linear map of the model's layers: all that is trained."""

    def __init__(self, sizes: dict[str, Sequence[int]], rank: int) -> None:
        super().__init__()
        self.sizes, self.rank = sizes, rank
        self.adapters = LowRankAdapters(sizes, rank=rank)


def teach(lm: LanguageModel, examples: Sequence[Example], config: ReaderConfig, *, seed: int, run: RunDir) -> Reader:
    """The adapters with which `lm` says the examples' answers; it stays as it is.

    run: where checkpoints and the log go. ValueError in one line where no linear map can have adapters, an example has
    no answer, or there are too few.
    """
    check_head(lm)
    examples = list(examples)
    needed = ("context", "suffix", "answer")
    if empty := next((name for example in examples for name in needed if not getattr(example, name)), None):
        raise ValueError(f"an example has no {empty}; leave it out")
    units = questions_together(examples, config.questions)
    if len(units) < config.batch:
        raise ValueError(f"{len(units)} contexts do not fill a batch of {config.batch}; give more, or a smaller batch")
    lengths = np.array([len(examples[unit[0]].context) for unit in units])
    sizes: dict[str, Sequence[int]] = dict(linear_sizes(lm.model))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = Reader(sizes, config.rank)

    def batch_at(step: int, rank: int, world: int) -> ExampleBatch:
        members = batch_members(lengths, config.batch, seed, step, rank, world)
        return batch_of(examples, [i for unit in members for i in units[unit]])

    def loss_terms(reader: nn.Module, batch: ExampleBatch, step: int) -> dict[str, Tensor]:
        assert isinstance(reader, Reader)
        if not config.thinned:
            return {"answer_ce": answer_loss(lm, reader, batch)}
        thinned_B = torch.rand(len(batch.spans_B4)) < config.thinned
        return answer_losses(lm, reader, batch, thinned_B, config.ratio)

    taught = fit(reader.to(lm.device), batch_at, loss_terms, config.fit, run, seed=seed, device=lm.device).ema
    assert isinstance(taught, Reader)
    return taught


def answer_loss(lm: LanguageModel, reader: Reader, batch: ExampleBatch) -> Tensor:
    """Cross-entropy in nats of the answers' tokens, the model reading with the adapters."""
    return _said(lm, reader, batch, torch.zeros(len(batch.spans_B4), dtype=torch.bool), 1.0)[0].mean()


def answer_losses(
    lm: LanguageModel, reader: Reader, batch: ExampleBatch, thinned_B: Bool[Tensor, " B"], ratio: float
) -> dict[str, Tensor]:
    """The same, of questions behind the whole context and behind a thinned cache apart; 0 where there are none.

    A context of fewer tokens than `ratio` is never thinned.
    """
    loss_Q, thinned_Q = _said(lm, reader, batch, thinned_B, ratio)
    parts = {"answer_ce": loss_Q[~thinned_Q], "thinned_ce": loss_Q[thinned_Q]}
    return {name: part.sum() / max(1, len(part)) for name, part in parts.items()}


def _said(
    lm: LanguageModel, reader: Reader, batch: ExampleBatch, thinned_B: Tensor, ratio: float
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each token of the answers, and whether it was said behind a thinned cache."""
    from transformers import DynamicCache

    table_VD, spans = lm.table_VD, spans_of(batch)
    heads = [tuple(ids[: s.tail].tolist()) for ids, s in zip(batch.ids_BN, spans, strict=True)]
    place = {head: i for i, head in enumerate(dict.fromkeys(heads))}
    thin = [bool(chosen) and s.context >= ratio for chosen, s in zip(thinned_B, spans, strict=True)]
    cache: Any = DynamicCache()
    with reader.adapters.applied(lm.model):
        states_of(lm, [table_VD[torch.tensor(head, device=lm.device)] for head in place], cache=cache)
        layers = cache_layers(lm, cache)
        memories: dict[tuple[tuple[int, ...], bool], CacheMemory] = {}
        for head, s, thinned in zip(heads, spans, thin, strict=True):
            if (head, thinned) not in memories:
                kept_M = _kept_places(s, ratio if thinned else 1.0).to(lm.device)
                sides = (torch.stack([layer[side][place[head]][:, kept_M] for layer in layers]) for side in (0, 1))
                memories[head, thinned] = CacheMemory((), *sides)
        turns = [
            Turn(table_VD[:0], memories[head, thinned], len(head), table_VD[ids[s.tail : s.end - 1]])
            for head, thinned, ids, s in zip(heads, thin, batch.ids_BN, spans, strict=True)
        ]
        logits_QV = tail_logits(lm, turns, [range(s.suffix - 1, s.suffix + s.answer - 1) for s in spans])
    said_Q = torch.cat([ids[s.end - s.answer : s.end] for ids, s in zip(batch.ids_BN, spans, strict=True)])
    thinned_Q = torch.tensor(
        [t for t, s in zip(thin, spans, strict=True) for _ in range(s.answer)], device=said_Q.device
    )
    return functional.cross_entropy(logits_QV.float(), said_Q, reduction="none"), thinned_Q


def _kept_places(spans: Spans, ratio: float) -> Tensor:
    """The places of the prefix and of the last token of each run of the context; at ratio 1 all places."""
    return torch.cat((torch.arange(spans.prefix), spans.prefix + run_ends(spans.context, ratio)))


def taught_model(lm: LanguageModel, reader: Reader) -> LanguageModel:
    """A copy of the model with the adapters added into its weights; frozen."""
    model = copy.deepcopy(lm.model)
    reader.adapters.add_into(model)
    return lm._replace(model=model.eval().requires_grad_(False))


def save_reader(path: Path, reader: Reader) -> None:
    """Write the adapters, without the model, as one safetensors file."""
    write_saved(path, Saved(KIND, {"sizes": reader.sizes, "rank": reader.rank}, reader.state_dict()))


def load_reader(path: Path) -> Reader:
    """The inverse of `save_reader`. ValueError in one line for any other file."""
    saved = read_saved(path, KIND)
    try:
        reader = Reader(saved.settings["sizes"], saved.settings["rank"])
        reader.load_state_dict(saved.tensors)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged or of another version: {str(error).splitlines()[0]}") from None
    return reader.eval().requires_grad_(False)
