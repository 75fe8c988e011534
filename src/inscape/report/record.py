"""One run as a report sees it: whatever can be read, and the names of what cannot.

A damaged or missing file never stops a report; it is said in it.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from inscape.core.corpus import CONTENTS, CORPUS
from inscape.core.estimate import Estimate
from inscape.core.gate import Gate, Verdict, fingerprint_of_gate
from inscape.core.rundir import RunDir

__all__ = [
    "Record",
    "differences_of_seeds",
    "hashes_in",
    "natural_key",
    "parts_of",
    "read_record",
    "relative_link",
    "run_folders",
    "start_time",
]

STAMP = re.compile(r"(\d{8}T\d{6})(?:\.\d+)?-")
SEED = re.compile(r"(?:-s|^seed-)(\d+)$")
HASH_WORDS = ("sha256", "hash", "digest")
HASH = re.compile(r"(?:[a-z0-9-]+:)?[0-9a-f]{16,128}")
SWEEPS, JOBS = "sweeps", "jobs.jsonl"  # of `inscape sweep`: where its folders are, what each of them holds
WITHOUT_LOGS = ("checkpoints", "figures", "tensorboard")  # folders of a run in which no training lies
LONGEST_NUMBER = 100  # digits; longer ones are sorted as text, for Python makes no number of thousands
OWN_JSON = (RunDir.GATE, RunDir.ENV, RunDir.METRICS, RunDir.VERDICT)


@dataclass(frozen=True)
class Record:
    """A run, read with care. `problems` names every file that was missing or damaged, in words."""

    path: Path
    study: str
    phase: str
    preset: str
    seed: int | None
    started: datetime | None
    env: Mapping[str, Any]
    about: Mapping[str, Any]
    config: str
    metrics: Mapping[str, Estimate]
    verdict: Verdict | None  # judged here and now from gate.json and metrics.json
    finished: bool
    logs: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)  # by part; the run's own: ""
    problems: tuple[str, ...] = field(default=())
    contradicted: bool = False  # verdict.json is not what gate.json and metrics.json give: one of them was edited

    @property
    def outcome(self) -> str:
        """The verdict in one word; UNFINISHED before it is measured, UNREADABLE where it cannot be worked out.

        Nor is a pass believed that verdict.json contradicts.
        """
        if not self.finished:
            return "UNFINISHED"
        if not self.verdict or not self.metrics or (self.contradicted and self.verdict.passed):
            return "UNREADABLE"
        return str(self.verdict.outcome)

    def outcome_of(self, source: Literal["plan", "calibrated"]) -> str:
        """The outcome of the criteria of one source alone; empty where there are none, or it cannot be worked out."""
        if not self.verdict or not self.metrics or self.outcome == "UNREADABLE":
            return ""
        return str(self.verdict.outcome_of(source) or "")

    @property
    def fingerprint(self) -> str:
        """The name of its config; empty where env.json has none."""
        return str(self.env.get("fingerprint") or "")

    @property
    def declared_seeds(self) -> list[int]:
        """The seeds of which each must pass, as they were declared when it was run."""
        seeds = self.about.get("seeds")
        return [seed for seed in seeds if isinstance(seed, int)] if isinstance(seeds, list) else []

    @property
    def pushed(self) -> str:
        """Why the run was pushed past a shut gate; empty where it was not."""
        return str(self.env.get("despite_gate") or "")

    @property
    def overrides(self) -> dict[str, Any]:
        """Config keys that the user changed, those that name a corpus among them."""
        return _mapping(self.env, "overrides")

    @property
    def corpus(self) -> tuple[str, ...]:
        """The data.* words that name a corpus of the user's own, which has a ladder of its own; empty: the declared."""
        words = self.env.get("corpus")
        if isinstance(words, list) and words:
            return tuple(map(str, words))
        return tuple(f"{key}={value}" for key, value in self.overrides.items() if key.startswith(CORPUS))

    @property
    def contents(self) -> dict[str, Any]:
        """What the files and folders that the corpus names held: a hash of each, by the word that names it."""
        return _mapping(self.env, CONTENTS)

    @property
    def changes(self) -> dict[str, Any]:
        """Config keys that the user changed and that say how something is asked, not about what."""
        return {key: value for key, value in self.overrides.items() if not key.startswith(CORPUS)}

    @property
    def remedies(self) -> list[str]:
        """The reasons of the remedies that were applied."""
        known, applied = self.about.get("remedies"), self.env.get("remedies")
        known = known if isinstance(known, list) else []
        numbers = [n for n in applied if isinstance(n, int)] if isinstance(applied, list) else []
        return [str(known[n]) if 0 <= n < len(known) else f"remedy number {n + 1}" for n in numbers]

    @property
    def declared(self) -> bool:
        """True for a run under its preset's declared config, on whatever corpus: the only kind that can open a gate."""
        return not (self.pushed or self.changes or self.preset == "smoke")


