"""The codec as one module: what it hides, what it says freely against teacher forcing, and soft tokens by autograd."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from inscape.data.tokenizer import BOS, CANONICAL, COPY, EOS, PAD
from inscape.nn.constraint import VocabularyMask
from inscape.nn.latent_codec import LatentCodec, LatentCodecConfig
from inscape.nn.latent_encoder import LatentEncoderConfig

VOCAB, LONGEST = 23, 12
ENCODER = LatentEncoderConfig(
    vocab=VOCAB, d=16, layers=1, heads=2, ffn=24, head_ffn=24, max_length=LONGEST, dropout=0.0, head="light",
    coarse=4, C=3, H=8, W=8,
)  # fmt: skip
TOY = LatentCodecConfig(
    d=16, heads=2, ffn=24, dropout=0.0, reader_layers=1, decoder_layers=2, readout_layers=1, readout_queries=2,
    z=8, z_places=3,
)  # fmt: skip


def toy(**change: object) -> LatentCodec:
    torch.manual_seed(0)
    return LatentCodec(ENCODER, replace(TOY, **change)).eval()


def sentences(batch: int = 4, seed: int = 0) -> torch.Tensor:
    """bos, words, eos; each sentence one word shorter than the one before."""
    tokens_BT = torch.randint(7, VOCAB, (batch, LONGEST - 2), generator=torch.Generator().manual_seed(seed))
    tokens_BT[:, 0] = BOS
    for row, tokens_T in enumerate(tokens_BT):
        tokens_T[len(tokens_T) - 1 - row] = EOS
        tokens_T[len(tokens_T) - row :] = PAD
    return tokens_BT


def seen(model: LatentCodec, batch: int = 4, v: bool = True, z: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Memory and bias of some sentences."""
    with torch.no_grad():
        latent_BCHW = model.encode(sentences(batch))
        states_BPD = model.reader(latent_BCHW)
        memory_BMD = model.memory(states_BPD, model.embed(latent_BCHW, states_BPD))
    every_B = torch.ones(batch, dtype=torch.bool)
    return memory_BMD, model.memory_bias(every_B & v, every_B & z)


# --- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d": 0}, "d=0 is out of range; allowed: 1 to 65536"),
        ({"z": 65_537}, "z=65537 is out of range; allowed: 1 to 65536"),
        ({"z_places": 0}, "z_places=0 is out of range; allowed: 1 to 65536"),
        ({"decoder_layers": 0}, "decoder_layers=0 is out of range; allowed: 1 to 65536"),
        ({"reader_layers": -1}, "reader_layers=-1 is out of range; allowed: 0 to 256"),
        ({"readout_layers": 257}, "readout_layers=257 is out of range; allowed: 0 to 256"),
        ({"d": 18}, r"d=18 is out of range; allowed: a multiple of 2 x heads \(4\)"),
        ({"dropout": 1.0}, "dropout=1.0 is out of range; allowed: 0 to 1, 1 excluded"),
        ({"readout": "mean"}, "readout='mean' is not known; allowed: spatial, pooled"),
    ],
)
def test_bad_sizes_name_field_value_and_what_is_allowed(change: dict[str, object], message: str):
    with pytest.raises(ValueError, match=f"^{message}$"):
        replace(TOY, **change)


def test_a_patch_that_does_not_tile_is_refused():
    with pytest.raises(ValueError, match="patch=3 is out of range; allowed: divisors of 8 and 8"):
        toy(patch=3)


# --- memory -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("readout", ["spatial", "pooled"])
def test_memory_is_the_patches_then_z(readout: str):
    model = toy(readout=readout)
    latent_BCHW = model.encode(sentences())
    states_BPD = model.reader(latent_BCHW)
    z_BZ = model.embed(latent_BCHW)
    torch.testing.assert_close(z_BZ, model.embed(latent_BCHW, states_BPD))
    torch.testing.assert_close(z_BZ.norm(dim=-1), torch.ones(4))
    memory_BMD = model.memory(states_BPD, z_BZ)
    assert model.places == 4
    assert torch.equal(memory_BMD[:, :4], states_BPD)
    expected = (z_BZ * 8**0.5) @ model.z_enter.weight.T + model.z_enter.bias
    torch.testing.assert_close(memory_BMD[:, 4:].flatten(1), expected)


