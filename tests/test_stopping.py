"""A training within a run: what its end says names the run that can be continued."""

import errno
from pathlib import Path

import pytest

from inscape.core.rundir import RunDir
from inscape.stopping import DiskFull, TrainingInterrupted, disk_full_in_one_line, part_of


def test_a_part_that_is_stopped_names_the_run(tmp_path: Path) -> None:
    told = rf"within past, and saved; .* inscape resume {tmp_path}$"
    with pytest.raises(TrainingInterrupted, match=told), part_of(RunDir(tmp_path), "past") as part:
        raise TrainingInterrupted(f"continue with: inscape resume {part.path}")


def test_a_part_on_a_full_disk_names_the_run(tmp_path: Path) -> None:
    whole, told = RunDir(tmp_path), rf"continue with: inscape resume {tmp_path}$"
    with pytest.raises(DiskFull, match=told) as full, part_of(whole, "past") as part, disk_full_in_one_line(part.path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert full.value.errno == errno.ENOSPC


def test_other_errors_pass_through_a_part(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), part_of(RunDir(tmp_path), "k1"):
        raise ZeroDivisionError
    assert (tmp_path / "k1").is_dir()
