"""Scores of what was answered: against the gold answers, and against what the model answers from the whole text.

Legend: T tokens, D width of the embedding table, V rows of the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from inscape.compressors.controls import other_prompt, travels_alone
from inscape.compressors.interface import Compressed, Compressor, row_width, vector_count
from inscape.compressors.projection import rows_of
from inscape.compressors.quantised import numbers_sent
from inscape.compressors.truncation import EqualBits
from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Criterion, Gate
from inscape.core.rundir import RunDir
from inscape.data.questions import Prompt
from inscape.metrics.kept_share import kept_share, mean_difference
from inscape.metrics.next_token import sequence_kl
from inscape.metrics.qa import (
    answer_entity_preservation,
    f1,
    grounding,
    mean_over_questions,
    metric_max_over_references,
    score_answers,
)
from inscape.nn.row_generation import CachedPrompt, continuation_logits
from inscape.pretrained.language_model import LanguageModel
from inscape.studies.prompt_compression.asking import (
    AskingConfig,
    Fed,
    Heard,
    context_of,
    fed_by,
    ids_of,
    listen,
)

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = [
    "EMPTY_KEPT",
    "UNIT",
    "Answered",
    "Told",
    "alone_of",
    "answered",
    "f1_of_each",
    "f1_of_others",
    "groups_of",
    "keep_answers",
    "measure_answers",
    "measure_divergence",
    "measure_equal_bits",
    "nearest_ids",
    "places_taken",
    "ratio_honoured",
    "tell",
    "tokens_recovered",
    "with_other_contexts",
    "without_text_f1",
]

UNIT = "contexts"  # the independent ones: an article or a scene; questions about one text stand and fall together
SHUFFLES = 16  # other prompts whose answers stand for one's own: with one alone the draw decides (0.00 to 0.03 of F1)
COMPARED = 64  # prompts whose next-token distributions are compared: two more readings of each

EMPTY_KEPT = Criterion("empty_f1_kept", at_most=0.8, role="control", source="calibrated", why="of the text run's F1: "
                       "where an empty context keeps nine tenths, so does whatever sends nothing")  # fmt: skip


class Told(NamedTuple):
    """What a compressor made of the prompts, and what the model answered."""

    fed: list[Fed]
    sent: list[Compressed]
    heard: Heard


def tell(
    lm: LanguageModel,
    compressor: Compressor,
    prompts: Sequence[Prompt],
    asking: AskingConfig,
    text: Heard | None = None,
) -> Told:
    """Every prompt through the compressor, and answered.

    Given `text`, prompts that are fed the text's own rows, bit for bit, are not asked again: its answers are theirs.
    """
    fed: list[Fed] = []
    sent: list[Compressed] = []
    sent_for: dict[tuple[int, ...], Compressed] = {}  # contexts: of several questions, each is compressed once
    for prompt in prompts:
        known = sent_for.get(prompt.context_ids) if compressor.needs_context_only else None
        one, sent_for[prompt.context_ids] = fed_by(lm, compressor, prompt, known)
        fed.append(one)
        sent.append(sent_for[prompt.context_ids])
    asked = [i for i, prompt in enumerate(prompts) if text is None or not _is_text(lm, fed[i], prompt)]
    heard = listen(lm, [fed[i] for i in asked], asking) if asked else Heard([], [])
    ids, answers = (list(text.ids), list(text.answers)) if text else ([[]] * len(prompts), [""] * len(prompts))
    for place, each_ids, answer in zip(asked, heard.ids, heard.answers, strict=True):
        ids[place], answers[place] = each_ids, answer
    return Told(fed, sent, Heard(ids, answers))


def _is_text(lm: LanguageModel, fed: Fed, prompt: Prompt) -> bool:
    return isinstance(fed, Tensor) and torch.equal(fed, lm.rows(prompt.ids))


class Answered(NamedTuple):
    """What the model answered, and what there is to count of all that it was fed."""

    heard: Heard
    bits: list[float]  # that travelled for each prompt
    tokens: list[int]  # of its source
    places: list[int]  # see `places_taken`
    numbers: list[int]  # that travelled, whatever the size of each; see `numbers_sent`


def answered(
    lm: LanguageModel,
    compressor: Compressor,
    prompts: Sequence[Prompt],
    asking: AskingConfig,
    text: Heard | None = None,
) -> Answered:
    """As `tell`, `asking.batch` prompts of nearly one length at a time: no more caches are held than of those.

    Questions of one context stand side by side, so that it is rarely compressed more than once.
    """
    count = len(prompts)
    found = Answered(Heard([[]] * count, [""] * count), [0.0] * count, [0] * count, [0] * count, [0] * count)
    order = sorted(
        range(count), key=lambda i: (len(prompts[i].context_ids), prompts[i].context_ids, len(prompts[i].ids))
    )
    for start in range(0, count, asking.batch):
        some = order[start : start + asking.batch]
        part = [prompts[i] for i in some]
        known = Heard([text.ids[i] for i in some], [text.answers[i] for i in some]) if text else None
        told = tell(lm, compressor, part, asking, known)
        for i, prompt, fed, sent, ids, answer in zip(some, part, told.fed, told.sent, *told.heard, strict=True):
            found.heard.ids[i], found.heard.answers[i] = ids, answer
            found.bits[i], found.tokens[i] = compressor.bits(sent), sent.tokens
            found.places[i] = places_taken(compressor, prompt, fed)
            found.numbers[i] = numbers_sent(compressor, sent)
            del fed, sent
        del told  # before the next are made
    return found


def places_taken(compressor: Compressor, prompt: Prompt, fed: Fed) -> int:
    """Places of the model's window that are fed in the place of what was compressed: rows, or a cache's positions.

    Counted on what the model is fed, whatever the compressor says of it; of layers that hold several numbers the most.
    """
    if isinstance(fed, CachedPrompt):
        count = max(layer.keys.shape[-2] for layer in fed.cache.layers) + len(fed.rows_SD)
    else:
        count = len(fed)
    beside = len(prompt.prefix_ids) + len(prompt.suffix_ids)
    return count - beside if compressor.needs_context_only else count


def ratio_honoured(
    lm: LanguageModel,
    compressor: Compressor,
    ratio: float,
    prompts: Sequence[Prompt],
    places: Sequence[int],
    numbers: Sequence[int],
) -> Estimate:
    """Share of prompts for which no more is fed, or sent, than the ratio allows; of every one, so exact.

    Contexts: floor(T / ratio) places, no more and no fewer. Row-wise: as many rows as tokens, and D / ratio numbers a
    row with one more at most (a scale, or a norm). ratio: the one that the scores are filed under, whatever the
    compressor says of itself. places: see `places_taken`; numbers: that travelled, see `numbers_sent`.
    """
    if compressor.needs_context_only:
        wanted = [vector_count(len(prompt.context_ids), ratio) for prompt in prompts]
        kept = [taken == count for taken, count in zip(places, wanted, strict=True)]
    else:
        most = row_width(lm.dimension, ratio) + 1
        rows = [len(prompt.ids) for prompt in prompts]
        kept = [p == r and n <= r * most for p, r, n in zip(places, rows, numbers, strict=True)]
    return exact(sum(kept) / len(kept), len(kept), "prompts")


def alone_of(lm: LanguageModel, compressor: Compressor, prompts: Sequence[Prompt]) -> bool:
    """`travels_alone` on the first prompt and the first one of another group, cut to one length."""
    first = prompts[0]
    other = next(p for p in prompts if p.question.group != first.question.group)
    part = context_of if compressor.needs_context_only else ids_of
    one_T, other_T = part(lm, first), part(lm, other)
    length = min(len(one_T), len(other_T))
    return travels_alone(compressor, lm, one_T[:length], other_T[:length])


def with_other_contexts(prompts: Sequence[Prompt], seed: int) -> list[Prompt]:
    """Each prompt with the context of another one, of another article or scene; what it asks stays its own.

    None becomes longer than the longest there is: what would is cut at the end of its context.
    """
    most = max(len(prompt.ids) for prompt in prompts)
    mixed = []
    for prompt, i in zip(prompts, other_prompt(groups_of(prompts), seed), strict=True):
        context = prompts[i].context_ids[: most - len(prompt.prefix_ids) - len(prompt.suffix_ids)]
        ids = prompt.prefix_ids + context + prompt.suffix_ids
        mixed.append(prompt._replace(ids=ids, context_stop=prompt.context_start + len(context)))
    return mixed


def without_text_f1(gate: Gate, asking: AskingConfig) -> Gate:
    """Where the model's own answers are the gold ones, the text run is right by definition, and is not asked for."""
    return Gate(c for c in gate.criteria if c.metric != "text_f1") if asking.gold == "own" else gate