def test_what_is_hidden_changes_no_bit_and_what_is_seen_does():
    model, read_BT = toy(), sentences()[:, :-1]
    memory_BMD, _ = seen(model)
    sees_v_B, sees_z_B = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    bias_BM = model.memory_bias(sees_v_B, sees_z_B)
    before = model.decode(memory_BMD, bias_BM, read_BT)
    for sees_B, places in ((sees_v_B, slice(0, 4)), (sees_z_B, slice(4, 7))):
        changed_BMD = memory_BMD.clone()
        changed_BMD[:, places] += 3.0
        after = model.decode(changed_BMD, bias_BM, read_BT)
        for row in range(3):  # the last one sees nothing, and so everything alike
            assert torch.equal(before[row], after[row]) == (not sees_B[row])


def test_decoding_depends_on_v_and_on_z():
    model, read_BT = toy(), sentences()[:, :-1]
    for sees in ({"v": True, "z": False}, {"v": False, "z": True}):
        memory_BMD, bias_BM = seen(model, **sees)
        ours, theirs = (model.decode(m, bias_BM, read_BT) for m in (memory_BMD, memory_BMD.roll(1, 0)))
        assert (ours - theirs).abs().amax((1, 2)).min() > 1e-3


# --- free running -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [{}, {"v": False}, {"z": False}])
def test_greedy_text_is_the_argmax_of_teacher_forcing(hidden: dict[str, bool]):
    model = toy()
    memory_BMD, bias_BM = seen(model, **hidden)
    said_BT, attention_BTM = model.generate(memory_BMD, bias_BM, COPY)
    assert said_BT.shape[1] <= LONGEST - 1
    read_BT = torch.cat((torch.full((4, 1), COPY), said_BT[:, :-1]), 1)
    logits_BTV = model.decode(memory_BMD, bias_BM, read_BT)
    before_end_BT = (said_BT == EOS).cumsum(1) - (said_BT == EOS).long() == 0
    assert before_end_BT.sum() > 20
    assert torch.equal(logits_BTV.argmax(-1)[before_end_BT], said_BT[before_end_BT])
    expected_BTM = model.decoder(read_BT, model.decoder.look_up(memory_BMD), bias_BM)[2]
    torch.testing.assert_close(attention_BTM, expected_BTM, atol=1e-5, rtol=1e-4)


def ending(model: LatentCodec, bonus: float) -> LatentCodec:
    """The same codec, more or less inclined to end."""
    with torch.no_grad():
        model.decoder.logits.bias[EOS] += bonus
    return model


