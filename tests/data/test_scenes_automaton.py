"""The automaton accepts what the parser reads, no sentence more and none less, and is as small as can be."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inscape.data.scenes import WORDS, canonical, render, sample
from inscape.data.scenes.automaton import FORBIDDEN, scene_automaton
from inscape.data.scenes.grammar import CONJUNCTIONS, PATTERNS, PHRASES, SYMMETRIC
from inscape.data.scenes.parser import read
from inscape.data.scenes.wording import meaning, write
from inscape.data.tokenizer import BOS, COPY, EOS, PAD, UNK, Tokenizer

TOKENIZER = Tokenizer.train(list(WORDS) * 2, 32_000)
AUTOMATON = scene_automaton(TOKENIZER)


def accepted(texts, tokenizer=TOKENIZER, automaton=AUTOMATON):
    return automaton.accepts(tokenizer.encode(texts, max_length=400)[:, 1:])


def is_read(text):
    try:
        read(text)
    except ValueError:
        return False
    return True


def walk(automaton, rng):
    """A random way from the start to the end: token ids, eos included."""
    state, tokens = 0, []
    while state != automaton.end:
        column = rng.choice(np.flatnonzero(automaton.next_SA[state] != FORBIDDEN))
        tokens.append(int(automaton.ids_A[column]))
        state = automaton.next_SA[state, column]
    return tokens


def mutated(words, rng):
    """Some words changed, put in, taken out or swapped: what comes of it may be a sentence again."""
    words = list(words)
    for _ in range(rng.integers(1, 4)):
        at, word = int(rng.integers(len(words))), str(rng.choice(WORDS))
        match rng.integers(5):
            case 0:
                words[at] = word
            case 1:
                words.insert(at, word)
            case 2:
                words[at : at + 1] = words[at : at + 1] if len(words) == 1 else []
            case 3:
                words[at], words[at - 1] = words[at - 1], words[at]
            case 4:
                words[at + 1 :] = []
    return " ".join(words)


def test_its_size_is_what_its_docstring_says():
    assert AUTOMATON.next_SA.shape == (241, 96)
    assert (AUTOMATON.next_SA != FORBIDDEN).sum() == 2_464 + 1  # and pad after the end
    assert set(AUTOMATON.ids_A) == {PAD, EOS, *(i for ids in TOKENIZER.word_ids(WORDS).values() for i in ids)}


def test_every_rendered_sentence_is_accepted():
    rng = np.random.default_rng(0)
    scenes = [sample(rng) for _ in range(2_000)]
    assert accepted([render(scene, rng) for scene in scenes]).all()
    assert accepted([canonical(scene) for scene in scenes]).all()


def test_every_pattern_with_every_number_is_accepted():
    one, many = (next(p.text for p in PHRASES if p.plural == plural) for plural in (False, True))
    texts = []
    for pattern in PATTERNS:
        for plural, x in enumerate((one, many)):
            for y in (one, many):
                first, second = (x, y) if pattern.subject_first else (y, x)
                texts.append(f"{pattern.opening[plural]} {first} {pattern.linking[plural]} {second}".strip())
    assert accepted(texts).all()
    assert accepted([f"{p.text} is on a red ball" for p in PHRASES if not p.plural]).all()
    assert accepted([f"{p.text} are on a red ball" for p in PHRASES if p.plural]).all()


def test_random_walks_are_read_back():
    rng = np.random.default_rng(1)
    facts = Counter()
    for _ in range(500):
        (text,) = TOKENIZER.decode([walk(AUTOMATON, rng)])
        sentence = read(text)
        assert write(sentence) == text
        facts[len(sentence.clauses)] += 1
        assert meaning(sentence).facts  # a fact said twice and names that repeat are accepted, as the docstring says
    assert set(facts) == {1, 2, 3}


def test_spoiled_sentences_are_accepted_exactly_if_the_parser_reads_them():
    rng = np.random.default_rng(2)
    texts = [mutated(render(sample(rng), rng).split(), rng) for _ in range(3_000)]
    readable = [is_read(text) for text in texts]
    assert accepted(texts).tolist() == readable
    assert min(Counter(readable).values()) > 50


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=30).map(" ".join))
@settings(max_examples=200, deadline=None)
def test_any_words_are_accepted_exactly_if_the_parser_reads_them(text):
    assert accepted([text])[0] == is_read(text)


@pytest.mark.parametrize(
    "text",
    [
        "a red ball are on a blue block",
        "a orange ball is on a blue block",
        "an big orange ball is on a blue block",
        "two red ball are on a blue block",
        "there is two red balls on a blue block",
        "a red ball is on a blue block or a red ball is on a blue block",
        " and ".join(["a red ball is on a blue block"] * 4),
        "a red ball",
        "a red ball is on a blue block and",
    ],
)
def test_what_no_sentence_may_be(text):
    assert not accepted([text])[0]


def test_it_accepts_as_many_sentences_as_the_tables_hold():
    ways = [Counter(int(to) for to in row if to != FORBIDDEN) for row in AUTOMATON.next_SA]
    sentences = {AUTOMATON.end: 1}
    for state in reversed(range(AUTOMATON.end)):
        sentences[state] = sum(count * sentences[to] for to, count in ways[state].items())
    clauses = sum(not (p.relation == SYMMETRIC and p.swapped) for p in PATTERNS) * len(PHRASES) ** 2
    joins = len(CONJUNCTIONS)
    assert sentences[0] == clauses + joins * clauses**2 + joins**2 * clauses**3


def classes_of(next_SA):
    """Moore's partition refinement: which states no text can tell apart."""
    class_S = np.arange(len(next_SA)) == len(next_SA) - 1
    while True:
        signature = np.column_stack([class_S, np.where(next_SA >= 0, class_S[next_SA], -1)])
        refined_S = np.unique(signature, axis=0, return_inverse=True)[1].ravel()
        if refined_S.max() == class_S.max():
            return refined_S
        class_S = refined_S


