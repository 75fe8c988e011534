"""One run as its report tells it, in parts that a page can lay out: the question, each finding, pictures, curves."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from inscape.core.estimate import Estimate
from inscape.core.gate import Finding
from inscape.core.rundir import RunDir, find_runs, is_run_named
from inscape.explore.run_files import (
    DEPTH,
    FIGURES,
    Declined,
    figure_names,
    is_name,
    is_run,
    is_servable,
    run_folder,
    strays,
)
from inscape.explore.run_log import DAMAGED, log_lines, parts_of, plain, series, writing
from inscape.explore.run_summary import Shown, read_run, summary_of
from inscape.report.curves import interval
from inscape.report.record import Record
from inscape.report.reproduction import chain_of, commands_of
from inscape.report.run_page import CAPTIONS, notices_in, trained_for
from inscape.report.words import OUTCOMES, asked, in_words, verdict_sentence

__all__ = ["describe_run"]


def describe_run(root: Path, names: Sequence[str]) -> dict[str, Any]:
    """One run as its report tells it; Declined if there is none, or if it cannot be shown."""
    root = root.absolute()
    folder = run_folder(root, names)
    shown = read_run(root, folder)
    if isinstance(shown, str):
        raise Declined(f"the run {'/'.join(names)} cannot be shown: {shown}; run its phase again")
    record, about, env = shown.record, shown.record.about, shown.record.env
    problems = list(record.problems)
    logs = {part: _log(folder, part, problems) for part in ("", *parts_of(folder))}
    figures = _figures(root, shown.names, problems)
    judged = record.verdict is not None and bool(record.metrics)
    return {
        **summary_of(root, shown),
        "title": f"{shown.names[0]}.{shown.names[1]} {about.get('phase_name') or ''}".strip(),
        "study_title": str(about.get("study_title") or shown.names[0]),
        "hypothesis": str(about.get("hypothesis") or ""),
        "question": str(about.get("question") or ""),
        "done": trained_for(logs),
        "explanation": OUTCOMES[record.outcome].explanation,
        "sentence": verdict_sentence(record.verdict) if record.verdict and judged else "",
        "findings": [_finding(record, f) for f in record.verdict.findings] if record.verdict else [],
        "others": _others(record),
        "figures": figures,
        "trainings": _trainings(logs),
        "writing": writing(folder),
        "notices": notices_in(logs),
        "command": "\n".join(commands_of(chain_of(record, lambda place: _record_near(root, place)))),
        "commit": str(env.get("git_commit") or ""),
        "uncommitted_changes": bool(env.get("git_dirty")),
        "versions": env.get("versions") if isinstance(env.get("versions"), dict) else {},
        "inputs": _inputs(root, env.get("inputs")),
        "overrides": record.changes,
        "remedies_applied": record.remedies,
        "problems": problems,
        "failure_means": str(about.get("failure_means") or ""),
        "remedies": _texts(about.get("remedies")),
        "config": record.config,
        "report": _url(*shown.names, RunDir.REPORT) if is_servable(root, (*shown.names, RunDir.REPORT)) else None,
    }


def _finding(record: Record, finding: Finding) -> dict[str, Any]:
    criterion, strip = finding.criterion, interval(finding.estimate, finding.criterion)
    told = {
        "criterion": str(criterion),
        "metric": criterion.metric,
        "words": in_words(criterion.metric),
        "bound": asked(criterion),
        "measured": _measured(finding.estimate),
        "outcome": finding.outcome if record.metrics else record.outcome,  # nothing was missed before it was measured
        "source": criterion.source,
        "role": criterion.role,
        "why": str(criterion.why),
    }
    return told | ({"strip": strip._asdict()} if strip else {})


def _log(folder: Path, part: str, problems: list[str]) -> list[dict[str, Any]]:
    name = f"{part and f'{part}/'}{RunDir.LOG}"
    try:
        lines = list(log_lines(folder / name))
    except OSError:
        problems.append(f"{name} could not be read; its curves are left out")
        return []
    if damaged := lines.count(DAMAGED):
        problems.append(f"{damaged} of {len(lines)} lines of {name} are damaged and were left out")
    return lines


def _trainings(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The curves of each training, by its folder in the run; the run's own comes first and has none."""
    found = [{"part": p, "train": series(log, "train"), "eval": series(log, "eval")} for p, log in logs.items()]
    return [training for training in found if training["train"] or training["eval"]]


def _measured(estimate: Estimate | None) -> dict[str, Any] | None:
    return estimate.to_json() if estimate is not None and estimate.measured else None


def _others(record: Record) -> list[dict[str, Any]]:
    """What was measured and nothing depends on."""
    judged = {f.criterion.metric for f in record.verdict.findings} if record.verdict else set()
    return [
        {"metric": name, "words": in_words(name), "measured": _measured(estimate)}
        for name, estimate in record.metrics.items()
        if name not in judged
    ]


def _figures(root: Path, run: Sequence[str], problems: list[str]) -> list[dict[str, str]]:
    """The figures, those with captions first and in the captions' order."""
    folder = root.joinpath(*run)
    captions, names = _captions(root, folder, problems), figure_names(root, run)
    problems += [f"{FIGURES}/{name} has a caption but is missing" for name in captions if name not in names]
    return [
        {"name": name, "caption": captions.get(name, ""), "url": _url(*run, FIGURES, name)}
        for name in [n for n in captions if n in names] + [n for n in names if n not in captions]
    ]


def _captions(root: Path, folder: Path, problems: list[str]) -> dict[str, str]:
    place = folder / FIGURES
    try:
        captions = None if strays(root, place, [CAPTIONS]) else json.loads((place / CAPTIONS).read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, OSError, RecursionError):
        captions = None
    if not isinstance(captions, dict):
        problems.append(f"{FIGURES}/{CAPTIONS} is damaged; the pictures stand without captions")
        return {}
    return {str(name): str(plain(caption)) for name, caption in captions.items()}


def _inputs(root: Path, inputs: Any) -> list[dict[str, Any]]:
    """The runs that this one builds on: by the end of their path, and their address where they lie in `root`."""
    found = []
    for code, place in (inputs if isinstance(inputs, dict) else {}).items():
        here = _near(root, str(place))
        id_of = "/".join(here.names) if here else None
        found.append({"phase": code, "name": "/".join(_names(str(place))), "id": id_of})
    return found


def _names(place: str) -> list[str]:
    return [name for name in re.split(r"[/\\]", place) if name][-DEPTH:]


def _near(root: Path, place: str) -> Shown | None:
    """The run that another builds on, if it, or a collected copy of it, lies in `root`; nothing is read elsewhere."""
    names = _names(place)
    if is_run(root, names):
        shown = read_run(root, root.joinpath(*names))
        return shown if isinstance(shown, Shown) else None
    if len(names) != DEPTH or not all(map(is_name, names)):
        return None
    copies = (run.path.relative_to(root).parts for run in find_runs(root, *names[:2]))  # a seed names the folder
    read = (read_run(root, root.joinpath(*copy)) for copy in copies if is_run(root, copy))
    shown = (each for each in read if isinstance(each, Shown))
    return next((each for each in shown if is_run_named(names[-1], each.record.path, each.record.env)), None)


def _record_near(root: Path, place: str) -> Record | None:
    found = _near(root, place)
    return found.record if found else None


def _texts(values: Any) -> list[str]:
    return [str(value) for value in values] if isinstance(values, list) else []


def _url(*names: str) -> str:
    return "/runs/" + quote("/".join(names))
