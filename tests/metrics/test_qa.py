"""Scores of answers: the official script written anew from its definition, closed forms, and the mistakes once made."""

import math
import random
import string
from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inscape.data.scenes import render, sample
from inscape.metrics.qa import (
    answer_entity_preservation,
    entities,
    entity_preservation,
    exact_match,
    f1,
    grounding,
    mean_over_questions,
    metric_max_over_references,
    normalise_answer,
    scene_entities,
    scene_entity_preservation,
    score_answers,
)

TEXTS = st.text(st.sampled_from("aAnNtThHeE bß_İ-.,'’ \t\n“2"), max_size=24)


# --- the official script of SQuAD 1.1, by its definition ----------------------------------------------------------


def plain_normalise(text):
    """Lower, drop ASCII punctuation, blank out the words a, an, the (a word: letters, digits, _), collapse spaces."""
    kept = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    pieces, word = [], ""
    for sign in kept + " ":
        if sign.isalnum() or sign == "_":
            word += sign
        else:
            pieces += [" " if word in ("a", "an", "the") else word, sign]
            word = ""
    return " ".join("".join(pieces).split())


@cache
def plain_words(text):
    return plain_normalise(text).split()


def plain_f1(prediction, reference):
    """Shared words counted one by one, each word of the reference used once."""
    predicted, left = plain_words(prediction), list(plain_words(reference))
    wanted, same = len(left), 0
    for word in predicted:
        if word in left:
            left.remove(word)
            same += 1
    if same == 0:
        return 0
    precision, recall = 1.0 * same / len(predicted), 1.0 * same / wanted
    return (2 * precision * recall) / (precision + recall)


def fuzzed_texts(rng, n):
    """Texts in which articles, punctuation, odd spaces and repeated words meet."""
    pieces = ["a", "an", "the", "The", "AN", "red", "Red", "ball", "ball's", "ball.", "the-ball", "a.b", "théâtre"]
    pieces += ["red", "ball", "Ball,"] * 5 + [
        "2",
        "1,000",
        "“an”",
        "...",
        "’",
        "ÉTÉ",
        "a_n",
        "İ",
        "ß",
        "ſ",
        "in",
        "of",
        "",
        "U.S.",
        "theatre",
    ]
    gaps = [" ", "  ", "\t", "\n", "\u00a0", "\u3000", "-", ""]
    for _ in range(n):
        yield "".join(rng.choice(pieces) + rng.choice(gaps) for _ in range(rng.randrange(5)))


def test_scores_are_the_official_ones_on_100000_pairs():
    rng = random.Random(0)
    texts = list(fuzzed_texts(rng, 4000))
    scores = Counter()
    for _ in range(100_000):
        prediction, reference = rng.choice(texts), rng.choice(texts)
        expected = plain_f1(prediction, reference)
        assert f1(prediction, reference) == expected
        assert exact_match(prediction, reference) == (plain_words(prediction) == plain_words(reference))
        scores[round(expected, 1)] += 1
    assert min(scores[0.0], scores[0.5], scores[1.0]) > 500, "the pairs reach every kind of score"


@given(TEXTS)
def test_normalising_is_the_official_one_and_settles(text):
    assert normalise_answer(text) == plain_normalise(text)
    assert normalise_answer(normalise_answer(text)) == normalise_answer(text)


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=4))
def test_the_best_reference_counts(prediction, references):
    for metric, plain in ((f1, plain_f1), (exact_match, lambda p, r: plain_normalise(p) == plain_normalise(r))):
        best = metric_max_over_references(metric, prediction, references)
        assert best == max(plain(prediction, reference) for reference in references)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("The red ball.", "a red ball", 1.0),
        ("red ball", "two red balls", 0.4),  # 1 of 2 and 1 of 3
        ("on the blue block", "blue block", 0.8),
        ("", "", 0.0),  # the official script gives 0 where no word is shared, also between two empty answers
        ("the", "a", 0.0),
    ],
)
def test_f1_by_hand(prediction, reference, expected):
    assert f1(prediction, reference) == pytest.approx(expected)


def test_empty_answers_match_exactly_though_their_f1_is_0():
    assert exact_match("", "the") == 1


def test_scores_of_many_are_the_means_of_the_official_ones():
    texts = list(fuzzed_texts(random.Random(1), 2000))
    predictions, references = texts[:400], [texts[at : at + 4] for at in range(400, 2000, 4)]
    scores = score_answers(predictions, references)
    pairs = list(zip(predictions, references, strict=True))
    assert scores.f1.value == pytest.approx(np.mean([max(plain_f1(p, r) for r in many) for p, many in pairs]))
    exact = [any(plain_words(p) == plain_words(r) for r in many) for p, many in pairs]
    assert scores.exact_match.value == pytest.approx(np.mean(exact))
    assert 0.02 < scores.exact_match.value < scores.f1.value


