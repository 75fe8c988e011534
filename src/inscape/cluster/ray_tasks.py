"""Jobs as tasks of a Ray cluster: the one that RAY_ADDRESS names, or one of this machine while the sweep lasts.

Ray starts a task again itself when its worker or its machine is lost; the job then goes on with its run, if the folder
of the runs is shared by the machines.
"""

import os
from collections import deque
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from inscape.cluster.attempt import Result, RunOne, attempt
from inscape.extras import load_extra

__all__ = ["load_ray", "run"]

GRACE_SEC = 120.0  # for tasks that were cancelled: a training finishes its step and saves


def load_ray() -> Any:
    """The package; ValueError says how to get it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    return load_extra("ray", "cluster", "the Ray runner")


def run(
    jobs_file: Path, ids: Sequence[str], run_one: RunOne, workers: int, retries: int
) -> Generator[Result, None, None]:
    """A `Runner`. A task has one CPU, and one GPU where the cluster has any."""
    ray = load_ray()
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level="ERROR")
    else:
        ray.init(address="local", num_cpus=min(workers, len(ids)), **quiet)
    try:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        # max_calls: each task has a fresh process, so that no job finds what another has left in torch.
        options = {"num_cpus": 1, "num_gpus": gpus, "max_calls": 1}
        task = ray.remote(**options, max_retries=retries, retry_exceptions=True)(attempt)
        yield from _results(ray, task, jobs_file, ids, run_one, workers)
    finally:
        ray.shutdown()


def _results(
    ray: Any, task: Any, jobs_file: Path, ids: Sequence[str], run_one: RunOne, workers: int
) -> Generator[Result, None, None]:
    waiting = deque(ids)
    running: dict[Any, str] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                number = waiting.popleft()
                running[task.remote(run_one, str(jobs_file), number)] = number
            (ended, *_), _ = ray.wait(list(running))
            yield Result(running.pop(ended), _error(ray, ended))
    finally:
        for reference in running:
            ray.cancel(reference, force=False)
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=GRACE_SEC)


def _error(ray: Any, reference: Any) -> str:
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return str(error.cause)
    except ray.exceptions.RayError as error:
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['its worker was lost'])[0]}"
    return ""
