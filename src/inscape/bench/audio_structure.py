"""How long, and in how much memory, the statistics of audio-structure take at the size of a corpus.

    inscape bench audio-structure [--json]

500,000 frames of 512 numbers, by 100 speakers, go through everything that A3 and A4 do with latents: survey, moments,
the three schemes at three lags, and every row of condition x lag x slice x split with control, intervals and
confidence. They lie on the disk and are read again for each pass, as a corpus would be; making them is not counted.
Memory is the peak of the whole process, the interpreter and torch included, so it wants a process of its own.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inscape.device import set_threads
from inscape.metrics.audio_structure import CONTROL_SUFFIX, Row, measure
from inscape.metrics.structure_passes import MeasureConfig
from inscape.stats.conditioning import ConditioningConfig, fit_conditioning
from inscape.stats.context_windows import EVAL, HELD_OUT, TRAIN, Utterance, Utterances
from inscape.stats.streamed_pca import accumulate_moments, survey

__all__ = ["run"]

FRAMES, WIDTH = 500_000, 512
UTTERANCE, PER_SPEAKER = 500, 10  # frames of an utterance, utterances of a speaker
DAMPING = 0.9  # x[t] = 0.9 x[t-1] + noise: steps that lead back to the middle, so that there is something to find
LIMIT_SECONDS, LIMIT_GB = 360.0, 2.5


class Written(NamedTuple):
    """Latents on the disk, utterance after utterance, and their energies."""

    path: Path
    utterances: int
    width: int
    energy_UT: np.ndarray


def write_latents(path: Path, frames: int, width: int) -> Written:
    """Damped walks whose dimensions fall off in size, as a codec's do."""
    rng = np.random.default_rng(0)
    count = max(frames // UTTERANCE, 10 * PER_SPEAKER)
    size_D = (1 / (1 + np.arange(width) / 32)).astype(np.float32)
    with path.open("wb") as file:
        for first in range(0, count, PER_SPEAKER):
            said = min(PER_SPEAKER, count - first)
            x_UTD = rng.standard_normal((said, UTTERANCE, width), dtype=np.float32)
            for t in range(1, UTTERANCE):
                x_UTD[:, t] += DAMPING * x_UTD[:, t - 1]
            (x_UTD * size_D).tofile(file)
    return Written(path, count, width, np.abs(rng.standard_normal((count, UTTERANCE))).astype(np.float32))


def utterances_of(written: Written) -> Utterances:
    """A fifth of the speakers are new ones; of the others a tenth of the utterances is held out.

    Read and not mapped: mapped pages would count as memory of this process, though they can be given back at any time.
    """
    size = UTTERANCE * written.width

    def utterances() -> Iterator[Utterance]:
        for i in range(written.utterances):
            speaker, turn = divmod(i, PER_SPEAKER)
            split = EVAL if speaker % 5 == 4 else HELD_OUT if turn == PER_SPEAKER - 1 else TRAIN
            x_TD = np.fromfile(written.path, np.float32, size, offset=4 * i * size).reshape(UTTERANCE, written.width)
            yield Utterance(f"s{speaker:05d}", x_TD, written.energy_UT[i], split)

    return utterances


def peak_gb() -> float:
    """The most memory that this process has held, in 10^9 bytes."""
    import resource  # not on Windows, where the other benchmarks run

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def run(
    frames: int = FRAMES,
    width: int = WIDTH,
    config: ConditioningConfig | None = None,
    measuring: MeasureConfig | None = None,
) -> dict[str, Any]:
    """Seconds of each part and of all, the peak of memory, and two numbers that show that it was measured."""
    config, threads = config or ConditioningConfig(), set_threads()
    seconds = dict.fromkeys(("moments", "fit", "measure"), 0.0)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        written = write_latents(Path(folder, "latents.f32"), frames, width)
        utterances = utterances_of(written)
        before, begin = peak_gb(), time.perf_counter()
        known = survey(utterances, config.windows)
        moments = accumulate_moments(utterances, known)
        seconds["moments"] = time.perf_counter() - begin
        for lag in config.windows.lags:
            start = time.perf_counter()
            fitted = fit_conditioning(utterances, known, moments, lag, config)
            done = time.perf_counter()
            rows += measure(utterances, fitted, known.energy_threshold, measuring).rows
            seconds["fit"] += done - start
            seconds["measure"] += time.perf_counter() - done
        wall = time.perf_counter() - begin
    control = [row.vr_adjusted.value for row in rows if row.condition.endswith(CONTROL_SUFFIX) and row.slice == "all"]
    whole = [row.vr_adjusted.value for row in rows if (row.lag, row.slice, row.split) == (1, "all", EVAL)]
    return {
        "frames": written.utterances * UTTERANCE,
        "width": width,
        "lags": len(config.windows.lags),
        "rows": len(rows),
        "threads": threads,
        **{f"{name}_seconds": value for name, value in seconds.items()},
        "wall_seconds": wall,
        "limit_seconds": LIMIT_SECONDS,
        "peak_gb": peak_gb(),
        "peak_gb_before": before,
        "limit_gb": LIMIT_GB,
        "vr_adjusted_eval_lag_1": whole[0],
        "largest_control_deviation": float(np.nanmax(np.abs(np.array(control) - 1))),
    }
