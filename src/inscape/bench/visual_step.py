"""How long one full-size training step of the visual encoder takes, beside the same step as a textbook does it.

Both steps: forward, image losses, backward, clipping, AdamW, average of the weights; 16 sentences of 24 tokens, 32,000
token ids, dropout 0.1. Ours is the code that training uses (inscape.nn, inscape.stats, inscape.train), in
bfloat16 where the processor multiplies it fast. The two are timed in turn in one process, so that other load falls on
both. A second pair, in float32 without dropout and with the same weights, must give the same loss and gradients.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

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
from inscape.device import autocast_dtype, seed_everything, set_threads
from inscape.nn.latent_encoder import LatentEncoder, LatentEncoderConfig
from inscape.nn.memory import keep_freed_memory
from inscape.train import FitConfig, make_optimizer, update_ema

__all__ = ["image_loss", "run"]

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


def run(
    repeats: int = 7, config: LatentEncoderConfig = FULL, batch: int = 16, tokens: int = 24, threads: int = 0
) -> dict[str, Any]:
    """Time both steps `repeats` times in turn; the ratio is that of the fastest, beside that of the medians.

    threads: 0 = all usable cores. `loss_difference` and `gradient_difference` (relative, all parameters together) come
    from the float32 pair without dropout.
    """
    used = set_threads(threads)
    keep_freed_memory()
    tokens_BT = torch.randint(FIRST_WORD, config.vocab, (batch, tokens), generator=torch.Generator().manual_seed(0))
    same = check_same_mathematics(config, tokens_BT)
    pair = make_pair(config)
    our = our_step(pair.ours, tokens_BT)
    textbook = textbook_step(pair.textbook, tokens_BT)
    for warm_up in (our, textbook):
        warm_up()
    times = [(seconds(our), seconds(textbook)) for _ in range(repeats)]
    ours_seconds, textbook_seconds = zip(*times, strict=True)
    dtype = autocast_dtype(torch.device("cpu"), TRAINING.precision)
    return {
        "textbook_seconds": min(textbook_seconds),
        "ours_seconds": min(ours_seconds),
        "ratio": min(textbook_seconds) / min(ours_seconds),
        "textbook_seconds_median": statistics.median(textbook_seconds),
        "ours_seconds_median": statistics.median(ours_seconds),
        "ratio_median": statistics.median(textbook_seconds) / statistics.median(ours_seconds),
        **same,
        "parameters": sum(parameter.numel() for parameter in pair.ours.parameters()),
        "batch": batch,
        "tokens": tokens,
        "repeats": repeats,
        "precision": str(dtype or torch.float32).removeprefix("torch."),
        "threads": used,
        "torch": torch.__version__,
        "cpu": cpu_features(),
    }
