"""Jobs under SLURM: a batch file that needs nothing but sbatch, and the same through submitit, which waits for them.

Both tell a job two minutes before its time is up and queue it again. By the batch file it saves first; submitit ends
the process from its signal's handler, so under it a job goes on from the last checkpoint there was. Partition, account,
time and GPUs are the site's matter: sbatch takes them from its own variables (SBATCH_PARTITION,
SBATCH_ACCOUNT, SBATCH_TIMELIMIT, SBATCH_GPUS ...), which overrule what stands in a file. For CPUs sbatch has none: the
batch file takes them as an argument of sbatch, and submitit from srun's own variable.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Generator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

from inscape.cluster.attempt import Result, RunOne, attempt, last_line
from inscape.cluster.jobs import JOBS, Job, job_folder, job_log
from inscape.core.rundir import write_atomically
from inscape.extras import load_extra

__all__ = ["CPUS", "SCRIPT", "asked_cpus", "batch_script", "run", "why_not", "write_script"]

SCRIPT = "sweep.sbatch"
HOURS = 24
WARNING_SEC = 120
MOST_REQUEUES = 100
CPUS = "SRUN_CPUS_PER_TASK"  # srun's own variable; under submitit as many are asked of sbatch

TEMPLATE = """\
#!/usr/bin/env bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}{at_once}
#SBATCH --time={hours}:00:00
#SBATCH --output="{output}"
#SBATCH --open-mode=append
#SBATCH --signal=TERM@{warning}
#SBATCH --requeue
#
# All jobs of this sweep; those that are done end at once. Written by inscape sweep --runner slurm.
#
#     sbatch {script}
#
# What your site wants besides (partition, account, GPUs, CPUs, another time) goes on that command, before the file.
# Before the time is up a job is told, saves, ends with 130 and is queued again; a preempted one SLURM queues itself.
set -uo pipefail
# An srun takes over no --cpus-per-task of its job by itself, since SLURM 22.05.
cpus=${{SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK}}
srun --ntasks=1 $cpus {python} -P -m inscape.cluster {jobs_file} "$SLURM_ARRAY_TASK_ID"
status=$?
if [ "$status" = 130 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {requeues} ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$status"
"""


def why_not() -> str:
    """Why nothing can be submitted from here; empty if it can."""
    if shutil.which("sbatch") is None:
        return "there is no sbatch on this machine"
    if find_spec("submitit") is None:
        return "the package submitit is not installed: pip install 'inscape[cluster]'"
    return ""


def asked_cpus() -> int | None:
    """How many CPUs a job is to have under submitit; None: the site's default. ValueError for what is no number."""
    given = os.environ.get(CPUS)
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and int(given) >= 1):
        raise ValueError(f"{CPUS}={given}; allowed: a whole number from 1 on; unset it for the site's default")
    return int(given)


def batch_script(place: Path, jobs: Sequence[Job], workers: int | None) -> str:
    """An array of all jobs, `workers` of them at a time (None: as many as the site gives)."""
    place = place.absolute()
    log = str(job_log(place, "NUMBER")).replace("%", "%%").replace("NUMBER", "%4a")
    return TEMPLATE.format(
        name=f"{jobs[0].study}.{jobs[0].phase}",
        last=len(jobs) - 1,
        at_once=f"%{workers}" if workers else "",
        hours=HOURS,
        output=log,
        warning=WARNING_SEC,
        script=shlex.quote(str(place / SCRIPT)),
        python=shlex.quote(sys.executable),
        jobs_file=shlex.quote(str(place / JOBS)),
        requeues=MOST_REQUEUES,
    )


def write_script(place: Path, jobs: Sequence[Job], workers: int | None) -> Path:
    """sweep.sbatch beside jobs.jsonl, and the folders that its logs go to, which SLURM does not make."""
    for job in jobs:
        job_folder(place, job.id).mkdir(parents=True, exist_ok=True)
    path = place / SCRIPT
    write_atomically(path, batch_script(place, jobs, workers))
    return path


@final
class _Task:
    """`attempt` as submitit wants it: when a job's time is up, the same call is what goes on."""

    def __call__(self, run_one: RunOne, jobs_file: str, number: str) -> None:
        attempt(run_one, jobs_file, number)

    def checkpoint(self, *words: Any) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *words)


def run(
    jobs_file: Path,
    ids: Sequence[str],
    run_one: RunOne,
    workers: int,
    retries: int,
    *,
    cluster: str = "slurm",
    poll_sec: float = 10.0,
) -> Generator[Result, None, None]:
    """A `Runner`. cluster: submitit's name for where; `local` is this machine, for trying it out."""
    submitit = load_extra("submitit", "cluster", "the SLURM runner")
    executor = submitit.AutoExecutor(
        folder=jobs_file.parent / "submitit", cluster=cluster, slurm_max_num_timeout=MOST_REQUEUES
    )
    cpus = asked_cpus()
    executor.update_parameters(
        **({} if cpus is None else {"cpus_per_task": cpus}),
        name=jobs_file.parent.name,
        timeout_min=HOURS * 60,
        slurm_array_parallelism=workers,
        slurm_signal_delay_s=WARNING_SEC,
    )
    submit = partial(_submitted, submitit, executor, jobs_file, run_one, poll_sec)
    left = list(ids)
    for again in reversed(range(retries + 1)):
        failed: list[str] = []
        for result in submit(left) if left else ():
            if result.error:
                failed.append(result.id)
            yield result._replace(again=bool(result.error and again))
        left = failed


def _submitted(
    submitit: Any, executor: Any, jobs_file: Path, run_one: RunOne, poll_sec: float, ids: Sequence[str]
) -> Generator[Result, None, None]:
    """Submit these as one array and wait for each; what still runs when nobody waits any more is cancelled."""
    with executor.batch():
        submitted = [executor.submit(_Task(), run_one, str(jobs_file), number) for number in ids]
    numbers = dict(zip(map(id, submitted), ids, strict=True))
    left = dict.fromkeys(ids)
    try:
        for job in submitit.helpers.as_completed(submitted, poll_frequency=poll_sec):
            number = numbers[id(job)]
            del left[number]
            yield Result(number, _error(submitit, job, job_log(jobs_file.parent, number)))
    finally:
        for job in submitted:
            if numbers[id(job)] in left:
                job.cancel(check=False)


def _error(submitit: Any, job: Any, log: Path) -> str:
    problem = job.exception()
    if problem is None:
        return ""
    if isinstance(problem, submitit.core.utils.FailedJobError):
        return last_line(log)
    return f"ended without a result, state {job.state}"
