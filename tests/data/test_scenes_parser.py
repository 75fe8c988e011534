"""What is outside the grammar is refused in one line that names the word, its position and what could stand there."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inscape.data.scenes import WORDS, canonical, parse, render, sample

REFUSED = {
    "": r"word 1, where the text ends; expected an object \(a, an, four, one, the, three, two\) or atop, behind",
    ".": "word 1, where the text ends",
    "red ball is on a blue block": "word 1 'red'; expected an object",
    "a red": r"word 3, where the text ends \(after 'a red'\); expected a singular shape \(ball, block, cone",
    "a purpel ball is on a blue block": r"word 2 'purpel' \(after 'a'\); expected a size \(big, huge, .*\) or a colour",
    "the purpel ball is on a blue block": r"word 2 'purpel' .* expected a number \(four, three, two\) or a size",
    "a small two ball is on a blue block": r"word 3 'two' \(after 'a small'\); expected a colour \(black",
    "a red small ball is on a blue block": r"word 3 'small' .* expected a singular shape",
    "a red ball is on a orange block": "word 6 'a' .* expected 'an' before 'orange'",
    "an red ball is on a blue block": "word 1 'an'; expected 'a' before 'red'",
    "an big orange ball is on a blue block": "word 1 'an'; expected 'a' before 'big'",
    "two red ball are on a blue block": r"word 3 'ball' \(after 'two red'\); expected a plural shape \(balls,",
    "a red balls is on a blue block": "word 3 'balls' .* expected a singular shape",
    "a red ball are on a blue block": "word 4 'are' .* expected contains, holds, is, lies, sits, stands, supports",
    "two red balls is on a blue block": "word 4 'is' .* expected are, contain, hold, lie, sit, stand, support",
    "there is two red balls on a blue block": r"word 3 'two' .* expected one object \(the verb is singular\)",
    "there are the blue ball on a red block": r"word 4 'blue' .* expected a number .*, since the verb is plural",
    "there is the two blue balls on a red block": r"word 4 'two' .* expected one object \(the verb is singular\)",
    "on a blue block are a red ball": r"word 6 'a' .* expected several objects",
    "there are two red balls that is on a red block": r"word 7 'is' \(after 'two red balls that'\); expected are",
    "a red ball is on a blue block or": r"word 9 'or' \(after .*\); expected 'and' or 'while' or the end",
    "a red ball is on a blue block and": "word 10, where the text ends",
    "a red ball, is on a blue block": "word 3 'ball,' .* expected a singular shape",
    "a Red ball is on a blue block": "word 2 'Red'",
    "a red ball is near a blue block": "word 5 'near' .* expected atop",
    "a red ball": r"word 4, where the text ends \(after 'a red ball'\); expected contains",
    "five red balls are on a blue block": "word 1 'five'",
    "a red ball sits supported by a blue block": "word 5 'supported'",
    "the the red ball": "word 2 'the'",
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_refusal_points_at_the_word(text):
    with pytest.raises(ValueError, match=REFUSED[text]) as refusal:
        parse(text)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).startswith("not a scene sentence: word ")
    assert type(refusal.value) is ValueError


def test_a_fourth_fact_is_refused_at_its_conjunction():
    fact = "a red ball is on a blue block"
    with pytest.raises(ValueError, match=r"word 27 'and' .* expected the end, after 3 facts"):
        parse(" and ".join([fact] * 4))


def test_capital_stop_and_spaces_are_forgiven():
    scene = parse("on an orange block is the red ball")
    assert parse("  On an orange   block is the red ball. ") == scene
    with pytest.raises(ValueError, match=r"word 8 'ball\.'"):
        parse("on an orange block is the red ball..")


def test_a_fact_said_twice_is_one_fact_and_names_may_repeat():
    assert len(parse("a red ball is on a blue block and the red sphere is on one blue cube").facts) == 1
    assert len(parse("a red ball is on a red ball and a red ball is under a blue block").facts) == 2


@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join)))
def test_any_text_is_read_or_refused_with_a_value_error(text):
    try:
        scene = parse(text)
    except ValueError:
        return
    assert parse(canonical(scene)) == scene


def test_the_word_named_is_the_first_that_no_sentence_has_there():
    rng = np.random.default_rng(0)
    for _ in range(200):
        words = render(sample(rng), rng).split()
        at = int(rng.integers(len(words)))
        spoiled = [*words[:at], "qq", *words[at + 1 :]]
        with pytest.raises(ValueError, match=rf"word {at + 1} 'qq'"):
            parse(" ".join(spoiled))
