"""C0: does the instrument say what it seems to say, before anything is compressed?

Method: the same prompts are answered from ids by transformers' own `generate`, and from the table's rows by the writing
that every later phase uses; not one id may differ. The question and the cue to answer must stand whole at the end of
every prompt. Rows that are projected to few numbers must give every id back to a receiver that owns the table, down to
a single number: what such a receiver cannot lose, no compressor of rows can be praised for keeping. And the model must
answer from the context: what it answers without one is where every score starts. Answers are scored as SQuAD's are
(Rajpurkar et al. 2016).

What a prompt costs in bits, as ids, coded ids, UTF-8 and zstd, as rows of each width in float32, float16, int8 and
int4, and as the model's own keys and values, is written to ledger.json.

A negative result would mean that the questions cannot be used with this model: it answers no better with the context
than without, so nothing could be lost by compressing it.

Cost: quick about half a minute on 2 CPU cores once the model is there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from inscape.compressors.controls import EmptyContext
from inscape.compressors.id_equivalence import recovered_ids
from inscape.compressors.ledger import (
    NUMBER_BITS,
    ZSTD_MISSING,
    Price,
    kv_bits,
    latent_bits,
    order_zero,
    prices,
    text_prices,
)
from inscape.compressors.pca import principal_components
from inscape.compressors.projection import moments_of_prompts, token_counts
from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Criterion, Gate
from inscape.core.study import Context, Phase
from inscape.data.questions import Prompt, Question
from inscape.data.questions.question import ANSWER_CUE
from inscape.metrics.kept_share import mean_difference
from inscape.metrics.qa import score_answers
from inscape.pretrained.language_model import LanguageModel, line_is_over
from inscape.pretrained.plain_generation import generate_from_ids
from inscape.studies.prompt_compression.asking import (
    AskingConfig,
    Heard,
    QuestionData,
    ask,
    check_asking,
    held_out_questions,
    ids_of,
    keep_questions,
    open_model,
    prompts_of,
    training_questions,
)
from inscape.studies.prompt_compression.figures import draw_ledger
from inscape.studies.prompt_compression.scoring import (
    EMPTY_KEPT,
    UNIT,
    f1_of_each,
    groups_of,
    keep_answers,
    measure_answers,
    tell,
)

__all__ = ["GATE", "PHASE", "Config", "id_equivalence", "replay"]


@dataclass(frozen=True)
class Config:
    """How much is checked."""

    data: QuestionData = field(default_factory=QuestionData)
    asking: AskingConfig = field(default_factory=AskingConfig)
    replayed: int = 64  # prompts that are answered from ids as well
    train: int = 2000  # training prompts: of the projections, and of the frequencies of coded ids
    widths: tuple[int, ...] = (1, 8, 72, 288)  # numbers a row is projected to; wider than it: left out

    def __post_init__(self) -> None:
        for name in ("replayed", "train"):
            if not 1 <= getattr(self, name) <= 10**6:
                raise ValueError(f"{name}={getattr(self, name)} is out of range; allowed: 1 to 1000000")
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths={self.widths} are out of range; allowed: one or more numbers from 1 on")


OFFICIAL = (  # answer, gold answers, F1 and exact match by the official script of SQuAD 1.1
    ("The red ball.", ("a red ball",), 1.0, 1.0),
    ("red red red", ("red ball",), 0.4, 0.0),  # of sets 2 / 3
    ("red ball red ball", ("red ball",), 2 / 3, 0.0),  # of sets 1
    ("ball", ("ball ball ball ball",), 0.4, 0.0),  # the gold answer is a multiset too
    ("benched", ("fined and benched", "benched"), 1.0, 1.0),  # of the first alone 1 / 2
    ("two red", ("red", "two red balls", "blue"), 0.8, 0.0),
    ("everything green there is", ("green",), 0.4, 0.0),  # it holds the answer
    ("", ("red",), 0.0, 0.0),
    ("", ("the",), 0.0, 1.0),  # no word is shared, and nothing differs
    ("blue cube", ("red ball",), 0.0, 0.0),
)

TEXT_F1 = Criterion("text_f1", at_least=0.1, source="calibrated", why="a model that cannot answer from the text has "
                    "nothing to lose")  # fmt: skip

GATE = Gate(
    (
        Criterion("replay_identical", at_least=1, role="control", source="calibrated", why="fed its own rows, the "
                  "model must write what it writes when fed ids: else the harness answers, and not the model"),
        Criterion("questions_cut", at_most=0, role="control", source="calibrated", why="cutting the end of a prompt "
                  "takes the question away first"),
        Criterion("nothing_written", at_most=0.5, role="control", source="calibrated", why="given rows, generate "
                  "returns new tokens only: cutting the prompt's length off them leaves every answer empty"),
        Criterion("id_equivalence", at_least=1, role="control", source="calibrated", why="a projected row is a "
                  "function of its id; a receiver with the table reads every token, whatever the width"),
        Criterion("score_official", at_least=1, role="control", source="calibrated", why="answers with known official "
                  "scores, scored as runs are: words counted as a set, or one gold answer alone, are other scores"),
        TEXT_F1,
        Criterion("gain_of_context", at_least=0.05, source="calibrated", why="F1 with the context less F1 without: "
                  "answers from memory survive any compression"),
        replace(EMPTY_KEPT, role="claim"),  # of the questions; in later phases a control
    )
)  # fmt: skip


def gate_for(config: Config) -> Gate:
    """Where the model's own answers are the gold ones, the text run is right by definition, and is not asked for."""
    return Gate(c for c in GATE.criteria if c != TEXT_F1) if config.asking.gold == "own" else GATE


