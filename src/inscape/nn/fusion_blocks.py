"""Three ways in which one layer of a frozen language model reads audio tokens; `inscape.nn.fusion` puts them in place.

    lora_cross_attention    h + g Out(Attn(q(h), k(a), v(a)))    q, k, v: the layer's own maps, LoRA on q and v; Out is
                            low-rank and starts at zero; g is clamped to 0..residual_max
    gated_cross_attention   h + tanh(g) Attn(LN(h), a)           maps of its own (Flamingo, Alayrac et al. 2022,
                            [then + tanh(g') FFN(LN(h))]         equation 1 and figure 4); g starts at zero
    zero_init_attention     o(Attn(q, k, v) + tanh(g) Attn(q, k(a), v(a)))      nothing but g, one for each head, from
                            zero (LLaMA-Adapter, Zhang et al. 2023, section 3.2: a softmax apart for what is added)

Each is the identity when it is made, to the last bit: what it adds is a finite number times zero. Nothing normalises
after a gate or after the tokens' scale: LayerNorm(s x) is the same for every s, and would make both of no effect.

Places: audio has no place in the text. Its keys are not rotated, and the queries that meet them are taken before their
rotation (LLaMA-Adapter's code rotates those, which makes a score depend on how far the text has gone).

A clip without a token adds exactly nothing. Softmax alone would have it heard: over masked tokens it is uniform.

Legend: B clips, T positions of the text, K audio tokens, D width of the model, H heads, E width of one, I = H E.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from inscape.nn.attention import FeedForward, attention_weights, init_linear, padding_bias
from inscape.nn.fusion_joined import joined_maps_of
from inscape.nn.lora import LowRankMap

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = [
    "GatedCrossAttention",
    "Heard",
    "LowRankCrossAttention",
    "Memory",
    "Projections",
    "ZeroInitAttention",
    "projections_of",
    "straight_clamp",
]


class Projections(NamedTuple):
    """The linear maps of a layer's self-attention. Models with fewer key heads than heads have them shared in turn."""

    query: Any
    key: Any
    value: Any
    out: Any
    query_norm: Any  # of models that normalise queries and keys; else None
    key_norm: Any
    heads: int
    key_heads: int
    width: int  # E


class Memory(NamedTuple):
    """What a layer remembers of the audio for as long as it is attached."""

    key_BHKE: Tensor
    value_BHKE: Tensor
    bias_BK: Tensor  # float32: 0, or "never" for a token that is not there
    audible_B: Tensor  # bool: whether the clip has any token

    @classmethod
    def of(
        cls, key_BHKE: Float[Tensor, "B H K E"], value_BHKE: Float[Tensor, "B H K E"], mask_BK: Bool[Tensor, "B K"]
    ) -> Memory:
        return cls(key_BHKE, value_BHKE, padding_bias(mask_BK, torch.float32), mask_BK.any(1))

    def only(self, kept_A: Tensor) -> Memory:
        """That of the clips at these places."""
        return Memory(*(part[kept_A] for part in self))


class Heard(NamedTuple):
    """What reading the audio adds, gate included, and the attention weights with which it was read."""

    added_BTI: Tensor
    weight_BHKT: Tensor


def projections_of(layer: nn.Module, heads: int) -> Projections | None:
    """The maps called q_proj, k_proj, v_proj and o_proj or out_proj of a layer, or the parts of one that are known to
    `fusion_joined`; None where there are neither.
    """
    for part in layer.modules():
        query, key, value = (getattr(part, name, None) for name in ("q_proj", "k_proj", "v_proj"))
        out = getattr(part, "o_proj", None) or getattr(part, "out_proj", None)
        if all(isinstance(m, nn.Module) for m in (query, key, value, out)):
            width = query.out_features // heads  # type: ignore[union-attr]
            key_heads = key.out_features // width  # type: ignore[union-attr]
            query_norm, key_norm = getattr(part, "q_norm", None), getattr(part, "k_norm", None)
            return Projections(query, key, value, out, query_norm, key_norm, heads, key_heads, width)
        if (joined := joined_maps_of(part, heads)) is not None:
            return Projections(*joined[:4], None, None, heads, joined.key_heads, joined.width)
    return None


