"""Which gates are open: worked out anew from what lies on the disk, each time it is asked.

Rules: only the declared config of a preset counts, perhaps with remedies (an overridden run is kept, and opens
nothing); all declared seeds must pass, under one config; a run counts only under the declaration (gate, seeds,
across-seeds gate) it was run under, and never if it was pushed past a shut gate; `smoke` opens nothing; a shut gate
shuts everything that builds on it. One seed may climb alone as long as no other has failed (decision 0009). `data.*`
overrides say what is asked about, not how: the runs on one corpus are a ladder of their own, beside the declared one.
Editing verdict.json fools nobody, for it is never read here.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from inscape.core.config import differences, fingerprint_of_file, from_yaml, with_overrides
from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Gate, Outcome, Verdict
from inscape.core.rundir import RunDir, find_runs
from inscape.core.study import SMOKE, Phase, Study

__all__ = [
    "Standing",
    "config_of",
    "corpus_of",
    "declaration",
    "is_open",
    "judge",
    "judge_across_seeds",
    "nothing_to_mend",
    "standing",
    "with_remedies",
]

CORPUS = "data."  # overrides that begin so name the corpus


def corpus_of(overrides: Sequence[str]) -> tuple[str, ...]:
    """The overrides that name the corpus, in one order."""
    return tuple(sorted(item.strip() for item in overrides if item.strip().startswith(CORPUS)))


class Standing(NamedTuple):
    """Whether a phase's gate has been passed in a preset, and what is missing where it has not."""

    open: bool
    reasons: tuple[str, ...]
    runs: Mapping[int, RunDir]  # seed -> the run that counts


def judge(run: RunDir, gate: Gate | None = None) -> Verdict:
    """Judge a run's stored metrics by the gate stored with it, or by `gate`. Pure: nothing is written."""
    metrics = _metrics(run)
    if gate is None:
        kept = run.read_json(RunDir.GATE)
        if kept is None:
            raise ValueError(f"{run.path} has no {RunDir.GATE}: nothing to judge by")
        gate = Gate.from_json(kept)
    return gate.judge(metrics)


def standing(
    study: Study, phase: Phase, preset: str, root: Path, corpus: tuple[str, ...] = (), seed: int | None = None
) -> Standing:
    """Has every declared seed of `phase` passed on this corpus, under today's declaration and with one config?

    seed: ask for one declared seed alone. It must have passed, and of the others each that was run.
    """
    if preset == SMOKE:
        return Standing(False, ("smoke runs exercise the code and open nothing",), {})
    phase = phase.on(corpus)
    latest: dict[str, dict[int, RunDir]] = {}
    for run in find_runs(root, study.name, phase.code, preset):
        if _counts(phase, preset, run, corpus):
            env = run.read_json(RunDir.ENV)
            latest.setdefault(env["fingerprint"], {})[env["seed"]] = run
    best = Standing(False, (f"{phase.code} has no finished {preset} run under today's config and gate",), {})
    for runs in latest.values():
        asked = [s for s in phase.seeds if seed not in phase.seeds or s == seed or s in runs]
        reasons = [
            f"{phase.code} seed {s}: {_outcome(runs.get(s))}" for s in asked if _outcome(runs.get(s)) != Outcome.PASS
        ]
        if not reasons and phase.across_seeds and len(asked) == len(phase.seeds):
            verdict = judge_across_seeds(phase, runs)
            reasons = [] if verdict.passed else [f"{phase.code} across seeds: {verdict.outcome}"]
        if not reasons:
            return Standing(True, (), runs)
        best = Standing(False, tuple(reasons), runs)
    return best


def is_open(
    study: Study, phase: Phase, preset: str, root: Path, corpus: tuple[str, ...] = (), seed: int | None = None
) -> Standing:
    """Whether `phase` may run: every phase it needs has passed in this preset, and so have those that they need.

    A phase that mends another may run once that one has failed with every seed, and has nothing to do if it passed.
    seed: whether it may run with this one; see `standing`.
    """
    reasons: list[str] = []
    if phase.mends and preset != SMOKE:
        reasons += _unmended(study, phase, preset, root, corpus)
    for needed in map(study.phase, phase.needs):
        reasons += is_open(study, needed, preset, root, corpus, seed).reasons
        reasons += standing(study, needed, preset, root, corpus, seed).reasons
    return Standing(not reasons, tuple(dict.fromkeys(reasons)), {})


