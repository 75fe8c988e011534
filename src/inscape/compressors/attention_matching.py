"""Attention matching: few keys and values that are attended to as all of a context's were, fitted in closed form.

Method: Zweiger, Fu, Guo and Kim 2026, arXiv 2602.16284. The sender reads the context, then what may come after it: the
context once more, and questions of other contexts. Their queries say what heads look for. Each head then gets M =
floor(T / ratio) keys and values of its own, so that these queries find with them what they found with all T:

    keys     those of the context with the largest root mean square of attention, each head its own
    biases   exp(bias) of each kept key by non-negative least squares, so that the kept ones together draw as much
             attention as all did. A cache has no place for a bias: it is added to the key along the one direction in
             which all queries of a head agree (least squares), so that q . key / sqrt(E) grows by the bias
    values   least squares, with a ridge towards the values that the kept keys had, so that each head's output
             beside the prefix and the tail is what it was

Queries count by the share of attention that they give to the context. At ratio 1 this is the cache itself. Nothing
is trained: no gradient, no weights; the questions are settings, which both sides may know, and cost nothing.

Legend: L layers, H query heads, K key heads, G = H / K, E width of a head, P tokens of the prefix, T of the context,
S = P + T, B tails of W places at most, N queries of all tails for a key head, M kept keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

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
from inscape.compressors.mean_pooled import wire_type
from inscape.compressors.receiving import cache_layers, injected_cache, prefill
from inscape.core.rundir import RunDir

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from inscape.pretrained.language_model import LanguageModel

__all__ = ["AttentionMatching", "Seen", "matched", "seen_behind"]

RIDGE_OF_VALUES, RIDGE_OF_BIASES = 1e-3, 1e-2  # of the mean diagonal of what is inverted
LARGEST_BIAS = 3.0
NNLS_STEPS = 200


class Seen(NamedTuple):
    """What the queries of one layer find; each key head with its G query heads' queries in one row."""

    query_KNE: Tensor
    logit_KNT: Tensor  # q . k / sqrt(E) of the context's keys
    mass_KN: Tensor  # logarithm of the sum of their exponentials
    share_KN: Tensor  # of all attention that goes to the context, beside the prefix and the tail itself
    rest_KNE: Tensor  # what prefix and tail add to the output, with the weights that they have beside the context


@final
@dataclass(frozen=True)
class AttentionMatching:
    """Keys and values that draw the attention that a context drew, as a compressor of contexts."""

    ratio: float  # tokens a kept key, 1 or more
    prefix: tuple[int, ...] = ()  # ids in front of every context, which the receiver knows
    questions: tuple[tuple[int, ...], ...] = ()  # ids that may follow a context; no question that is then asked of it
    wire: str = "float16"  # the type keys and values travel in: float32 | float16 | bfloat16

    kind = "attention_matching"
    needs_context_only = True

    def __post_init__(self) -> None:
        vector_count(2**31, self.ratio)
        wire_type(self.wire)
        if not all(self.questions):
            raise ValueError("one of the questions has no ids; leave it out")

    @property
    def name(self) -> str:
        """See `Compressor.name`."""
        return f"keys and values matched to the attention of {len(self.questions)} questions"

    def fit(
        self, lm: LanguageModel, sequences: Sequence[Int[Tensor, " T"]], *, seed: int, run: RunDir | None = None
    ) -> Self:
        """Itself: each context is fitted when it is compressed."""
        return self

    @torch.no_grad()
    def compress(self, lm: LanguageModel, ids_T: Int[Tensor, " T"]) -> Compressed:
        """Keys and values (L, K, M, E)."""
        check_ids(lm, ids_T)
        ahead, count = len(self.prefix), vector_count(len(ids_T), self.ratio)
        ids_S = torch.cat((ids_T.new_tensor(self.prefix), ids_T)).to(lm.device)
        layers = cache_layers(lm, prefill(lm, ids_S))
        of_tails = [seen_behind(lm, layers, [ids_T.to(lm.device)], ahead)]
        if self.questions:
            asked = [torch.tensor(each, device=lm.device) for each in self.questions]
            of_tails.append(seen_behind(lm, layers, asked, ahead))
        made = [
            matched(_joined(seen), keys[0, :, ahead:].float(), values[0, :, ahead:].float(), count)
            for (keys, values), *seen in zip(layers, *of_tails, strict=True)
        ]
        keys_LKME, values_LKME = (torch.stack(side).to(wire_type(self.wire)) for side in zip(*made, strict=True))
        return Compressed({"keys": keys_LKME, "values": values_LKME}, len(ids_T), count)

    def inject(self, lm: LanguageModel, compressed: Compressed) -> Injected:
        """A cache of the prefix and of the keys that travelled; as in `kv_pruning`, said to be its latest M."""
        latest = range(compressed.tokens - compressed.vectors, compressed.tokens)
        return injected_cache(lm, compressed, self.prefix, latest)

    def bits(self, compressed: Compressed) -> float:
        """L * 2 * K * E * M times the bits of a number."""
        return tensor_bits(compressed)

    def saved(self) -> Saved:
        """See `Compressor.saved`: settings, and no tensor."""
        return Saved(self.kind, asdict(self), {})

    @classmethod
    def from_saved(cls, saved: Saved) -> Self:
        """See `Compressor.from_saved`."""
        settings: dict[str, Any] = dict(saved.settings)
        prefix, questions = settings.pop("prefix"), settings.pop("questions")
        return cls(**settings, prefix=tuple(prefix), questions=tuple(map(tuple, questions)))

    def save(self, path: Path) -> None:
        """See `Compressor.save`."""
        write_saved(path, self.saved())

    @classmethod
    def load(cls, path: Path) -> Self:
        """See `Compressor.load`."""
        return cls.from_saved(read_saved(path, cls.kind))


