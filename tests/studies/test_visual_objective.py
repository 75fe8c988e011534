"""The codec's loss terms against closed forms and plain references, and what each of them is not allowed to see.

Legend as in the module: B tuples, T tokens, N all sentences of a step, R rows that are decoded.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from inscape.data.tokenizer import BOS, CANONICAL, COPY, EOS, PAD, PARAPHRASE
from inscape.nn.jitter import JitterConfig
from inscape.nn.latent_codec import LatentCodec, LatentCodecConfig
from inscape.nn.latent_encoder import LatentEncoderConfig
from inscape.studies.visual.losses import calibrated_terms, tokens_held
from inscape.studies.visual.objective import (
    Objective,
    TrainingTuples,
    decoder_input,
    info_nce,
    keep_hardest,
    objective_terms,
    past_terms,
    picture_terms,
)

VOCAB, LONGEST, ALMOST = 30, 10, 1 - 1e-9
SIZES = {"d": 16, "heads": 2, "ffn": 24, "dropout": 0.0}
ENCODER = LatentEncoderConfig(
    vocab=VOCAB, layers=1, head_ffn=24, max_length=LONGEST, head="light", coarse=5, C=2, H=20, W=20, **SIZES
)
CODEC = LatentCodecConfig(**SIZES, reader_layers=1, decoder_layers=1, readout_queries=2, z=8, z_places=2)
# Nothing left to chance, and no term but those that a test asks for.
NONE = Objective(image=0, contrast=0, copy=0, target=0, from_z=0, z_alone=0, z_beside=0, noise=0)
STILL = JitterConfig(shift_probability=0, blur_probability=0, cutout_probability=0)


def toy(encoder: LatentEncoderConfig = ENCODER, **change: object) -> LatentCodec:
    torch.manual_seed(0)
    return LatentCodec(encoder, replace(CODEC, **change))


def sentences(count: int, seed: int) -> Tensor:
    """Of 3 to T - 2 words, between bos and eos, padded."""
    generator = torch.Generator().manual_seed(seed)
    tokens_BT = torch.randint(7, VOCAB, (count, LONGEST), generator=generator)
    end_B = torch.randint(4, LONGEST, (count,), generator=generator)
    place_T = torch.arange(LONGEST)
    tokens_BT[:, 0] = BOS
    return tokens_BT.masked_fill(place_T == end_B[:, None], EOS).masked_fill(place_T > end_B[:, None], PAD)


def tuples(count: int = 4, targets: bool = True, negatives: int = 3) -> TrainingTuples:
    start_B = torch.tensor([CANONICAL, PARAPHRASE]).repeat(count)[:count]
    target_BT = sentences(count, 3)
    if not targets:
        start_B, target_BT = start_B[:0], target_BT[:0]
    return TrainingTuples(sentences(count, 1), sentences(count, 2), target_BT, start_B, sentences(negatives, 4))


def terms_of(model: LatentCodec, objective: Objective, batch: TrainingTuples | None = None, step: int = 0):
    return objective_terms(model, batch or tuples(), step, objective, VOCAB)


def z_of(model: LatentCodec, tokens_BT: Tensor) -> Tensor:
    return model.embed(model.encode(tokens_BT))


# --- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contrast": -1.0}, "objective.contrast=-1.0 is out of range; allowed: 0 or more"),
        ({"noise": math.nan}, "objective.noise=nan is out of range; allowed: 0 or more"),
        ({"image": math.inf}, "objective.image=inf is out of range; allowed: 0 or more"),
        ({"temperature": 0.0}, "objective.temperature=0.0 is out of range; allowed: above 0, up to 10"),
        ({"z_alone": 0.6, "z_beside": 0.4}, "z_alone=0.6 and z_beside=0.4 are shares; allowed: 0 or more, together be"),
        ({"z_alone": -0.1}, "z_alone=-0.1 and z_beside=0.25 are shares"),
    ],
)
def test_bad_settings_name_field_value_and_what_is_allowed(change: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        Objective(**change)  # type: ignore[arg-type]


# --- contrast ---------------------------------------------------------------------------------------------------


def unit(rows: int, seed: int) -> Tensor:
    return functional.normalize(torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("negatives", [0, 5])
def test_equal_embeddings_cost_the_logarithm_of_the_number_of_candidates(negatives: int):
    same_NZ = unit(1, 0).expand(8 + negatives, -1)
    assert float(info_nce(same_NZ[:4], same_NZ, 0.07)) == pytest.approx(math.log(4 + 3 + negatives), rel=1e-5)


def test_perfect_embeddings_cost_almost_nothing():
    apart_BZ = torch.eye(8)[:4]
    assert float(info_nce(apart_BZ, torch.cat((apart_BZ, apart_BZ)), 0.07)) == pytest.approx(
        math.log(1 + 6 * math.exp(-1 / 0.07)), abs=1e-6
    )


def test_contrast_is_van_den_oords_formula_without_the_query_itself():
    query_BZ, pool_NZ = unit(4, 1), unit(11, 2)
    costs = []
    for i in range(4):
        score = {n: math.exp(float(query_BZ[i] @ pool_NZ[n]) / 0.2) for n in range(11) if n != 4 + i}
        costs.append(-math.log(score[i] / sum(score.values())))
    assert float(info_nce(query_BZ, pool_NZ, 0.2)) == pytest.approx(sum(costs) / 4, rel=1e-4)


def test_contrast_goes_both_ways_against_all_of_the_batch():
    model, batch = toy(), tuples()
    first, second, negative = (z_of(model, t) for t in (batch.sentence_BT, batch.paraphrase_BT, batch.negative_NT))
    forth = info_nce(first, torch.cat((second, first, negative)), 0.1)
    back = info_nce(second, torch.cat((first, second, negative)), 0.1)
    found = terms_of(model, replace(NONE, contrast=3.0, temperature=0.1))
    torch.testing.assert_close(found["contrast"], 1.5 * (forth + back))


def test_invariance_is_the_squared_distance_of_the_views():
    model, batch = toy(), tuples()
    objective = replace(NONE, invariance=0.2, jitter=STILL)
    distance_B = (z_of(model, batch.sentence_BT) - z_of(model, batch.paraphrase_BT)).square().sum(-1)
    torch.testing.assert_close(terms_of(model, objective)["invariance"], 0.2 * distance_B.mean())
    same = batch._replace(paraphrase_BT=batch.sentence_BT)
    assert terms_of(model, objective, same)["invariance"] < 1e-9
    assert terms_of(model, replace(objective, jitter=JitterConfig()), same)["invariance"] > 1e-5


def test_optional_terms_are_their_papers():
    model, batch = toy(), tuples(count=6)
    with torch.no_grad():
        first, second = (z_of(model, t).double().numpy() for t in (batch.sentence_BT, batch.paraphrase_BT))
    found = terms_of(model, replace(NONE, vicreg=1.0, barlow=1.0), batch)
    covariance = np.cov(8**0.5 * np.concatenate([first, second]), rowvar=False)
    hinge = np.maximum(0, 1 - np.sqrt(covariance.diagonal() + 1e-4)).mean()
    off = covariance - np.diag(covariance.diagonal())
    assert float(found["vicreg"].detach()) == pytest.approx(hinge + (off**2).sum() / 8, rel=1e-3)
    a, b = ((z - z.mean(0)) / (z.std(0, ddof=1) + 1e-4) for z in (first, second))
    cross = a.T @ b / 6
    off = cross - np.diag(cross.diagonal())
    expected = (((cross.diagonal() - 1) ** 2).sum() + 5e-3 * (off**2).sum()) / 8
    assert float(found["barlow"].detach()) == pytest.approx(expected, rel=1e-3)


# --- what the decoder reads and says ----------------------------------------------------------------------------


def test_decoder_input_by_hand():
    given = torch.tensor([[BOS, 9, 8, EOS, PAD], [BOS, 7, EOS, PAD, PAD]])
    kept = given.clone()
    read, said = decoder_input(given, COPY)
    assert read.tolist() == [[COPY, 9, 8, PAD], [COPY, 7, PAD, PAD]]
    assert said.tolist() == [[9, 8, EOS, PAD], [7, EOS, PAD, PAD]]
    assert decoder_input(given, torch.tensor([CANONICAL, PARAPHRASE]))[0][:, 0].tolist() == [CANONICAL, PARAPHRASE]
    assert torch.equal(given, kept)
    full = torch.tensor([[BOS, 9, EOS]])
    assert [t.tolist() for t in decoder_input(full, COPY)] == [[[COPY, 9]], [[9, EOS]]]


def test_token_loss_is_the_cross_entropy_of_the_logits_and_nothing_at_padding():
    model, batch = toy(), tuples()
    read_BT, said_BT = decoder_input(batch.sentence_BT, COPY)
    memory_BMD, every_B = torch.randn(4, model.places + 2, 16), torch.ones(4, dtype=torch.bool)
    given = (memory_BMD, model.memory_bias(every_B, every_B), read_BT)
    logits_BTV = model.decode(*given)
    loss_BT = model.token_loss(*given, said_BT)
    for i, t in zip(*torch.where(said_BT != PAD), strict=True):
        expected = logits_BTV[i, t].exp().sum().log() - logits_BTV[i, t, said_BT[i, t]]
        torch.testing.assert_close(loss_BT[i, t], expected, atol=1e-5, rtol=1e-5)
    assert (loss_BT[said_BT == PAD] == 0).all()
    assert (said_BT == PAD).any()
    with torch.autocast("cpu", torch.bfloat16):
        assert model.token_loss(*given, said_BT).dtype == torch.float32


def cost(model: LatentCodec, source_BT: Tensor, target_BT: Tensor, start_B: Tensor | int, v: bool, z: bool) -> Tensor:
    """Mean cost of a token of the targets, decoded from V or z of the sources, sentence by sentence."""
    costs = []
    starts = start_B.tolist() if isinstance(start_B, Tensor) else [start_B] * len(target_BT)
    for source_T, target_T, start in zip(source_BT, target_BT, starts, strict=True):
        words = [token for token in target_T.tolist() if token != PAD]
        latent = model.encode(source_T[None])
        states = model.reader(latent)
        memory = model.memory(states, model.embed(latent))
        kept = memory[:, : model.places] if v and not z else memory if v else memory[:, model.places :]
        logits_TV = model.decode(kept, torch.zeros(kept.shape[:2]), torch.tensor([[start, *words[1:-1]]]))[0]
        costs += [-logits_TV[i].log_softmax(-1)[word] for i, word in enumerate(words[1:])]
    return torch.stack(costs).mean()


@pytest.mark.parametrize(
    ("shares", "v", "z"),
    [({}, True, False), ({"z_beside": ALMOST}, True, True), ({"z_alone": ALMOST}, False, True)],
)
def test_decoding_terms_are_the_mean_cost_of_a_token(shares: dict[str, float], v: bool, z: bool):
    """Copies never lose sight of V; with z alone they see V alone."""
    model, batch = toy(), tuples()
    found = terms_of(model, replace(NONE, copy=1.0, target=2.0, from_z=0.5, **shares))
    every_BT = torch.cat((batch.sentence_BT, batch.paraphrase_BT))
    torch.testing.assert_close(
        found["copy"], cost(model, every_BT, every_BT, COPY, True, z and v), atol=1e-5, rtol=1e-5
    )
    expected = cost(model, batch.paraphrase_BT, batch.target_BT, batch.start_B, v, z)
    ours, other = ("target", "from_z") if v else ("from_z", "target")
    torch.testing.assert_close(found[ours], (2.0 if v else 0.5) * expected, atol=1e-5, rtol=1e-5)
    assert found[other] == 0


def test_what_is_hidden_gets_no_gradient():
    """With the plan's readout z is made of V itself, so the reader serves V alone."""
    for shares, name, trained, idle in (
        ({"z_alone": ALMOST}, "from_z", ("z_enter", "readout"), ("reader",)),
        ({}, "target", ("reader",), ("z_enter", "readout")),
        ({"z_beside": ALMOST}, "target", ("reader", "z_enter", "readout"), ()),
    ):
        model = toy(readout="pooled")
        terms_of(model, replace(NONE, **{name: 1.0}, **shares))[name].backward()
        for part in (*trained, *idle, "encoder", "decoder"):
            moved = any(p.grad is not None and p.grad.any() for p in getattr(model, part).parameters())
            assert moved == (part not in idle), f"{part} with {shares}"


