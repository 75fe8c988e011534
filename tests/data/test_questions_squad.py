"""SQuAD files: what is read, what is refused and where, the splits by article, and the door to the hub."""

import gzip
import json
import lzma
import os
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from inscape.data.questions import load_squad_subset, read_squad, squad_subset
from inscape.data.questions.splits import SPLITS, of_split, split_of_group


def qa(number, *answers, **fields):
    gold = [{"text": text, "answer_start": 0} for text in answers or ("red", "crimson")]
    return {"id": f"q{number}", "question": f"What colour is ball {number}?", "answers": gold, **fields}


def article(number, questions=2, paragraphs=2):
    first = 100 * number
    return {
        "title": f"Article {number}",
        "paragraphs": [
            {"context": f"Text {number}.{p}", "qas": [qa(first + 10 * p + q) for q in range(questions)]}
            for p in range(paragraphs)
        ],
    }


def write(path, document):
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    packed = {".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix, bytes)(data)
    path.write_bytes(packed)
    return path


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "squad.json", {"version": "1.1", "data": [article(n) for n in range(60)]})


# --- what is read -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.json", "x.json.gz", "x.json.xz"])
def test_a_file_is_read_packed_or_not(tmp_path, name):
    read = read_squad(write(tmp_path / name, {"data": [article(3)]}))
    assert read.impossible == 0
    assert [question.id for question in read.questions] == ["q300", "q301", "q310", "q311"]
    first = read.questions[0]
    assert (first.context, first.question, first.group) == ("Text 3.0", "What colour is ball 300?", "Article 3")


def test_all_gold_answers_are_kept(tmp_path):
    entry = qa(1, "34", "34", "thirty-four")
    path = write(tmp_path / "x.json", {"data": [{"paragraphs": [{"context": "c", "qas": [entry]}]}]})
    assert read_squad(path).questions[0].answers == ("34", "34", "thirty-four")


def test_impossible_questions_are_skipped_and_counted(tmp_path):
    entries = [qa(1), {**qa(2), "answers": [], "is_impossible": True}, qa(3, is_impossible=False)]
    path = write(tmp_path / "x.json", {"data": [{"paragraphs": [{"context": "c", "qas": entries}]}]})
    read = read_squad(path)
    assert ([question.id for question in read.questions], read.impossible) == (["q1", "q3"], 1)


def test_a_mark_of_byte_order_is_forgiven(tmp_path):
    path = write(tmp_path / "x.json", b"\xef\xbb\xbf" + json.dumps({"data": [article(1)]}).encode())
    assert len(read_squad(path).questions) == 4


# --- the rows of the source document ------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [False, True])
def test_squad_data_format(named, file):
    """The source document's own test; it names no file."""
    dataset = load_squad_subset("train", 10, path=file) if named else load_squad_subset("train", 10)
    assert len(dataset) == 10
    assert "source" in dataset[0]
    assert "answer" in dataset[0]
    assert "Context:" in dataset[0]["source"]
    assert "Question:" in dataset[0]["source"]


def test_rows_are_the_questions_as_text(file):
    questions = squad_subset(file, 5, seed=3)
    for row, question in zip(load_squad_subset("train", 5, seed=3, path=file), questions, strict=True):
        assert row["source"] == f"Context: {question.context}\nQuestion: {question.question}\n"
        assert (row["answer"], row["answers"], row["id"]) == ("red", ("red", "crimson"), question.id)


# --- subsets and splits -------------------------------------------------------------------------------------------


def test_a_subset_is_shuffled_by_the_seed_and_nested(file):
    def ids(n, seed):
        return [question.id for question in squad_subset(file, n, seed, "train")]

    assert ids(30, 0) == ids(30, 0) != ids(30, 1)
    assert ids(30, 0)[:10] == ids(10, 0)
    assert sorted(ids(None, 0)) == sorted(ids(None, 1))
    assert ids(None, 0) != sorted(ids(None, 0))


def test_no_article_is_in_two_splits(file):
    groups = {split: {question.group for question in squad_subset(file, None, split=split)} for split in SPLITS}
    assert sum(map(len, groups.values())) == len(set().union(*groups.values())) == 60
    assert all(groups.values())
    whole = squad_subset(file, None, split=None)
    assert len(whole) == sum(len(squad_subset(file, None, split=split)) for split in SPLITS) == 240


def test_articles_that_share_a_paragraph_are_one_group(tmp_path):
    articles = [article(n) for n in range(40)]
    for number in range(39):  # a chain: each article has a paragraph of the next
        copied = {"context": f"Text {number + 1}.0", "qas": [qa(f"copy{number}")]}
        articles[number]["paragraphs"].append(copied)
    questions = read_squad(write(tmp_path / "x.json", {"data": articles})).questions
    assert {question.group for question in questions} == {"Article 0"}


