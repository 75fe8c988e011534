"""Was the question answered, from the text, and is the text still there? Scores of answers and of what was preserved.

Answers are scored exactly as the official script of SQuAD 1.1 does (checked against it in the tests): lower case, no
punctuation, no articles, single spaces; F1 counts words as a MULTISET; a question's score is the best over all gold
answers. Counting words as a set rewards saying one right word often ("red red red" for "red ball" would be as good as
"red"), and comparing with the first gold answer alone marks right answers wrong: both have been done, and neither
shows in a table.

Two more axes, since a compressed prompt may be answered from memory (Lajewska et al. 2025, arXiv 2503.19114, section 3,
where they are measured with BERTScore and a named-entity tagger; here exactly, by words):

    grounding              of the content words of an answer, the share that stands in the context. It is K-Precision
                           of Adlakha et al. 2024 (arXiv 2307.16877) without function words
    entity preservation    of the entities of the context, the share that stands in a text made from what was kept of it
                           (a recall: a text that says every name there is has 1; to be read beside the answers' scores)
                           Of answers: of the entities of the context that a reference answer names (that to the whole
                           text, say), the share that the answer names too

All values are shares in [0, 1]. What cannot be measured (an answer without content words) is None, never 0, and is no
part of a mean. Means are over questions; their intervals are over `groups` where given (questions about one text are
not independent), else over questions.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from inscape.core.estimate import Estimate, bootstrap_mean, proportion
from inscape.data.scenes.grammar import COLOUR_WORDS, NOUNS
from inscape.metrics.kept_share import kept_share

__all__ = [
    "AnswerScores",
    "answer_entity_preservation",
    "entities",
    "entity_preservation",
    "exact_match",
    "f1",
    "grounding",
    "mean_over_questions",
    "metric_max_over_references",
    "normalise_answer",
    "scene_entities",
    "scene_entity_preservation",
    "score_answers",
]

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")

# Words that do not tell what a text speaks of, in the form that `normalise_answer` gives.
_FUNCTION = (
    "a an and are as at be been but by can could did do does for from had has have he her him his how i if in into is"
    " it its may me my no not of on or our she should so some such than that the their them then there these they this"
    " those to us was we were what when where which while who whom whose why will with would yes you your"
)
FUNCTION_WORDS = frozenset(_FUNCTION.split())

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WORD = re.compile(r"[^\W\d_]+(?:['’\-][^\W\d_]+)*")
_POSSESSIVE = re.compile(r"['’]s?$")
_BETWEEN_SENTENCES = " \t\r\n\"'“”‘’()[]"
_TITLES = ("dr", "mr", "mrs", "ms", "prof", "st")
_ABBREVIATION = re.compile(rf"\b(?:[^\W\d_]|{'|'.join(_TITLES)})\.$", re.IGNORECASE)

_COLOUR_OF = {word: colour for colour, words in COLOUR_WORDS.items() for word in words}
_SHAPE_OF = {f"{word}{s}": shape for shape, words in NOUNS.items() for word in words for s in ("", "s")}
_PAIR = re.compile(rf"\b({'|'.join(_COLOUR_OF)})\s+({'|'.join(_SHAPE_OF)})\b")


class AnswerScores(NamedTuple):
    """Mean F1 of answers, and the share that matches a gold answer exactly."""

    f1: Estimate
    exact_match: Estimate


@lru_cache(maxsize=1 << 13)
def normalise_answer(text: str) -> str:
    """Lower case, without ASCII punctuation, without the words a, an, the, with single spaces; in this order."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, reference: str) -> float:
    """1 if the two are the same after `normalise_answer`, else 0."""
    return float(normalise_answer(prediction) == normalise_answer(reference))


def f1(prediction: str, reference: str) -> float:
    """2 P R / (P + R) over the multisets of normalised words; 0 if they share none, also where both are empty."""
    predicted, wanted = normalise_answer(prediction).split(), normalise_answer(reference).split()
    shared = (Counter(predicted) & Counter(wanted)).total()
    if shared == 0:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(wanted)
    return 2 * precision * recall / (precision + recall)


def metric_max_over_references(
    metric: Callable[[str, str], float], prediction: str, references: Sequence[str]
) -> float:
    """The best of metric(prediction, reference) over all gold answers. ValueError if there is none, or only a text."""
    if isinstance(references, str) or not references:
        given = "one text" if isinstance(references, str) else "none"
        raise ValueError(f"wanted a list of one or more gold answers, given {given}")
    return max(metric(prediction, reference) for reference in references)


def score_answers(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    groups: Sequence[Hashable] | None = None,
    unit: str = "questions",
    seed: int = 0,
) -> AnswerScores:
    """F1 and exact match of answers against all gold answers of their questions; of none, nothing is measured.

    groups, unit: the units of the intervals, as in `mean_over_questions`. They are at least as wide as Wilson's, which
    keeps a width at 0 and 1. ValueError if the lists are not equally long.
    """
    if isinstance(predictions, str) or len(predictions) != len(references):
        given = "one text" if isinstance(predictions, str) else f"{len(predictions)} answers"
        raise ValueError(f"wanted an answer for each question, given {given} and {len(references)} questions")
    overlap, exact = [], []
    for prediction, gold in zip(predictions, references, strict=True):
        # Gold answers that differ in nothing that is compared score alike: one of each is enough.
        distinct = gold if isinstance(gold, str) else list({normalise_answer(text): text for text in gold}.values())
        overlap.append(metric_max_over_references(f1, prediction, distinct))
        exact.append(metric_max_over_references(exact_match, prediction, distinct))
    mean_f1 = mean_over_questions(overlap, groups=groups, unit=unit, seed=seed, mostly_whole=True)
    if groups is None:
        return AnswerScores(mean_f1, proportion(int(sum(exact)), len(exact), unit))
    return AnswerScores(mean_f1, mean_over_questions(exact, groups=groups, unit=unit, seed=seed, mostly_whole=True))


