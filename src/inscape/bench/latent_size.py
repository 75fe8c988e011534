"""What a latent of 48 x 48 x 8 costs beside one of 32 x 32 x 6: training step, encoding, decoding, memory.

    inscape bench latent-size [--json]

The plan's codec (width 384, one query a pixel) on the grammar's sentences, one to three facts by turns, with fresh
weights; both latents are read in 64 patches. The training step has every term of P2's objective. A fresh decoder knows
no end, so each sentence is decoded to its 63rd token, with either latent. Each size runs in a process of its own, whose
memory is the most that it ever held: on a GPU what torch took there, else what the process took beyond its start.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from inscape.device import autocast_dtype, keep_freed_memory, pick_device, seed_everything, set_threads
from inscape.nn.latent_codec import LatentCodec, LatentCodecConfig
from inscape.nn.latent_encoder import LatentEncoderConfig
from inscape.studies.visual.coding import Reading, say
from inscape.studies.visual.model import TrainedCodec, encode
from inscape.studies.visual.objective import Objective, TrainingTuples, objective_terms
from inscape.studies.visual.sources import DataConfig, Mixture, open_source
from inscape.train import FitConfig, make_optimizer

__all__ = ["SIZES", "measure", "run"]

SIZES = {"32x32x6": {"H": 32, "W": 32, "C": 6}, "48x48x8": {"H": 48, "W": 48, "C": 8}}
PLACES = 8  # rows and columns of patches
REPEATS = 3


def run(
    encoder: LatentEncoderConfig | None = None, codec: LatentCodecConfig | None = None, sentences: int = 16
) -> dict[str, Any]:
    """Figures of either size, and the ratio of each; `sentences` a batch."""
    asked = {
        "encoder": asdict(encoder or LatentEncoderConfig()),
        "codec": asdict(codec or LatentCodecConfig()),
        "sentences": sentences,
    }
    found = {name: _in_a_process(asked, size) for name, size in SIZES.items()}
    small, large = found.values()
    return found | {"ratio": {name: large[name] / small[name] for name in small if small[name]}}


def _in_a_process(asked: Mapping[str, Any], size: Mapping[str, int]) -> dict[str, float]:
    words = [sys.executable, "-m", "inscape.bench.latent_size", json.dumps({**asked, "size": size})]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"the process that measures {size} ended with status {done.returncode}: {done.stderr[-500:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def measure(asked: Mapping[str, Any]) -> dict[str, float]:
    """All figures of one size."""
    set_threads()
    keep_freed_memory()
    device, source = pick_device("auto"), open_source(DataConfig())
    sizes = LatentEncoderConfig(**asked["encoder"] | asked["size"] | {"vocab": source.tokenizer.vocab_size})
    seed_everything(0)
    model = LatentCodec(sizes, LatentCodecConfig(**asked["codec"] | {"patch": sizes.H // PLACES})).to(device)
    trained, count = TrainedCodec(model, source.tokenizer), asked["sentences"]
    sentences = source.held_out(count)
    before = _memory(device)
    drawn = source.tuples_at(0, 0, 0, 1, count, Mixture())
    batch = TrainingTuples(*(torch.from_numpy(tokens).to(device) for tokens in drawn))
    step_seconds = _least_seconds(_step_of(model.train(), batch, source.tokenizer.vocab_size), device)
    memory = _memory(device) - before
    model.eval()
    latent_BCHW = encode(trained.to_latent, sentences)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes of a latent": latent_BCHW[0].numel() * latent_BCHW.element_size(),
        "training sentences a second": 2 * count / step_seconds,
        "encoded sentences a second": count / _least_seconds(lambda: encode(trained.to_latent, sentences), device),
        "decoded sentences a second": count
        / _least_seconds(lambda: say(trained, latent_BCHW, Reading(sees_z=False)), device),
        "megabytes of training": memory / 1e6,
    }


def _step_of(model: LatentCodec, batch: TrainingTuples, vocab: int) -> Callable[[], None]:
    fit = FitConfig(steps=1)
    optimizer = make_optimizer(model, fit)
    device = batch.sentence_BT.device
    dtype = autocast_dtype(device, fit.precision)
    objective = replace(Objective(), dimensions=2.0)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            terms = objective_terms(model, batch, 0, objective, vocab)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()

    return step


def _least_seconds(work: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _memory(device: torch.device) -> float:
    """Bytes: the most that torch ever took on a GPU, or that this process ever took."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
