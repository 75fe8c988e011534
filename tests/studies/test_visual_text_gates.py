"""The gates of P0, P2, P3 and P4 on a user's own text, in worlds where the answer is known.

Samples are small, so estimates are judged by their value, and what makes V a picture is P1's to judge: as in the tests
of the grammar's gates.
"""

from itertools import islice, product
from pathlib import Path

import numpy as np
import pytest
import torch
from planted_codec import MARKS, PlantedModel, planted, signs

from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Gate, Outcome
from inscape.nn.latent_codec import Generated
from inscape.studies.visual import corpus, decoder, jitter, meaning, text_checks
from inscape.studies.visual.codec_training import Training, train_codec
from inscape.studies.visual.decoding_metrics import content_mask_of_text
from inscape.studies.visual.model import TrainedCodec, encode
from inscape.studies.visual.sources import DataConfig, TextSource, check_data, open_source
from inscape.studies.visual.text_meaning import text_meaning, text_pools


def words_of(line: str) -> tuple[str, ...]:
    return tuple(line.split())


WHO = words_of("ann bob cat dan eve fay gus hal ida joe kim lea max ned oda pat ray sue tom una")
DOES = words_of("calls finds helps hears likes meets sees")
WHAT = words_of("bird cart dog fish goat hare lamb mule ox pig")
HOW = words_of("big black blue green grey pink red small white young")
WHERE = ("at home", "at night", "in spring", "in town", "near una", "on monday", "on trains", "up north")
CONTENT = frozenset((*WHO, *DOES, *WHAT, *HOW, *" ".join(WHERE).split()))


def groups(count: int) -> list[tuple[str, str]]:
    """Two wordings each of `count` different things, in no order."""
    things = list(product(WHO, DOES, HOW, WHAT, WHERE))
    chosen = np.random.default_rng(0).permutation(len(things))
    for who, does, how, what, where in islice((things[i] for i in chosen), count):
        yield f"{who} {does} a {how} {what} {where}.", f"{where}, it is a {how} {what} that {who} {does}"


def source_of(folder: Path, lines: list[str], grouped: bool = True) -> TextSource:
    file = folder / ("own.tsv" if grouped else "own.txt")
    file.write_text("\n".join(lines) + "\n")
    found = open_source(DataConfig(text=str(file), vocab=480))
    assert isinstance(found, TextSource)
    FILES[found.corpus.source.sha256] = file
    return found


FILES: dict[str, Path] = {}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> TextSource:
    return source_of(tmp_path_factory.mktemp("pairs"), ["\t".join(pair) for pair in groups(8600)])


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> TextSource:
    return source_of(tmp_path_factory.mktemp("single"), [first for first, _ in groups(8600)], grouped=False)


def missed(gate: Gate, metrics: dict[str, Estimate]) -> set[str]:
    """The metrics of the criteria that are not passed on the values alone, of those that were measured."""
    asked = Gate(c for c in gate.criteria if c.metric in metrics)
    assert asked.criteria
    verdict = asked.judge({name: exact(e.value, e.n, e.unit) for name, e in metrics.items()})
    return {f.criterion.metric for f in verdict.findings if f.outcome is not Outcome.PASS}


# --- P0 -------------------------------------------------------------------------------------------------------------


def p0(source: TextSource) -> set[str]:
    metrics = text_checks.text_checks(source, FILES[source.corpus.source.sha256])
    assert set(metrics) == {c.metric for c in text_checks.CRITERIA} | {"held_out_units"}
    return missed(corpus.TEXT_GATE, metrics)


def test_p0_passes_a_good_file(tmp_path):
    lines = ["\t".join(pair) for pair in groups(8600)]
    assert p0(source_of(tmp_path, lines)) == set()
    assert p0(source_of(tmp_path, [line.split("\t")[0] for line in lines], grouped=False)) == set()