def test_shares_are_as_asked(monkeypatch: pytest.MonkeyPatch):
    model, count, seen = toy(), 250, []

    def watched(sees_v_R: Tensor, sees_z_R: Tensor) -> Tensor:
        seen.append((sees_v_R, sees_z_R))
        return LatentCodec.memory_bias(model, sees_v_R, sees_z_R)

    monkeypatch.setattr(model, "memory_bias", watched)
    torch.manual_seed(1)
    with torch.no_grad():
        terms_of(model, replace(NONE, copy=1.0, z_alone=0.3, z_beside=0.25), tuples(count))
    ((sees_v_R, sees_z_R),) = seen
    assert len(sees_v_R) == 3 * count
    copies, targets = slice(0, 2 * count), slice(2 * count, None)
    assert sees_v_R[copies].all()
    assert (sees_v_R | sees_z_R).all()
    assert sees_z_R[copies].float().mean() == pytest.approx(0.25, abs=0.06)
    assert (~sees_v_R)[targets].float().mean() == pytest.approx(0.3, abs=0.08)
    assert (sees_v_R & sees_z_R)[targets].float().mean() == pytest.approx(0.25, abs=0.08)


# --- what the reader sees ---------------------------------------------------------------------------------------


def seen_by_reader(model: LatentCodec, objective: Objective, batch: TrainingTuples) -> tuple[Tensor, ...]:
    """Sentences', paraphrases' and negatives' V before and after noise and T."""
    seen: list[Tensor] = []
    handle = model.reader.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    terms_of(model, objective, batch)
    handle.remove()
    count = len(batch.sentence_BT)
    whole = model.encode(torch.cat((batch.sentence_BT, batch.paraphrase_BT, batch.negative_NT)))
    parts = [latent.tensor_split((count, 2 * count)) for latent in (whole, seen[0])]
    return tuple(after - before for before, after in zip(*parts, strict=True)) + tuple(parts[0])


