"""How a sequence compressor learns what its receiver needs: the frozen model with the whole text is the teacher.

Mean pooling, memory tokens and memory caches differ in what comes out of a context, and in nothing else; what is done
to train them is here. The receiver is the frozen language model, fed [prefix | what stands for the context | suffix |
answer] (see `receiving`); its teacher is the same model, fed the text, without gradients. The teacher is read when an
example first comes by, and its last hidden states are kept: whenever it comes back, only the head runs again.

Terms, in nats a token:

    answer_kl       KL(teacher || receiver) of the next token where the answer and its end are predicted
    question_kl     the same where the rest of the question is predicted
    answer_ce       cross-entropy of the answer handed in: the gold one, or one the teacher generated itself
    reconstruction  cross-entropy of the context, read back from [what stands for it | a learned row "begin"]
                    (autoencoding; Ge et al. 2023, ICAE, arXiv 2307.06945, section 2.2)

The first two are PISCO's idea (Louis et al. 2025, arXiv 2501.16075) on distributions in place of sampled answers.

Legend: B batch, N padded length of a prompt, T tokens of a context, K predicted positions of all prompts of a batch,
V vocabulary, D width of the embedding table.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from inscape.compressors.receiving import Memory, Turn, states_of, tail_logits
from inscape.compressors.teaching_examples import (
    Example,
    ExampleBatch,
    batch_members,
    batch_of,
    questions_together,
)
from inscape.core.rundir import RunDir
from inscape.train import FitConfig, FitResult, fit

if TYPE_CHECKING:
    from jaxtyping import Float

    from inscape.pretrained.language_model import LanguageModel

__all__ = [
    "DistillationConfig",
    "Objective",
    "Spans",
    "check_head",
    "distil",
    "distillation_terms",
    "spans_of",
]

SPANS = ("prefix", "context", "suffix", "answer")


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

    batch: int = 8  # contexts a step, over all processes
    questions: int = 4  # most questions of one context in a step: it is encoded once for all of them
    objective: Objective = field(default_factory=Objective)
    fit: FitConfig = field(default_factory=lambda: FitConfig(steps=1000, lr=1e-3, warmup_steps=50))

    def __post_init__(self) -> None:
        for name in ("batch", "questions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is out of range; allowed: 1 or more")


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
    """Train `encoder`, a module that is called with (lm, contexts) and gives their memories; the result holds encoders.

    watched: examples whose terms evaluations look at. run: where checkpoints and the log go; without one they are not
    kept. Trains on the model's own device. ValueError in one line for examples that cannot teach the objective.
    """
    examples = list(examples)
    units = questions_together(examples, config.questions)
    _check_examples(lm, examples, len(units), config)
    lengths = np.array([len(examples[unit[0]].context) for unit in units])

    def members_at(step: int, rank: int = 0, world: int = 1) -> list[int]:
        return [i for unit in batch_members(lengths, config.batch, seed, step, rank, world) for i in units[unit]]

    first_epoch = [members_at(step) for step in range(len(units) // config.batch)]
    teacher = Teacher(lm, examples, first_epoch, config.objective)

    def batch_at(step: int, rank: int, world: int) -> ExampleBatch:
        return batch_of(examples, members_at(step, rank, world))

    def loss_terms(student: nn.Module, batch: ExampleBatch, step: int) -> dict[str, Tensor]:
        assert isinstance(student, Student)
        taught = teacher.states(batch.members_B.tolist()) if config.objective.asks else None
        return distillation_terms(lm, student, batch, config.objective, taught)

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


def distillation_terms(
    lm: LanguageModel,
    student: Any,
    batch: ExampleBatch,
    objective: Objective,
    taught: Sequence[Float[Tensor, "K D"]] | None = None,
) -> dict[str, Tensor]:
    """The weighted terms of one batch, by name; a context that several prompts share is encoded once.

    student: has `encoder` and `begin`. taught: the teacher's states, as `Teacher` keeps them; read here if not given.
    """
    spans = spans_of(batch)
    whole = [ids[s.prefix : s.tail] for ids, s in zip(batch.ids_BN, spans, strict=True)]
    place: dict[tuple[int, ...], int] = {}
    which = [place.setdefault(tuple(ids_T.tolist()), len(place)) for ids_T in whole]
    contexts = [whole[which.index(c)] for c in range(len(place))]
    memories = student.encoder(lm, contexts)
    terms: dict[str, Tensor] = {}
    if objective.asks:
        taught = _taught(lm, batch, objective) if taught is None else taught
        terms |= _answer_terms(lm, batch.ids_BN, spans, [memories[c] for c in which], taught, objective)
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

    def first(self, objective: Objective) -> int:
        """Which row of the tail is the first whose prediction counts: of the question's rest, or of the answer."""
        return 0 if objective.question_kl else self.suffix - 1


