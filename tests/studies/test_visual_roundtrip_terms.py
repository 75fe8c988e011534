"""The round trip in worlds that are known: decoders that copy, swap or say nothing; and runs of copied words."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_visual_objective import NONE, VOCAB, sentences, toy, tuples, z_of
from torch import Tensor

from inscape.data.tokenizer import BOS, EOS, PAD, PARAPHRASE, UNK
from inscape.nn.latent_codec import Generated, LatentCodec
from inscape.nn.readout import SpatialReadout
from inscape.studies.visual.objective import Objective
from inscape.studies.visual.roundtrip_terms import RoundTrip, copied, round_trip_terms

TRIP = RoundTrip(cycle=1.0, copy_suppression=1.0, candidates=3, sentences=4)


def world() -> LatentCodec:
    """A fresh codec, but for one thing: z of different sentences point in different directions."""
    model, outs = toy(), []
    assert isinstance(model.readout, SpatialReadout)
    handle = model.readout.out.register_forward_hook(lambda _module, _inputs, output: outs.append(output))
    with torch.no_grad():
        z_of(model, sentences(50, 8))
        model.readout.out.bias -= outs[0].mean(0)
    handle.remove()
    return model


def terms_of(model: LatentCodec, trip: RoundTrip = TRIP, objective: Objective = NONE) -> dict[str, Tensor]:
    return round_trip_terms(model, tuples(), 0, objective, trip, VOCAB)


def says(model: LatentCodec, candidates: Callable[[int], Tensor], told: dict[str, Any] | None = None) -> LatentCodec:
    """The same codec, which freely says `candidates(k)` (k sentences for each of four) whatever it sees."""

    def generate(memory_BMD: Tensor, bias_BM: Tensor, start: int, **settings: Any) -> Generated:
        if told is not None:
            told.update(settings, start=start, rows=len(memory_BMD), training=model.training, bias=bias_BM)
        tokens_BT = candidates(len(memory_BMD) // 4)
        return Generated(tokens_BT[:, 1:], torch.zeros(*tokens_BT.shape, 1))

    model.generate = generate  # type: ignore[method-assign]
    return model


# --- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cycle": -0.1}, "round_trip.cycle=-0.1 is out of range; allowed: 0 or more"),
        ({"copy_suppression": math.nan}, "round_trip.copy_suppression=nan is out of range; allowed: 0 or more"),
        ({"candidates": 0}, "round_trip.candidates=0 is out of range; allowed: 1 to 4096"),
        ({"longest_copy": 4097}, "round_trip.longest_copy=4097 is out of range; allowed: 1 to 4096"),
        ({"top_p": 0.0}, "round_trip.top_p=0.0 is out of range; allowed: above 0, up to 1"),
    ],
)
def test_bad_settings_name_field_value_and_what_is_allowed(change: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        RoundTrip(**change)


# --- the trip ---------------------------------------------------------------------------------------------------


def test_who_says_the_same_comes_back():
    model = says(world(), lambda k: sentences(4, 1).repeat_interleave(k, 0))
    assert terms_of(model)["cycle"].item() == pytest.approx(0, abs=1e-6)


def test_who_says_anothers_sentence_does_not():
    model = says(world(), lambda k: sentences(4, 1).roll(1, 0).repeat_interleave(k, 0))
    z_BZ = z_of(model, sentences(4, 1))
    expected = 1 - (z_BZ * z_BZ.roll(1, 0)).sum(-1).mean()
    torch.testing.assert_close(terms_of(model, replace(TRIP, cycle=0.2))["cycle"], 0.2 * expected, atol=1e-6, rtol=1e-4)
    assert expected > 0.3


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_candidate_that_comes_closest_is_chosen(place: int):
    def one_is_right(k: int) -> Tensor:
        rows = sentences(4 * k, 9).unflatten(0, (4, k)).clone()
        rows[:, place] = sentences(4, 1)
        return rows.flatten(0, 1)

    assert terms_of(says(world(), one_is_right))["cycle"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_candidates_are_drawn_as_asked_and_dropout_comes_back(training: bool):
    told: dict[str, Any] = {}
    model = says(world(), lambda k: sentences(4, 1).repeat_interleave(k, 0), told).train(training)
    terms_of(model, replace(TRIP, candidates=5, top_p=0.8))
    assert (told["start"], told["rows"], told["temperature"], told["top_p"]) == (PARAPHRASE, 20, 1.0, 0.8)
    assert not told["training"]
    assert not told["bias"].any(), "V and z are both seen"
    assert model.training == training
    assert all(module.training == training for module in model.modules())


def test_only_so_many_sentences_make_the_trip():
    told: dict[str, Any] = {}
    model = says(world(), lambda k: sentences(4, 1)[:2].repeat_interleave(2 * k, 0), told)
    assert terms_of(model, replace(TRIP, sentences=2, candidates=6))["cycle"].item() == pytest.approx(0, abs=1e-6)
    assert told["rows"] == 12


@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_of_the_cycle_reach_everything(autocast: bool):
    """Through the decoder's chances; also where weights are cast once for a whole step."""
    model = world()
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        terms_of(model)["cycle"].backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_the_whole_path_of_the_gradient():
    """By finite differences: the decoder's logits are moved, the words it says are not."""
    torch.manual_seed(0)
    model = says(world(), lambda k: sentences(4, 5).repeat_interleave(k, 0))
    terms_of(model)["cycle"].backward()
    bias = model.decoder.logits.bias
    slope_V = bias.grad
    assert slope_V is not None
    assert slope_V.abs().max() > 1e-6
    assert float(slope_V.sum()) == pytest.approx(0, abs=1e-5), "a shift of all logits changes no chance"
    direction_V = slope_V / slope_V.norm()

    def soft(step: float) -> float:
        """The trip of the mean embedding around the words said, as straight-through has it."""
        with torch.no_grad():
            return _soft_cycle(model, bias + step * direction_V, bias)

    numeric = (soft(1e-2) - soft(-1e-2)) / 2e-2
    assert numeric == pytest.approx(float(slope_V.norm()), rel=0.1)


