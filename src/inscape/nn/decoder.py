"""From the states of a latent to text: a causal transformer that looks at them through cross-attention.

Legend: B batch, T tokens, M places of the memory, D model width, H heads, E = D / H, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from inscape.nn.attention import MASKED, FeedForward, attention_weights, init_linear
from inscape.nn.dropout import dropout
from inscape.nn.rotary import Angles, rotary_angles, rotate

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["Decoder", "KeysValues"]


class KeysValues(NamedTuple):
    """Projected keys and values, (B, H, M, E) each."""

    key: Tensor
    value: Tensor


class DecoderLayer(nn.Module):
    """Pre-LayerNorm: causal self-attention, cross-attention, feed-forward."""

    called_beside_forward = ("look_up",)  # see inscape.parallel

    def __init__(self, d: int, heads: int, ffn: int, rate: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, rate
        self.self_norm = nn.LayerNorm(d)
        self.query_key_value = init_linear(nn.Linear(d, 3 * d))
        self.self_out = init_linear(nn.Linear(d, d))
        self.cross_norm = nn.LayerNorm(d)
        self.cross_query = init_linear(nn.Linear(d, d))
        self.cross_key_value = init_linear(nn.Linear(d, 2 * d))
        self.cross_out = init_linear(nn.Linear(d, d))
        self.feed_forward_norm = nn.LayerNorm(d)
        self.feed_forward = FeedForward(d, ffn, rate)

    def look_up(self, memory_BMD: Tensor) -> KeysValues:
        """What cross-attention needs of the memory, once for all tokens."""
        key, value = self.cross_key_value(memory_BMD).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return KeysValues(key, value)

    def forward(
        self, x_BTD: Tensor, looked: KeysValues, bias_BM: Tensor, angles: Angles, past: KeysValues | None
    ) -> tuple[Tensor, KeysValues, Tensor]:
        """States, the keys and values of all tokens so far, and the cross-attention's weights (B, H, M, T)."""
        rate = self.rate if self.training else 0.0
        query, key, value = (
            self.query_key_value(self.self_norm(x_BTD)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        query, key = rotate(query, angles), rotate(key, angles)
        if past is not None:
            key, value = torch.cat((past.key, key), 2), torch.cat((past.value, value), 2)
        score_BHST = (key * key.shape[-1] ** -0.5) @ query.transpose(-1, -2)
        tokens, new = key.shape[2], query.shape[2]
        if new > 1:
            later_ST = torch.ones(tokens, new, dtype=torch.bool, device=x_BTD.device).tril(new - tokens - 1)
            score_BHST = score_BHST.masked_fill(later_ST, MASKED)
        mixed = dropout(score_BHST.softmax(-2), rate).transpose(-1, -2) @ value
        x_BTD = x_BTD + dropout(self.self_out(mixed.transpose(1, 2).flatten(2)), rate)
        query = self.cross_query(self.cross_norm(x_BTD)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        score_BHMT = (looked.key * looked.key.shape[-1] ** -0.5) @ query.transpose(-1, -2)
        weight_BHMT = attention_weights(score_BHMT, bias_BM, rate)
        mixed = weight_BHMT.transpose(-1, -2) @ looked.value
        x_BTD = x_BTD + dropout(self.cross_out(mixed.transpose(1, 2).flatten(2)), rate)
        x_BTD = x_BTD + dropout(self.feed_forward(self.feed_forward_norm(x_BTD)), rate)
        return x_BTD, KeysValues(key, value), weight_BHMT


class Decoder(nn.Module):
    """Tokens so far and a memory to logits of the next token."""

    def __init__(self, vocab: int, d: int, heads: int, ffn: int, rate: float, *, layers: int, max_length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, d)
        nn.init.normal_(self.embedding.weight)
        self.position_TD = nn.Parameter(torch.randn(max_length, d))
        angles = rotary_angles(max_length, d // heads)
        self.register_buffer("cos", angles.cos, persistent=False)
        self.register_buffer("sin", angles.sin, persistent=False)
        self.layers = nn.ModuleList(DecoderLayer(d, heads, ffn, rate) for _ in range(layers))
        self.norm = nn.LayerNorm(d)
        self.logits = init_linear(nn.Linear(d, vocab))

    def look_up(self, memory_BMD: Float[Tensor, "B M D"]) -> list[KeysValues]:
        """Keys and values of the memory for each layer."""
        return [layer.look_up(memory_BMD) for layer in self.layers]  # pyright: ignore[reportCallIssue]

    def forward(
        self,
        tokens_BT: Int[Tensor, "B T"],
        looked: list[KeysValues],
        bias_BM: Float[Tensor, "B M"],
        past: list[KeysValues] | None = None,
    ) -> tuple[Float[Tensor, "B T V"], list[KeysValues], Tensor]:
        """Logits after each token, keys and values of all tokens so far, and attention (B, T, M) of the last layer."""
        x_BTD, kept, seen_BTM = self.states(tokens_BT, looked, bias_BM, past)
        return self.logits(x_BTD), kept, seen_BTM

    def states(
        self,
        tokens_BT: Int[Tensor, "B T"],
        looked: list[KeysValues],
        bias_BM: Float[Tensor, "B M"],
        past: list[KeysValues] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], list[KeysValues], Tensor]:
        """What `logits` makes logits of: the one layer whose cost grows with the vocabulary is left out."""
        start = 0 if past is None else past[0].key.shape[2]
        angles = Angles(*(self.get_buffer(n)[start : start + tokens_BT.shape[1]] for n in ("cos", "sin")))
        x_BTD = self.embedding(tokens_BT) + self.position_TD[start : start + tokens_BT.shape[1]]
        kept, weight = [], None
        for i, layer in enumerate(self.layers):
            x_BTD, pair, weight = layer(x_BTD, looked[i], bias_BM, angles, past[i] if past else None)
            kept.append(pair)
        assert weight is not None
        return self.norm(x_BTD), kept, weight.mean(1).transpose(1, 2)