def replay(lm: LanguageModel, prompts: Sequence[Prompt], text: Heard, asking: AskingConfig) -> Estimate:
    """Share of prompts to which ids and rows give the same ids; every one was looked at, so there is no interval."""
    over = line_is_over(lm)
    same = [
        generate_from_ids(lm, prompt.ids, asking.new_tokens, over) == ids
        for prompt, ids in zip(prompts, text.ids, strict=False)
    ]
    return exact(sum(same) / len(same), len(same), "prompts")


def score_official() -> Estimate:
    """Share of the answers of OFFICIAL that score as SQuAD's official script has it, by each way runs are scored."""
    right = 0
    for answer, gold, f1, exact_match in OFFICIAL:
        prompt = Prompt((), 0, 0, Question("", "", "", gold, ""))
        scores = score_answers([answer], [gold])
        given = (scores.f1.value, scores.exact_match.value, *f1_of_each(Heard([[]], [answer]), [prompt]))
        right += all(math.isclose(one, other) for one, other in zip(given, (f1, exact_match, f1), strict=True))
    return exact(right / len(OFFICIAL), len(OFFICIAL), "answers")


def questions_cut(lm: LanguageModel, prompts: Sequence[Prompt]) -> Estimate:
    """Prompts that do not end with their question and the cue to answer, read back from the ids that are fed."""
    wrong = [
        prompt.question.id
        for prompt in prompts
        if not lm.decode(prompt.ids).rstrip().endswith(f"{prompt.question.question}\n{ANSWER_CUE}".rstrip())
    ]
    return exact(len(wrong), len(prompts), "prompts")


def kept_widths(lm: LanguageModel, widths: Sequence[int]) -> list[int]:
    """Those that the model's rows can be projected to. ValueError where there is none."""
    kept = [width for width in widths if width <= lm.dimension]
    if not kept:
        raise ValueError(f"widths={tuple(widths)} are all wider than the model's rows; allowed: 1 to {lm.dimension}")
    return kept


def id_equivalence(
    lm: LanguageModel, prompts: Sequence[Prompt], train: Sequence[Prompt], widths: Sequence[int]
) -> dict[str, Estimate]:
    """Share of tokens read back by nearest row, at each width, and the lowest of all: of every token, so exact."""
    ids = [ids_of(lm, prompt) for prompt in prompts]
    moments = moments_of_prompts(lm, [ids_of(lm, prompt) for prompt in train])
    found = {}
    for width in kept_widths(lm, widths):
        projection, _ = principal_components(moments, width)
        share = recovered_ids(projection, lm, ids).recovered
        found[f"id_equivalence_at_{width}"] = exact(share.value, share.n, "prompts")
    return found | {"id_equivalence": min(found.values(), key=lambda e: e.value)}


