"""Questions about texts: SQuAD-format files, a set generated from the scene grammar, and the prompts made of them.

    questions = squad_subset("train.json.xz", 300, seed=0, split="test")       a file, or a data set of the hub
    questions = draw_scene_questions(300, seed=0, split="test")                needs nothing
    prompt = build_prompt(questions[0], lm.encode, max_tokens=lm.window - 32)  knows which of its ids are the context

A question set is split by groups (articles, scenes) that no two splits share.
"""

from inscape.data.questions.prompts import Prompt, answer_of, build_prompt
from inscape.data.questions.question import Question, source_text
from inscape.data.questions.scene_questions import draw_scene_questions, kind_of
from inscape.data.questions.squad import SquadFile, load_squad_subset, read_squad, squad_subset

__all__ = [
    "Prompt",
    "Question",
    "SquadFile",
    "answer_of",
    "build_prompt",
    "draw_scene_questions",
    "kind_of",
    "load_squad_subset",
    "read_squad",
    "source_text",
    "squad_subset",
]
