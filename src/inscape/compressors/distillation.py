"""How a sequence compressor learns what its receiver needs: the frozen model with the whole text is the teacher.

Mean pooling and memory tokens differ in how rows come out of a context, and in nothing else; what is done to train them
is here. The receiver is the frozen language model, fed [prefix rows | compressed rows | suffix rows | answer rows]; its
teacher is the same model, fed the text, in the same step without gradients. Terms, in nats a token:

    answer_kl       KL(teacher || receiver) of the next token where the answer and its end are predicted
    question_kl     the same where the rest of the question is predicted
    answer_ce       cross-entropy of the answer handed in: the gold one, or one the teacher generated itself
    reconstruction  cross-entropy of the context, read back from [compressed rows | a learned row "begin"]
                    (autoencoding; Ge et al. 2023, ICAE, arXiv 2307.06945, section 2.2)

The first two are PISCO's idea (Louis et al. 2025, arXiv 2501.16075) on distributions in place of sampled answers.

Legend: B batch, N padded length of a prompt, T tokens of a context, M rows that stand for it, K predicted positions of
all prompts of a batch, V vocabulary, D width of the embedding table.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from inscape.core.rundir import RunDir
from inscape.data.epochs import epoch_order
from inscape.nn.row_generation import generate_rows
from inscape.train import FitConfig, FitResult, fit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float, Int
    from numpy.typing import NDArray

    from inscape.pretrained.language_model import LanguageModel

__all__ = [
    "DistillationConfig",
    "Example",
    "ExampleBatch",
    "Objective",
    "answered_by_teacher",
    "batch_members",
    "batch_of",
    "distil",
    "distillation_terms",
    "states_of",
]

BUCKET = 16  # batches that are sorted by length together: more waste less padding and mix less
SPANS = ("prefix", "context", "suffix", "answer")


class Example(NamedTuple):
    """One prompt and its answer, in ids. The prefix stands before the context and the suffix ends in "Answer: "."""

    prefix: tuple[int, ...]
    context: tuple[int, ...]
    suffix: tuple[int, ...] = ()
    answer: tuple[int, ...] = ()


class ExampleBatch(NamedTuple):
    """Examples side by side, padded on the right."""

    ids_BN: Tensor
    spans_B4: Tensor  # lengths of prefix, context, suffix, answer


@dataclass(frozen=True)
class Objective:
    """Weights of the terms; those at 0 are not computed."""

    answer_kl: float = 1.0
    question_kl: float = 0.1
    answer_ce: float = 0.0
    reconstruction: float = 0.0

    def __post_init__(self) -> None:
        weights = {each.name: getattr(self, each.name) for each in fields(self)}
        if min(weights.values()) < 0 or not any(weights.values()):
            raise ValueError(f"objective {weights} teaches nothing; allowed: weights of 0 or more, one of them above 0")

    @property
    def asks(self) -> bool:
        """Whether a term looks at suffixes and answers."""
        return bool(self.answer_kl or self.question_kl or self.answer_ce)


@dataclass(frozen=True)
class DistillationConfig:
    """One training of a sequence compressor."""

    batch: int = 8  # prompts a step, over all processes
    objective: Objective = field(default_factory=Objective)
    fit: FitConfig = field(default_factory=lambda: FitConfig(steps=1000, lr=1e-3, warmup_steps=50))

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch={self.batch} is out of range; allowed: 1 or more")


@final
class Student(nn.Module):
    """What is trained: the encoder, and the row that asks the receiver to read a context back."""

    def __init__(self, encoder: nn.Module, table_VD: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.begin = nn.Embedding.from_pretrained(table_VD.mean(0, keepdim=True).float(), freeze=False)


def distil(
    lm: LanguageModel,
    encoder: nn.Module,
    examples: Sequence[Example],
    config: DistillationConfig,
    run: RunDir | None,
    *,
    seed: int,
    watched: Sequence[Example] = (),
) -> FitResult:
    """Train `encoder`, a module that is called with (lm, contexts) and gives their rows; the result holds encoders.

    watched: examples whose terms evaluations look at. run: where checkpoints and the log go; without one they are not
    kept. Trains on the model's own device. ValueError in one line for examples that cannot teach the objective.
    """
    examples = list(examples)
    _check_examples(lm, examples, config)
    lengths = np.array([sum(map(len, example)) for example in examples])

    def batch_at(step: int, rank: int, world: int) -> ExampleBatch:
        return batch_of([examples[i] for i in batch_members(lengths, config.batch, seed, step, rank, world)])

    def loss_terms(student: nn.Module, batch: ExampleBatch, step: int) -> dict[str, Tensor]:
        assert isinstance(student, Student)
        return distillation_terms(lm, student, batch, config.objective)

    def evaluate(average: nn.Module, step: int) -> dict[str, float]:
        return _watch(lm, average, watched, config)

    with _kept(run) as kept:
        result = fit(
            Student(encoder, lm.table_VD),
            batch_at,
            loss_terms,
            config.fit,
            kept,
            seed=seed,
            device=lm.device,
            evaluate=evaluate if watched else None,
        )
    model, ema = result.model, result.ema
    assert isinstance(model, Student)
    assert isinstance(ema, Student)
    return result._replace(model=model.encoder, ema=ema.encoder)


def distillation_terms(lm: LanguageModel, student: Any, batch: ExampleBatch, objective: Objective) -> dict[str, Tensor]:
    """The weighted terms of one batch, by name. student: has `encoder` and `begin`."""
    spans = [Spans(*map(int, row)) for row in batch.spans_B4.tolist()]
    contexts = [ids[s.prefix : s.tail] for ids, s in zip(batch.ids_BN, spans, strict=True)]
    memories = student.encoder(lm, contexts)
    terms: dict[str, Tensor] = {}
    if objective.asks:
        terms |= _answer_terms(lm, batch.ids_BN, spans, memories, objective)
    if objective.reconstruction:
        begin_1D = student.begin.weight
        terms["reconstruction"] = objective.reconstruction * _reconstruction(lm, contexts, memories, begin_1D)
    return terms


class Spans(NamedTuple):
    """Lengths within one prompt, and where its tail (suffix and answer) begins and ends."""

    prefix: int
    context: int
    suffix: int
    answer: int

    @property
    def tail(self) -> int:
        return self.prefix + self.context

    @property
    def end(self) -> int:
        return sum(self)


def states_of(
    lm: LanguageModel, rows: Sequence[Float[Tensor, "T D"]], positions: Sequence[Int[Tensor, " T"]] | None = None
) -> Float[Tensor, "B N D"]:
    """The model's last hidden states of rows side by side, padded on the right; those of padding mean nothing.

    Under a causal mask padding at the end changes nothing before it, so no mask is needed to hide it. One of ones is
    given with `positions`: without any, transformers takes positions that do not count up by one for several sequences
    packed into one row, and lets none of them see the others.
    """
    rows_BND = pad_sequence([each.to(lm.dtype) for each in rows], batch_first=True)
    placed = {}
    if positions is not None:
        ones_BN = torch.ones(rows_BND.shape[:2], dtype=torch.long, device=rows_BND.device)
        placed = {"position_ids": pad_sequence(list(positions), batch_first=True), "attention_mask": ones_BN}
    return lm.model.base_model(inputs_embeds=rows_BND, use_cache=False, **placed).last_hidden_state


def _answer_terms(
    lm: LanguageModel, ids_BN: Tensor, spans: Sequence[Spans], memories: Sequence[Tensor], objective: Objective
) -> dict[str, Tensor]:
    """KL and cross-entropy at the positions that predict the question's rest (if it counts) and the answer."""
    table_VD = lm.table_VD
    first = [0 if objective.question_kl else s.suffix - 1 for s in spans]
    with torch.no_grad():
        texts = [table_VD[ids[: s.end]] for ids, s in zip(ids_BN, spans, strict=True)]
        teacher_KV = _logits(lm, texts, [range(s.tail + f, s.end) for f, s in zip(first, spans, strict=True)])
    fed, looked = [], []
    for ids, s, f, memory_MD in zip(ids_BN, spans, first, memories, strict=True):
        prefix, tail = table_VD[ids[: s.prefix]], table_VD[ids[s.tail : s.end]]
        fed.append(torch.cat((prefix, memory_MD.to(table_VD.dtype), tail)))
        start = s.prefix + len(memory_MD)
        looked.append(range(start + f, start + s.suffix + s.answer))
    log_student_KV = _logits(lm, fed, looked).float().log_softmax(-1)
    log_teacher_KV = teacher_KV.float().log_softmax(-1)
    # kl_div's backward keeps one tensor of this size where (p * (log p - log q)).sum(-1) keeps three
    kl_K = functional.kl_div(log_student_KV, log_teacher_KV, log_target=True, reduction="none").sum(-1)
    place = [torch.arange(f - s.suffix + 1, s.answer + 1) for f, s in zip(first, spans, strict=True)]
    place_K = torch.cat(place).to(kl_K.device)  # below 0 in the question, from 0 on the answer's tokens, then its end
    terms = {}
    if objective.answer_kl:
        terms["answer_kl"] = objective.answer_kl * _mean(kl_K[place_K >= 0])
    if objective.question_kl:
        terms["question_kl"] = objective.question_kl * _mean(kl_K[place_K < 0])
    if objective.answer_ce:
        told = torch.cat([p < s.answer for p, s in zip(place, spans, strict=True)]).to(kl_K.device) & (place_K >= 0)
        answers = torch.cat([ids[s.end - s.answer : s.end] for ids, s in zip(ids_BN, spans, strict=True)])
        terms["answer_ce"] = objective.answer_ce * functional.nll_loss(log_student_KV[told], answers)
    return terms


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(1, len(values))


