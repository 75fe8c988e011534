"""What the decoder makes of V: the measurements of P4, on held-out sentences.

Teacher forcing proves little, since a decoder can live on the tokens it is given; free-running text from V alone, from
another sentence's V and from V with noise says what V holds.

Legend: N sentences, C, H, W of the latent, T tokens, M places of the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from inscape.core.estimate import Estimate, bootstrap_mean, proportion
from inscape.data import text_negatives
from inscape.data.scenes import Scene
from inscape.data.tokenizer import EOS, PAD
from inscape.metrics.attention_maps import AttentionMaps, attention_maps
from inscape.metrics.scene_graph import scene_exact
from inscape.metrics.text import exact_match
from inscape.nn.jitter import add_noise, shuffle_places, swap_sentences
from inscape.studies.visual.coding import BATCH, Reading, Spoken, say, score_tokens, speak
from inscape.studies.visual.model import TrainedCodec

__all__ = [
    "FUNCTION_WORDS",
    "attention_metrics",
    "content_mask",
    "content_mask_of_text",
    "free_running",
    "noise_metrics",
    "noise_name",
    "swapped",
    "teacher_forced",
    "watch_attention",
]

# Words that say nothing of the scene: articles, "there is" and its kin, pronouns, postures, conjunctions.
FUNCTION_WORDS = frozenset(
    [
        "a",
        "an",
        "the",
        "one",
        "there",
        "is",
        "are",
        "that",
        "which",
        "and",
        "while",
        "of",
        "to",
        "sit",
        "sits",
        "stand",
        "stands",
        "lie",
        "lies",
        "by",
    ]
)


OF_ENGLISH = frozenset(text_negatives.FUNCTION_WORDS)


class Heard(NamedTuple):
    """Shares of scenes and of sentences that came back."""

    scene: Estimate
    sentence: Estimate


def free_running(
    codec: TrainedCodec, latent_NCHW: Tensor, sentences: Sequence[str], scenes: Sequence[Scene], reading: Reading
) -> Heard:
    """Greedy text from each latent against what was put in."""
    said = say(codec, latent_NCHW, reading)
    return Heard(_scenes_right(said, scenes), exact_match(sentences, said))


def _scenes_right(said: Sequence[str], scenes: Sequence[Scene]) -> Estimate:
    right = sum(scene_exact(text, scene) for text, scene in zip(said, scenes, strict=True))
    return proportion(right, len(said), "sentences")


def noise_metrics(
    codec: TrainedCodec, latent_NCHW: Tensor, scenes: Sequence[Scene], sigmas: Sequence[float], reading: Reading
) -> list[Estimate]:
    """Share of scenes that come back from V with noise of `sigma` standard deviations of V, for each sigma."""
    found = []
    for i, sigma in enumerate(sigmas):
        noisy = add_noise(latent_NCHW, sigma, generator=torch.Generator().manual_seed(i))
        found.append(_scenes_right(say(codec, noisy, reading), scenes))
    return found


def noise_name(sigma: float) -> str:
    """The metric's name for noise of `sigma`, in per cent: names hold letters, digits and underscores alone."""
    return f"scene_exact_noise_{100 * sigma:.0f}"


def swapped(latent_NCHW: Tensor, seed: int = 0) -> Tensor:
    """Control: each sentence gets another one's latent."""
    return swap_sentences(latent_NCHW, generator=torch.Generator().manual_seed(seed))


ContentMask = Callable[[TrainedCodec, np.ndarray], np.ndarray]
"""(codec, tokens_NT) -> (N, T) bool: which tokens are part of a content word."""


def content_mask(codec: TrainedCodec, tokens_NT: np.ndarray) -> np.ndarray:
    """Of the grammar: neither special nor a function word, each of which is one token."""
    function = {i for ids in codec.tokenizer.word_ids(sorted(FUNCTION_WORDS)).values() for i in ids}
    return (tokens_NT > EOS) & ~np.isin(tokens_NT, list(function))


