"""The only place that knows the file names of a run.

    runs/<study>/<phase>/<preset>/<time>-<fingerprint>-s<seed>/
        config.yaml  gate.json  env.json      what was asked, of which gate, by which versions
        log.jsonl                             one JSON object a line, while it runs
        checkpoints/step_N/                   written by the trainer
        figures/  metrics.json  verdict.json  verdict.json is written last: a run without one is not finished
        report.html

Every file is written under a temporary name, flushed to the disk and renamed: a reader sees it whole or not at all.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from inscape.core.program import program

__all__ = [
    "FORMAT",
    "RunDir",
    "across_seeds_path",
    "find_runs",
    "is_run_named",
    "run_name",
    "write_atomically",
    "write_json_atomically",
]

FORMAT = 1  # raise it when a reader of older run directories would be misled
ASKED = {  # what env.json says was asked; everything else in it is for the record
    "study": str,
    "phase": str,
    "preset": str,
    "seed": int,
    "device": str,
    "overrides": dict,
    "remedies": list,
    "despite_gate": str | None,
    "inputs": dict,
}
ASKED_SINCE = {"corpus": list, "corpus_contents": dict}  # the same, of runs that are not of before these were kept
LOCK = ".lock"
RUN_NAME = re.compile(r"(\d{8}T\d{6})(?:\.\d+)?-([0-9a-f]+)-s(\d+)")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content` so that a crash at any moment leaves the old file or the new one, never a part.

    OSError names `path`, also where a full disk names no file.
    """
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


def write_json_atomically(path: Path, content: Any) -> None:
    """`write_atomically` for JSON; ValueError on NaN, for which JSON has no word."""
    write_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


