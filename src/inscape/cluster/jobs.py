"""The contract between whoever asks for runs and whoever runs them: plain lines in a file, and markers beside it.

    SWEEP/jobs.jsonl           one JSON object a line, in order: line 0 is job 0000; written once, never changed
    SWEEP/jobs/0000/run.json   which run the job has begun: what an interrupted one is resumed from
    SWEEP/jobs/0000/log.txt    what its attempts have said
    SWEEP/jobs/0000/done.json  the finished run and its verdict, written last: a job without one is not done

A job holds numbers and strings only and knows nothing of what runs it. A marker only says where to look: a job is done
where the run that it names is there, finished, of this job, its config and what its corpus holds today, and can be
judged.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from inscape.core.corpus import CONTENTS, changed_contents, corpus_of
from inscape.core.rundir import RunDir, write_atomically, write_json_atomically
from inscape.core.standing import judge

__all__ = [
    "JOBS",
    "Done",
    "Job",
    "find_job",
    "job_folder",
    "job_id",
    "job_log",
    "outcome_of",
    "preset_has_changed",
    "read_begun",
    "read_done",
    "read_jobs",
    "run_of",
    "write_begun",
    "write_done",
    "write_jobs",
]

JOBS = "jobs.jsonl"


class Job(NamedTuple):
    """One run that is wanted."""

    id: str
    study: str
    phase: str
    preset: str
    overrides: tuple[str, ...]
    seed: int
    out: str  # where its run is kept, in full
    cwd: str  # relative paths in the overrides are meant from here
    done: str  # its marker, from the folder of jobs.jsonl
    config: str  # the fingerprint of its run's config

    @property
    def fingerprint(self) -> str:
        """Of all words that can change the run; a marker of another job, left in the same folder, does not count."""
        asked = [self.study, self.phase, self.preset, self.overrides, self.seed, self.out]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


class Done(NamedTuple):
    """What a job has come to."""

    run: str
    outcome: str


def job_id(number: int) -> str:
    """The id of the job in line `number`, counted from 0; SLURM pads its array numbers to the same four digits."""
    return f"{number:04d}"


def job_folder(place: Path, number: str) -> Path:
    return Path(place) / "jobs" / number


def job_log(place: Path, number: str) -> Path:
    return job_folder(place, number) / "log.txt"


def write_jobs(place: Path, jobs: Sequence[Job]) -> Path:
    """jobs.jsonl in the sweep's folder, unless it stands there; its path. ValueError if the folder holds others."""
    path = Path(place) / JOBS
    try:
        _refuse_another_sweep(place, jobs)
        if not path.exists():
            write_atomically(path, "".join(json.dumps(job._asdict()) + "\n" for job in jobs))
    except OSError as error:
        raise ValueError(
            f"a sweep cannot be kept in {place}: {error.strerror}; choose another folder with --sweep or --out"
        ) from None
    return path


def _refuse_another_sweep(place: Path, jobs: Sequence[Job]) -> None:
    """ValueError if `place` cannot be the folder of these jobs. From which folder they were asked is no difference."""
    place = Path(place)
    if place.exists() and not place.is_dir():
        raise ValueError(f"{place} is not a folder; give another with --sweep")
    if not (place / JOBS).exists():
        return
    found = read_jobs(place / JOBS)
    if [job._replace(cwd="", config="") for job in found] == [job._replace(cwd="", config="") for job in jobs]:
        changed = next((job for job, now in zip(found, jobs, strict=True) if job.config != now.config), None)
        if changed:
            raise preset_has_changed(place, changed)
    else:
        first = found[0]
        raise ValueError(
            f"{place} holds another sweep: {len(found)} jobs of {first.study}.{first.phase}, preset {first.preset}, "
            f"runs in {first.out}; give another folder with --sweep"
        )


def preset_has_changed(place: Path, job: Job) -> ValueError:
    """What is said where the same words no longer make the config that the sweep was asked for."""
    return ValueError(
        f"{job.study}.{job.phase}'s preset {job.preset} has changed since the sweep was asked for; "
        f"delete {Path(place) / JOBS}, and inscape sweep writes it again"
    )


