"""Run directories: what a crash, a second process, a damaged file or a wrong folder may do to them."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inscape.core import rundir
from inscape.core.rundir import (
    FORMAT,
    RunDir,
    across_seeds_path,
    find_runs,
    is_run_named,
    write_atomically,
    write_json_atomically,
)

ASKED: dict[str, Any] = {
    "format": FORMAT,
    "study": "toy",
    "phase": "P1",
    "preset": "quick",
    "seed": 0,
    "device": "cpu",
    "overrides": {},
    "remedies": [],
    "despite_gate": None,
    "inputs": {},
}


def make(root: Path, phase: str = "P1", seed: int = 0) -> RunDir:
    run = RunDir.create(root, "toy", phase, "quick", "0123abcd", seed)
    run.write_json(RunDir.ENV, ASKED | {"phase": phase, "seed": seed})
    return run


# --- writing ----------------------------------------------------------------------------------------------------


def test_a_run_is_filed_by_study_phase_preset_time_fingerprint_and_seed(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "toy", "P1", "quick", "0123abcd", 7)
    assert run.path.parent == tmp_path / "toy" / "P1" / "quick"
    stamp, fingerprint, seed = run.path.name.split("-")
    assert (len(stamp), fingerprint, seed) == (15, "0123abcd", "s7")
    assert list(run.path.iterdir()) == []


def test_runs_of_one_second_are_kept_apart_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(rundir.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls(2026, 1, 2, 3, 4, 5, tzinfo=tz)

    monkeypatch.setattr(rundir, "datetime", Clock)
    made = [make(tmp_path).path for _ in range(12)]
    assert len(set(made)) == 12
    assert [run.path for run in find_runs(tmp_path)] == made


@pytest.mark.parametrize("where", ["a_file", "a_file/deeper"])
def test_a_place_where_no_run_can_be_kept_is_refused(tmp_path: Path, where: str) -> None:
    (tmp_path / "a_file").write_text("in the way")
    with pytest.raises(ValueError, match=r"runs cannot be kept under .*; choose another folder with --out"):
        make(tmp_path / where)
    assert [p.name for p in tmp_path.iterdir()] == ["a_file"]


def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)  # the parents exist: only the last mkdir is refused
    real = Path.mkdir

    def mkdir(self: Path, *words: Any, **more: Any) -> None:
        if self.name.endswith("-s0"):
            raise PermissionError(13, "Permission denied", str(self))
        real(self, *words, **more)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(ValueError, match=r"runs cannot be kept under .*Permission denied"):
        make(tmp_path)


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path = tmp_path / "metrics.json"
    write_json_atomically(path, {"recall": 1})

    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os if moment == "fsync" else Path, moment, crash)
        with pytest.raises(KeyboardInterrupt):
            write_json_atomically(path, {"recall": 2})
    assert json.loads(path.read_text()) == {"recall": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize("name", [RunDir.CONFIG, RunDir.GATE, RunDir.ENV])
@pytest.mark.parametrize("stop", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_of_what_was_asked_all_is_written_or_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, stop: BaseException
) -> None:
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if target.name == name:
            raise stop
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    run = RunDir.create(tmp_path / "runs", "toy", "P1", "quick", "0123abcd", 0)
    full = f"runs cannot be kept under {tmp_path / 'runs'}: No space left on device; choose another folder with --out"
    with pytest.raises(ValueError if isinstance(stop, OSError) else KeyboardInterrupt) as refusal:
        run.write_asked("n: 3\n", [], ASKED)
    assert str(refusal.value) == (full if isinstance(stop, OSError) else "")
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as refusal:
        write_json_atomically(tmp_path / "metrics.json", {})
    assert refusal.value.filename == str(tmp_path / "metrics.json")


def test_json_that_is_none_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json_atomically(tmp_path / "metrics.json", {"recall": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_text_and_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    write_atomically(tmp_path / "new" / "a.txt", "ä\n")
    write_atomically(tmp_path / "new" / "b.bin", b"\x00\xff")
    assert (tmp_path / "new" / "a.txt").read_bytes() == "ä\n".encode()
    assert (tmp_path / "new" / "b.bin").read_bytes() == b"\x00\xff"


# --- the log ----------------------------------------------------------------------------------------------------


def test_the_log_returns_what_was_appended(tmp_path: Path) -> None:
    run = make(tmp_path)
    assert run.read_log() == []
    records = [{"step": i, "text": "a\nb ä"} for i in range(3)]
    for record in records:
        run.append_log(record)
    assert run.read_log() == records


RECORDS = st.lists(st.dictionaries(st.text(), st.integers() | st.text()), min_size=1, max_size=4)


@given(records=RECORDS, cut=st.integers(1, 200))
def test_a_log_line_that_a_crash_cut_off_spoils_no_other(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict], cut: int
) -> None:
    run = make(tmp_path_factory.mktemp("log"))
    for record in records:
        run.append_log(record)
    path = run.path / RunDir.LOG
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    left = path.read_bytes().count(b"\n")
    assert run.read_log() == records[:left]
    run.append_log({"after": "the crash"})
    assert run.read_log() == [*records[:left], {"after": "the crash"}]


def test_lines_that_are_no_objects_are_left_out(tmp_path: Path) -> None:
    run = make(tmp_path)
    (run.path / RunDir.LOG).write_text('[]\n{"step": 1}\n3\nnull\n')
    assert run.read_log() == [{"step": 1}]


@pytest.mark.parametrize("content", [b"{'no': json}\n", b"\xff\n", b'{"step": ' + b"9" * 5000 + b"}\n"])
def test_a_damaged_log_is_named(tmp_path: Path, content: bytes) -> None:
    run = make(tmp_path)
    (run.path / RunDir.LOG).write_bytes(content)
    with pytest.raises(ValueError, match=r"log\.jsonl is damaged"):
        run.read_log()


# --- opening ----------------------------------------------------------------------------------------------------


def test_an_existing_run_is_opened(tmp_path: Path) -> None:
    run = RunDir.open(str(make(tmp_path).path))
    assert run.read_json(RunDir.ENV) == ASKED
    assert run.read_json(RunDir.METRICS) is None
    assert not run.finished
    run.write_json(RunDir.VERDICT, {})
    assert run.finished


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (None, r"is not a run folder: it has no env\.json"),
        ("[1", r"env\.json is damaged"),
        ("[]", "has run format None, and this inscape reads format 1"),
        (json.dumps(ASKED | {"format": 99}), "has run format 99, and this inscape reads format 1"),
        (json.dumps({"format": FORMAT}), r"env\.json is damaged: study, phase, preset"),
        (json.dumps(ASKED | {"seed": "0"}), r"env\.json is damaged: seed missing or of a wrong type"),
        (json.dumps(ASKED | {"inputs": None}), r"env\.json is damaged: inputs"),
        (json.dumps(ASKED | {"corpus": "text"}), r"env\.json is damaged: corpus missing or"),
        (json.dumps(ASKED | {"corpus_contents": None}), r"env\.json is damaged: corpus_contents missing or"),
        (f'{{"format": {"9" * 5000}}}', r"env\.json is damaged \(Exceeds"),
    ],
)
def test_what_is_not_a_run_is_refused_and_passed_over(tmp_path: Path, env: str | None, message: str) -> None:
    whole, other = make(tmp_path), make(tmp_path, seed=1)
    (other.path / RunDir.ENV).unlink()
    if env is not None:
        (other.path / RunDir.ENV).write_text(env)
    with pytest.raises(ValueError, match=message):
        RunDir.open(other.path)
    assert [run.path for run in find_runs(tmp_path)] == [whole.path]


@pytest.mark.parametrize("path", ["nowhere", "a_file", "a\0b", ""])
def test_a_path_that_is_no_folder_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "a_file").write_text("")
    with pytest.raises(ValueError, match=r"is not a (run )?folder"):
        RunDir.open(tmp_path / path)


def test_nor_is_no_path_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make(tmp_path).path)
    with pytest.raises(ValueError, match=r"^'' is not a folder; a run is a folder runs/STUDY/"):
        RunDir.open("")


def test_a_name_that_no_disk_takes_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a cannot be opened: File name too long; a run is a folder runs/STUDY/"):
        RunDir.open(tmp_path / ("a" * 300))
    assert list(find_runs(tmp_path / ("a" * 300))) == []


def test_a_file_that_may_not_be_read_is_passed_over(tmp_path: Path) -> None:
    whole, other = make(tmp_path), make(tmp_path, seed=1)
    (other.path / RunDir.ENV).unlink()
    (other.path / RunDir.ENV).mkdir()  # unreadable for every user, root included
    with pytest.raises(ValueError, match=r"env\.json cannot be read: Is a directory"):
        RunDir.open(other.path)
    assert [run.path for run in find_runs(tmp_path)] == [whole.path]


def test_runs_are_found_by_study_phase_and_preset(tmp_path: Path) -> None:
    first, second = make(tmp_path, "P1"), make(tmp_path, "P2")
    write_json_atomically(across_seeds_path(tmp_path, "toy", "P1", "quick"), {})
    assert [r.path for r in find_runs(tmp_path)] == [first.path, second.path]
    assert [r.path for r in find_runs(tmp_path, "toy", "P2")] == [second.path]
    assert list(find_runs(tmp_path, "toy", "P2", "full")) == []
    assert list(find_runs(tmp_path / "nowhere")) == []


# --- one process at a time --------------------------------------------------------------------------------------

HOLD = """
import sys, time
from inscape.core.rundir import RunDir
with RunDir(sys.argv[1]).exclusive():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")
def test_a_held_run_is_refused_until_its_holder_dies(tmp_path: Path) -> None:
    run = make(tmp_path)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="is being run by another process"), run.exclusive():
            pass
    finally:
        holder.kill()
        holder.communicate()
    with run.exclusive():
        pass


