"""The decoder against torch.nn.TransformerDecoderLayer, its past against teacher forcing, and what it must not see."""

import pytest
import torch
from torch import nn

from inscape.nn.attention import MASKED
from inscape.nn.decoder import Decoder, DecoderLayer
from inscape.nn.rotary import Angles

D, HEADS, FFN, VOCAB, LONGEST = 16, 2, 24, 19, 12


def decoder(layers: int = 2, rate: float = 0.0) -> Decoder:
    torch.manual_seed(0)
    return Decoder(VOCAB, D, HEADS, FFN, rate, layers=layers, max_length=LONGEST).eval()


def inputs(batch: int = 3, tokens: int = 7, places: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, memory and a bias that hides the first place from the last sentence."""
    generator = torch.Generator().manual_seed(1)
    tokens_BT = torch.randint(3, VOCAB, (batch, tokens), generator=generator)
    bias_BM = torch.zeros(batch, places)
    bias_BM[-1, 0] = MASKED
    return tokens_BT, torch.randn(batch, places, D, generator=generator), bias_BM


def reference_layer(layer: DecoderLayer) -> nn.TransformerDecoderLayer:
    reference = nn.TransformerDecoderLayer(D, HEADS, FFN, 0.0, "gelu", batch_first=True, norm_first=True)
    parts = {
        "norm1": layer.self_norm,
        "norm2": layer.cross_norm,
        "norm3": layer.feed_forward_norm,
        "linear1": layer.feed_forward.up,
        "linear2": layer.feed_forward.down,
        "self_attn.out_proj": layer.self_out,
        "multihead_attn.out_proj": layer.cross_out,
    }
    weights = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    ours, query, rest = layer.query_key_value, layer.cross_query, layer.cross_key_value
    weights |= {"self_attn.in_proj_weight": ours.weight, "self_attn.in_proj_bias": ours.bias}
    weights |= {
        "multihead_attn.in_proj_weight": torch.cat((query.weight, rest.weight)),
        "multihead_attn.in_proj_bias": torch.cat((query.bias, rest.bias)),
    }
    reference.load_state_dict(weights)
    return reference


def test_layer_is_the_pre_norm_transformer_decoder_layer():
    """With rotary angles of 0: the reference has none."""
    torch.manual_seed(0)
    layer = DecoderLayer(D, HEADS, FFN, 0.1).eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    _, memory_BMD, bias_BM = inputs()
    x_BTD = torch.randn(3, 7, D)
    still = Angles(torch.ones(7, D // HEADS // 2), torch.zeros(7, D // HEADS // 2))
    states, kept, weight_BHMT = layer(x_BTD, layer.look_up(memory_BMD), bias_BM, still, None)
    expected = reference_layer(layer)(
        x_BTD,
        memory_BMD,
        tgt_mask=torch.ones(7, 7, dtype=torch.bool).triu(1),
        memory_key_padding_mask=bias_BM < 0,
    )
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-5)
    assert kept.key.shape == kept.value.shape == (3, HEADS, 7, D // HEADS)
    torch.testing.assert_close(weight_BHMT.sum(2), torch.ones(3, HEADS, 7))
    assert not weight_BHMT[-1, :, 0].any()


@pytest.mark.parametrize("pieces", [[1] * 7, [3, 1, 3], [1, 6], [6, 1]])
def test_with_a_past_it_says_what_it_says_at_once(pieces: list[int]):
    model = decoder()
    tokens_BT, memory_BMD, bias_BM = inputs()
    looked, past, found = model.look_up(memory_BMD), None, []
    for piece_BT in tokens_BT.split(pieces, 1):
        logits_BTV, past, seen_BTM = model(piece_BT, looked, bias_BM, past)
        found.append((logits_BTV, seen_BTM))
    whole_BTV, _, whole_BTM = model(tokens_BT, looked, bias_BM)
    for ours, expected in zip(zip(*found, strict=True), (whole_BTV, whole_BTM), strict=True):
        torch.testing.assert_close(torch.cat(ours, 1), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("at", [1, 4, 6])
def test_later_tokens_change_nothing(at: int):
    model = decoder()
    tokens_BT, memory_BMD, bias_BM = inputs()
    other_BT = tokens_BT.clone()
    other_BT[:, at:] = (other_BT[:, at:] + 1) % VOCAB
    looked = model.look_up(memory_BMD)
    ours, theirs = (model(t, looked, bias_BM)[0] for t in (tokens_BT, other_BT))
    assert torch.equal(ours[:, :at], theirs[:, :at])
    assert (ours[:, at:] - theirs[:, at:]).abs().amax((0, 2)).min() > 1e-3


def test_all_earlier_tokens_and_their_order_count():
    model = decoder(layers=1)
    tokens_BT, memory_BMD, bias_BM = inputs(batch=1)
    table = model.embedding.weight.detach().clone()
    model.embedding.weight = nn.Parameter(table)
    model(tokens_BT, model.look_up(memory_BMD), bias_BM)[0][:, -1].sum().backward()
    gradient_VD = model.embedding.weight.grad
    assert gradient_VD is not None
    assert set(gradient_VD.abs().sum(1).nonzero()[:, 0].tolist()) == set(tokens_BT.flatten().tolist())
    turned_BT = torch.cat((tokens_BT[:, :6].flip(1), tokens_BT[:, 6:]), 1)
    looked = model.look_up(memory_BMD)
    last, other = (model(t, looked, bias_BM)[0][:, -1] for t in (tokens_BT, turned_BT))
    assert (last - other).abs().max() > 1e-2


def test_hidden_places_of_the_memory_change_no_bit():
    model = decoder()
    tokens_BT, memory_BMD, bias_BM = inputs()
    other_BMD = memory_BMD.clone()
    other_BMD[:, 0] = 100.0
    ours, theirs = (model(tokens_BT, model.look_up(m), bias_BM) for m in (memory_BMD, other_BMD))
    assert torch.equal(ours[0][-1], theirs[0][-1])
    assert not ours[2][-1, :, 0].any()
    assert (ours[0][:-1] - theirs[0][:-1]).abs().max() > 1e-2, "the other sentences see that place"


def test_attention_is_the_mean_over_the_heads_of_the_last_layer():
    model = decoder()
    tokens_BT, memory_BMD, bias_BM = inputs()
    seen = {}
    model.layers[-1].register_forward_hook(lambda _module, _inputs, output: seen.update(weight=output[2]))
    attention_BTM = model(tokens_BT, model.look_up(memory_BMD), bias_BM)[2]
    torch.testing.assert_close(attention_BTM, torch.einsum("bhmt->btm", seen["weight"]) / HEADS)
    torch.testing.assert_close(attention_BTM.sum(-1), torch.ones(3, 7))


def test_dropout_acts_in_training_alone_and_every_parameter_is_trained():
    model = decoder(rate=0.5)
    tokens_BT, memory_BMD, bias_BM = inputs()

    def logits() -> torch.Tensor:
        return model(tokens_BT, model.look_up(memory_BMD), bias_BM)[0]

    assert torch.equal(logits(), logits())
    model.train()
    assert not torch.equal(logits(), logits())
    logits().square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
