"""The arithmetic of a training on many GPUs: communication, data rate, memory, checkpoints, time. It times nothing.

One step of N processes: forward and backward over `batch` sentences each, then an exchange of gradients. A process
sends, for gradients of G bytes, by rings (Patarasuk & Yuan 2009): 2 (N - 1) / N G if every process holds all weights
(reduce-scatter, then all-gather), and at most 3 (N - 1) / N G with shards: weights are gathered for the forward and
again for the backward pass, gradients are reduce-scattered. Nothing of it is taken to overlap with computing. All in
float32.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from inscape.nn.latent_encoder import LatentEncoder, LatentEncoderConfig

__all__ = ["Plan", "arithmetic", "run"]

NUMBER = 4  # bytes of a float32
TOKEN = 8  # bytes of a token id on its way to the device
STATES = 4  # weights, their average, AdamW's two means: what a checkpoint holds of each parameter
PASSES = 3  # the backward pass costs twice the forward one


@dataclass(frozen=True)
class Plan:
    """A training, and what is assumed of the machines. Defaults: the plan's encoder on 64 GPUs, 8 a node."""

    parameters: int
    forward_flops: float  # of one sentence
    sentences: float = 1e9
    processes: int = 64
    batch: int = 256  # sentences a process and step
    tokens: int = 24  # of a sentence
    flops: float = 60e12  # a process sustains, a second: assumed, a fifth of an A100's bfloat16 peak of 312e12
    link: float = 25e9  # bytes a second that a process sends and receives: assumed, 200 Gbit/s for each GPU of a node
    latency: float = 20e-6  # seconds of a message to the next process: assumed
    messages: int = 1  # exchanges a step: one of all gradients; with shards one a block, three times
    disk: float = 1e9  # bytes a second that one process writes: assumed
    generated: float = 5e4  # sentences a second and core that the corpus is drawn at: the bound of P0's gate

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and value > 0) and not (name == "latency" and value == 0):
                raise ValueError(f"{name}={value} is out of range; allowed: above 0")


def arithmetic(plan: Plan, *, shard: bool = False) -> dict[str, float]:
    """What the plan comes to. shard: every process holds 1 / processes of weights, average and optimizer state."""
    n, gradients = plan.processes, NUMBER * plan.parameters
    global_batch = n * plan.batch
    steps = math.ceil(plan.sentences / global_batch)
    sent = (3 if shard else 2) * (n - 1) / n * gradients
    compute = PASSES * plan.forward_flops * plan.batch / plan.flops
    hops = (n - 1) * (1 if shard else 2)  # of a ring: one for each of its halves
    exchange = sent / plan.link + plan.messages * hops * plan.latency
    a_step = compute + exchange
    checkpoint = STATES * gradients
    held = checkpoint + gradients
    rate = global_batch / a_step
    return {
        "steps": steps,
        "sentences_a_step": global_batch,
        "compute_seconds_a_step": compute,
        "bytes_sent_a_step_and_process": sent,
        "exchange_seconds_a_step": exchange,
        "share_of_time_computing": compute / a_step,
        "sentences_a_second": rate,
        "hours": steps * a_step / 3600,
        "token_bytes_a_second_and_process": plan.batch * plan.tokens * TOKEN / a_step,
        "corpus_bytes_if_it_were_stored": plan.sentences * plan.tokens * TOKEN,
        "cores_that_draw_the_corpus": rate / plan.generated,
        "checkpoint_bytes": checkpoint,
        "checkpoint_bytes_a_process": checkpoint / (n if shard else 1),
        "checkpoint_seconds": checkpoint / plan.disk / (n if shard else 1),
        "state_bytes_a_process": held / n
        if shard
        else held + gradients,  # whole: and gradients end to end, to exchange
    }


def encoder_plan(tokens: int = 24, **changes: Any) -> Plan:
    """The plan's full-size encoder, its weights and operations counted."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = LatentEncoder(LatentEncoderConfig(positions="learned"))
        counter = FlopCounterMode(display=False)
        with counter:
            model(torch.ones(1, tokens, dtype=torch.long))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Plan(parameters, float(counter.get_total_flops()), tokens=tokens, **changes)


def run(measured: Path = Path("results/bench/visual-step.json")) -> dict[str, Any]:
    """The arithmetic with the defaults, beside what the measured step of one process says of this machine.

    measured: what `inscape bench visual-step --json` printed; left out where it is not there.
    """
    plan = encoder_plan()
    blocks = LatentEncoderConfig().layers + 1  # and what is no block's
    cases = {
        "replicate": arithmetic(plan),
        "shard": arithmetic(encoder_plan(messages=3 * blocks), shard=True),
        "replicate, 10 Gbit/s": arithmetic(encoder_plan(link=10e9 / 8)),
        "a billion parameters, replicate": arithmetic(_larger(plan, 1e9)),
        "a billion parameters, shard": arithmetic(_larger(plan, 1e9, messages=3 * blocks), shard=True),
    }
    found: dict[str, Any] = {"assumed": asdict(plan)}
    for case, values in cases.items():
        found |= {f"{case}: {name}": value for name, value in values.items()}
    return found | (_on_this_machine(plan, json.loads(measured.read_text())) if measured.is_file() else {})


def _larger(plan: Plan, parameters: float, **changes: Any) -> Plan:
    """The same with more parameters, and operations in proportion."""
    grown = parameters / plan.parameters
    return Plan(int(parameters), plan.forward_flops * grown, **changes)


def _on_this_machine(plan: Plan, step: dict[str, Any]) -> dict[str, float]:
    seconds, batch = step["ours_seconds"], step["batch"]
    return {
        "measured: sentences_a_second": batch / seconds,
        "measured: flops": PASSES * plan.forward_flops * batch / seconds,
        "measured: days_of_one_process_for_all_sentences": plan.sentences * seconds / batch / 86_400,
    }