def groups_of(prompts: Sequence[Prompt]) -> list[str]:
    """What each prompt's question was drawn with."""
    return [prompt.question.group for prompt in prompts]


def f1_of_each(heard: Heard, prompts: Sequence[Prompt]) -> list[float]:
    """The official F1 of each answer."""
    return [
        metric_max_over_references(f1, answer, prompt.question.answers)
        for answer, prompt in zip(heard.answers, prompts, strict=True)
    ]


def f1_of_others(answers: list[str], prompts: Sequence[Prompt], seed: int) -> list[float]:
    """F1 of each prompt where another one's answer, of another article or scene, stands for its own: means of SHUFFLES.

    What was fed for the other prompt had its question as well: an answer that fits any prompt scores here, and one that
    was read does not.
    """
    draws = [other_prompt(groups_of(prompts), seed + k) for k in range(SHUFFLES)]
    each = [f1_of_each(Heard([], [answers[i] for i in others]), prompts) for others in draws]
    return np.mean(each, axis=0).tolist()


def measure_answers(heard: Heard, text: Heard, prompts: Sequence[Prompt]) -> dict[str, Estimate]:
    """F1, exact match, the share of the text run's F1 that is left, agreement with it, grounding, entity preservation.

    The last is of the entities of the context that the text run's answer names. Questions to which it names none are
    not among those that the mean is over, nor among its n; where there are none at all, it is not measured.
    """
    drawn: dict[str, Any] = {"groups": groups_of(prompts), "unit": UNIT}
    scores = score_answers(heard.answers, [p.question.answers for p in prompts], **drawn)
    same = [float(one == other) for one, other in zip(heard.ids, text.ids, strict=True)]
    grounded = [grounding(a, p.question.context) for a, p in zip(heard.answers, prompts, strict=True)]
    preserved = [
        answer_entity_preservation(p.question.context, whole, answer)
        for p, whole, answer in zip(prompts, text.answers, heard.answers, strict=True)
    ]
    return {
        "f1": scores.f1,
        "exact_match": scores.exact_match,
        "f1_kept": kept_share(f1_of_each(heard, prompts), f1_of_each(text, prompts), mostly_whole=True, **drawn),
        "same_answers": mean_over_questions(same, mostly_whole=True, **drawn),
        "grounding": mean_over_questions(grounded, mostly_whole=True, **drawn),
        "entity_preservation": mean_over_questions(preserved, mostly_whole=True, **drawn),
    }


