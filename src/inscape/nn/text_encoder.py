"""The text encoder: a small pre-LayerNorm transformer from token ids to one state per token.

Legend: B batch, T tokens, D model width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from inscape.nn.attention import FeedForward, SelfAttention, padding_bias
from inscape.nn.dropout import dropout
from inscape.nn.rotary import Angles, rotary_angles

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

__all__ = ["EncoderLayer", "TextEncoder", "TextEncoderConfig"]


@dataclass(frozen=True)
class TextEncoderConfig:
    """Sizes of the text encoder; the defaults are the plan's."""

    vocab: int = 32_000  # token ids, special ones included
    d: int = 384  # model width
    layers: int = 6  # transformer layers
    heads: int = 8  # attention heads; each is d / heads wide
    ffn: int = 1536  # width inside the feed-forward layers
    dropout: float = 0.1  # probability, in [0, 1)
    max_length: int = 64  # tokens
    positions: str = "rotary"  # rotary | learned | both

    def __post_init__(self) -> None:
        for name in ("vocab", "d", "layers", "heads", "ffn", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.d % self.heads:
            raise ValueError(f"d must be a multiple of heads ({self.heads}), got {self.d}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        if self.positions not in ("rotary", "learned", "both"):
            raise ValueError(f"positions must be rotary, learned or both, got {self.positions!r}")
        if self.positions != "learned" and self.d // self.heads % 2:
            raise ValueError(f"rotary positions need an even d / heads, got {self.d} / {self.heads}")


class EncoderLayer(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)), with dropout on both branches.

    The pre-LayerNorm transformer (Xiong et al. 2020); the same arithmetic as torch.nn.TransformerEncoderLayer with
    `norm_first=True` and exact GELU.
    """

    def __init__(self, d: int, heads: int, ffn: int, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.attention_norm = nn.LayerNorm(d)
        self.attention = SelfAttention(d, heads, rate)
        self.feed_forward_norm = nn.LayerNorm(d)
        self.feed_forward = FeedForward(d, ffn, rate)

    def forward(
        self, x_BTD: Float[Tensor, "B T D"], bias_BT: Float[Tensor, "B T"], angles: Angles | None = None
    ) -> Float[Tensor, "B T D"]:
        rate = self.rate if self.training else 0.0
        x_BTD = x_BTD + dropout(self.attention(self.attention_norm(x_BTD), bias_BT, angles), rate)
        return x_BTD + dropout(self.feed_forward(self.feed_forward_norm(x_BTD)), rate)


class TextEncoder(nn.Module):
    """Token ids to token states. Padding is never attended to; its own states are meaningless."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab, config.d)
        nn.init.normal_(self.embedding.weight)
        if config.positions != "rotary":
            self.position_TD = nn.Parameter(torch.randn(config.max_length, config.d))
        if config.positions != "learned":
            angles = rotary_angles(config.max_length, config.d // config.heads)
            self.register_buffer("cos", angles.cos, persistent=False)
            self.register_buffer("sin", angles.sin, persistent=False)
        self.layers = nn.ModuleList(
            EncoderLayer(config.d, config.heads, config.ffn, config.dropout) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.d)

    def forward(
        self,
        tokens_BT: Int[Tensor, "B T"],
        keep_BT: Bool[Tensor, "B T"],
        embedded_BTD: Float[Tensor, "B T D"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """States of the tokens; `keep_BT` is False at padding. Raises ValueError past `max_length` tokens.

        embedded_BTD: what stands for the tokens' embeddings, where gradients must flow through them.
        """
        tokens = tokens_BT.shape[1]
        if tokens > self.config.max_length:
            raise ValueError(f"at most {self.config.max_length} tokens a sentence (max_length), got {tokens}")
        x_BTD = self.embedding(tokens_BT) if embedded_BTD is None else embedded_BTD
        bias_BT = padding_bias(keep_BT, x_BTD.dtype)
        angles = None
        if self.config.positions != "rotary":
            x_BTD = x_BTD + self.position_TD[:tokens]
        if self.config.positions != "learned":
            angles = Angles(self.get_buffer("cos"), self.get_buffer("sin"))
        for layer in self.layers:
            x_BTD = layer(x_BTD, bias_BT, angles)
        return self.norm(x_BTD)
