"""The terms that P5 adds: the round trip of the chosen candidate, and copies made unlikely.

Legend: B sentences, K candidates of each, T tokens, V vocabulary, C, H, W of the latent, Z width of z.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from inscape.data.tokenizer import BOS, EOS, PAD, PARAPHRASE
from inscape.nn.constraint import VocabularyMask
from inscape.nn.latent_codec import LatentCodec
from inscape.parallel import gathered
from inscape.studies.visual.losses import calibrated_terms
from inscape.studies.visual.objective import (
    ImagePrior,
    Objective,
    TrainingTuples,
    decoder_input,
    encode_batch,
    objective_terms,
)

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

__all__ = ["RoundTrip", "copied", "round_trip_terms"]


@dataclass(frozen=True)
class RoundTrip:
    """Settings of the terms; defaults are the plan's."""

    cycle: float = 0.2  # weight of 1 - cos(g(V(x)), g(V(y))); the plan's delta
    copy_suppression: float = 0.1  # weight of the copies' unlikelihood; the plan's rho
    candidates: int = 4  # sentences sampled from each V; the plan's k
    top_p: float = 0.9  # nucleus they are sampled from
    sentences: int = 16  # sentences of each batch that make the trip
    tie: float = 0.0  # candidates within so much of the best cosine are as good: the least like the input is measured
    read_back: bool = False  # measured is the first of them that its own latent gives back word for word, if one does
    longest_copy: int = 3  # runs of so many tokens may be shared with the input; longer ones are copies

    def __post_init__(self) -> None:
        for name in ("cycle", "copy_suppression"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"round_trip.{name}={getattr(self, name)} is out of range; allowed: 0 or more")
        for name in ("candidates", "sentences", "longest_copy"):
            if not 1 <= getattr(self, name) <= 4096:
                raise ValueError(f"round_trip.{name}={getattr(self, name)} is out of range; allowed: 1 to 4096")
        if not 0 <= self.tie <= 1:
            raise ValueError(f"round_trip.tie={self.tie} is out of range; allowed: 0 to 1")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"round_trip.top_p={self.top_p} is out of range; allowed: above 0, up to 1")


def round_trip_terms(
    model: LatentCodec,
    batch: TrainingTuples,
    step: int,
    objective: Objective,
    round_trip: RoundTrip,
    vocab: int,
    *,
    prior: ImagePrior = calibrated_terms,
    latent_NCHW: Tensor | None = None,
) -> dict[str, Tensor]:
    """All terms of `objective_terms`, then the trip's.

    latent_NCHW: what `encode_batch` gave of the batch, where more than these terms is made of it.
    """
    latent_NCHW = encode_batch(model, batch) if latent_NCHW is None else latent_NCHW
    terms = objective_terms(model, batch, step, objective, vocab, prior=prior, latent_NCHW=latent_NCHW)
    sentence_BT = batch.sentence_BT[: round_trip.sentences]
    latent_BCHW = latent_NCHW[: len(sentence_BT)]
    states_BPD = model.reader(latent_BCHW)
    z_BZ = model.embed(latent_BCHW, states_BPD)
    memory_BMD = model.memory(states_BPD, z_BZ)
    seen_B = torch.ones(len(sentence_BT), dtype=torch.bool, device=sentence_BT.device)
    bias_BM = model.memory_bias(seen_B, seen_B)
    chosen_BT = _best_candidate(model, memory_BMD, bias_BM, z_BZ, round_trip, vocab)
    read_BT, said_BT = decoder_input(chosen_BT, PARAPHRASE)
    chance_BTV = model.decode(memory_BMD, bias_BM, read_BT).float().softmax(-1)
    # The first token, bos, was not drawn: it gets no gradient.
    first_BTV = functional.one_hot(chosen_BT[:, :1], vocab).to(chance_BTV.dtype)
    again_BCHW = model.encode_soft(chosen_BT, torch.cat((first_BTV, chance_BTV), 1))
    cosine_B = (model.embed(again_BCHW) * z_BZ.detach()).sum(-1)
    terms["cycle"] = round_trip.cycle * (1 - cosine_B).mean()
    is_copy_BT = copied(sentence_BT[:, 1:], said_BT, round_trip.longest_copy + 1)
    said_chance_BT = chance_BTV.gather(-1, said_BT[..., None])[..., 0]
    unlikelihood_BT = -torch.log1p(-said_chance_BT.clamp(max=1 - 1e-4))
    tokens = (said_BT != PAD).sum().clamp(min=1)  # a decoder may say nothing
    terms["copies"] = round_trip.copy_suppression * (unlikelihood_BT * is_copy_BT).sum() / tokens
    return terms


@torch.no_grad()
def _best_candidate(
    model: LatentCodec, memory_BMD: Tensor, bias_BM: Tensor, z_BZ: Tensor, round_trip: RoundTrip, vocab: int
) -> Int[Tensor, "B T"]:
    """`bos w1 .. wn eos` of the candidate whose own z is closest to the input's; sentences that never end are cut."""
    count, k = len(z_BZ), round_trip.candidates
    was_training = model.training
    model.eval()
    with gathered(model):  # some processes' sentences are longer than others'
        drawn_KT = model.generate(
            memory_BMD.repeat_interleave(k, 0),
            bias_BM.repeat_interleave(k, 0),
            PARAPHRASE,
            temperature=1.0,
            top_p=round_trip.top_p,
            constraint=VocabularyMask(vocab, device=memory_BMD.device),
        ).tokens_BT
        bos_K1 = torch.full_like(drawn_KT[:, :1], BOS)
        drawn_KT = torch.cat((bos_K1, drawn_KT), 1)
        z_KZ = model.embed(model.encode(drawn_KT))
    model.train(was_training)
    cosine_BK = (z_KZ.unflatten(0, (count, k)) * z_BZ[:, None]).sum(-1)
    best_B = cosine_BK.argmax(1)
    return drawn_KT.unflatten(0, (count, k))[torch.arange(count, device=best_B.device), best_B]


def copied(input_BS: Int[Tensor, "B S"], output_BT: Int[Tensor, "B T"], length: int) -> Bool[Tensor, "B T"]:
    """Tokens of the output that end a run of `length` tokens which the input holds as well."""
    result_BT = torch.zeros_like(output_BT, dtype=torch.bool)
    if min(input_BS.shape[1], output_BT.shape[1]) < length:
        return result_BT
    ours_BRL, theirs_BRL = output_BT.unfold(1, length, 1), input_BS.unfold(1, length, 1)
    same_BRR = (ours_BRL[:, :, None] == theirs_BRL[:, None]).all(-1)
    words_BR = (ours_BRL > EOS).all(-1)  # padding and the end are nobody's copy
    result_BT[:, length - 1 :] = same_BRR.any(-1) & words_BR
    return result_BT