def nothing_to_mend(study: Study, phase: Phase, preset: str, root: Path, corpus: tuple[str, ...] = ()) -> str:
    """Why a phase that mends another has nothing to do; empty if it has, or mends none."""
    if phase.mends and standing(study, study.phase(phase.mends), preset, root, corpus).open:
        return f"{phase.mends} has passed, so there is nothing to mend"
    return ""


def _unmended(study: Study, phase: Phase, preset: str, root: Path, corpus: tuple[str, ...]) -> list[str]:
    """Why a phase that mends another may not run yet, or never: a broken instrument is no failure to answer."""
    if moot := nothing_to_mend(study, phase, preset, root, corpus):
        return [moot]
    broken = study.phase(phase.mends).on(corpus)
    tried = standing(study, broken, preset, root, corpus)
    outcomes = {seed: _outcome(tried.runs.get(seed)) for seed in broken.seeds}
    unusable = ("not run", Outcome.INVALID)
    return [f"{broken.code} seed {seed}: {outcome}" for seed, outcome in outcomes.items() if outcome in unusable]


def judge_across_seeds(phase: Phase, runs: Mapping[int, RunDir]) -> Verdict:
    """Judge `spread_of_<metric>` (largest minus smallest over the declared seeds) by the phase's across-seeds gate.

    And by it, once there is a run of every declared seed, what the phase's `over_seeds` makes of their metrics.
    """
    assert phase.across_seeds is not None
    of_seed = {seed: _metrics(runs[seed]) for seed in phase.seeds if seed in runs}
    measured: dict[str, list[float]] = {}
    for metrics in of_seed.values():
        for name, estimate in metrics.items():
            measured.setdefault(name, []).append(estimate.value)
    complete = {
        name: values
        for name, values in measured.items()
        if len(values) == len(phase.seeds) and all(map(math.isfinite, values))
    }
    over = phase.over_seeds(of_seed) if phase.over_seeds and len(of_seed) == len(phase.seeds) else {}
    spreads = {f"spread_of_{name}": exact(max(v) - min(v), len(v), "seeds") for name, v in complete.items()}
    return phase.across_seeds.judge({**over, **spreads})


def declaration(phase: Phase) -> dict[str, Any]:
    """What of a phase's declaration no other file of a run keeps."""
    across = phase.across_seeds
    return {"declared_seeds": list(phase.seeds), "across_seeds": across.to_json() if across else None}


def _counts(phase: Phase, preset: str, run: RunDir, corpus: tuple[str, ...]) -> bool:
    """Finished, readable, with declared config and seed, under today's declaration, not pushed past a shut gate."""
    if not run.finished:
        return False
    try:
        judge(run)
        env = run.read_json(RunDir.ENV)
        preset_config = phase.preset(preset, corpus)
        declared = with_overrides(preset_config, corpus)
        return (
            tuple(env["corpus"]) == corpus
            and env["overrides"] == differences(preset_config, declared)
            and not env["despite_gate"]
            and env["preset"] == preset
            and env["seed"] in phase.seeds
            and declaration(phase).items() <= env.items()
            and Gate.from_json(run.read_json(RunDir.GATE)) == phase.gate_of(declared)
            and env.get("fingerprint") == fingerprint_of_file(run.path / RunDir.CONFIG)
            and config_of(phase, run) == with_remedies(phase, declared, env["remedies"])
        )
    except (ValueError, IndexError, TypeError, KeyError):
        return False  # damaged, or written by other code: it opens nothing


def config_of(phase: Phase, run: RunDir) -> Any:
    return from_yaml(phase.config, run.path / RunDir.CONFIG)


def with_remedies(phase: Phase, config: Any, remedies: Iterable[int]) -> Any:
    for index in remedies:
        config = phase.remedies[index].applied_to(config)
    return config


def _metrics(run: RunDir) -> dict[str, Estimate]:
    stored = run.read_json(RunDir.METRICS)
    if stored is None:
        raise ValueError(f"{run.path} has no {RunDir.METRICS}: it has not been measured yet; inscape resume {run.path}")
    try:
        return {name: Estimate.from_json(fields) for name, fields in stored.items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{run.path / RunDir.METRICS} is damaged ({error}); run the phase again") from None


def _outcome(run: RunDir | None) -> str:
    return "not run" if run is None else str(judge(run).outcome)