@torch.no_grad()
def seen_behind(
    lm: LanguageModel, layers: Sequence[tuple[Tensor, Tensor]], tails: Sequence[Int[Tensor, " W"]], ahead: int
) -> list[Seen]:
    """What each layer's queries find as the model reads the tails, each for itself, behind the same cache.

    layers: keys and values (1, K, S, E) after reading prefix and context. ahead: P. ValueError for a model whose
    attention is built otherwise than Llama's.
    """
    from transformers import DynamicCache

    cache: Any = DynamicCache()
    many, length = len(tails), layers[0][0].shape[2]
    for layer, (keys, values) in enumerate(layers):
        cache.update(keys.expand(many, -1, -1, -1), values.expand(many, -1, -1, -1), layer)
    rows_BWD = pad_sequence([lm.table_VD[ids] for ids in tails], batch_first=True)
    places_W = torch.arange(rows_BWD.shape[1], device=lm.device)
    with queries_collected(lm) as query_BHWE_of:
        lm.model.base_model(
            inputs_embeds=rows_BWD,
            attention_mask=torch.ones(many, length + len(places_W), dtype=torch.long, device=lm.device),
            position_ids=(length + places_W).expand(many, -1),
            past_key_values=cache,
            use_cache=True,
        )
    read_BW = places_W < torch.tensor([len(ids) for ids in tails], device=lm.device)[:, None]
    later_WW = places_W > places_W[:, None]
    unseen_WS = torch.cat((later_WW.new_zeros(len(places_W), length), later_WW), 1)
    return [
        _found(query_BHWE_of[layer].float(), keys.float(), values.float(), unseen_WS, read_BW, slice(ahead, length))
        for layer, (keys, values) in enumerate(cache_layers(lm, cache))
    ]


def _found(
    query_BHWE: Tensor, key_BKSE: Tensor, value_BKSE: Tensor, unseen_WS: Tensor, read_BW: Tensor, context: slice
) -> Seen:
    """See `Seen`; S counts the tail's places too here, and those of padding are left out."""
    query_BKGWE = query_BHWE.unflatten(1, (key_BKSE.shape[1], -1))
    logit_BKGWS = query_BKGWE @ key_BKSE[:, :, None].transpose(-1, -2) * query_BHWE.shape[-1] ** -0.5
    weight_BKGWS = logit_BKGWS.masked_fill(unseen_WS, float("-inf")).softmax(-1)
    share_BKGW = weight_BKGWS[..., context].sum(-1)
    weight_BKGWS[..., context] = 0
    rest_BKGWE = weight_BKGWS @ value_BKSE[:, :, None]

    def in_one_row(each: Tensor) -> Tensor:  # (B, K, G, W, ...) to (K, N, ...)
        return each.movedim(3, 1)[read_BW].transpose(0, 1).flatten(1, 2)

    logit_BKGWT = logit_BKGWS[..., context]
    parts = (query_BKGWE, logit_BKGWT, logit_BKGWT.logsumexp(-1), share_BKGW, rest_BKGWE)
    return Seen(*map(in_one_row, parts))


