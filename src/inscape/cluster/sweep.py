"""The verb `inscape sweep`: make the jobs, run those that are missing, show what came out.

The same words are the same sweep. Called again, it runs what is not done; while one call runs it, a second is refused.
"""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from inscape.cluster import local, ray_tasks, slurm
from inscape.cluster.attempt import Runner, RunOne
from inscape.cluster.job import run_job
from inscape.cluster.jobs import JOBS, Job, job_log, read_done, write_jobs
from inscape.cluster.product import default_folder, make_jobs, read_axes, read_seeds
from inscape.core.rundir import RunDir

__all__ = ["RUNNERS", "run_missing", "sweep"]

ALL_DONE, SOME_LEFT = 0, 1
RETRIES = 1
MOST_WORKERS = 1000
RUNNERS: dict[str, Runner] = {"local": local.run, "slurm": slurm.run, "ray": ray_tasks.run}


def sweep(
    target: str,
    words: Sequence[str],
    *,
    seeds: str | None = None,
    preset: str = "quick",
    out: Path = Path("runs"),
    folder: Path | None = None,
    runner: str = "local",
    workers: int | None = None,
    as_json: bool = False,
) -> int:
    """Run a phase with every combination of the values of `words` (key=a,b,c) and every seed ("0,1,2").

    folder: the sweep's own (default: named after what was asked, under out/sweeps). workers: how many jobs at a time.
    Returns 0 if every job is done, else 1. ValueError, before anything is written, if a job could not be run.
    """
    jobs = _jobs(target, words, seeds, preset, out)
    place = folder or default_folder(out, jobs)
    if workers is not None and not 1 <= workers <= MOST_WORKERS:
        raise ValueError(f"--workers {workers}; allowed: 1 to {MOST_WORKERS}")
    if runner == "ray":
        ray_tasks.load_ray()
    if runner == "slurm":
        slurm.asked_cpus()
    write_jobs(place, jobs)
    with RunDir(place).exclusive():
        if runner == "slurm":
            script = slurm.write_script(place, jobs, workers)
            missing = any(read_done(place, job) is None for job in jobs)
            if missing and (reason := slurm.why_not()):
                how = f"sbatch {shlex.quote(str(script.absolute()))}"
                _say(f"nothing is submitted, for {reason}. Where it can be: {how}; then this command again")
                return _show(place, jobs, {}, as_json)
        errors = run_missing(place, jobs, RUNNERS[runner], workers or _default_workers(runner, len(jobs)))
    return _show(place, jobs, errors, as_json)


def run_missing(
    place: Path, jobs: Sequence[Job], runner: Runner, workers: int, run_one: RunOne = run_job
) -> dict[str, str]:
    """Run the jobs that are not done; of those that then still are not, the last line of error. Says how it goes."""
    missing = [job for job in jobs if read_done(place, job) is None]
    done = len(jobs) - len(missing)
    _say(f"{_count(len(jobs))}, {done} done before: {place}")
    named = {job.id: job for job in missing}
    errors: dict[str, str] = {}
    if not missing:
        return errors
    try:
        jobs_file = Path(place).absolute() / JOBS  # a worker of another machine is not in this folder
        with closing(runner(jobs_file, list(named), run_one, workers, RETRIES)) as results:
            for result in results:
                job = named[result.id]
                if result.again:
                    _say(f"{_name(job)} failed and is tried again: {result.error}")
                    continue
                found = read_done(place, job)
                if found is None:
                    errors[job.id] = result.error or "it ended without its marker"
                    _say(f"{_name(job)} failed: {errors[job.id]}")
                    continue
                done += 1
                _say(f"{_name(job)}: {found.outcome} ({done} of {len(jobs)} done)")
    except KeyboardInterrupt:
        kept = sum(read_done(place, job) is not None for job in jobs)
        raise KeyboardInterrupt(
            f"stopped; {kept} of {_count(len(jobs))} done, what was saved is kept; go on with the same command: {place}"
        ) from None
    return errors


def _jobs(target: str, words: Sequence[str], seeds: str | None, preset: str, out: Path) -> tuple[Job, ...]:
    from inscape.studies import study

    name, dot, code = target.partition(".")
    found = study(name)
    if not dot:
        raise ValueError(f"name one phase: {', '.join(f'{found.name}.{p.code}' for p in found.phases)}")
    return make_jobs(
        found, found.phase(code), preset, read_axes(words), () if seeds is None else read_seeds(seeds), out
    )


def _default_workers(runner: str, jobs: int) -> int:
    """A cluster's scheduler knows what it has; this machine's cores or GPUs are counted."""
    here = runner == "local" or (runner == "ray" and not os.environ.get("RAY_ADDRESS"))
    return local.default_workers(jobs) if here else min(jobs, MOST_WORKERS)


def _show(place: Path, jobs: Sequence[Job], errors: dict[str, str], as_json: bool) -> int:
    rows = [_row(place, job, errors.get(job.id)) for job in jobs]
    left = [row for row in rows if row["outcome"] is None]
    if len(left) < len(rows):
        from inscape.report import write_index

        write_index(Path(jobs[0].out))
    if as_json:
        document = {"sweep": str(place), "done": len(rows) - len(left), "left": len(left), "jobs": rows}
        print(json.dumps(document, indent=1, allow_nan=False))
    else:
        _table(rows)
    for row in left:
        if row["error"]:
            what = " ".join([*row["overrides"], f"seed {row['seed']}"])
            _say(f"job {row['job']} ({what}) failed: {row['error']}; its log: {row['log']}")
    return SOME_LEFT if left else ALL_DONE


def _row(place: Path, job: Job, error: str | None) -> dict[str, Any]:
    done = read_done(place, job)
    return {
        "job": job.id,
        "overrides": list(job.overrides),
        "seed": job.seed,
        "outcome": done.outcome if done else None,
        "run": done.run if done else None,
        "error": error,
        "log": str(job_log(place, job.id)),
    }


def _table(rows: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in ("job", "overrides", "seed", "verdict", "run"):
        table.add_column(column, overflow="fold")
    for row in rows:
        verdict = row["outcome"] or ("failed" if row["error"] else "not run")
        table.add_row(
            row["job"],
            Text(" ".join(row["overrides"])),  # as text: [1,2] is no markup
            str(row["seed"]),
            Text(verdict, "green" if verdict == "PASS" else "red"),
            Text(row["run"] or ""),
        )
    Console().print(table)


def _name(job: Job) -> str:
    return f"job {job.id}"


def _count(jobs: int) -> str:
    return f"{jobs} job{'s' if jobs != 1 else ''}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