def test_noise_is_uniform_up_to_what_is_asked_and_negatives_have_none():
    model, batch = toy(), tuples(count=100)
    torch.manual_seed(2)
    with torch.no_grad():
        first, second, negative, *before = seen_by_reader(model, replace(NONE, contrast=1.0, noise=0.5), batch)
        quiet = seen_by_reader(model, replace(NONE, contrast=1.0), batch)[:3]
    level_B = torch.cat((first, second)).std((1, 2, 3)) / torch.cat(before[:2]).std((1, 2, 3))
    assert level_B.max() < 0.56
    assert level_B.min() < 0.05
    assert level_B.mean() == pytest.approx(0.25, abs=0.04)
    assert negative.abs().max() < 1e-6
    assert max(float(part.abs().max()) for part in quiet) < 1e-6, "0 is off"


def test_jitter_is_on_with_invariance_and_on_the_sentences_alone():
    model, batch = toy(), tuples(count=20)
    with torch.no_grad():
        first, second, negative, *_ = seen_by_reader(model, replace(NONE, invariance=1.0), batch)
        off = seen_by_reader(model, replace(NONE, contrast=1.0), batch)[0]
    assert (first.abs().amax((1, 2, 3)) > 1e-2).sum() >= 12
    assert max(float(part.abs().max()) for part in (second, negative, off)) < 1e-6