def straight_clamp(gate: Float[Tensor, ""], low: float, high: float) -> Float[Tensor, ""]:
    """The gate within its bounds, with slope 1 everywhere (straight-through; Bengio et al. 2013).

    A plain clamp has slope 0 outside: a gate that one step took below 0 would shut its block off for good.
    """
    return gate.clamp(low, high).detach() + (gate - gate.detach())


@final
class LowRankCrossAttention(nn.Module):
    """The seed's fusion block around the frozen maps of one layer.

    normalise: queries are taken of h / rms(h), since the layer's own q_proj stands behind a norm as well, and states
    between layers are so large that softmax would choose one token and learn nothing. Without it, of h as it is.
    """

    def __init__(
        self,
        maps: Projections,
        dimension: int,
        *,
        rank: int,
        alpha: float,
        residual: tuple[float, float],
        normalise: bool,
    ) -> None:
        super().__init__()
        start, self.most = residual
        self.normalise = normalise
        inner = maps.heads * maps.width
        self.query = LowRankMap(dimension, inner, rank, alpha)
        self.value = LowRankMap(dimension, maps.key_heads * maps.width, rank, alpha)
        self.out = LowRankMap(inner, dimension, rank, alpha)
        self.gate = nn.Parameter(torch.tensor(float(start)))

    def gate_value(self) -> Tensor:
        return straight_clamp(self.gate, 0.0, self.most)

    def memory(self, maps: Projections, tokens_BKD: Float[Tensor, "B K D"], mask_BK: Bool[Tensor, "B K"]) -> Memory:
        value_BKI = maps.value(tokens_BKD)
        value_BKI = value_BKI + self.value(tokens_BKD).to(value_BKI.dtype)
        return Memory.of(_key_heads(maps, tokens_BKD), _shared(maps, _split(value_BKI, maps.key_heads)), mask_BK)

    def forward(self, maps: Projections, hidden_BTD: Float[Tensor, "B T D"], memory: Memory, gain: float) -> Heard:
        x_BTD = functional.rms_norm(hidden_BTD, hidden_BTD.shape[-1:], eps=1e-6) if self.normalise else hidden_BTD
        query_BTI = maps.query(x_BTD)
        query_BTI = query_BTI + self.query(x_BTD).to(query_BTI.dtype)
        mixed_BTI, weight_BHKT = _attend(_query_heads(maps, query_BTI), memory)
        return Heard(gain * self.gate_value() * self.out(mixed_BTI), weight_BHKT)


@final
class GatedCrossAttention(nn.Module):
    """Flamingo's block: maps of its own, LayerNorm of the states before them, and optionally a gated FFN behind."""

    def __init__(self, dimension: int, heads: int, head_width: int, *, feed_forward: bool) -> None:
        super().__init__()
        inner = heads * head_width
        self.heads = heads
        self.norm = nn.LayerNorm(dimension)
        self.query, self.key, self.value = (init_linear(nn.Linear(dimension, inner)) for _ in range(3))
        self.out = init_linear(nn.Linear(inner, dimension))
        self.gate = nn.Parameter(torch.zeros(()))
        self.inner_norm = nn.LayerNorm(dimension) if feed_forward else None
        self.inner = FeedForward(dimension, 4 * dimension, 0.0) if feed_forward else None
        self.inner_gate = nn.Parameter(torch.zeros(())) if feed_forward else None

    def gate_value(self) -> Tensor:
        return self.gate.tanh()

    def memory(self, maps: Any, tokens_BKD: Float[Tensor, "B K D"], mask_BK: Bool[Tensor, "B K"]) -> Memory:
        tokens_BKD = tokens_BKD.to(self.key.weight.dtype)
        key_BKI, value_BKI = self.key(tokens_BKD), self.value(tokens_BKD)
        return Memory.of(_split(key_BKI, self.heads), _split(value_BKI, self.heads), mask_BK)

    def forward(self, maps: Any, hidden_BTD: Float[Tensor, "B T D"], memory: Memory, gain: float) -> Heard:
        hidden_BTD = hidden_BTD.to(self.norm.weight.dtype)
        query_BHTE = _split(self.query(self.norm(hidden_BTD)), self.heads)
        mixed_BTI, weight_BHKT = _attend(query_BHTE, memory)
        added_BTD = gain * self.gate_value() * self.out(mixed_BTI)
        if self.inner is not None and self.inner_norm is not None and self.inner_gate is not None:
            then_BTD = self.inner(self.inner_norm(hidden_BTD + added_BTD))
            added_BTD = added_BTD + gain * self.inner_gate.tanh() * then_BTD
        return Heard(added_BTD, weight_BHKT)


