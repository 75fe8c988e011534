"""Both corpora give pure batches, held-out sentences that are held out, and one tokenizer for good."""

import numpy as np
import pytest

from inscape.data.scenes import parse, split_of
from inscape.studies.visual import corpus
from inscape.studies.visual.sources import DataConfig, open_source


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    words = ["dog", "cat", "bird", "runs", "sleeps", "sings", "quietly", "loudly", "here", "there"]
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(" ".join(rng.choice(words, 6)) for _ in range(500)))
    return path


@pytest.fixture(params=["grammar", "text"])
def source(request, text_file):
    return open_source(DataConfig(text=str(text_file) if request.param == "text" else "", vocab=600))


def test_batches_are_pure_and_ranks_share_the_global_batch(source):
    whole = source.batch_at(3, 5, 0, 1, 8)
    np.testing.assert_array_equal(whole, source.batch_at(3, 5, 0, 1, 8))
    parts = [source.tokenizer.decode(source.batch_at(3, 5, rank, 2, 8)) for rank in (0, 1)]
    assert parts[0] + parts[1] == source.tokenizer.decode(whole)
    assert source.tokenizer.decode(source.batch_at(4, 5, 0, 1, 8)) != source.tokenizer.decode(whole)


def test_held_out_sentences_are_the_same_every_time_and_in_no_batch(source):
    held_out = source.held_out(50)
    assert held_out == source.held_out(50)
    trained = {text for step in range(40) for text in source.tokenizer.decode(source.batch_at(0, step, 0, 1, 32))}
    assert len(trained) > 300
    assert not trained & set(held_out)


def test_sixteen_sentences_for_the_montage(source):
    assert len(source.montage) == 16
    assert source.tokenizer.decode(source.tokenizer.encode(list(source.montage))) == list(source.montage)


@pytest.mark.parametrize("facts", [1, 2, 3])
def test_the_grammar_keeps_to_the_number_of_facts(facts):
    source = open_source(DataConfig(facts=facts))
    for text in source.tokenizer.decode(source.batch_at(0, 0, 0, 1, 32)):
        assert len(parse(text).facts) == facts
        assert split_of(parse(text)) == "train"
    assert {len(parse(text).facts) for text in source.held_out(20)} == {facts}
    assert {split_of(parse(text)) for text in source.held_out(20)} == {"test"}


def test_reports_name_the_data_by_hash(source):
    report = source.report()
    assert len(report["tokenizer"]) == 64
    assert report["corpus"] in ("scene grammar", "text file")


@pytest.mark.parametrize(
    ("field", "value"), [("facts", 4), ("facts", -1), ("vocab", 10), ("vocab", 10**6), ("max_length", 4)]
)
def test_values_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=rf"data\.{field}={value} is out of range; allowed"):
        DataConfig(**{field: value})


@pytest.mark.parametrize(
    ("field", "most", "value"), [("fields", 100_000, 10**9), ("draws", 10_000_000, 10**12), ("draws", 10_000_000, 99)]
)
def test_checks_that_no_memory_holds_are_refused(field, most, value):
    assert getattr(corpus.Config(**{field: most}), field) == most
    with pytest.raises(ValueError, match=rf"^{field}={value} is out of range; allowed: 100 or more, at most {most}$"):
        corpus.Config(**{field: value})


def test_a_vocabulary_that_splits_the_grammars_words_is_refused():
    with pytest.raises(ValueError, match=r"data\.vocab=300 splits the grammar's words"):
        open_source(DataConfig(vocab=300))
