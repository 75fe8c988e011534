"""How loud what a layer hears is beside what it thinks, and how sharply it listens.

"Match the magnitude of the model's embeddings" is advice about the wrong place: what counts is how much is added to the
states of the very layer that hears. Healthy ratios lie around 0.01 to 0.3. Below, the audio is lost among the text's
own states; above, it drives the frozen layers behind it out of what they were trained on.

Root mean squares are taken of each position, and their ratio there too, before anything is averaged: the first position
of a text often has a state a hundred times as long as the others, and a ratio of averages would be that one's.
Positions of clips without audio are left out. A layer that heard nothing is not among the measurements: not measured
is not zero.

Legend: B clips, T positions, D width, H heads, K audio tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = ["Measurement", "Meter"]


class Measurement(NamedTuple):
    """Of one layer, over all passes while it was attached."""

    hidden_rms: float  # mean over positions of the root mean square of the state that is added to
    added_rms: float  # the same of what is added
    ratio: float  # mean over positions of added to hidden
    gate: float  # as it was in effect: strength and warm-up included
    entropy: float | None  # of the attention over audio tokens, nats, mean over queries and heads; prefix has none


@final
class Meter:
    """Sums, layer by layer; nothing is brought to the CPU before it is asked for."""

    def __init__(self) -> None:
        self._sums: dict[int, Tensor] = {}
        self._gates: dict[int, Tensor] = {}
        self._attends: dict[int, bool] = {}

    @torch.no_grad()
    def add(
        self,
        layer: int,
        hidden_BTD: Float[Tensor, "B T D"],
        added_BTD: Float[Tensor, "B T D"],
        gate: Tensor,
        audible_B: Bool[Tensor, " B"],
        weight_BHKT: Float[Tensor, "B H K T"] | None,
    ) -> None:
        """One pass through a layer. The audible clips may be one for the whole batch."""
        hidden_BT, added_BT = (x.float().square().mean(-1).sqrt() for x in (hidden_BTD, added_BTD))
        entropy_BT = torch.zeros_like(hidden_BT)
        if weight_BHKT is not None:
            entropy_BT = torch.special.entr(weight_BHKT.float()).sum(-2).mean(1)
        ratio_BT = added_BT / hidden_BT.clamp_min(torch.finfo(torch.float32).tiny)
        columns_5BT = torch.stack([hidden_BT, added_BT, ratio_BT, entropy_BT, torch.ones_like(hidden_BT)])
        sums_5 = columns_5BT.double().where(audible_B[:, None], 0.0).sum((1, 2))
        self._sums[layer] = self._sums[layer] + sums_5 if layer in self._sums else sums_5
        self._gates[layer], self._attends[layer] = gate.detach().float(), weight_BHKT is not None

    def read(self) -> dict[int, Measurement]:
        """By layer, in order."""
        found = {}
        for layer in sorted(self._sums):
            *sums, count = self._sums[layer].tolist()
            if count:
                hidden, added, ratio, entropy = (value / count for value in sums)
                gate = float(self._gates[layer])
                found[layer] = Measurement(hidden, added, ratio, gate, entropy if self._attends[layer] else None)
        return found
