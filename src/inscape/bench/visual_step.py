"""How long one full-size training step of the visual encoder takes, beside the same step as a textbook does it.

Both steps: forward, image losses, backward, clipping, AdamW, average of the weights; 16 sentences of 24 tokens, 32,000
token ids, dropout 0.1. Ours is the code that training uses (inscape.nn, inscape.stats, inscape.train), in
bfloat16 where the processor multiplies it fast. Each runs in a process of its own, ours with the allocator setting of
our training, and the two take turns, so that other load falls on both. A second pair, in float32, without dropout and
with the same weights, must give the same loss and gradients.
"""

from __future__ import annotations

import copy
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from inscape import stats
from inscape.bench.textbook_visual import (
    TextbookEncoder,
    textbook_ema,
    textbook_image_loss,
    textbook_optimizer,
    textbook_weights,
)
from inscape.device import autocast_dtype, keep_freed_memory, seed_everything, set_threads
from inscape.nn.latent_encoder import LatentEncoder, LatentEncoderConfig
from inscape.train import FitConfig, make_optimizer, update_ema

__all__ = ["FULL", "TRAINING", "first_batch", "image_loss", "run"]

FULL = LatentEncoderConfig(positions="learned")  # nn.TransformerEncoder knows no rotary positions
TRAINING = FitConfig(steps=50_000)
FIRST_WORD = 7  # ids below are padding, sentence marks and start tokens


def image_loss(latent_BCHW: Tensor) -> Tensor:
    """The plan's six priors with its weights, in their scale-free forms."""
    deviation_BC = stats.variance(latent_BCHW).sqrt()
    standard_BCHW = stats.standardise(latent_BCHW)
    correlation_BCC = stats.channel_correlation(latent_BCHW)
    shared_BCC = correlation_BCC - torch.eye(correlation_BCC.shape[-1], device=latent_BCHW.device)
    return (
        0.5 * (stats.spectral_slope(latent_BCHW) - 2).square().mean()
        + 0.1 * stats.total_variation(latent_BCHW, normalise=True).mean()
        + 0.1 * stats.haar_mean_abs(standard_BCHW).mean()
        + 0.05 * (stats.gradient_kurtosis(standard_BCHW).log() - math.log(8.6)).square().mean()
        + 0.05 * shared_BCC.square().mean()
        + 0.05 * (1 - deviation_BC).relu().mean()
    )


class Pair(NamedTuple):
    """The same weights in our encoder and in the textbook's."""

    ours: LatentEncoder
    textbook: TextbookEncoder


def make_pair(config: LatentEncoderConfig) -> Pair:
    seed_everything(0)
    ours, textbook = LatentEncoder(config), TextbookEncoder(config)
    textbook.load_state_dict(textbook_weights(ours))
    return Pair(ours.train(), textbook.train())


def our_step(model: LatentEncoder, tokens_BT: Tensor) -> Callable[[], None]:
    dtype = autocast_dtype(torch.device("cpu"), TRAINING.precision)
    optimizer, average = make_optimizer(model, TRAINING), copy.deepcopy(model)
    parameters = list(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            latent_BCHW = model(tokens_BT)
        image_loss(latent_BCHW).backward()
        nn.utils.clip_grad_norm_(parameters, TRAINING.clip_norm)
        optimizer.step()
        update_ema(average, model, TRAINING.ema_decay)

    return step


def textbook_step(model: TextbookEncoder, tokens_BT: Tensor) -> Callable[[], None]:
    optimizer, average = textbook_optimizer(model, TRAINING), copy.deepcopy(model)

    def step() -> None:
        optimizer.zero_grad()
        textbook_image_loss(model(tokens_BT)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), TRAINING.clip_norm)
        optimizer.step()
        textbook_ema(average, model, TRAINING.ema_decay)

    return step


def check_same_mathematics(config: LatentEncoderConfig, tokens_BT: Tensor) -> dict[str, float]:
    """Loss and gradients of both in float32, without dropout, from the same weights."""
    ours, textbook = make_pair(replace(config, dropout=0.0))
    loss_ours, loss_textbook = image_loss(ours(tokens_BT)), textbook_image_loss(textbook(tokens_BT))
    loss_ours.backward()
    loss_textbook.backward()
    for parameter in ours.parameters():  # so that names, splits and orders are translated by the one function
        assert parameter.grad is not None
        parameter.data = parameter.grad
    expected = {name: parameter.grad for name, parameter in textbook.named_parameters()}
    squared_difference = squared_size = 0.0
    for name, gradient in textbook_weights(ours).items():
        reference = expected[name]
        assert reference is not None
        squared_difference += (gradient - reference).double().square().sum().item()
        squared_size += reference.double().square().sum().item()
    return {
        "loss_textbook": loss_textbook.item(),
        "loss_ours": loss_ours.item(),
        "loss_difference": abs(loss_ours.item() - loss_textbook.item()),
        "gradient_difference": math.sqrt(squared_difference / squared_size),
    }