def test_a_file_system_without_locks_is_no_reason_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def flock(*_: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with make(tmp_path).exclusive():
        pass


# --- nothing half-written -----------------------------------------------------------------------------------------


def test_a_run_in_which_nothing_was_measured_can_be_discarded(tmp_path: Path) -> None:
    run = make(tmp_path)
    with run.exclusive():
        assert run.figures.is_dir()
    run.discard_if_nothing_was_measured()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["log.jsonl", "metrics.json", "checkpoints", "figures/a.png"])
def test_a_run_that_holds_anything_measured_is_kept(tmp_path: Path, name: str) -> None:
    run = make(tmp_path)
    (run.path / name).parent.mkdir(exist_ok=True)
    (run.path / name).write_text("x")
    run.discard_if_nothing_was_measured()
    assert (run.path / name).is_file()
    assert run.read_json(RunDir.ENV) == ASKED


# --- where a run lies ---------------------------------------------------------------------------------------------

LIES_IN = {"study": "toy", "phase": "P1", "preset": "quick"}


@pytest.mark.parametrize(
    ("place", "root"),
    [
        ("/runs/toy/P1/quick/20260101T000000-0123abcd-s0", "/runs"),
        ("/toy/P1/quick/seed-0", "/"),
        ("/results/toy/P1/quick+signal=1.0/seed-0", "/results"),
        ("/results/toy/P1/quickest/seed-0", None),
        ("/results/toy/P2/quick/seed-0", None),
        ("/toy/P1/seed-0", None),
        ("/seed-0", None),
        ("/", None),
    ],
)
def test_the_root_of_a_run_is_named_only_where_it_lies_as_its_record_says(
    monkeypatch: pytest.MonkeyPatch, place: str, root: str | None
) -> None:
    monkeypatch.setattr(RunDir, "read_json", lambda run, name: LIES_IN)
    assert RunDir(Path(place)).root == (Path(root) if root else None)


