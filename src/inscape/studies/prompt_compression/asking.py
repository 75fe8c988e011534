"""What all phases share: which model is asked which questions, and what it answers from whatever it is fed.

One prompt, one decoder: the text run and every compressor answer the same prompts by the same greedy writing, so that
an answer differs by what was fed and by nothing else.

Legend: T tokens of a prompt, D width of the embedding table.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from inscape.compressors.controls import check_groups
from inscape.compressors.interface import Compressed, Compressor
from inscape.core.rundir import RunDir
from inscape.data.questions import Prompt, Question, build_prompt, draw_scene_questions, squad_subset
from inscape.data.questions.prompts import answer_of
from inscape.data.questions.squad import names_a_file, never_trained_on
from inscape.device import pick_device
from inscape.metrics.qa import normalise_answer
from inscape.nn.packed_linear import pack_linears
from inscape.nn.row_generation import CachedPrompt, generate_from_caches, generate_rows
from inscape.pretrained.language_model import DTYPES, LanguageModel, line_is_over, open_language_model

if TYPE_CHECKING:
    from jaxtyping import Int

__all__ = [
    "Asked",
    "AskingConfig",
    "Fed",
    "Heard",
    "QuestionData",
    "answered_from_text",
    "ask",
    "check_asking",
    "check_contexts",
    "check_groups_of",
    "context_of",
    "fed_by",
    "held_out_questions",
    "ids_of",
    "keep_questions",
    "listen",
    "listen_to_text",
    "open_model",
    "prompts_of",
    "training_questions",
]

GOLDS = ("given", "own")
ON_LONG = ("refuse", "cut")
DRAWN = 0  # seed of the questions that are asked: the same ones for every seed of a training


@dataclass(frozen=True)
class QuestionData:
    """Where questions come from."""

    path: str = ""  # a SQuAD file (JSON, plain or .xz) or a data set of the hub; empty: questions about scenes
    held_out_path: str = ""  # another one that is asked about, whole; empty: other articles of `path`, never trained on
    facts_from: int = 3  # scenes: fewest facts of a context
    facts_to: int = 9  # scenes: most facts of a context; 3 to 9 are 30 to 130 words

    def __post_init__(self) -> None:
        if reason := never_trained_on(self.path):
            raise ValueError(f"data.path={reason}")
        if not 2 <= self.facts_from <= self.facts_to <= 30:
            raise ValueError(
                f"data.facts_from={self.facts_from}, data.facts_to={self.facts_to} are out of range; allowed: 2 to 30, "
                "the first not above the second"
            )


@dataclass(frozen=True)
class AskingConfig:
    """Which language model is asked, and how much."""

    model: str = "smollm2"  # smollm2 | tiny | a Hugging Face id | a folder
    dtype: str = "float32"  # of its weights: float32 | bfloat16 | float16
    questions: int = 300  # held-out questions that are asked
    gold: str = "given"  # given: the questions' own answers are right | own: what the model writes from the whole text
    max_tokens: int = 2048  # of prompt and answer, or the model's window where that is shorter; SQuAD's longest fit
    new_tokens: int = 16  # most tokens of an answer
    batch: int = 16  # prompts that are written to side by side
    on_long: str = "refuse"  # refuse | cut: what happens to contexts that do not fit; a cut one may lose the answer

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"asking.dtype={self.dtype!r} is not known; allowed: {', '.join(DTYPES)}")
        for name, allowed in (("gold", GOLDS), ("on_long", ON_LONG)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"asking.{name}={getattr(self, name)!r} is not known; allowed: {', '.join(allowed)}")
        for name, least in (("questions", 2), ("max_tokens", 64), ("new_tokens", 1), ("batch", 1)):
            if not least <= getattr(self, name) <= 10**6:
                raise ValueError(f"asking.{name}={getattr(self, name)} is out of range; allowed: {least} to 1000000")
        if self.new_tokens >= self.max_tokens:
            raise ValueError(
                f"asking.new_tokens={self.new_tokens} leaves no room for a prompt; allowed: below asking.max_tokens "
                f"({self.max_tokens})"
            )


def check_asking(data: QuestionData, asking: AskingConfig, train: int = 0, *, shuffled: bool = False) -> None:
    """ValueError on a file that is not there, is damaged or holds too few questions; hub data sets are not fetched.

    shuffled: also where a prompt could not be given what was made of another article's; see `check_groups`.
    """
    if _is_file(data.held_out_path or data.path):
        held_out = held_out_questions(data, asking.questions)
        if shuffled:
            check_groups([question.group for question in held_out])
    if train and _is_file(data.path):
        _questions(data, train, DRAWN, "train")
        if _is_file(data.held_out_path):
            _check_apart(data, _questions(data, None, DRAWN, "train"))  # whatever is drawn of it by another seed


def held_out_questions(data: QuestionData, count: int) -> list[Question]:
    """Questions of the test split, or of what is held out besides: no training sees their articles or their facts."""
    return _questions(data, count, DRAWN, "test")


def training_questions(data: QuestionData, count: int, seed: int, per_context: int = 1) -> list[Question]:
    """Questions of the training split; about scenes `per_context` of each context, of a file as many as it has.

    ValueError where one is of an article that `data.held_out_path` has too.
    """
    questions = _questions(data, count, seed, "train", per_context)
    _check_apart(data, questions)
    return questions


def _questions(data: QuestionData, count: int | None, seed: int, split: str, per_context: int = 1) -> list[Question]:
    path = data.held_out_path if data.held_out_path and split == "test" else data.path
    if path:  # files are taken whole where they are two; a data set of the hub has splits of its own
        return squad_subset(path, count, seed, None if data.held_out_path and names_a_file(path) else split)
    assert count is not None
    facts = (data.facts_from, data.facts_to)
    contexts = -(-count // per_context)
    return draw_scene_questions(contexts, seed=seed, split=split, facts=facts, per_context=per_context)[:count]


def _check_apart(data: QuestionData, train: Sequence[Question]) -> None:
    if not (data.path and data.held_out_path):
        return
    held_out = _questions(data, None, DRAWN, "test")
    contexts, articles = {each.context for each in held_out}, {each.group for each in held_out}
    if shared := next((each for each in train if each.context in contexts or each.group in articles), None):
        raise ValueError(
            f"data.path={data.path} and data.held_out_path={data.held_out_path} share the article {shared.group!r}, "
            "which would be trained on and asked about; give files that share none, or leave data.held_out_path out"
        )


def _is_file(path: str) -> bool:
    return bool(path) and names_a_file(path)


def keep_questions(run: RunDir, data: QuestionData, asking: AskingConfig, train: Sequence[Prompt]) -> None:
    """What was trained on and what is asked about, by number and hash, as questions.json; whatever counts as right."""

    def told(questions: Sequence[Question]) -> dict[str, Any]:
        return {"questions": len(questions), "sha256": hashlib.sha256(json.dumps(questions).encode()).hexdigest()}

    held_out = held_out_questions(data, asking.questions)
    run.write_json("questions.json", {"train": told([p.question for p in train]), "held_out": told(held_out)})


def open_model(
    asking: AskingConfig, device: str, taught: Callable[[LanguageModel], LanguageModel] | None = None
) -> LanguageModel:
    """The frozen language model, its linear maps packed for reading; the one that `taught` makes of it, if given."""
    lm = open_language_model(asking.model, device=pick_device(device), dtype=asking.dtype)
    lm = taught(lm) if taught else lm
    pack_linears(lm.model)
    return lm


def prompts_of(lm: LanguageModel, questions: Sequence[Question], asking: AskingConfig) -> list[Prompt]:
    """Their prompts. ValueError, one line, where a context does not fit, or a question alone.

    Under asking.on_long=cut the end of such a context is left out, never the question; how many is said on standard
    error.
    """
    room = min(asking.max_tokens, lm.window) - asking.new_tokens
    prompts = [build_prompt(question, lm.encode, max_tokens=room, begin=lm.begin_ids) for question in questions]
    long = [prompt for prompt in prompts if prompt.dropped]
    if not long:
        return prompts
    said = f"{len(long)} of {len(prompts)} contexts do not fit with their question into {room} tokens"
    if asking.on_long == "refuse":
        wider = f"raise asking.max_tokens (the model's window is {lm.window})"
        raise ValueError(
            f"{said}: that of question {long[0].question.id!r} is {long[0].dropped} tokens too long; set "
            f"asking.on_long=cut, {wider if asking.max_tokens < lm.window else 'take a model of a longer window'}, or "
            "leave it out"
        )
    print(f"{said} and are cut at their end, as asking.on_long=cut has it", file=sys.stderr)
    return prompts


def check_groups_of(prompts: Sequence[Prompt]) -> None:
    """See `check_groups`."""
    check_groups([prompt.question.group for prompt in prompts])


def check_contexts(prompts: Sequence[Prompt], ratio: float, setting: str) -> None:
    """ValueError, naming the setting, where a context has fewer tokens than `ratio`: no vector would stand for it."""
    shortest = min(prompts, key=lambda prompt: len(prompt.context_ids))
    if (tokens := len(shortest.context_ids)) < ratio:
        raise ValueError(
            f"{setting}={ratio:g} leaves no vector for the context of question {shortest.question.id!r}, which has "
            f"{tokens} tokens; allowed: 1 to {tokens}"
        )


def ids_of(lm: LanguageModel, prompt: Prompt) -> Int[Tensor, " T"]:
    """All ids of a prompt, where the model is."""
    return torch.tensor(prompt.ids, device=lm.device)


def context_of(lm: LanguageModel, prompt: Prompt) -> Int[Tensor, " T"]:
    """The ids of its context."""
    return torch.tensor(prompt.context_ids, device=lm.device)


Fed = Tensor | CachedPrompt


class Heard(NamedTuple):
    """What was written to each prompt: new ids alone, and the answer in them."""

    ids: list[list[int]]
    answers: list[str]


def fed_by(
    lm: LanguageModel, compressor: Compressor, prompt: Prompt, sent: Compressed | None = None
) -> tuple[Fed, Compressed]:
    """What the model is fed in place of the prompt, and what travelled for it.

    A compressor of contexts stands for the context alone: what is asked is always told in full. sent: what travelled
    for the same context before, which is then not compressed again.
    """
    if not compressor.needs_context_only:
        sent = compressor.compress(lm, ids_of(lm, prompt))
        row_TD = compressor.inject(lm, sent).rows_MD
        assert row_TD is not None
        return row_TD, sent
    sent = sent or compressor.compress(lm, context_of(lm, prompt))
    injected = compressor.inject(lm, sent)
    suffix_SD = lm.rows(prompt.suffix_ids)
    if injected.cache is not None:
        cache, positions_K = injected.cache
        return CachedPrompt(cache, positions_K, prompt.context_stop, suffix_SD), sent
    assert injected.rows_MD is not None
    return torch.cat((lm.rows(prompt.prefix_ids), injected.rows_MD.to(suffix_SD), suffix_SD)), sent


def listen(lm: LanguageModel, fed: Sequence[Fed], asking: AskingConfig) -> Heard:
    """What the model writes to each prompt until its line ends; greedy."""
    told = {
        "max_new_tokens": asking.new_tokens,
        "stop_ids": lm.end_ids,
        "until": line_is_over(lm),
        "batch": asking.batch,
    }
    if fed and isinstance(fed[0], CachedPrompt):
        ids = generate_from_caches(lm, [each for each in fed if isinstance(each, CachedPrompt)], **told)
    else:
        ids = generate_rows(lm, [each for each in fed if isinstance(each, Tensor)], **told)
    assert len(ids) == len(fed)
    return Heard(ids, [answer_of(lm.decode(each)) for each in ids])


class Asked(NamedTuple):
    """The held-out prompts, and the text run's answers to them."""

    prompts: list[Prompt]
    text: Heard


