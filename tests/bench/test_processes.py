"""The benchmark of several processes measures what it says, at toy size."""

import sys

import pytest
import torch.distributed as dist

from inscape.bench.processes import run
from inscape.nn.latent_encoder import LatentEncoderConfig

TOY = LatentEncoderConfig(
    vocab=50, d=32, layers=2, heads=4, ffn=64, head_ffn=48, map_channels=8, H=16, W=16, positions="learned"
)


@pytest.mark.skipif(sys.platform == "win32", reason="the most memory of a process is asked of POSIX")
@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no gloo")
def test_one_and_two_processes_are_measured():
    found = run(repeats=1, config=TOY, batch=2, tokens=5, cores=1)
    for name, count in (("one", 1), ("two", 2), ("two in shards", 2)):
        assert found[f"{name}: sentences_a_second"] == pytest.approx(count * 2 / found[f"{name}: step_seconds"])
        assert found[f"{name}: most_bytes_a_process"] > 1e7