def measure_equal_bits(
    lm: LanguageModel,
    compressor: Compressor,
    prompts: Sequence[Prompt],
    asking: AskingConfig,
    text: Heard,
    heard: Heard,
    bits: Sequence[float] = (),
) -> dict[str, Estimate]:
    """The baseline at equal bytes: the context's first tokens, as many as the compressor's bits carry as plain ids.

    bits: of each context, where they are known already; else it is compressed once more. equal_bits_honoured is the
    share of prompts whose truncation is what it is called: not one id more than those bits carry, and not one fewer.
    """
    cut = answered(lm, EqualBits(compressor), prompts, asking, text)
    contexts = [context_of(lm, prompt) for prompt in prompts]
    budgets = bits or [compressor.bits(compressor.compress(lm, context_T)) for context_T in contexts]

    def price(ids: int) -> int:
        return 8 * math.ceil(ids * math.log2(lm.vocab_size) / 8)

    honoured = [
        price(kept) <= budget and (kept == len(context_T) or price(kept + 1) > budget)
        for kept, budget, context_T in zip(cut.places, budgets, contexts, strict=True)
    ]
    scores, groups = measure_answers(cut.heard, text, prompts), groups_of(prompts)
    gain = mean_difference(f1_of_each(heard, prompts), f1_of_each(cut.heard, prompts), groups=groups, unit=UNIT)
    return {
        "equal_bits_f1": scores["f1"],
        "equal_bits_f1_kept": scores["f1_kept"],
        "gain_over_equal_bits": gain,
        "equal_bits_honoured": exact(sum(honoured) / len(honoured), len(honoured), "prompts"),
    }


def measure_divergence(
    lm: LanguageModel, fed: Sequence[Fed], text: Heard, prompts: Sequence[Prompt], most: int = COMPARED
) -> Estimate:
    """KL of next-token distributions, text run against this one, in nats, along what the text run wrote."""
    found: list[float | None] = [None] * len(prompts)
    for i, (one, ids, prompt) in enumerate(list(zip(fed, text.ids, prompts, strict=True))[:most]):
        if ids:
            reference_NV = continuation_logits(lm, lm.rows(prompt.ids), ids)
            found[i] = float(sequence_kl(reference_NV[None], continuation_logits(lm, one, ids)[None])[0])
    return mean_over_questions(found, groups=groups_of(prompts), unit=UNIT)


@torch.no_grad()
def nearest_ids(lm: LanguageModel, row_TD: Float[Tensor, "T D"]) -> Int[Tensor, " T"]:
    """The id whose table row lies nearest to each row: what a receiver that owns the table would read."""
    table_VD = lm.table_VD.float()
    distance_TV = table_VD.square().sum(1) - 2 * row_TD.float() @ table_VD.T
    return distance_TV.argmin(1)


def tokens_recovered(lm: LanguageModel, fed: Sequence[Fed], prompts: Sequence[Prompt]) -> Estimate:
    """Share of a prompt's tokens whose row lies nearest to the row that was made for it; equal rows count as one."""
    shares = []
    for row_TD, prompt in zip(fed, prompts, strict=True):
        assert isinstance(row_TD, Tensor)
        ids_T = ids_of(lm, prompt)
        found_TD, own_TD = rows_of(lm, nearest_ids(lm, row_TD)), rows_of(lm, ids_T)
        shares.append(float((found_TD == own_TD).all(1).float().mean()))
    return mean_over_questions(shares, groups=groups_of(prompts), unit=UNIT)


def keep_answers(run: RunDir, prompts: Sequence[Prompt], answers: Mapping[str, Sequence[str]], most: int = 32) -> None:
    """Questions with their answers, to be read."""
    rows = [
        {"question": p.question.question, "gold": p.question.answers[0], **{n: a[i] for n, a in answers.items()}}
        for i, p in enumerate(prompts[:most])
    ]
    run.write_json("answers.json", rows)
