"""How far two runs of a language model lead apart, and how well one explains a text: from logits, in nats.

Two answers of the same words say little about how near a compressed prompt came to changing them. The divergence of
the next-token distributions along one fixed continuation says it for every token, right answer or wrong.

Tokens of one question are not independent: means are taken within each sequence first (divergence) or sequences are
drawn whole (perplexity), and intervals are over sequences.

Legend: B sequences, N tokens of a continuation, T tokens of a prompt, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from inscape.core.estimate import Estimate, bootstrap_mean

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

__all__ = ["SequenceNll", "next_token_kl", "perplexity", "sequence_kl", "sequence_nll"]

CONFIDENCE = 0.95
RESAMPLES = 2000


class SequenceNll(NamedTuple):
    """What each of B sequences costs: the negative log-likelihood of its tokens, summed, and how many those are."""

    nats_B: Float[Tensor, " B"]
    tokens_B: Int[Tensor, " B"]

    @property
    def mean(self) -> Float[Tensor, ""]:
        """Nats a token over all sequences, as a loss: what transformers computes from `labels`."""
        return self.nats_B.sum() / self.tokens_B.sum()


def sequence_kl(
    reference_BNV: Float[Tensor, "B N V"], other_BNV: Float[Tensor, "B N V"], keep_BN: Bool[Tensor, "B N"] | None = None
) -> Float[np.ndarray, " B"]:
    """KL(reference || other) of next-token distributions in nats, averaged over the kept tokens of each sequence.

    Both are logits along the same continuation; keep_BN leaves out padding. 0 exactly where both are the same, never
    below 0, infinite where the other calls impossible what the reference does not. ValueError on shapes that differ, a
    sequence of which nothing is kept, or logits that are not a number.
    """
    if reference_BNV.shape != other_BNV.shape or reference_BNV.ndim != 3:
        raise ValueError(
            f"logits of shapes {tuple(reference_BNV.shape)} and {tuple(other_BNV.shape)}; wanted (sequences, tokens, "
            "vocabulary) twice: the two runs must read the same continuation"
        )
    keep_BN = _kept(keep_BN, reference_BNV)
    # float64: a sum of 50,000 signed terms that nearly cancel would lose small divergences in float32.
    p_BNV, q_BNV = (logits.double().log_softmax(-1) for logits in (reference_BNV, other_BNV))
    term_BNV = torch.where(p_BNV == -torch.inf, 0.0, p_BNV.exp() * (p_BNV - q_BNV))
    kl_BN = term_BNV.sum(-1)
    if bool(kl_BN[keep_BN].isnan().any()):
        raise ValueError("logits that are not a number have no divergence; look at what the model was fed")
    kl_BN = torch.where(keep_BN, kl_BN.clamp(min=0.0), 0.0)
    return (kl_BN.sum(1) / keep_BN.sum(1)).cpu().numpy()


def next_token_kl(
    reference_BNV: Float[Tensor, "B N V"],
    other_BNV: Float[Tensor, "B N V"],
    keep_BN: Bool[Tensor, "B N"] | None = None,
    unit: str = "questions",
) -> Estimate:
    """Mean `sequence_kl` with a bootstrap interval over sequences, each of which counts the same.

    Where all logits would not fit into memory, collect `sequence_kl` of a few at a time and take `bootstrap_mean`.
    """
    return bootstrap_mean(sequence_kl(reference_BNV, other_BNV, keep_BN), unit)


def sequence_nll(
    logits_BTV: Float[Tensor, "B T V"], ids_BT: Int[Tensor, "B T"], keep_BT: Bool[Tensor, "B T"] | None = None
) -> SequenceNll:
    """What the ids of each prompt cost a model that is fed rows in their place; differentiable.

    logits_BTV are those AFTER each row, so row t predicts ids[t + 1]; the first id is given and costs nothing. A token
    counts where it and the one before it are kept, so padding may stand on either side. ValueError on shapes that
    differ, or a sequence with nothing to predict.
    """
    if logits_BTV.ndim != 3 or logits_BTV.shape[:2] != ids_BT.shape:
        raise ValueError(
            f"logits of shape {tuple(logits_BTV.shape)} for ids of shape {tuple(ids_BT.shape)}; wanted one row of "
            "logits for each id"
        )
    keep_BT = torch.ones_like(ids_BT, dtype=torch.bool) if keep_BT is None else keep_BT
    counted_BT = _kept(keep_BT[:, 1:] & keep_BT[:, :-1], logits_BTV[:, :-1])
    log_BTV = logits_BTV[:, :-1].float().log_softmax(-1)
    nll_BT = -log_BTV.gather(-1, ids_BT[:, 1:, None].long()).squeeze(-1)
    return SequenceNll(torch.where(counted_BT, nll_BT, 0.0).sum(1), counted_BT.sum(1))


def perplexity(
    nats: Float[np.ndarray, " B"] | Sequence[float],
    tokens: Int[np.ndarray, " B"] | Sequence[int],
    unit: str = "questions",
    *,
    seed: int = 0,
) -> Estimate:
    """exp(sum of nats / sum of tokens) over sequences, which are what is resampled for the interval.

    nats, tokens: of each sequence, as `sequence_nll` gives them. Every token counts the same, so a long prompt counts
    more than a short one, as is usual. Of one sequence the interval is not measured. ValueError on lengths that
    differ, numbers that are not finite, or a sequence without tokens.
    """
    nats_B, tokens_B = np.asarray(nats, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    if nats_B.ndim != 1 or nats_B.shape != tokens_B.shape:
        raise ValueError(f"{nats_B.shape} sums of nats and {tokens_B.shape} counts of tokens: wanted one of each")
    if not np.isfinite(nats_B).all() or not (tokens_B > 0).all():
        raise ValueError("perplexity wants finite nats, and one or more tokens, of each sequence")
    if not len(nats_B):
        return Estimate(math.nan, math.nan, math.nan, 0, unit)
    rate, low, high = nats_B.sum() / tokens_B.sum(), math.nan, math.nan
    if len(nats_B) > 1:
        draw = np.random.default_rng(seed)
        picks = (draw.integers(0, len(nats_B), len(nats_B)) for _ in range(RESAMPLES))
        drawn = [nats_B[pick].sum() / tokens_B[pick].sum() for pick in picks]
        low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    with np.errstate(over="ignore"):  # infinite is what it is then: not measured, and shown as such
        value, low, high = np.exp([rate, np.minimum(low, rate), np.maximum(high, rate)]).tolist()
    return Estimate(value, low, high, len(nats_B), unit)


def _kept(keep_BN: Tensor | None, logits_BNV: Tensor) -> Tensor:
    """The mask, everything where there is none. ValueError where its shape is wrong or a sequence has nothing left."""
    wanted = logits_BNV.shape[:2]
    keep_BN = torch.ones(wanted, dtype=torch.bool, device=logits_BNV.device) if keep_BN is None else keep_BN
    if keep_BN.shape != wanted or keep_BN.dtype != torch.bool:
        raise ValueError(
            f"the mask has shape {tuple(keep_BN.shape)} and type {keep_BN.dtype}; wanted bool {tuple(wanted)}"
        )
    if empty := int((keep_BN.sum(1) == 0).sum()):
        raise ValueError(f"{empty} of {len(keep_BN)} sequences have no token to count")
    return keep_BN
