"""report.html: one run, told to somebody who never saw the code."""

import base64
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from inscape.core.gate import Finding
from inscape.core.rundir import RunDir, find_runs, is_run_named, write_atomically
from inscape.report.curves import Curve, Interval, curves_of, interval, is_number
from inscape.report.record import Record, hashes_in, read_record, relative_link
from inscape.report.reproduction import chain_of, commands_of, typed_in
from inscape.report.templating import render
from inscape.report.words import duration, verdict_sentence

__all__ = ["CAPTIONS", "KINDS", "notices_in", "trained_for", "write_report"]

KINDS = {".png": "image/png", ".jpg": "image/jpeg", ".svg": "image/svg+xml", ".webp": "image/webp"}
CAPTIONS = "captions.json"
CURVE_SIZE = (250, 90)  # pixels

Logs = Mapping[str, Sequence[Mapping[str, Any]]]  # the lines of each training's log, by its folder in the run

SOURCES: tuple[tuple[Literal["plan", "calibrated"], str, str], ...] = (
    ("plan", "The plan's criteria", "Thresholds taken word for word from the plan of the study."),
    (
        "calibrated",
        "Calibrated criteria",
        "Thresholds of our own, added where the plan's can be passed by a useless result or failed by a good one.",
    ),
)


class Row(NamedTuple):
    """One criterion, with what is said of it."""

    finding: Finding
    outcome: str
    strip: Interval | None


class Group(NamedTuple):
    """Findings that are read together, with the outcome that they have on their own."""

    title: str
    explanation: str
    outcome: str
    rows: list[Row]


class Training(NamedTuple):
    """The curves of one training; `part` is its folder in the run, empty for the run's own."""

    part: str
    train: list[Curve]
    evaluations: list[Curve]


class Picture(NamedTuple):
    """A figure, embedded."""

    name: str
    caption: str
    data_uri: str


def write_report(run: RunDir) -> Path:
    """Write report.html into the run's folder and return its path. Nothing that is missing or damaged stops it."""
    record = read_record(run.path)
    root, problems = _root(run), list(record.problems)
    chain = chain_of(record, _finder(root))
    pictures = _pictures(run, problems)
    page = render(
        "run.html",
        record=record,
        problems=problems,
        title=f"{record.study}.{record.phase} {record.about.get('phase_name', '')}".strip(),
        sentence=verdict_sentence(record.verdict) if record.verdict and record.metrics else "",
        done=trained_for(record.logs),
        inputs=_inputs(record, root),
        groups=_groups(record),
        others=_others(record),
        pictures=pictures,
        trainings=_trainings(record),
        notices=notices_in(record.logs),
        commands=commands_of(chain),
        uncommitted=any(link.record.env.get("git_dirty") for link in chain if link.record),
        typed=typed_in(record),
        versions=record.env.get("versions") if isinstance(record.env.get("versions"), dict) else {},
        hashes=hashes_in(run.path, record.env),
        index=relative_link(root / "index.html", run.path) if root else "",
    )
    path = run.path / RunDir.REPORT
    write_atomically(path, page)
    return path


def _groups(record: Record) -> list[Group]:
    if record.verdict is None:
        return []
    verdict, groups = record.verdict, []
    for source, title, explanation in SOURCES:
        rows = [f for f in verdict.findings if f.criterion.source == source and f.criterion.role == "claim"]
        outcome = verdict.outcome_of(source)
        if rows and outcome:
            groups.append(Group(title, explanation, _said(record, outcome), _rows(record, rows)))
    controls = [f for f in verdict.findings if f.criterion.role == "control"]
    if controls:
        outcome = "PASS" if all(f.outcome == "PASS" for f in controls) else "INVALID"
        why = "What must hold for the instrument to be believed. If one does not, the claims above say nothing."
        groups.append(Group("Controls", why, _said(record, outcome), _rows(record, controls)))
    return groups


def _rows(record: Record, findings: Sequence[Finding]) -> list[Row]:
    return [Row(f, _said(record, f.outcome), interval(f.estimate, f.criterion)) for f in findings]


def _said(record: Record, outcome: str) -> str:
    """Before anything is measured a criterion has not been missed: it is as unfinished as the run."""
    return str(outcome) if record.metrics else record.outcome


