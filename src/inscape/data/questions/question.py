"""A question about a text, with every answer that counts as right: what all question sets give and all metrics take.

The prompt's wording stands here once, so that no reader, compressor or baseline can have one of its own:

    source    "Context: <context>\\nQuestion: <question>\\n"
    prompt    source + "Answer: "
"""

from typing import NamedTuple

__all__ = ["ANSWER_CUE", "CONTEXT_CUE", "QUESTION_CUE", "Question", "source_text"]

CONTEXT_CUE = "Context: "
QUESTION_CUE = "Question: "
ANSWER_CUE = "Answer: "


class Question(NamedTuple):
    """A question, the context that answers it, and all gold answers; the first is the one to train on.

    group: what the question was drawn with (an article, a scene): the independent unit, and what splits go by.
    """

    id: str
    context: str
    question: str
    answers: tuple[str, ...]
    group: str


def source_text(question: Question) -> str:
    """The prompt without its "Answer: ": context and question as the model reads them."""
    return f"{CONTEXT_CUE}{question.context}\n{QUESTION_CUE}{question.question}\n"
