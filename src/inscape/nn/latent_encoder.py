"""Text to picture-like latent: the encoder of the visual study, with one of four heads.

Legend: B batch, T tokens, C, H, W of the latent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from inscape.nn.by_length import in_order, parts_by_length
from inscape.nn.grid_head import GridHead
from inscape.nn.light_head import LightHead
from inscape.nn.slots import SlotHead
from inscape.nn.smoothing import SmoothingHead
from inscape.nn.text_encoder import TextEncoder, TextEncoderConfig

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["PAD", "LatentEncoder", "LatentEncoderConfig"]

PAD = 0  # the token id that is not text
# Far above what trains: a slip of the keyboard, or a foreign weights file, must not take the machine's memory.
LARGEST = {
    "layers": 256,
    "d": 16_384,
    "ffn": 65_536,
    "head_ffn": 65_536,
    "map_channels": 4096,
    "max_length": 4096,
    "slots": 1024,
    "slot_iterations": 256,
    "C": 256,
    "H": 1024,
    "W": 1024,
}


@dataclass(frozen=True)
class LatentEncoderConfig:
    """Sizes of the encoder; the defaults are the plan's."""

    vocab: int = 32_000  # token ids, special ones included
    d: int = 384  # model width
    layers: int = 6  # transformer layers over the tokens
    heads: int = 8  # attention heads; each is d / heads wide
    ffn: int = 1536  # width inside the text encoder's feed-forward layers
    dropout: float = 0.1  # probability, in [0, 1)
    max_length: int = 64  # tokens
    positions: str = "rotary"  # rotary | learned | both
    head: str = "grid"  # grid (a query a pixel, the plan's) | light (few queries) | vector (no picture) | slots (blobs)
    head_ffn: int = 768  # width inside the head's feed-forward layers
    map_channels: int = 64  # grid: channels of the map the queries grow from
    coarse: int = 8  # light: rows and columns of queries
    slots: int = 6  # slots: how many
    slot_iterations: int = 3  # slots: rounds of competition
    smoothing: bool = False  # append the smoothing head
    unit_amplitude: bool = False  # divide V by its root mean square over channels and pixels, sentence by sentence
    C: int = 6  # channels of the latent
    H: int = 32  # its height, pixels
    W: int = 32  # its width, pixels

    def __post_init__(self) -> None:
        for name in ("head_ffn", "map_channels", "coarse", "slots", "slot_iterations", "C", "H", "W"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name, most in LARGEST.items():
            if getattr(self, name) > most:
                raise ValueError(f"encoder.{name}={getattr(self, name)} is out of range; allowed: 1 to {most}")
        if self.head not in ("grid", "light", "vector", "slots"):
            raise ValueError(f"head must be grid, light, vector or slots, got {self.head!r}")
        if self.head in ("light", "vector") and self.coarse > min(self.H, self.W):
            raise ValueError(f"coarse must be at most H and W ({self.H} x {self.W}), got {self.coarse}")
        self.text()

    def text(self) -> TextEncoderConfig:
        """The text encoder's share of the sizes."""
        return TextEncoderConfig(
            self.vocab, self.d, self.layers, self.heads, self.ffn, self.dropout, self.max_length, self.positions
        )


def build_head(config: LatentEncoderConfig) -> nn.Module:
    latent_CHW = (config.C, config.H, config.W)
    if config.head == "slots":
        return SlotHead(
            config.d,
            config.head_ffn,
            config.dropout,
            latent_CHW=latent_CHW,
            slots=config.slots,
            iterations=config.slot_iterations,
        )
    sizes = (config.d, config.heads, config.head_ffn, config.dropout)
    if config.head in ("light", "vector"):
        return LightHead(*sizes, latent_CHW=latent_CHW, coarse=config.coarse, plain=config.head == "vector")
    return GridHead(*sizes, latent_CHW=latent_CHW, map_channels=config.map_channels)


class LatentEncoder(nn.Module):
    """Token ids to a latent of float32 values with about unit variance at the start of training.

    Padding (id 0) changes nothing: a sentence has the same latent alone, in a batch, and with padding appended.
    """

    def __init__(self, config: LatentEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.text_encoder = TextEncoder(config.text())
        self.head = build_head(config)
        self.smoothing = SmoothingHead(config.C) if config.smoothing else None

    def forward(
        self, tokens_BT: Int[Tensor, "B T"], embedded_BTD: Float[Tensor, "B T D"] | None = None
    ) -> Float[Tensor, "B C H W"]:
        if embedded_BTD is None:
            return self._finish(self._in_parts(self.head, tokens_BT))
        keep_BT = tokens_BT != PAD
        return self._finish(self.head(self.text_encoder(tokens_BT, keep_BT, embedded_BTD), keep_BT))

    def places(self, tokens_BT: Int[Tensor, "B T"]) -> Float[Tensor, "B Q D"]:
        """The states that the light head paints V from. ValueError for other heads, which have none."""
        return self._in_parts(self._light_head.places, tokens_BT)

    def paint(self, places_BQD: Float[Tensor, "B Q D"]) -> Float[Tensor, "B C H W"]:
        """V of such states."""
        return self._finish(self._light_head.paint(places_BQD))

    @property
    def _light_head(self) -> LightHead:
        if not isinstance(self.head, LightHead):
            raise ValueError(f"encoder.head={self.config.head!r} has no states of places; allowed: light, vector")
        return self.head

    def _in_parts(self, head: Callable[[Tensor, Tensor], Tensor], tokens_BT: Tensor) -> Tensor:
        """What `head` makes of the tokens' states, the shorter sentences apart from the longer ones."""

        def made(tokens_BT: Tensor) -> Tensor:
            keep_BT = tokens_BT != PAD
            return head(self.text_encoder(tokens_BT, keep_BT), keep_BT)

        parts = parts_by_length(tokens_BT != PAD, self)
        if not parts:
            return made(tokens_BT)
        return in_order([made(tokens_BT[part.row_B, : part.tokens]) for part in parts], parts)

    def _finish(self, latent_BCHW: Tensor) -> Tensor:
        if self.smoothing is not None:
            latent_BCHW = self.smoothing(latent_BCHW)
        latent_BCHW = latent_BCHW.float()
        if self.config.unit_amplitude:
            latent_BCHW = latent_BCHW * (latent_BCHW.square().mean((1, 2, 3), keepdim=True) + 1e-6).rsqrt()
        return latent_BCHW
