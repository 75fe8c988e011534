"""Scores of answers in planted worlds: what is counted, and what is left out of a mean."""

from inscape.data.questions import Prompt, Question
from inscape.studies.prompt_compression.asking import Heard
from inscape.studies.prompt_compression.scoring import measure_answers


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
