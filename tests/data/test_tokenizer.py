"""The tokenizer gives back exactly what it was given, treats words one by one, and keeps its special ids to itself."""

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inscape.data import tokenizer as module
from inscape.data.tokenizer import BOS, EOS, PAD, SPECIALS, UNK, Tokenizer, bucket_width, normalise, pad_rows

COLOURS, SHAPES = ("red", "blue", "green", "grey"), ("block", "ball", "cone", "pyramid")
TEXTS = [f"a {a} {s} is left of the {b} {t}" for a in COLOURS for b in COLOURS for s in SHAPES for t in SHAPES]
KINDS = ("bpe", "word")


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request):
    return Tokenizer.train(TEXTS, 600, request.param)


@pytest.fixture(scope="module")
def bpe():
    return Tokenizer.train(TEXTS, 400)


def test_a_sentence_is_bos_words_eos_padded_with_zero(tokenizer):
    tokens_BT = tokenizer.encode(["a red ball", "a red ball is left of the blue cone"])
    assert tokens_BT.dtype == np.int64
    assert tokens_BT.shape == (2, 11)
    assert tokens_BT[:, 0].tolist() == [BOS, BOS]
    assert tokens_BT[0, 4:].tolist() == [EOS] + 6 * [PAD]
    assert tokens_BT[1, -1] == EOS
    assert (tokens_BT[1, 1:-1] >= len(SPECIALS)).all()


def test_special_ids_are_fixed():
    assert dict(zip(SPECIALS, range(7), strict=True)) == {
        "<pad>": module.PAD,
        "<bos>": module.BOS,
        "<eos>": module.EOS,
        "<unk>": module.UNK,
        "<copy>": module.COPY,
        "<canonical>": module.CANONICAL,
        "<paraphrase>": module.PARAPHRASE,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_special_names_in_text_stay_text(kind):
    spelt = [" ".join(SPECIALS), "".join(SPECIALS), *(f"x{name}y {name}." for name in SPECIALS)]
    trained_on_them = Tokenizer.train(spelt * 50, 1000, kind)
    for tokenizer in (trained_on_them, Tokenizer.train(TEXTS, 600)):
        tokens_BT = tokenizer.encode(spelt, max_length=200)
        special = (tokens_BT > EOS) & (tokens_BT < len(SPECIALS))
        assert not special.any()
        assert ((tokens_BT == BOS).sum(1) == 1).all()
        assert tokenizer.decode(tokens_BT) == spelt
    assert not (Tokenizer.train(TEXTS, 600, "word").encode(["<pad>"])[0, 1:-1] != UNK).any()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(min_size=1).filter(lambda text: text.strip()), min_size=1, max_size=4))
def test_any_unicode_comes_back_exactly(bpe, texts):
    tokens_BT = bpe.encode(texts, max_length=10_000)
    assert not (tokens_BT == UNK).any()
    assert bpe.decode(tokens_BT) == [normalise(text) for text in texts]


def test_hand_picked_unicode_comes_back(bpe):
    text = "naïve Straße 😀👩‍👩‍👧 日本語 it's 3.14 -- (a)_b ▁ Ġ \u200b ́ end"
    assert bpe.decode(bpe.encode([text], max_length=500)) == [normalise(text)]


def test_normalisation_is_nfc_and_single_spaces(bpe):
    assert normalise("  cafe\u0301 \t a\u00a0\n b ") == "caf\u00e9 a b"
    assert normalise(normalise("a\u2000\u0308 b")) == normalise("a\u2000\u0308 b")
    assert np.array_equal(bpe.encode(["cafe\u0301  a"]), bpe.encode(["caf\u00e9 a"]))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(min_size=1).map(normalise).filter(lambda w: w and " " not in w), min_size=1, max_size=6))
def test_words_encode_independently_of_their_neighbours(bpe, words):
    table = bpe.word_ids(words)
    row = [BOS, *(token for word in words for token in table[word]), EOS]
    assert bpe.encode([" ".join(words)], max_length=10_000)[0].tolist() == row


def test_word_ids_table_rebuilds_every_sentence(tokenizer):
    table = tokenizer.word_ids({word for text in TEXTS for word in text.split()})
    ragged = tokenizer.encode_ragged(TEXTS)
    rows = [[BOS, *(token for word in text.split() for token in table[word]), EOS] for text in TEXTS]
    assert ragged.ids.tolist() == [token for row in rows for token in row]
    assert np.diff(ragged.offsets).tolist() == [len(row) for row in rows]