@pytest.mark.parametrize("step", [4, 5])
def test_image_prior_sees_the_sentences_whole_and_cut_by_turns(step: int):
    model, batch = toy(), tuples(count=6)
    objective = replace(NONE, image=0.3, share=0.6, dimensions=3.0)
    cut = step % 2
    prior = calibrated_terms(
        model.encode(batch.sentence_BT)[:, :, cut:, cut:],
        tokens_held(batch.sentence_BT, VOCAB),
        objective.prior,
        share=0.6,
        dimensions=3.0,
    )
    found = terms_of(model, objective, batch, step)
    assert found.keys() == {"image"}
    torch.testing.assert_close(found["image"], 0.3 * sum(prior.values()), atol=1e-4, rtol=1e-3)


# --- hard negatives ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("past_v", [False, True])
def test_of_each_family_the_edited_scene_that_z_confuses_most_is_kept(past_v: bool):
    model, batch = toy(), tuples(12)  # 3 scenes and 3 edits of each
    kept = keep_hardest(model, batch, 3, past_v=past_v)
    with torch.no_grad():
        z_NZ = model.readout(model.encoder.places(batch.sentence_BT)) if past_v else z_of(model, batch.sentence_BT)
    nearest = [max((3, 6, 9), key=lambda k: float(z_NZ[i] @ z_NZ[i + k])) for i in range(3)]
    rows = [0, 1, 2, *(i + k for i, k in enumerate(nearest))]
    for name in ("sentence_BT", "paraphrase_BT", "target_BT", "start_B"):
        assert torch.equal(getattr(kept, name), getattr(batch, name)[rows]), name
    assert torch.equal(kept.negative_NT, batch.negative_NT)
    assert len(set(nearest)) > 1, "or any one would do"