def read_jobs(path: Path) -> tuple[Job, ...]:
    """The jobs of a file that `write_jobs` wrote; ValueError in one line if it is missing or damaged."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; inscape sweep writes one") from None
    except (UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not lines:
        raise ValueError(f"{path} is damaged: it is empty; delete it, and inscape sweep writes it again")
    return tuple(_job(Path(path), number, line) for number, line in enumerate(lines))


def _job(path: Path, number: int, line: str) -> Job:
    try:
        fields: Any = json.loads(line)
        problem = _problem(fields, number)
    except (ValueError, RecursionError) as error:
        fields, problem = {}, str(error)
    if problem:
        raise ValueError(
            f"{path}, line {number + 1}, is damaged ({problem}); delete the file, and inscape sweep writes it again"
        )
    return Job(**{**fields, "overrides": tuple(fields["overrides"])})


def _problem(fields: Any, number: int) -> str:
    """What is wrong with a line's content; empty if it is a job."""
    if not isinstance(fields, dict):
        return "it holds no object"
    kinds = {name: {"overrides": list, "seed": int}.get(name, str) for name in Job._fields}
    if kinds.keys() - fields.keys() == {"config"}:
        return "it is of an earlier version, and does not name its run's config"
    if strange := sorted(kinds.keys() ^ fields.keys()):
        return f"missing or unknown: {', '.join(strange)}"
    if wrong := [name for name, kind in kinds.items() if not isinstance(fields[name], kind)]:
        return f"of a wrong type: {', '.join(wrong)}"
    if not all(isinstance(item, str) for item in fields["overrides"]):
        return "of a wrong type: overrides"
    return "" if fields["id"] == job_id(number) else f"id {fields['id']} is not {job_id(number)}"


def find_job(path: Path, number: str) -> Job:
    """The job with this id, leading zeros or not; ValueError says which there are."""
    jobs = read_jobs(path)
    if not (number.isascii() and number.isdigit() and int(number) < len(jobs)):
        raise ValueError(f"{path} has no job {number!r}; there are 0 to {len(jobs) - 1}")
    return jobs[int(number)]


def read_done(place: Path, job: Job) -> Done | None:
    """What the job has come to, as its run says today, or None if it is not done."""
    kept = _read_mark(Path(place) / job.done, job, ("run", "outcome"))
    run = run_of(job, kept["run"]) if kept else None
    outcome = outcome_of(run) if run else None
    return Done(str(run.path), outcome) if run and outcome else None


def run_of(job: Job, path: str) -> RunDir | None:
    """The run in this folder, finished or not; None if there is none, or it is not what the job asks for."""
    try:
        run = RunDir.open(path)
    except ValueError:
        return None
    env = run.read_json(RunDir.ENV)
    asked = (env["study"], env["phase"], env["preset"], env["seed"], env.get("fingerprint"))
    if asked != (job.study, job.phase, job.preset, job.seed, job.config) or _read_something_else(job, run, env):
        return None
    return run


def _read_something_else(job: Job, run: RunDir, env: Mapping[str, Any]) -> bool:
    """Whether the job's corpus holds something else today than the run has read.

    What a run had not noted when it began, as of a folder that it fills itself, counts once it has ended.
    """
    kept = env.get(CONTENTS)
    kept = kept if isinstance(kept, dict) else {}
    return any(word in kept or run.finished for word in changed_contents(kept, corpus_of(job.overrides), job.cwd))


def outcome_of(run: RunDir) -> str | None:
    """What a finished run's metrics say; None if it is not finished or its files are damaged."""
    try:
        return str(judge(run).outcome) if run.finished else None
    except ValueError:
        return None


def write_done(place: Path, job: Job, done: Done) -> None:
    write_json_atomically(Path(place) / job.done, {"job": job.fingerprint, **done._asdict()})


def read_begun(place: Path, job: Job) -> str | None:
    """The folder of the run that the job has begun, or None if it has begun none."""
    kept = _read_mark(_begun(place, job), job, ("run",))
    return kept["run"] if kept else None


def write_begun(place: Path, job: Job, run: Path) -> None:
    write_json_atomically(_begun(place, job), {"job": job.fingerprint, "run": str(run)})


def _begun(place: Path, job: Job) -> Path:
    return job_folder(place, job.id) / "run.json"


def _read_mark(path: Path, job: Job, keys: Sequence[str]) -> dict[str, str] | None:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, and the job is run again") from None
    if not isinstance(kept, dict) or not all(isinstance(kept.get(key), str) for key in ("job", *keys)):
        raise ValueError(f"{path} is damaged; delete it, and the job is run again")
    return kept if kept["job"] == job.fingerprint else None