def test_p0_asks_nothing_of_the_grammar():
    asked = {c.metric for c in corpus.TEXT_GATE.criteria}
    assert not asked & {"parse_errors", "augmentation_errors", "counterfactual_errors", "distinct_sentences"}
    assert corpus.PHASE.gate_of(corpus.Config(data=DataConfig(text="own.txt"))) is corpus.TEXT_GATE
    assert corpus.PHASE.gate_of(corpus.Config()) is corpus.GATE


def test_p0_finds_splits_that_tear_groups_and_spellings_apart(tmp_path, monkeypatch):
    lines = ["\t".join((*pair, pair[0].rstrip("."))) for pair in groups(900)]
    source = source_of(tmp_path, lines)
    assert not {"split_leaks", "group_leaks"} & p0(source)
    torn_S = np.random.default_rng(0).integers(0, 3, len(source.corpus)).astype(np.int8)
    monkeypatch.setattr(source.corpus, "split_S", torn_S)
    assert {"split_leaks", "group_leaks"} <= p0(source)


def test_p0_finds_a_training_that_draws_what_is_held_out(single, monkeypatch):
    rows = dict(zip(("train", "validation", "test"), single.tokens._rows, strict=True))
    monkeypatch.setattr(single.tokens, "_rows", [np.concatenate(list(rows.values())), *list(rows.values())[1:]])
    assert "split_leaks" in p0(single)


def test_p0_finds_near_copies(tmp_path):
    """Sentences of twelve words of which only the last differs."""
    lines = [
        f"{first} and this is what {i // 4} people saw in row {i % 4}" for i, (first, _) in enumerate(groups(2000))
    ]
    assert "near_copies" not in p0(source_of(tmp_path, lines, grouped=False))
    long = [f"{first} and {second} as the people of that place say to this day of {n}" for first, second in groups(500)
            for n in ("them", "him", "her", "us")]  # fmt: skip
    assert "near_copies" in p0(source_of(tmp_path, long, grouped=False))


def test_p0_lets_a_small_file_train_and_finds_one_that_is_too_long(tmp_path):
    few = [first for first, _ in groups(1200)]
    assert p0(source_of(tmp_path, few, grouped=False)) == set()
    long = [" ".join(["many words"] * 40 + [first]) if i % 4 == 0 else first for i, first in enumerate(few)]
    assert "too_long_share" in p0(source_of(tmp_path, long, grouped=False))


