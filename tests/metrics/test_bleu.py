"""Corpus BLEU against pycocoevalcap and by hand, and what its interval resamples."""

import math

import numpy as np
import pytest

from inscape.metrics.bleu import bleu

CAT = ["the cat is on the mat", "there is a cat on the mat"]


def fuzzed(clips, seed):
    draw = np.random.default_rng(seed)

    def text(fewest):
        return " ".join(f"w{word}" for word in draw.integers(0, 12, draw.integers(fewest, 14)))

    return [text(0) for _ in range(clips)], [[text(1) for _ in range(draw.integers(1, 6))] for _ in range(clips)]


@pytest.mark.parametrize("clips", [1, 2, 7, 300])
def test_equals_pycocoevalcap(clips):
    scorer_module = pytest.importorskip("pycocoevalcap.bleu.bleu_scorer")
    for seed in range(20):
        candidates, references = fuzzed(clips, seed)
        scorer = scorer_module.BleuScorer(n=4)
        for pair in zip(candidates, references, strict=True):
            scorer += pair
        expected, _ = scorer.compute_score(option="closest")
        found = [estimate.value for estimate in bleu(candidates, references)]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        ("the the the the the the the", [2 / 7, 0, 0, 0]),  # Papineni et al. 2002, example 2
        ("the cat is on the mat", [1, 1, 1, 1]),
        ("the cat the mat", [math.exp(1 - 6 / 4), math.exp(1 - 6 / 4) * math.sqrt(2 / 3), 0, 0]),
    ],
)
def test_by_hand(candidate, expected):
    found = [estimate.value for estimate in bleu([candidate] * 2, [CAT] * 2)]
    assert found == pytest.approx(expected, abs=2e-3)
    assert found[0] == pytest.approx(expected[0], abs=1e-8)


def test_hits_are_added_up_over_the_corpus_and_not_averaged():
    found = bleu(["a b c d e", "x"], [["a b c d e"], ["y"]])
    assert found.bleu_1.value == pytest.approx(5 / 6)
    assert found.bleu_4.value == pytest.approx((5 / 6) ** (1 / 4)), "one word has no pair, so none that is wrong"


def test_the_interval_is_over_clips_or_over_groups_of_them():
    candidates, references = fuzzed(12, 0)
    alone = bleu(candidates * 10, references * 10).bleu_4
    together = bleu(candidates * 10, references * 10, groups=list(range(12)) * 10, unit="recordings").bleu_4
    assert alone.value == together.value
    assert alone.low < alone.value < alone.high
    assert (alone.n, together.n, together.unit) == (120, 12, "recordings")
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_nothing_and_a_single_clip():
    assert not bleu([], []).bleu_4.measured
    one = bleu(["a b"], [["a b"]]).bleu_1
    assert (one.value, one.n) == (pytest.approx(1), 1)
    assert math.isnan(one.low)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="given 1 captions"):
        bleu(["a"], [["a"], ["b"]])
    with pytest.raises(ValueError, match="a group for each clip"):
        bleu(["a"], [["a"]], groups=[0, 1])