def differences_of_seeds(records: Iterable[Record]) -> list[str]:
    """In words, why these runs pass no gate together whatever each one says: all seeds must pass under one config."""
    records = list(records)
    different = []
    if len({record.fingerprint for record in records}) > 1:
        different.append("seeds under different configs")
    if len({str(sorted(record.contents.items())) for record in records}) > 1:
        different.append("seeds of different contents")
    return different


def read_record(path: Path, *, log: bool = True) -> Record:
    """Read a run folder; never raises for what is in it."""
    run, problems = RunDir(path), []
    env = _expect(dict, _read(run, RunDir.ENV, problems), RunDir.ENV, problems)
    metrics = _metrics(
        _expect(dict, _read(run, RunDir.METRICS, problems, run.finished), RunDir.METRICS, problems), problems
    )
    verdict = _judge(_read(run, RunDir.GATE, problems), metrics, env.get("gate_fingerprint"), problems)
    kept = _expect(dict, _read(run, RunDir.VERDICT, problems, False), RunDir.VERDICT, problems)
    contradicted = bool(run.finished and verdict and metrics and kept != verdict.to_json())
    if verdict and contradicted:
        says = kept.get("outcome") if kept.get("outcome") != verdict.outcome else "something else"
        problems.append(
            f"{RunDir.VERDICT} says {says}, but {RunDir.GATE} and {RunDir.METRICS} give "
            f"{verdict.outcome}; this page shows the latter"
        )
    study, phase, preset, name = ("", "", "", *path.absolute().parts)[-4:]
    seed = SEED.search(name)
    return Record(
        path=path,
        study=str(env.get("study", study)),
        phase=str(env.get("phase", phase)),
        preset=str(env.get("preset", preset)),
        seed=env["seed"] if isinstance(env.get("seed"), int) else int(seed[1]) if seed else None,
        started=start_time(name, env),
        env=env,
        about=_mapping(env, "about"),
        config=_config(run, problems),
        metrics=metrics,
        verdict=verdict,
        finished=run.finished,
        logs={part: _log(run, part, problems) for part in ("", *parts_of(path))} if log else {},
        problems=tuple(problems),
        contradicted=contradicted,
    )


def run_folders(root: Path) -> list[Path]:
    """Every folder that lies where a run would, oldest first within its preset, readable or not.

    What a sweep keeps of its jobs may lie as deep, and is no run: its runs lie with the others.
    """
    root = Path(root)
    sweeps = {jobs.parent for depth in ("*", "*/*", "*/*/*") for jobs in root.glob(f"{depth}/{JOBS}")} | {root / SWEEPS}
    folders = [
        path
        for path in root.glob("*/*/*/*")
        if path.is_dir() and not path.name.startswith(".") and sweeps.isdisjoint(path.parents)
    ]
    return sorted(folders, key=lambda path: [natural_key(part) for part in path.parts[-4:]])


def parts_of(run: Path) -> list[str]:
    """The trainings inside a run that keep a log of their own, at any depth, as relative paths such as arms/wide/tail.

    Links to folders are not followed.
    """
    found = []
    for folder, below, files in os.walk(run):
        below[:] = [name for name in below if name not in WITHOUT_LOGS and not name.startswith(".")]
        if RunDir.LOG in files and Path(folder) != run:
            found.append(Path(folder).relative_to(run).as_posix())
    return sorted(found, key=natural_key)


