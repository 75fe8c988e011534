"""index.html: all runs under one root, by study, phase, preset and corpus, with each metric over time.

A corpus of the user's own has a ladder beside the declared one, as in `core.standing`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from inscape.core.estimate import Estimate
from inscape.core.gate import Finding
from inscape.core.rundir import RunDir, across_seeds_path, write_atomically
from inscape.report.across import AcrossSeeds, read_across_seeds
from inscape.report.curves import Curve, curve
from inscape.report.record import Record, differences_of_seeds, natural_key, read_record, run_folders
from inscape.report.templating import render
from inscape.report.words import OUTCOMES

__all__ = ["write_index"]

SPARK_SIZE = (110, 26)  # pixels
NEWEST_SHOWN = 12  # runs of one ladder; older ones are folded away
KEY_METRICS = 4
PRESETS = ("full", "small", "quick", "smoke")  # the weightiest first; presets of other names follow


class Ladder(NamedTuple):
    """The runs of one preset on one corpus climb together; the declared corpus has no words."""

    preset: str
    corpus: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.preset} on {', '.join(self.corpus)}" if self.corpus else self.preset

    def holds(self, record: Record) -> bool:
        return (record.preset, record.corpus) == self


class Trend(NamedTuple):
    """One metric over the runs of a ladder, oldest to newest."""

    metric: str
    latest: Estimate
    curve: Curve


class LadderView(NamedTuple):
    """The runs of one phase on one ladder, newest first."""

    ladder: Ladder
    runs: list["Row"]
    trends: list[Trend]
    across: AcrossSeeds | None


class Row(NamedTuple):
    """One run in a table."""

    record: Record
    link: str
    plan: str
    calibrated: str
    key: list[Finding]


class Step(NamedTuple):
    """One rung of a study's ladders: of each, the newest declared run of each seed."""

    code: str
    name: str
    standings: list[tuple[Ladder, str, str]]  # ladder, outcome, "seed 0 ✓ · seed 1 ✗"


class PhaseView(NamedTuple):
    """One phase with its ladders."""

    code: str
    name: str
    question: str
    views: list[LadderView]


class StudyView(NamedTuple):
    """One study with its ladder and phases."""

    name: str
    title: str
    hypothesis: str
    ladder: list[Step]
    phases: list[PhaseView]


def write_index(root: Path) -> Path:
    """Write index.html into `root` and return its path. Runs that cannot be read are named in it."""
    root = Path(root)
    records = [read_record(folder, log=False) for folder in run_folders(root)]
    readable = [record for record in records if record.env]
    names = sorted({record.study for record in readable}, key=natural_key)
    page = render(
        "index.html",
        studies=[_study(root, name, [r for r in readable if r.study == name]) for name in names],
        count=len(readable),
        unreadable=[(r.path.relative_to(root).as_posix(), r.problems[0]) for r in records if not r.env],
        newest_shown=NEWEST_SHOWN,
    )
    path = root / "index.html"
    write_atomically(path, page)
    return path


def _study(root: Path, name: str, records: Sequence[Record]) -> StudyView:
    newest = max(records, key=lambda record: str(record.started))
    known = newest.about.get("phases")
    declared = {str(code): str(text) for code, text in known.items()} if isinstance(known, dict) else {}
    codes = list(declared) + sorted({r.phase for r in records} - set(declared), key=natural_key)
    by_phase = {code: [r for r in records if r.phase == code] for code in codes}
    title, hypothesis = str(newest.about.get("study_title") or name), str(newest.about.get("hypothesis") or "")
    ladder = [_step(root, code, declared.get(code, ""), by_phase[code]) for code in codes]
    return StudyView(name, title, hypothesis, ladder, [_phase(root, code, of) for code, of in by_phase.items() if of])


