"""Tables for the terminal. They show what is on the disk and decide nothing."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from inscape.core.rundir import RunDir, find_runs
from inscape.core.standing import config_of, gate_of_run, is_open, judge, standing
from inscape.core.study import Phase, Study

__all__ = ["judgement", "status_rows", "status_table", "study_rows", "verdict_table", "verdicts"]

STYLE = {"PASS": "green", "PARTIAL": "yellow", "FAIL": "red", "INCONCLUSIVE": "yellow", "INVALID": "magenta"}

NAMED = 3  # most criteria that a row of several runs names


def verdicts(runs: Sequence[RunDir]) -> None:
    """Print what came out of several runs, a line each; for a single run its whole gate."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    if len(runs) == 1:
        verdict_table(runs[0])
        return
    table = Table()
    for column in ("phase", "seed", "verdict", "plan", "calibrated", "not passed"):
        table.add_column(column, overflow="fold")
    for run in runs:
        env, verdict = run.read_json(RunDir.ENV), judge(run)
        outcomes = (verdict.outcome, verdict.outcome_of("plan"), verdict.outcome_of("calibrated"))
        missed = [f"{f.criterion} ({f.estimate})" for f in verdict.findings if f.outcome != "PASS"]
        if len(missed) > NAMED:  # the run's own table, and its report, name all of them
            missed[NAMED - 1 :] = [f"{len(missed) - NAMED + 1} more"]
        cells = [f"[{STYLE[o]}]{o}[/]" if o else "" for o in outcomes]
        table.add_row(escape(f"{env['study']}.{env['phase']}"), str(env["seed"]), *cells, escape("; ".join(missed)))
    Console().print(table)


def verdict_table(run: RunDir) -> None:
    """Print a run's gate: each criterion, what was measured, what it means."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    env, verdict = run.read_json(RunDir.ENV), judge(run)
    title = f"{env['study']}.{env['phase']} {env['preset']} seed {env['seed']}: {verdict.outcome}"
    table = Table(title=escape(title), title_justify="left", title_style=f"bold {STYLE[verdict.outcome]}")
    for column in ("criterion", "measured", "outcome", "source", "role"):
        table.add_column(column, overflow="fold")
    for finding in verdict.findings:
        criterion, measured = escape(str(finding.criterion)), str(finding.estimate or "not measured")
        outcome = f"[{STYLE[finding.outcome]}]{finding.outcome}[/]"
        table.add_row(criterion, measured, outcome, finding.criterion.source, finding.criterion.role)
    Console().print(table)


def judgement(run: RunDir, find_study: Callable[[str], Study]) -> tuple[dict[str, Any], str]:
    """What `inscape judge --json` shows, and in words what today's gate would say of the run where that is another.

    Where study, phase or config are no longer what they were, today's gate cannot be worked out, and is null.
    """
    env, verdict = run.read_json(RunDir.ENV), judge(run)
    said = verdict.to_json()
    try:
        phase = find_study(env["study"]).phase(env["phase"])
        gate = phase.gate_of(config_of(phase, run)) if phase.gate_for else phase.gate
    except ValueError as error:
        words = f"What today's gate would say cannot be worked out: {error}. Only a new run can open it."
        return {**said, "gate_changed_since": None, "under_todays_gate": None}, words
    changed = gate_of_run(run) != gate
    today = judge(run, gate).outcome if changed else verdict.outcome
    words = f"The gate has changed since this run; today's would say {today}. Only a new run can open it."
    return {**said, "gate_changed_since": changed, "under_todays_gate": today}, words if changed else ""


def study_rows(studies: Iterable[Study]) -> list[dict[str, Any]]:
    """What `inscape list` shows."""
    return [
        {
            "study": s.name,
            "title": s.title,
            "hypothesis": s.hypothesis,
            "phases": [
                {
                    "code": p.code,
                    "name": p.name,
                    "question": p.question,
                    "needs": list(p.needs),
                    "mends": p.mends or None,
                    "seeds": list(p.seeds),
                    "presets": list(p.preset_names),
                    "criteria": [str(c) for c in p.gate.criteria],
                }
                for p in s.phases
            ],
        }
        for s in studies
    ]


def status_rows(studies: Iterable[Study], root: Path) -> list[dict[str, Any]]:
    """What `inscape status` shows: one row for each phase, preset and corpus that has a run, and for each quick phase.

    A corpus that the user named has a ladder of its own; `corpus` holds the data.* words that name it.

    ValueError if `root` is no folder; only the default one need not be there yet.
    """
    if not os.path.isdir(root) and (root != Path("runs") or root.exists()):  # noqa: PTH112 (no name stops it)
        raise ValueError(f"{root} is not a folder; give the folder that the runs are kept in with --out")
    return [
        _status_row(s, p, preset, root, corpus, runs)
        for s in studies
        for p in s.phases
        for preset in p.preset_names
        for corpus, runs in _runs_by_corpus(s, p, preset, root).items()
    ]


def _runs_by_corpus(study: Study, phase: Phase, preset: str, root: Path) -> dict[tuple[str, ...], list[RunDir]]:
    """The runs on each corpus, the declared one first."""
    found: dict[tuple[str, ...], list[RunDir]] = {(): []} if preset == "quick" else {}
    for run in find_runs(root, study.name, phase.code, preset):
        words = run.read_json(RunDir.ENV).get("corpus")
        found.setdefault(tuple(map(str, words)) if isinstance(words, list) else (), []).append(run)
    return dict(sorted(found.items()))


def _status_row(
    study: Study, phase: Phase, preset: str, root: Path, corpus: tuple[str, ...], runs: Sequence[RunDir]
) -> dict[str, Any]:
    state = standing(study, phase, preset, root, corpus)
    return {
        "study": study.name,
        "phase": phase.code,
        "preset": preset,
        "corpus": list(corpus),
        "may_run": preset == "smoke" or is_open(study, phase, preset, root, corpus).open,
        "passed": state.open,
        "missing": list(state.reasons),
        "runs": [
            {
                "path": str(run.path),
                "seed": run.read_json(RunDir.ENV)["seed"],
                "outcome": _outcome(run),
            }
            for run in runs
        ],
    }


def _outcome(run: RunDir) -> str:
    if not run.finished:
        return "unfinished"
    try:
        return str(judge(run).outcome)
    except ValueError:
        return "damaged"


def status_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print `status_rows`; a corpus that the user named stands beside the preset."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for column in ("phase", "preset", "gate", "runs", "what is missing"):
        table.add_column(column, overflow="fold")
    for row in rows:
        gate = "[green]passed[/]" if row["passed"] else "open to run" if row["may_run"] else "[red]shut[/]"
        runs = ", ".join(f"s{r['seed']} {r['outcome']}" for r in row["runs"][-6:]) or "none"
        preset, missing = escape(" ".join((row["preset"], *row["corpus"]))), escape("; ".join(row["missing"]))
        table.add_row(f"{row['study']}.{row['phase']}", preset, gate, runs, missing)
    Console().print(table)
