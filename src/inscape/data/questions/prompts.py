"""From a question to the ids that a language model reads, knowing which of them are the context.

    Context: <context>\\nQuestion: <question>\\nAnswer:_          (_ stands for the space at the end)

The three parts are tokenised apart and laid end to end, so that the span of the context is exact and a compressor can
replace it. What does not fit is cut from the end of the CONTEXT. Cutting the end of the whole prompt, as tokenizers do,
takes away the question and "Answer: " first, and every figure measured then is of a model that was asked nothing.

Legend: T tokens.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from inscape.data.questions.question import ANSWER_CUE, CONTEXT_CUE, QUESTION_CUE, Question

__all__ = ["Prompt", "answer_of", "build_prompt"]


class Prompt(NamedTuple):
    """The ids of a prompt, T of them; those of the context are `ids[context_start:context_stop]`.

    dropped: how many tokens of the context did not fit and were cut from its end.
    """

    ids: tuple[int, ...]
    context_start: int
    context_stop: int
    question: Question
    dropped: int = 0

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        """What stands before the context."""
        return self.ids[: self.context_start]

    @property
    def context_ids(self) -> tuple[int, ...]:
        """What a sequence compressor is given."""
        return self.ids[self.context_start : self.context_stop]

    @property
    def suffix_ids(self) -> tuple[int, ...]:
        """What stands behind the context: the question and the cue to answer, always whole."""
        return self.ids[self.context_stop :]


def build_prompt(
    question: Question,
    encode: Callable[[str], Sequence[int]],
    *,
    max_tokens: int,
    on_long: str = "truncate",
    begin: Sequence[int] = (),
) -> Prompt:
    """The prompt of a question in at most `max_tokens` tokens.

    encode: text -> ids, adding no special tokens. begin: ids in front of all text, such as the sign of the beginning
    that a model has learned with; part of the prefix. max_tokens: the model's window less what it is to write. on_long:
    "truncate" cuts the end of a context that does not fit, "refuse" is a ValueError. The space after "Context:" belongs
    to the context, since tokenizers join a space with the word behind it. ValueError, one line: a blank question or
    context; question and cues alone leave no room for a token of context; another word for on_long.
    """
    if on_long not in ("truncate", "refuse"):
        raise ValueError(f"on_long is {on_long!r}; allowed: truncate, refuse")
    for name in ("question", "context"):
        if not getattr(question, name).strip():
            raise ValueError(f"question {question.id!r} has an empty {name}; there is nothing to ask")
    cue = CONTEXT_CUE.rstrip()
    said = tuple(encode(cue))
    prefix = (*begin, *said)
    context = tuple(encode(f"{CONTEXT_CUE.removeprefix(cue)}{question.context}"))
    suffix = tuple(encode(f"\n{QUESTION_CUE}{question.question}\n{ANSWER_CUE}"))
    if not (said and context and suffix):
        raise ValueError(f"question {question.id!r}: the tokenizer gives no ids for a part of its prompt")
    room = max_tokens - len(prefix) - len(suffix)
    if room < 1:
        raise ValueError(
            f"question {question.id!r} takes {len(prefix) + len(suffix)} tokens without its context, and max_tokens is "
            f"{max_tokens}: ask more briefly, or give a model with a longer window"
        )
    if len(context) > room and on_long == "refuse":
        raise ValueError(
            f"question {question.id!r}: its context has {len(context)} tokens, and {room} fit in a prompt of "
            f"{max_tokens}: shorten it, give a model with a longer window, or take on_long='truncate'"
        )
    kept = context[:room]
    ids = (*prefix, *kept, *suffix)
    return Prompt(ids, len(prefix), len(prefix) + len(kept), question, len(context) - len(kept))


def answer_of(generated: str) -> str:
    """The answer in what a model wrote: its first line that is not blank, without spaces around it.

    A model that is not told where to stop goes on to ask itself the next question; that is no part of its answer.
    """
    return next((line.strip() for line in generated.splitlines() if line.strip()), "")
