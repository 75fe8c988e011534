"""An attempt: everything it says is in the log, its failure is one line, and this process speaks again afterwards."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from inscape.cluster.attempt import AttemptFailed, attempt, last_line


def talks(jobs_file: str, number: str) -> None:
    print("in Python")
    os.write(1, b"below Python\n")
    os.write(2, b"an error below Python\n")


def breaks(jobs_file: str, number: str) -> None:
    raise RuntimeError("first\nsecond")


def test_what_is_said_is_in_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    attempt(talks, str(tmp_path / "jobs.jsonl"), "0000")
    log = tmp_path / "jobs/0000/log.txt"
    text = log.read_text()
    assert all(line in text for line in ("in Python", "below Python", "an error below Python"))
    assert capfd.readouterr() == ("", "")
    print("again")
    os.write(1, b"and below\n")
    assert set(capfd.readouterr().out.splitlines()) == {"again", "and below"}
    attempt(talks, str(tmp_path / "jobs.jsonl"), "0000")
    assert log.read_text().count("in Python") == 2, "attempts follow each other"


def says_a_name_that_is_no_utf_8(jobs_file: str, number: str) -> None:
    print("r\udcff")
    raise ValueError("r\udcff cannot be read")


def test_a_name_that_is_no_utf_8_is_escaped_in_the_log(tmp_path: Path) -> None:
    with pytest.raises(AttemptFailed, match=r"^ValueError: r.* cannot be read$"):
        attempt(says_a_name_that_is_no_utf_8, str(tmp_path / "jobs.jsonl"), "0000")
    log = tmp_path / "jobs/0000/log.txt"
    assert "r\\udcff\n" in log.read_text()
    assert last_line(log) == r"ValueError: r\udcff cannot be read"


def test_a_failure_is_one_line_and_the_log_has_the_rest(tmp_path: Path) -> None:
    with pytest.raises(AttemptFailed, match=r"^RuntimeError: second$"):
        attempt(breaks, str(tmp_path / "jobs.jsonl"), "0000")
    text = (tmp_path / "jobs/0000/log.txt").read_text()
    assert "Traceback" in text
    assert last_line(tmp_path / "jobs/0000/log.txt") == "RuntimeError: second"


def test_a_closed_output_is_no_failure(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs.jsonl"
    closed = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from test_attempt import attempt, talks; "
    )
    told = [sys.executable, "-c", closed + f"attempt(talks, {str(jobs)!r}, '0000')"]
    assert subprocess.run(told, preexec_fn=lambda: os.closerange(0, 3), check=False).returncode == 0
    text = (tmp_path / "jobs/0000/log.txt").read_text()
    assert all(line in text for line in ("in Python", "below Python", "an error below Python"))


def test_the_last_line_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    assert last_line(log) == ""
    contents = {b"": "", b"\n\n": "", b"a\nb\n \n": "b", b"x" * 9000 + b"\nend": "end", b"\xff\n": "\ufffd"}
    for content, line in contents.items():
        log.write_bytes(content)
        assert last_line(log) == line