@pytest.mark.parametrize("past_v", [False, True])
def test_of_all_families_those_that_z_confuses_most_are_kept(past_v: bool):
    model, batch = toy(), tuples(12)  # 4 scenes and 2 edits of each
    kept = keep_hardest(model, batch, 2, 2, past_v=past_v)
    with torch.no_grad():
        z_NZ = model.readout(model.encoder.places(batch.sentence_BT)) if past_v else z_of(model, batch.sentence_BT)
    near = [max((float(z_NZ[i] @ z_NZ[i + k]), i + k) for k in (4, 8)) for i in range(4)]
    families = sorted(sorted(range(4), key=lambda i: near[i])[2:])
    rows = [*families, *(near[i][1] for i in families)]
    for name in ("sentence_BT", "paraphrase_BT", "target_BT", "start_B"):
        assert torch.equal(getattr(kept, name), getattr(batch, name)[rows]), name
    assert families != [0, 1], "or the first ones would do"
    with pytest.raises(ValueError, match=r"^4 scenes of this process are no multiple of mixture.drawn=3; "):
        keep_hardest(model, batch, 2, 3, past_v=past_v)


# --- the beginning: past V, then the picture ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoder", "change"), [(replace(ENCODER, coarse=10), {}), (ENCODER, {"patch": 10}), (ENCODER, {"d": 32})]
)
def test_states_of_other_shapes_than_the_readers_are_refused(encoder: LatentEncoderConfig, change: dict[str, int]):
    model = toy(encoder, **change)
    with pytest.raises(ValueError, match=r"past V, .* as many places .* and as wide; they have \d"):
        past_terms(model, tuples(), NONE, 0.0)
    with pytest.raises(ValueError, match=r"past V, .* as many places"):
        keep_hardest(model, tuples(), 1, past_v=True)
    with pytest.raises(ValueError, match=r"set encoder.coarse, codec.patch and codec.d"):
        picture_terms(model, tuples(), 0, NONE, VOCAB)


def test_past_v_everything_learns_but_painter_and_reader():
    model, batch = toy(), tuples()
    sum(past_terms(model, batch, replace(FULL, z_beside=0.5), 0.3).values()).backward()
    for name, parameter in model.named_parameters():
        picture = name.startswith(("encoder.head.paint.", "reader."))
        assert (parameter.grad is None) == picture, name


def test_past_v_the_states_of_places_stand_for_what_is_read():
    model, batch = toy(), tuples()
    found = past_terms(model, batch, replace(NONE, copy=1.0, target=1.0), 0.0)
    places_BQD = model.encoder.places(batch.paraphrase_BT)
    memory_BMD = model.memory(places_BQD, model.readout(places_BQD))
    every_B = torch.ones(4, dtype=torch.bool)
    read_BT, said_BT = decoder_input(batch.target_BT, batch.start_B)
    loss_BT = model.token_loss(memory_BMD, model.memory_bias(every_B, ~every_B), read_BT, said_BT)
    torch.testing.assert_close(found["target"], loss_BT.sum() / (said_BT != PAD).sum())
    torch.manual_seed(0)
    assert past_terms(model, batch, replace(NONE, copy=1.0), 2.0)["copy"] != found["copy"]


