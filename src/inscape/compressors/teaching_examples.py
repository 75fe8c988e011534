"""Prompts that teach a sequence compressor, and which of them meet in a training step.

A context is dear to encode and its questions are cheap to ask, so up to so many questions of one context go through a
step together and the context is encoded once for all of them.

Legend: B prompts of a batch, N padded length of a prompt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from inscape.data.epochs import epoch_order
from inscape.nn.row_generation import generate_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from inscape.core.rundir import RunDir
    from inscape.pretrained.language_model import LanguageModel

__all__ = [
    "ANSWERS",
    "Example",
    "ExampleBatch",
    "answered_by_teacher",
    "batch_members",
    "batch_of",
    "questions_together",
]

ANSWERS = "teacher.json"  # in a run: the teacher's answers, in ids
TOGETHER = 512  # examples that the teacher answers before what it said is kept: a few minutes of two CPU cores
BUCKET = 16  # batches that are sorted by length together: more waste less padding and mix less


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
    members_B: Tensor  # which examples they are


def batch_of(examples: Sequence[Example], members: Sequence[int] | None = None) -> ExampleBatch:
    """The examples side by side; those named by `members`, or all."""
    members = range(len(examples)) if members is None else members
    chosen = [examples[i] for i in members]
    ids = [torch.tensor([token for span in example for token in span]) for example in chosen]
    spans_B4 = torch.tensor([[len(span) for span in example] for example in chosen])
    return ExampleBatch(pad_sequence(ids, batch_first=True), spans_B4, torch.tensor(list(members)))


def questions_together(examples: Sequence[Example], most: int) -> list[list[int]]:
    """Which examples go through a step together: those of one context, at most so many, in the order they came in."""
    of_context: dict[tuple[int, ...], list[int]] = {}
    for i, example in enumerate(examples):
        of_context.setdefault(example.context, []).append(i)
    return [every[start : start + most] for every in of_context.values() for start in range(0, len(every), most)]


def batch_members(
    lengths: NDArray[np.int64], batch: int, seed: int, step: int, rank: int = 0, world: int = 1
) -> NDArray[np.int64]:
    """Which of the items with these lengths meet in a step: a pure function that visits each at most once an epoch.

    Items are taken in an epoch's order, sorted by length within a few batches' worth so that neighbours need little
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


def answered_by_teacher(
    lm: LanguageModel,
    examples: Sequence[Example],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int],
    until: Callable[[list[int]], bool] | None = None,
    run: RunDir | None = None,
) -> list[Example]:
    """The examples with the model's own greedy answers to the whole text in place of theirs; see `generate_rows`.

    run: keeps what was answered so far, so that a run that is resumed asks for the rest alone. What is kept counts only
    for the same examples, model (by its name) and limits.
    """
    asked = [lm.name, str(lm.dtype), max_new_tokens, sorted(stop_ids), [example[:3] for example in examples]]
    about = {"sha256": hashlib.sha256(json.dumps(asked).encode()).hexdigest()}
    kept = run.read_json(ANSWERS) if run is not None else None
    answers: list[list[int]] = kept["answers"] if kept is not None and kept["sha256"] == about["sha256"] else []
    for start in range(len(answers), len(examples), TOGETHER):
        some = examples[start : start + TOGETHER]
        rows = [lm.rows(example.prefix + example.context + example.suffix) for example in some]
        answers += generate_rows(lm, rows, max_new_tokens=max_new_tokens, stop_ids=stop_ids, until=until)
        if run is not None:
            run.write_json(ANSWERS, about | {"answers": answers})
    return [example._replace(answer=tuple(ids)) for example, ids in zip(examples, answers, strict=True)]
