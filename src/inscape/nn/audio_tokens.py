"""What a listener hands to a language model: some rows of the model's width, and which of them are there.

One type stands between projectors and fusion, so that every projector works with every kind of fusion. The mask is
what tells silence from sound: a clip with no token that is there must not be heard at all.

Legend: B clips, K tokens, D width of the language model.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["AudioTokens"]


class AudioTokens(NamedTuple):
    """Tokens of a batch of clips."""

    tokens_BKD: Tensor
    mask_BK: Tensor  # bool, True = a token that is there
