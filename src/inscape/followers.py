"""Studies under torchrun: the first process runs them, and the others follow it into every phase to train along.

Which phase, which seed, which remedy: all is decided in the first process, and it alone writes the run. A follower runs
the same phase with a folder of its own, which it throws away: the phase's calls of `inscape.train.fit` meet those of
the first process, and what is measured afterwards is measured for nobody.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist

from inscape.core.estimate import Estimate
from inscape.core.rundir import RunDir
from inscape.core.standing import config_of
from inscape.core.study import Context, Phase, Study
from inscape.device import Processes, join_processes, pick_device, started_processes
from inscape.stopping import DiskFull, TrainingDiverged, TrainingInterrupted

__all__ = ["check_several", "follow", "follows", "leading"]


def follows() -> bool:
    """Whether this process is one that follows the first."""
    return started_processes() > 1 and os.environ.get("RANK", "0") != "0"


def check_several(study: Study, phases: Sequence[Phase]) -> None:
    """ValueError if several processes were started and one of these phases runs in one alone."""
    alone = [f"{study.name}.{phase.code}" for phase in phases if not phase.several]
    if started_processes() > 1 and alone:
        several = [f"{study.name}.{phase.code}" for phase in study.phases if phase.several]
        raise ValueError(
            f"torchrun started {started_processes()} processes, and {', '.join(alone)} runs in one; start inscape "
            f"without torchrun (in several run: {', '.join(several) or 'no phase of this study'})"
        )


@contextmanager
def leading(study: Study, device: str) -> Iterator[Study]:
    """The study whose phases, run by the first process, are run by its followers as well, until the end of the block.

    Alone, it is the study itself.
    """
    if started_processes() == 1:
        yield study
        return
    with join_processes(pick_device(device)) as processes:
        yield replace(study, phases=tuple(_announced(phase, processes) for phase in study.phases))
        processes.texts("")


def _announced(phase: Phase, processes: Processes) -> Phase:
    def run(context: Context) -> Mapping[str, Estimate]:
        processes.texts(str(context.run.path.absolute()))
        for rank, trouble in enumerate(processes.texts("")):
            if trouble:
                raise ValueError(f"process {rank} cannot follow: {trouble}")
        return phase.run(context)

    return replace(phase, run=run)


def follow(study: Study, device: str) -> None:
    """Run what the first process runs, until it has come to its end. The runs' folder must be seen from here.

    Where training ends early, it does so in all processes. A follower then leaves with status 0, for torchrun ends all
    others as soon as one fails, and the first process has yet to say why.
    """
    with join_processes(pick_device(device)) as processes:
        try:
            while path := processes.texts("")[0]:
                if not _join_in(study, path, processes):
                    return
        except (TrainingInterrupted, TrainingDiverged, DiskFull):
            return
        except ValueError as error:  # of the first process as well, or it would be a riddle there
            print(f"process {processes.rank}: {error}", file=sys.stderr)
        except RuntimeError as error:
            if not _lost_the_first(error):
                raise


def _lost_the_first(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "Connection" in str(error)


def _join_in(study: Study, path: str, processes: Processes) -> bool:
    """Run the phase that the first process runs in the folder `path`; False if it cannot be read from here."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            run, own = RunDir.open(path), RunDir(Path(folder) / Path(path).name)
            env = run.read_json(RunDir.ENV)
            phase = study.phase(env["phase"])
            inputs = {code: RunDir.open(at) for code, at in env["inputs"].items()}
            context = Context(config_of(phase, run), env["seed"], env["device"], env["preset"], own, inputs)
            own.path.mkdir()
            for name in (RunDir.CONFIG, RunDir.GATE, RunDir.ENV):
                shutil.copy(run.path / name, own.path)
        except (OSError, ValueError) as error:
            processes.texts(str(error))
            return False
        if any(processes.texts("")):
            return False
        phase.run(context)
    return True
