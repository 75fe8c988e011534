"""Other sentences with the same meaning: candidates by sampling, the best by round trip.

A candidate is judged by the codec itself: its own latent must mean what the input's means, cos(g(V(x)), g(V(y))). Where
the grammar's parser can read the input, its verdict is final.

Legend: N sentences, K candidates each, C, H, W of the latent, Z width of z.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from inscape.data.scenes import Scene, parse
from inscape.data.tokenizer import PARAPHRASE
from inscape.metrics.text import rouge_l
from inscape.studies.visual.coding import Reading, embed, embed_sentences, encodable, say
from inscape.studies.visual.model import TrainedCodec, encode

if TYPE_CHECKING:
    from inscape.nn.constraint import Constraint

__all__ = ["Candidate", "best_round_trips", "candidates", "chosen", "meaning_of", "paraphrases"]

TOP_P = 0.9  # the plan's
TEMPERATURE = 1.0


class Candidate(NamedTuple):
    """A sentence and the cosine of its meaning with the input's."""

    text: str
    cosine: float


def candidates(
    codec: TrainedCodec,
    sentences: Sequence[str],
    k: int,
    *,
    seed: int = 0,
    constraint: Constraint | None = None,
    temperature: float = TEMPERATURE,
    top_p: float = TOP_P,
) -> list[list[Candidate]]:
    """`k` samples for each sentence from its V under the paraphrase token, in the order drawn; repeats are kept."""
    latent_NCHW = encode(codec.to_latent, list(sentences))
    reading = Reading(start=PARAPHRASE, constraint=constraint, temperature=temperature, top_p=top_p)
    said = say(codec, latent_NCHW.repeat_interleave(k, 0), reading, seed=seed)
    cosines = _round_trip(codec, latent_NCHW, said, k)
    rows = [Candidate(text, float(cosine)) for text, cosine in zip(said, cosines, strict=True)]
    return [rows[i : i + k] for i in range(0, len(rows), k)]


def chosen(sentence: str, row: Sequence[Candidate], tie: float = 0.0) -> Candidate:
    """The candidate with the best round trip; of those within `tie` of its cosine the one least like the sentence.

    z of two wordings is never quite the same, and nearest of all to that of a near copy: cosines that close say which
    words were kept, and not which meaning.
    """
    return _in_order(sentence, row, tie)[0]


def best_round_trips(
    codec: TrainedCodec,
    sentences: Sequence[str],
    rows: Sequence[Sequence[Candidate]],
    *,
    tie: float = 0.0,
    read_back: bool = False,
) -> list[Candidate]:
    """`chosen` for each sentence. read_back: the first in that order that makes the trip word for word.

    z says what a sentence means and not whether it is one: "a orange ball" lies where "an orange ball" does. Read
    greedily from its own latent it comes back as the latter, so what does not come back as itself is passed over. Where
    no candidate does, `chosen` stands. No parser has a say.
    """
    orders = [_in_order(sentence, row, tie) for sentence, row in zip(sentences, rows, strict=True)]
    found = [order[0] for order in orders]
    open_rows = list(range(len(orders))) if read_back else []
    for place in range(max(map(len, orders), default=0)):
        open_rows = [i for i in open_rows if place < len(orders[i])]
        if not open_rows:
            break
        back = _comes_back(codec, [orders[i][place].text for i in open_rows])
        for i in (i for i, same in zip(open_rows, back, strict=True) if same):
            found[i] = orders[i][place]
        open_rows = [i for i, same in zip(open_rows, back, strict=True) if not same]
    return found


def _in_order(sentence: str, row: Sequence[Candidate], tie: float) -> list[Candidate]:
    """The best first: those within the tie from the least alike on, then the others by their cosine."""
    best = max(candidate.cosine for candidate in row)

    def place(candidate: Candidate) -> tuple[bool, float, float]:
        as_good = candidate.cosine >= best - tie
        return not as_good, rouge_l(sentence, candidate.text) if tie and as_good else 0.0, -candidate.cosine

    return sorted(row, key=place)


def _comes_back(codec: TrainedCodec, texts: Sequence[str]) -> list[bool]:
    """Whether each text is what its own latent says."""
    fits = [i for i, text in enumerate(texts) if encodable(codec, text)]
    same = [False] * len(texts)
    if fits:
        tried = [texts[i] for i in fits]
        for i, text, back in zip(fits, tried, say(codec, encode(codec.to_latent, tried)), strict=True):
            same[i] = text == back
    return same


def _round_trip(codec: TrainedCodec, latent_NCHW: Tensor, said: Sequence[str], k: int) -> np.ndarray:
    """Cosines; -1 for what cannot be encoded again."""
    fits = [i for i, text in enumerate(said) if encodable(codec, text)]
    cosine = np.full(len(said), -1.0)
    if fits:
        z_KZ = embed_sentences(codec, [said[i] for i in fits])
        own_NZ = embed(codec, latent_NCHW)
        cosine[fits] = (z_KZ * own_NZ[np.array(fits) // k]).sum(1)
    return cosine


def paraphrases(
    codec: TrainedCodec,
    sentences: Sequence[str],
    n: int,
    *,
    draws: int = 4,
    seed: int = 0,
    constraint: Constraint | None = None,
    least_cosine: float = 0.9,
) -> list[list[Candidate]]:
    """Up to `n` distinct paraphrases of each sentence, best round trip first; fewer where fewer were found.

    Never the sentence itself; never one whose parsed scene differs, where the sentence can be parsed; else never one
    whose cosine is below `least_cosine`. `draws` times `n` candidates are sampled for each sentence.
    """
    found = []
    drawn = candidates(codec, sentences, draws * n, seed=seed, constraint=constraint)
    for sentence, row in zip(sentences, drawn, strict=True):
        scene = meaning_of(sentence)
        kept: dict[str, Candidate] = {}
        for candidate in row:
            same = candidate.cosine >= least_cosine if scene is None else meaning_of(candidate.text) == scene
            if same and candidate.text != sentence:
                kept.setdefault(candidate.text, candidate)
        found.append(sorted(kept.values(), key=lambda c: -c.cosine)[:n])
    return found


def meaning_of(text: str) -> Scene | None:
    """The scene that a text states, or None where it is no sentence of the grammar."""
    try:
        return parse(text)
    except ValueError:
        return None
