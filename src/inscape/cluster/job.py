"""Running one job: `run_job(jobs_file, id)`. It may be called anywhere, by anything, at any time, and again.

A job that was done is left alone. A run that the job has begun and not finished is resumed from its last checkpoint;
otherwise a run is begun through `core.runner`, as `inscape run` would, past a gate that is shut: a sweep compares runs,
and what is pushed past a shut gate, or has overrides, opens none. The marker of being done is written last.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, chdir, contextmanager
from dataclasses import replace
from pathlib import Path

from inscape.cluster.jobs import (
    Done,
    Job,
    find_job,
    job_folder,
    outcome_of,
    preset_has_changed,
    read_begun,
    read_done,
    run_of,
    write_begun,
    write_done,
)
from inscape.core.config import fingerprint, with_overrides
from inscape.core.corpus import corpus_of
from inscape.core.estimate import Estimate
from inscape.core.rundir import RunDir
from inscape.core.runner import Request, resume, run_study
from inscape.core.standing import judge
from inscape.core.study import SMOKE, Context, Phase, Study

__all__ = ["PATIENCE_SEC", "run_job"]

PATIENCE_SEC = 60.0  # for another process that has the job: one whose sweep was killed is saving and leaves


def run_job(jobs_file: Path | str, number: str) -> Done:
    """Do the job unless it was done, and say what it has come to.

    ValueError if there is no such job, or it cannot be run, or another process has it for longer than a minute.
    """
    path = Path(jobs_file).absolute()
    job, place = find_job(path, number), path.parent
    if done := read_done(place, job):
        return done
    with _held(place, job), _in_folder(job):
        if done := read_done(place, job):  # by the process that had it
            return done
        run = _finished_run(place, job)
        done = Done(str(run.path), str(judge(run).outcome))
        write_done(place, job, done)
    return done


def _finished_run(place: Path, job: Job) -> RunDir:
    from inscape.studies import study

    found = study(job.study)
    begun = _begun(place, job)
    if begun is None:
        return _start(place, job, found, found.phase(job.phase))
    if begun.finished:  # killed between verdict and marker, perhaps before the report
        _write_report(begun)
        return begun
    print(f"{job.study}.{job.phase} seed {job.seed} goes on: {begun.path}", flush=True)
    verdict = resume(found, begun, _write_report)
    print(f"{job.study}.{job.phase} seed {job.seed}: {verdict.outcome}", flush=True)
    return begun


def _begun(place: Path, job: Job) -> RunDir | None:
    """The run that the job has begun; None if there is none, or what is there now is not of this job or beyond use."""
    kept = read_begun(place, job)
    run = run_of(job, kept) if kept else None
    return None if run and run.finished and outcome_of(run) is None else run


def _start(place: Path, job: Job, study: Study, phase: Phase) -> RunDir:
    config = with_overrides(phase.preset(job.preset, corpus_of(job.overrides)), job.overrides)
    if fingerprint(config) != job.config:
        raise preset_has_changed(place, job)

    def noted(context: Context) -> Mapping[str, Estimate]:
        write_begun(place, job, context.run.path)
        return phase.run(context)

    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        print(line, flush=True)

    request = Request(
        preset=job.preset,
        seed=job.seed,
        root=Path(job.out),
        overrides=job.overrides,
        # Recorded where a gate is shut, and only there; smoke runs have no gate to walk past.
        despite_gate=None if job.preset == SMOKE else f"a sweep ({place.name}, job {job.id}) compares runs",
    )
    runs = run_study(study, (replace(phase, run=noted),), request, say, _write_report)
    if not runs:
        raise ValueError(said[-1])
    return runs[-1]


def _write_report(run: RunDir) -> None:
    """The index over all runs is the sweep's to write: many jobs at once would write it over each other."""
    from inscape.report import write_report

    write_report(run)


@contextmanager
def _held(place: Path, job: Job) -> Iterator[None]:
    """Have the job alone; another process that has it is waited for, but not for ever."""
    folder = job_folder(place, job.id)
    folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + PATIENCE_SEC
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(RunDir(folder).exclusive())
                break
            except ValueError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)
        yield


@contextmanager
def _in_folder(job: Job) -> Iterator[None]:
    """Be where the sweep was asked for."""
    if not Path(job.cwd).is_dir():
        raise ValueError(f"{job.cwd}, where the sweep was asked for, is not a folder of this machine")
    with chdir(job.cwd):
        yield
