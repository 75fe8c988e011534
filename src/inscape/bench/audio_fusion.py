"""What a listener costs: with its gate shut, with its gate open, and CIDEr-D on a corpus as large as AudioCaps' test.

    inscape bench audio-fusion [--json]
    inscape bench audio-fusion:MODEL        another language model than the small one made here

A listener that is switched off must cost nothing that can be seen: one pass of the frozen model with the hooks in place
against the same pass without, taken by turns, so that what else the machine does falls on both. The share of the
medians is reported with the median of the pairs' own shares.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from inscape.device import keep_freed_memory, set_threads
from inscape.metrics.cider import cider_d
from inscape.nn.audio_tokens import AudioTokens
from inscape.nn.fusion import KINDS, Fusion, FusionConfig
from inscape.pretrained.language_model import LanguageModel, open_language_model

__all__ = ["run"]

OVERHEAD_LIMIT, CIDER_LIMIT_SECONDS = 0.02, 2.0
CAPTIONS, REFERENCES, WORDS, VOCABULARY = 4875, 5, 9, 5000
CLIPS, TOKENS, POSITIONS = 8, 16, 32


def run(model: str = "", pairs: int = 60, captions: int = CAPTIONS) -> dict[str, Any]:
    """Shares of a pass, by kind of fusion, and seconds of CIDEr-D."""
    set_threads()
    keep_freed_memory()
    lm = open_language_model(model) if model else _small_model()
    ids_BN = torch.randint(lm.vocab_size, (CLIPS, POSITIONS), generator=torch.Generator().manual_seed(0))
    return {
        "model": model or "a Llama of width 256 and 8 layers, random weights",
        "threads": torch.get_num_threads(),
        "pairs": pairs,
        "overhead limit": OVERHEAD_LIMIT,
        **{kind: _overhead(lm, kind, ids_BN, pairs) for kind in KINDS},
        "CIDEr-D seconds": _cider_seconds(captions),
        "CIDEr-D captions": captions,
        "CIDEr-D limit seconds": CIDER_LIMIT_SECONDS,
    }


def _small_model() -> LanguageModel:
    tiny = open_language_model("tiny")  # first: where transformers is missing, it says so in one line
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=tiny.vocab_size,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return tiny._replace(model=LlamaForCausalLM(config).eval().requires_grad_(False), name="small")


def _overhead(lm: LanguageModel, kind: str, ids_BN: torch.Tensor, pairs: int) -> dict[str, float]:
    """Time of a pass with the listener shut off, and open, over that of the model alone, less 1."""
    count = lm.model.config.get_text_config().num_hidden_layers
    fusion = Fusion(FusionConfig(kind, layers=tuple(range(1, count + 1, max(1, count // 4))), rank=16), lm.model)
    draw = torch.Generator().manual_seed(0)
    tokens_BKD = torch.randn(CLIPS, TOKENS, lm.dimension, generator=draw)
    audio = AudioTokens(tokens_BKD, torch.ones(CLIPS, TOKENS, dtype=torch.bool))

    def plain() -> None:
        lm.model(input_ids=ids_BN, use_cache=False)

    def heard() -> None:
        with fusion.attached(lm.model, audio):
            plain()

    with torch.no_grad():
        for parameter in fusion.parameters():  # as after training: at the start some kinds have nothing to add
            parameter.add_(0.01)
        fusion.strength = 0.0
        shut = _by_turns(plain, heard, pairs)
        fusion.strength = 1.0
        opened = _by_turns(plain, heard, max(3, pairs // 6))
    return {
        "overhead at gate 0": float(np.median(shut[:, 1]) / np.median(shut[:, 0]) - 1),
        "median overhead of pairs": float(np.median(shut[:, 1] / shut[:, 0]) - 1),
        "overhead when open": float(np.median(opened[:, 1]) / np.median(opened[:, 0]) - 1),
        "milliseconds alone": 1000 * float(np.median(shut[:, 0])),
    }


def _by_turns(first: Callable[[], None], second: Callable[[], None], pairs: int) -> np.ndarray:
    """Seconds of both, (pairs, 2), the order within a pair changing each time."""
    seconds = np.zeros((pairs, 2))
    first()
    second()
    for row in range(pairs):
        for which in (0, 1) if row % 2 else (1, 0):
            begun = time.perf_counter()
            (first, second)[which]()
            seconds[row, which] = time.perf_counter() - begun
    return seconds


def _cider_seconds(captions: int) -> float:
    """Words as frequent as in language (Zipf): n-grams repeat as they do in captions."""
    draw = np.random.default_rng(0)
    shares = 1 / np.arange(1, VOCABULARY + 1)
    words = draw.choice(VOCABULARY, (captions, REFERENCES + 1, WORDS), p=shares / shares.sum())
    texts = [[" ".join(f"w{word}" for word in row) for row in clip] for clip in words]
    begun = time.perf_counter()
    cider_d([clip[0] for clip in texts], [clip[1:] for clip in texts])
    return time.perf_counter() - begun