def ask(
    lm: LanguageModel,
    data: QuestionData,
    asking: AskingConfig,
    check: Callable[[Sequence[Prompt]], object] = lambda prompts: None,
) -> Asked:
    """The held-out questions, answered from the whole text: what everything is compared with.

    check: raises on prompts that a phase cannot use; before any is asked, and again where some were left out.
    ValueError where fewer than two questions are left; see `answered_from_text`.
    """
    prompts = prompts_of(lm, held_out_questions(data, asking.questions), asking)
    check(prompts)
    asked = answered_from_text(lm, prompts, asking)
    if len(asked.prompts) < 2:
        raise ValueError(
            f"{asking.model} writes nothing to {len(prompts) - len(asked.prompts)} of {len(prompts)} questions, so its "
            "own answers cannot be the gold ones; set asking.gold=given, or take another model"
        )
    check(asked.prompts)
    return asked


def answered_from_text(lm: LanguageModel, prompts: Sequence[Prompt], asking: AskingConfig) -> Asked:
    """The prompts and what is written to their whole text.

    Where the model's own answers are the gold ones, they take the place of those given, and a question to which it
    writes nothing that can be compared is left out.
    """
    text = listen_to_text(lm, prompts, asking)
    if asking.gold == "given":
        return Asked(list(prompts), text)
    kept = [i for i, answer in enumerate(text.answers) if normalise_answer(answer)]
    own = [prompts[i]._replace(question=prompts[i].question._replace(answers=(text.answers[i],))) for i in kept]
    return Asked(own, Heard([text.ids[i] for i in kept], [text.answers[i] for i in kept]))


def listen_to_text(lm: LanguageModel, prompts: Sequence[Prompt], asking: AskingConfig) -> Heard:
    """The text run: the table's own rows. That it is what ids give is a control of C0."""
    return listen(lm, [lm.rows(prompt.ids) for prompt in prompts], asking)
