"""Before anything is compressed: a model that answers from the text, or is taught to.

Source: LoRA, Hu et al. 2021. See `compressors.reader`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from inscape.compressors.reader import ReaderConfig, load_reader, save_reader, taught_model, teach
from inscape.compressors.teaching_examples import Example
from inscape.core.study import Context
from inscape.pretrained.language_model import LanguageModel
from inscape.stopping import part_of
from inscape.studies.prompt_compression.asking import (
    AskingConfig,
    QuestionData,
    open_model,
    prompts_of,
    training_questions,
)

__all__ = ["READER", "check_reader", "open_reader"]

READER = "reader.safetensors"  # in the run, where the model was taught
END_OF_LINE = "\n"


def check_reader(config: ReaderConfig) -> None:
    """ValueError on a file that holds no reader."""
    if config.path:
        load_reader(Path(config.path))


def open_reader(
    context: Context,
    lessons: ReaderConfig,
    data: QuestionData,
    asking: AskingConfig,
    per_context: int,
    check: Callable[[LanguageModel], object],
) -> LanguageModel:
    """The frozen model that all questions are asked of: as it comes, from a file, or taught here.

    Lessons are training questions with their first gold answer and the end of its line; the adapters stay in the run.
    check: raises on a model, or on contexts, that the phase cannot use; before an hour of lessons, not after.
    """

    def taught(lm: LanguageModel) -> LanguageModel:
        check(lm)
        if lessons.path:
            reader = load_reader(Path(lessons.path))
        else:
            prompts = prompts_of(lm, training_questions(data, lessons.train, context.seed, per_context), asking)
            end = lm.encode(END_OF_LINE)
            examples = [
                Example(p.prefix_ids, p.context_ids, p.suffix_ids, (*lm.encode(p.question.answers[0]), *end))
                for p in prompts
            ]
            with part_of(context.run, "reader") as part:
                reader = teach(lm, examples, lessons, seed=context.seed, run=part)
        made = taught_model(lm, reader)
        save_reader(context.run.path / READER, reader)
        return made

    return open_model(asking, context.device, taught if lessons.train or lessons.path else None)
