"""What a second process on this machine brings: steps of the full-size encoder, by one and by two, whole and in shards.

Every process takes `batch` sentences a step, so two of them do twice the work; each computes with its share of the
cores, and they exchange over gloo on this machine alone. A step: forward, image losses, backward, exchange, clipping,
AdamW, average of the weights, as in training. Times are those of the fastest step of the slowest process.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from inscape.bench.visual_step import FULL, TRAINING, first_batch, image_loss
from inscape.device import autocast_dtype, join_processes, seed_everything, set_threads, usable_cores
from inscape.nn.latent_encoder import LatentEncoder, LatentEncoderConfig
from inscape.parallel import hold_weights

__all__ = ["run"]

CASES = (("one", 1, "replicate"), ("two", 2, "replicate"), ("two in shards", 2, "shard"))
CPU = torch.device("cpu")


def work(sizes: dict[str, Any]) -> dict[str, float]:
    """Seconds of this process's fastest step after the first, and the most memory that it held in bytes."""
    set_threads(sizes["threads"])
    config = LatentEncoderConfig(**sizes["config"])
    tokens_BT = first_batch(config, sizes["batch"], sizes["tokens"])
    training = replace(TRAINING, parallel=sizes["parallel"])
    dtype = autocast_dtype(CPU, training.precision)
    steps: list[float] = []
    with join_processes(CPU) as processes:
        seed_everything(0)
        weights = hold_weights(LatentEncoder(config).train(), training, processes)
        for step in range(sizes["repeats"] + 1):
            processes.barrier()
            began = time.perf_counter()
            weights.optimizer.zero_grad()
            with torch.autocast("cpu", dtype, enabled=dtype is not None):
                terms = weights.terms(lambda model, batch, _: {"image": image_loss(model(batch))}, tokens_BT, step)
            terms["image"].backward()
            weights.clip_gradients(training.clip_norm)
            weights.optimizer.step()
            weights.update_average(training.ema_decay)
            steps.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": min(steps[1:]), "bytes": float(peak)}


def _start(count: int, sizes: dict[str, Any]) -> list[dict[str, float]]:
    """What each of `count` processes that train together measured."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    meeting = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if Path("/sys/class/net/lo").exists():
        meeting["GLOO_SOCKET_IFNAME"] = "lo"
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "inscape.bench.processes", json.dumps(sizes)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]
    try:
        told = [process.communicate()[0] for process in started]
    finally:
        for process in started:
            process.kill()
    for process in started:
        if process.returncode:
            raise RuntimeError(f"a process that was measured ended with status {process.returncode}")
    return [json.loads(text.splitlines()[-1]) for text in told]


def run(
    repeats: int = 5, config: LatentEncoderConfig = FULL, batch: int = 16, tokens: int = 24, cores: int = 0
) -> dict[str, Any]:
    """Seconds a step, sentences a second and most memory of a process, by number of processes. cores: 0 = all."""
    cores = cores or usable_cores()
    found: dict[str, Any] = {}
    for name, count, parallel in CASES:
        sizes = {"config": asdict(config), "batch": batch, "tokens": tokens, "repeats": repeats, "parallel": parallel}
        told = _start(count, sizes | {"threads": max(1, cores // count)})
        seconds = max(each["seconds"] for each in told)
        found |= {
            f"{name}: step_seconds": seconds,
            f"{name}: sentences_a_second": count * batch / seconds,
            f"{name}: most_bytes_a_process": max(each["bytes"] for each in told),
        }
    return found | {
        "batch": batch,
        "tokens": tokens,
        "repeats": repeats,
        "cores": cores,
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    print(json.dumps(work(json.loads(sys.argv[1]))))
