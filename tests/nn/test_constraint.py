"""Constrained decoding: random logits say sentences, whole ones, whatever the length, and the host never waits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inscape.data.scenes import WORDS, parse, render, sample
from inscape.data.scenes.automaton import scene_automaton
from inscape.data.tokenizer import COPY, EOS, PAD, SPECIALS, UNK, Tokenizer
from inscape.nn.constraint import Constraint, TokenConstraint, VocabularyMask

TOKENIZER = Tokenizer.train(list(WORDS) * 2, 32_000)
V = TOKENIZER.vocab_size
AUTOMATON = scene_automaton(TOKENIZER)
SCENES = TokenConstraint(AUTOMATON, V)


def babble(constraint: Constraint, batch: int, max_length: int, *, seed: int = 0, end: float = 0.0) -> torch.Tensor:
    """What a decoder of random logits says under the constraint; `end` is added to the logit of eos."""
    generator = torch.Generator().manual_seed(seed)
    state_B, tokens = constraint.initial(batch), []
    for left in range(max_length, 0, -1):
        logits_BV = torch.randn(batch, V, generator=generator)
        logits_BV[:, EOS] += end
        token_B = logits_BV.masked_fill(~constraint.allowed(state_B, left), -torch.inf).argmax(-1)
        state_B = constraint.advance(state_B, token_B)
        tokens.append(token_B)
    return torch.stack(tokens, 1)


@pytest.mark.parametrize("max_length", [8, 9, 13, 24, 63])
@pytest.mark.parametrize("end", [-100.0, 0.0])
def test_random_logits_say_whole_sentences_within_the_length(max_length: int, end: float):
    tokens_BT = babble(SCENES, 40, max_length, end=end)
    assert ((tokens_BT == EOS).sum(1) == 1).all()
    assert AUTOMATON.accepts(tokens_BT.numpy()).all()
    for text in TOKENIZER.decode(tokens_BT.numpy()):
        assert parse(text)


def test_with_room_to_spare_all_of_it_is_used_and_without_none_is_lost():
    assert (babble(SCENES, 20, 9, end=-100)[:, -2:] != PAD).any()
    assert SCENES.shortest == 8
    assert (babble(SCENES, 20, 8)[:, -1] == EOS).all()


def test_the_masks_are_the_ways_of_the_automaton():
    state_S = torch.arange(len(AUTOMATON.next_SA))
    mask_SV = SCENES.allowed(state_S).numpy()
    expected_SV = np.zeros_like(mask_SV)
    expected_SV[:, AUTOMATON.ids_A] = AUTOMATON.next_SA >= 0
    assert (mask_SV == expected_SV).all()
    assert mask_SV.any(1).all()
    assert np.flatnonzero(mask_SV[AUTOMATON.end]).tolist() == [PAD]
    assert not mask_SV[:, [UNK, COPY]].any()


@pytest.mark.parametrize("left", [1, 2, 5, 12])
def test_what_is_allowed_near_the_end_can_be_finished(left: int):
    distance_S = AUTOMATON.distances()
    state_S = torch.arange(len(distance_S))
    mask_SV = SCENES.allowed(state_S, left)
    state, token = (mask_SV & torch.as_tensor(distance_S <= left)[:, None]).nonzero(as_tuple=True)
    after = SCENES.advance(state, token)
    assert (distance_S[after.numpy()] <= left - 1).all()
    assert mask_SV.any(1).all(), "where nothing fits, the automaton alone decides"


def test_every_token_of_a_sentence_is_allowed_when_its_length_is_left():
    rng = np.random.default_rng(0)
    tokens_BT = torch.as_tensor(TOKENIZER.encode([render(sample(rng), rng) for _ in range(100)]))[:, 1:]
    length_B, state_B, rows = (tokens_BT != PAD).sum(1), SCENES.initial(100), torch.arange(100)
    for t in range(tokens_BT.shape[1]):
        token_B = tokens_BT[:, t]
        assert SCENES.allowed(state_B)[rows, token_B].all()
        for left in length_B.sub(t).clamp(min=1).unique().tolist():
            of = length_B.sub(t).clamp(min=1) == left
            assert SCENES.allowed(state_B[of], left)[torch.arange(int(of.sum())), token_B[of]].all()
        state_B = SCENES.advance(state_B, token_B)
    assert (state_B == AUTOMATON.end).all()


def test_a_forbidden_token_ends_the_sentence():
    (ball,) = TOKENIZER.word_ids(["ball"])["ball"]
    state_B = SCENES.advance(SCENES.initial(3), torch.tensor([ball, UNK, PAD]))
    assert state_B.tolist() == [AUTOMATON.end] * 3


@pytest.mark.parametrize("make", [lambda **k: TokenConstraint(AUTOMATON, V, **k), lambda **k: VocabularyMask(V, **k)])
def test_the_host_never_waits_for_the_device(make):
    # Tensors on "meta" have no values: whatever would ask for one fails.
    constraint = make(device="meta")
    state_B = constraint.initial(5)
    for left in (None, 7):
        mask_BV = constraint.allowed(state_B, left)
        assert (mask_BV.shape, mask_BV.dtype, mask_BV.device.type) == ((5, V), torch.bool, "meta")
    assert constraint.advance(state_B, torch.zeros(5, dtype=torch.int64, device="meta")).shape == (5,)


def test_an_automaton_of_another_vocabulary_is_refused():
    with pytest.raises(ValueError, match=rf"uses token {V - 1}; vocab_size=100 has 0 to 99"):
        TokenConstraint(AUTOMATON, 100)


@given(st.integers(0, 99), st.integers(2, 12), st.sampled_from([-100.0, 0.0, 100.0]))
@settings(max_examples=20, deadline=None)
def test_a_vocabulary_mask_lets_any_words_pass_and_then_eos(seed: int, max_length: int, end: float):
    seen = [PAD, COPY, 20, 40, 41, V - 1]
    for constraint, words in ((VocabularyMask(V, seen=seen), seen[2:]), (VocabularyMask(V), range(len(SPECIALS), V))):
        for row in babble(constraint, 3, max_length, seed=seed, end=end).tolist():
            said = row[: row.index(EOS)]
            assert said
            assert set(said) <= set(words)
            assert set(row[len(said) + 1 :]) <= {PAD}


def test_a_vocabulary_mask_forbids_the_specials_and_what_was_not_seen():
    mask = VocabularyMask(12, seen=(i for i in (8, 10)))
    first = mask.allowed(mask.initial(1))
    assert first.nonzero()[:, 1].tolist() == [8, 10]
    after = mask.advance(mask.initial(1), torch.tensor([8]))
    assert mask.allowed(after).nonzero()[:, 1].tolist() == [EOS, 8, 10]
    assert mask.allowed(after, 1).nonzero()[:, 1].tolist() == [EOS]
    assert mask.allowed(mask.advance(after, torch.tensor([EOS]))).nonzero()[:, 1].tolist() == [PAD]


def test_a_vocabulary_mask_that_leaves_nothing_to_say_is_refused():
    with pytest.raises(ValueError, match=r"no token is left to say"):
        VocabularyMask(V, seen=[EOS, COPY])
    with pytest.raises(ValueError, match=r"seen holds ids 9 to 12; allowed: 0 to 11"):
        VocabularyMask(12, seen=[9, 12])