def _reconstruction(
    lm: LanguageModel, contexts: Sequence[Tensor], memories: Sequence[Tensor], begin_1D: Tensor
) -> Tensor:
    """Cross-entropy of the contexts' tokens, each predicted from the compressed rows and the tokens before it."""
    table_VD = lm.table_VD
    fed = [
        torch.cat((memory_MD.to(table_VD.dtype), begin_1D.to(table_VD.dtype), table_VD[ids_T[:-1]]))
        for ids_T, memory_MD in zip(contexts, memories, strict=True)
    ]
    looked = [range(len(m), len(m) + len(ids_T)) for ids_T, m in zip(contexts, memories, strict=True)]
    return functional.cross_entropy(_logits(lm, fed, looked).float(), torch.cat(list(contexts)))


def _logits(lm: LanguageModel, rows: Sequence[Tensor], looked: Sequence[range]) -> Tensor:
    """Next-token logits (K, V) at the positions `looked` at in each row; the head runs at no other."""
    states_BND = states_of(lm, rows)
    states_KD = torch.cat([states[r.start : r.stop] for states, r in zip(states_BND, looked, strict=True)])
    return lm.model.get_output_embeddings()(states_KD)


def answered_by_teacher(
    lm: LanguageModel, examples: Sequence[Example], *, max_new_tokens: int, stop_ids: Collection[int]
) -> list[Example]:
    """The examples with the model's own greedy answers to the whole text in place of theirs; see `generate_rows`."""
    rows = [lm.rows(example.prefix + example.context + example.suffix) for example in examples]
    answers = generate_rows(lm, rows, max_new_tokens=max_new_tokens, stop_ids=stop_ids)
    return [example._replace(answer=tuple(ids)) for example, ids in zip(examples, answers, strict=True)]