def test_it_stops_at_eos_and_pads_after():
    model = ending(toy(), 2.0)
    memory_BMD, bias_BM = seen(model, 64 // 4)
    said_BT = model.generate(memory_BMD.repeat(4, 1, 1), bias_BM.repeat(4, 1), COPY, temperature=1.0).tokens_BT
    ended = 0
    for row in said_BT.tolist():
        end = row.index(EOS) if EOS in row else len(row)
        ended += EOS in row
        assert not any(row[end + 1 :])
    assert ended > 40
    assert (said_BT == EOS).any(0).sum() > 3, "sentences end in several places"
    assert ending(toy(), 100.0).generate(memory_BMD, bias_BM, COPY).tokens_BT.tolist() == [[EOS, PAD, PAD, PAD]] * 16
    assert ending(toy(), -100.0).generate(memory_BMD, bias_BM, COPY).tokens_BT.shape == (16, LONGEST - 1)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_it_respects_a_constraint(temperature: float):
    model = ending(toy(), -100.0)
    memory_BMD, bias_BM = seen(model)
    allowed = {8, 11, 20}
    constraint = VocabularyMask(VOCAB, seen=allowed)
    said_BT = model.generate(memory_BMD, bias_BM, CANONICAL, constraint=constraint, temperature=temperature).tokens_BT
    assert said_BT.shape == (4, LONGEST - 1)
    assert (said_BT[:, -1] == EOS).all(), "the last token that fits must end the sentence"
    assert {*said_BT[:, :-1].flatten().tolist()} <= allowed
    free_BT = model.generate(memory_BMD, bias_BM, CANONICAL, temperature=temperature).tokens_BT
    assert not {*free_BT.flatten().tolist()} <= allowed


def test_drawn_text_is_reproducible_and_starts_matter():
    model = toy()
    memory_BMD, bias_BM = seen(model)

    def draw(seed: int, start: int = COPY, temperature: float = 1.0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return model.generate(
            memory_BMD, bias_BM, start, temperature=temperature, top_p=0.95, generator=generator
        ).tokens_BT

    torch.manual_seed(0)
    first = draw(1)
    torch.manual_seed(5)
    assert torch.equal(first, draw(1))
    assert first.tolist() != draw(2).tolist()
    assert draw(1, temperature=0).tolist() == draw(2, temperature=0).tolist()
    assert draw(1, temperature=0).tolist() != draw(1, start=CANONICAL, temperature=0).tolist()


class Fixed(torch.nn.Module):
    """A decoder that gives the same chances whatever it reads."""

    def __init__(self, chance_V: torch.Tensor) -> None:
        super().__init__()
        self.logit_V = chance_V.log()

    def look_up(self, memory_BMD: torch.Tensor) -> list[torch.Tensor]:
        return []

    def forward(self, tokens_BT: torch.Tensor, looked: object, bias_BM: torch.Tensor, past: object):
        return self.logit_V.expand(*tokens_BT.shape, -1), [], torch.zeros(*tokens_BT.shape, bias_BM.shape[1])


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (1.0, 0.9), (1.0, 0.6), (1.0, 0.3), (2.0, 0.7)])
def test_draws_follow_the_nucleus(temperature: float, top_p: float):
    """Sorted by chance, tokens are kept until their sum reaches top_p, and the rest shares nothing."""
    chance_V = torch.full((VOCAB,), 1e-9)
    chance_V[[9, 4, 17, 12, 8]] = torch.tensor([0.4, 0.25, 0.2, 0.1, 0.05])
    model = toy()
    model.decoder = Fixed(chance_V)  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(0)
    said = model.generate(
        torch.zeros(800, 1, 1), torch.zeros(800, 1), COPY, temperature=temperature, top_p=top_p, generator=generator
    ).tokens_BT
    flattened = chance_V.double() ** (1 / temperature)
    left, nucleus = 0.0, {}
    for token in flattened.argsort(descending=True).tolist():
        if left < top_p:
            nucleus[token] = float(flattened[token] / flattened.sum())
            left += nucleus[token]
    found = Counter(said.flatten().tolist())
    assert found.keys() <= nucleus.keys()
    for token, chance in nucleus.items():
        assert found[token] / said.numel() == pytest.approx(chance / left, abs=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": -0.5}, "temperature=-0.5 is out of range; allowed: 0 or more"),
        ({"temperature": float("nan")}, "temperature=nan is out of range; allowed: 0 or more"),
        ({"top_p": 0.0}, "top_p=0.0 is out of range; allowed: above 0, up to 1"),
    ],
)
def test_chances_that_are_none_are_refused(change: dict[str, float], message: str):
    model = toy()
    with pytest.raises(ValueError, match=message):
        model.generate(*seen(model), COPY, **change)  # type: ignore[arg-type]


# --- soft tokens ------------------------------------------------------------------------------------------------


