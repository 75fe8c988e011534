"""C4: can a few vectors that a model has learned to write stand for a context?

Method: fewer vectors than tokens, the only compression that saves places of a model's window. Memory tokens among those
of the context, of which keys and values are kept (compressed context memory, Kim et al. 2024) or last states as rows
(ICAE, Ge et al. 2023), or pooled states (arXiv 2510.20797), written by the frozen model itself with low-rank adapters
(Hu et al. 2021), so that the same model without adapters, fed the vectors in place of the context, foretells what it
would have foretold from the text (PISCO, Louis et al. 2025). Its teacher's answers are its own greedy ones to the text,
or the gold ones. Kinds differ in bits: a vector of a cache is keys and values of every layer (`bits_per_token`).

Beside it: the context's first tokens at the same number of vectors and at the same bits, pooled rows that nobody
trained, the answers to other prompts, and no context at all.

A negative result would mean that so few vectors do not hold what a question may ask, or that so little training does
not find how to write them.

Cost: quick is minutes on 2 CPU cores, a training that shows how it is done and no more; see the presets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from inscape.compressors.controls import EmptyContext
from inscape.compressors.distillation import DistillationConfig, check_head
from inscape.compressors.interface import Compressor
from inscape.compressors.mean_pooled import MeanPooled
from inscape.compressors.memory_cache import MemoryCache
from inscape.compressors.memory_tokens import MemoryTokens
from inscape.compressors.quantised import numbers_sent
from inscape.compressors.reader import ReaderConfig
from inscape.compressors.receiving import cache_layers, first_layers, prefill
from inscape.compressors.teaching_examples import Example, answered_by_teacher
from inscape.compressors.truncation import EqualVectors
from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Criterion, Gate
from inscape.core.rundir import RunDir
from inscape.core.study import Context, Phase, Remedy
from inscape.data.questions import Prompt
from inscape.metrics.kept_share import mean_difference
from inscape.metrics.qa import mean_over_questions
from inscape.nn.lora import linear_sizes
from inscape.pretrained.language_model import LanguageModel, line_is_over
from inscape.stopping import part_of
from inscape.studies.prompt_compression.asking import (
    Asked,
    AskingConfig,
    Heard,
    QuestionData,
    ask,
    check_asking,
    check_contexts,
    check_groups_of,
    held_out_questions,
    keep_questions,
    prompts_of,
    training_questions,
)
from inscape.studies.prompt_compression.instrument import replay
from inscape.studies.prompt_compression.lessons import check_reader, open_reader
from inscape.studies.prompt_compression.reconstruction import REPLAYED, loss_over_first
from inscape.studies.prompt_compression.scoring import (
    EMPTY_KEPT,
    UNIT,
    alone_of,
    f1_of_each,
    f1_of_others,
    groups_of,
    keep_answers,
    measure_answers,
    measure_divergence,
    measure_equal_bits,
    places_taken,
    ratio_honoured,
    tell,
    without_text_f1,
)

__all__ = ["COMPRESSOR", "GATE", "PHASE", "Config"]

COMPRESSOR = "sequence_compressor.safetensors"  # in the run
KINDS, TEACHERS = ("memory_cache", "run_ends", "memory_tokens", "mean_pooled"), ("own", "gold")
CACHES = ("memory_cache", "run_ends")


@dataclass(frozen=True)
class Config:
    """One training of a sequence compressor."""

    data: QuestionData = field(default_factory=QuestionData)
    asking: AskingConfig = field(default_factory=AskingConfig)
    kind: str = "memory_cache"  # memory_cache | run_ends (keys and values); memory_tokens | mean_pooled (rows)
    ratio: float = 4.0  # tokens a vector
    rank: int = 16  # of the adapters
    depth: int = 0  # layers of the model that encode; 0 = all, which a cache needs
    train: int = 20_000  # training questions
    per_context: int = 4  # scenes: questions about each training context; it is encoded once for all of them
    teacher: str = "own"  # own: the model's greedy answers to the text | gold: the first gold answer
    training: DistillationConfig = field(default_factory=DistillationConfig)
    reader: ReaderConfig = field(default_factory=ReaderConfig)  # whether the model is taught to answer first

    def __post_init__(self) -> None:
        for name, allowed in (("kind", KINDS), ("teacher", TEACHERS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is not known; allowed: {', '.join(allowed)}")
        for name, most in (("train", 10**7), ("per_context", 64)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name}={getattr(self, name)} is out of range; allowed: 1 to {most}")
        if self.rank > 4096:
            raise ValueError(f"rank={self.rank} is out of range; allowed: 0 to 4096")
        if self.depth and self.kind in CACHES:
            raise ValueError(f"depth={self.depth} is out of range; allowed: 0, since a cache has every layer")
        if self.train < self.training.batch:
            raise ValueError(
                f"train={self.train} questions do not fill a batch of training.batch={self.training.batch} contexts; "
                "allowed: as many or more"
            )
        untrained(self)


GATE = Gate(
    (
        Criterion("f1_kept", at_least=0.9, source="calibrated", why="of what the same model answers from the text, at "
                  "a quarter of the vectors"),
        Criterion("gain_over_truncation", at_least=0.02, source="calibrated", why="the context's first tokens, as many "
                  "as there are vectors, cost no training and must be beaten: 0 is a tie, 0.02 is none"),
        Criterion("loss_over_first", at_most=0.99, source="calibrated", why="the loss falls: its last tenth over its "
                  "first"),
        Criterion("replay_identical", at_least=1, role="control", source="calibrated", why="fed its own rows, the "
                  "model must write what it writes when fed ids"),
        Criterion("text_f1", at_least=0.1, role="control", source="calibrated", why="a share of nothing is no share"),
        Criterion("gain_of_context", at_least=0.05, role="control", source="calibrated", why="F1 with the context less "
                  "F1 with an empty one: answers from memory survive any compression"),
        EMPTY_KEPT,
        Criterion("tokens_per_vector", at_least=4, role="control", source="calibrated", why="counted on what is fed: "
                  "the claims are about a quarter of the vectors, and more of them keep more"),
        Criterion("ratio_honoured", at_least=1, role="control", source="calibrated", why="share of contexts in whose "
                  "place as few rows are fed as the ratio says"),
        Criterion("travels_alone", at_least=1, role="control", source="calibrated", why="a receiver that looks at the "
                  "source was told what nobody sent"),
        Criterion("shuffled_gain", at_most=0.1, role="control", source="calibrated", why="what is answered to "
                  "another prompt must be right no oftener than what is answered to no context"),
        Criterion("equal_bits_honoured", at_least=1, role="control", source="calibrated", why="truncation at equal "
                  "bytes gets the ids that the same bits carry: more would outdo, fewer flatter what it stands beside"),
    )
)  # fmt: skip

REMEDIES = (
    Remedy(("f1_kept",), {"training.fit.steps": lambda steps: 2 * steps}, "if not: train longer"),
    Remedy(("f1_kept",), {"rank": lambda rank: 2 * rank}, "if not: larger adapters"),
)


def untrained(config: Config, layers: int = 1, prefix: tuple[int, ...] = ()) -> MemoryCache | MemoryTokens | MeanPooled:
    """The compressor that is to be trained, for a model of so many layers and contexts behind `prefix`.

    ValueError on settings that cannot be.
    """
    if config.kind in CACHES:
        own = config.kind == "run_ends"
        return MemoryCache(config.ratio, rank=config.rank, prefix=prefix, wire="float16", own=own)
    if config.kind == "memory_tokens":
        return MemoryTokens(config.ratio, rank=config.rank, depth=config.depth, wire="float16")
    return MeanPooled(config.ratio, layer=config.depth or layers, rank=config.rank, wire="float16")


def layers_of(lm: LanguageModel, config: Config) -> int:
    """How many layers the model has. ValueError where it has fewer than are asked for, or cannot be trained so."""
    layers = int(lm.model.config.get_text_config().num_hidden_layers)
    if config.depth > layers:
        raise ValueError(f"depth={config.depth} is out of range; allowed: 0 (all) to {layers}, the layers of {lm.name}")
    check_head(lm)
    try:
        with first_layers(lm, config.depth):
            if config.rank:
                linear_sizes(lm.model)
        if config.kind in CACHES:
            cache_layers(lm, prefill(lm, torch.zeros(1, dtype=torch.long, device=lm.device)))
    except ValueError as error:
        raise ValueError(
            f"{error}, so {lm.name} cannot encode with depth={config.depth} rank={config.rank}; set kind=mean_pooled "
            "depth=0 rank=0, or another asking.model"
        ) from None
    return layers


def check_usable(prompts: Sequence[Prompt], config: Config) -> None:
    """ValueError where a context is too short for the ratio, or no other one stands for it."""
    check_contexts(prompts, config.ratio, "ratio")
    check_groups_of(prompts)


def examples_of(lm: LanguageModel, prompts: Sequence[Prompt], config: Config, run: RunDir) -> list[Example]:
    """Prompts with the answers that teach, those without one left out; too short contexts as well.

    The teacher's own end where those end that are compared with them, and are kept in `run`.
    """
    examples = [
        Example(p.prefix_ids, p.context_ids, p.suffix_ids, tuple(lm.encode(p.question.answers[0])))
        for p in prompts
        if len(p.context_ids) >= config.ratio
    ]
    if config.teacher == "own":
        told = {"max_new_tokens": config.asking.new_tokens, "stop_ids": lm.end_ids, "until": line_is_over(lm)}
        examples = answered_by_teacher(lm, examples, run=run, **told)
    return [example for example in examples if example.answer]


def measure(
    lm: LanguageModel, trained: Compressor, config: Config, asked: Asked, seed: int
) -> tuple[dict[str, Estimate], dict[str, list[str]]]:
    """What the gate asks, and the answers by the name of who gave them."""
    (prompts, text), asking = asked, config.asking
    groups, told = groups_of(prompts), tell(lm, trained, prompts, asking)
    bits, tokens = [trained.bits(sent) for sent in told.sent], [sent.tokens for sent in told.sent]
    numbers = [numbers_sent(trained, sent) for sent in told.sent]
    places = [places_taken(trained, prompt, fed) for prompt, fed in zip(prompts, told.fed, strict=True)]
    beside = {
        "truncated": tell(lm, EqualVectors(config.ratio), prompts, asking).heard,
        "pooled_rows": tell(lm, MeanPooled(config.ratio), prompts, asking).heard,
        "empty": tell(lm, EmptyContext(), prompts, asking).heard,
    }

    others, empty = f1_of_others(told.heard.answers, prompts, seed), f1_of_each(beside["empty"], prompts)

    def gain(one: Heard, other: Heard) -> Estimate:
        ones, others = (f1_of_each(each, prompts) for each in (one, other))
        return mean_difference(ones, others, groups=groups, unit=UNIT, mostly_whole=True)

    def mean(values: Sequence[float]) -> Estimate:
        return mean_over_questions(values, groups=groups, unit=UNIT)

    scores = {name: measure_answers(heard, text, prompts) for name, heard in beside.items()}
    metrics = {
        **measure_answers(told.heard, text, prompts),
        "text_f1": measure_answers(text, text, prompts)["f1"],
        **{f"{name}_{score}": found[score] for name, found in scores.items() for score in ("f1", "f1_kept")},
        **measure_equal_bits(lm, trained, prompts, asking, text, told.heard, bits),
        "gain_over_truncation": gain(told.heard, beside["truncated"]),
        "gain_of_context": gain(text, beside["empty"]),
        "shuffled_f1": mean(others),
        "shuffled_gain": mean_difference(others, empty, groups=groups, unit=UNIT),
        "next_token_kl": measure_divergence(lm, told.fed, text, prompts),
        "bits_per_token": mean([b / t for b, t in zip(bits, tokens, strict=True)]),
        "tokens_per_vector": mean([t / max(1, p) for t, p in zip(tokens, places, strict=True)]),
        "ratio_honoured": ratio_honoured(lm, trained, config.ratio, prompts, places, numbers),
        "travels_alone": exact(float(alone_of(lm, trained, prompts)), 1, "pairs of prompts"),
        "replay_identical": replay(lm, prompts[:REPLAYED], text, asking),
    }
    answers = {name: heard.answers for name, heard in beside.items()}
    return metrics, {"text": text.answers, "vectors": told.heard.answers, **answers}


def check(config: Config) -> None:
    """ValueError on files that are not there or cannot be used."""
    check_asking(config.data, config.asking, max(config.train, config.reader.train), shuffled=True)
    check_reader(config.reader)


def run(context: Context) -> Mapping[str, Estimate]:
    """Teach the model to answer, if asked for; ask the teacher, train, answer."""
    config: Config = context.config

    def check_model(lm: LanguageModel) -> None:
        layers_of(lm, config)
        held_out = held_out_questions(config.data, config.asking.questions)
        check_usable(prompts_of(lm, held_out, config.asking), config)

    lm = open_reader(context, config.reader, config.data, config.asking, config.per_context, check_model)
    layers = layers_of(lm, config)
    questions = training_questions(config.data, config.train, context.seed, config.per_context)
    train = prompts_of(lm, questions, config.asking)
    asked = ask(lm, config.data, config.asking, lambda prompts: check_usable(prompts, config))
    examples = examples_of(lm, train, config, context.run)
    with part_of(context.run, "training") as part:
        start = untrained(config, layers, train[0].prefix_ids)
        trained = start.distilled(lm, examples, config.training, seed=context.seed, run=part)
        falls = loss_over_first(part)
    trained.save(context.run.path / COMPRESSOR)
    metrics, answers = measure(lm, trained, config, asked, context.seed)
    keep_answers(context.run, asked.prompts, answers)
    keep_questions(context.run, config.data, config.asking, train)
    return metrics | {"loss_over_first": falls, "examples": exact(len(examples), len(examples), "questions")}


PHASE = Phase(
    code="C4",
    name="sequences",
    question="Can a few vectors that the model has learned to write stand for a context?",
    config=Config,
    presets=Path(__file__).with_suffix(".yaml"),
    gate=GATE,
    gate_for=lambda config: without_text_f1(GATE, config.asking),
    run=run,
    needs=("C0",),
    remedies=REMEDIES,
    check=check,
    failure_means="So few vectors do not hold what a question may ask, or so little training does not find how.",
)