def _joined(seen: Sequence[Seen]) -> Seen:
    return Seen(*(torch.cat(parts, 1) for parts in zip(*seen, strict=True)))


def matched(
    seen: Seen, key_KTE: Float[Tensor, "K T E"], value_KTE: Float[Tensor, "K T E"], count: int
) -> tuple[Float[Tensor, "K M E"], Float[Tensor, "K M E"]]:
    """Keys and values, `count` a head in order of place, with which the queries find what they found with all."""
    width = key_KTE.shape[-1]
    weight_KNT = (seen.logit_KNT - seen.mass_KN[..., None]).exp()
    by_share_KN1 = seen.share_KN.sqrt()[..., None]
    drawn_KT = (weight_KNT * by_share_KN1).square().mean(1)
    place_KM = drawn_KT.topk(count, -1).indices.sort(-1).values
    each_KME = place_KM[..., None].expand(-1, -1, width)
    kept_KME, before_KME = key_KTE.gather(1, each_KME), value_KTE.gather(1, each_KME)

    kept_KNM = weight_KNT.gather(2, place_KM[:, None].expand(-1, weight_KNT.shape[1], -1)) * by_share_KN1
    factor_KM = non_negative_least_squares(kept_KNM, by_share_KN1[..., 0])
    bias_KM = factor_KM.log().clamp(-LARGEST_BIAS, LARGEST_BIAS)
    query_KNE = seen.query_KNE * width**-0.5
    nothing_KE1 = kept_KME.new_zeros(len(kept_KME), width, 1)
    along_KE1 = ridge(query_KNE * by_share_KN1, by_share_KN1, nothing_KE1, RIDGE_OF_BIASES)
    kept_KME = kept_KME + bias_KM[..., None] * along_KE1.transpose(1, 2)

    # With `drawn` for the attention that the kept keys draw, in units of what the context drew, all of a query's
    # attention is `whole` times what it was, and prefix and tail have that much less of it.
    drawn_KNM = (query_KNE @ kept_KME.transpose(1, 2) - seen.mass_KN[..., None]).exp() * seen.share_KN[..., None]
    whole_KN1 = drawn_KNM.sum(-1, keepdim=True) + 1 - seen.share_KN[..., None]
    wanted_KNE = seen.share_KN[..., None] * (weight_KNT @ value_KTE) + seen.rest_KNE * (1 - 1 / whole_KN1)
    return kept_KME, ridge(drawn_KNM / whole_KN1, wanted_KNE, before_KME, RIDGE_OF_VALUES)


def ridge(x_KNM: Tensor, y_KNE: Tensor, prior_KME: Tensor, share: float) -> Float[Tensor, "K M E"]:
    """B that minimises |x B - y|^2 + r |B - prior|^2, r being `share` of the mean diagonal of x'x."""
    gram_KMM = x_KNM.transpose(1, 2) @ x_KNM
    diagonal_KM = gram_KMM.diagonal(dim1=1, dim2=2)
    added_K1 = (share * diagonal_KM.mean(1, keepdim=True)).clamp_min(torch.finfo(x_KNM.dtype).tiny)
    missing_KME = x_KNM.transpose(1, 2) @ (y_KNE - x_KNM @ prior_KME)
    return prior_KME + torch.linalg.solve(gram_KMM + torch.diag_embed(added_K1.expand_as(diagonal_KM)), missing_KME)


def non_negative_least_squares(x_KNM: Tensor, y_KN: Tensor) -> Float[Tensor, "K M"]:
    """w > 0 near the smallest |x w - y|, x and y being nowhere negative; multiplicative steps (Lee and Seung 2001)."""
    gram_KMM = x_KNM.transpose(1, 2) @ x_KNM
    wanted_KM = (x_KNM.transpose(1, 2) @ y_KN[..., None])[..., 0]
    found_KM = torch.ones_like(wanted_KM)
    tiny = torch.finfo(x_KNM.dtype).tiny
    for _ in range(NNLS_STEPS):
        found_KM = found_KM * wanted_KM / (gram_KMM @ found_KM[..., None])[..., 0].clamp_min(tiny)
    return found_KM.clamp_min(tiny)
