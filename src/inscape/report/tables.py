"""The README's result tables, made from the committed evidence and from nothing else.

Given the studies as they are declared today, a row says where its gate or its config was an earlier one. The README
has a row for each phase and preset, results/README.md beside the evidence every criterion too. A test compares both
with the evidence, so a figure that no file in results/ carries cannot survive.
"""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from inscape.core.gate import Criterion
from inscape.core.rundir import across_seeds_path, write_atomically
from inscape.core.study import Study
from inscape.report.across import AcrossSeeds, read_across_seeds
from inscape.report.record import Record, differences_of_seeds, read_record, relative_link, run_folders
from inscape.report.today import EARLIER, earlier
from inscape.report.words import OUTCOMES, asked, in_words, measured

__all__ = ["result_tables", "update_readme", "with_tables"]

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
MADE_BY = "<!-- Made by `python -m inscape.report results --readme README.md`. Edit results/, not this. -->"


def result_tables(results: Path, link_from: Path, *, criteria: bool = True, studies: Sequence[Study] = ()) -> str:
    """Markdown: a table a study with one row a phase and preset; with `criteria` each one's figure for each seed too.

    Links are relative to the folder `link_from`. studies: as declared today, for what is no longer declared so.
    """
    evidence = [read_record(folder, log=False) for folder in run_folders(results)]
    if not evidence:
        return "No results have been committed yet."
    parts = []
    for _, of_study in groupby(evidence, key=lambda record: record.path.parts[-4]):
        groups = [list(group) for _, group in groupby(of_study, key=lambda record: record.path.parent)]
        newest = groups[-1][-1]
        parts += [f"**{_plain(newest.about.get('study_title') or newest.study)}** (`{newest.study}`)", ""]
        parts += ["| phase | preset | seeds | plan's criteria | calibrated criteria | across seeds | verdict |"]
        parts += ["|---|---|---|---|---|---|---|"]
        parts += [_summary(group, link_from, studies) for group in groups]
        parts += ["", *(line for group in groups for line in _details(group) if criteria)]
    return "\n".join(parts).strip()


def with_tables(text: str, tables: str) -> str:
    """`text` with everything between the markers replaced; ValueError if the markers are not there once, in order."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in before + after:
        raise ValueError(f"the text wants one line {BEGIN} and after it one line {END}: the tables go between them")
    return f"{before}{BEGIN}\n{MADE_BY}\n\n{tables}\n\n{END}{after}"


def update_readme(readme: Path, results: Path, *, write: bool = True, studies: Sequence[Study] = ()) -> bool:
    """Bring the tables in `readme` and in results/README.md up to date; True if one of them was not.

    With write=False nothing is written. ValueError if `readme` cannot be read, or has no place for the tables, or
    `results` is not there or holds other things than evidence: empty tables would replace those of the right folder.
    """
    readme, beside = Path(readme), Path(results) / "README.md"
    if not _is_for_evidence(Path(results)):
        raise ValueError(
            f"{results} holds no committed runs; give the folder that they were collected into, such as results"
        )
    try:
        old = readme.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{readme} cannot be read: {error.strerror}") from None
    home = readme.absolute().parent
    every = f"Every criterion with its figures: [{relative_link(beside, home)}]({relative_link(beside, home)})."
    try:
        new = with_tables(old, f"{every}\n\n{result_tables(results, home, criteria=False, studies=studies)}")
    except ValueError as error:
        raise ValueError(f"{readme}: {error}") from None
    whole = f"# Results\n\n{MADE_BY}\n\n{result_tables(results, Path(results), studies=studies)}\n"
    stale = [(readme, new)] if new != old else []
    if not beside.is_file() or beside.read_text(encoding="utf-8") != whole:
        stale.append((beside, whole))
    for path, text in stale if write else []:
        write_atomically(path, text)
    return bool(stale)


def _is_for_evidence(results: Path) -> bool:
    """Whether a folder holds committed runs, or nothing yet."""
    if not results.is_dir():
        return False
    others = [entry for entry in results.iterdir() if entry.name != "README.md" and not entry.name.startswith(".")]
    return bool(run_folders(results)) or not others


def _summary(group: Sequence[Record], link_from: Path, studies: Sequence[Study]) -> str:
    first = group[0]
    place = first.path.parent
    across = _across_seeds(group)
    cells = (
        f"[{first.study}.{first.phase}]({relative_link(place, link_from)}) {_plain(first.about.get('phase_name', ''))}",
        _plain(", ".join(place.name.split("+"))),
        ", ".join(str(record.seed) for record in group) + (f" (of {_seeds_of(first)})" if _missing(group) else ""),
        _by_seed(group, [record.outcome_of("plan") for record in group]),
        _by_seed(group, [record.outcome_of("calibrated") for record in group]),
        _shown(across.outcome) + (f" ({across.note})" if across.note else "") if across else "",
        _by_seed(group, [record.outcome for record in group])
        + _of_different_kinds(group)
        + _to_run(group)
        + _of_several_runs(group)
        + _of_uncommitted_code(group)
        + _of_earlier_days(group, studies),
    )
    return f"| {' | '.join(cells)} |"


def _missing(group: Sequence[Record]) -> list[int]:
    """Declared seeds that nothing was committed of; none of a config that was changed by hand: it opens no gate."""
    declared = group[0].declared_seeds if group[0].declared else []
    return [seed for seed in declared if seed not in {record.seed for record in group}]


def _seeds_of(record: Record) -> str:
    return ", ".join(map(str, record.declared_seeds))


def _of_different_kinds(group: Sequence[Record]) -> str:
    return "".join(f"; {difference}" for difference in differences_of_seeds(group))


def _of_several_runs(group: Sequence[Record]) -> str:
    """The same seed, config and gate run again is a second chance, by what rounding does to a training."""
    counts = [record.env.get("finished_runs", 1) for record in group]
    several = sorted({count for count in counts if isinstance(count, int) and count > 1})
    return "".join(_for_seeds(f"the last of {n} runs", group, [count == n for count in counts]) for n in several)


def _of_uncommitted_code(group: Sequence[Record]) -> str:
    """Code that no commit holds cannot be checked out again."""
    return _for_seeds("uncommitted changes", group, [bool(record.env.get("git_dirty")) for record in group])


def _of_earlier_days(group: Sequence[Record], studies: Sequence[Study]) -> str:
    """A verdict by a gate, or of a config, that is not today's opens nothing, nor does what was built on one."""
    of_each = [earlier(record, studies, record.path.parents[3]) for record in group]
    return "".join(_for_seeds(words, group, [each == words for each in of_each]) for words in EARLIER)