def test_word_ids_refuses_what_is_not_a_word(tokenizer):
    for word in ("", "a b", " a"):
        with pytest.raises(ValueError, match="not one word"):
            tokenizer.word_ids([word])


def test_unknown_words_are_named_by_word_and_never_by_bpe(bpe):
    word = Tokenizer.train(TEXTS, 600, "word")
    assert word.unknown_words("a  zebra is left of the zebra, red okapi") == ["zebra", "zebra,", "okapi"]
    assert word.decode(word.encode(["a red zebra is"])) == ["a red <unk> is"]
    assert bpe.unknown_words("a zebra") == []


def test_a_closed_vocabulary_is_smaller_than_asked_and_one_id_a_word(tokenizer):
    words = {word for text in TEXTS for word in text.split()}
    assert {len(ids) for ids in tokenizer.word_ids(words).values()} == {1}
    assert tokenizer.vocab_size < 600
    if tokenizer.kind == "word":
        assert tokenizer.vocab_size == len(SPECIALS) + len(words)


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_deterministic(kind):
    texts = ["".join(random.Random(place).choices("abcdefghij klmnop qrst", k=40)) + " x" for place in range(200)]
    first = Tokenizer.train(texts, 500, kind)
    assert all(Tokenizer.train(iter(texts), 500, kind).to_json() == first.to_json() for _ in range(3))
    assert Tokenizer.train(texts[::-1], 500, kind).to_json() == first.to_json()  # ties do not go by order
    assert Tokenizer.train(texts[:100], 500, kind).fingerprint != first.fingerprint


def test_word_vocabulary_keeps_the_most_frequent():
    tokenizer = Tokenizer.train(["b b b a a c c d"], len(SPECIALS) + 3, "word")
    assert tokenizer.word_ids("abc"[i] for i in range(3)) == {"b": [7], "a": [8], "c": [9]}
    assert tokenizer.unknown_words("d a") == ["d"]


def test_saved_and_carried_as_json_it_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "new" / "tokenizer.json")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["tokenizer.json"]
    for copy in (Tokenizer.load(tmp_path / "new" / "tokenizer.json"), Tokenizer.from_json(tokenizer.to_json())):
        assert copy.fingerprint == tokenizer.fingerprint
        assert (copy.kind, copy.vocab_size) == (tokenizer.kind, tokenizer.vocab_size)
        assert np.array_equal(copy.encode(TEXTS), tokenizer.encode(TEXTS))


def test_bucket_and_truncate():
    assert [bucket_width(length) for length in (1, 16, 17, 25, 33, 64)] == [16, 16, 24, 32, 48, 64]
    assert bucket_width(25, limit=28) == 28
    assert bucket_width(90, limit=100) == 100
    tokenizer = Tokenizer.train(["a b c"], 64, "word")
    assert tokenizer.encode(["a b"], bucket=True).shape == (1, 16)
    assert tokenizer.encode(["a " * 15, "a"], bucket=True).shape == (2, 24)
    cut = tokenizer.encode(["a b c a b c", "a"], max_length=5, on_long="truncate", bucket=True)
    assert tokenizer.decode(cut) == ["a b c", "a"]
    assert cut[0].tolist()[-1] == EOS


def test_pad_rows_picks_and_pads():
    ragged = module.Ragged(np.arange(1, 7, dtype=np.int32), np.array([0, 1, 4, 6]))
    assert pad_rows(ragged, [2, 1, 2]).tolist() == [[5, 6, 0], [2, 3, 4], [5, 6, 0]]
    assert pad_rows(ragged, [0], width=4).tolist() == [[1, 0, 0, 0]]


def test_decode_takes_what_a_model_may_sample(bpe):
    rows = [[BOS, module.COPY, 200, 201, EOS, 9, UNK, 9], [UNK, module.PARAPHRASE, 0, 0, 0, 0, 0, 0]]
    texts = bpe.decode(rows)
    assert len(texts) == 2
    assert texts[1] == "<unk>"
    assert "\ufffd" in bpe.decode([[bpe.word_ids(["é"])["é"][-1]]])[0]


