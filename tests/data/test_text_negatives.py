"""Exchanged words are the same words, a replaced word is one word, and where nothing can change nothing does."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inscape.data.text import TextCorpus
from inscape.data.text_negatives import FUNCTION_WORDS, lexicon, word_replace, word_swap
from inscape.data.tokenizer import BOS, EOS, PAD, Tokenizer

NOUNS = ("dog", "cat", "child", "bicycle", "mountain", "umbrella")
VERBS = ("watches", "follows", "carries", "paints")
SENTENCES = [f"A {a} {verb} the {b} on {c}'s hill." for a in NOUNS for b in NOUNS for c in NOUNS[:2] for verb in VERBS]
# Words that the vocabulary has as one id, as several, not at all, and words that must not be touched.
POOL = (*NOUNS, *VERBS, "zebra", "wondrously", "naïve", "the", "on", "of", "A", "Dog", "dog.", "cat's", "x-ray", "42")


@pytest.fixture(scope="module", params=["bpe", "word"])
def made(request):
    """A tokenizer with the lexicon of its corpus."""
    tokenizer = Tokenizer.train(SENTENCES, 330, request.param)
    ragged = tokenizer.encode_ragged(SENTENCES)
    return tokenizer, lexicon(tokenizer, ragged, np.arange(len(SENTENCES)))


@pytest.fixture(scope="module")
def bpe():
    """The same in bytes, in which every text comes back, with words of one token and of several."""
    tokenizer = Tokenizer.train(SENTENCES, 300)
    return tokenizer, lexicon(tokenizer, tokenizer.encode_ragged(SENTENCES), np.arange(len(SENTENCES)))


def movable(word):
    # "naïve" is not: this vocabulary has the ï as two bytes, neither of which is a letter.
    return word.isalpha() and word.isascii() and word.islower() and word not in FUNCTION_WORDS


def differing(before, after):
    """Places at which two sentences of as many words differ."""
    a, b = before.split(), after.split()
    assert len(a) == len(b)
    return [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]


def frame(tokens_BT):
    return np.where(np.isin(tokens_BT, (PAD, BOS, EOS)), tokens_BT, -1)


texts = st.lists(st.lists(st.sampled_from(POOL), min_size=1, max_size=7).map(" ".join), min_size=1, max_size=8)


@settings(deadline=None, max_examples=60)
@given(texts, st.integers(0, 2**31), st.integers(0, 2**31))
def test_a_swap_exchanges_two_different_movable_words(bpe, sentences, seed, step):
    tokenizer, words = bpe
    tokens_BT = tokenizer.encode(sentences, max_length=200)
    swapped = word_swap(words, tokens_BT, seed=seed, step=step, row_B=np.arange(len(sentences)))
    assert swapped.tokens_BT.dtype == np.int64
    assert (frame(swapped.tokens_BT) == frame(tokens_BT)).all()
    for before, after, changed in zip(sentences, tokenizer.decode(swapped.tokens_BT), swapped.changed_B, strict=True):
        assert changed == (len({word for word in before.split() if movable(word)}) > 1)
        assert Counter(after.split()) == Counter(before.split())
        places = differing(before, after)
        assert len(places) == 2 * changed
        assert all(movable(before.split()[i]) for i in places)


@settings(deadline=None, max_examples=60)
@given(texts, st.integers(0, 2**31), st.integers(0, 2**31))
def test_a_replacement_changes_one_movable_word_to_another_of_the_corpus(bpe, sentences, seed, step):
    tokenizer, words = bpe
    tokens_BT = tokenizer.encode(sentences, max_length=200)
    replaced = word_replace(words, tokens_BT, seed=seed, step=step, row_B=np.arange(len(sentences)))
    assert replaced.tokens_BT.dtype == np.int64
    assert (frame(replaced.tokens_BT) == frame(tokens_BT)).all()
    for before, after, changed in zip(sentences, tokenizer.decode(replaced.tokens_BT), replaced.changed_B, strict=True):
        places = differing(before, after)
        assert len(places) == changed
        for i in places:
            old, new = before.split()[i], after.split()[i]
            assert movable(old)
            assert new in (*NOUNS, *VERBS)
            ids = tokenizer.word_ids([old, new])
            assert len(ids[old]) == len(ids[new])


def test_each_word_and_each_pair_comes_up_as_often(made):
    tokenizer, words = made
    number = 6_000
    tokens_BT = tokenizer.encode(["A dog follows the cat on dog's hill."] * number)
    rows = np.arange(number)
    swapped = Counter(tokenizer.decode(word_swap(words, tokens_BT, seed=0, step=0, row_B=rows).tokens_BT))
    assert len(swapped) == 3
    assert min(swapped.values()) > number / 3 - 200
    replaced = Counter(tokenizer.decode(word_replace(words, tokens_BT, seed=0, step=0, row_B=rows).tokens_BT))
    before = tokenizer.decode(tokens_BT[:1])[0]
    at = Counter(differing(before, text)[0] for text in replaced.elements())
    assert sorted(at) == [1, 2, 4]
    assert min(at.values()) > number / 3 - 200


def test_words_are_replaced_by_words_of_like_frequency():
    # Counts 1, 2, 4 ... 2^11 with twelve words each, all of one token.
    named = {f"{chr(97 + level)}{chr(97 + i)}": 2**level for level in range(12) for i in range(12)}
    named = {word * 2: count for word, count in named.items()}
    texts = [word for word, count in named.items() for _ in range(count)]
    tokenizer = Tokenizer.train(texts, 2_000, "word")
    words = lexicon(tokenizer, tokenizer.encode_ragged(texts), np.arange(len(texts)))
    assert sorted(words.counts_W.tolist()) == sorted(named.values())
    some = [word for word in named for _ in range(40)]
    replaced = word_replace(words, tokenizer.encode(some), seed=1, step=2, row_B=np.arange(len(some)))
    ratios = Counter(named[b] / named[a] for a, b in zip(some, tokenizer.decode(replaced.tokens_BT), strict=True))
    assert replaced.changed_B.all()
    assert set(ratios) == {0.5, 1.0, 2.0}
    pairs = set(zip(some, tokenizer.decode(replaced.tokens_BT), strict=True))
    assert not any(a == b for a, b in pairs)
    assert len(pairs) > 3_000


def test_a_word_that_is_not_in_the_corpus_gives_its_place_to_the_rarest():
    # "gamma" and "delta" are seen a hundred times each, twenty other words once.
    rare = [f"{a}{b}" for a in "klpvz" for b in "aeiu"]
    sentences = ["gamma delta"] * 100 + rare
    tokenizer = Tokenizer.train([*sentences, "zeta"], 1_000, "word")
    words = lexicon(tokenizer, tokenizer.encode_ragged(sentences), np.arange(len(sentences)))
    replaced = word_replace(words, tokenizer.encode(["zeta"] * 600), seed=0, step=0, row_B=np.arange(600))
    assert set(tokenizer.decode(replaced.tokens_BT)) == set(rare)


def test_negatives_are_functions_of_sentence_seed_step_and_row(made):
    tokenizer, words = made
    tokens_BT, rows = tokenizer.encode(SENTENCES), np.arange(len(SENTENCES))
    for change in (word_swap, word_replace):
        whole = change(words, tokens_BT, seed=3, step=5, row_B=rows)
        part = change(words, np.pad(tokens_BT[40:60], ((0, 0), (0, 9))), seed=3, step=5, row_B=rows[40:60])
        assert (part.tokens_BT[:, :-9] == whole.tokens_BT[40:60]).all()
        assert not part.tokens_BT[:, -9:].any()
        for seed, step, row_B in ((4, 5, rows), (3, 6, rows), (3, 5, rows + 1)):
            other = change(words, tokens_BT, seed=seed, step=step, row_B=row_B)
            assert 0.3 < (other.tokens_BT != whole.tokens_BT).any(axis=1).mean() < 1
        assert whole.changed_B.all()


def test_rows_that_allow_no_change_stay_and_say_so(made):
    tokenizer, words = made
    tokens_BT = tokenizer.encode(["the on a", "A", "dog dog the dog", "Dog cat's hill."])
    swapped = word_swap(words, tokens_BT, seed=0, step=0, row_B=np.arange(4))
    assert not swapped.changed_B.any()
    assert (swapped.tokens_BT == tokens_BT).all()
    replaced = word_replace(words, tokens_BT, seed=0, step=0, row_B=np.arange(4))
    assert replaced.changed_B.tolist() == [False, False, True, False]
    assert (replaced.tokens_BT == tokens_BT).all(axis=1).tolist() == [True, True, False, True]
    nothing = word_swap(words, tokens_BT[:0], seed=0, step=0, row_B=np.arange(0))
    assert nothing.tokens_BT.shape == (0, tokens_BT.shape[1])


def test_a_lexicon_of_the_training_split_knows_no_other_words(tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(SENTENCES))
    corpus = TextCorpus.load(tmp_path / "text.txt")
    tokenizer = Tokenizer.train(corpus.sentences(), 1_000)
    text = corpus.tokenise(tokenizer)
    words = lexicon(tokenizer, text.tokens, text.rows("train"))
    seen = Counter(word for sentence in corpus.sentences() for word in sentence.split() if movable(word))
    offsets = words.tokens.offsets
    spelt = [tokenizer.decode([words.tokens.ids[a:b].tolist()])[0] for a, b in pairwise(offsets)]
    assert dict(zip(spelt, words.counts_W.tolist(), strict=True)) == seen


def test_what_cannot_be_used_is_refused(made):
    tokenizer, words = made
    with pytest.raises(ValueError, match="no content word of small letters in 2 sentences"):
        lexicon(tokenizer, tokenizer.encode_ragged(["the on", "Dog. 42"]), np.arange(2))
    with pytest.raises(ValueError, match="no content word of small letters in 0 sentences"):
        lexicon(tokenizer, tokenizer.encode_ragged(SENTENCES), [])
    for tokens, rows in (([1, 7, 2], [0]), ([[1, 7, 2]], [0, 1]), ([[1.0, 2.0]], [0])):
        with pytest.raises(ValueError, match=r"needed: integers of shape \(B, T\) and \(B,\)"):
            word_swap(words, tokens, seed=0, step=0, row_B=rows)