def seconds(step: Callable[[], None]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def cpu_features() -> str:
    """Which of the processor's wide matrix instructions this PyTorch can use."""
    probes = {"avx512": "_is_avx512_supported", "avx512_bf16": "_is_avx512_bf16_supported"}
    probes |= {"amx": "_is_amx_tile_supported"}
    found = [name for name, probe in probes.items() if getattr(torch.cpu, probe, lambda: False)()]
    return " ".join(found) or "none"


def first_batch(config: LatentEncoderConfig, batch: int, tokens: int) -> Tensor:
    return torch.randint(FIRST_WORD, config.vocab, (batch, tokens), generator=torch.Generator().manual_seed(0))


def serve(side: str, sizes: dict[str, Any]) -> None:
    """The worker: make one side's step, warm it up, then time one step for every line read."""
    set_threads(sizes["threads"])
    config = LatentEncoderConfig(**sizes["config"])
    tokens_BT = first_batch(config, sizes["batch"], sizes["tokens"])
    if side == "ours":
        keep_freed_memory()
        step = our_step(make_pair(config).ours, tokens_BT)
    else:
        step = textbook_step(make_pair(config).textbook, tokens_BT)
    for _ in range(2):
        step()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(seconds(step), flush=True)


@final
class Worker:
    """One side's process; it sleeps until asked to time a step."""

    def __init__(self, side: str, sizes: dict[str, Any]) -> None:
        self.side = side
        self.process = subprocess.Popen(
            [sys.executable, "-m", "inscape.bench.visual_step", side, json.dumps(sizes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that times {self.side} ended with status {self.process.wait()}")
        return line

    def step_seconds(self) -> float:
        assert self.process.stdin is not None
        print(file=self.process.stdin, flush=True)
        return float(self.answer())

    def close(self) -> None:
        self.process.communicate()


def take_turns(repeats: int, sizes: dict[str, Any]) -> dict[str, list[float]]:
    """Seconds of `repeats` steps of each side, in turn."""
    workers: list[Worker] = []
    try:
        for side in ("ours", "textbook"):
            workers.append(Worker(side, sizes))
            workers[-1].answer()  # warmed up before the other starts
        turns = [[worker.step_seconds() for worker in workers] for _ in range(repeats)]
    finally:
        for worker in workers:
            worker.close()
    return {worker.side: [turn[index] for turn in turns] for index, worker in enumerate(workers)}


def run(
    repeats: int = 7, config: LatentEncoderConfig = FULL, batch: int = 16, tokens: int = 24, threads: int = 0
) -> dict[str, Any]:
    """Time both steps `repeats` times in turn; the ratio is that of the fastest, beside that of the medians.

    threads: 0 = all usable cores. `loss_difference` and `gradient_difference` (relative, all parameters together) come
    from the float32 pair without dropout.
    """
    used = set_threads(threads)
    same = check_same_mathematics(config, first_batch(config, batch, tokens))
    sizes = {"config": asdict(config), "batch": batch, "tokens": tokens, "threads": used}
    times = take_turns(repeats, sizes)
    ours, textbook = times["ours"], times["textbook"]
    dtype = autocast_dtype(torch.device("cpu"), TRAINING.precision)
    return {
        "textbook_seconds": min(textbook),
        "ours_seconds": min(ours),
        "ratio": min(textbook) / min(ours),
        "textbook_seconds_median": statistics.median(textbook),
        "ours_seconds_median": statistics.median(ours),
        "ratio_median": statistics.median(textbook) / statistics.median(ours),
        **same,
        "batch": batch,
        "tokens": tokens,
        "repeats": repeats,
        "precision": str(dtype or torch.float32).removeprefix("torch."),
        "threads": used,
        "torch": torch.__version__,
        "cpu": cpu_features(),
    }


if __name__ == "__main__":
    serve(sys.argv[1], json.loads(sys.argv[2]))
