"""A user's grammar: whatever the logits, what is said is in it; what is wrong with a grammar is said in one line."""

import re
import sys

import pytest
import torch

from inscape.data import user_grammar
from inscape.data.tokenizer import EOS, PAD, Tokenizer
from inscape.data.user_grammar import user_constraint

TEXTS = ["a red ball is on the blue block", "two red balls, three blue balls"] * 2
BPE, WORD = (Tokenizer.train(TEXTS, 400, kind) for kind in ("bpe", "word"))
GRAMMAR = """start: one | many ", " many
one: ("a" | "the") " " colour " ball"
many: ("two" | "three") " " colour " balls"
colour: /red|blue/
"""
ONE, MANY = "(a|the) (red|blue) ball", "(two|three) (red|blue) balls"
SENTENCE = re.compile(f"{ONE}|{MANY}, {MANY}")


def babble(constraint, vocab: int, batch: int, max_length: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    state_B, tokens = constraint.initial(batch), []
    for left in range(max_length, 0, -1):
        logits_BV = torch.randn(batch, vocab, generator=generator)
        token_B = logits_BV.masked_fill(~constraint.allowed(state_B, left), -torch.inf).argmax(-1)
        state_B = constraint.advance(state_B, token_B)
        tokens.append(token_B)
    return torch.stack(tokens, 1)


@pytest.fixture
def library():
    return pytest.importorskip("llguidance")


@pytest.mark.parametrize("tokenizer", [BPE, WORD], ids=["bpe", "word"])
def test_random_logits_say_sentences_of_the_grammar(library, tokenizer: Tokenizer):
    tokens_BT = babble(user_constraint(GRAMMAR, tokenizer), tokenizer.vocab_size, 24, 40)
    texts = tokenizer.decode(tokens_BT.numpy())
    assert [text for text in texts if not SENTENCE.fullmatch(text)] == []
    assert len(set(texts)) > 6
    for row in tokens_BT.tolist():
        assert EOS in row
        assert set(row[row.index(EOS) + 1 :]) <= {PAD}


def test_the_mask_is_what_may_come_and_the_old_state_is_kept(library):
    constraint, (a,) = user_constraint(GRAMMAR, WORD), WORD.word_ids(["a"])["a"]
    start = constraint.initial(2)
    first = constraint.allowed(start)
    assert {WORD.decode([[i]])[0] for i in first[0].nonzero()[:, 0].tolist()} == {"a", "the", "two", "three"}
    second = constraint.advance(start, torch.tensor([a, EOS]))
    assert {WORD.decode([[i]])[0] for i in constraint.allowed(second)[0].nonzero()[:, 0].tolist()} == {"red", "blue"}
    assert constraint.allowed(second)[1].nonzero()[:, 0].tolist() == [PAD]
    assert torch.equal(constraint.allowed(start), first)


def test_a_sentence_that_may_end_does_so_at_the_last_token(library):
    constraint = user_constraint('start: "a" (" a")*', BPE)
    tokens_BT = babble(constraint, BPE.vocab_size, 10, 6)
    assert (tokens_BT == EOS).any(1).all()


MALFORMED = {
    'start: "a" " colour\n': r"line 1, column 20: lexer error",
    "start: foo\n": r"line 1, column 8: unknown name: .*foo",
    "start: a\na: b\nb: /((/\n": r"line 3, column \d+: invalid regex .*unclosed group",
    'begin: "a"': "no start rule",
    "": "Empty grammar",
}


@pytest.mark.parametrize("text", MALFORMED)
def test_a_malformed_grammar_is_refused_with_its_place(library, text: str):
    with pytest.raises(ValueError, match=rf"^the grammar is malformed: {MALFORMED[text]}") as refusal:
        user_constraint(text, BPE)
    assert "\n" not in str(refusal.value)


def test_text_without_tokens_and_tokens_outside_the_grammar_are_refused(library):
    constraint = user_constraint('start: "a green ball"', WORD)
    state = constraint.advance(constraint.initial(1), torch.tensor(WORD.word_ids(["a"])["a"]))
    with pytest.raises(ValueError, match="after 'a' the grammar asks for text that the tokenizer cannot write"):
        constraint.allowed(state)
    state = constraint.advance(constraint.initial(1), torch.tensor(WORD.word_ids(["red"])["red"]))
    with pytest.raises(ValueError, match="'red' is not the beginning of a sentence"):
        constraint.allowed(state)


def test_the_bytes_of_the_tokens_are_their_text():
    vocabulary = user_grammar._Vocabulary(BPE)
    assert len(vocabulary.tokens) == BPE.vocab_size
    for i in range(7, BPE.vocab_size):
        assert vocabulary.tokens[i].decode(errors="replace").removeprefix(" ") == BPE.decode([[i]])[0]
    for text in (" a red ball", " ballé", "ed  x", " ", ""):
        assert b"".join(vocabulary.tokens[i] for i in vocabulary(text)) == text.encode()
    assert vocabulary(" two red balls") == BPE.encode(["two red balls"])[0, 1:-1].tolist()


def test_without_the_library_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ValueError, match=r"^a grammar needs the package llguidance: pip install 'inscape\[grammar\]'"):
        user_constraint(GRAMMAR, BPE)
