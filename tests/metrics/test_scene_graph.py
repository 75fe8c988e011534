"""Scene metrics: F1 by hand, 1 exactly for equal scenes, and what a perfect codec and a random one score."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inscape.data.scenes import EDITS, Fact, Scene, counterfactual, parse, render, sample
from inscape.data.scenes.scene import OBJECTS, RELATIONS
from inscape.metrics.scene_graph import graph_f1, scene_exact, score_by_facts, score_scenes, text_graph_f1

# Few objects of few shapes, so that scenes overlap; among them scenes that `sample` would not give.
THINGS = st.sampled_from([OBJECTS[i] for i in (0, 1, 9, 90, 91, 360, 720)])
FACTS = st.builds(Fact, st.sampled_from(RELATIONS), THINGS, THINGS)
SCENES = st.lists(FACTS, min_size=1, max_size=3).map(Scene)


def scenes_of(facts, count, seed):
    rng = np.random.default_rng(seed)
    return [sample(rng, facts=facts, split="train") for _ in range(count)]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("a red ball is on a blue block", "one blue cube supports the red sphere", 1),
        ("a red ball is on a blue block", "a blue block is on a red ball", 6 / 7),  # the relation
        ("a red ball is on a blue block", "a red ball is left of a blue block", 6 / 7),
        ("a red ball is on a blue block", "a green ball is on a blue block", 5 / 7),  # a colour, the relation
        ("a red ball is on a blue block", "two red balls are on a blue block", 5 / 7),
        ("a red ball is on a blue block", "a small red ball is on a blue block", 2 * 6 / (7 + 8)),
        ("a red ball is on a blue block", "a red ball is on a blue star", 3 / 7),  # all that is said of the block
        ("a red ball is on a blue block", "two green stars are behind three white rods", 0),
        ("a red ball is next to a blue block", "a blue block is beside a red ball", 1),  # symmetric
        ("a red ball is left of a blue ball", "a blue ball is left of a red ball", 6 / 7),  # the same nouns
        ("a red ball is on a blue block", "a red ball is on a blue block and a red rod is on a blue star", 14 / 21),
    ],
)
def test_graph_f1_by_hand(first, second, expected):
    assert graph_f1(parse(first), parse(second)) == pytest.approx(expected)
    assert text_graph_f1(second, parse(first)) == pytest.approx(expected)


@given(SCENES, SCENES)
def test_graph_f1_is_symmetric_in_range_and_one_only_for_equal_scenes(first, second):
    score = graph_f1(first, second)
    assert score == graph_f1(second, first)
    assert 0 <= score <= 1
    assert (score == 1) == (first == second)


@pytest.mark.parametrize("edit", EDITS)
def test_no_counterfactual_passes_for_its_scene(edit):
    rng = np.random.default_rng(3)
    for scene in scenes_of(3, 50, seed=4):
        other = counterfactual(scene, edit, rng)
        if other is not None:
            assert graph_f1(scene, other) < 1
            assert not scene_exact(render(other, rng), scene)


def test_a_perfect_codec_is_exact_in_any_wording():
    rng = np.random.default_rng(5)
    scenes = scenes_of(3, 100, seed=6)
    found = score_scenes([render(scene, rng) for scene in scenes], scenes)
    assert [found.graph_f1.value, found.exact.value, found.grammatical.value] == [1, 1, 1]
    assert (found.exact.n, found.exact.unit) == (100, "scenes")


def test_a_codec_that_ignores_its_input_is_grammatical_and_wrong():
    scenes = scenes_of(2, 101, seed=7)
    found = score_scenes([render(other) for _, other in pairwise(scenes)], scenes[:-1])
    assert found.grammatical.value == 1
    assert found.exact.value == 0
    assert found.graph_f1.high < 0.25


@given(st.text() | st.lists(st.sampled_from(["the", "two", "red", "balls", "are", "on", "and"])).map(" ".join))
def test_a_text_outside_the_grammar_scores_nothing(text):
    scene = parse("two red balls are on a blue block")
    assert text_graph_f1(text, scene) == 0
    assert scene_exact(text, scene) is False


def test_babble_scores_nothing():
    rng = np.random.default_rng(8)
    scenes = scenes_of(1, 50, seed=8)
    found = score_scenes([" ".join(rng.permutation(render(scene, rng).split())) for scene in scenes], scenes)
    assert found.grammatical.value < 0.1
    assert found.exact.value <= found.graph_f1.value <= found.grammatical.value


def test_scores_are_grouped_by_the_facts_that_were_asked_for():
    rng = np.random.default_rng(9)
    scenes = [*scenes_of(3, 10, seed=1), *scenes_of(1, 20, seed=2)]
    texts = [render(Scene(scene.facts[:1]), rng) for scene in scenes]  # says only the first fact
    found = score_by_facts(texts, scenes)
    assert list(found) == [1, 3]
    assert [found[n].exact.value for n in found] == [1, 0]
    assert [found[n].exact.n for n in found] == [20, 10]
    assert found[3].graph_f1.value == pytest.approx(0.5, abs=0.05)  # a third of the tuples, all of them right


def test_of_nothing_nothing_is_measured():
    assert not any(score.measured for score in score_scenes([], []))
    assert score_by_facts([], []) == {}


@pytest.mark.parametrize("score", [score_scenes, score_by_facts])
def test_texts_that_do_not_go_with_the_scenes_are_refused(score):
    scenes = scenes_of(1, 2, seed=0)
    with pytest.raises(ValueError, match="a text for each scene"):
        score(["a"], scenes)
    with pytest.raises(ValueError, match="a text for each scene"):
        score("ab", scenes)
