"""The word probe: right in a planted world, blind in empty ones."""

import numpy as np
import pytest

from inscape.metrics.probe import frequent_words, word_probe

RNG = np.random.default_rng(0)
WORDS = RNG.random((400, 12)) < 0.3


def test_reads_words_that_are_there():
    features = WORDS @ RNG.standard_normal((12, 40)) + 0.1 * RNG.standard_normal((400, 40))
    found = word_probe(features, WORDS, seed=0)
    assert found.low > 0.9
    assert found.n == 200


def test_finds_nothing_where_rows_are_shuffled():
    features = WORDS @ RNG.standard_normal((12, 40))
    found = word_probe(features[RNG.permutation(400)], WORDS, seed=0)
    assert found.low < 0.5 < found.high + 0.02
    assert found.value < 0.55


def test_finds_nothing_far_below_the_level_of_the_rest():
    # One picture for all sentences, large; the words written a thousand times fainter.
    picture = np.zeros((400, 40))
    picture[:, 0] = RNG.standard_normal(400)
    faint = 1e-3 * WORDS @ RNG.standard_normal((12, 40))
    assert word_probe(picture + faint, WORDS, seed=0).value < 0.6


def test_finds_nothing_in_a_thousandth_of_a_picture_that_all_share():
    picture = RNG.standard_normal(40)  # the same for every sentence, so no feature varies but with the words
    faint = 1e-3 * WORDS @ RNG.standard_normal((12, 40))
    assert word_probe(picture + faint, WORDS, seed=0).value < 0.6


def test_a_constant_representation_scores_half():
    assert word_probe(np.ones((400, 40)), WORDS, seed=0).value == pytest.approx(0.5, abs=0.06)


def test_frequent_words_drops_glue_and_rarities():
    presence = np.zeros((100, 3), dtype=bool)
    presence[:, 0] = True
    presence[:30, 1] = True
    presence[:2, 2] = True
    assert frequent_words(presence).shape == (100, 1)


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (np.ones((10, 4)), np.ones((10, 2), dtype=bool)),
        (np.ones((40, 4)), np.ones((40, 0), dtype=bool)),
        (np.full((40, 4), np.nan), np.ones((40, 2), dtype=bool)),
    ],
)
def test_nonsense_is_refused(features, words):
    with pytest.raises(ValueError, match="word_probe"):
        word_probe(features, words, seed=0)
