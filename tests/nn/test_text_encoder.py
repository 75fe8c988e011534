"""The text encoder against torch.nn.TransformerEncoder with the same weights."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from inscape.nn.text_encoder import EncoderLayer, TextEncoder, TextEncoderConfig

TOY = TextEncoderConfig(vocab=30, d=16, layers=2, heads=4, ffn=32, max_length=9)


def reference_layer_weights(layer: EncoderLayer) -> dict[str, torch.Tensor]:
    parts = {
        "norm1": layer.attention_norm,
        "norm2": layer.feed_forward_norm,
        "linear1": layer.feed_forward.up,
        "linear2": layer.feed_forward.down,
        "self_attn.out_proj": layer.attention.out,
    }
    weights = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    joined = layer.attention.query_key_value
    return weights | {"self_attn.in_proj_weight": joined.weight, "self_attn.in_proj_bias": joined.bias}


def test_layer_is_the_pre_norm_transformer_layer():
    torch.manual_seed(0)
    ours = EncoderLayer(16, 4, 32, 0.1).eval()
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    reference = nn.TransformerEncoderLayer(16, 4, 32, 0.1, "gelu", batch_first=True, norm_first=True)
    reference.load_state_dict(reference_layer_weights(ours))
    reference.train()  # its fast path for evaluation has no norm_first; without dropout both modes agree
    for module in reference.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    reference.self_attn.dropout = 0.0
    x_BTD = torch.randn(3, 5, 16)
    torch.testing.assert_close(ours(x_BTD, torch.zeros(3, 5)), reference(x_BTD), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", ["rotary", "learned", "both"])
def test_order_matters_and_padding_does_not(positions: str):
    torch.manual_seed(0)
    encoder = TextEncoder(TextEncoderConfig(30, 16, 2, 4, 32, 0.1, 9, positions)).eval()
    tokens_BT = torch.tensor([[5, 6, 7, 8], [5, 7, 6, 8]])
    keep_BT = torch.ones_like(tokens_BT, dtype=torch.bool)
    states_BTD = encoder(tokens_BT, keep_BT)
    assert (states_BTD[0, 3] - states_BTD[1, 3]).abs().max() > 1e-2
    padded = nn.functional.pad(tokens_BT, (0, 5)), nn.functional.pad(keep_BT, (0, 5))
    torch.testing.assert_close(encoder(*padded)[:, :4], states_BTD, atol=1e-5, rtol=0)


def test_rotary_acts_in_every_layer_and_not_on_the_embedding():
    torch.manual_seed(0)
    encoder = TextEncoder(TOY).eval()
    same = torch.full((1, 6), 5)
    states_BTD = encoder(same, torch.ones_like(same, dtype=torch.bool))
    # Equal tokens give equal values, so relative positions alone leave every state the same.
    torch.testing.assert_close(states_BTD, states_BTD[:, :1].expand_as(states_BTD), atol=1e-5, rtol=0)


def test_both_positions_are_the_learned_one_on_the_embedding_and_the_rotary_one_in_every_layer():
    torch.manual_seed(0)
    both = TextEncoder(replace(TOY, positions="both")).eval()
    tokens_BT = torch.randint(0, 30, (2, 7))
    keep_BT = torch.ones_like(tokens_BT, dtype=torch.bool)
    shared = {name: value for name, value in both.state_dict().items() if name != "position_TD"}
    rotary, learned = TextEncoder(TOY).eval(), TextEncoder(replace(TOY, positions="learned")).eval()
    rotary.load_state_dict(shared)
    learned.load_state_dict(both.state_dict())
    embedded_BTD = both.embedding(tokens_BT) + both.position_TD[:7]
    expected = rotary(tokens_BT, keep_BT, embedded_BTD)
    torch.testing.assert_close(both(tokens_BT, keep_BT), expected)
    assert (both(tokens_BT, keep_BT) - learned(tokens_BT, keep_BT)).abs().max() > 1e-2
    both.get_buffer("cos").fill_(1.0)
    both.get_buffer("sin").fill_(0.0)
    torch.testing.assert_close(both(tokens_BT, keep_BT), learned(tokens_BT, keep_BT))


@pytest.mark.parametrize("positions", ["rotary", "learned", "both"])
def test_given_embeddings_stand_for_the_tokens(positions: str):
    torch.manual_seed(0)
    encoder = TextEncoder(replace(TOY, positions=positions)).eval()
    tokens_BT, other_BT = torch.randint(1, 30, (2, 2, 7))
    keep_BT = torch.ones_like(tokens_BT, dtype=torch.bool)
    embedded_BTD = encoder.embedding.weight.detach()[other_BT].requires_grad_()
    states_BTD = encoder(tokens_BT, keep_BT, embedded_BTD)
    torch.testing.assert_close(states_BTD, encoder(other_BT, keep_BT))
    states_BTD.square().sum().backward()
    assert embedded_BTD.grad is not None
    assert embedded_BTD.grad.abs().sum(-1).min() > 0
    assert encoder.embedding.weight.grad is None


def test_too_long_is_refused():
    with pytest.raises(ValueError, match=r"at most 9 tokens a sentence \(max_length\), got 10"):
        TextEncoder(TOY)(torch.ones(1, 10, dtype=torch.long), torch.ones(1, 10, dtype=torch.bool))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab": 0}, "vocab must be at least 1, got 0"),
        ({"d": 18}, r"d must be a multiple of heads \(4\), got 18"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"positions": "sine"}, "positions must be rotary, learned or both, got 'sine'"),
        ({"d": 12}, "rotary positions need an even d / heads, got 12 / 4"),
    ],
)
def test_bad_sizes_are_named(change: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        TextEncoderConfig(**({"heads": 4, "d": 16} | change))  # pyright: ignore[reportArgumentType]