# --- mistakes that were made --------------------------------------------------------------------------------------


def test_saying_a_word_often_does_not_help_as_it_does_with_sets():
    def set_f1(prediction, reference):
        a, b = set(plain_normalise(prediction).split()), set(plain_normalise(reference).split())
        return 2 * len(a & b) / (len(a) + len(b))

    babbled = "red ball red ball red ball"
    assert set_f1(babbled, "red ball") == 1.0
    assert f1(babbled, "red ball") == pytest.approx(0.5)
    assert f1("ball", "ball ball ball ball") == pytest.approx(0.4), "the reference is a multiset too"


def test_every_gold_answer_counts_and_not_the_first_alone():
    answers = ("fined and benched", "benched")
    assert f1("benched", answers[0]) == pytest.approx(0.5)
    assert score_answers(["benched"] * 20, [answers] * 20).f1.value == 1.0
    assert score_answers(["benched"] * 20, [answers[::-1]] * 20).exact_match.value == 1.0


def test_a_text_that_merely_contains_the_answer_is_not_right():
    everything = "red blue green yellow orange purple black white brown gray"
    assert "green" in everything
    assert f1(everything, "green") < 0.2
    assert exact_match(everything, "green") == 0


def test_one_text_for_a_list_of_answers_is_refused():
    for nothing in ("red ball", [], ()):
        with pytest.raises(ValueError, match=r"wanted a list of one or more gold answers, given (one text|none)"):
            metric_max_over_references(f1, "red ball", nothing)
    with pytest.raises(ValueError, match=r"given 2 answers and 1 questions"):
        score_answers(["red", "blue"], [["red"]])
    with pytest.raises(ValueError, match=r"given one text"):
        score_answers("red", [["r"], ["e"], ["d"]])


# --- over questions -----------------------------------------------------------------------------------------------


def test_scores_of_a_planted_world():
    references = [("red", "crimson"), ("two", "2"), ("the blue block",), ("star",)] * 50
    scores = score_answers(["Crimson", "2", "blue cube", "ring"] * 50, references)
    assert scores.f1.value == pytest.approx((1 + 1 + 0.5 + 0) / 4)
    assert scores.exact_match.value == 0.5
    assert scores.f1.n == scores.exact_match.n == 200
    assert scores.f1.low < scores.f1.value < scores.f1.high
    assert score_answers(["Crimson", "2", "blue cube", "ring"] * 50, references) == scores


def test_of_no_answers_nothing_is_measured():
    assert not any(score.measured for score in score_answers([], []))
    assert not any(score.measured for score in score_answers([], [], groups=[]))
    assert not mean_over_questions([None, None], groups=["a", "b"]).measured