def content_mask_of_text(codec: TrainedCodec, tokens_NT: np.ndarray) -> np.ndarray:
    """Of English: whole words that are no function word, whatever their case, and hold a letter or a digit."""
    starts_V = codec.tokenizer.starts_word()
    content_NT = np.zeros(tokens_NT.shape, dtype=bool)
    for row, text in enumerate(codec.tokenizer.decode(tokens_NT)):
        words = text.split(" ")
        own_T = (tokens_NT[row] > EOS) & (np.cumsum(tokens_NT[row] == EOS) == 0)
        word_T = np.cumsum(starts_V[tokens_NT[row]] & own_T) - 1
        plain = ["".join(filter(str.isalnum, word)).lower() for word in words]
        says = np.array([bool(word) and word not in OF_ENGLISH for word in plain])
        content_NT[row] = own_T & (word_T >= 0) & says[np.clip(word_T, 0, len(says) - 1)]
    return content_NT


def teacher_forced(
    codec: TrainedCodec,
    latent_NCHW: Tensor,
    sentences: Sequence[str],
    patch: int,
    content: ContentMask = content_mask,
) -> dict[str, Estimate]:
    """Accuracy and cross-entropy of content and function words, and what shuffling V's patches does to the latter."""
    scores = score_tokens(codec, latent_NCHW, list(sentences))
    content_NT = content(codec, scores.said_NT)
    function_NT = (scores.said_NT != PAD) & ~content_NT
    metrics = {
        "content_accuracy": _mean_over(scores.right_NT, content_NT),
        "content_cross_entropy": _mean_over(scores.loss_NT, content_NT),
        "function_cross_entropy": _mean_over(scores.loss_NT, function_NT),
    }
    shuffle: Callable[[Tensor], Tensor] = lambda latent: shuffle_places(  # noqa: E731
        latent, patch, generator=torch.Generator().manual_seed(0)
    )
    shuffled = score_tokens(codec, latent_NCHW, list(sentences), change=shuffle)
    kept_NT = scores.said_NT != PAD
    whole = _mean_over(scores.loss_NT, kept_NT)
    # The interval is that of the numerator over sentences; the denominator is the same for all.
    return metrics | {
        "shuffle_raises_cross_entropy": _mean_over(shuffled.loss_NT / max(whole.value, 1e-6) - 1, kept_NT),
        "cross_entropy": whole,
        "cross_entropy_shuffled": _mean_over(shuffled.loss_NT, kept_NT),
    }


def attention_metrics(codec: TrainedCodec, spoken: Spoken, content: ContentMask = content_mask) -> AttentionMaps:
    """Where content words looked when they were said."""
    return attention_maps(spoken.attention_NTM, content(codec, spoken.tokens_NT), codec.model.reader.grid, block=2)


class _Dictated:
    """A constraint that leaves one token each time: the next one of the sentences."""

    def __init__(self, said_BT: Tensor, vocab: int) -> None:
        self.said_BT, self.vocab = said_BT, vocab

    def initial(self, batch: int) -> Tensor:
        assert batch == len(self.said_BT)
        return torch.zeros(batch, dtype=torch.long)

    def allowed(self, state_B: Tensor, left: int | None = None) -> Tensor:
        at_B = state_B.clamp(max=self.said_BT.shape[1] - 1)
        return functional.one_hot(self.said_BT[torch.arange(len(at_B)), at_B], self.vocab).bool()

    def advance(self, state_B: Tensor, token_B: Tensor) -> Tensor:
        return state_B + 1


def watch_attention(codec: TrainedCodec, latent_NCHW: Tensor, sentences: Sequence[str]) -> Spoken:
    """Where the decoder looks in V while it says the sentences: what it would have said plays no part."""
    longest = codec.model.encoder.config.max_length
    said_NT = torch.from_numpy(codec.tokenizer.encode(list(sentences), max_length=longest))[:, 1:]
    said_NT = functional.pad(said_NT, (0, 1))
    if len(sentences) > BATCH:
        raise ValueError(f"{len(sentences)} sentences are too many to watch at once; allowed: {BATCH}")
    dictated = _Dictated(said_NT, codec.tokenizer.vocab_size)
    return speak(codec, latent_NCHW, Reading(sees_z=False, constraint=dictated))


def _mean_over(value_NT: np.ndarray, kept_NT: np.ndarray) -> Estimate:
    """Mean over a sentence's kept tokens, then over the sentences that have any."""
    count_N = kept_NT.sum(1)
    rows = count_N > 0
    return bootstrap_mean((value_NT * kept_NT).sum(1)[rows] / count_N[rows], "sentences")
