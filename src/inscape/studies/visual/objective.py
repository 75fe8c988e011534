"""What the codec is trained on from P2 on: contrast, decoding, invariance and the image prior, term by term.

The plan trains them one after the other, and its contrast is met by a bag of words. Together they are met by meaning
alone: to give back the very sentence V must hold all of it; to give the scene's canonical wording from the V of a
paraphrase, who does what to whom must be told from V; and to give it from z alone, from z. See LOG.md.

Legend: B tuples, N all sentences of them, T tokens, C, H, W of the latent, P its patches, Q places it is painted from,
Z width of z, R rows that are decoded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from inscape.data.tokenizer import COPY, EOS, PAD
from inscape.nn.jitter import JitterConfig, add_noise, jitter
from inscape.nn.latent_codec import LatentCodec
from inscape.studies.visual.losses import Weights, calibrated_terms, tokens_held

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = [
    "ImagePrior",
    "Objective",
    "TrainingTuples",
    "decoder_input",
    "encode_batch",
    "info_nce",
    "keep_hardest",
    "objective_terms",
    "past_terms",
    "picture_terms",
]


ImagePrior = Callable[..., dict[str, Tensor]]  # called as `calibrated_terms` is


class TrainingTuples(NamedTuple):
    """A step's sentences: tokens (B, T) of one width, padded with 0, and how the paraphrase's V is to be decoded.

    Sentences of one batch are negatives of each other; `negative_NT` are more of them, which are not decoded.
    """

    sentence_BT: Tensor
    paraphrase_BT: Tensor
    target_BT: Tensor  # what the decoder must say of the paraphrase's V, beside a copy; may be empty
    start_B: Tensor  # with which start token
    negative_NT: Tensor  # N may be 0


@dataclass(frozen=True)
class Objective:
    """Weights and settings of the terms. A weight of 0 leaves its term out."""

    image: float = 0.3  # the image prior, times its own weights
    contrast: float = 1.0  # InfoNCE; the plan's alpha
    temperature: float = 0.07  # of InfoNCE; the plan's tau
    invariance: float = 0.0  # |g(T(V1)) - g(V2)|^2 under jitter T; the plan's beta, 0.2, from P3 on
    copy: float = 1.0  # decoding each sentence from its V; the plan's gamma, 0.7, in P5
    target: float = 1.0  # decoding another wording from the paraphrase's V
    from_z: float = 0.5  # the same from z alone
    z_alone: float = 0.3  # share of the paraphrases that are decoded from z alone
    z_beside: float = 0.25  # share that are decoded from V and z; the rest from V alone
    noise: float = 0.5  # largest noise on V before it is read, in standard deviations of V; uniform from 0
    vicreg: float = 0.0  # optional: variance and covariance of z (Bardes et al. 2022)
    barlow: float = 0.0  # optional: cross-correlation of the views' z (Zbontar et al. 2021)
    share: float = 0.8  # image prior: least share of V's variance between sentences
    dimensions: float = 16.0  # image prior: least effective number of directions between sentences
    jitter: JitterConfig = field(default_factory=JitterConfig)
    prior: Weights = field(default_factory=Weights)

    def __post_init__(self) -> None:
        weights = ("image", "contrast", "invariance", "copy", "target", "from_z", "vicreg", "barlow")
        for name in (*weights, "noise"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"objective.{name}={value} is out of range; allowed: 0 or more")
        if not 0 < self.temperature <= 10:
            raise ValueError(f"objective.temperature={self.temperature} is out of range; allowed: above 0, up to 10")
        if not (self.z_alone >= 0 and self.z_beside >= 0 and self.z_alone + self.z_beside < 1):
            raise ValueError(
                f"objective.z_alone={self.z_alone} and z_beside={self.z_beside} are shares; allowed: 0 or more, "
                "together below 1"
            )

    @property
    def decodes(self) -> bool:
        """Whether any term needs the decoder."""
        return self.copy > 0 or self.target > 0 or self.from_z > 0


def objective_terms(
    model: LatentCodec,
    batch: TrainingTuples,
    step: int,
    objective: Objective,
    vocab: int,
    *,
    prior: ImagePrior = calibrated_terms,
    latent_NCHW: Tensor | None = None,
) -> dict[str, Tensor]:
    """The weighted terms of one step, by name; the same names at every step of a training.

    latent_NCHW: what `encode_batch` gave of the batch, where more than these terms is made of it.
    """
    count = len(batch.sentence_BT)
    latent_NCHW = encode_batch(model, batch) if latent_NCHW is None else latent_NCHW
    terms = {}
    if objective.image:
        terms["image"] = _image(latent_NCHW, batch, step, objective, vocab, prior)
    seen_NCHW = _seen(latent_NCHW, count, objective)
    states_NPD = model.reader(seen_NCHW)
    z_NZ = model.embed(seen_NCHW, states_NPD)
    terms |= _contrast(z_NZ, count, objective)
    if objective.decodes:
        terms |= _decode(model, states_NPD[: 2 * count], z_NZ[: 2 * count], batch, objective)
    return terms


@torch.no_grad()
def keep_hardest(
    model: LatentCodec, batch: TrainingTuples, edited: int, drawn: int = 1, *, past_v: bool
) -> TrainingTuples:
    """Of each family the scene and the one of its `edited` edited scenes whose z is nearest to its own; and of all
    families one in `drawn`, those in which the two are nearest.

    Retrieval asks for the worst of all that is one edit away, and for the scenes that are hardest to find; those drawn
    at random are told apart long before. past_v: z is of the states that V is painted from. ValueError where the
    families are no multiple of `drawn`: a process would keep fewer than its share.
    """
    tokens_NT = batch.sentence_BT
    if past_v:
        states_NPD = model.encoder.places(tokens_NT)
        _check_places(model, states_NPD)
        z_NZ = model.readout(states_NPD)
    else:
        z_NZ = model.embed(model.encode(tokens_NT))
    z_KFZ = z_NZ.float().unflatten(0, (1 + edited, -1))
    cosine_F, nearest_F = (z_KFZ[1:] * z_KFZ[0]).sum(-1).max(0)
    if len(cosine_F) % drawn:
        raise ValueError(
            f"{len(cosine_F)} scenes of this process are no multiple of mixture.drawn={drawn}; make training.batch a "
            "multiple of twice the number of processes"
        )
    kept_H = cosine_F.topk(len(cosine_F) // drawn).indices.sort().values
    row_B = torch.cat((kept_H, (1 + nearest_F[kept_H]) * len(cosine_F) + kept_H))
    return TrainingTuples(
        batch.sentence_BT[row_B],
        batch.paraphrase_BT[row_B],
        batch.target_BT[row_B],
        batch.start_B[row_B],
        batch.negative_NT,
    )


def past_terms(model: LatentCodec, batch: TrainingTuples, objective: Objective, noise: float) -> dict[str, Tensor]:
    """Contrast and decoding of the states that V would be painted from, V left out.

    noise: largest noise on them, in units of their spread, which is 1; uniform from 0. What is read off V is never
    quite what was painted.
    """
    count = len(batch.sentence_BT)
    states_NPD = _of_both(model.encoder.places, model, batch)
    _check_places(model, states_NPD)
    states_NPD = states_NPD + noise * torch.rand_like(states_NPD[:, :1, :1]) * torch.randn_like(states_NPD)
    z_NZ = model.readout(states_NPD)
    decoded = _decode(model, states_NPD[: 2 * count], z_NZ[: 2 * count], batch, objective)
    return _contrast(z_NZ, count, objective) | decoded


def picture_terms(
    model: LatentCodec,
    batch: TrainingTuples,
    step: int,
    objective: Objective,
    vocab: int,
    *,
    prior: ImagePrior = calibrated_terms,
) -> dict[str, Tensor]:
    """The image prior, and the squared error of what the reader makes of V against what V was painted from.

    The reader sees V through noise, and through T where invariance is asked for. Gradients reach painter and reader
    alone.
    """
    with torch.no_grad():
        places_NPD = _of_both(model.encoder.places, model, batch._replace(negative_NT=batch.negative_NT[:0]))
    _check_places(model, places_NPD)
    latent_NCHW = model.encoder.paint(places_NPD)
    seen_NCHW = jitter(latent_NCHW, objective.jitter) if objective.invariance else latent_NCHW
    states_NPD = model.reader(add_noise(seen_NCHW, objective.noise * torch.rand_like(seen_NCHW[:, 0, 0, 0])))
    return {
        "image": _image(latent_NCHW, batch, step, objective, vocab, prior),
        "read": (states_NPD - places_NPD).float().square().mean(),
    }


def encode_batch(model: LatentCodec, batch: TrainingTuples) -> Tensor:
    """V of sentences, paraphrases and negatives, in this order: (N, C, H, W)."""
    return _of_both(model.encode, model, batch)


def _of_both(encode: Callable[[Tensor], Tensor], model: LatentCodec, batch: TrainingTuples) -> Tensor:
    """What `encode` makes of sentences, paraphrases and negatives, in this order.

    Of a file of single sentences both wordings are one, and it is encoded once where nothing is drawn on the way.
    """
    first_BT, second_BT = batch.sentence_BT, batch.paraphrase_BT
    drawn = model.training and model.encoder.config.dropout > 0
    differ = drawn or first_BT.is_cuda or first_BT.shape != second_BT.shape  # asking a GPU would stall it
    if differ or not torch.equal(first_BT, second_BT):
        return encode(torch.cat((first_BT, second_BT, batch.negative_NT)))
    once = encode(torch.cat((first_BT, batch.negative_NT)))
    return torch.cat((once[: len(first_BT)], once))


def _image(
    latent_NCHW: Tensor, batch: TrainingTuples, step: int, objective: Objective, vocab: int, prior: ImagePrior
) -> Tensor:
    """The image prior over the sentences' latents: the whole and a cut by turns, as in P1; the Haar transform must not
    see the same pairs of pixels each time."""
    cut = step % 2
    terms = prior(
        latent_NCHW[: len(batch.sentence_BT), :, cut:, cut:],
        tokens_held(batch.sentence_BT, vocab),
        objective.prior,
        share=objective.share,
        dimensions=objective.dimensions,
    )
    return objective.image * torch.stack(list(terms.values())).sum()


def _check_places(model: LatentCodec, places_NQD: Tensor) -> None:
    painted, read = tuple(places_NQD.shape[1:]), (model.places, model.config.d)
    if painted != read:
        raise ValueError(
            "to decode past V, an encoder is needed that paints from as many places as the reader has patches, and as "
            f"wide; they have {painted[0]} x {painted[1]} and {read[0]} x {read[1]}; set encoder.coarse, codec.patch "
            "and codec.d"
        )


def _seen(latent_NCHW: Tensor, count: int, objective: Objective) -> Tensor:
    """V as the reader sees it: sentences and paraphrases through noise, sentences through T as well."""
    first, second, negative = latent_NCHW.tensor_split((count, 2 * count))
    if objective.invariance:
        first = jitter(first, objective.jitter)
    seen = torch.cat((first, second))
    if objective.noise:
        seen = add_noise(seen, objective.noise * torch.rand(len(seen), device=seen.device))
    return torch.cat((seen, negative))


def _contrast(z_BZ: Tensor, count: int, objective: Objective) -> dict[str, Tensor]:
    """InfoNCE both ways, against everything else of the batch in either wording; and what is optional."""
    first, second, negative = z_BZ.tensor_split((count, 2 * count))
    terms = {}
    if objective.contrast:
        forth = info_nce(first, torch.cat((second, first, negative)), objective.temperature)
        back = info_nce(second, torch.cat((first, second, negative)), objective.temperature)
        terms["contrast"] = objective.contrast * (forth + back) / 2
    if objective.invariance:
        terms["invariance"] = objective.invariance * (first - second).square().sum(-1).mean()
    if objective.vicreg:
        terms["vicreg"] = objective.vicreg * _vicreg(torch.cat((first, second)))
    if objective.barlow:
        terms["barlow"] = objective.barlow * _barlow(first, second)
    return terms


def info_nce(query_BZ: Float[Tensor, "B Z"], pool_NZ: Float[Tensor, "N Z"], temperature: float) -> Float[Tensor, ""]:
    """Cross-entropy of finding item i of the pool for query i, by cosine over `temperature` (van den Oord 2018).

    Item B + i of the pool is query i itself, and does not count.
    """
    count = len(query_BZ)
    target_B = torch.arange(count, device=query_BZ.device)
    with torch.autocast(query_BZ.device.type, enabled=False):  # in bfloat16 a score near cosine 1 would be off by 0.05
        score_BN = query_BZ.float() @ pool_NZ.float().T / temperature
    itself_BN = torch.zeros_like(score_BN, dtype=torch.bool)
    itself_BN[target_B, target_B + count] = True
    return functional.cross_entropy(score_BN.masked_fill(itself_BN, -torch.inf), target_B)


def _vicreg(z_BZ: Tensor) -> Tensor:
    """Variance hinge at the standard deviation of a uniform unit vector, and squared covariances off the diagonal."""
    scaled = z_BZ * z_BZ.shape[-1] ** 0.5
    scaled = scaled - scaled.mean(0)
    covariance = scaled.T @ scaled / (len(scaled) - 1)
    variance = covariance.diagonal()
    hinge = functional.relu(1 - (variance + 1e-4).sqrt()).mean()
    return hinge + (covariance.square().sum() - variance.square().sum()) / len(variance)


def _barlow(first_BZ: Tensor, second_BZ: Tensor, redundancy: float = 5e-3) -> Tensor:
    """Cross-correlation of two views against the identity; per dimension."""
    first, second = ((z - z.mean(0)) / (z.std(0) + 1e-4) for z in (first_BZ, second_BZ))
    correlation = first.T @ second / len(first)
    on = (correlation.diagonal() - 1).square().sum()
    off = correlation.square().sum() - correlation.diagonal().square().sum()
    return (on + redundancy * off) / len(correlation)


def decoder_input(
    sentence_BT: Int[Tensor, "B T"], start: int | Int[Tensor, " B"]
) -> tuple[Int[Tensor, "B S"], Int[Tensor, "B S"]]:
    """What the decoder reads and what it must say, both S = T - 1 wide, of `bos w1 .. wn eos`: the start token stands
    for bos."""
    read_BT, said_BT = sentence_BT[:, :-1].clone(), sentence_BT[:, 1:]
    read_BT[:, 0] = start
    return read_BT.masked_fill(read_BT == EOS, PAD), said_BT


def _decode(
    model: LatentCodec, states_BPD: Tensor, z_BZ: Tensor, batch: TrainingTuples, objective: Objective
) -> dict[str, Tensor]:
    """Each term is a mean over the tokens that it covers. Rows: both sentences' copies, then the targets."""
    count, targets, device = len(batch.sentence_BT), len(batch.target_BT), states_BPD.device
    copies_BT = torch.cat((batch.sentence_BT, batch.paraphrase_BT))
    reads, says = zip(decoder_input(copies_BT, COPY), decoder_input(batch.target_BT, batch.start_B), strict=True)
    row_R = torch.arange(2 * count + targets, device=device)
    is_copy_R = row_R < 2 * count
    draw_R = torch.rand(len(row_R), device=device)
    sees_v_R = is_copy_R | (draw_R >= objective.z_alone)
    sees_z_R = (draw_R < objective.z_alone + objective.z_beside) & (~is_copy_R | (draw_R >= objective.z_alone))
    source_R = torch.where(is_copy_R, row_R, row_R - count)  # targets are decoded from the paraphrases' V
    memory_RMD = model.memory(states_BPD, z_BZ)[source_R]
    said_RT = torch.cat(says)
    loss_RT = model.token_loss(memory_RMD, model.memory_bias(sees_v_R, sees_z_R), torch.cat(reads), said_RT)
    terms = {}
    for name, rows_R in (("copy", is_copy_R), ("target", ~is_copy_R & sees_v_R), ("from_z", ~sees_v_R)):
        if weight := getattr(objective, name):
            terms[name] = weight * _mean_over(loss_RT, (said_RT != PAD) & rows_R[:, None])
    return terms


def _mean_over(loss_BT: Tensor, kept_BT: Tensor) -> Tensor:
    return (loss_BT * kept_BT).sum() / kept_BT.sum().clamp(min=1)
