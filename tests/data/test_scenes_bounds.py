"""The least ROUGE-L of a sentence: against a list of all wordings where they can be listed, and never undercut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inscape.data.scenes import canonical, parse, render, sample, wordings
from inscape.data.scenes.bounds import least_rouge_l, most_reworded
from inscape.metrics.text import rouge_l


@pytest.mark.parametrize(
    "sentence",
    [
        "two medium red cones are on the two blue stars",
        "two red cones are beneath the two medium blue stars",
        "three red stars lie left of two white cones",
        "behind the two black pyramids stand four green stars",
        "three red stars are held by the two white cones",
        "two white cones contain the three red stars",
        "next to three red stars there are two white cones",
        "there is a red star that sits on the blue cone",
        "there is a red ball that sits within the small gray cone",
        # Here a beginning with the least LCS so far does not end best: whole rows have to be compared.
        "right of the three medium yellow stars there are four blue stars",
        "to the left of the four green stars are two green pyramids",
    ],
)
def test_one_fact_has_the_least_of_all_its_wordings(sentence):
    expected = min(rouge_l(sentence, wording) for wording in wordings(parse(sentence)))
    assert least_rouge_l(sentence) == pytest.approx(expected)


def test_two_facts_have_the_least_of_all_their_wordings():
    sentence = "two red cones are behind three blue stars and in front of two white cones lie the four black stars"
    expected = min(rouge_l(sentence, wording) for wording in wordings(parse(sentence)))
    assert least_rouge_l(sentence) == pytest.approx(expected)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_no_wording_is_below_it_and_one_is_at_it(seed, facts):
    rng = np.random.default_rng(seed)
    scene = sample(rng, facts=facts, split="train")
    sentence = render(scene, rng)
    least = least_rouge_l(sentence)
    assert least <= min(rouge_l(sentence, render(scene, rng)) for _ in range(300))
    furthest = most_reworded(sentence)
    assert parse(furthest) == scene
    assert rouge_l(sentence, furthest) == pytest.approx(least)


def test_the_furthest_wording_of_a_canonical_sentence_by_hand():
    # "the red", or "the blue", is all that can be kept: "under", "there", "which" and "stick" are other words.
    sentence = "the red block is on the blue rod"
    furthest = most_reworded(sentence)
    assert least_rouge_l(sentence) == pytest.approx(rouge_l(sentence, furthest))
    assert parse(furthest) == parse(canonical(parse(sentence)))
    assert least_rouge_l(sentence) < rouge_l(sentence, "the blue stick is under the red cube") < 0.4


def test_it_reads_what_the_parser_reads():
    sentence = "a red ball is on the blue block"
    assert least_rouge_l("A red ball  is on the blue block.") == least_rouge_l(sentence)
    twice = f"{sentence} and the blue cube supports a red sphere"
    assert parse(most_reworded(twice)) == parse(twice) == parse(sentence)
    with pytest.raises(ValueError, match="not a scene sentence"):
        least_rouge_l("a red ball on the blue block")
