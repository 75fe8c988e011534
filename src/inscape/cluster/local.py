"""Jobs in processes of this machine, each job in a process of its own: what kills it costs one attempt at one job.

Not concurrent.futures: its pool is broken as a whole by one killed process. A process is spawned, for a fork of one
with threads can hang; it leaves the terminal's group, so that Ctrl-C reaches it once, from here; and it stops when the
sweep's process is gone, saving what a training saves.
"""

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from multiprocessing import connection, get_context, parent_process
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import NamedTuple

from inscape.cluster.attempt import AttemptFailed, Result, RunOne, attempt, last_line
from inscape.cluster.jobs import job_log

__all__ = ["default_workers", "run"]

GRACE_SEC = 120.0  # for a training that was asked to stop: it finishes its step and saves
FAILED, INTERRUPTED = 1, 130
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class _Running(NamedTuple):
    process: SpawnProcess
    id: str
    retries: int


def run(
    jobs_file: Path, ids: Sequence[str], run_one: RunOne, workers: int, retries: int
) -> Generator[Result, None, None]:
    """A `Runner`. The cores are divided among the workers, and so are the GPUs if there are several."""
    waiting = deque((number, retries) for number in ids)
    shares = _shares(min(workers, len(ids)))
    running: dict[int, _Running] = {}
    try:
        while waiting or running:
            for slot, share in enumerate(shares):
                if slot not in running and waiting:
                    number, left = waiting.popleft()
                    running[slot] = _Running(_start(run_one, jobs_file, number, share), number, left)
            connection.wait([each.process.sentinel for each in running.values()])
            for slot, each in [(slot, each) for slot, each in running.items() if not each.process.is_alive()]:
                del running[slot]
                error = _error(each, jobs_file.parent)
                if error and each.retries:
                    waiting.append((each.id, each.retries - 1))
                yield Result(each.id, error, bool(error and each.retries))
    finally:
        _stop([each.process for each in running.values()])


def default_workers(jobs: int) -> int:
    """As many as there are GPUs, or cores where there is no GPU; never more than jobs."""
    import torch

    from inscape.device import usable_cores

    return max(1, min(jobs, torch.cuda.device_count() or usable_cores()))


def _shares(workers: int) -> list[dict[str, str]]:
    """Of each worker, the variables that give it its part of the machine; what the user has set is left alone."""
    import torch

    from inscape.device import usable_cores

    threads = {name: str(max(1, usable_cores() // max(workers, 1))) for name in THREADS if name not in os.environ}
    shares = [dict(threads) for _ in range(workers)]
    if torch.cuda.device_count() > 1:
        all_of_them = map(str, range(torch.cuda.device_count()))
        gpus = (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(all_of_them)).split(",")
        for slot, share in enumerate(shares):
            share["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    return shares


def _start(run_one: RunOne, jobs_file: Path, number: str, share: Mapping[str, str]) -> SpawnProcess:
    process = get_context("spawn").Process(target=_work, args=(run_one, str(jobs_file), number, dict(share)))
    process.start()
    return process


def _work(run_one: RunOne, jobs_file: str, number: str, share: Mapping[str, str]) -> None:
    """The whole life of a worker."""
    if hasattr(os, "setsid"):
        os.setsid()
    os.environ.update(share)  # before torch is imported
    threading.Thread(target=_stop_with_the_parent, daemon=True).start()
    try:
        attempt(run_one, jobs_file, number)
    except AttemptFailed:
        sys.exit(FAILED)  # the log has it
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _stop_with_the_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


def _error(ended: _Running, place: Path) -> str:
    """Why an attempt has failed, in one line; empty if it has not."""
    code = ended.process.exitcode
    ended.process.close()
    if code == 0:
        return ""
    if code is not None and code < 0:
        hint = ", for want of memory?" if code == -signal.SIGKILL else ""
        return f"killed by {signal.Signals(-code).name}{hint}"
    return last_line(job_log(place, ended.id)) or f"exit status {code}"


def _stop(processes: Sequence[SpawnProcess]) -> None:
    """Ask the processes to stop and wait until they have saved; a second Ctrl-C does not wait."""
    for process in processes:
        process.terminate()
    try:
        for process in processes:
            process.join(GRACE_SEC)
    finally:
        for process in processes:
            process.kill()
            process.join()
            process.close()