def test_articles_without_a_title_are_apart_and_stay_in_their_split(tmp_path):
    articles = [{key: part for key, part in article(n).items() if key != "title"} for n in range(50)]
    questions = read_squad(write(tmp_path / "x.json", {"data": articles})).questions
    assert len({question.group for question in questions}) == 50
    fewer = read_squad(write(tmp_path / "y.json", {"data": articles[::-1][:20]})).questions
    assert {question.group for question in fewer} < {question.group for question in questions}


def test_the_split_of_an_article_hangs_on_its_name_alone():
    splits = [split_of_group(f"Article {n}") for n in range(2000)]
    assert splits.count("validation") == pytest.approx(200, abs=45)
    assert splits.count("test") == pytest.approx(200, abs=45)
    pinned = {"Andes": "train", "Moss": "validation", "Article 1": "test"}
    assert {name: split_of_group(name) for name in pinned} == pinned, "other splits would void published figures"


# --- what is refused ----------------------------------------------------------------------------------------------


def with_qa(**fields):
    entry = {key: value for key, value in {**qa(1), **fields}.items() if value is not None}
    return {"data": [{"title": "t", "paragraphs": [{"context": "c", "qas": [entry]}]}]}


QA = r"x\.json: data\[0\]\.paragraphs\[0\]\.qas\[0\]"

MALFORMED = [
    (b"", r"is not JSON: line 1, column 1"),
    (b"{'data': 1}", r"is not JSON: line 1"),
    (b"\xff\xfe{", r"byte 1 is not UTF-8"),
    (b"[" * 100_000, r"nested without end"),
    (b"9" * 5000, r"is not JSON"),
    ([], r"x\.json is list, not an object; this is not the SQuAD format"),
    ({"version": "1.1"}, r'x\.json has no "data"; this is not the SQuAD format'),
    ({"data": {}}, r"x\.json\.data is dict, not a list"),
    ({"data": []}, r"holds no question that has an answer"),
    ({"data": ["x"]}, r"data\[0\] is str, not an object"),
    ({"data": [{"title": "t"}]}, r'data\[0\] has no "paragraphs"'),
    ({"data": [{"paragraphs": [{"qas": []}]}]}, r'data\[0\]\.paragraphs\[0\]: "context" is missing'),
    ({"data": [{"paragraphs": [{"context": " ", "qas": []}]}]}, r'paragraphs\[0\]: "context" is empty'),
    ({"data": [{"paragraphs": [{"context": "c"}]}]}, r'paragraphs\[0\] has no "qas"'),
    ({"data": [{"paragraphs": [{"context": "c", "qas": []}]}]}, r"holds no question that has an answer"),
    (with_qa(question=" "), QA + r': "question" is empty'),
    (with_qa(question=7), QA + r': "question" is int, not a text'),
    (with_qa(question="a\ud800"), QA + r': "question" holds half a surrogate pair'),
    (with_qa(id=None), QA + r': "id" is missing'),
    (with_qa(answers=None), QA + r' has no "answers"'),
    (with_qa(answers=[]), QA + r': "answers" is empty; give one, or mark the question "is_impossible"'),
    (with_qa(answers=["red"]), QA + r"\.answers\[0\] is str, not an object"),
    (with_qa(answers=[{"text": "red"}, {"text": ""}]), QA + r'\.answers\[1\]: "text" is empty'),
    (with_qa(answers=[{"answer_start": 3}]), QA + r'\.answers\[0\]: "text" is missing'),
    (with_qa(answers=[], is_impossible=True), r"holds no question that has an answer"),
    ({"data": [article(1), article(1)]}, r"the id 'q100' stands twice"),
]


@pytest.mark.parametrize(("document", "message"), MALFORMED)
def test_a_malformed_file_is_one_line_that_says_where(tmp_path, document, message):
    with pytest.raises(ValueError, match=message) as refusal:
        read_squad(write(tmp_path / "x.json", document))
    assert "\n" not in str(refusal.value)


def test_files_that_cannot_be_read_are_one_line(tmp_path):
    cases = [
        (tmp_path / "none.json", r"none\.json does not exist"),
        (tmp_path, r"is a folder"),
        (tmp_path / ("x" * 300), r"x cannot be read: File name too long; give another path$"),
        ("x" * 300, r"^x+ cannot be read: File name too long; give another path$"),
    ]
    for name, data in (("x.json.gz", b"no gzip"), ("x.json.xz", b"no xz"), ("cut.json.xz", lzma.compress(b"{}")[:-8])):
        (tmp_path / name).write_bytes(data)
        cases.append((tmp_path / name, r"is damaged or not a \.(gz|xz) file"))
    for path, message in cases:
        with pytest.raises(ValueError, match=message) as refusal:
            squad_subset(path, 1)
        assert "\n" not in str(refusal.value)


