"""Time the six terms of the image prior, forward and backward, on a batch of 256 x 6 x 32 x 32 in float32.

    inscape bench stats [--json]

The least of several repeats is reported, as the machine may be doing other things. Processor time is given beside wall
time: it counts all threads together and hardly depends on what else is running.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from inscape import stats
from inscape.device import keep_freed_memory, set_threads

__all__ = ["run"]

SHAPE = (256, 6, 32, 32)
REPEATS = 30
LIMIT_MS = 60.0


def fused(x: Tensor) -> Tensor:
    """Every statistic of `image_statistics`, reduced to one number so that all of them send a gradient back."""
    return torch.stack([term.square().mean() for term in stats.image_statistics(x)]).sum()


TERMS: dict[str, Callable[[Tensor], Tensor]] = {
    "spectral_slope": stats.spectral_slope,
    "total_variation": lambda x: stats.total_variation(x, normalise=True),
    "haar_sparsity": stats.haar_sparsity,
    "gradient_kurtosis": stats.gradient_kurtosis,
    "channel_covariance": stats.channel_covariance,
    "variance": stats.variance,
    "all six in one pass": fused,
}


def least_ms(term: Callable[[Tensor], Tensor], images: Tensor, repeats: int) -> dict[str, float]:
    """Least wall and processor milliseconds of a forward and backward pass."""
    wall, processor = [], []
    for _ in range(repeats):
        x = images.clone().requires_grad_()
        start, start_processor = time.perf_counter(), time.process_time()
        term(x).sum().backward()
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_processor)
    return {"wall_ms": 1e3 * min(wall), "processor_ms": 1e3 * min(processor)}


def run(repeats: int = REPEATS) -> dict[str, object]:
    """Times of each term and of all in one pass, with the threads used and the limit for the whole."""
    set_threads()
    keep_freed_memory()
    images = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    result: dict[str, object] = {"shape": list(SHAPE), "threads": torch.get_num_threads(), "limit_ms": LIMIT_MS}
    for name, term in TERMS.items():
        result |= {f"{name}, {key}": value for key, value in least_ms(term, images, repeats).items()}
    return result
