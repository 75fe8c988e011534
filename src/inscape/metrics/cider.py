"""CIDEr-D: does the caption say what people said of this clip, and what they would not say of any other?

Words and runs of words are weighted by how rare they are among the clips of a corpus, so that "a" counts nothing and
"ducks" much. That corpus is part of the measure. Trap: under its own frequencies a single clip is always 0, since every
run of words then occurs in all of one documents and log(1 / 1) = 0; and a small subset has other scores than the same
clips have in the whole. Take `DocumentFrequencies.of` the whole corpus once and score what you like under it.

Scores are pycocoevalcap's to 1e-9 on the same words (tested against it). `cider_d` has its scale, 0 to 10; "CIDEr" in
the tables of papers is 100 times the mean, `cider`.

Sources: Vedantam, Zitnick & Parikh 2015, "CIDEr", section 5 for CIDEr-D; Chen et al. 2015, "COCO captions".

Legend: B clips.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np

from inscape.core.estimate import Estimate
from inscape.metrics.caption_words import check_groups, reference_words, run_counts, word_pairs
from inscape.metrics.kept_share import mean_difference
from inscape.metrics.qa import mean_over_questions

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["DocumentFrequencies", "cider", "cider_d", "cider_difference"]

LONGEST = 4  # runs of 1 to so many words
SIGMA = 6.0  # words of difference in length that are forgiven, as a standard deviation
SCALE = 10.0
PERCENT = 100.0


@final
@dataclass(frozen=True)
class DocumentFrequencies:
    """In how many clips of a corpus a run of 1 to 4 words occurs, in any of its references; missing means in none."""

    counts: Mapping[tuple[str, ...], int]
    documents: int  # clips of the corpus

    def __post_init__(self) -> None:
        if self.counts and not 1 <= min(self.counts.values()) <= max(self.counts.values()) <= self.documents:
            raise ValueError(f"DocumentFrequencies.counts must lie in 1 to documents={self.documents}: no clip twice")

    @classmethod
    def of(cls, references: Sequence[Sequence[str]]) -> DocumentFrequencies:
        """Those of a corpus: the references of each clip. ValueError if a clip has none."""
        return _frequencies(reference_words(references))


class _Vector(NamedTuple):
    """A caption as the weights of its runs of words, with the norm of those of each length."""

    weights: dict[tuple[str, ...], float]
    norms: list[float]
    length: int


def cider_d(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    frequencies: DocumentFrequencies | None = None,
) -> Float[np.ndarray, " B"]:
    """CIDEr-D of each caption against the references of its clip, in [0, 10].

    For runs of n = 1..4 words: g = count * log(N / max(1, df)); the likeness of caption c and reference r is
    exp(-(l_c - l_r)^2 / (2 * 6^2)) * min(g_c, g_r) . g_r / (|g_c| |g_r|). The mean over n and references, times 10.

    frequencies: N and df of the corpus; without it the references given are the corpus, and a single clip has 0.
    ValueError if lists do not fit, a clip has no reference, or the corpus is empty.
    """
    pairs = word_pairs(candidates, references)
    if frequencies is None:
        frequencies = _frequencies([of_clip for _, of_clip in pairs])
    if pairs and not frequencies.documents:
        raise ValueError("frequencies are of a corpus without clips: take DocumentFrequencies.of(references)")
    scores = [
        _score(_vector(caption, frequencies), [_vector(reference, frequencies) for reference in of_clip])
        for caption, of_clip in pairs
    ]
    return np.array(scores, dtype=np.float64)


def cider(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    frequencies: DocumentFrequencies | None = None,
    groups: Sequence[Hashable] | None = None,
    unit: str = "clips",
) -> Estimate:
    """The "CIDEr" of papers' tables: 100 * mean of `cider_d`; the interval is over clips, or whole `groups` of them.

    Not measured under the frequencies of a corpus of one clip, where all is 0.
    """
    check_groups(groups, len(candidates))
    frequencies = DocumentFrequencies.of(references) if frequencies is None else frequencies
    scores_B = PERCENT * cider_d(candidates, references, frequencies=frequencies)
    if frequencies.documents < 2:
        return Estimate(math.nan, math.nan, math.nan, 0, unit)
    return mean_over_questions(scores_B.tolist(), groups=groups, unit=unit)


def cider_difference(
    candidates: Sequence[str],
    baseline: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    frequencies: DocumentFrequencies | None = None,
    groups: Sequence[Hashable] | None = None,
    unit: str = "clips",
) -> Estimate:
    """`cider` of the candidates less that of a baseline on the same clips, which are resampled together."""
    check_groups(groups, len(candidates))
    frequencies = DocumentFrequencies.of(references) if frequencies is None else frequencies
    scores, baseline_scores = (
        (PERCENT * cider_d(captions, references, frequencies=frequencies)).tolist()
        for captions in (candidates, baseline)
    )
    if frequencies.documents < 2:
        return Estimate(math.nan, math.nan, math.nan, 0, unit)
    return mean_difference(scores, baseline_scores, groups=groups, unit=unit)


def _frequencies(words_of: Sequence[Sequence[Sequence[str]]]) -> DocumentFrequencies:
    counts: Counter[tuple[str, ...]] = Counter()
    for of_clip in words_of:
        counts.update(set().union(*map(run_counts, of_clip)))
    return DocumentFrequencies(counts, len(words_of))


def _vector(text: Sequence[str], frequencies: DocumentFrequencies) -> _Vector:
    log, log_documents, documents_with = math.log, math.log(frequencies.documents), frequencies.counts.get
    weights = {run: count * (log_documents - log(documents_with(run, 1))) for run, count in run_counts(text).items()}
    squares = [0.0] * LONGEST
    for run, weight in weights.items():
        squares[len(run) - 1] += weight * weight
    return _Vector(weights, [math.sqrt(square) for square in squares], len(text))


def _score(caption: _Vector, references: Sequence[_Vector]) -> float:
    total = 0.0
    for reference in references:
        dots = [0.0] * LONGEST
        for run, own in caption.weights.items():  # in the order of the words: that of a set differs by process
            if its := reference.weights.get(run):
                dots[len(run) - 1] += min(own, its) * its
        penalty = math.exp(-((caption.length - reference.length) ** 2) / (2 * SIGMA**2))
        for dot, own_norm, its_norm in zip(dots, caption.norms, reference.norms, strict=True):
            total += penalty * dot / (own_norm * its_norm) if dot > 0 else 0.0
    return SCALE * total / (LONGEST * len(references))
