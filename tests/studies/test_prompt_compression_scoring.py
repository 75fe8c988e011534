"""Scores of answers in planted worlds: what is counted, and what is left out of a mean."""

import pytest

from inscape.data.questions import Prompt, Question
from inscape.studies.prompt_compression.asking import Heard
from inscape.studies.prompt_compression.scoring import f1_of_others, measure_answers


def test_entities_that_the_text_run_names_are_looked_for_and_others_are_left_out() -> None:
    texts = ["the red ball", "red", "Ada in 1842", "the red ball"]
    contexts = ["a red ball is on it", "a red ball", "Then Ada wrote, in 1842.", "the red ball and a blue cube"]
    prompts = [
        Prompt((1, 2, 3), 1, 2, Question(f"{i}", context, "?", (text,), f"{i}"))
        for i, (context, text) in enumerate(zip(contexts, texts, strict=True))
    ]
    text = Heard([[0]] * 4, texts)
    whole = measure_answers(text, text, prompts)
    assert (whole["entity_preservation"].value, whole["entity_preservation"].n) == (1, 3)
    said = measure_answers(Heard([[1]] * 4, ["a blue cube", "no", "ada", "red ball"]), text, prompts)
    assert (said["entity_preservation"].value, said["entity_preservation"].n) == (0.5, 3)
    none = measure_answers(text, Heard([[0]] * 4, ["", "red", "it", "x"]), prompts)["entity_preservation"]
    assert not none.measured


def test_answers_that_are_all_right_are_not_known_to_be_always_right() -> None:
    prompts = [Prompt((1, 2, 3), 1, 2, Question(f"{i}", "a ball", "?", ("ball",), f"{i // 2}")) for i in range(40)]
    text = Heard([[0]] * 40, ["ball"] * 40)
    for name, score in measure_answers(text, text, prompts).items():
        if name != "entity_preservation":  # nothing is named
            assert (score.value, score.n, score.unit) == (1, 20, "contexts"), name
            assert score.low == pytest.approx(20 / (20 + 1.959964**2)), name


def test_the_answers_to_others_are_drawn_often_enough_that_no_one_draw_decides() -> None:
    """Two answers, each right for half of the prompts: by one draw a prompt scores 0 or 1, by many about a half."""
    texts = ["red ball", "blue cube"] * 20
    prompts = [Prompt((1, 2, 3), 1, 2, Question(f"{i}", "c", "?", (t,), f"{i}")) for i, t in enumerate(texts)]
    scores = f1_of_others(texts, prompts, 0)
    assert 0.4 < sum(scores) / len(scores) < 0.6
    assert sum(0.2 < score < 0.8 for score in scores) > 36
    assert f1_of_others(["red ball"] * 40, prompts, 0) == [1.0, 0.0] * 20
    assert f1_of_others([f"only {i}" for i in range(40)], prompts, 0) == [0.0] * 40