def test_no_two_states_are_alike_and_all_are_reached():
    assert len(set(classes_of(AUTOMATON.next_SA))) == len(AUTOMATON.next_SA)
    doubled = np.vstack([AUTOMATON.next_SA[:1], AUTOMATON.next_SA])
    doubled = np.where(doubled >= 0, doubled + 1, doubled)
    assert len(set(classes_of(doubled))) == len(doubled) - 1, "this test can fail"
    reached = set(AUTOMATON.next_SA[AUTOMATON.next_SA >= 0].tolist())
    assert reached == set(range(1, AUTOMATON.end + 1))


def test_distances_to_the_end():
    distance_S = AUTOMATON.distances()
    assert distance_S[AUTOMATON.end] == 0
    assert distance_S[0] == 8  # a red ball supports a red ball, eos
    for state, row in enumerate(AUTOMATON.next_SA[:-1]):
        assert distance_S[state] == 1 + distance_S[row[row >= 0]].min()


def test_only_the_tokens_of_a_whole_sentence_are_accepted():
    (row,) = TOKENIZER.encode(["a red ball is on a blue block"])
    body = row[1:]
    spoiled = {
        "as it is": body,
        "without eos": [*body[:-1], PAD],
        "with bos": [BOS, *body[:-1]],
        "with another special": [COPY, *body[1:]],
        "unknown": [UNK, *body[1:]],
        "an id beyond all": [10**6, *body[1:]],
        "pad within": [*body[:3], PAD, *body[4:]],
    }
    assert [name for name, ids in spoiled.items() if AUTOMATON.accepts([ids])[0]] == ["as it is"]
    assert AUTOMATON.accepts([[*body, PAD, PAD]])[0]
    assert not AUTOMATON.accepts([[*body, EOS]])[0]
    assert not AUTOMATON.accepts(np.zeros((1, 0), dtype=np.int64))[0]


def test_words_of_several_ids():
    tokenizer = Tokenizer.train(list(WORDS) * 2, 300)
    assert max(map(len, tokenizer.word_ids(WORDS).values())) > 3
    automaton, rng = scene_automaton(tokenizer), np.random.default_rng(3)
    texts = [render(sample(rng), rng) for _ in range(200)]
    assert accepted(texts, tokenizer, automaton).all()
    spoiled = [mutated(text.split(), rng) for text in texts]
    assert accepted(spoiled, tokenizer, automaton).tolist() == [is_read(text) for text in spoiled]
    for text in tokenizer.decode([walk(automaton, rng) for _ in range(1)]):
        assert is_read(text)


def test_a_tokenizer_without_a_word_of_the_grammar_is_refused():
    tokenizer = Tokenizer.train([word for word in WORDS if word not in ("ball", "two")], 32_000, "word")
    with pytest.raises(ValueError, match=r"does not know these words of the scene grammar: ball, two$"):
        scene_automaton(tokenizer)
