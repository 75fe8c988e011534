"""How good are the captions of a model: likeness to what people wrote, and whether it says anything at all.

`measure_captions` gives what a table of captioning shows, and beside it what such a table hides: how many captions are
stuck (`caption_words.degenerate`), and how many are different. A model that says "a man speaks" of every clip has a
CIDEr above 0.

`rerank` chooses among several captions of one clip. It cannot see a reference, by its signature: a reranker that reads
the references at evaluation finds the caption that scores best, and has been published as a better model.

The intervals are over clips, or over whole groups of clips (clips cut from one recording are not independent).

Legend: B clips.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from inscape.core.estimate import Estimate, proportion
from inscape.metrics.bleu import bleu
from inscape.metrics.caption_words import check_groups, degenerate, word_pairs, words
from inscape.metrics.cider import DocumentFrequencies, cider, cider_d
from inscape.metrics.qa import mean_over_questions

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["coco_rouge_l", "degenerate_share", "distinct_share", "measure_captions", "rerank", "spider"]

PERCENT = 100.0
BETA = 1.2  # how much more recall counts than precision in ROUGE-L
NO_PROBABILITY = 1e-4  # above 0 by more than rounding is no log-probability


def measure_captions(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    frequencies: DocumentFrequencies | None,
    groups: Sequence[Hashable] | None = None,
    unit: str = "clips",
) -> dict[str, Estimate]:
    """`cider` in percent; `bleu_4`, `rouge_l`, `degenerate_share` and `distinct_share` in [0, 1].

    frequencies: of the corpus that CIDEr is told under; None makes it the references given (see `cider.py`: right for a
    whole test split, wrong for a part of it).
    groups, unit: for each clip what it was drawn with, and the name of these; the intervals resample whole groups.
    ValueError if lists do not fit or a clip has no reference.
    """
    check_groups(groups, len(candidates))
    rouge_B = coco_rouge_l(candidates, references)
    return {
        "cider": cider(candidates, references, frequencies=frequencies, groups=groups, unit=unit),
        "bleu_4": bleu(candidates, references, groups=groups, unit=unit).bleu_4,
        "rouge_l": mean_over_questions(rouge_B.tolist(), groups=groups, unit=unit),
        "degenerate_share": degenerate_share(candidates, groups=groups, unit=unit),
        "distinct_share": distinct_share(candidates, groups=groups, unit=unit),
    }


def coco_rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Float[np.ndarray, " B"]:
    """ROUGE-L of each caption as pycocoevalcap has it: F with beta = 1.2 of the best precision and the best recall.

    The two may come from different references. In [0, 1]; a caption without words has 0. Source: Lin 2004, "ROUGE".
    """
    return np.array([_rouge_l(*pair) for pair in word_pairs(candidates, references)], dtype=np.float64)


def spider(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    frequencies: DocumentFrequencies | None,
    spice: Callable[[Sequence[str], Sequence[Sequence[str]]], Sequence[float]] | None = None,
    groups: Sequence[Hashable] | None = None,
    unit: str = "clips",
) -> Estimate:
    """100 * mean of (CIDEr-D + SPICE) / 2, as tables have it; not measured without `spice`, never 0.

    spice: gives for candidates and references the SPICE of each clip, in [0, 1]. It needs Java and a parser (Anderson
    et al. 2016), so none is brought along. Source: Liu et al. 2017, "SPIDEr".
    ValueError if its scores are not as many, or not in [0, 1].
    """
    check_groups(groups, len(candidates))
    frequencies = DocumentFrequencies.of(references) if frequencies is None else frequencies
    cider_B = cider_d(candidates, references, frequencies=frequencies)
    if spice is None or frequencies.documents < 2:
        return Estimate(math.nan, math.nan, math.nan, 0, unit)
    spice_B = np.asarray(spice(candidates, references), dtype=np.float64)
    if spice_B.shape != cider_B.shape or not ((spice_B >= 0) & (spice_B <= 1)).all():
        raise ValueError(
            f"spice gave scores of shape {spice_B.shape}, wanted {len(cider_B)} in [0, 1], one for each clip"
        )
    return mean_over_questions((PERCENT * (cider_B + spice_B) / 2).tolist(), groups=groups, unit=unit)


def degenerate_share(
    candidates: Sequence[str], *, groups: Sequence[Hashable] | None = None, unit: str = "clips"
) -> Estimate:
    """Share of captions that are stuck, as `degenerate` finds; with Wilson's interval.

    Of groups a bootstrap one, and no narrower than Wilson's of as many groups: where none is stuck a bootstrap would
    claim certainty.
    """
    check_groups(groups, len(candidates))
    stuck = [bool(degenerate(caption)) for caption in _listed(candidates)]
    if groups is None:
        return proportion(sum(stuck), len(stuck), unit)
    found = mean_over_questions([float(is_stuck) for is_stuck in stuck], groups=groups, unit=unit)
    wilson = proportion(round(found.value * found.n), found.n, unit)
    return replace(found, low=min(found.low, wilson.low), high=max(found.high, wilson.high))


def distinct_share(
    candidates: Sequence[str], *, groups: Sequence[Hashable] | None = None, unit: str = "clips"
) -> Estimate:
    """Different captions / captions; they differ where their words do.

    It is the mean of 1 / (how many clips have this caption); the interval resamples that and takes the counts as known.
    """
    check_groups(groups, len(candidates))
    captions = [tuple(words(caption)) for caption in _listed(candidates)]
    times = Counter(captions)
    return mean_over_questions([1 / times[caption] for caption in captions], groups=groups, unit=unit)


def rerank(
    candidates: Sequence[Sequence[str]],
    log_probabilities: Sequence[Sequence[float]],
    similarities: Sequence[Sequence[float]],
    weight: float,
) -> list[int]:
    """For each clip the place of its best candidate, by log-probability per word + weight * similarity.

    log_probabilities: of the whole caption, in nats. similarities: of sound and caption, a cosine for instance.
    Of two as good the first is taken; a candidate without words comes last.
    ValueError if lists do not fit, a clip has no candidate, a number is not finite, a log-probability is above 0, or
    weight is negative.
    """
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"weight={weight}: wanted a finite number, 0 (log-probability alone) or more")
    if not len(candidates) == len(log_probabilities) == len(similarities):
        raise ValueError(
            f"rerank: given {len(candidates)} clips of candidates, {len(log_probabilities)} of log-probabilities and "
            f"{len(similarities)} of similarities, wanted as many of each"
        )
    best = []
    for clip, (captions, logs, alike) in enumerate(zip(candidates, log_probabilities, similarities, strict=True)):
        if isinstance(captions, str) or not 0 < len(captions) == len(logs) == len(alike):
            raise ValueError(f"rerank: clip {clip} wants a list of candidates and two numbers for each of them")
        if not all(map(math.isfinite, [*logs, *alike])) or max(logs) > NO_PROBABILITY:
            raise ValueError(f"rerank: clip {clip} wants finite numbers, and log-probabilities of at most 0")
        lengths = [len(words(caption)) for caption in captions]
        scores = [
            log / length + weight * similarity if length else -math.inf
            for log, length, similarity in zip(logs, lengths, alike, strict=True)
        ]
        best.append(max(range(len(scores)), key=scores.__getitem__))
    return best


def _rouge_l(caption: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    common = [_longest_common(caption, reference) for reference in references]
    if not any(common):
        return 0.0
    precision = max(common) / len(caption)
    recall = max(shared / max(1, len(reference)) for shared, reference in zip(common, references, strict=True))
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Words of the longest sequence that stands in both in this order, gaps allowed."""
    row = [0] * (len(second) + 1)
    for word in first:
        before = 0  # the entry above and to the left
        for place, other in enumerate(second, 1):
            above = row[place]
            row[place] = before + 1 if word == other else max(above, row[place - 1])
            before = above
    return row[-1]


def _listed(candidates: Sequence[str]) -> Sequence[str]:
    if isinstance(candidates, str):
        raise ValueError("candidates: given one text, wanted a list with a caption for each clip")
    return candidates