def _soft_cycle(model: LatentCodec, moved_V: Tensor, bias_V: Tensor) -> float:
    sentence_BT, chosen_BT = sentences(4, 1), sentences(4, 5)
    latent_BCHW = model.encode(sentence_BT)
    states_BPD = model.reader(latent_BCHW)
    z_BZ = model.embed(latent_BCHW, states_BPD)
    every_B = torch.ones(4, dtype=torch.bool)
    read_BT = chosen_BT[:, :-1].clone()
    read_BT[:, 0] = PARAPHRASE
    read_BT[read_BT == EOS] = PAD
    memory_BMD = model.memory(states_BPD, z_BZ)
    logits_BTV = model.decode(memory_BMD, model.memory_bias(every_B, every_B), read_BT)
    table_VD = model.encoder.text_encoder.embedding.weight
    change_BTV = (logits_BTV + moved_V - bias_V).softmax(-1) - logits_BTV.softmax(-1)
    embedded_BTD = table_VD[chosen_BT]
    embedded_BTD[:, 1:] += change_BTV @ table_VD
    again_BCHW = model.encoder(chosen_BT, embedded_BTD)
    return float((1 - (model.embed(again_BCHW) * z_BZ).sum(-1)).mean())


def test_terms_of_the_objective_come_first_and_names_stay():
    model = world()
    objective = replace(NONE, contrast=1.0, copy=1.0)
    for _ in range(3):
        assert list(terms_of(model, objective=objective)) == ["contrast", "copy", "cycle", "copies"]


def test_a_decoder_that_says_nothing_is_no_division_by_zero():
    model = says(world(), lambda k: torch.tensor([[BOS, PAD, PAD]]).repeat(4 * k, 1))
    found = terms_of(model)
    assert all(bool(term.isfinite()) for term in found.values())
    assert found["copies"] == 0


# --- copies -----------------------------------------------------------------------------------------------------


def copying(chance: float) -> LatentCodec:
    """Says the sentence itself, with this chance for each word."""
    model = says(world(), lambda k: sentences(4, 1).repeat_interleave(k, 0))

    def decode(memory_BMD: Tensor, bias_BM: Tensor, read_BT: Tensor) -> Tensor:
        logits_BTV = torch.full((*read_BT.shape, VOCAB), math.log((1 - chance) / (VOCAB - 1)))
        return logits_BTV.scatter(-1, sentences(4, 1)[:, 1:, None], math.log(chance))

    model.decode = decode  # type: ignore[method-assign, assignment]
    return model


@pytest.mark.parametrize(("longest", "chance"), [(1, 0.9), (3, 0.9), (3, 0.2), (8, 0.9)])
def test_copies_are_made_unlikely_by_the_formula_of_welleck(longest: int, chance: float):
    """- log(1 - p) for each word that ends a copied run longer than is free, over all tokens said."""
    words = [row.index(EOS) - 1 for row in sentences(4, 1).tolist()]
    ends, tokens = sum(max(0, n - longest) for n in words), sum(n + 1 for n in words)
    found = terms_of(copying(chance), replace(TRIP, longest_copy=longest, copy_suppression=0.3))["copies"]
    assert found.item() == pytest.approx(-0.3 * math.log(1 - chance) * ends / tokens, rel=1e-4)
    assert (found > 0) == (longest < 8)


def test_a_certain_copy_costs_a_finite_price():
    assert terms_of(copying(1 - 1e-9))["copies"].isfinite()


def test_copied_by_hand():
    given_BS = torch.tensor([[10, 11, 12, 13, EOS, PAD]])

    def ends(*said: int, length: int = 3) -> list[int]:
        return copied(given_BS, torch.tensor([said]), length)[0].nonzero()[:, 0].tolist()

    assert ends(10, 11, 12, 13, EOS) == [2, 3]
    assert ends(14, 11, 12, 13, EOS) == [3]
    assert ends(10, 11, 14, 12, 13, EOS) == []
    assert ends(11, 12, 13, EOS, PAD, PAD) == [2], "neither the end nor padding is a copy"
    assert ends(10, 11, 12, 10, 11, 12) == [2, 5], "each time it is said"
    assert ends(10, 11, 12, 13, EOS, length=4) == [3]
    assert ends(10, 12, 14, length=1) == [0, 1]
    assert ends(10, 11) == [], "shorter than a run"
    assert ends(10, 11, 12, 13, EOS, PAD, PAD, length=7) == [], "longer than the input"


words = st.lists(st.integers(UNK, 6), min_size=1, max_size=7)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=3), st.integers(1, 4))
def test_copied_is_the_definition(rows: list[tuple[list[int], list[int]]], length: int):
    padded = [[[*row, EOS] + [PAD] * (7 - len(row)) for row in column] for column in zip(*rows, strict=True)]
    found = copied(torch.tensor(padded[0]), torch.tensor(padded[1]), length).tolist()
    for (given_words, said_words), found_T in zip(rows, found, strict=True):
        runs = {tuple(given_words[i : i + length]) for i in range(len(given_words) - length + 1)}
        ends = [i + 1 >= length and tuple(said_words[i + 1 - length : i + 1]) in runs for i in range(len(said_words))]
        assert found_T == ends + [False] * (8 - len(ends))
