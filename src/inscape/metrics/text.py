"""How alike two texts are as words and as token ids: copies, paraphrases and their difference.

A word is what stands between spaces, as written: the corpus is lower case and holds no signs. Texts are equal when
their words are.

Legend: B sentences, T places of a padded row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from inscape.core.estimate import Estimate, bootstrap_mean, proportion

if TYPE_CHECKING:
    from jaxtyping import Int

__all__ = ["copy_rate", "distinct", "exact_match", "mean_rouge_l", "rouge_l", "token_accuracy"]


def rouge_l(reference: str, candidate: str) -> float:
    """ROUGE-L F1 of two texts, in [0, 1]: 2 LCS / (words of the one + words of the other).

    LCS is the length of the longest sequence of words that stands in both in this order, gaps allowed. Symmetric; 1
    exactly when the words are equal, so two empty texts have 1, and an empty text and another have 0.
    Source: Lin 2004, "ROUGE", with beta = 1; the LCS in bits as in Hyyro 2004.
    """
    first, second = reference.split(), candidate.split()
    if not first and not second:
        return 1.0
    mask_of: dict[str, int] = {}
    for place, word in enumerate(first):
        mask_of[word] = mask_of.get(word, 0) | 1 << place
    # Bit j of the row is 0 where LCS(words read so far, first[: j + 1]) is one more than without word j.
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        match = row & mask_of.get(word, 0)
        row = (row + match | row - match) & full
    return 2 * (len(first) - row.bit_count()) / (len(first) + len(second))


def mean_rouge_l(references: Sequence[str], candidates: Sequence[str], unit: str = "sentences") -> Estimate:
    """Mean `rouge_l` of pairs; ValueError if the two have not the same number of texts."""
    return bootstrap_mean([rouge_l(*pair) for pair in _pairs(references, candidates)], unit)


def exact_match(expected: Sequence[str], got: Sequence[str], unit: str = "sentences") -> Estimate:
    """Share of texts that came out word for word; ValueError if the two have not the same number of texts."""
    same = [a.split() == b.split() for a, b in _pairs(expected, got)]
    return proportion(sum(same), len(same), unit)


def copy_rate(inputs: Sequence[str], outputs: Sequence[str], unit: str = "sentences") -> Estimate:
    """Share of outputs that only repeat their input word for word: what a paraphraser must not do."""
    return exact_match(inputs, outputs, unit)


def distinct(outputs_of: Sequence[Sequence[str]], unit: str = "sentences") -> Estimate:
    """Mean number of different texts among the outputs drawn for one input; `outputs_of[i]` are those of input i.

    ValueError if an input has no output.
    """
    if any(isinstance(outputs, str) or not outputs for outputs in outputs_of):
        raise ValueError("distinct: wanted for each input a list of one or more texts")
    return bootstrap_mean([len({tuple(text.split()) for text in outputs}) for outputs in outputs_of], unit)


def token_accuracy(
    expected_BT: Int[np.ndarray, "B T"], got_BT: Int[np.ndarray, "B U"], *, pad: int = 0, unit: str = "sentences"
) -> Estimate:
    """Share of a sentence's expected ids that stand at their place in what was got, averaged over sentences.

    Padding of `expected_BT` is not counted; a place that `got_BT` does not have is wrong. Going on beyond the end is
    wrong only at the place of the end sign, so the expected ids should hold it. Arrays or CPU tensors. ValueError on
    other shapes, a sentence without ids, or numbers that are not integers.
    """
    expected_BT, got_BT = np.asarray(expected_BT), np.asarray(got_BT)
    if expected_BT.ndim != 2 or got_BT.ndim != 2 or len(expected_BT) != len(got_BT):
        raise ValueError(
            f"token_accuracy wants two matrices with a row for each sentence, given {expected_BT.shape} and "
            f"{got_BT.shape}"
        )
    if not all(np.issubdtype(ids.dtype, np.integer) for ids in (expected_BT, got_BT)):
        raise ValueError(f"token_accuracy wants integer ids, given {expected_BT.dtype} and {got_BT.dtype}")
    counted_BT = expected_BT != pad
    counted_B = counted_BT.sum(1)
    if not counted_B.all():
        raise ValueError(f"token_accuracy: {int((counted_B == 0).sum())} expected sentences hold nothing but padding")
    common = min(expected_BT.shape[1], got_BT.shape[1])
    right_B = (counted_BT[:, :common] & (expected_BT[:, :common] == got_BT[:, :common])).sum(1)
    return bootstrap_mean(right_B / counted_B, unit)


def _pairs(first: Sequence[str], second: Sequence[str]) -> list[tuple[str, str]]:
    if isinstance(first, str) or isinstance(second, str) or len(first) != len(second):
        raise ValueError(f"wanted two lists with as many texts, given {_what(first)} and {_what(second)}")
    return list(zip(first, second, strict=True))


def _what(texts: Sequence[str]) -> str:
    return "one text" if isinstance(texts, str) else str(len(texts))