def batch_of(examples: Sequence[Example]) -> ExampleBatch:
    """Examples side by side."""
    ids = [torch.tensor([token for span in example for token in span]) for example in examples]
    spans_B4 = torch.tensor([[len(span) for span in example] for example in examples])
    return ExampleBatch(pad_sequence(ids, batch_first=True), spans_B4)


def batch_members(
    lengths: NDArray[np.int64], batch: int, seed: int, step: int, rank: int = 0, world: int = 1
) -> NDArray[np.int64]:
    """Which examples meet in a step: a pure function of its arguments that visits each at most once an epoch.

    Examples are drawn in an epoch's order, sorted by length within a few batches' worth so that neighbours need little
    padding, cut into batches, and the batches are shuffled. What does not fill a batch waits for another epoch.
    """
    if batch % world:
        raise ValueError(f"batch={batch} on {world} processes; allowed: a positive multiple of {world}")
    batches = len(lengths) // batch
    epoch, place = divmod(step, batches)
    order = epoch_order(seed, 2 * epoch, len(lengths))
    bucket, within = divmod(int(epoch_order(seed, 2 * epoch + 1, batches)[place]), BUCKET)
    chosen = order[bucket * BUCKET * batch : (bucket + 1) * BUCKET * batch]
    chosen = chosen[: len(chosen) // batch * batch]
    chosen = chosen[np.argsort(lengths[chosen], kind="stable")]
    return chosen[within * batch : (within + 1) * batch][rank::world]


def _check_examples(lm: LanguageModel, examples: Sequence[Example], config: DistillationConfig) -> None:
    if len(examples) < config.batch:
        raise ValueError(
            f"{len(examples)} examples do not fill a batch of {config.batch}; give more or a smaller batch"
        )
    needed = SPANS[1:] if config.objective.asks else ("context",)
    for example in examples:
        empty = [name for name in needed if not getattr(example, name)]
        if empty:
            raise ValueError(f"an example has no {empty[0]}, which {config.objective} needs; leave it out")
    _check_head(lm)


def _check_head(lm: LanguageModel) -> None:
    """The head is run apart from the model: where a model does more to logits than that, it would go unnoticed."""
    for setting in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(lm.model.config, setting, None) not in (None, 1, 1.0):
            raise ValueError(f"the model sets {setting}, which distillation does not follow; use another model")


def _watch(
    lm: LanguageModel, student: nn.Module, watched: Sequence[Example], config: DistillationConfig
) -> dict[str, float]:
    """Means of the terms over the examples watched, batch by batch."""
    parts = [batch_of(watched[i : i + config.batch]) for i in range(0, len(watched), config.batch)]
    device = lm.device
    found = [
        distillation_terms(lm, student, ExampleBatch(*(t.to(device) for t in part)), config.objective) for part in parts
    ]
    return {name: float(sum(float(terms[name]) for terms in found) / len(found)) for name in found[0]}


@contextmanager
def _kept(run: RunDir | None) -> Iterator[RunDir]:
    if run is not None:
        yield run
        return
    with tempfile.TemporaryDirectory() as folder:
        yield RunDir(Path(folder))
