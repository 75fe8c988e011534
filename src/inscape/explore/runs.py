"""Runs in the browser: which there are, what each found, and how one that trains is getting on.

Everything is read from run directories, as a report reads them: no study is imported, nothing is measured, decided or
written. What is missing or damaged is said in the answer. Every answer is strict JSON, and no error names a path of
this machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from inscape.core.rundir import RunDir, across_seeds_path
from inscape.explore.run_detail import describe_run
from inscape.explore.run_files import DEPTH, Declined, names_of, run_folder, servable_file, strays
from inscape.explore.run_log import is_live, log_page, parts_of, plain, writing
from inscape.explore.run_summary import Shown, files_read, read_run, summary_of
from inscape.explore.strict_json import answer_in_json
from inscape.report.across import read_across_seeds
from inscape.report.record import Record, differences_of_seeds, natural_key, run_folders

__all__ = ["Known", "list_runs", "log_of_run", "run_routes"]

PRESETS = ("full", "small", "quick", "smoke")  # the weightiest first; presets of other names follow
WORST_FIRST = ("INVALID", "UNREADABLE", "FAIL", "INCONCLUSIVE", "PARTIAL", "UNFINISHED")
PAGE_HEADERS = {  # a report needs its own styles and embedded pictures; no page or figure needs a script
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
ANSWER_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}

Stamp = tuple[Any, ...]
Known = dict[Path, tuple[Stamp, Shown | str]]  # what was read of each run folder, or why it cannot be shown


def list_runs(root: Path, known: Known | None = None) -> dict[str, Any]:
    """All runs by study, phase, preset and corpus, newest first; `known` keeps what was read until that changes."""
    known = {} if known is None else known
    root = root.absolute()
    folders = [f for f in run_folders(root) if not any(n.startswith(".") for n in f.relative_to(root).parts)]
    found = {folder: _remembered(root, folder, known) for folder in folders}
    for gone in [folder for folder in list(known) if folder not in found]:
        known.pop(gone, None)
    shown = sorted((s for s in found.values() if isinstance(s, Shown)), key=_age)
    studies = sorted({s.names[0] for s in shown}, key=natural_key)
    return {
        "studies": [_study(root, name, [s for s in shown if s.names[0] == name]) for name in studies],
        "unreadable": [
            {"id": "".join(c if c.isprintable() else "?" for c in folder.relative_to(root).as_posix()), "problem": why}
            for folder, why in found.items()
            if isinstance(why, str)
        ],
    }


def log_of_run(root: Path, names: Sequence[str], after: int, part: str = "") -> dict[str, Any]:
    """Lines of a run's log from number `after` on, and whether more may come; Declined if there is no such run.

    part: the path of a training inside the run, whose log is wanted instead. `writing` says which log grows.
    """
    folder = run_folder(root, names)
    name = f"{part}/{RunDir.LOG}" if part else RunDir.LOG
    unreadable = Declined(f"{name} of {'/'.join(names)} cannot be read; its other files may tell more")
    try:
        if part and part not in parts_of(folder):  # no path of a visitor's is opened
            raise Declined(f"{'/'.join(names)} has no training {part!r} with a log; its own is at .../log")
        if strays(root, folder, [name]):
            raise unreadable
        # Asked first, so that no last line is missed.
        state = {"finished": RunDir(folder).finished, "running": is_live(folder), "writing": writing(folder)}
        return log_page(folder / name, after)._asdict() | state
    except OSError:
        raise unreadable from None


def run_routes(root: Path) -> list[BaseRoute]:
    """The routes over the runs in `root`. Their functions are plain, so starlette runs each of them in a thread."""
    root = root.absolute()
    known: Known = {}

    def all_runs(_: Request) -> Response:
        return _answer(lambda: list_runs(root, known))

    def one_run(request: Request) -> Response:
        return _answer(lambda: _one_run(root, request))

    def one_file(request: Request) -> Response:
        try:
            file = servable_file(root, names_of(request.path_params["address"]))
        except Declined as declined:
            return _declined(declined)
        return Response(file.content, media_type=file.media_type, headers=PAGE_HEADERS)

    return [
        Route("/api/runs", all_runs),
        Route("/api/runs/{address:path}", one_run),
        Route("/runs/{address:path}", one_file),
    ]


def _one_run(root: Path, request: Request) -> dict[str, Any]:
    names = names_of(request.path_params["address"])
    if len(names) > DEPTH and names[-1] == "log":
        after = _line_number(request.query_params.get("after", "0"))
        return log_of_run(root, names[:DEPTH], after, "/".join(names[DEPTH:-1]))
    return describe_run(root, names)


def _line_number(given: str) -> int:
    if not re.fullmatch(r"[0-9]{1,15}", given):
        said = given[:20] if given.isprintable() else "what was given"
        raise Declined(f"after={said}: wanted a whole number from 0 on; give `next` of the last answer", 400, "after")
    return int(given)


def _answer(ask: Callable[[], dict[str, Any]]) -> Response:
    try:
        return _json(ask(), 200)
    except Declined as declined:
        return _declined(declined)


def _declined(declined: Declined) -> Response:
    return _json({"error": str(declined), "field": declined.field}, declined.status)


def _json(content: Mapping[str, Any], status: int) -> Response:
    return answer_in_json(plain(content), status, ANSWER_HEADERS)


def _remembered(root: Path, folder: Path, known: Known) -> Shown | str:
    stamp = tuple(_stamp(folder / name) for name in files_read(root, folder))
    before = known.get(folder)
    if before and before[0] == stamp:
        return before[1]
    known[folder] = stamp, (found := read_run(root, folder))
    return found


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Another for a file that was replaced or written to."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _study(root: Path, name: str, shown: Sequence[Shown]) -> dict[str, Any]:
    """`shown`: oldest first. The words are those of the newest run; a phase that it names and nobody ran is listed."""
    about = shown[-1].record.about
    phases = about.get("phases")
    declared = {str(code): str(text) for code, text in phases.items()} if isinstance(phases, dict) else {}
    others = sorted({s.names[1] for s in shown} - set(declared), key=natural_key)
    return {
        "name": name,
        "title": str(about.get("study_title") or name),
        "hypothesis": str(about.get("hypothesis") or ""),
        "phases": [
            _phase(root, code, declared.get(code, ""), [s for s in shown if s.names[1] == code])
            for code in [*declared, *others]
        ],
    }


def _phase(root: Path, code: str, name: str, shown: Sequence[Shown]) -> dict[str, Any]:
    about = shown[-1].record.about if shown else {}
    found = {s.names[2] for s in shown}
    presets = [p for p in PRESETS if p in found] + sorted(found.difference(PRESETS), key=natural_key)
    ladders = [
        (preset, corpus)  # each corpus has a ladder of its own, the declared one's first
        for preset in presets
        for corpus in sorted({s.record.corpus for s in shown if s.names[2] == preset})
    ]
    return {
        "code": code,
        "name": str(about.get("phase_name") or name),
        "question": str(about.get("question") or ""),
        "presets": [_ladder(root, *of, [s for s in shown if (s.names[2], s.record.corpus) == of]) for of in ladders],
    }


def _ladder(root: Path, preset: str, corpus: Sequence[str], shown: Sequence[Shown]) -> dict[str, Any]:
    """A preset stands, on one corpus, as the worst of its seeds' newest declared runs.

    It is unfinished while a seed is missing, or another one's run has another config.
    """
    counted = [s.record for s in shown if s.record.declared or preset == "smoke"]
    newest = {record.seed: record for record in counted}
    outcomes = {record.outcome for record in newest.values()}
    seeds = counted[-1].about.get("seeds") if counted and preset != "smoke" else None
    if isinstance(seeds, list) and any(seed not in newest for seed in seeds if isinstance(seed, int)):
        outcomes.add("UNFINISHED")
    if differences_of_seeds(newest.values()):
        outcomes.add("UNFINISHED")
    across = None if corpus else _across_seeds(root, shown[0].names, list(newest.values()))
    if newest and across:
        outcomes.add(across)
    return {
        "preset": preset,
        "corpus": list(corpus),
        "standing": next((o for o in WORST_FIRST if o in outcomes), "PASS") if newest else None,
        "across_seeds": across,
        "runs": [summary_of(root, s) for s in reversed(shown)],
    }


def _across_seeds(root: Path, names: Sequence[str], records: Sequence[Record]) -> str | None:
    path = across_seeds_path(root, *names[:3])
    try:
        found = None if strays(root, path.parent, [path.name]) else read_across_seeds(path, records)
    except (ArithmeticError, AttributeError, OSError):
        return "UNREADABLE"
    return found.outcome if found else None


def _age(shown: Shown) -> tuple[float, str]:
    return shown.record.started.timestamp() if shown.record.started else 0.0, shown.names[-1]
