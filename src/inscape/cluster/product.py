"""From the words of a sweep to its jobs: every combination of the values, with every seed.

All that can be refused is refused here, in one line, before anything is written: the config of each job is built and
checked as `inscape run` would, and what the phase builds on is looked for.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from inscape.cluster.jobs import Job, job_id
from inscape.core.config import fingerprint, with_overrides
from inscape.core.corpus import CONTENTS, contents_of, corpus_of
from inscape.core.program import program
from inscape.core.rundir import RunDir, find_runs
from inscape.core.study import SMOKE, Phase, Study

__all__ = ["MOST_JOBS", "default_folder", "make_jobs", "read_axes", "read_seeds", "split_values"]

MOST_JOBS = 10_000
LARGEST_SEED = 2**31 - 1
CLOSES = {"]": "[", "}": "{", ")": "("}


def split_values(text: str) -> tuple[str, ...]:
    """The values of `a,b,c`: commas inside brackets or quotes separate nothing, so [1,2] is one value.

    A quote counts where a value, or an entry of a list, begins; elsewhere it is an apostrophe. Values keep theirs.
    """
    values, start, opened, quote, fresh, skip = [], 0, [], "", True, False
    for i, sign in enumerate(text):
        if skip:
            skip = False
        elif quote:
            skip = sign == "\\" and quote == '"'
            if sign == quote:
                quote, fresh = "", sign == "'"  # 'it''s': doubled, it goes on
        elif fresh and sign in "'\"":
            quote, fresh = sign, False
        elif sign in "[{(":
            opened.append(sign)
            fresh = True
        elif sign in CLOSES:
            if not opened or opened.pop() != CLOSES[sign]:
                raise ValueError(f"brackets in {text!r} do not match")
        elif sign == "," and not opened:
            values.append(text[start:i].strip())
            start, fresh = i + 1, True
        else:
            fresh = (bool(opened) and sign in ",:") or (fresh and sign.isspace())
    if opened or quote:
        raise ValueError(f"{'a quote' if quote else 'a bracket'} in {text!r} is not closed")
    values.append(text[start:].strip())
    return tuple(values)


def read_axes(words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Of `key=a,b,c` words: key -> its values. ValueError on a word that is none, an empty value, a key given twice."""
    axes: dict[str, tuple[str, ...]] = {}
    for word in words:
        key, equals, text = word.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ValueError(f"{word!r} is not key=a,b,c")
        if key in axes:
            raise ValueError(f"{key} is given twice; write its values in one word: {key}=a,b,c")
        values = split_values(text)
        if len(values) > 1 and "" in values:
            raise ValueError(f"{word!r} has an empty value between its commas; write '' if it is meant")
        axes[key] = values
    return axes


def read_seeds(text: str) -> tuple[int, ...]:
    """Of `0,1,2`: the seeds."""
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if not (word.isascii() and word.isdigit() and int(word) <= LARGEST_SEED):
            raise ValueError(f"--seeds {text}: {word!r} is no seed; wanted numbers of 0 to {LARGEST_SEED}, as 0,1,2")
    seeds = tuple(map(int, words))
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds {text}: a seed is given twice")
    return seeds