def test_soft_tokens_have_the_value_of_the_tokens_and_the_gradient_of_their_chances():
    model, tokens_BT = toy(), sentences()
    generator = torch.Generator().manual_seed(3)
    chance_BTV = torch.randn(*tokens_BT.shape, VOCAB, generator=generator).softmax(-1).requires_grad_()
    weight_BCHW = torch.randn(4, 3, 8, 8, generator=generator)
    latent_BCHW = model.encode_soft(tokens_BT, chance_BTV)
    torch.testing.assert_close(latent_BCHW, model.encode(tokens_BT), atol=1e-5, rtol=1e-5)

    # Directly: the slope at the tokens' own embeddings, carried to the chances by the table.
    table_VD = model.encoder.text_encoder.embedding.weight.detach()
    embedded_BTD = table_VD[tokens_BT].requires_grad_()
    loss = (model.encoder(tokens_BT, embedded_BTD) * weight_BCHW).sum()
    (slope_BTD,) = torch.autograd.grad(loss, embedded_BTD)
    (found_BTV,) = torch.autograd.grad((latent_BCHW * weight_BCHW).sum(), chance_BTV)
    torch.testing.assert_close(found_BTV, slope_BTD @ table_VD.T, atol=1e-4, rtol=1e-4)
    assert not found_BTV[tokens_BT == PAD].any(), "padding is nobody's word"
    assert found_BTV[tokens_BT != PAD].abs().sum(-1).min() > 0


def test_certain_chances_train_as_the_tokens_do():
    """All weights but the table's, which soft tokens reach by two ways."""
    tokens_BT = sentences()
    gradients = []
    for soft in (False, True):
        model = toy()
        certain_BTV = functional.one_hot(tokens_BT, VOCAB).float()
        latent_BCHW = model.encode_soft(tokens_BT, certain_BTV) if soft else model.encode(tokens_BT)
        latent_BCHW.square().sum().backward()
        gradients.append({name: p.grad for name, p in model.encoder.named_parameters() if "embedding" not in name})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-3, rtol=1e-3)


# --- the whole --------------------------------------------------------------------------------------------------


def test_padding_changes_nothing_and_every_parameter_is_trained():
    model, tokens_BT = toy(), sentences()
    wide_BT = functional.pad(tokens_BT, (0, 2))
    torch.testing.assert_close(model.encode(wide_BT), model.encode(tokens_BT), atol=1e-5, rtol=1e-5)
    latent_BCHW = model.encode(tokens_BT)
    states_BPD = model.reader(latent_BCHW)
    z_BZ = model.embed(latent_BCHW, states_BPD)
    every_B = torch.ones(4, dtype=torch.bool)
    bias_BM = model.memory_bias(every_B, every_B)
    model.decode(model.memory(states_BPD, z_BZ), bias_BM, tokens_BT[:, :-1]).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_soft_tokens_have_one_gradient_whatever_the_threads():
    """Words that stand at many places: their gradients are added in one order, or no training is the same twice."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.manual_seed(0)
        model = LatentCodec(replace(ENCODER, max_length=64, d=256), TOY)
        table_VD = model.encoder.text_encoder.embedding.weight
        tokens_BT = torch.randint(7, 12, (256, 64), generator=torch.Generator().manual_seed(1))  # of five words
        weight_BTD = torch.randn(256, 64, table_VD.shape[1], generator=torch.Generator().manual_seed(2))
        model.encoder.forward = lambda tokens_BT, embedded_BTD: embedded_BTD
        chance_BTV = torch.zeros(256, 64, VOCAB)

        def gradient():
            found_BTD = model.encode_soft(tokens_BT, chance_BTV)
            return torch.autograd.grad((found_BTD * weight_BTD).sum(), table_VD)[0]

        first = gradient()
        assert all(torch.equal(gradient(), first) for _ in range(20))
    finally:
        torch.set_num_threads(before)
