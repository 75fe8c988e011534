"""Jobs of the planted study, which other processes can run: what a job does is said by its override `data.text`.

`run_planted` stands in for `run_job`, and differs from it in the study alone. Each call leaves a line in the run's log,
so that a second one knows that it goes on.
"""

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from inscape.cluster.job import run_job
from inscape.cluster.jobs import Done, Job, find_job, write_jobs
from inscape.cluster.product import make_jobs, read_axes
from inscape.core.estimate import Estimate
from inscape.core.study import Context, Study
from inscape.stopping import TrainingInterrupted, stop_requests

sys.path.insert(0, str(Path(__file__).parent.parent / "core"))

from planted_study import PRESETS, make_world, measure

TOY = "toy.P1"


def behave(context: Context) -> Mapping[str, Estimate]:
    """`measure`, after what the config asks for."""
    wish, first = context.config.data.text, not context.run.read_log()
    context.run.append_log({"process": os.getpid()})
    if wish == "killed" and first:
        os.kill(os.getpid(), signal.SIGKILL)
    if wish == "broken" or (wish == "shaky" and first):
        print("about to break")
        raise RuntimeError("the planted fault\nof two lines")
    if wish == "told" and first:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)
        os._exit(9)
    if wish == "slow" and first:
        with stop_requests(announce=False) as asked:
            while not asked.wait(0.05):
                pass
            context.run.append_log({"saved": True})
            raise TrainingInterrupted("stopped, and saved")
    return measure(context)


def toy(folder: Path) -> Study:
    """The planted study with presets in `folder`."""
    presets = folder / "presets.yaml"
    if not presets.exists():
        presets.write_text(PRESETS)
    return make_world(folder, run=behave).study


def planted(folder: Path, *words: str, seeds: Sequence[int] = (0,), preset: str = "quick") -> tuple[Job, ...]:
    """Jobs of P1, written into folder/sweep."""
    study = toy(folder)
    jobs = make_jobs(study, study.phase("P1"), preset, read_axes(words), seeds, folder / "runs")
    write_jobs(folder / "sweep", jobs)
    return jobs


def run_planted(jobs_file: str, number: str) -> Done:
    import inscape.studies

    folder = Path(find_job(Path(jobs_file), number).cwd)
    inscape.studies.study = lambda name: toy(folder)
    return run_job(jobs_file, number)


def killed_before_anything(jobs_file: str, number: str) -> Done:
    """The worker's first call for job 0000 is killed before the job has begun, as by an out-of-memory killer."""
    mark = Path(jobs_file).with_name("was-killed")
    if number == "0000" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return run_planted(jobs_file, number)


def says_nothing(jobs_file: str, number: str) -> None:
    """A job that ends without a word or a marker."""


def pids(place: Path) -> list[int]:
    """The processes whose attempts the logs of a sweep tell of."""
    text = "".join(log.read_text() for log in place.glob("jobs/*/log.txt"))
    return [int(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith("--- ")]


def wait_for(condition, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def main(words: Sequence[str]) -> int:
    """The inscape command over the planted study in this folder, its jobs in local processes."""
    import inscape.studies
    from inscape.cli import main as command
    from inscape.cluster import local, sweep

    inscape.studies.study = lambda name: toy(Path.cwd())
    sweep.RUNNERS["local"] = lambda path, ids, run_one, workers, retries: local.run(
        path, ids, run_planted, workers, retries
    )
    return command(words)