class RunDir:
    """A handle on one run directory. It reads and writes; it decides nothing."""

    CONFIG, GATE, ENV, LOG = "config.yaml", "gate.json", "env.json", "log.jsonl"
    METRICS, VERDICT, REPORT = "metrics.json", "verdict.json", "report.html"

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, root: Path, study: str, phase: str, preset: str, fingerprint: str, seed: int) -> "RunDir":
        """Make a new, empty run directory; a counter is appended if two runs start in the same second."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        parent = Path(root) / study / phase / preset
        try:
            parent.mkdir(parents=True, exist_ok=True)
            for attempt in range(1000):
                path = parent / f"{stamp}{f'.{attempt:03d}' if attempt else ''}-{fingerprint}-s{seed}"
                with suppress(FileExistsError):
                    path.mkdir()
                    return cls(path)
        except OSError as error:
            raise _cannot_be_kept(Path(root), error) from None
        raise ValueError(f"no free run name under {parent}: a thousand runs of one config started in one second")

    def write_asked(self, config: str, criteria: Any, env: Any) -> None:
        """Write down what was asked in a new run: config.yaml, gate.json, env.json.

        Where one of them cannot be written, the run is removed, for nothing could go on with it. ValueError if there is
        no room, or the folder may not be written.
        """
        try:
            write_atomically(self.path / self.CONFIG, config)
            self.write_json(self.GATE, criteria)
            self.write_json(self.ENV, env)
        except BaseException as error:
            with suppress(OSError):
                self.discard_if_nothing_was_measured()
            if isinstance(error, OSError):
                raise _cannot_be_kept(self.path.parents[3], error) from None
            raise

    @classmethod
    def open(cls, path: Path | str) -> "RunDir":
        """An existing run; ValueError in one line if `path` is not one, or was written by another format."""
        run, a_run_is = cls(Path(path)), f"a run is a folder runs/STUDY/PHASE/PRESET/TIME-..., see {program()} status"
        try:
            found = bool(str(path)) and run.path.is_dir()
        except OSError as error:
            raise ValueError(f"{path} cannot be opened: {error.strerror}; {a_run_is}") from None
        if not found:
            raise ValueError(f"{str(path) or repr('')} is not a folder; {a_run_is}")
        env = run.read_json(cls.ENV)
        if env is None:
            raise ValueError(f"{path} is not a run folder: it has no {cls.ENV}; see {program()} status")
        if not isinstance(env, dict) or env.get("format") != FORMAT:
            found = env.get("format") if isinstance(env, dict) else None
            raise ValueError(
                f"{path} has run format {found}, and this inscape reads format {FORMAT}; use the version that wrote it"
            )
        kinds = ASKED | {key: kind for key, kind in ASKED_SINCE.items() if key in env}
        wrong = [key for key, kind in kinds.items() if not isinstance(env.get(key), kind)]
        if wrong:
            raise ValueError(f"{run.path / cls.ENV} is damaged: {', '.join(wrong)} missing or of a wrong type")
        return run

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the run: a second process that runs or resumes it is refused. The lock dies with its holder."""
        with (self.path / LOCK).open("w") as file:
            try:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"{self.path} is being run by another process; wait for it, or stop it first"
                ) from None
            except (ModuleNotFoundError, OSError):
                pass  # Windows and some cluster file systems have no flock; two resumes are then the user's to avoid
            yield

    def discard_if_nothing_was_measured(self) -> None:
        """Remove the run if it holds only what was asked: a mistake found at the start leaves nothing behind."""
        with suppress(OSError):
            self.figures.rmdir()  # only if it is empty
        asked = {self.CONFIG, self.GATE, self.ENV, LOCK}
        if {file.name for file in self.path.iterdir()} <= asked:
            shutil.rmtree(self.path)
            for folder in list(self.path.parents)[:3]:  # preset, phase, study: those that now stand empty
                with suppress(OSError):
                    folder.rmdir()

    @property
    def root(self) -> Path | None:
        """The folder of all runs that this one lies in; None where it was copied to a place of another shape."""
        env = self.read_json(self.ENV)
        asked = [str(env.get(key)) for key in ("study", "phase", "preset")] if isinstance(env, dict) else None
        for path in (self.path.absolute(), self.path.resolve()):
            if len(path.parents) > 3:
                study, phase, preset = path.parts[-4:-1]
                if [study, phase, preset.partition("+")[0]] == asked:  # evidence lies in PRESET+CHANGES
                    return path.parents[3]
        return None

    @property
    def figures(self) -> Path:
        """The folder of pictures, made on first use."""
        folder = self.path / "figures"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def checkpoints(self) -> Path:
        """Where the trainer keeps step_N folders; it may not exist yet."""
        return self.path / "checkpoints"

    @property
    def finished(self) -> bool:
        """True once verdict.json is there."""
        return (self.path / self.VERDICT).is_file()

    def append_log(self, record: Mapping[str, Any]) -> None:
        """Add one line to log.jsonl; a line that a crash cut off is removed first, or both would be unreadable."""
        with (self.path / self.LOG).open("ab+") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
            file.write(json.dumps(record).encode() + b"\n")

    def sync_log(self) -> None:
        """Wait until log.jsonl is on the disk, as a checkpoint that comes after its lines will be."""
        with suppress(FileNotFoundError), (self.path / self.LOG).open("ab") as file:
            os.fsync(file.fileno())

    def read_log(self) -> list[dict[str, Any]]:
        """All whole lines of log.jsonl that are objects; a last line cut off by a crash is left out.

        ValueError if it is damaged.
        """
        path = self.path / self.LOG
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
            return [record for line in lines[:-1] if line and isinstance(record := json.loads(line), dict)]
        except FileNotFoundError:
            return []
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is damaged ({error}); delete the run or restore the file") from None

    def write_json(self, name: str, content: Any) -> None:
        """Write one JSON file atomically."""
        write_json_atomically(self.path / name, content)

    def read_json(self, name: str) -> Any:
        """The file's content, or None if there is no such file; ValueError if it is damaged or may not be read."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.path / name} is damaged ({error}); delete the run or restore the file") from None
        except OSError as error:
            raise ValueError(f"{self.path / name} cannot be read: {error.strerror}") from None

    def __repr__(self) -> str:
        return f"RunDir({str(self.path)!r})"


def _cannot_be_kept(root: Path, error: OSError) -> ValueError:
    return ValueError(f"runs cannot be kept under {root}: {error.strerror}; choose another folder with --out")


def across_seeds_path(root: Path, study: str, phase: str, preset: str) -> Path:
    """Where the judgement over all declared seeds of a preset is kept."""
    return Path(root) / study / phase / preset / "across_seeds.json"


def run_name(run: RunDir) -> str:
    """A run's own name, also of a collected copy in a folder named otherwise."""
    env = run.read_json(RunDir.ENV)
    if RUN_NAME.fullmatch(run.path.name) or not isinstance(env, dict):
        return run.path.name
    name = f"{env.get('started')}-{env.get('fingerprint')}-s{env.get('seed')}"
    return name if RUN_NAME.fullmatch(name) else run.path.name


def is_run_named(name: str, folder: Path, env: Mapping[str, Any]) -> bool:
    """Whether `folder` is the run of this name, or a collected copy of it; a copy keeps in env.json when it began."""
    asked = RUN_NAME.fullmatch(name)
    if asked is None or RUN_NAME.fullmatch(folder.name):
        return folder.name == name
    return asked.groups() == (env.get("started"), env.get("fingerprint"), str(env.get("seed")))


def find_runs(root: Path, study: str = "*", phase: str = "*", preset: str = "*") -> Iterator[RunDir]:
    """All runs under `root`, oldest first; folders that are not readable runs are passed over.

    preset: its evidence on a corpus counts as well, which is collected in a folder `PRESET+data.path=...` beside it.
    """
    if not os.path.isdir(root):  # noqa: PTH112 (no name, however odd, stops it)
        return
    folders = (preset,) if preset == "*" else (preset, f"{preset}+*")
    for env in sorted(env for each in folders for env in Path(root).glob(f"{study}/{phase}/{each}/*/{RunDir.ENV}")):
        try:
            yield RunDir.open(env.parent)
        except ValueError:
            continue
