"""Attention against torch.nn.MultiheadAttention with the same weights, on every path."""

import pytest
import torch
from torch import nn

from inscape.nn.attention import CrossAttention, SelfAttention, padding_bias

D, HEADS, B = 24, 4, 3


def lengths_to_keep(lengths: list[int], tokens: int) -> torch.Tensor:
    return torch.arange(tokens) < torch.tensor(lengths)[:, None]


def random_biases(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)


def test_self_attention_is_multihead_attention():
    torch.manual_seed(0)
    ours = SelfAttention(D, HEADS, 0.0)
    random_biases(ours)
    reference = nn.MultiheadAttention(D, HEADS, batch_first=True)
    state = {"in_proj_weight": ours.query_key_value.weight, "in_proj_bias": ours.query_key_value.bias}
    reference.load_state_dict(state | {f"out_proj.{name}": value for name, value in ours.out.state_dict().items()})
    x_BTD, keep_BT = torch.randn(B, 7, D), lengths_to_keep([7, 4, 1], 7)
    expected, _ = reference(x_BTD, x_BTD, x_BTD, key_padding_mask=~keep_BT)
    torch.testing.assert_close(ours(x_BTD, padding_bias(keep_BT, x_BTD.dtype)), expected, atol=1e-5, rtol=1e-5)


# few tokens: weights move into keys and values; many tokens, or fewer queries than tokens: the plain order
@pytest.mark.parametrize(("queries", "tokens"), [(40, 3), (40, 30), (4, 7)])
@pytest.mark.parametrize("shared", [True, False])
def test_cross_attention_is_multihead_attention(queries: int, tokens: int, shared: bool):
    torch.manual_seed(0)
    ours = CrossAttention(D, HEADS, 0.0)
    random_biases(ours)
    reference = nn.MultiheadAttention(D, HEADS, batch_first=True)
    state = {
        "in_proj_weight": torch.cat((ours.query.weight, ours.key_value.weight)),
        "in_proj_bias": torch.cat((ours.query.bias, ours.key_value.bias)),
    }
    reference.load_state_dict(state | {f"out_proj.{name}": value for name, value in ours.out.state_dict().items()})
    given = torch.randn(queries, D) if shared else torch.randn(B, queries, D)
    states_BTD, keep_BT = torch.randn(B, tokens, D), lengths_to_keep([tokens, 2, 1], tokens)
    query_BQD = given.expand(B, -1, -1) if shared else given
    expected, _ = reference(query_BQD, states_BTD, states_BTD, key_padding_mask=~keep_BT)
    found = ours(given, states_BTD, padding_bias(keep_BT, states_BTD.dtype), onto=given)
    torch.testing.assert_close(found, given + expected, atol=1e-5, rtol=1e-5)


def test_the_paths_are_chosen_by_work(monkeypatch: pytest.MonkeyPatch):
    module = CrossAttention(D, HEADS, 0.0)
    taken: list[str] = []
    for name in ("_shared_scores", "_absorbed_scores"):
        path = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, name=name, path=path: taken.append(name) or path(*given))
    for queries, tokens in ((torch.randn(40, D), 3), (torch.randn(B, 40, D), 3), (torch.randn(B, 40, D), 30)):
        module(queries, torch.randn(B, tokens, D), torch.zeros(B, tokens), onto=queries)
    assert taken == ["_shared_scores", "_absorbed_scores"]


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    module = CrossAttention(D, HEADS, 0.5)
    given = torch.randn(40, D), torch.randn(B, 3, D), torch.zeros(B, 3), torch.randn(40, D)
    assert not torch.equal(module(*given), module(*given))
    module.eval()
    assert torch.equal(module(*given), module(*given))