def make_jobs(
    study: Study, phase: Phase, preset: str, axes: Mapping[str, Sequence[str]], seeds: Sequence[int], out: Path
) -> tuple[Job, ...]:
    """All combinations of the values with all seeds, in the order given; without seeds, with those `inscape run` takes.

    ValueError if one of them could not be run: the first that cannot is named by what is wrong with it.
    """
    _refuse_folder(out)
    count = math.prod(map(len, axes.values())) * max(len(seeds), 1)
    if count > MOST_JOBS:
        raise ValueError(f"this sweep would be {count} jobs; allowed: {MOST_JOBS}")
    combinations = [
        tuple(f"{key}={value}" for key, value in zip(axes, values, strict=True))
        for values in itertools.product(*axes.values())
    ]
    declared = cache(phase.preset)
    configs: dict[str, tuple[str, ...]] = {}
    named: dict[tuple[str, ...], str] = {}
    built_on: dict[tuple[str, ...], tuple[str, ...]] = {}
    for overrides in combinations:
        corpus = corpus_of(overrides)
        config = with_overrides(declared(preset, corpus), overrides)
        named[overrides] = fingerprint(config)
        twin = configs.setdefault(named[overrides], overrides)
        if twin is not overrides:
            raise ValueError(f"{' '.join(twin)} and {' '.join(overrides)} are the same config; give each value once")
        _refuse(phase, config)
        built_on[corpus] = max(built_on.get(corpus, ()), phase.builds_on(config), key=len)
    for corpus, codes in built_on.items():
        _refuse_without_inputs(study, phase, codes, preset, out, corpus)
    wanted = [(overrides, seed) for overrides in combinations for seed in seeds or _seeds(phase, preset, overrides)]
    if len(wanted) > MOST_JOBS:
        raise ValueError(f"this sweep would be {len(wanted)} jobs; allowed: {MOST_JOBS}")
    place, cwd = str(Path(out).absolute()), str(Path.cwd())
    return tuple(
        Job(i, study.name, phase.code, preset, overrides, seed, place, cwd, f"jobs/{i}/done.json", named[overrides])
        for i, (overrides, seed) in ((job_id(number), each) for number, each in enumerate(wanted))
    )


def default_folder(out: Path, jobs: Sequence[Job]) -> Path:
    """<out>/sweeps/<study>.<phase>-<fingerprint of the request>: the same words name the same folder."""
    asked = [(job.study, job.phase, job.preset, job.overrides, job.seed) for job in jobs]
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:8]
    return Path(out) / "sweeps" / f"{jobs[0].study}.{jobs[0].phase}-{digest}"


def _seeds(phase: Phase, preset: str, overrides: Sequence[str]) -> tuple[int, ...]:
    seeds = phase.on(corpus_of(overrides)).seeds
    return seeds[:1] if preset == SMOKE else seeds


def _refuse(phase: Phase, config: Any) -> None:
    if phase.check:
        phase.check(config)
    reason = phase.skip(config) if phase.skip else ""
    if reason:
        raise ValueError(f"{phase.code} would be skipped: {reason}")


def _refuse_folder(out: Path) -> None:
    """The folder of the runs may be yet to be made, but not where a file lies."""
    out = Path(out).absolute()
    try:
        there = next(folder for folder in (out, *out.parents) if folder.exists())
    except OSError as error:
        raise ValueError(
            f"runs cannot be kept under {out}: {error.strerror}; choose another folder with --out"
        ) from None
    if not there.is_dir():
        raise ValueError(f"runs cannot be kept under {out}: {there} is a file; choose another folder with --out")


def _refuse_without_inputs(
    study: Study, phase: Phase, codes: Sequence[str], preset: str, out: Path, corpus: tuple[str, ...]
) -> None:
    """A sweep walks past shut gates, but a phase cannot build on a run that is not there, or that read another text."""
    now = contents_of(corpus)
    for code in codes:
        runs = find_runs(out, study.name, study.phase(code).code, preset)
        envs = [run.read_json(RunDir.ENV) for run in runs if run.finished]
        read = [env.get(CONTENTS, {}) for env in envs if env.get("corpus") == list(corpus)]
        if now not in read:
            missing = f"no finished {preset} run under {out}"
            if read and now:
                missing += f" that read what {', '.join(now)} holds now"
            words = [f"--preset {preset}", *([] if out == Path("runs") else [f"--out {out}"]), *corpus]
            raise ValueError(
                f"{study.name}.{code} has {missing} for {phase.code} to build on; first: "
                f"{program()} run {study.name}.{code} {' '.join(words)}"
            )
