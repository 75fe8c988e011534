"""The best of several captions, by what a listener in the field has: the clip, and the model. No reference is in reach.

How alike a caption and a sound are is told by the model itself: by how much more probable the sound makes the caption
than it is without (pointwise mutual information, Church & Hanks 1990), a word.
"""

from __future__ import annotations

from inscape.metrics.caption_words import words
from inscape.metrics.captions import rerank
from inscape.pretrained.language_model import LanguageModel
from inscape.studies.audio_fusion.language import LanguageConfig
from inscape.studies.audio_fusion.listener import Hearing, Listener, log_probabilities, write_captions

__all__ = ["reranked_captions"]


def reranked_captions(
    lm: LanguageModel, listener: Listener, heard: Hearing, count: int, config: LanguageConfig, seed: int
) -> list[str]:
    """A caption for each of `count` clips: of the greedy one and `config.candidates` - 1 sampled ones the best."""
    sizes = {"prompt": config.prompt, "batch": config.batch}
    drawn = [
        write_captions(
            lm,
            listener,
            heard,
            count,
            new_tokens=config.new_tokens,
            temperature=config.temperature if turn else 0.0,
            seed=seed + turn,
            **sizes,
        )
        for turn in range(config.candidates)
    ]
    with_sound = [log_probabilities(lm, listener, heard, said, **sizes) for said in drawn]
    without = [log_probabilities(lm, None, heard, said, **sizes) for said in drawn]
    alike = [
        [(a - b) / max(1, len(words(text))) for a, b, text in zip(*each, strict=True)]
        for each in zip(with_sound, without, drawn, strict=True)
    ]
    candidates, logs, similarities = (list(zip(*rows, strict=True)) for rows in (drawn, with_sound, alike))
    best = rerank(candidates, logs, similarities, config.rerank_weight)
    return [candidates[clip][place] for clip, place in enumerate(best)]
