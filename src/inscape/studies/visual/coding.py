"""Sentences through a trained codec, in batches: embeddings of latents, and text out of them.

Legend: N sentences, C, H, W of the latent, P patches, Z width of z, B batch, T tokens, M places of the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from inscape.data.tokenizer import COPY, PAD
from inscape.nn.constraint import Constraint
from inscape.nn.latent_codec import LatentCodec
from inscape.studies.visual.model import TrainedCodec, encode
from inscape.studies.visual.objective import decoder_input

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = [
    "BATCH",
    "Reading",
    "Spoken",
    "TokenScores",
    "embed",
    "embed_sentences",
    "encodable",
    "say",
    "score_tokens",
    "speak",
]

BATCH = 128


class Reading(NamedTuple):
    """What the decoder may look at, and how it chooses."""

    start: int = COPY  # start token: what to say
    sees_v: bool = True
    sees_z: bool = True
    constraint: Constraint | None = None
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0


GREEDY = Reading()


class Spoken(NamedTuple):
    """Free-running output: text, its tokens (N, T) and where each token looked (N, T, M)."""

    texts: list[str]
    tokens_NT: np.ndarray
    attention_NTM: np.ndarray


@torch.inference_mode()
def embed(codec: TrainedCodec, latent_NCHW: Float[Tensor, "N C H W"]) -> Float[np.ndarray, "N Z"]:
    """z = g(V), of unit norm."""
    return np.concatenate([codec.model.embed(_placed(codec, part)).cpu().numpy() for part in latent_NCHW.split(BATCH)])


def embed_sentences(codec: TrainedCodec, sentences: list[str]) -> Float[np.ndarray, "N Z"]:
    """z of the V of each sentence, without keeping all V at once."""
    order = np.argsort([len(sentence) for sentence in sentences], kind="stable")
    rows = []
    for start in range(0, len(order), BATCH):
        chunk = [sentences[i] for i in order[start : start + BATCH]]
        rows.append(embed(codec, encode(codec.to_latent, chunk)))
    z_NZ = np.concatenate(rows)
    return z_NZ[np.argsort(order)]


def encodable(codec: TrainedCodec, text: str) -> bool:
    """Whether the text is not empty and not too long for the encoder."""
    if not text.strip():
        return False
    try:
        codec.tokenizer.encode([text], max_length=codec.model.encoder.config.max_length)
    except ValueError:
        return False
    return True


def say(
    codec: TrainedCodec, latent_NCHW: Float[Tensor, "N C H W"], reading: Reading = GREEDY, *, seed: int = 0
) -> list[str]:
    """Free-running text for each latent."""
    return speak(codec, latent_NCHW, reading, seed=seed).texts


@torch.inference_mode()
def speak(
    codec: TrainedCodec, latent_NCHW: Float[Tensor, "N C H W"], reading: Reading = GREEDY, *, seed: int = 0
) -> Spoken:
    """Free-running text with its tokens and its attention; `seed` matters where temperature is not 0."""
    generator = torch.Generator(device=_device(codec)).manual_seed(seed)
    tokens, attention = [], []
    for part in latent_NCHW.split(BATCH):
        memory, bias = _memory(codec, part, reading)
        generated = codec.model.generate(
            memory,
            bias,
            reading.start,
            constraint=reading.constraint,
            temperature=reading.temperature,
            top_p=reading.top_p,
            generator=generator,
        )
        tokens.append(generated.tokens_BT.cpu())
        attention.append(generated.attention_BTM.float().cpu())
    longest = max(t.shape[1] for t in tokens)
    tokens_NT = torch.cat([functional.pad(t, (0, longest - t.shape[1]), value=PAD) for t in tokens]).numpy()
    attention_NTM = torch.cat([functional.pad(a, (0, 0, 0, longest - a.shape[1])) for a in attention]).numpy()
    return Spoken(codec.tokenizer.decode(tokens_NT), tokens_NT, attention_NTM)


class TokenScores(NamedTuple):
    """Teacher forcing: for each sentence and place, the cross-entropy in nats and whether the token was the likeliest.

    (N, T) each; `said_NT` is 0 at padding.
    """

    loss_NT: np.ndarray
    right_NT: np.ndarray
    said_NT: np.ndarray


@torch.inference_mode()
def score_tokens(
    codec: TrainedCodec,
    latent_NCHW: Float[Tensor, "N C H W"],
    sentences: list[str],
    change: Callable[[Tensor], Tensor] | None = None,
) -> TokenScores:
    """How well the decoder foretells each token of the sentences, given V (changed by `change`) and z."""
    tokens_NT = torch.from_numpy(codec.tokenizer.encode(sentences, max_length=codec.model.encoder.config.max_length))
    parts = []
    for latent, tokens_BT in zip(latent_NCHW.split(BATCH), tokens_NT.split(BATCH), strict=True):
        memory, bias = _memory(codec, latent if change is None else change(latent), Reading())
        read_BT, said_BT = decoder_input(tokens_BT.to(_device(codec)), COPY)
        logits_BTV = codec.model.decode(memory, bias, read_BT).float()
        loss_B = functional.cross_entropy(logits_BTV.flatten(0, 1), said_BT.flatten(), reduction="none")
        parts.append([x.cpu().numpy() for x in (loss_B.view(said_BT.shape), logits_BTV.argmax(-1) == said_BT, said_BT)])
    return TokenScores(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _memory(codec: TrainedCodec, latent_BCHW: Tensor, reading: Reading) -> tuple[Tensor, Tensor]:
    model: LatentCodec = codec.model
    latent_BCHW = _placed(codec, latent_BCHW)
    states_BPD = model.reader(latent_BCHW)
    memory_BMD = model.memory(states_BPD, model.embed(latent_BCHW, states_BPD))
    seen_B = torch.ones(len(latent_BCHW), dtype=torch.bool, device=latent_BCHW.device)
    return memory_BMD, model.memory_bias(seen_B & reading.sees_v, seen_B & reading.sees_z)


def _placed(codec: TrainedCodec, latent_BCHW: Tensor) -> Tensor:
    return latent_BCHW.to(_device(codec))


def _device(codec: TrainedCodec) -> torch.device:
    return next(codec.model.parameters()).device