def test_p0_finds_a_file_of_which_much_is_held_out(pairs, monkeypatch):
    """As where groups that hang together fall to a held-out split."""
    train, validation, test = pairs.tokens._rows
    monkeypatch.setattr(pairs.tokens, "_rows", [train[: len(train) // 3], np.append(validation, train[:9000]), test])
    assert "train_share" in p0(pairs)


# --- P2 and P4 ------------------------------------------------------------------------------------------------------


class Words(PlantedModel):
    """V holds the sentence, and z which content words it has, which are the same for all of a group."""

    def mark(self, text: str) -> np.ndarray:
        return signs(" ".join(sorted(set(text.lower().rstrip(".").replace(",", "").split()) & CONTENT)))


class Constant(Words):
    def embed(self, latent_BCHW, states_BPD=None):
        return torch.full((len(latent_BCHW), MARKS), MARKS**-0.5)


class Untrained(Words):
    """A decoder that was never trained."""

    def generate(self, memory_BMD, bias_BM, start, *, generator, **_):
        said = super().generate(memory_BMD, bias_BM, start, generator=generator)
        drawn_BT = torch.randint(7, self.tokenizer.vocab_size, said.tokens_BT.shape, generator=generator)
        return Generated(drawn_BT, said.attention_BTM)


class OneSentence(Words):
    """A decoder that says one good sentence, whatever V is."""

    def generate(self, memory_BMD, bias_BM, start, *, generator, **_):
        said = super().generate(memory_BMD, bias_BM, start, generator=generator)
        return Generated(said.tokens_BT[:1].expand_as(said.tokens_BT), said.attention_BTM)


class Ordered(Words):
    """z is the sentence in its order."""

    def mark(self, text: str) -> np.ndarray:
        return signs(text)


def codec_of(kind: type[PlantedModel], source: TextSource) -> TrainedCodec:
    return planted(kind, source.tokenizer)


def p2(kind: type[PlantedModel], source: TextSource) -> set[str]:
    gate = meaning.TEXT_GATE if source.has_groups else meaning.PLAIN_TEXT_GATE
    return missed(gate, text_meaning(codec_of(kind, source), source, 200))


@pytest.mark.parametrize("grouped", [True, False])
def test_p2_passes_the_planted_world(pairs, single, grouped):
    assert p2(Words, pairs if grouped else single) == set()


def test_p2_fails_for_a_constant_z(pairs):
    assert p2(Constant, pairs) == {"cosine_gap", "recall_at_1"}


@pytest.mark.parametrize("kind", [Untrained, OneSentence])
@pytest.mark.parametrize("grouped", [True, False])
def test_p2_fails_for_a_decoder_that_does_not_read(pairs, single, kind, grouped):
    assert p2(kind, pairs if grouped else single) == {"sentence_exact"}


def test_a_bag_of_words_cannot_tell_a_swap(single):
    bag = text_meaning(codec_of(Words, single), single, 200)
    ordered = text_meaning(codec_of(Ordered, single), single, 200)
    assert bag["told_from_swap"].value == 0
    assert ordered["told_from_swap"].value == 1
    assert bag["told_from_replace"].value > 0.9


def test_retrieval_is_asked_in_as_many_pools_as_there_are(pairs):
    codec = codec_of(Words, pairs)
    held_out = len(pairs.held_out_pairs(10_000))
    assert [len(pool.pool_MZ) for pool in text_pools(codec, pairs)] == [min(held_out, 500)]
    asked = pairs.held_out_pairs(10_000) * 3

    class Many(TextSource):
        def held_out_pairs(self, count):
            return asked[:count]

    many = Many(pairs.corpus, pairs.tokens, pairs.tokenizer, pairs.montage)
    assert [len(pool.pool_MZ) for pool in text_pools(codec, many)] == [500] * (len(asked) // 500)


def p4(kind: type[PlantedModel], source: TextSource) -> set[str]:
    return missed(decoder.TEXT_GATE, decoder.measure_text(codec_of(kind, source), source.held_out(60)))


def test_p4_passes_the_planted_world(single):
    assert p4(Words, single) == set()


@pytest.mark.parametrize("kind", [Untrained, OneSentence])
def test_p4_fails_for_a_decoder_that_does_not_read(single, kind):
    assert p4(kind, single) >= {"sentence_exact", "token_accuracy"}


def test_p3_is_asked_of_text_as_of_the_grammar(pairs):
    codec = codec_of(Words, pairs)
    latent_NCHW = encode(codec.to_latent, pairs.held_out(60))
    metrics = jitter.measure_jitter(codec, latent_NCHW, {1: text_pools(codec, pairs)}, {}, decide=1, seed=0)
    assert missed(jitter.TEXT_GATE, metrics) == set()
    constant = jitter.measure_jitter(codec_of(Constant, pairs), latent_NCHW, {}, {}, decide=1, seed=0)
    assert missed(jitter.PLAIN_TEXT_GATE, constant) == {"cosine_of_strangers"}


# --- what is content, what lies elsewhere, what cannot be gone on with ------------------------------------------------


def test_content_words_of_english_are_whole_words_whatever_their_case(single):
    codec = codec_of(Words, single)
    tokens_NT = codec.tokenizer.encode(["The dog sees a xylophone .", "A pig is in town"], max_length=40)
    content_NT = content_mask_of_text(codec, tokens_NT)
    said = [
        codec.tokenizer.decode(np.where(kept, row, 0)[None])[0].split()
        for kept, row in zip(content_NT, tokens_NT, strict=True)
    ]
    assert said == [["dog", "sees", "xylophone"], ["pig", "town"]]


def test_texts_from_elsewhere_are_new_different_and_as_they_come_back(single, tmp_path):
    known = single.corpus[0]
    file = tmp_path / "news.2019.txt"
    file.write_text("\n".join([known.upper() + "!", "a  pig \t x", "a pig", "ann likes\u00a0dogs", "z" * 900]))
    assert decoder.fitting(codec_of(Words, single), file, 9, single.corpus) == ["a pig", "ann likes dogs"]
    assert decoder.fitting(codec_of(Words, single), file, 1) == [known.upper() + "!"]
    assert decoder.text_name(file) == "other_news_2019"
    assert decoder.text_name(tmp_path / "a b.tsv.gz") == "other_a_b"
    file.write_text(known)
    with pytest.raises(ValueError, match=r"news\.2019\.txt has no line of up to 40 tokens that the codec was"):
        decoder.fitting(codec_of(Words, single), file, 9, single.corpus)


TABLES = [
    ("val.csv", "id,caption\n7,a pig\n", r"val\.csv is a table; write its column of sentences into a \.txt file"),
    ("news.json", '{"data": []}', r"news\.json is JSON; write its sentences into a \.txt file, one a line"),
    ("tabs.txt", "7\ta pig\n8\ta dog\n", r"tabs\.txt: 2 of 2 lines hold tabs; if their columns are paraphrases"),
    ("ids.tsv", "7\ta pig\n8\ta dog\n", r"ids\.tsv: 2 of 2 sentences have no letter, the first '7' in line 1"),
]


@pytest.mark.parametrize(("name", "content", "said"), TABLES, ids=[name for name, *_ in TABLES])
def test_a_table_that_holds_no_sentences_is_not_measured(single, tmp_path, name, content, said):
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(ValueError, match=said):
        decoder.fitting(codec_of(Words, single), file, 9, single.corpus)
    with pytest.raises(ValueError, match=said):
        decoder.check(decoder.Config(others=str(file)))


def test_of_groups_the_first_sentences_are_measured(single, tmp_path):
    file = tmp_path / "pairs.tsv"
    file.write_text("a pig\tthe pig\n\nann likes dogs\tdogs are liked by ann\n")
    assert decoder.fitting(codec_of(Words, single), file, 9) == ["a pig", "ann likes dogs"]
    decoder.check(decoder.Config(others=str(file)))


def test_two_texts_of_one_name_are_refused(single, tmp_path):
    for name in ("a b.txt", "a_b.txt"):
        (tmp_path / name).write_text("a pig\n")
    others = f"{tmp_path / 'a b.txt'},{tmp_path / 'a_b.txt'}"
    with pytest.raises(ValueError, match=r"a b\.txt and .*a_b\.txt would both be called other_a_b; rename one of them"):
        decoder.check(decoder.Config(others=others))


def test_a_codec_of_other_tokens_is_not_trained_on(pairs, single):
    with pytest.raises(ValueError, match=r"cut into other tokens than those .* run the phases from P1 on again"):
        train_codec(None, codec_of(Words, single), pairs, Training())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (
            [first for first, _ in groups(300)],
            r"too few sentences to judge by: \d+ of 300 are held out, and 40",
        ),
        ([f"word{i}" for i in range(2000)], "no word stands in a tenth to a half of its sentences"),
    ],
)
def test_what_would_be_found_out_after_training_is_said_before(tmp_path, lines, why):
    (tmp_path / "own.txt").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=why):
        check_data(DataConfig(text=str(tmp_path / "own.txt")))


def test_a_file_too_small_for_a_verdict_is_said_once(tmp_path, capsys):
    (tmp_path / "own.txt").write_text("\n".join(first for first, _ in groups(1200)))
    for _ in range(3):
        check_data(DataConfig(text=str(tmp_path / "own.txt")))
    said = capsys.readouterr().err
    assert said.count("sentences are held out; below 381 no gate of P4 can pass") == 1
