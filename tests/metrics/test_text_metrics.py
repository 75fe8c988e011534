"""Likeness of texts: closed forms, a plain reference for ROUGE-L, a perfect copyist and a babbler."""

import time
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inscape.data.scenes import render, sample
from inscape.metrics.text import copy_rate, distinct, exact_match, mean_rouge_l, rouge_l, token_accuracy

SENTENCE = "the red block is on the blue cube"
FEW_WORDS = st.lists(st.sampled_from(["the", "red", "block", "on"]), max_size=12).map(" ".join)


def plain_rouge_l(reference, candidate):
    """ROUGE-L as it is defined, by the recursion of the longest common subsequence."""
    a, b = reference.split(), candidate.split()

    @cache
    def lcs(i, j):
        if i == 0 or j == 0:
            return 0
        if a[i - 1] == b[j - 1]:
            return lcs(i - 1, j - 1) + 1
        return max(lcs(i - 1, j), lcs(i, j - 1))

    common = lcs(len(a), len(b))
    if common == 0:
        return float(a == b)
    precision, recall = common / len(b), common / len(a)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        (SENTENCE, 1.0),
        ("the blue cube is under the red block", 0.375),  # inverse relation: 3 of 8 words, "the red block"
        ("the blue cube supports the red block", 0.40),  # 3 of 8 and 7
        ("the red cube is atop the blue block", 0.625),  # synonyms one for one: 5 of 8
        ("a star", 0.0),
        ("", 0.0),
    ],
)
def test_rouge_l_by_hand(candidate, expected):
    assert rouge_l(SENTENCE, candidate) == pytest.approx(expected)


@given(FEW_WORDS, FEW_WORDS)
def test_rouge_l_is_what_its_definition_says(reference, candidate):
    assert rouge_l(reference, candidate) == pytest.approx(plain_rouge_l(reference, candidate))


@given(FEW_WORDS, FEW_WORDS)
def test_rouge_l_is_symmetric_in_range_and_one_only_for_equal_words(reference, candidate):
    score = rouge_l(reference, candidate)
    assert score == rouge_l(candidate, reference)
    assert 0 <= score <= 1
    assert (score == 1) == (reference.split() == candidate.split())


def test_rouge_l_takes_texts_longer_than_a_machine_word():
    words = [str(i) for i in range(300)]
    assert rouge_l(" ".join(words), " ".join(words[::2])) == pytest.approx(2 * 150 / 450)
    assert rouge_l(" ".join(words), " ".join(words[::-1])) == pytest.approx(2 / 600)


def test_ten_thousand_pairs_take_less_than_two_seconds():
    rng = np.random.default_rng(0)
    texts = [render(sample(rng, facts=3, split="train"), rng) for _ in range(100)]
    start = time.process_time()
    for first in texts:
        for second in texts:
            rouge_l(first, second)
    assert time.process_time() - start < 2


def test_means_over_sentences():
    found = mean_rouge_l([SENTENCE] * 2, [SENTENCE, "the blue cube supports the red block"])
    assert (found.value, found.n, found.unit) == (pytest.approx(0.7), 2, "sentences")
    assert not mean_rouge_l([], []).measured


def test_a_perfect_copyist_and_a_babbler():
    rng = np.random.default_rng(1)
    texts = [render(sample(rng, facts=2, split="train"), rng) for _ in range(100)]
    babble = [" ".join(rng.permutation(text.split())) for text in texts]
    assert exact_match(texts, texts).value == copy_rate(texts, texts).value == 1
    assert exact_match(texts, texts).low < 1, "a hundred of a hundred is no certainty"
    assert exact_match(texts, babble).value == 0
    assert mean_rouge_l(texts, texts).value == 1
    assert mean_rouge_l(texts, babble).high < 0.6


def test_words_count_and_spaces_do_not():
    assert exact_match(["a red ball", "a ball", "b"], [" a  red ball ", "a red ball", "B"]).value == pytest.approx(
        1 / 3
    )


def test_distinct_counts_texts_for_each_input():
    found = distinct([["a b", "a  b", "b"], ["c", "c", "c"], ["d", "e", "f"]])
    assert (found.value, found.n) == (2, 3)


def test_token_accuracy_counts_places_of_each_sentence():
    expected = np.array([[7, 8, 9, 2], [7, 2, 0, 0]])
    got = np.array([[7, 9, 8, 2], [7, 2, 5, 5]])
    found = token_accuracy(expected, got)
    assert (found.value, found.n) == (pytest.approx((0.5 + 1) / 2), 2)
    assert token_accuracy(expected, expected).value == 1, "padding that is right does not count either"
    assert token_accuracy(torch.tensor(expected), torch.tensor(got)) == found


def test_tokens_that_are_missing_or_shifted_are_wrong():
    expected = np.array([[7, 8, 9, 2]])
    assert token_accuracy(expected, np.array([[7, 8]])).value == 0.5
    assert token_accuracy(expected, np.zeros((1, 0), dtype=int)).value == 0
    assert token_accuracy(expected, np.array([[5, 7, 8, 9, 2]])).value == 0
    assert token_accuracy(expected, np.array([[7, 8, 9, 9, 2]])).value == 0.75, "it goes on beyond the end"
    assert token_accuracy(expected, np.zeros((1, 4), dtype=int)).value == 0


def test_another_padding():
    assert token_accuracy(np.array([[0, 3, 9, 9]]), np.array([[0, 3, 1, 1]]), pad=9).value == 1


@pytest.mark.parametrize(
    ("measure", "arguments"),
    [
        (mean_rouge_l, (["a"], [])),
        (exact_match, ("ab", ["a", "b"])),
        (copy_rate, (["a", "b"], ["a"])),
        (distinct, ([["a"], []],)),
        (distinct, (["ab"],)),
        (token_accuracy, (np.ones((2, 3), dtype=int), np.ones((1, 3), dtype=int))),
        (token_accuracy, (np.ones(3, dtype=int), np.ones(3, dtype=int))),
        (token_accuracy, (np.zeros((2, 3), dtype=int), np.ones((2, 3), dtype=int))),
        (token_accuracy, (np.ones((2, 3)), np.ones((2, 3)))),
    ],
)
def test_nonsense_is_refused(measure, arguments):
    with pytest.raises(ValueError, match=r"want|padding"):
        measure(*arguments)
