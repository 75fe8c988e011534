"""Finished runs as committed evidence: what a verdict can be replayed from, and nothing of the machine it was made on.

    results/<study>/<phase>/<preset>/seed-<n>/   config, gate, env, metrics, verdict, figures, the study's own report
    results/<study>/<phase>/<preset>/across_seeds.json

A run whose config was changed by hand, or that was pushed past a gate, is kept apart from the declared one: its preset
folder carries the changes in its name.
"""

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from inscape.core.corpus import CONTENTS
from inscape.core.program import program
from inscape.core.rundir import RunDir, across_seeds_path, find_runs, write_atomically, write_json_atomically
from inscape.report.record import Record, hashes_in, read_record
from inscape.report.run_page import CAPTIONS, KINDS

__all__ = ["collect"]

# What a study writes for readers beside its figures, in the run or a folder of its own: numbers, no corpus.
REPORTS = ("report.txt", "decision.json", "tables.csv", "frontier.csv", "ledger.json")
# An absolute path, with a drive or a ~ before it or not; its last part is all that is kept.
FOLDERS = re.compile(r"(?:[^/\\:\s]*[/\\])+")  # of any path: where a corpus lay says nothing
ABSOLUTE_PATH = re.compile(  # also behind KIND:, as lyra:/folder, but not behind https:
    r"(?:(?<![\w.:/\\~])|(?<=[\w-]:)(?![/\\]{2}))(?:[A-Za-z]:|~)?[/\\](?:[^/\\\s'\"]+[/\\])*([^/\\\s'\"]+)"
)


def collect(run: RunDir, results: Path, *, figures: bool = True) -> Path:
    """Copy a finished run's evidence into `results` and return where it lies; an older copy of that seed is replaced.

    Checkpoints and the log stay behind. figures: False leaves the figures behind too, which may show sentences of a
    corpus that cannot be passed on. ValueError if the run is not finished, is damaged, or is a smoke run; OSError if
    the copy cannot be written, and the older one is then as it was.
    """
    record = read_record(run.path, log=False)
    if not record.finished:
        raise ValueError(f"{run.path} is not finished, so it is no evidence yet; {program()} resume {run.path}")
    if record.preset == "smoke":
        raise ValueError(f"{run.path} is a smoke run, which is evidence of nothing; collect a run of another preset")
    if record.problems:
        raise ValueError(f"{run.path} cannot be collected: {'; '.join(record.problems)}")
    kept_across = across_seeds_path(results, record.study, record.phase, _preset_folder(record))
    place = kept_across.parent
    place.mkdir(parents=True, exist_ok=True)
    target = place / f"seed-{record.seed}"
    draft = Path(tempfile.mkdtemp(prefix=".collect.", dir=place))
    older = draft.with_name(f"{draft.name}.older")
    try:
        _copy(record, draft, figures, _runs_alike(record, run.root))
        if target.exists():
            target.replace(older)
        draft.replace(target)
    except BaseException:
        if older.exists() and not target.exists():
            older.replace(target)
        shutil.rmtree(draft, ignore_errors=True)
        raise
    if run.root is not None and record.declared and not record.corpus:
        across = across_seeds_path(run.root, record.study, record.phase, record.preset)
        if across.is_file():
            shutil.copyfile(across, kept_across)
    if older.exists():
        shutil.rmtree(older)
    return target


def _runs_alike(record: Record, root: Path | None) -> int:
    """How many finished runs of this seed, config and gate lie there, itself among them: each was another chance."""
    found = find_runs(root, record.study, record.phase, record.preset) if root else ()
    envs = [env for run in found if run.finished and isinstance(env := run.read_json(RunDir.ENV), dict)]
    asked = ("seed", "fingerprint", "gate_fingerprint", "overrides", CONTENTS)
    return max(1, sum(all(env.get(key) == record.env.get(key) for key in asked) for env in envs))


def _copy(record: Record, draft: Path, with_figures: bool, runs: int) -> None:
    draft.chmod(0o755)
    for name in (RunDir.GATE, RunDir.METRICS, RunDir.VERDICT):
        shutil.copyfile(record.path / name, draft / name)
    write_atomically(draft / RunDir.CONFIG, _without_paths(record.config))
    write_json_atomically(draft / RunDir.ENV, _env(record) | {"finished_runs": runs})
    for file in sorted(file for name in REPORTS for at in (name, f"*/{name}") for file in record.path.glob(at)):
        copy = draft / file.relative_to(record.path)
        copy.parent.mkdir(exist_ok=True)
        write_atomically(copy, _without_paths(file.read_text(encoding="utf-8")))
    figures = record.path / "figures"
    for file in sorted(figures.glob("*")) if with_figures and figures.is_dir() else ():
        if file.suffix.lower() in KINDS or file.name == CAPTIONS:
            (draft / "figures").mkdir(exist_ok=True)
            shutil.copyfile(file, draft / "figures" / file.name)


def _env(record: Record) -> dict[str, Any]:
    """env.json without paths and without what names the machine; with the start time and hashes the copy would lose."""
    env = dict(record.env)
    inputs = env.get("inputs")
    env["inputs"] = {c: "/".join(Path(p).parts[-4:]) for c, p in inputs.items()} if isinstance(inputs, dict) else {}
    env["platform"] = f"{str(env.get('platform', '')).split('-')[0]} {env.get('processor', '')}".strip()
    env["hashes"] = hashes_in(record.path, {})
    if record.started:
        env["started"] = f"{record.started:%Y%m%dT%H%M%S}"
    return _without_paths(env)


def _without_paths(content: Any) -> Any:
    if isinstance(content, dict):
        return {_without_paths(key): _without_paths(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_without_paths(value) for value in content]
    if isinstance(content, str):
        return ABSOLUTE_PATH.sub(r"\1", content.replace(str(Path.home()), "~"))
    return content


def _preset_folder(record: Record) -> str:
    changes = [
        f"{key}={FOLDERS.sub('', value) if isinstance(value, str) else json.dumps(value)}"
        for key, value in record.overrides.items()
    ]
    words = [record.preset, *changes, *(["despite-gate"] if record.pushed else [])]
    return "+".join(re.sub(r"[^\w.=-]+", "_", str(_without_paths(word)))[:40] for word in words)