def test_a_run_reached_by_a_link_lies_where_it_was_made(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "runs", "toy", "P1", "quick", "0123abcd", 0)
    run.write_json(RunDir.ENV, LIES_IN)
    (tmp_path / "latest").symlink_to(run.path, target_is_directory=True)
    assert RunDir(tmp_path / "latest").root == (tmp_path / "runs").resolve()


@pytest.mark.parametrize(
    ("name", "folder", "same"),
    [
        ("20260101T000000-0123abcd-s0", "20260101T000000-0123abcd-s0", True),
        ("20260101T000000-0123abcd-s0", "20260101T000000.001-0123abcd-s0", False),
        ("20260101T000000-0123abcd-s0", "seed-0", True),
        ("20260101T000000.001-0123abcd-s0", "seed-0", True),
        ("20260101T000001-0123abcd-s0", "seed-0", False),
        ("20260101T000000-0123abce-s0", "seed-0", False),
        ("20260101T000000-0123abcd-s1", "seed-0", False),
        ("seed-0", "seed-0", True),
        ("seed-1", "seed-0", False),
    ],
)
def test_a_copy_is_the_run_of_a_name(name: str, folder: str, same: bool) -> None:
    env = {"started": "20260101T000000", "fingerprint": "0123abcd", "seed": 0}
    assert is_run_named(name, Path(folder), env) == same
