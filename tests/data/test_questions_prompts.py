"""Prompts: their exact text and spans, what is cut, and the cut that once took the question away."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inscape.data.questions import Prompt, Question, answer_of, build_prompt, source_text

QUESTION = Question("1", "A red ball is on the blue block.", "What is on the blue block?", ("a red ball",), "scene")


def encode(text):
    """Bytes as ids: what a byte-level tokenizer without merges gives."""
    return list(text.encode())


def characters(text):
    """Characters as ids."""
    return [ord(sign) for sign in text]


def decode(ids):
    return bytes(ids).decode(errors="replace")


def test_the_text_is_the_source_and_the_cue():
    prompt = build_prompt(QUESTION, encode, max_tokens=1000)
    assert source_text(QUESTION) == "Context: A red ball is on the blue block.\nQuestion: What is on the blue block?\n"
    assert decode(prompt.ids) == source_text(QUESTION) + "Answer: "
    assert prompt.dropped == 0
    assert prompt.question is QUESTION


def test_the_parts_are_the_prompt():
    prompt = build_prompt(QUESTION, encode, max_tokens=1000)
    assert decode(prompt.context_ids) == f" {QUESTION.context}"
    assert (*prompt.prefix_ids, *prompt.context_ids, *prompt.suffix_ids) == prompt.ids
    assert prompt.ids[prompt.context_start : prompt.context_stop] == prompt.context_ids
    assert decode(prompt.suffix_ids) == "\nQuestion: What is on the blue block?\nAnswer: "


SUFFIX = encode("\nQuestion: What is on the blue block?\nAnswer: ")
SHORTEST = len(encode("Context:")) + 1 + len(SUFFIX)


def test_the_context_is_cut_and_never_the_question():
    whole = build_prompt(QUESTION, encode, max_tokens=1000)
    for max_tokens in range(SHORTEST, len(whole.ids) + 2):
        prompt = build_prompt(QUESTION, encode, max_tokens=max_tokens)
        assert len(prompt.ids) == min(max_tokens, len(whole.ids))
        assert prompt.suffix_ids == whole.suffix_ids == tuple(SUFFIX)
        assert prompt.context_ids == whole.context_ids[: len(prompt.context_ids)]
        assert len(prompt.context_ids) + prompt.dropped == len(whole.context_ids)


def asks(ids):
    """The control: does the model that reads these ids get the question, and the cue to answer it, whole?"""
    return decode(ids).endswith("\nQuestion: What is on the blue block?\nAnswer: ")


def test_cutting_the_end_of_the_prompt_is_caught():
    whole = build_prompt(QUESTION, encode, max_tokens=1000).ids
    for max_tokens in range(SHORTEST, len(whole)):
        assert not asks(whole[:max_tokens]), "the historic mistake"
        assert asks(build_prompt(QUESTION, encode, max_tokens=max_tokens).ids)


@given(st.text(min_size=1), st.text(min_size=1), st.integers(1, 200))
def test_any_text_is_kept_in_its_place(context, asked, max_tokens):
    question = Question("1", context, asked, ("x",), "g")
    frame = len(f"Context:\nQuestion: {asked}\nAnswer: ")
    if not (context.strip() and asked.strip() and frame < max_tokens):
        with pytest.raises(ValueError, match=r"^question '1' [^\n]*$"):
            build_prompt(question, characters, max_tokens=max_tokens)
        return
    prompt = build_prompt(question, characters, max_tokens=max_tokens)
    assert len(prompt.ids) <= max_tokens
    assert "".join(map(chr, prompt.suffix_ids)) == f"\nQuestion: {asked}\nAnswer: "
    assert f" {context}".startswith("".join(map(chr, prompt.context_ids)))


@pytest.mark.parametrize(
    ("question", "options", "message"),
    [
        (QUESTION._replace(question=" \n"), {}, r"question '1' has an empty question"),
        (QUESTION._replace(context=""), {}, r"question '1' has an empty context"),
        (QUESTION, {"max_tokens": SHORTEST - 1}, rf"takes {SHORTEST - 1} tokens without its context, and max_tokens"),
        (QUESTION, {"max_tokens": 80, "on_long": "refuse"}, r"its context has 33 tokens, and 26 fit in a prompt of 80"),
        (QUESTION, {"on_long": "cut"}, r"on_long is 'cut'; allowed: truncate, refuse"),
    ],
)
def test_what_cannot_be_asked_is_one_clear_line(question, options, message):
    with pytest.raises(ValueError, match=message) as refusal:
        build_prompt(question, encode, **{"max_tokens": 1000, **options})
    assert "\n" not in str(refusal.value)


def test_a_tokenizer_that_says_nothing_is_refused():
    with pytest.raises(ValueError, match="gives no ids for a part of its prompt"):
        build_prompt(QUESTION, lambda text: [], max_tokens=1000)


def test_a_context_that_fits_exactly_is_not_refused():
    whole = build_prompt(QUESTION, encode, max_tokens=1000)
    assert build_prompt(QUESTION, encode, max_tokens=len(whole.ids), on_long="refuse") == whole
    assert isinstance(whole, Prompt)


@pytest.mark.parametrize(
    ("generated", "answer"),
    [
        ("red\nQuestion: What is next?", "red"),
        ("\n  two blocks \n", "two blocks"),
        ("", ""),
        (" \n\t", ""),
    ],
)
def test_the_answer_is_the_first_line(generated, answer):
    assert answer_of(generated) == answer