def test_over_long_sentence_is_named_with_length_limit_and_way_on(tokenizer):
    with pytest.raises(ValueError, match=r"'a a a.*…' has 102 tokens .* limit is 64.*truncate"):
        tokenizer.encode(["a", "a " * 100])
    assert tokenizer.encode(["a " * 62]).shape == (1, 64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.encode(["a", " \t"]), "text 2 is empty"),
        (lambda t: t.encode([]), "empty"),
        (lambda t: t.encode("a red ball"), "in a list"),
        (lambda t: t.encode(["a \ud800"]), "surrogate at character 3"),
        (lambda t: t.encode(["a"], max_length=2), "max_length 2"),
        (lambda t: t.encode(["a"], on_long="drop"), "on_long 'drop'"),
        (lambda t: t.decode([1, 2]), "of shape"),
        (lambda t: t.decode([[1.0]]), "float"),
        (lambda t: t.decode([[1, t.vocab_size]]), "allowed: 0 to"),
        (lambda t: t.decode([[-1]]), "ids -1"),
    ],
)
def test_bad_input_is_refused(tokenizer, call, message):
    with pytest.raises(ValueError, match=message):
        call(tokenizer)


@pytest.mark.parametrize(
    ("texts", "size", "kind", "message"),
    [
        (TEXTS, 262, "bpe", "262 for bpe; allowed: 263 to 32768"),
        (TEXTS, 32_769, "bpe", "allowed: 263 to 32768"),
        (TEXTS, 7, "word", "allowed: 8"),
        (TEXTS, True, "word", "allowed: 8"),
        (TEXTS, 500, "char", "kind 'char'"),
        ([], 500, "bpe", "no text"),
        ([" ", ""], 500, "word", "no text"),
        ("a red ball", 500, "word", "in a list"),
    ],
)
def test_bad_training_is_refused(texts, size, kind, message):
    with pytest.raises(ValueError, match=message):
        Tokenizer.train(texts, size, kind)


def _without_special(definition):
    state = json.loads(definition)
    state["model"]["vocab"] = {name: place for name, place in state["model"]["vocab"].items() if place}
    return json.dumps(state)


def _with_added_token(definition):
    state = json.loads(definition)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    state["added_tokens"] = [{"id": 4, "content": " <copy>", "special": True, **flags}]
    return json.dumps(state)


def _foreign(definition):
    state = json.loads(definition)
    state["normalizer"] = {"type": "Lowercase"}
    return json.dumps(state)


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: "",
        lambda d: d[: len(d) // 2],
        lambda d: '{"a": 1}',
        lambda d: d.replace('" <copy>"', '"<copy>"'),
        _with_added_token,
        _foreign,
        _without_special,
    ],
)  # fmt: skip
def test_damaged_and_foreign_files_are_refused(tokenizer, tmp_path, damage):
    path = tmp_path / "tokenizer.json"
    path.write_text(damage(tokenizer.to_json()), "utf-8")
    with pytest.raises(
        ValueError, match=r"tokenizer .*tokenizer.json cannot be used: (damaged|a tokenizer of)"
    ) as error:
        Tokenizer.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("kind", "field", "value"), [("bpe", "dropout", 0.5), ("word", "unk_token", "a")])
def test_a_model_that_would_encode_otherwise_is_foreign(kind, field, value):
    state = json.loads(Tokenizer.train(TEXTS, 400, kind).to_json())
    state["model"][field] = value
    with pytest.raises(ValueError, match="of another kind"):
        Tokenizer.from_json(json.dumps(state))


def test_an_empty_text_is_counted_from_the_start_of_the_list(bpe, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 2)
    assert len(bpe.encode_ragged(["a"] * 5).offsets) == 6
    with pytest.raises(ValueError, match="text 4 is empty"):
        bpe.encode_ragged(["a", "a", "a", ""])


def test_a_gap_in_the_ids_is_damage(tmp_path):
    definition = Tokenizer.train(["a b c"], 64, "word").to_json()
    with pytest.raises(ValueError, match="its 10 ids are not 0 to 9"):
        Tokenizer.from_json(definition.replace('"Ġc":9', '"Ġc":90'))


def test_missing_folder_and_binary_files_are_refused(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path, message in ((tmp_path / "none", "No such file"), (tmp_path, "directory"), (tmp_path / "binary", "UTF-8")):
        with pytest.raises(ValueError, match=message):
            Tokenizer.load(path)


def test_every_word_has_one_id_that_starts_it(tokenizer):
    starts = tokenizer.starts_word()
    assert starts.shape == (tokenizer.vocab_size,)
    assert not starts[: len(SPECIALS)].any()
    for text in ("a red ball", "ball-block, red. 4cone's", "Ġa ĠĠ"):
        for ids in tokenizer.word_ids(text.split()).values():
            assert not starts[ids[1:]].any()
            assert starts[ids[0]] or ids[0] == UNK
            assert tokenizer.kind == "word" or starts[ids[0]]