@final
class ZeroInitAttention(nn.Module):
    """A gate for each head; what it lets through goes into the layer's own o_proj, with what the layer read itself."""

    def __init__(self, maps: Projections) -> None:
        super().__init__()
        self.gate_H = nn.Parameter(torch.zeros(maps.heads))

    def gate_value(self) -> Tensor:
        """The mean over heads of its absolute value: heads may take signs that cancel."""
        return self.gate_H.tanh().abs().mean()

    def memory(self, maps: Projections, tokens_BKD: Float[Tensor, "B K D"], mask_BK: Bool[Tensor, "B K"]) -> Memory:
        value_BHKE = _shared(maps, _split(maps.value(tokens_BKD), maps.key_heads))
        return Memory.of(_key_heads(maps, tokens_BKD), value_BHKE, mask_BK)

    def forward(self, maps: Projections, query_BTI: Float[Tensor, "B T I"], memory: Memory, gain: float) -> Heard:
        """query_BTI: what the layer's q_proj gave in this very pass."""
        mixed_BTI, weight_BHKT = _attend(_query_heads(maps, query_BTI), memory)
        gate_I = self.gate_H.tanh().repeat_interleave(maps.width)
        return Heard(gain * gate_I * mixed_BTI, weight_BHKT)


def _attend(query_BHTE: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
    """What each query reads, heads side by side, and the weights; softmax in float32 or better."""
    key_BHKE = memory.key_BHKE.to(query_BHTE.dtype) * query_BHTE.shape[-1] ** -0.5
    score_BHKT = key_BHKE @ query_BHTE.transpose(-1, -2)
    score_BHKT = score_BHKT.to(torch.promote_types(score_BHKT.dtype, torch.float32))
    weight_BHKT = attention_weights(score_BHKT, memory.bias_BK, 0.0)
    mixed_BHTE = weight_BHKT.transpose(-1, -2).to(query_BHTE.dtype) @ memory.value_BHKE.to(query_BHTE.dtype)
    return mixed_BHTE.transpose(1, 2).flatten(2), weight_BHKT


def _split(x_BKI: Tensor, heads: int) -> Tensor:
    return x_BKI.unflatten(-1, (heads, -1)).transpose(1, 2)


def _shared(maps: Projections, x_BGKE: Tensor) -> Tensor:
    """Each key head serves the heads of its group, which stand together (Ainslie et al. 2023)."""
    return x_BGKE.repeat_interleave(maps.heads // maps.key_heads, 1)


def _key_heads(maps: Projections, tokens_BKD: Tensor) -> Tensor:
    return _shared(maps, _normed(maps.key(tokens_BKD), maps.key_norm, maps.key_heads, maps.width))


def _query_heads(maps: Projections, query_BTI: Tensor) -> Tensor:
    return _normed(query_BTI, maps.query_norm, maps.heads, maps.width)


def _normed(x_BKI: Tensor, norm: Any, heads: int, width: int) -> Tensor:
    """Heads, after the model's own norm of them: of each head (Qwen3) or of all at once (OLMo 2)."""
    if norm is None:
        return _split(x_BKI, heads)
    if norm.weight.numel() == width:
        return norm(x_BKI.unflatten(-1, (heads, -1))).transpose(1, 2)
    return _split(norm(x_BKI), heads)
