"""BLEU of captions against several references, over a whole corpus at once.

BLEU is no mean over clips: hits and lengths are added up first, since a caption of six words often has no run of four
in common with anything. Its interval therefore resamples clips and computes the whole anew each time.

As pycocoevalcap's to 1e-9 on the same words, whose 1e-15 and 1e-9 against division by zero are kept: a corpus without a
single hit has some 1e-4 instead of 0.

Sources: Papineni et al. 2002, "BLEU"; of several references the closest in length counts, of two as close the shorter.

Legend: B clips, G groups of clips, K sums: 4 hits and 4 guesses by length of run, words of captions, of references.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from inscape.core.estimate import Estimate
from inscape.metrics.caption_words import check_groups, run_counts, word_pairs

__all__ = ["Bleu", "bleu"]

LONGEST = 4
TINY, SMALL = 1e-15, 1e-9
CONFIDENCE = 0.95
RESAMPLES = 2000


class Bleu(NamedTuple):
    """BLEU-1 to BLEU-4, in [0, 1]: the geometric mean of the precisions of runs of 1 to n words."""

    bleu_1: Estimate
    bleu_2: Estimate
    bleu_3: Estimate
    bleu_4: Estimate


def bleu(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    groups: Sequence[Hashable] | None = None,
    unit: str = "clips",
    seed: int = 0,
) -> Bleu:
    """Corpus BLEU; the interval is over clips, or over whole `groups` of them. ValueError if lists do not fit."""
    sums_BK = np.array([_sums(*pair) for pair in word_pairs(candidates, references)])
    check_groups(groups, len(sums_BK))
    if not len(sums_BK):
        return Bleu(*[Estimate(math.nan, math.nan, math.nan, 0, unit)] * LONGEST)
    sums_GK = sums_BK if groups is None else _by_group(sums_BK, groups)
    values, count = _of_sums(sums_BK.sum(0)), len(sums_GK)
    if count == 1:
        return Bleu(*(Estimate(value, math.nan, math.nan, 1, unit) for value in values))
    draw = np.random.default_rng(seed)
    times = (np.bincount(draw.integers(0, count, count), minlength=count) for _ in range(RESAMPLES))
    drawn = np.array([_of_sums(times_G @ sums_GK) for times_G in times])
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return Bleu(
        *(
            Estimate(value, min(float(low[n]), value), max(float(high[n]), value), count, unit)
            for n, value in enumerate(values)
        )
    )


def _by_group(sums_BK: np.ndarray, groups: Sequence[Hashable]) -> np.ndarray:
    number: dict[Hashable, int] = {}
    group_B = [number.setdefault(group, len(number)) for group in groups]
    sums_GK = np.zeros((len(number), sums_BK.shape[1]))
    np.add.at(sums_GK, group_B, sums_BK)
    return sums_GK


def _sums(caption: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    most: Counter[tuple[str, ...]] = Counter()
    for reference in references:
        most |= run_counts(reference)
    hits = [0.0] * LONGEST
    for run, count in run_counts(caption).items():
        hits[len(run) - 1] += min(count, most[run])
    guesses = [max(0.0, len(caption) - n) for n in range(LONGEST)]
    closest = min((abs(len(reference) - len(caption)), len(reference)) for reference in references)[1]
    return [*hits, *guesses, len(caption), closest]


def _of_sums(sums_K: np.ndarray) -> list[float]:
    """BLEU-1 to BLEU-4 of hits, guesses and lengths that were added up."""
    hits, guesses, (written, wanted) = sums_K[:LONGEST], sums_K[LONGEST:-2], sums_K[-2:].tolist()
    precisions = ((hits + TINY) / (guesses + SMALL)).tolist()
    ratio = (written + TINY) / (wanted + SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    return [brevity * math.prod(precisions[: n + 1]) ** (1 / (n + 1)) for n in range(LONGEST)]