def _step(root: Path, code: str, name: str, records: Sequence[Record]) -> Step:
    standings = []
    for ladder in _ladders(records):
        newest = _newest(records, ladder)
        if not newest:
            continue
        seeds = sorted(newest, key=lambda seed: -1 if seed is None else seed)
        told = " · ".join(f"seed {seed} {OUTCOMES[newest[seed].outcome].sign}" for seed in seeds)
        missing = set(newest[seeds[0]].declared_seeds) - set(seeds)
        worst_first = ("INVALID", "UNREADABLE", "FAIL", "INCONCLUSIVE", "PARTIAL", "UNFINISHED")
        outcomes = {r.outcome for r in newest.values()} | (
            {"UNFINISHED"} if missing and ladder.preset != "smoke" else set()
        )
        for difference in differences_of_seeds(newest.values()):
            outcomes.add("UNFINISHED")
            told += f" · {difference}"
        across = _across_seeds(root, code, records, ladder)
        if across:
            outcomes.add(across.outcome)
            told += f" · across seeds {OUTCOMES[across.outcome].sign}"
        standings.append((ladder, next((o for o in worst_first if o in outcomes), "PASS"), told))
    return Step(code, name, standings)


def _phase(root: Path, code: str, records: Sequence[Record]) -> PhaseView:
    newest = _by_time(records)[-1]
    views = []
    for ladder in _ladders(records):
        of = [r for r in _by_time(records) if ladder.holds(r)]
        across = _across_seeds(root, code, records, ladder)
        views.append(LadderView(ladder, [_row(root, r) for r in reversed(of)], _trends(of), across))
    return PhaseView(code, str(newest.about.get("phase_name") or ""), str(newest.about.get("question") or ""), views)


def _row(root: Path, record: Record) -> Row:
    report = record.path / RunDir.REPORT
    link = (report if report.is_file() else record.path).relative_to(root).as_posix()
    if record.verdict is None or not record.metrics:
        return Row(record, link, "", "", [])
    claims = [f for f in record.verdict.findings if f.criterion.role == "claim"]
    return Row(record, link, record.outcome_of("plan"), record.outcome_of("calibrated"), claims[:KEY_METRICS])


def _trends(records: Sequence[Record]) -> list[Trend]:
    """Each metric over the declared runs; pushed and changed runs answer another question."""
    counted = [r for r in records if r.metrics and (r.declared or r.preset == "smoke")]
    if not counted:
        return []
    judged = [f.criterion.metric for f in counted[-1].verdict.findings] if counted[-1].verdict else []
    trends = []
    for metric in dict.fromkeys([*judged, *counted[-1].metrics]):
        estimates = [r.metrics[metric] for r in counted if metric in r.metrics and r.metrics[metric].measured]
        line = curve(metric, enumerate(e.value for e in estimates), *SPARK_SIZE)
        if line:
            trends.append(Trend(metric, estimates[-1], line))
    return trends


def _ladders(records: Sequence[Record]) -> list[Ladder]:
    """The declared corpus first in each preset."""
    found = {record.preset for record in records}
    presets = [p for p in PRESETS if p in found] + sorted(found - set(PRESETS))
    return sorted({Ladder(r.preset, r.corpus) for r in records}, key=lambda of: (presets.index(of.preset), of.corpus))


def _newest(records: Sequence[Record], ladder: Ladder) -> dict[int | None, Record]:
    """Of each seed the newest run under the declared config."""
    return {r.seed: r for r in _by_time(records) if ladder.holds(r) and (r.declared or r.preset == "smoke")}


def _across_seeds(root: Path, code: str, records: Sequence[Record], ladder: Ladder) -> AcrossSeeds | None:
    if ladder.corpus:  # the file beside the runs is of those on the declared corpus
        return None
    path = across_seeds_path(root, records[0].study, code, ladder.preset)
    return read_across_seeds(path, list(_newest(records, ladder).values()))


def _by_time(records: Sequence[Record]) -> list[Record]:
    return sorted(records, key=lambda r: (r.started.timestamp() if r.started else 0.0, r.path.name))
