"""Attention as this package uses it: few text tokens, read by themselves or by many queries.

Legend: B batch, Q queries, T tokens, H heads, S = H T, E = D / H width of one head, D model width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from inscape.nn.dropout import dropout
from inscape.nn.rotary import Angles, rotate

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = [
    "MASKED",
    "CrossAttention",
    "FeedForward",
    "SelfAttention",
    "attend",
    "attention_weights",
    "init_linear",
    "padding_bias",
]

MASKED = -1.0e9  # finite: a row without one kept token then averages its padding instead of turning into NaN


def init_linear(linear: nn.Linear) -> nn.Linear:
    """Zero bias and weights of variance 1 / inputs, so unit-variance inputs give unit-variance outputs."""
    nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
    nn.init.zeros_(linear.bias)
    return linear


def padding_bias(keep_BT: Bool[Tensor, "B T"], dtype: torch.dtype) -> Float[Tensor, "B T"]:
    """What is added to attention scores: 0 for tokens to keep, a finite "never" for padding."""
    return torch.zeros_like(keep_BT, dtype=dtype).masked_fill(~keep_BT, MASKED)


def attend(
    query_BHQE: Float[Tensor, "B H Q E"],
    key_BHTE: Float[Tensor, "B H T E"],
    value_BHTE: Float[Tensor, "B H T E"],
    bias_BT: Float[Tensor, "B T"],
    rate: float,
) -> Float[Tensor, "B H Q E"]:
    """Scaled dot-product attention (Vaswani et al. 2017, equation 1) with dropout `rate` on its weights.

    On CPUs the three plain steps are used: for tens of tokens the backward pass of the fused kernel is slower.
    """
    if query_BHQE.device.type != "cpu":
        bias_B11T = bias_BT[:, None, None].to(query_BHQE.dtype)
        return functional.scaled_dot_product_attention(query_BHQE, key_BHTE, value_BHTE, bias_B11T, rate)
    score_BHTQ = (key_BHTE * key_BHTE.shape[-1] ** -0.5) @ query_BHQE.transpose(-1, -2)
    return attention_weights(score_BHTQ, bias_BT, rate).transpose(-1, -2) @ value_BHTE


def attention_weights(score_BHTQ: Tensor, bias_BT: Tensor, rate: float) -> Tensor:
    """Softmax over the tokens, then dropout.

    Tokens stand before queries: a softmax over a few tens of neighbours in memory cannot use a CPU's wide registers and
    takes five to ten times as long.
    """
    return dropout((score_BHTQ + bias_BT[:, None, :, None].to(score_BHTQ.dtype)).softmax(-2), rate)


class SelfAttention(nn.Module):
    """Multi-head self-attention over tokens, optionally with rotary positions on queries and keys."""

    def __init__(self, d: int, heads: int, rate: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, rate
        self.query_key_value = init_linear(nn.Linear(d, 3 * d))
        self.out = init_linear(nn.Linear(d, d))

    def forward(
        self, x_BTD: Float[Tensor, "B T D"], bias_BT: Float[Tensor, "B T"], angles: Angles | None = None
    ) -> Float[Tensor, "B T D"]:
        query, key, value = self.query_key_value(x_BTD).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        mixed_BHTE = attend(query, key, value, bias_BT, self.rate if self.training else 0.0)
        return self.out(mixed_BHTE.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Linear, GELU, dropout, linear."""

    def __init__(self, d: int, hidden: int, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.up = init_linear(nn.Linear(d, hidden))
        self.down = init_linear(nn.Linear(hidden, d))

    def hidden(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... K"]:
        """The activations between the two linear maps, after dropout."""
        return dropout(functional.gelu(self.up(x)), self.rate if self.training else 0.0)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return self.down(self.hidden(x))


class CrossAttention(nn.Module):
    """Multi-head attention of many queries to few tokens.

    Two exact rearrangements save work and change no result. Queries given without a batch axis are the same for every
    sentence, and are projected once. And when tokens are few, W_Q moves from the queries into the keys and W_O from
    the outputs into the values:

        (x W_Q) k^T = x (k W_Q^T)^T          (A v) W_O = A (v W_O)

    so Q rows pass through H * T columns instead of D, twice; `T (Q H + D) < Q (D + T)` says when that is less work.
    """

    def __init__(self, d: int, heads: int, rate: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, rate
        self.query = init_linear(nn.Linear(d, d))
        self.key_value = init_linear(nn.Linear(d, 2 * d))
        self.out = init_linear(nn.Linear(d, d))

    def forward(
        self,
        queries: Float[Tensor, "Q D"] | Float[Tensor, "B Q D"],
        states_BTD: Float[Tensor, "B T D"],
        bias_BT: Float[Tensor, "B T"],
        onto: Float[Tensor, "Q D"] | Float[Tensor, "B Q D"],
    ) -> Float[Tensor, "B Q D"]:
        """`onto` plus what the queries read; adding inside the last product saves a pass over the result."""
        rate = self.rate if self.training else 0.0
        key_BHTE, value_BHTE = self.key_value(states_BTD).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        (count, d), tokens = queries.shape[-2:], states_BTD.shape[1]
        if tokens * (count * self.heads + d) >= count * (d + tokens):
            query = self.query(queries).unflatten(-1, (self.heads, -1)).transpose(-2, -3)
            mixed_BHQE = attend(query.expand(len(key_BHTE), -1, -1, -1), key_BHTE, value_BHTE, bias_BT, rate)
            return onto + self.out(mixed_BHQE.transpose(1, 2).flatten(2))
        scores = self._shared_scores if queries.ndim == 2 else self._absorbed_scores
        score_BHTQ = scores(queries, key_BHTE * key_BHTE.shape[-1] ** -0.5)
        weight_BSQ = attention_weights(score_BHTQ, bias_BT, rate).flatten(1, 2)
        value_BHTD = value_BHTE @ self.out.weight.T.unflatten(0, (self.heads, -1))
        return torch.baddbmm(onto + self.out.bias.to(onto.dtype), weight_BSQ.transpose(1, 2), value_BHTD.flatten(1, 2))

    def _shared_scores(self, queries_QD: Tensor, key_BHTE: Tensor) -> Tensor:
        query_HEQ = self.query(queries_QD).unflatten(-1, (self.heads, -1)).permute(1, 2, 0)
        key_HBTE = key_BHTE.transpose(0, 1)
        score_HBTQ = (key_HBTE.flatten(1, 2) @ query_HEQ).unflatten(1, key_HBTE.shape[1:3])
        return score_HBTQ.transpose(0, 1)

    def _absorbed_scores(self, queries_BQD: Tensor, key_BHTE: Tensor) -> Tensor:
        heads_tokens = key_BHTE.shape[1:3]
        key_BSD = (key_BHTE @ self.query.weight.unflatten(0, (self.heads, -1))).flatten(1, 2)
        offset_BS1 = (key_BHTE @ self.query.bias.unflatten(0, (self.heads, -1, 1))).flatten(1, 2)
        return torch.baddbmm(offset_BS1, key_BSD, queries_BQD.transpose(1, 2)).unflatten(1, heads_tokens)
