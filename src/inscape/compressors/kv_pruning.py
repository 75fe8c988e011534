"""KV pruning: what the model has computed about a context is kept for some of its tokens and dropped for the others.

The sender reads the context once and sends keys and values of floor(T / ratio) positions of every layer; the receiver
puts them into its cache and goes on with the question. Nothing is trained, and at ratio 1 nothing is lost. It is the
dearest of all ways in bits (see `bits`), and the usual one where cache memory is what is short.

Which positions stay is said layer by layer, for all heads of a layer together, so that every layer keeps as many:

    attention   what the last `window` tokens attend to, summed over heads, then the maximum over `kernel` neighbours
                so that what stands together stays together (SnapKV, Li et al. 2024, arXiv 2404.14469, section 4). Given
                a question, its tokens are the window, and what is kept serves that question alone.
    key_norm    the smallest norms of keys (Devoto et al. 2024, arXiv 2406.11430): those attract most attention.

Keys keep the rotary positions they were computed at, so what follows the context stands where it would have stood: at
position P + T. The latest tokens always stay: half of what is kept at most, and at least the last one.

The prefix ("Context: ") is known to the receiver, and under a causal mask its keys and values do not depend on what
follows. So both sides compute them, they are never dropped, and they cost nothing.

Legend: L layers, H query heads, K key heads, E width of a head, P tokens of the prefix, T of the context, W of the
window, S = P + T (+ W), M kept positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, final

import torch
from torch import Tensor
from torch.nn import functional

from inscape.compressors.attention_queries import queries_collected
from inscape.compressors.interface import (
    Compressed,
    Injected,
    Saved,
    check_ids,
    read_saved,
    tensor_bits,
    vector_count,
    write_saved,
)
from inscape.compressors.receiving import cache_layers, injected_cache, prefill
from inscape.core.rundir import RunDir

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from inscape.pretrained.language_model import LanguageModel

__all__ = ["SCORES", "KvPruning", "attention_scores", "kept_positions", "key_norm_scores"]

SCORES = ("attention", "key_norm")


@final
@dataclass(frozen=True)
class KvPruning:
    """Fewer positions in the cache, as a compressor of contexts."""

    ratio: float  # tokens a kept position, 1 or more
    score: str = "attention"  # attention | key_norm: what decides who stays
    window: int = 8  # latest tokens of the context whose attention counts
    kernel: int = 5  # neighbours that a score is shared with, an odd number
    prefix: tuple[int, ...] = ()  # ids in front of every context, which the receiver knows

    kind = "kv_pruning"
    needs_context_only = True

    def __post_init__(self) -> None:
        vector_count(2**31, self.ratio)
        if self.score not in SCORES:
            raise ValueError(f"score={self.score!r} is not known; use one of {', '.join(SCORES)}")
        if self.window < 1:
            raise ValueError(f"window={self.window} is out of range; allowed: 1 or more tokens")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel={self.kernel} is out of range; allowed: odd numbers from 1 on")

    @property
    def name(self) -> str:
        """See `Compressor.name`."""
        return f"KV pruning by {self.score.replace('_', ' ')}"

    def fit(
        self, lm: LanguageModel, sequences: Sequence[Int[Tensor, " T"]], *, seed: int, run: RunDir | None = None
    ) -> Self:
        """Itself: there is nothing to fit."""
        return self

    @torch.no_grad()
    def compress(
        self, lm: LanguageModel, ids_T: Int[Tensor, " T"], question: Int[Tensor, " W"] | None = None
    ) -> Compressed:
        """Keys and values (L, K, M, E) of the positions that stay.

        question: ids that will follow the context, if the sender knows them; then they choose.
        """
        count = vector_count(len(ids_T), self.ratio)
        caches, position_LM = self._read(lm, ids_T, question)
        chosen = [place_M + len(self.prefix) for place_M in position_LM]
        keys = torch.stack([keys[0][:, place_M] for (keys, _), place_M in zip(caches, chosen, strict=True)])
        values = torch.stack([values[0][:, place_M] for (_, values), place_M in zip(caches, chosen, strict=True)])
        return Compressed({"keys": keys, "values": values}, len(ids_T), count)

    @torch.no_grad()
    def kept(
        self, lm: LanguageModel, ids_T: Int[Tensor, " T"], question: Int[Tensor, " W"] | None = None
    ) -> Int[Tensor, "L M"]:
        """Which places of the context stay in each layer, in order; for pictures, the receiver needs none of it."""
        return self._read(lm, ids_T, question)[1]

    @torch.no_grad()
    def inject(self, lm: LanguageModel, compressed: Compressed) -> Injected:
        """A cache of prefix and kept positions, and the positions it stands for, the last one P + T - 1.

        Each layer kept others, which did not travel; what follows needs only the last, and that one every layer has.
        The kept positions are reported as the latest M.
        """
        latest = range(compressed.tokens - compressed.vectors, compressed.tokens)
        return injected_cache(lm, compressed, self.prefix, latest)

    def bits(self, compressed: Compressed) -> float:
        """L * 2 * K * E * M times the bits of a number of the cache."""
        return tensor_bits(compressed)

    def saved(self) -> Saved:
        """See `Compressor.saved`: settings, and no tensor."""
        return Saved(self.kind, asdict(self), {})

    @classmethod
    def from_saved(cls, saved: Saved) -> Self:
        """See `Compressor.from_saved`."""
        settings: dict[str, Any] = saved.settings | {"prefix": tuple(saved.settings["prefix"])}
        return cls(**settings)

    def save(self, path: Path) -> None:
        """See `Compressor.save`."""
        write_saved(path, self.saved())

    @classmethod
    def load(cls, path: Path) -> Self:
        """See `Compressor.load`."""
        return cls.from_saved(read_saved(path, cls.kind))

    def _read(
        self, lm: LanguageModel, ids_T: Tensor, question: Tensor | None
    ) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Keys and values of each layer after reading, and which places of the context stay (L, M)."""
        check_ids(lm, ids_T)
        tokens, count = len(ids_T), vector_count(len(ids_T), self.ratio)
        asked = ids_T.new_zeros(0) if question is None else question
        ids_S = torch.cat((ids_T.new_tensor(self.prefix), ids_T, asked)).to(lm.device)
        window = len(asked) or min(self.window, tokens)
        if self.score == "attention":
            with queries_collected(lm, window) as query_1HWE_of:
                cache = prefill(lm, ids_S)
            caches = cache_layers(lm, cache)
            found = [attention_scores(query_1HWE_of[i][0], keys[0]) for i, (keys, _) in enumerate(caches)]
        else:
            caches = cache_layers(lm, prefill(lm, ids_S))
            found = [key_norm_scores(keys[0]) for keys, _ in caches]
        score_LT = torch.stack(found)[:, len(self.prefix) : len(self.prefix) + tokens]
        kernel = self.kernel if self.score == "attention" else 1
        latest = 1 if len(asked) or self.score == "key_norm" else min(self.window, max(1, count // 2))
        return caches, kept_positions(score_LT, count, latest=latest, kernel=kernel)


def attention_scores(query_HWE: Float[Tensor, "H W E"], key_KSE: Float[Tensor, "K S E"]) -> Float[Tensor, " S"]:
    """What the last W of S positions attend to: softmax(q k / sqrt(E)) under the causal mask, summed over all heads
    and averaged over the window.

    Queries and keys carry their rotation. Each key head serves H / K neighbouring query heads.
    """
    heads, window, width = query_HWE.shape
    key_HSE = key_KSE.repeat_interleave(heads // len(key_KSE), 0).float()
    score_HWS = query_HWE.float() @ key_HSE.transpose(1, 2) * width**-0.5
    length = key_KSE.shape[1]
    at_W = torch.arange(length - window, length, device=key_KSE.device)
    later_WS = torch.arange(length, device=key_KSE.device) > at_W[:, None]
    return score_HWS.masked_fill(later_WS, float("-inf")).softmax(-1).sum(0).mean(0)


def key_norm_scores(key_KSE: Float[Tensor, "K S E"]) -> Float[Tensor, " S"]:
    """Minus the norms of keys, summed over heads: the smaller the norm, the more it is attended to."""
    return -key_KSE.float().norm(dim=-1).sum(0)


def kept_positions(
    score_LT: Float[Tensor, "L T"], count: int, *, latest: int = 1, kernel: int = 1
) -> Int[Tensor, "L M"]:
    """The places of the `count` best scores of each layer, in order; the `latest` ones are always among them.

    A score is first replaced by the largest of `kernel` neighbours. Of equal scores the earlier place wins.
    """
    assert 1 <= latest <= count <= score_LT.shape[1]
    shared_LT = functional.max_pool1d(score_LT[:, None], kernel, stride=1, padding=kernel // 2)[:, 0]
    shared_LT = shared_LT.clone()
    shared_LT[:, -latest:] = float("inf")
    order_LT = shared_LT.argsort(dim=1, descending=True, stable=True)
    return order_LT[:, :count].sort(dim=1).values
