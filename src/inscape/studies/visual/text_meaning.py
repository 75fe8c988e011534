"""What P2 and P4 measure of a text file: retrieval among other sentences, and how much of a sentence comes back.

There is no parser for natural language, so meaning is what the file says means the same (two columns of a line), and
what is returned is compared word by word.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inscape.core.estimate import Estimate, bootstrap_mean
from inscape.metrics.retrieval import cosine_gap
from inscape.metrics.text import exact_match, mean_rouge_l, token_accuracy
from inscape.studies.visual.coding import Reading, Spoken, embed, speak
from inscape.studies.visual.meaning_metrics import EncodedPool, encode_pool, recall, shuffled_recall
from inscape.studies.visual.model import TrainedCodec, encode
from inscape.studies.visual.sources import Source

__all__ = ["LENGTHS", "one_of_each_group", "returned", "text_meaning", "text_pool"]

POOL = 500  # sentences a query is searched among, as in the literature on captions
LENGTHS = (8, 12, 16, 20, 28, 64)  # words: upper ends of the groups that the curve against length has


def text_pool(codec: TrainedCodec, source: Source) -> EncodedPool | None:
    """500 held-out groups: the first sentence of each asks for the second; None where the file has no groups."""
    pairs = source.held_out_pairs(POOL)
    if not pairs:
        return None
    queries, others = zip(*pairs, strict=True)
    return encode_pool(codec, queries, others, np.arange(len(pairs)))


def one_of_each_group(source: Source, count: int) -> list[str]:
    """The first sentence of up to `count` held-out groups; of a file without groups any held-out sentences."""
    return [first for first, _ in source.held_out_pairs(count)] or source.held_out(count)


def text_meaning(codec: TrainedCodec, source: Source, count: int) -> dict[str, Estimate]:
    """Retrieval where the file has groups; and what comes back, token by token."""
    metrics = returned(codec, one_of_each_group(source, count))
    pool = text_pool(codec, source)
    if pool is not None:
        metrics |= {
            "recall_at_1": recall(codec, [pool], 1),
            "recall_at_5": recall(codec, [pool], 5),
            "recall_at_1_shuffled": shuffled_recall(codec, [pool]),
            "cosine_gap": cosine_gap(embed(codec, pool.query_NCHW), pool.pool_MZ),
        }
    return metrics


def returned(codec: TrainedCodec, sentences: Sequence[str], prefix: str = "") -> dict[str, Estimate]:
    """Free-running decoding from V alone: exact matches, tokens, ROUGE-L of what differs, by length."""
    spoken = speak(codec, encode(codec.to_latent, list(sentences)), Reading(sees_z=False))
    metrics = {
        f"{prefix}sentence_exact": exact_match(sentences, spoken.texts),
        f"{prefix}token_accuracy": tokens_right(codec, sentences, spoken),
    }
    different = [(a, b) for a, b in zip(sentences, spoken.texts, strict=True) if a != b]
    if different:
        metrics[f"{prefix}rouge_l_of_what_differs"] = mean_rouge_l([a for a, _ in different], [b for _, b in different])
    words_N = np.array([len(sentence.split()) for sentence in sentences])
    exact_N = np.array([a == b for a, b in zip(sentences, spoken.texts, strict=True)], dtype=np.float64)
    for low, high in zip((0, *LENGTHS), LENGTHS, strict=False):
        rows_N = (words_N > low) & (words_N <= high)
        if rows_N.any():
            metrics[f"{prefix}sentence_exact_to_{high}_words"] = bootstrap_mean(exact_N[rows_N], "sentences")
    return metrics


def tokens_right(codec: TrainedCodec, sentences: Sequence[str], spoken: Spoken) -> Estimate:
    """Share of the expected tokens that stand at their places."""
    expected_NT = codec.tokenizer.encode(list(sentences), max_length=codec.model.encoder.config.max_length)[:, 1:]
    return token_accuracy(expected_NT, spoken.tokens_NT)