def _others(record: Record) -> dict[str, Any]:
    judged = {f.criterion.metric for f in record.verdict.findings} if record.verdict else set()
    return {name: estimate for name, estimate in record.metrics.items() if name not in judged}


def _trainings(record: Record) -> list[Training]:
    found = [
        Training(part, curves_of(log, "train", *CURVE_SIZE), curves_of(log, "eval", *CURVE_SIZE))
        for part, log in record.logs.items()
    ]
    return [training for training in found if training.train or training.evaluations]


def notices_in(logs: Logs) -> list[str]:
    """The notices of a run and of the trainings in it, those with the name of their folder."""
    return [
        f"{part and f'{part}: '}{line.get('text', '')}"
        for part, log in logs.items()
        for line in log
        if line.get("kind") == "notice"
    ]


def trained_for(logs: Logs) -> str:
    """How far all trainings of a run went, and how long they took; empty for a run that trains nothing."""
    last = [line for log in logs.values() if (line := _last_step(log))]
    if not last:
        return ""
    seconds = [line["seconds"] for line in last if is_number(line.get("seconds"))]
    took = duration(sum(seconds)) if seconds else ""
    done = f"It trained for {sum(line['step'] for line in last):,} steps"
    if len(last) == 1:
        return f"{done}{took and f' in {took}'}."
    return f"{done} in {len(last)} trainings{took and f', {took} together'}."


def _last_step(log: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    steps = (line for line in reversed(log) if line.get("kind") == "train" and isinstance(line.get("step"), int))
    return next((line for line in steps if is_number(line["step"])), None)


def _inputs(record: Record, root: Path | None) -> list[tuple[str, str, str]]:
    """What the run builds on: (phase, folder, link to its report or empty)."""
    found, inputs = [], record.env.get("inputs")
    for code, place in (inputs if isinstance(inputs, dict) else {}).items():
        folder = Path(str(place))
        report = folder / RunDir.REPORT
        near = folder.is_absolute() and root in folder.parents and report.is_file()
        found.append((code, "/".join(folder.parts[-4:]), relative_link(report, record.path) if near else ""))
    return found


def _pictures(run: RunDir, problems: list[str]) -> list[Picture]:
    """The figures, those with captions first and in the captions' order."""
    folder = run.path / "figures"
    captions = _captions(folder, problems)
    files = {f.name: f for f in sorted(folder.glob("*")) if f.suffix.lower() in KINDS} if folder.is_dir() else {}
    problems += [f"figures/{name} has a caption but is missing" for name in captions if name not in files]
    pictures = []
    for name in [n for n in captions if n in files] + [n for n in files if n not in captions]:
        try:
            content = base64.b64encode(files[name].read_bytes()).decode()
        except OSError:
            problems.append(f"figures/{name} could not be read")
            continue
        uri = f"data:{KINDS[files[name].suffix.lower()]};base64,{content}"
        pictures.append(Picture(name, captions.get(name, ""), uri))
    return pictures


def _captions(folder: Path, problems: list[str]) -> dict[str, str]:
    try:
        captions = json.loads((folder / CAPTIONS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, OSError):
        captions = None
    if not isinstance(captions, dict):
        problems.append(f"figures/{CAPTIONS} is damaged; the pictures stand without captions")
        return {}
    return {str(name): str(caption) for name, caption in captions.items()}


def _finder(root: Path | None) -> Callable[[str], Record | None]:
    """The record of a run that another builds on: where it was, or among the runs here if all of them were moved."""

    def find(place: str) -> Record | None:
        folder = Path(place)
        near = [root.joinpath(*folder.parts[-4:])] if root else []
        for at in (folder, *near):
            if at.is_absolute() and os.path.isfile(at / RunDir.ENV):  # noqa: PTH113 (no name, however odd, stops it)
                return read_record(at, log=False)
        of_phase = folder.parts[-4:-2]
        kept = find_runs(root, *of_phase) if root and len(of_phase) == 2 else ()  # collected: a seed names the folder
        records = (read_record(run.path, log=False) for run in kept)
        return next((each for each in records if is_run_named(folder.name, each.path, each.env)), None)

    return find


def _root(run: RunDir) -> Path | None:
    try:
        return run.root
    except ValueError:  # its env.json is damaged
        return None
