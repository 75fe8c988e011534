"""Time the codec that `VisualCodec.from_pretrained()` finds: load, encode, decode; held-out sentences of the grammar.

    inscape bench codec [--json]

One to three facts by turns, as they come; the best of several repeats is reported, as the machine may be doing other
things. Decoding is free-running and greedy, from V alone.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from inscape.codec import VisualCodec
from inscape.data.scenes import render, sample
from inscape.device import keep_freed_memory, set_threads

__all__ = ["run"]

SENTENCES, REPEATS = 512, 3


def run(sentences: int = SENTENCES, repeats: int = REPEATS) -> dict[str, Any]:
    """Seconds to load, and sentences a second. ValueError if there are no weights, or none that decode."""
    set_threads()
    keep_freed_memory()
    start = time.perf_counter()
    codec = VisualCodec.from_pretrained()
    loaded = time.perf_counter() - start
    rng = np.random.default_rng(0)
    texts = [render(sample(rng, facts=1 + i % 3, split="test"), rng) for i in range(sentences)]
    latent_BCHW = codec.encode(texts)
    return {
        "sentences": sentences,
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in codec.trained.model.parameters()),
        "load seconds": loaded,
        "encoded sentences a second": sentences / _least_seconds(lambda: codec.encode(texts), repeats),
        "decoded sentences a second": sentences / _least_seconds(lambda: codec.decode(latent_BCHW), repeats),
        "encode limit": 300,
        "decode limit": 100,
    }


def _least_seconds(work: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