def test_wishes_that_cannot_be_met_are_one_line(file):
    with pytest.raises(
        ValueError, match=r"^999 questions wanted of (?!split)\S*squad\.json, which holds 240; give 1 to 240$"
    ):
        squad_subset(file, 999, split=None)
    with pytest.raises(ValueError, match=r"^0 questions wanted"):
        squad_subset(file, 0)
    one = write(file.parent / "one.json", {"data": [article(0)]})
    with pytest.raises(ValueError, match=r"^split 'test' of .*one\.json holds no question: too few articles to split"):
        squad_subset(one, None, split="test")
    with pytest.raises(ValueError, match=r"split is 'dev'; allowed: train, validation, test, or None"):
        squad_subset(file, 1, split="dev")
    assert of_split([], "test") == []


# --- the hub ------------------------------------------------------------------------------------------------------

HUB_ROW = {"id": "1", "title": "Rome", "context": "c", "question": "q?", "answers": {"text": ["x", "y"]}}


def plant_hub(monkeypatch, load):
    module = ModuleType("datasets")
    module.load_dataset = load  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_without_the_package_the_hub_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    for name in ("squad", "rajpurkar/squad"):
        with pytest.raises(
            ValueError, match=r"needs the package datasets: pip install datasets, or give the path"
        ) as no:
            squad_subset(name, 10)
        assert "\n" not in str(no.value)


def test_the_hub_gives_its_own_splits_and_all_answers(monkeypatch):
    asked = []

    def load(name, split):
        asked.append((name, split))
        return [HUB_ROW, {**HUB_ROW, "id": "2", "answers": {"text": []}}]

    plant_hub(monkeypatch, load)
    (question,) = squad_subset("squad", None, split="validation")
    assert asked == [("squad", "validation")]
    assert (question.answers, question.group) == (("x", "y"), "Rome")
    with pytest.raises(ValueError, match=r"splits are read one by one"):
        squad_subset("squad", 1, split=None)


def test_what_the_hub_holds_out_is_its_test_split_or_without_one_its_validation_split(monkeypatch):
    def load(there):
        def rows(name, split):
            if split not in there:
                raise ValueError(f'Unknown split "{split}". Should be one of {there}.')
            return [{**HUB_ROW, "id": split}]

        return rows

    for there, found in ((["train", "validation"], "validation"), (["train", "validation", "test"], "test")):
        plant_hub(monkeypatch, load(there))
        assert squad_subset("squad", 1, split="test")[0].id == found
    plant_hub(monkeypatch, load(["train"]))
    with pytest.raises(ValueError, match=r"^split 'test' of 'squad' cannot be read .*Unknown split"):
        squad_subset("squad", 1, split="test")
    with pytest.raises(ValueError, match=r"^split 'validation' of 'squad' cannot be read"):
        squad_subset("squad", 1, split="validation")


@pytest.mark.parametrize("name", ["new_wiki_v1.0.json.xz", "data/new_wiki.json"])
def test_what_is_only_to_be_asked_about_gives_no_training_split(name, tmp_path):
    with pytest.raises(ValueError, match=r"new_wiki.* is held-out data, .*data\.held_out_path[^\n]*$"):
        squad_subset(name, 1, split="train")
    (tmp_path / "data").mkdir()
    file = write(tmp_path / name, {"data": [article(n) for n in range(3)]})
    assert len(squad_subset(file, None, split=None)) == 12


def test_a_hub_out_of_reach_or_another_set_is_one_line(monkeypatch):
    def fail(name, split):
        raise ConnectionError("no route\nto host")

    plant_hub(monkeypatch, fail)
    with pytest.raises(
        ValueError, match=r"^split 'train' of 'squad' cannot be read .*\(no route\); give the path[^\n]*$"
    ):
        squad_subset("squad", 1)
    for row, message in (
        ({"text": "imdb"}, r"squad\[train\]\[0\]\.answers is NoneType, not an object"),
        ({**HUB_ROW, "answers": {"text": "x"}}, r"answers\.text is str, not a list"),
        ({**HUB_ROW, "question": ""}, r'squad\[train\]\[0\]: "question" is empty'),
    ):
        plant_hub(monkeypatch, lambda name, split, row=row: [row])
        with pytest.raises(ValueError, match=message):
            squad_subset("squad", 1)


# --- real data ----------------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_a_real_file_is_read_whole_and_split_by_article():
    folder = Path(os.environ.get("INSCAPE_DATA", "")) / "squad_shifts"
    if "INSCAPE_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("set INSCAPE_DATA to a folder that holds squad_shifts/nyt_v1.0.json.xz")
    start = time.process_time()
    read = read_squad(folder / "nyt_v1.0.json.xz")
    assert time.process_time() - start < 10
    assert (len(read.questions), read.impossible) == (10_056, 0)
    assert len({question.context for question in read.questions}) == 2017
    assert len({question.group for question in read.questions}) == 797
    answers = [len(question.answers) for question in read.questions]
    assert (min(answers), max(answers), answers.count(3)) == (1, 7, 8873)
    # Every gold answer is a span of its context: nothing was cut or mixed up on the way.
    assert all(answer in question.context for question in read.questions for answer in question.answers)
    groups = {split: {question.group for question in of_split(read.questions, split)} for split in SPLITS}
    assert sum(map(len, groups.values())) == 797
    assert 60 < len(groups["test"]) < 100
