"""What P2 and P4 measure of a text file: retrieval among other sentences, and how much of a sentence comes back.

There is no parser for natural language, so meaning is what the file says means the same (two columns of a line), and
what is returned is compared word by word.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from inscape.core.estimate import Estimate, bootstrap_mean, exact
from inscape.data.text_negatives import word_replace, word_swap
from inscape.data.tokenizer import normalise
from inscape.metrics.retrieval import cosine_gap, told_apart
from inscape.metrics.text import exact_match, mean_rouge_l, token_accuracy
from inscape.nn.jitter import add_noise
from inscape.studies.visual.coding import Reading, Spoken, embed, say, speak
from inscape.studies.visual.decoding_metrics import swapped
from inscape.studies.visual.meaning_metrics import EncodedPool, encode_pool, recall, shuffled_recall
from inscape.studies.visual.model import TrainedCodec, encode
from inscape.studies.visual.sources import Source, TextSource

__all__ = ["LENGTHS", "one_of_each_group", "returned", "same_words", "text_meaning", "text_pools", "told_from_edits"]

POOL = 500  # sentences a query is searched among, as in the literature on captions
MOST_POOLS = 20
EDITED, NOISE = 1000, 0.5  # sentences of which edited ones are made; noise on V, in its standard deviations
LENGTHS = (8, 12, 16, 20, 28, 64)  # words: upper ends of the groups that the curve against length has


def text_pools(codec: TrainedCodec, source: Source) -> list[EncodedPool]:
    """Pools of 500 held-out groups each: the first sentence of a group asks for its second.

    As many as the file has, and of fewer groups one that is smaller; none where it has no groups.
    """
    pairs = source.held_out_pairs(MOST_POOLS * POOL)
    pools = [pairs[i : i + POOL] for i in range(0, max(len(pairs) - POOL, 0) + 1, POOL)] if pairs else []
    encoded = []
    for pool in pools:
        queries, others = zip(*pool, strict=True)
        encoded.append(encode_pool(codec, queries, others, np.arange(len(pool))))
    return encoded


def one_of_each_group(source: Source, count: int) -> list[str]:
    """The first sentence of up to `count` held-out groups; of a file without groups any held-out sentences."""
    return [first for first, _ in source.held_out_pairs(count)] or source.held_out(count)


def text_meaning(codec: TrainedCodec, source: Source, count: int) -> dict[str, Estimate]:
    """Retrieval where the file has groups; and what comes back, token by token."""
    sentences = one_of_each_group(source, count)
    metrics = returned(codec, sentences)
    strangers = swapped(encode(codec.to_latent, sentences))
    metrics["sentence_exact_swapped"] = same_words(sentences, say(codec, strangers, Reading(sees_z=False)))
    if isinstance(source, TextSource):
        metrics |= told_from_edits(codec, source, sentences[:EDITED])
    if pools := text_pools(codec, source):
        gaps = [cosine_gap(embed(codec, pool.query_NCHW), pool.pool_MZ) for pool in pools]
        metrics |= {
            "recall_at_1": recall(codec, pools, 1),
            "recall_at_5": recall(codec, pools, 5),
            "recall_at_1_shuffled": shuffled_recall(codec, pools),
            "cosine_gap": min(gaps, key=lambda estimate: estimate.low),
            "pool_size": exact(len(pools[0].pool_MZ), len(pools), "pools"),
        }
    return metrics


def told_from_edits(codec: TrainedCodec, source: TextSource, sentences: Sequence[str]) -> dict[str, Estimate]:
    """Is a sentence under noise on V nearer to itself than to itself with two words exchanged, or with one replaced?

    A bag of words cannot tell the first: chance is 0.5. Words that exchanged say the same are among them, so 1 is out
    of reach. Nothing is asked for: without `mixture.edits` no training has met such sentences.
    """
    tokens_NT = codec.tokenizer.encode(list(sentences), max_length=codec.model.encoder.config.max_length)
    row_N = np.arange(len(tokens_NT))
    latent_NCHW = encode(codec.to_latent, list(sentences))
    noisy_NCHW = add_noise(latent_NCHW, NOISE, generator=torch.Generator().manual_seed(0))
    own_NZ, noisy_NZ = embed(codec, latent_NCHW), embed(codec, noisy_NCHW)
    found = {}
    for name, edit in (("swap", word_swap), ("replace", word_replace)):
        edited = edit(source.words, tokens_NT, seed=0, step=0, row_B=row_N)
        changed_N = np.flatnonzero(edited.changed_B)
        texts = codec.tokenizer.decode(edited.tokens_BT[changed_N])
        if texts:
            other_NZ = embed(codec, encode(codec.to_latent, texts))
            found[f"told_from_{name}"] = told_apart(noisy_NZ[changed_N], own_NZ[changed_N], other_NZ, unit="sentences")
    return found


def same_words(expected: Sequence[str], got: Sequence[str]) -> Estimate:
    """Share of sentences that came back, blanks aside."""
    return exact_match([normalise(text) for text in expected], [normalise(text) for text in got])


def returned(codec: TrainedCodec, sentences: Sequence[str], prefix: str = "") -> dict[str, Estimate]:
    """Free-running decoding from V alone: exact matches, tokens, ROUGE-L of what differs, by length."""
    sentences = list(map(normalise, sentences))
    spoken = speak(codec, encode(codec.to_latent, sentences), Reading(sees_z=False))
    texts = list(map(normalise, spoken.texts))
    metrics = {
        f"{prefix}sentence_exact": same_words(sentences, texts),
        f"{prefix}token_accuracy": tokens_right(codec, sentences, spoken),
    }
    different = [(a, b) for a, b in zip(sentences, texts, strict=True) if a != b]
    if different:
        metrics[f"{prefix}rouge_l_of_what_differs"] = mean_rouge_l([a for a, _ in different], [b for _, b in different])
    words_N = np.array([len(sentence.split()) for sentence in sentences])
    exact_N = np.array([a == b for a, b in zip(sentences, texts, strict=True)], dtype=np.float64)
    for low, high in zip((0, *LENGTHS), LENGTHS, strict=False):
        rows_N = (words_N > low) & (words_N <= high)
        if rows_N.any():
            metrics[f"{prefix}sentence_exact_to_{high}_words"] = bootstrap_mean(exact_N[rows_N], "sentences")
    return metrics


def tokens_right(codec: TrainedCodec, sentences: Sequence[str], spoken: Spoken) -> Estimate:
    """Share of the expected tokens that stand at their places."""
    expected_NT = codec.tokenizer.encode(list(sentences), max_length=codec.model.encoder.config.max_length)[:, 1:]
    return token_accuracy(expected_NT, spoken.tokens_NT)