def _for_seeds(words: str, group: Sequence[Record], holds: Sequence[bool]) -> str:
    """The words, with the seeds that they hold for unless those are all."""
    seeds = [str(record.seed) for record, held in zip(group, holds, strict=True) if held]
    some = f" (seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)})" if len(seeds) < len(group) else ""
    return f"; {words}{some}" if seeds else ""


def _to_run(group: Sequence[Record]) -> str:
    """All declared seeds must pass, so of fewer the verdict is not in yet."""
    missing = _missing(group)
    return f"; not in yet: seed{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))}" if missing else ""


def _details(group: Sequence[Record]) -> list[str]:
    first = group[0]
    preset = ", ".join(first.path.parent.name.split("+"))
    title = f"{first.study}.{first.phase} {preset}: every criterion"
    lines = [f"<details><summary>{_plain(title)}</summary>", ""]
    if first.about.get("question"):
        lines += [_plain(first.about["question"]), ""]
    lines += [f"| criterion | source | wanted | {' | '.join(f'seed {record.seed}' for record in group)} |"]
    lines += ["|---" * (3 + len(group)) + "|"]
    criteria = dict.fromkeys(f.criterion for r in group if r.verdict for f in r.verdict.findings)
    lines += [_criterion(criterion, group) for criterion in criteria]
    lines += _across(_across_seeds(group), len(group))
    flaws = dict.fromkeys(f"seed {r.seed}: {problem}" for r in group for problem in r.problems)
    return [*lines, "", *(f"* {_plain(flaw)}" for flaw in flaws), *([""] if flaws else []), "</details>", ""]


def _criterion(criterion: Criterion, group: Sequence[Record]) -> str:
    source = "control" if criterion.role == "control" else criterion.source
    cells = [_plain(in_words(criterion.metric)), source, asked(criterion)]
    for record in group:
        findings = record.verdict.findings if record.verdict else ()
        found = next((f for f in findings if f.criterion == criterion), None)
        cells.append(f"{measured(found.estimate)} {OUTCOMES[found.outcome].sign}" if found else "not judged")
    return f"| {' | '.join(cells)} |"


def _across(across: AcrossSeeds | None, seeds: int) -> list[str]:
    rows = across.rows if across else []
    return [
        f"| {_plain(text)} | across seeds | | {figure} {OUTCOMES[outcome].sign} |{' |' * (seeds - 1)}"
        for text, figure, outcome in rows
    ]


def _across_seeds(group: Sequence[Record]) -> AcrossSeeds | None:
    place = group[0].path.parent
    results, (study, phase, preset) = place.absolute().parents[2], place.absolute().parts[-3:]
    return read_across_seeds(across_seeds_path(results, study, phase, preset), group)


def _by_seed(group: Sequence[Record], outcomes: Sequence[str]) -> str:
    """One word where all seeds agree, else one for each."""
    if len(set(outcomes)) == 1:
        return _shown(outcomes[0])
    return ", ".join(f"seed {r.seed} {_shown(outcome)}" for r, outcome in zip(group, outcomes, strict=True))


def _shown(outcome: str) -> str:
    return f"{OUTCOMES[outcome].sign} {OUTCOMES[outcome].word}" if outcome else ""


def _plain(text: object) -> str:
    """Text that cannot break out of a table cell or become HTML."""
    words = " ".join(str(text).split())
    return words.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