@pytest.mark.parametrize(("groups", "units"), [(None, 20), (list(range(20)), 20), ([i // 2 for i in range(20)], 10)])
def test_perfect_answers_have_an_interval_all_the_same(groups, units):
    for score in score_answers(["red"] * 20, [["red"]] * 20, groups=groups):
        assert score.value == score.high == 1.0
        assert score.n == units
        assert score.low == pytest.approx(units / (units + 1.959964**2)), "Wilson's, of the groups"
    anywhere = mean_over_questions([3.0, 2.0, 2.0], groups=["a", "a", "b"])
    assert anywhere.high == pytest.approx(7 / 3 + 12.706204736 * 2 / 9), "Student's; other scores may lie anywhere"
    few = mean_over_questions([1.0, 1.0, 0.5], groups=["a", "a", "b"], mostly_whole=True)
    assert 0 <= few.low < few.value < few.high <= 1, "of two groups Student's interval alone would leave the range"
    alone = mean_over_questions([1.0, 1.0], groups=["a", "a"], mostly_whole=True)
    assert not alone.measured


def test_groups_keep_the_mean_over_questions_and_widen_the_interval():
    rng = np.random.default_rng(0)
    level_G = rng.random(40)  # all ten questions of a group have its score: 40 facts, not 400
    values = np.repeat(level_G, 10).tolist()
    groups = np.repeat(np.arange(40), 10).tolist()
    alone, grouped = mean_over_questions(values), mean_over_questions(values, groups=groups, unit="articles")
    assert alone.value == pytest.approx(grouped.value)
    assert (alone.n, grouped.n, grouped.unit) == (400, 40, "articles")
    assert 2.5 < (grouped.high - grouped.low) / (alone.high - alone.low) < 4  # sqrt(10) = 3.2
    by_level = mean_over_questions(level_G.tolist(), unit="articles")
    assert grouped.low == pytest.approx(by_level.low, abs=0.02)


def test_unequal_groups_weigh_by_their_questions():
    values, groups = [1.0] * 9 + [0.0], ["large"] * 9 + ["small"]
    assert mean_over_questions(values, groups=groups).value == pytest.approx(0.9)


def test_a_group_for_each_question_is_no_grouping():
    values = np.random.default_rng(1).random(30).tolist()
    assert mean_over_questions(values, groups=list(range(30))) == mean_over_questions(values)


def test_of_one_group_the_spread_is_not_known():
    estimate = mean_over_questions([0.0, 1.0, 1.0], groups=["x"] * 3)
    assert estimate.value == pytest.approx(2 / 3)
    assert not estimate.measured


def test_what_is_not_measured_is_left_out_and_never_0():
    values = [1.0, None, 1.0, None, 1.0]
    assert mean_over_questions(values).value == 1.0
    assert mean_over_questions(values).n == 3
    assert mean_over_questions(values, groups=["a", "a", "b", "c", "b"]).n == 2


def test_wrong_groups_and_numbers_are_refused():
    with pytest.raises(ValueError, match=r"given 1 groups and 2 questions"):
        mean_over_questions([1.0, 0.0], groups=["a"])
    for groups in (None, ["a", "a", "b"]):
        with pytest.raises(ValueError, match=r"1 of 3 (values|scores) are not finite"):
            mean_over_questions([1.0, math.nan, 0.0], groups=groups)


# --- grounding and preservation -----------------------------------------------------------------------------------

CONTEXT = (
    "Mattingly's team, the Yankees, paid $1,200 in 1982. He met Dr. Coggan at NASA; They said: “Go Home.” It was 3.5."
)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("the Yankees", 1.0),
        ("It was the Yankees and the Mets", 0.5),
        ("Mets", 0.0),
        ("$1,200", 1.0),
        ("Mets Mets Mets Yankees", 0.25),
        ("", None),
        ("it is the", None),
    ],
)
def test_grounding_by_hand(answer, expected):
    assert grounding(answer, CONTEXT) == expected


@given(TEXTS, TEXTS)
def test_what_is_quoted_is_grounded(before, answer):
    assert grounding(answer, f"{before} {answer}") in (None, 1.0)


def test_entities_are_numbers_and_names_within_sentences():
    assert entities(CONTEXT) == {"yankees", "1200", "1982", "coggan", "nasa", "home", "3.5"}
    assert entities("The dog ran.\nIt barked at O'Brien’s cat, and I'm told (by The Times) at J. Smith.") == {
        "o'brien",
        "times",
        "smith",
    }
    assert entities("a red ball is on the blue block") == set()


def test_entity_preservation_by_hand():
    assert entity_preservation(CONTEXT, CONTEXT) == 1.0
    assert entity_preservation(CONTEXT, "") == 0.0
    assert entity_preservation(CONTEXT, "the YANKEES' 1200 at home") == pytest.approx(3 / 7)
    assert entity_preservation(CONTEXT, "yankeeshome 19823.5") == 0.0, "whole words and numbers"
    assert entity_preservation("no names here", "Names") is None


def test_scene_entities_are_pairs_and_not_their_words():
    context = "Two large grey cubes hold the red ball. A star is red."
    assert scene_entities(context) == {"gray block", "red ball"}
    assert scene_entity_preservation(context, "a gray block") == 0.5
    assert scene_entity_preservation(context, "a red block on a gray ball") == 0.0, "the same words, bound otherwise"
    assert scene_entity_preservation(context, "gray") == 0.0
    assert scene_entity_preservation("nothing", context) is None


def test_entities_of_a_reference_answer_by_hand():
    said = "Coggan and the Yankees, in 1982"
    assert answer_entity_preservation(CONTEXT, said, said) == 1.0
    assert answer_entity_preservation(CONTEXT, said, "yankees in 1982, at Home") == pytest.approx(2 / 3), (
        "no more asked"
    )
    assert answer_entity_preservation(CONTEXT, said, "") == 0.0
    assert answer_entity_preservation(CONTEXT, "Coggan", "coggan") == 1.0, "a name, though it begins the answer"
    assert answer_entity_preservation(CONTEXT, "Moscow in 1900", "Moscow in 1900") is None, "none of the context's"
    scene = "Two large grey cubes hold the red ball."
    assert answer_entity_preservation(scene, "the gray blocks and a red ball", "grey cubes") == 0.5
    assert answer_entity_preservation(scene, "red", "red") is None, "a colour alone is no entity"
    assert answer_entity_preservation(scene, "a blue ball", "a blue ball") is None


def test_every_wording_keeps_the_pairs_of_its_scene():
    rng = np.random.default_rng(3)
    for _ in range(50):
        scene = sample(rng, facts=3)
        pairs = {f"{thing.colour} {thing.shape}" for thing in scene.objects}
        assert scene_entities(render(scene, rng).capitalize()) == pairs
