"""Scores of what was answered: against the gold answers, and against what the model answers from the whole text.

Legend: T tokens, D width of the embedding table, V rows of the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from inscape.compressors.interface import Compressed, Compressor
from inscape.compressors.projection import rows_of
from inscape.core.estimate import Estimate, bootstrap_mean, proportion
from inscape.core.rundir import RunDir
from inscape.data.questions import Prompt
from inscape.metrics.kept_share import kept_share
from inscape.metrics.next_token import sequence_kl
from inscape.metrics.qa import (
    answer_entity_preservation,
    f1,
    grounding,
    mean_over_questions,
    metric_max_over_references,
    score_answers,
)
from inscape.nn.row_generation import continuation_logits
from inscape.pretrained.language_model import LanguageModel
from inscape.studies.prompt_compression.asking import AskingConfig, Fed, Heard, fed_by, ids_of, listen

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = [
    "UNIT",
    "Told",
    "f1_of_each",
    "groups_of",
    "keep_answers",
    "measure_answers",
    "measure_divergence",
    "nearest_ids",
    "tell",
    "tokens_recovered",
]

UNIT = "contexts"  # the independent ones: an article or a scene; questions about one text stand and fall together
COMPARED = 64  # prompts whose next-token distributions are compared: two more readings of each


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
    fed, sent = zip(*(fed_by(lm, compressor, prompt) for prompt in prompts), strict=True)
    asked = [i for i, prompt in enumerate(prompts) if text is None or not _is_text(lm, fed[i], prompt)]
    heard = listen(lm, [fed[i] for i in asked], asking) if asked else Heard([], [])
    ids, answers = (list(text.ids), list(text.answers)) if text else ([[]] * len(prompts), [""] * len(prompts))
    for place, each_ids, answer in zip(asked, heard.ids, heard.answers, strict=True):
        ids[place], answers[place] = each_ids, answer
    return Told(list(fed), list(sent), Heard(ids, answers))


def _is_text(lm: LanguageModel, fed: Fed, prompt: Prompt) -> bool:
    return isinstance(fed, Tensor) and torch.equal(fed, lm.rows(prompt.ids))


def groups_of(prompts: Sequence[Prompt]) -> list[str]:
    """What each prompt's question was drawn with."""
    return [prompt.question.group for prompt in prompts]


def f1_of_each(heard: Heard, prompts: Sequence[Prompt]) -> list[float]:
    """The official F1 of each answer."""
    return [
        metric_max_over_references(f1, answer, prompt.question.answers)
        for answer, prompt in zip(heard.answers, prompts, strict=True)
    ]


def measure_answers(heard: Heard, text: Heard, prompts: Sequence[Prompt]) -> dict[str, Estimate]:
    """F1, exact match, the share of the text run's F1 that is left, agreement with it, grounding, entity preservation.

    The last is of the entities of the context that the text run's answer names. Questions to which it names none are
    not among those that the mean is over, nor among its n; where there are none at all, it is not measured.
    """
    groups = groups_of(prompts)
    scores = score_answers(heard.answers, [p.question.answers for p in prompts], groups=groups, unit=UNIT)
    same = sum(one == other for one, other in zip(heard.ids, text.ids, strict=True))
    grounded = [grounding(a, p.question.context) for a, p in zip(heard.answers, prompts, strict=True)]
    preserved = [
        answer_entity_preservation(p.question.context, whole, answer)
        for p, whole, answer in zip(prompts, text.answers, heard.answers, strict=True)
    ]
    return {
        "f1": scores.f1,
        "exact_match": scores.exact_match,
        "f1_kept": kept_share(f1_of_each(heard, prompts), f1_of_each(text, prompts), groups=groups, unit=UNIT),
        "same_answers": proportion(same, len(prompts), "prompts"),
        "grounding": mean_over_questions(grounded, groups=groups, unit=UNIT),
        "entity_preservation": mean_over_questions(preserved, groups=groups, unit=UNIT),
    }


def measure_divergence(
    lm: LanguageModel, fed: Sequence[Fed], text: Heard, prompts: Sequence[Prompt], most: int = COMPARED
) -> Estimate:
    """KL of next-token distributions, text run against this one, in nats, along what the text run wrote."""
    found: list[float] = []
    for one, ids, prompt in list(zip(fed, text.ids, prompts, strict=True))[:most]:
        if ids:
            reference_NV = continuation_logits(lm, lm.rows(prompt.ids), ids)
            found.append(float(sequence_kl(reference_NV[None], continuation_logits(lm, one, ids)[None])[0]))
    return bootstrap_mean(found, "prompts")


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
    return bootstrap_mean(shares, "prompts")


def keep_answers(run: RunDir, prompts: Sequence[Prompt], answers: Mapping[str, Sequence[str]], most: int = 32) -> None:
    """Questions with their answers, to be read."""
    rows = [
        {"question": p.question.question, "gold": p.question.answers[0], **{n: a[i] for n, a in answers.items()}}
        for i, p in enumerate(prompts[:most])
    ]
    run.write_json("answers.json", rows)
