"""From frames of an audio encoder to a few tokens in the width of a language model: five ways, one interface.

    mlp           one mean over time, two linear maps, k tokens                (the AudioProjector of the seed)
    adaptive      the same, and a prediction of how many of the k tokens a clip needs
    linear_stack  neighbouring frames side by side through one linear map      (SLAM-ASR, Ma et al. 2024)
    qformer       learned queries that read each other, then the frames        (BLIP-2, Li et al. 2023, section 3.1)
    perceiver     learned latents that read frames and latents at once         (Flamingo, Alayrac et al. 2022, 3.1)

An mlp spreads one vector over k tokens: more tokens add no information. It is kept as what was done before; the last
three hear the order of sounds. All of them end with scale * tanh(.), so that tokens of every kind have one range, and
two of them differ by how they listen alone. Nothing normalises after the scale, which would undo it.

Padding frames are set to zero and masked: what they held cannot reach a token. The places of frames are counted among
frames that are there. A clip without any gives tokens that are finite and marked as not there.

Legend: B clips, T frames, F width of a frame, K tokens, k most tokens, W inner width, D width of the language model,
S frames of a stack, G stacks, I = S F.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from inscape.nn.attention import CrossAttention, FeedForward, SelfAttention, init_linear, padding_bias
from inscape.nn.audio_tokens import AudioTokens
from inscape.nn.dropout import dropout

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = ["PROJECTORS", "AdaptiveProjector", "ProjectorConfig", "make_projector"]

PROJECTORS = ("mlp", "adaptive", "linear_stack", "qformer", "perceiver")
GENEROUS = 2.0  # the count's bias at first: sigmoid(2) = 0.88 of the tokens are used


@dataclass(frozen=True)
class ProjectorConfig:
    """How audio becomes tokens. ValueError in one line for what is out of range."""

    kind: str = "mlp"  # one of PROJECTORS
    tokens: int = 32  # k; linear_stack gives fewer for shorter clips
    bottleneck: int = 1024  # inner width; 0 = none: mlp is one map, qformer and perceiver are as wide as the frames
    scale: float = 10.0  # the largest value a token can have; the embeddings of some models lie around 5 to 15
    dropout: float = 0.1  # share of inner values that are dropped in training
    layers: int = 2  # of qformer and perceiver
    heads: int = 8  # of qformer and perceiver; divides the inner width
    stack: int = 8  # frames that linear_stack makes one token of

    def __post_init__(self) -> None:
        if self.kind not in PROJECTORS:
            raise ValueError(f"kind={self.kind!r} is no projector; allowed: {', '.join(PROJECTORS)}")
        for name in ("tokens", "layers", "heads", "stack"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name}={value} is out of range; allowed: 1 or more")
        if self.bottleneck < 0:
            raise ValueError(f"bottleneck={self.bottleneck} is out of range; allowed: a width, or 0 for none")
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale={self.scale} is out of range; allowed: finite and above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} is out of range; allowed: at least 0 and below 1")


def make_projector(config: ProjectorConfig, features: int, dimension: int) -> nn.Module:
    """A module from (features_BTF, mask_BT) to `AudioTokens`, for frames of width `features`.

    dimension: D. The mask is True for frames that are there. ValueError for sizes below 1, and for a number of heads
    that does not divide the inner width.
    """
    if min(features, dimension) < 1:
        raise ValueError(f"features={features} dimension={dimension} make no projector; allowed: from 1 on")
    if config.kind == "mlp":
        return GlobalProjector(config, features, dimension)
    if config.kind == "adaptive":
        return AdaptiveProjector(config, features, dimension)
    if config.kind == "linear_stack":
        return StackProjector(config, features, dimension)
    width = config.bottleneck or features
    if width % config.heads:
        raise ValueError(f"heads={config.heads} do not divide the inner width of {width}; change heads or bottleneck")
    if config.kind == "qformer":
        return QueryProjector(config, features, dimension)
    return LatentProjector(config, features, dimension)


@final
class GlobalProjector(nn.Module):
    """LayerNorm, linear to the bottleneck, GELU, dropout, linear to k D, tanh, times the scale; of the mean over time.

    With a bottleneck of 0 it is LayerNorm, linear to k D, tanh, scale.
    """

    def __init__(self, config: ProjectorConfig, features: int, dimension: int) -> None:
        super().__init__()
        self.features, self.tokens, self.scale, self.rate = features, config.tokens, config.scale, config.dropout
        self.norm = nn.LayerNorm(features)
        self.squeeze = init_linear(nn.Linear(features, config.bottleneck)) if config.bottleneck else None
        self.out = init_linear(nn.Linear(config.bottleneck or features, config.tokens * dimension))

    def forward(self, features_BTF: Float[Tensor, "B T F"], mask_BT: Bool[Tensor, "B T"]) -> AudioTokens:
        inner = self.norm(_mean(_frames(features_BTF, mask_BT, self.features), mask_BT))
        if self.squeeze is not None:
            inner = dropout(functional.gelu(self.squeeze(inner)), self.rate if self.training else 0.0)
        tokens_BKD = self.scale * torch.tanh(self.out(inner)).unflatten(-1, (self.tokens, -1))
        return AudioTokens(tokens_BKD, mask_BT.any(1, keepdim=True).expand(-1, self.tokens))


@final
class AdaptiveProjector(nn.Module):
    """Gives a clip as many of the k tokens as it is predicted to need: 1 to k, the first ones.

    Token j (from 0) is used if the expected count c > j + 1/2. Used tokens are multiplied by 1, whose slope is that of
    sigmoid(c - j - 1/2): a straight-through estimate (Bengio et al. 2013, section 4). A loss that should buy few tokens
    adds `expected_count`.
    """

    def __init__(self, config: ProjectorConfig, features: int, dimension: int) -> None:
        super().__init__()
        self.all = GlobalProjector(config, features, dimension)
        self.norm = nn.LayerNorm(features)
        self.count = init_linear(nn.Linear(features, 1))
        nn.init.constant_(self.count.bias, GENEROUS)

    def expected_count(self, features_BTF: Float[Tensor, "B T F"], mask_BT: Bool[Tensor, "B T"]) -> Float[Tensor, " B"]:
        """How many tokens each clip is expected to need, 1 to k, with a slope; 0 for a clip without a frame."""
        mean_BF = _mean(_frames(features_BTF, mask_BT, self.all.features), mask_BT)
        share_B = torch.sigmoid(self.count(self.norm(mean_BF)).float()).squeeze(-1)
        return (1 + (self.all.tokens - 1) * share_B) * mask_BT.any(1)

    def forward(self, features_BTF: Float[Tensor, "B T F"], mask_BT: Bool[Tensor, "B T"]) -> AudioTokens:
        audio = self.all(features_BTF, mask_BT)
        place_K = torch.arange(self.all.tokens, device=mask_BT.device) + 0.5
        margin_BK = self.expected_count(features_BTF, mask_BT)[:, None] - place_K
        used_BK, slope_BK = margin_BK > 0, torch.sigmoid(margin_BK)
        kept_BK = used_BK + (slope_BK - slope_BK.detach())
        return AudioTokens(audio.tokens_BKD * kept_BK[..., None].to(audio.tokens_BKD.dtype), audio.mask_BK & used_BK)


@final
class StackProjector(nn.Module):
    """S neighbouring frames side by side, one token: LayerNorm of each frame, one linear map, tanh, scale.

    A token is there if one of its frames is. ValueError if a clip has frames beyond k S: cutting off the end of a
    sound unasked would be worse.
    """

    def __init__(self, config: ProjectorConfig, features: int, dimension: int) -> None:
        super().__init__()
        self.features, self.tokens, self.stack, self.scale = features, config.tokens, config.stack, config.scale
        self.norm = nn.LayerNorm(features)
        self.out = init_linear(nn.Linear(config.stack * features, dimension))

    def forward(self, features_BTF: Float[Tensor, "B T F"], mask_BT: Bool[Tensor, "B T"]) -> AudioTokens:
        x_BTF = _frames(features_BTF, mask_BT, self.features)
        most = self.tokens * self.stack
        if x_BTF.shape[1] > most and bool(mask_BT[:, most:].any()):
            raise ValueError(
                f"a clip goes on after frame {most}, which is all that {self.tokens} tokens of {self.stack} frames "
                "hold; raise tokens or stack, or cut the clips"
            )
        x_BTF, mask_BT = self.norm(x_BTF[:, :most]) * mask_BT[:, :most, None], mask_BT[:, :most]
        missing = -x_BTF.shape[1] % self.stack
        x_BGI = functional.pad(x_BTF, (0, 0, 0, missing)).unflatten(1, (-1, self.stack)).flatten(2)
        mask_BG = functional.pad(mask_BT, (0, missing)).unflatten(1, (-1, self.stack)).any(-1)
        return AudioTokens(self.scale * torch.tanh(self.out(x_BGI)), mask_BG)


class _Layer(nn.Module):
    """Queries that read (each other and) the frames; each step is normed before it and added to what was."""

    def __init__(self, width: int, heads: int, rate: float, *, apart: bool) -> None:
        super().__init__()
        self.to_each_other = SelfAttention(width, heads, rate) if apart else None
        self.self_norm = nn.LayerNorm(width) if apart else None
        self.query_norm, self.frame_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_frames = CrossAttention(width, heads, rate)
        self.inner_norm, self.inner = nn.LayerNorm(width), FeedForward(width, 4 * width, rate)

    def forward(self, x_BKW: Tensor, frames_BTW: Tensor, bias_BT: Tensor) -> Tensor:
        nothing_BK = torch.zeros(x_BKW.shape[:2], dtype=bias_BT.dtype, device=bias_BT.device)
        if self.to_each_other is not None and self.self_norm is not None:
            x_BKW = x_BKW + self.to_each_other(self.self_norm(x_BKW), nothing_BK)
            read_BRW, bias_BR = self.frame_norm(frames_BTW), bias_BT
        else:
            read_BRW = torch.cat([self.frame_norm(frames_BTW), self.query_norm(x_BKW)], 1)
            bias_BR = torch.cat([bias_BT, nothing_BK], 1)
        x_BKW = self.to_frames(self.query_norm(x_BKW), read_BRW, bias_BR, x_BKW)
        return x_BKW + self.inner(self.inner_norm(x_BKW))


class _Reader(nn.Module):
    """Learned queries, some layers that read frames with their places, LayerNorm, linear, tanh, scale."""

    def __init__(self, config: ProjectorConfig, features: int, dimension: int, *, apart: bool) -> None:
        super().__init__()
        width = config.bottleneck or features
        self.features, self.scale = features, config.scale
        self.norm, self.enter = nn.LayerNorm(features), init_linear(nn.Linear(features, width))
        self.queries_KW = nn.Parameter(torch.randn(config.tokens, width))
        self.layers = nn.ModuleList(
            _Layer(width, config.heads, config.dropout, apart=apart) for _ in range(config.layers)
        )
        self.out_norm, self.out = nn.LayerNorm(width), init_linear(nn.Linear(width, dimension))

    def forward(self, features_BTF: Tensor, mask_BT: Tensor) -> AudioTokens:
        x_BTF = _frames(features_BTF, mask_BT, self.features)
        audible_B1 = mask_BT.any(1, keepdim=True)
        frames_BTW = self._entered(x_BTF)
        frames_BTW = frames_BTW + _sinusoids(mask_BT.cumsum(1) - 1, frames_BTW.shape[-1]).to(frames_BTW.dtype)
        # A clip of padding alone reads its padding: softmax over nothing would be NaN. Its tokens are marked absent.
        bias_BT = padding_bias(mask_BT | ~audible_B1, torch.float32)
        x_BKW = self.queries_KW.expand(len(x_BTF), -1, -1)
        for layer in self.layers:
            x_BKW = layer(x_BKW, frames_BTW, bias_BT)
        tokens_BKD = self.scale * torch.tanh(self.out(self.out_norm(x_BKW)))
        return AudioTokens(tokens_BKD, audible_B1.expand(-1, len(self.queries_KW)))

    def _entered(self, x_BTF: Tensor) -> Tensor:
        """enter(norm(x)), the norm's weight and bias taken into the linear map.

        Frames are wide and many, and mostly data without a gradient: so nothing goes backward through them.
        """
        normal_BTF = functional.layer_norm(x_BTF, self.norm.normalized_shape, eps=self.norm.eps)
        bias_W = torch.addmv(self.enter.bias, self.enter.weight, self.norm.bias)
        return functional.linear(normal_BTF, self.enter.weight * self.norm.weight, bias_W)


@final
class QueryProjector(nn.Module):
    """qformer: in each layer queries read each other, then the frames, then go through two linear maps."""

    def __init__(self, config: ProjectorConfig, features: int, dimension: int) -> None:
        super().__init__()
        self.reader = _Reader(config, features, dimension, apart=True)

    def forward(self, features_BTF: Float[Tensor, "B T F"], mask_BT: Bool[Tensor, "B T"]) -> AudioTokens:
        return self.reader(features_BTF, mask_BT)


@final
class LatentProjector(nn.Module):
    """perceiver: in each layer latents read frames and latents together, then go through two linear maps."""

    def __init__(self, config: ProjectorConfig, features: int, dimension: int) -> None:
        super().__init__()
        self.reader = _Reader(config, features, dimension, apart=False)

    def forward(self, features_BTF: Float[Tensor, "B T F"], mask_BT: Bool[Tensor, "B T"]) -> AudioTokens:
        return self.reader(features_BTF, mask_BT)


def _frames(features_BTF: Tensor, mask_BT: Tensor, width: int) -> Tensor:
    """Frames with padding at zero, whatever it held. ValueError where frames and mask do not fit."""
    if features_BTF.ndim != 3 or features_BTF.shape[-1] != width or not features_BTF.shape[1]:
        raise ValueError(
            f"frames of shape {tuple(features_BTF.shape)} were given; this projector takes (clips, 1 or more, {width})"
        )
    if mask_BT.shape != features_BTF.shape[:2] or mask_BT.dtype != torch.bool:
        raise ValueError(
            f"the mask is {mask_BT.dtype} of shape {tuple(mask_BT.shape)}; "
            f"wanted: torch.bool of shape {tuple(features_BTF.shape[:2])}, True for frames that are there"
        )
    return features_BTF.masked_fill(~mask_BT[..., None], 0.0)


def _mean(x_BTF: Tensor, mask_BT: Tensor) -> Tensor:
    """Over frames that are there; zero if there is none. Padding must be at zero."""
    return x_BTF.sum(1) / mask_BT.sum(1, keepdim=True).clamp_min(1)


def _sinusoids(place_BT: Tensor, width: int) -> Tensor:
    """Places as sines and cosines of falling frequency (Vaswani et al. 2017, section 3.5), all sines first."""
    half = (width + 1) // 2
    frequency_E = torch.exp(torch.arange(half, device=place_BT.device) * (-math.log(10_000.0) / half))
    # Places are -1 (padding before the clip) to T - 1; each is computed once, for all clips.
    angle_PE = torch.arange(-1, place_BT.shape[1], device=place_BT.device)[:, None] * frequency_E
    return torch.cat([angle_PE.sin(), angle_PE.cos()], -1)[place_BT + 1, :width]