def vector_prices(lm: LanguageModel, prompts: Sequence[Prompt], widths: Sequence[int]) -> dict[str, Price]:
    """What prompts cost as rows of these widths, one for each token, and as the keys and values of the model's type."""
    config = lm.model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    tokens = [len(prompt.ids) for prompt in prompts]
    bits = {
        f"{width} x {number}{' with scales' if number.startswith('int') else ''}": [
            latent_bits(count, width, number) for count in tokens
        ]
        for width in widths
        for number in NUMBER_BITS
    }
    dtype = str(lm.dtype).removeprefix("torch.")
    number = dtype.removeprefix("b")  # bfloat16 and float16 take as much
    cached = [kv_bits(count, config.num_hidden_layers, heads, head_width, number) for count in tokens]
    return prices(bits | {f"keys and values, {dtype}": cached}, tokens)


def ledger(
    lm: LanguageModel, prompts: Sequence[Prompt], train: Sequence[Prompt], widths: Sequence[int]
) -> dict[str, Any]:
    """What each form of a prompt costs, as JSON; and what this machine could not measure."""
    model = order_zero(token_counts([ids_of(lm, prompt) for prompt in train], lm.vocab_size))
    texts = [lm.decode(prompt.ids) for prompt in prompts]
    priced = text_prices([ids_of(lm, prompt) for prompt in prompts], texts, lm.vocab_size, model)
    rows = {
        form: {"bits_per_prompt": p.bits_per_prompt.to_json(), "bits_per_token": p.bits_per_token.to_json()}
        for form, p in (priced | vector_prices(lm, prompts, widths)).items()
    }
    return {"forms": rows, "note": "" if "zstd" in priced else ZSTD_MISSING}


def given_f1(text: Heard, prompts: Sequence[Prompt], given: Sequence[Question]) -> Estimate:
    """F1 of the text run against the answers that came with the questions, whatever counts as right elsewhere."""
    gold = {question.id: question.answers for question in given}
    answers = [gold[prompt.question.id] for prompt in prompts]
    return score_answers(text.answers, answers, groups=groups_of(prompts), unit=UNIT).f1


def run(context: Context) -> Mapping[str, Estimate]:
    """Ask, replay, read back, and price."""
    config: Config = context.config
    lm = open_model(config.asking, context.device)
    widths = kept_widths(lm, config.widths)
    train = prompts_of(lm, training_questions(config.data, config.train, context.seed), config.asking)
    prompts, text = ask(lm, config.data, config.asking)
    given = held_out_questions(config.data, config.asking.questions)
    empty = tell(lm, EmptyContext(), prompts, config.asking).heard
    scores = (f1_of_each(text, prompts), f1_of_each(empty, prompts))
    written = sum(bool(lm.decode(ids).strip()) for ids in text.ids)
    metrics = {
        "replay_identical": replay(lm, prompts[: config.replayed], text, config.asking),
        "questions_cut": questions_cut(lm, prompts),
        "score_official": score_official(),
        "nothing_written": exact(1 - written / len(given), len(given), "prompts"),
        **id_equivalence(lm, prompts, train, widths),
        **{f"text_{name}": value for name, value in measure_answers(text, text, prompts).items()},
        **{f"empty_{name}": value for name, value in measure_answers(empty, text, prompts).items()},
        "text_gold_f1": given_f1(text, prompts, given),
        "gain_of_context": mean_difference(*scores, groups=groups_of(prompts), unit=UNIT),
        "contexts_cut": exact(sum(prompt.dropped > 0 for prompt in prompts), len(prompts), "prompts"),
        "prompt_tokens": exact(
            float(torch.tensor([len(p.ids) for p in prompts]).float().mean()), len(prompts), "prompts"
        ),
    }
    costs = ledger(lm, prompts, train, widths)
    context.run.write_json("ledger.json", costs)
    draw_ledger(context.run, costs)
    keep_answers(context.run, prompts, {"text": text.answers, "empty": empty.answers})
    keep_questions(context.run, config.data, config.asking, train)
    return metrics


PHASE = Phase(
    code="C0",
    name="instrument",
    question="Does the harness feed and score what it seems to, and does the model answer from the context?",
    config=Config,
    presets=Path(__file__).with_suffix(".yaml"),
    gate=GATE,
    gate_for=gate_for,
    run=run,
    check=lambda config: check_asking(config.data, config.asking, config.train),
    failure_means="The model answers no better with the context than without: nothing can be lost by compressing it.",
)