def test_the_picture_is_trained_alone_to_carry_what_it_is_painted_from():
    model, batch = toy(), tuples()
    found = picture_terms(model, batch, 0, replace(NONE, image=0.3), VOCAB)
    places_NQD = model.encoder.places(torch.cat((batch.sentence_BT, batch.paraphrase_BT)))
    latent_NCHW = model.encoder.paint(places_NQD)
    torch.testing.assert_close(found["read"], (model.reader(latent_NCHW) - places_NQD).square().mean())
    torch.testing.assert_close(found["image"], terms_of(model, replace(NONE, image=0.3))["image"])
    assert picture_terms(model, batch, 0, replace(NONE, image=0.3, noise=1.0), VOCAB)["read"] != found["read"]
    shaken = replace(NONE, image=0.3, invariance=0.1, jitter=JitterConfig(shift_probability=1.0))
    assert picture_terms(model, batch, 0, shaken, VOCAB)["read"] != found["read"]
    still = replace(NONE, image=0.3, invariance=0.1, jitter=STILL)
    torch.testing.assert_close(picture_terms(model, batch, 0, still, VOCAB)["read"], found["read"])
    sum(found.values()).backward()
    moved = {name.rsplit(".", 2)[0] for name, p in model.named_parameters() if p.grad is not None}
    assert all(name.startswith(("encoder.head.paint", "reader")) for name in moved)
    assert moved >= {"encoder.head.paint.convolutions", "encoder.head.paint.skips", "reader.layers.0"}


# --- the whole --------------------------------------------------------------------------------------------------

FULL = Objective(invariance=0.2, vicreg=0.1, barlow=0.1)
NAMES = ["image", "contrast", "invariance", "vicreg", "barlow", "copy", "target", "from_z"]


@pytest.mark.parametrize("targets", [True, False])
def test_the_same_finite_terms_at_every_step(targets: bool):
    model, batch = toy(), tuples(targets=targets)
    for step in range(4):
        found = terms_of(model, FULL, batch, step)
        assert list(found) == NAMES
        assert all(bool(term.isfinite()) and term.ndim == 0 for term in found.values())
        if not targets:
            assert found["target"] == found["from_z"] == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_of_zero_leaves_its_term_out(name: str):
    assert list(terms_of(toy(), replace(FULL, **{name: 0.0}))) == [other for other in NAMES if other != name]


@pytest.mark.parametrize("name", NAMES)
def test_weights_multiply_and_one_term_asked_for_is_one_term(name: str):
    model = toy()
    one, three = (terms_of(model, replace(NONE, jitter=STILL, **{name: weight})) for weight in (1.0, 3.0))
    assert one.keys() == three.keys() == {name}
    torch.testing.assert_close(three[name], 3 * one[name])
    assert replace(NONE, **{name: 1.0}).decodes == (name in ("copy", "target", "from_z"))


def test_all_terms_together_train_every_parameter():
    model = toy()
    sum(terms_of(model, replace(FULL, z_alone=0.4)).values()).backward()  # type: ignore[union-attr]
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("terms", [objective_terms, past_terms, picture_terms])
def test_a_sentence_that_is_its_own_paraphrase_is_encoded_once(terms):
    """Of a file of single sentences; the terms are what two passes give, and two different wordings take two."""
    model, objective = toy(replace(ENCODER)), replace(NONE, contrast=1.0, copy=1.0)
    batch = tuples(targets=False)
    rows: list[int] = []
    model.encoder.text_encoder.register_forward_pre_hook(lambda _, words: rows.append(len(words[0])))

    def found(some):
        rows.clear()
        torch.manual_seed(0)
        how = {
            objective_terms: (0, objective, VOCAB),
            past_terms: (objective, 0.0),
            picture_terms: (0, objective, VOCAB),
        }
        found = terms(model, some, *how[terms])
        return rows[0], {name: float(term.detach()) for name, term in found.items()}

    once, values = found(batch._replace(paraphrase_BT=batch.sentence_BT.clone()))
    twice, _ = found(batch)
    assert twice - once == len(batch.sentence_BT)
    object.__setattr__(model.encoder.config, "dropout", 0.5)  # of a model that drops, the two passes differ
    model.train()
    both, same = found(batch._replace(paraphrase_BT=batch.sentence_BT.clone()))
    assert both == twice
    assert same == pytest.approx(values, rel=1e-5)