def mean_over_questions(
    values: Sequence[float | None],
    *,
    groups: Sequence[Hashable] | None = None,
    unit: str = "questions",
    seed: int = 0,
    mostly_whole: bool = False,
) -> Estimate:
    """The mean of a score per question, with a percentile bootstrap interval; None is not measured and left out.

    groups: for each question what it was drawn with (`Question.group`). The mean stays the one over questions, and
    whole groups are resampled: n counts groups, and `unit` is their name ("articles"). Of one group nothing is known
    about the spread, and the interval is not measured. mostly_whole: scores from 0 to 1 of which most are 0 or 1; the
    interval is then at least as wide as Wilson's of so many groups. ValueError if groups are not as many as values.
    Source: Efron & Tibshirani 1993, section 13.3; resampling clusters, Cameron, Gelbach & Miller 2008.
    """
    if groups is not None and len(groups) != len(values):
        raise ValueError(f"wanted a group for each question, given {len(groups)} groups and {len(values)} questions")
    measured = [i for i, value in enumerate(values) if value is not None]
    x_N = np.array([values[i] for i in measured], dtype=np.float64)
    own = [groups[i] for i in measured] if groups is not None else []
    if len(set(own)) in (0, len(measured)):
        return bootstrap_mean(x_N, unit, seed=seed, mostly_whole=mostly_whole)
    if not np.isfinite(x_N).all():
        raise ValueError(f"{int((~np.isfinite(x_N)).sum())} of {len(x_N)} scores are not finite; a mean is not defined")
    whole = [1.0] * len(measured)
    found = kept_share(x_N.tolist(), whole, groups=own, unit=unit, seed=seed, mostly_whole=mostly_whole)
    if not (mostly_whole and found.measured):
        return found
    return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))


def grounding(answer: str, context: str) -> float | None:
    """Of the content words of an answer, each as often as it occurs, the share that stands in the context.

    Content words are those of `normalise_answer` that are no FUNCTION_WORDS; None if the answer has none. A synonym, or
    "2" for "two", does not stand in the context.
    """
    content = [word for word in normalise_answer(answer).split() if word not in FUNCTION_WORDS]
    if not content:
        return None
    known = set(normalise_answer(context).split())
    return sum(word in known for word in content) / len(content)


def entities(text: str) -> frozenset[str]:
    """Numbers and names of a text, each once: numbers without commas between thousands, names in lower case.

    A name is a word with a capital that does not begin a sentence, or of capitals alone ("NASA"); no letter alone, no
    function word, no Mr; a possessive 's is no part of it. Names of several words are several entities.
    """
    names = set()
    for match in _WORD.finditer(text):
        word = match.group()
        if word[0].isupper() and (not _begins_sentence(text, match.start()) or (len(word) > 1 and word.isupper())):
            names.add(_plain(word))
    said = {name for name in names if len(name) > 1 and re.split("['’]", name)[0] not in FUNCTION_WORDS.union(_TITLES)}
    return _numbers(text) | said


def entity_preservation(context: str, text: str) -> float | None:
    """Of the `entities` of the context, the share that stands in the text; None if the context has none."""
    return _share(entities(context), _words(text))


def scene_entities(text: str) -> frozenset[str]:
    """The colour-shape pairs of a scene text, synonyms made one: "grey cubes" is "gray block".

    A pair is a colour with a shape as the next word, in a sentence of the grammar or not.
    """
    return frozenset(f"{_COLOUR_OF[c]} {_SHAPE_OF[s]}" for c, s in _PAIR.findall(text.lower()))


def scene_entity_preservation(context: str, text: str) -> float | None:
    """Of the `scene_entities` of the context, the share that the text has too; None if the context has none."""
    return _share(scene_entities(context), scene_entities(text))


def answer_entity_preservation(context: str, reference: str, answer: str) -> float | None:
    """Of the entities of the context that `reference` names, the share that the answer names; None if it names none.

    Entities are `entities` and `scene_entities`. What is a name is decided in the context: alone, an answer begins with
    a capital that means nothing.
    """
    names, pairs = entities(context), scene_entities(context)
    wanted, present = ((names & _words(text)) | (pairs & scene_entities(text)) for text in (reference, answer))
    return _share(wanted, present)


def _words(text: str) -> frozenset[str]:
    """Numbers and words, as `entities` writes them."""
    return _numbers(text) | {_plain(word) for word in _WORD.findall(text)}


def _share(wanted: frozenset[str], present: frozenset[str]) -> float | None:
    return len(wanted & present) / len(wanted) if wanted else None


def _numbers(text: str) -> frozenset[str]:
    return frozenset(re.sub(r",(?=\d{3}(?!\d))", "", number) for number in _NUMBER.findall(text))


def _plain(word: str) -> str:
    return _POSSESSIVE.sub("", word).casefold()


def _begins_sentence(text: str, at: int) -> bool:
    """Whether the word at this place is the first of a sentence, so that its capital means nothing."""
    before = text[:at].rstrip(_BETWEEN_SENTENCES)
    if not before or "\n" in text[len(before) : at]:
        return True
    return before[-1] in ".!?:;" and not _ABBREVIATION.search(before[-6:])