def spans_of(batch: ExampleBatch) -> list[Spans]:
    """The spans of each prompt."""
    return [Spans(*map(int, row)) for row in batch.spans_B4.tolist()]


@final
class Teacher:
    """The teacher's last hidden states (K, D) where it predicts what counts, each example's read once and kept.

    Examples are read in groups that never change, those of the first epoch: how a prompt is rounded depends on its
    company, and a training that is continued must meet the same numbers.
    """

    def __init__(
        self, lm: LanguageModel, examples: Sequence[Example], groups: Sequence[list[int]], objective: Objective
    ) -> None:
        self._lm, self._examples, self._objective = lm, examples, objective
        grouped = {i: group for group in groups for i in group}
        self._group = [grouped.get(i, [i]) for i in range(len(examples))]
        self._kept: dict[int, Tensor] = {}

    def states(self, members: Sequence[int]) -> list[Float[Tensor, "K D"]]:
        """Those of each member."""
        for i in members:
            if i not in self._kept:
                group = self._group[i]
                batch = batch_of(self._examples, group)
                batch = ExampleBatch(*(tensor.to(self._lm.device) for tensor in batch))
                self._kept |= dict(zip(group, _taught(self._lm, batch, self._objective), strict=True))
        return [self._kept[i] for i in members]


@torch.no_grad()
def _taught(lm: LanguageModel, batch: ExampleBatch, objective: Objective) -> list[Tensor]:
    """The states of a whole text that predict what counts, for each prompt."""
    table_VD, spans = lm.table_VD, spans_of(batch)
    states_BND = states_of(lm, [table_VD[ids[: s.end]] for ids, s in zip(batch.ids_BN, spans, strict=True)])
    places = [slice(s.tail + s.first(objective), s.end) for s in spans]
    return [states_ND[place].clone() for states_ND, place in zip(states_BND, places, strict=True)]


def _answer_terms(
    lm: LanguageModel,
    ids_BN: Tensor,
    spans: Sequence[Spans],
    memories: Sequence[Memory],
    taught: Sequence[Tensor],
    objective: Objective,
) -> dict[str, Tensor]:
    """KL and cross-entropy at the positions that predict the question's rest (if it counts) and the answer."""
    table_VD = lm.table_VD
    first = [s.first(objective) for s in spans]
    with torch.no_grad():
        log_teacher_KV = lm.model.get_output_embeddings()(torch.cat(list(taught))).float().log_softmax(-1)
    turns = [
        Turn(table_VD[ids[: s.prefix]], memory, s.context, table_VD[ids[s.tail : s.end]])
        for ids, s, memory in zip(ids_BN, spans, memories, strict=True)
    ]
    looked = [range(f, s.suffix + s.answer) for f, s in zip(first, spans, strict=True)]
    log_student_KV = tail_logits(lm, turns, looked).float().log_softmax(-1)
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
    lm: LanguageModel, contexts: Sequence[Tensor], memories: Sequence[Memory], begin_1D: Tensor
) -> Tensor:
    """Cross-entropy of the contexts' tokens, each predicted from the memory and the tokens before it."""
    table_VD = lm.table_VD
    turns = [
        Turn(table_VD[:0], memory, len(ids_T), torch.cat((begin_1D.to(table_VD.dtype), table_VD[ids_T[:-1]])))
        for ids_T, memory in zip(contexts, memories, strict=True)
    ]
    logits_QV = tail_logits(lm, turns, [range(len(ids_T)) for ids_T in contexts])
    return functional.cross_entropy(logits_QV.float(), torch.cat(list(contexts)))


def _check_examples(lm: LanguageModel, examples: Sequence[Example], units: int, config: DistillationConfig) -> None:
    if units < config.batch:
        raise ValueError(f"{units} contexts do not fill a batch of {config.batch}; give more, or a smaller batch")
    needed = SPANS[1:] if config.objective.asks else ("context",)
    for example in examples:
        empty = [name for name in needed if not getattr(example, name)]
        if empty:
            raise ValueError(f"an example has no {empty[0]}, which {config.objective} needs; leave it out")
    check_head(lm)


def check_head(lm: LanguageModel) -> None:
    """ValueError where a model does more to logits than its head: the head is run apart, so that it would be missed."""
    for setting in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(lm.model.config, setting, None) not in (None, 1, 1.0):
            raise ValueError(f"the model sets {setting}, which distillation does not follow; use another model")


def _watch(
    lm: LanguageModel, student: nn.Module, watched: Sequence[Example], config: DistillationConfig
) -> dict[str, float]:
    """Means of the terms over the examples watched, batch by batch."""
    size = config.batch * config.questions
    parts = [batch_of(watched[i : i + size]) for i in range(0, len(watched), size)]
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