def relative_link(target: Path, start: Path) -> str:
    """A link from a page in the folder `start` to `target`."""
    return Path(os.path.relpath(target.absolute(), start.absolute())).as_posix()


def natural_key(text: str) -> list[tuple[int, int | str]]:
    """A sort key that puts P10 after P9."""
    parts = [part for part in re.split(r"(\d+)", text) if part]
    return [(0, int(part)) if part.isdecimal() and len(part) <= LONGEST_NUMBER else (1, part) for part in parts]


def start_time(folder: str, env: Mapping[str, Any]) -> datetime | None:
    """When the run began, from its folder's name; a collected copy keeps it in env.json."""
    found = STAMP.match(str(env.get("started") or folder) + "-")
    try:
        return datetime.strptime(found[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC) if found else None
    except ValueError:
        return None


def hashes_in(path: Path, env: Mapping[str, Any]) -> dict[str, str]:
    """Every entry that is a hash or is called one, in `env` and in the other JSON files that the phase wrote.

    What the corpus held is named by `Record.contents`, and left out here.
    """
    found = dict(_hashes({key: value for key, value in env.items() if key != CONTENTS}, ""))
    for file in sorted(path.glob("*.json")):
        if file.name not in OWN_JSON:
            found |= dict(_hashes(_read(RunDir(path), file.name, []), f"{file.stem}."))
    return found


def _hashes(content: Any, prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in content.items() if isinstance(content, dict) else ():
        name = f"{prefix}{key}"
        called_one = any(word in name.lower() for word in HASH_WORDS)
        if isinstance(value, dict):
            yield from _hashes(value, f"{name}.")
        elif isinstance(value, str) and key != "git_commit" and (called_one or HASH.fullmatch(value)):
            yield name, value


def _read(run: RunDir, name: str, problems: list[str], wanted: bool = True) -> Any:
    try:
        content = run.read_json(name)
    except (ValueError, OSError):
        problems.append(f"{name} is damaged and could not be read")
        return None
    if content is None and wanted:
        problems.append(f"{name} is missing")
    return content


def _expect(kind: type, content: Any, name: str, problems: list[str]) -> Any:
    if content is not None and not isinstance(content, kind):
        problems.append(f"{name} does not hold what it should and was left out")
    return content if isinstance(content, kind) else kind()


def _mapping(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = content.get(key)
    return value if isinstance(value, dict) else {}


def _metrics(stored: Mapping[str, Any], problems: list[str]) -> dict[str, Estimate]:
    metrics = {}
    for name, fields in stored.items():
        try:
            metrics[name] = Estimate.from_json(fields)
        except (KeyError, TypeError, ValueError, OverflowError):
            problems.append(f"{name} in {RunDir.METRICS} is damaged and counts as not measured")
    return metrics


def _judge(criteria: Any, metrics: Mapping[str, Estimate], begun_with: Any, problems: list[str]) -> Verdict | None:
    """begun_with: the fingerprint of the gate in env.json; None in a run of before there was one."""
    if criteria is None:
        return None
    if begun_with is not None and begun_with != fingerprint_of_gate(criteria):
        problems.append(f"{RunDir.GATE} was edited since the run began, so nothing could be judged")
        return None
    try:
        return Gate.from_json(criteria).judge(metrics)
    except (TypeError, ValueError, OverflowError):
        problems.append(f"{RunDir.GATE} does not hold a gate, so nothing could be judged")
        return None


def _config(run: RunDir, problems: list[str]) -> str:
    try:
        return (run.path / RunDir.CONFIG).read_text(encoding="utf-8")
    except FileNotFoundError:
        problems.append(f"{RunDir.CONFIG} is missing")
    except (OSError, UnicodeDecodeError):
        problems.append(f"{RunDir.CONFIG} is damaged and could not be read")
    return ""


def _log(run: RunDir, part: str, problems: list[str]) -> tuple[Mapping[str, Any], ...]:
    try:
        return tuple(line for line in RunDir(run.path / part).read_log() if isinstance(line, dict))
    except (ValueError, OSError):
        problems.append(f"{part and f'{part}/'}{RunDir.LOG} is damaged; its curves are left out")
        return ()
