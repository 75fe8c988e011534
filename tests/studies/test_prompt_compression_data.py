"""What is trained on, what is asked about, and what of it is read: files, sets of the hub, and what does not fit."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from planted_questions import squad_file

from inscape.core.runner import Request, run_study
from inscape.core.study import SMOKE
from inscape.data.questions import squad_subset
from inscape.studies import study
from inscape.studies.prompt_compression import asking
from inscape.studies.prompt_compression.asking import AskingConfig, QuestionData

STUDY = study("prompt-compression")


@pytest.fixture
def unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "open_language_model", lambda *a, **k: pytest.fail("a model was opened"))


def refused(root: Path, line: str, *overrides: str) -> None:
    request = Request(preset=SMOKE, device="cpu", root=root, overrides=overrides)
    with pytest.raises(ValueError, match=line) as caught:
        run_study(STUDY, [STUDY.phase("C0")], request, lambda line: None, lambda run: None)
    assert "\n" not in str(caught.value)
    assert not root.exists(), "nothing is left behind"


# --- what is trained on and what is asked about -------------------------------------------------------------------


@pytest.mark.parametrize("named", ["squad", "someone/squad_v2"])
def test_a_set_of_the_hub_without_a_test_split_is_asked_about_by_its_validation_split(named: str, monkeypatch) -> None:
    def load(name: str, split: str) -> list[dict]:
        if split not in ("train", "validation"):
            raise ValueError(f'Unknown split "{split}". Should be one of ["train", "validation"].')
        return [
            {
                "id": f"{split} {i}",
                "title": f"{split} {i}",
                "context": "c",
                "question": "q?",
                "answers": {"text": ["x"]},
            }
            for i in range(4)
        ]

    module = ModuleType("datasets")
    module.load_dataset = load  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "datasets", module)
    data = QuestionData(path=named)
    assert {q.id for q in asking._questions(data, 4, 0, "test")} == {f"validation {i}" for i in range(4)}
    assert {q.id for q in asking._questions(data, 4, 0, "train")} == {f"train {i}" for i in range(4)}


def two_files(folder: Path) -> QuestionData:
    """Two files that share no article, each taken whole: one to train on, one that is asked about."""
    trained = squad_file(folder / "nyt.json", {f"Paper {i}": 2 for i in range(6)})
    asked_of = squad_file(folder / "new_wiki_v1.0.json", {f"Wiki {i}": 2 for i in range(6)})
    return QuestionData(path=str(trained), held_out_path=str(asked_of))


def test_one_file_is_trained_on_and_another_asked_about_whole(tmp_path) -> None:
    data = two_files(tmp_path)
    asking.check_asking(data, AskingConfig(questions=12), 12, shuffled=True)
    assert {q.group for q in asking.held_out_questions(data, 12)} == {f"Wiki {i}" for i in range(6)}
    assert {q.group for q in asking.training_questions(data, 12, 0)} == {f"Paper {i}" for i in range(6)}
    scenes = QuestionData(held_out_path=data.held_out_path)
    asking.check_asking(scenes, AskingConfig(questions=12), 3)
    assert all(q.group.startswith("scenes/train") for q in asking.training_questions(scenes, 3, 0))
    assert {q.group for q in asking.held_out_questions(scenes, 12)} == {f"Wiki {i}" for i in range(6)}


@pytest.mark.usefixtures("unopened")
def test_held_out_data_is_never_trained_on(tmp_path) -> None:
    file = two_files(tmp_path).held_out_path
    line = "data.path=.*new_wiki_v1.0.json is held-out data, on which nothing is trained: .* data.held_out_path"
    refused(tmp_path / "runs", line, f"data.path={file}")
    with pytest.raises(ValueError, match=r"give it as data\.held_out_path"):
        squad_subset(file, 2, split="train")


@pytest.mark.usefixtures("unopened")
@pytest.mark.parametrize("same", ["title", "paragraph"])
def test_files_that_share_an_article_are_refused_before_a_model_is_opened(same, tmp_path) -> None:
    data = two_files(tmp_path)
    held_out = json.loads(Path(data.held_out_path).read_text())
    trained = json.loads(Path(data.path).read_text())["data"][2]
    if same == "title":
        held_out["data"][1]["title"] = trained["title"]
    else:
        held_out["data"][1]["paragraphs"][0]["context"] = trained["paragraphs"][1]["context"]
    Path(data.held_out_path).write_text(json.dumps(held_out))
    words = (f"data.path={data.path}", f"data.held_out_path={data.held_out_path}", "asking.questions=12", "train=9")
    refused(tmp_path / "runs", "share the article 'Paper 2', which would be trained on and asked about", *words)
    with pytest.raises(ValueError, match="share the article"):
        asking.training_questions(data, 12, 1)


def test_an_article_that_both_files_have_is_seen_though_it_is_not_drawn(tmp_path) -> None:
    data = two_files(tmp_path)
    (drawn,) = asking.training_questions(data, 1, asking.DRAWN)
    held_out = json.loads(Path(data.held_out_path).read_text())
    held_out["data"][1]["title"] = shared = next(f"Paper {i}" for i in range(6) if f"Paper {i}" != drawn.group)
    Path(data.held_out_path).write_text(json.dumps(held_out))
    with pytest.raises(ValueError, match=f"share the article '{shared}'"):
        asking.check_asking(data, AskingConfig(questions=12), 1)


# --- contexts that do not fit ---------------------------------------------------------------------------------------


def test_contexts_that_are_cut_are_counted_aloud_or_refused(capsys) -> None:
    lm = asking.open_model(AskingConfig(model="tiny"), "cpu")
    questions = asking.held_out_questions(QuestionData(), 6)
    room = sorted(len(prompt.ids) for prompt in asking.prompts_of(lm, questions, AskingConfig()))[3]
    assert capsys.readouterr().err == "", "all fit"
    narrow = {"max_tokens": room + 16, "new_tokens": 16}
    prompts = asking.prompts_of(lm, questions, AskingConfig(**narrow, on_long="cut"))
    cut = sum(prompt.dropped > 0 for prompt in prompts)
    assert 0 < cut < 4
    said = f"{cut} of 6 contexts do not fit with their question into {room} tokens"
    assert capsys.readouterr().err == f"{said} and are cut at their end, as asking.on_long=cut has it\n"
    with pytest.raises(
        ValueError, match=rf"{said}: that of question .* tokens too long; set asking.on_long=cut, raise "
    ):
        asking.prompts_of(lm, questions, AskingConfig(**narrow))
    endless = [questions[0]._replace(context="A red ball. " * 200)]
    with pytest.raises(ValueError, match=r"set asking.on_long=cut, take a model of a longer window, or leave it out"):
        asking.prompts_of(lm, endless, AskingConfig(max_tokens=4096))
