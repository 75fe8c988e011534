"""The encoder's training step as a textbook writes it: the yardstick that `inscape bench visual-step` measures against.

PyTorch's own modules (nn.TransformerEncoder, nn.MultiheadAttention, nn.Dropout, torch.optim.AdamW), float32, eager, the
grid queries repeated for every sentence, the spectrum by fft2 with one pass per frequency ring, the average of the
weights one tensor at a time. Written for clarity and with no deliberate waste; it computes what the package computes.

Legend: B batch, T tokens, D model width, Q queries, C, H, W of the latent.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from inscape.nn.latent_encoder import PAD, LatentEncoder, LatentEncoderConfig
from inscape.train import FitConfig

__all__ = ["TextbookEncoder", "textbook_ema", "textbook_image_loss", "textbook_optimizer", "textbook_weights"]


class TextbookCrossBlock(nn.Module):
    def __init__(self, d: int, heads: int, ffn: int, rate: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(d)
        self.attention = nn.MultiheadAttention(d, heads, dropout=rate, batch_first=True)
        self.feed_forward_norm = nn.LayerNorm(d)
        self.feed_forward = nn.Sequential(nn.Linear(d, ffn), nn.GELU(), nn.Dropout(rate), nn.Linear(ffn, d))

    def forward(self, x_BQD: Tensor, states_BTD: Tensor, padding_BT: Tensor) -> Tensor:
        query_BQD = self.attention_norm(x_BQD)
        read_BQD, _ = self.attention(query_BQD, states_BTD, states_BTD, key_padding_mask=padding_BT, need_weights=False)
        x_BQD = x_BQD + read_BQD
        return x_BQD + self.feed_forward(self.feed_forward_norm(x_BQD))


class TextbookEncoder(nn.Module):
    """The same function of the same weights as `LatentEncoder` with the grid head and learned positions."""

    def __init__(self, config: LatentEncoderConfig) -> None:
        super().__init__()
        assert config.head == "grid"
        assert config.positions == "learned"
        assert not config.smoothing
        d = config.d
        self.height, self.width = config.H, config.W
        self.embedding = nn.Embedding(config.vocab, d)
        self.position = nn.Parameter(torch.randn(config.max_length, d))
        layer = nn.TransformerEncoderLayer(
            d, config.heads, config.ffn, config.dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, config.layers, norm=nn.LayerNorm(d), enable_nested_tensor=False)
        channels = config.map_channels
        self.query_map = nn.Parameter(torch.randn(1, channels, config.H, config.W))
        self.query_net = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.GELU(), nn.Conv2d(channels, d, 1)
        )
        self.first = TextbookCrossBlock(d, config.heads, config.head_ffn, config.dropout)
        self.second = TextbookCrossBlock(d, config.heads, config.head_ffn, config.dropout)
        self.project = nn.Linear(d, config.C)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        padding_BT = tokens_BT == PAD
        x_BTD = self.embedding(tokens_BT) + self.position[: tokens_BT.shape[1]]
        states_BTD = self.encoder(x_BTD, src_key_padding_mask=padding_BT)
        queries_QD = self.query_net(self.query_map).flatten(2).squeeze(0).T
        x_BQD = queries_QD.expand(len(tokens_BT), -1, -1)
        for block in (self.first, self.second):
            x_BQD = block(x_BQD, states_BTD, padding_BT)
        return self.project(x_BQD).transpose(1, 2).unflatten(2, (self.height, self.width))


def textbook_weights(model: LatentEncoder) -> dict[str, Tensor]:
    """The model's weights under the names that PyTorch's own modules use."""
    ours = model.state_dict()
    names = {"text_encoder.embedding.weight": "embedding.weight", "text_encoder.position_TD": "position"}
    names |= {"head.queries.map_1MHW": "query_map"}
    prefixes = {"text_encoder.norm": "encoder.norm", "head.project": "project"}
    prefixes |= {"head.queries.local": "query_net.0", "head.queries.mix": "query_net.2"}
    for index in range(model.config.layers):
        here, there = f"text_encoder.layers.{index}", f"encoder.layers.{index}"
        prefixes |= {f"{here}.attention_norm": f"{there}.norm1", f"{here}.feed_forward_norm": f"{there}.norm2"}
        prefixes |= {f"{here}.feed_forward.up": f"{there}.linear1", f"{here}.feed_forward.down": f"{there}.linear2"}
        prefixes |= {f"{here}.attention.out": f"{there}.self_attn.out_proj"}
    weights: dict[str, Tensor] = {}
    for block in ("first", "second"):
        prefixes |= {f"head.{block}.{norm}": f"{block}.{norm}" for norm in ("attention_norm", "feed_forward_norm")}
        prefixes |= {f"head.{block}.feed_forward.up": f"{block}.feed_forward.0"}
        prefixes |= {f"head.{block}.feed_forward.down": f"{block}.feed_forward.3"}
        prefixes |= {f"head.{block}.attention.out": f"{block}.attention.out_proj"}
    for kind in ("weight", "bias"):
        names |= {f"{here}.{kind}": f"{there}.{kind}" for here, there in prefixes.items()}
        for index in range(model.config.layers):
            names[f"text_encoder.layers.{index}.attention.query_key_value.{kind}"] = (
                f"encoder.layers.{index}.self_attn.in_proj_{kind}"
            )
        for block in ("first", "second"):
            here = f"head.{block}.attention"
            joined = torch.cat((ours.pop(f"{here}.query.{kind}"), ours.pop(f"{here}.key_value.{kind}")))
            weights[f"{block}.attention.in_proj_{kind}"] = joined
    return weights | {names[name]: value for name, value in ours.items()}


def textbook_slope(latent_BCHW: Tensor) -> Tensor:
    """`inscape.stats.spectral_slope`, ring by ring over the full plane of frequencies."""
    height, width = latent_BCHW.shape[-2:]
    longer = max(height, width)
    radius_HW = torch.sqrt(torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.fftfreq(width)[None, :] ** 2)
    power_BCHW = torch.fft.fft2(latent_BCHW, norm="ortho").abs() ** 2
    frequencies, levels, weights = [], [], []
    for ring in range(1, longer // 2 + 1):
        inside = torch.round(radius_HW * longer) == ring
        log_radius = radius_HW[inside].log()
        frequency = log_radius.mean()
        power_BCN = power_BCHW[..., inside] * torch.exp(1.5 * (log_radius - frequency))
        mean_BC = power_BCN.mean(-1)
        scatter_BC = power_BCN.square().mean(-1) / mean_BC.square() - 1
        half = inside.sum() / 2
        missing = (half.log() - half.digamma()) * (half + 1) / (half - 1)
        frequencies.append(frequency)
        levels.append(mean_BC.log() + missing * scatter_BC)
        weights.append(2 * half)
    weight_R = torch.stack(weights)
    frequency_R = torch.stack(frequencies)
    centred_R = frequency_R - (weight_R * frequency_R).sum() / weight_R.sum()
    return -(torch.stack(levels, -1) * weight_R * centred_R).sum(-1) / (weight_R * centred_R**2).sum()


def textbook_image_loss(latent_BCHW: Tensor) -> Tensor:
    """The six priors of `visual_step.image_loss`, each written out."""
    mean = latent_BCHW.mean((-2, -1), keepdim=True)
    deviation = latent_BCHW.var((-2, -1), correction=0, keepdim=True).sqrt()
    standard = (latent_BCHW - mean) / deviation
    across, down = standard.diff(dim=-1).flatten(-2), standard.diff(dim=-2).flatten(-2)
    steps_BCN = torch.cat((across, down), dim=-1)
    centred_BCN = steps_BCN - steps_BCN.mean(-1, keepdim=True)
    kurtosis_BC = (centred_BCN**4).mean(-1) / (centred_BCN**2).mean(-1) ** 2
    top_left, top_right = standard[..., ::2, ::2], standard[..., ::2, 1::2]
    low_left, low_right = standard[..., 1::2, ::2], standard[..., 1::2, 1::2]
    horizontal = (top_left + top_right - low_left - low_right) / 2
    vertical = (top_left - top_right + low_left - low_right) / 2
    diagonal = (top_left - top_right - low_left + low_right) / 2
    correlation_BCC = torch.stack([torch.corrcoef(image.flatten(1)) for image in latent_BCHW])
    shared = correlation_BCC - torch.eye(correlation_BCC.shape[-1])
    return (
        0.5 * (textbook_slope(standard) - 2).square().mean()
        + 0.1 * steps_BCN.abs().mean()
        + 0.1 * torch.stack((horizontal, vertical, diagonal)).abs().mean()
        + 0.05 * (kurtosis_BC.log() - math.log(8.6)).square().mean()
        + 0.05 * shared.square().mean()
        + 0.05 * (1 - deviation).relu().mean()
    )


def textbook_optimizer(model: TextbookEncoder, config: FitConfig) -> torch.optim.AdamW:
    """PyTorch's AdamW as it comes; like ours it decays matrices, but neither vectors nor the embedding table."""
    decayed = [p for name, p in model.named_parameters() if p.ndim > 1 and name != "embedding.weight"]
    plain = [p for name, p in model.named_parameters() if p.ndim == 1 or name == "embedding.weight"]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2))


@torch.no_grad()
def textbook_ema(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * model, one tensor at a time."""
    for mean, value in zip(average.parameters(), model.parameters(), strict=True):
        mean.mul_(decay).add_(value, alpha=1 - decay)
