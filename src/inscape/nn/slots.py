"""The slot head: six slots compete for the tokens, and each paints one soft 2-D Gaussian on the latent.

Legend: B batch, T tokens, K slots, D model width, C channels, H and W of the latent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from inscape.nn.attention import FeedForward, init_linear

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = ["Gaussians", "SlotAttention", "SlotHead", "splat"]


class SlotAttention(nn.Module):
    """Slot attention (Locatello et al. 2020, algorithm 1), with learned first slots instead of sampled ones.

    Tokens distribute themselves over the slots (softmax over K), then every slot takes the weighted mean of its tokens.
    Learned starts keep the encoder deterministic.
    """

    def __init__(self, d: int, slots: int, iterations: int, ffn: int, rate: float) -> None:
        super().__init__()
        self.iterations = iterations
        self.start_KD = nn.Parameter(torch.randn(slots, d))
        self.token_norm, self.slot_norm, self.update_norm = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.query = init_linear(nn.Linear(d, d))
        self.key_value = init_linear(nn.Linear(d, 2 * d))
        self.update = nn.GRUCell(d, d)
        self.feed_forward = FeedForward(d, ffn, rate)

    def forward(self, states_BTD: Float[Tensor, "B T D"], keep_BT: Bool[Tensor, "B T"]) -> Float[Tensor, "B K D"]:
        key_BTD, value_BTD = self.key_value(self.token_norm(states_BTD)).chunk(2, dim=-1)
        key_BTD = key_BTD * key_BTD.shape[-1] ** -0.5
        slots_BKD = self.start_KD.expand(len(states_BTD), -1, -1)
        for _ in range(self.iterations):
            score_BKT = self.query(self.slot_norm(slots_BKD)) @ key_BTD.transpose(1, 2)
            share_BKT = score_BKT.softmax(1) * keep_BT[:, None]
            weight_BKT = share_BKT / (share_BKT.sum(-1, keepdim=True) + 1e-6)
            slots_BKD = self.update((weight_BKT @ value_BTD).flatten(0, 1), slots_BKD.flatten(0, 1)).view_as(slots_BKD)
            slots_BKD = slots_BKD + self.feed_forward(self.update_norm(slots_BKD))
        return slots_BKD


class Gaussians(NamedTuple):
    """Means in [-1, 1] as (x, y), positive axis lengths, a turn in radians, and the colour of each blob."""

    mean: Tensor  # (B, K, 2)
    axes: Tensor  # (B, K, 2)
    angle: Tensor  # (B, K)
    colour: Tensor  # (B, K, C)


def splat(blobs: Gaussians, height: int, width: int) -> Float[Tensor, "B C H W"]:
    """Sum of coloured Gaussians exp(-(p - m)^T S^-1 (p - m) / 2), S = R(angle) diag(axes^2) R(angle)^T."""
    y_H = torch.linspace(-1, 1, height, device=blobs.mean.device)
    x_W = torch.linspace(-1, 1, width, device=blobs.mean.device)
    dx_BK1W = x_W - blobs.mean[..., 0, None, None]
    dy_BKH1 = y_H[:, None] - blobs.mean[..., 1, None, None]
    cos, sin = blobs.angle.cos()[..., None, None], blobs.angle.sin()[..., None, None]
    major = (cos * dx_BK1W + sin * dy_BKH1) / blobs.axes[..., 0, None, None]
    minor = (cos * dy_BKH1 - sin * dx_BK1W) / blobs.axes[..., 1, None, None]
    density_BKHW = (-0.5 * (major**2 + minor**2)).exp()
    return torch.einsum("bkc,bkhw->bchw", blobs.colour, density_BKHW)


class SlotHead(nn.Module):
    """Token states -> slots -> one Gaussian and one colour each -> latent (the plan's object-centric variant)."""

    def __init__(
        self,
        d: int,
        ffn: int,
        rate: float,
        *,
        latent_CHW: tuple[int, int, int],
        slots: int = 6,
        iterations: int = 3,
    ) -> None:
        super().__init__()
        channels, self.height, self.width = latent_CHW
        self.attention = SlotAttention(d, slots, iterations, ffn, rate)
        self.norm = nn.LayerNorm(d)
        self.geometry = init_linear(nn.Linear(d, 5))
        self.colour = init_linear(nn.Linear(d, channels))
        self.background_C = nn.Parameter(torch.zeros(channels))

    def gaussians(self, states_BTD: Tensor, keep_BT: Tensor) -> Gaussians:
        """What the slots will paint; in float32, because a pixel is small beside a bfloat16 step."""
        slots_BKD = self.norm(self.attention(states_BTD, keep_BT))
        geometry_BK5 = self.geometry(slots_BKD).float()
        mean_BK2, axes_BK2, angle_BK = geometry_BK5.split((2, 2, 1), dim=-1)
        # Axes start near a third of the picture and never fall below one pixel of a 32 x 32 latent.
        axes_BK2 = 1 / 16 + 0.5 * functional.softplus(axes_BK2 - 0.5)
        return Gaussians(mean_BK2.tanh(), axes_BK2, angle_BK.squeeze(-1), self.colour(slots_BKD).float())

    def forward(self, states_BTD: Float[Tensor, "B T D"], keep_BT: Bool[Tensor, "B T"]) -> Float[Tensor, "B C H W"]:
        latent_BCHW = splat(self.gaussians(states_BTD, keep_BT), self.height, self.width)
        return latent_BCHW + self.background_C[:, None, None]
