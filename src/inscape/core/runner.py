"""Runs phases, keeps their gates and says which phase is open.

Rules: only the declared config of a preset counts (an overridden run is kept, and opens nothing); all declared seeds
must pass; a run opens only the gate it was run under, and never one that it was pushed past; `smoke` opens nothing.
Whether a gate is open is worked out anew from metrics.json, so editing verdict.json fools nobody.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from inscape.core.config import differences, fingerprint, from_yaml, to_yaml, with_changes, with_overrides
from inscape.core.environment import environment
from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Gate, Outcome, Verdict
from inscape.core.rundir import FORMAT, RunDir, across_seeds_path, find_runs, write_atomically, write_json_atomically
from inscape.core.study import SMOKE, Context, Phase, Remedy, Study

__all__ = [
    "Request",
    "Standing",
    "is_open",
    "judge",
    "judge_across_seeds",
    "resume",
    "run_phase",
    "run_study",
    "standing",
]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What a user asked for, apart from study and phase."""

    preset: str = "quick"
    seed: int | None = None  # None: every declared seed
    device: str = "auto"
    root: Path = Path("runs")
    overrides: tuple[str, ...] = ()
    despite_gate: str | None = None  # why a shut gate is walked past; recorded, and shown in the report
    remedy: bool = False  # after a FAIL, try the plan's remedies in order


class Standing(NamedTuple):
    """Whether a phase's gate has been passed in a preset, and what is missing where it has not."""

    open: bool
    reasons: tuple[str, ...]
    runs: Mapping[int, RunDir]  # seed -> the run that counts


def judge(run: RunDir, gate: Gate | None = None) -> Verdict:
    """Judge a run's stored metrics by the gate stored with it, or by `gate`. Pure: nothing is written."""
    stored = run.read_json(RunDir.METRICS)
    if stored is None:
        raise ValueError(f"{run.path} has no {RunDir.METRICS}: it has not been measured yet; inscape resume {run.path}")
    if gate is None:
        kept = run.read_json(RunDir.GATE)
        if kept is None:
            raise ValueError(f"{run.path} has no {RunDir.GATE}: nothing to judge by")
        gate = Gate.from_json(kept)
    try:
        metrics = {name: Estimate.from_json(fields) for name, fields in stored.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{run.path / RunDir.METRICS} is damaged ({error}); run the phase again") from None
    return gate.judge(metrics)


def standing(study: Study, phase: Phase, preset: str, root: Path) -> Standing:
    """Has every declared seed of `phase` passed, under today's gate and with one declared config?"""
    if preset == SMOKE:
        return Standing(False, ("smoke runs exercise the code and open nothing",), {})
    latest: dict[str, dict[int, RunDir]] = {}
    for run in find_runs(root, study.name, phase.code, preset):
        if _counts(phase, preset, run):
            config, seed = fingerprint(_config_of(phase, run)), int(run.read_json(RunDir.ENV)["seed"])
            latest.setdefault(config, {})[seed] = run
    best = Standing(False, (f"{phase.code} has no finished {preset} run under today's config and gate",), {})
    for runs in latest.values():
        reasons = [
            f"{phase.code} seed {seed}: {_outcome(runs.get(seed))}"
            for seed in phase.seeds
            if _outcome(runs.get(seed)) != Outcome.PASS
        ]
        if not reasons and phase.across_seeds:
            verdict = judge_across_seeds(phase, runs)
            reasons = [] if verdict.passed else [f"{phase.code} across seeds: {verdict.outcome}"]
        if not reasons:
            return Standing(True, (), runs)
        best = Standing(False, tuple(reasons), runs)
    return best


def is_open(study: Study, phase: Phase, preset: str, root: Path) -> Standing:
    """Whether `phase` may run: every phase it needs has passed in this preset."""
    missing = [s for s in (standing(study, study.phase(code), preset, root) for code in phase.needs) if not s.open]
    return Standing(not missing, tuple(reason for s in missing for reason in s.reasons), {})


def judge_across_seeds(phase: Phase, runs: Mapping[int, RunDir]) -> Verdict:
    """Judge `spread_of_<metric>` (largest minus smallest over the declared seeds) by the phase's across-seeds gate."""
    assert phase.across_seeds is not None
    measured: dict[str, list[float]] = {}
    for seed in phase.seeds:
        for name, fields in ((runs[seed].read_json(RunDir.METRICS) or {}) if seed in runs else {}).items():
            measured.setdefault(name, []).append(Estimate.from_json(fields).value)
    complete = {
        name: values
        for name, values in measured.items()
        if len(values) == len(phase.seeds) and all(map(math.isfinite, values))
    }
    return phase.across_seeds.judge(
        {f"spread_of_{name}": exact(max(v) - min(v), len(v), "seeds") for name, v in complete.items()}
    )


def run_study(
    study: Study, phases: Sequence[Phase], request: Request, say: Say, finished: Callable[[RunDir], None]
) -> list[RunDir]:
    """Run `phases` in order, each with its seeds; a phase whose gate is shut is named and skipped."""
    done: list[RunDir] = []
    for phase in phases:
        _check(study, phase, request)
    for phase in phases:
        gate = is_open(study, phase, request.preset, request.root)
        if not gate.open and request.preset != SMOKE and not request.despite_gate:
            say(f"{study.name}.{phase.code} is shut: {'; '.join(gate.reasons)}. Pass those, or give --despite-gate WHY")
            continue
        seeds = (
            (request.seed,) if request.seed is not None else phase.seeds[:1] if request.preset == SMOKE else phase.seeds
        )
        for seed in seeds:
            done += run_phase(study, phase, request, seed, say, finished)
        after = standing(study, phase, request.preset, request.root)
        if phase.across_seeds and set(after.runs) >= set(phase.seeds):
            verdict = judge_across_seeds(phase, after.runs)
            path = across_seeds_path(request.root, study.name, phase.code, request.preset)
            write_json_atomically(path, {"seeds": list(phase.seeds), **verdict.to_json()})
            say(f"{study.name}.{phase.code} across seeds {', '.join(map(str, phase.seeds))}: {verdict.outcome}")
    return done


def run_phase(
    study: Study, phase: Phase, request: Request, seed: int, say: Say, finished: Callable[[RunDir], None]
) -> list[RunDir]:
    """Run one phase with one seed; with `request.remedy`, again with the plan's remedies until it passes."""
    base = with_overrides(phase.preset(request.preset), request.overrides)
    applied: list[Remedy] = []
    done: list[RunDir] = []
    while True:
        config = _with_remedies(base, applied)
        run = _prepare(study, phase, request, seed, config, base, applied)
        done.append(run)
        say(f"{study.name}.{phase.code} ({phase.name}), preset {request.preset}, seed {seed}: {run.path}")
        verdict = _execute(study, phase, run, config)
        finished(run)
        say(f"{study.name}.{phase.code} seed {seed}: {verdict.outcome}")
        if verdict.passed or not request.remedy:
            return done
        failed = {f.criterion.metric for f in verdict.findings if f.outcome is not Outcome.PASS}
        left = [
            r for r in phase.remedies[phase.remedies.index(applied[-1]) + 1 if applied else 0 :] if failed & set(r.when)
        ]
        if not left:
            say(f"{study.name}.{phase.code} seed {seed}: no remedy is left for {', '.join(sorted(failed))}")
            return done
        applied.append(left[0])
        say(f"remedy: {dict(left[0].change)} because {left[0].why}")


def resume(study: Study, run: RunDir, finished: Callable[[RunDir], None]) -> Verdict:
    """Go on with an interrupted run from its last checkpoint."""
    env = run.read_json(RunDir.ENV)
    phase = study.phase(env["phase"])
    if run.finished:
        raise ValueError(
            f"{run.path} is finished ({judge(run).outcome}); start another with inscape run {study.name}.{phase.code}"
        )
    verdict = _execute(study, phase, run, _config_of(phase, run))
    finished(run)
    return verdict


def _check(study: Study, phase: Phase, request: Request) -> None:
    """Refuse nonsense before anything is written."""
    with_overrides(phase.preset(request.preset), request.overrides)
    if request.seed is not None and not 0 <= request.seed < 2**31:
        raise ValueError(f"--seed {request.seed}: wanted 0 to {2**31 - 1}")
    if request.despite_gate is not None and not request.despite_gate.strip():
        raise ValueError("--despite-gate wants a reason in words: it is kept with the run and shown in its report")


def _prepare(
    study: Study, phase: Phase, request: Request, seed: int, config: Any, base: Any, applied: Sequence[Remedy]
) -> RunDir:
    """Make the run directory and write down what was asked, before anything is measured."""
    inputs = {code: str(_input(study, code, request, seed).path.resolve()) for code in phase.needs}
    run = RunDir.create(request.root, study.name, phase.code, request.preset, fingerprint(config), seed)
    write_atomically(run.path / RunDir.CONFIG, to_yaml(config))
    run.write_json(RunDir.GATE, phase.gate.to_json())
    declared = phase.preset(request.preset)
    asked = {
        "format": FORMAT,
        "study": study.name,
        "phase": phase.code,
        "preset": request.preset,
        "seed": seed,
        "device": request.device,
        "overrides": differences(declared, base),
        "remedies": [phase.remedies.index(r) for r in applied],
        "despite_gate": None if is_open(study, phase, request.preset, request.root).open else request.despite_gate,
        "inputs": inputs,
        "about": _about(study, phase),
    }
    run.write_json(RunDir.ENV, asked | environment())
    return run


def _about(study: Study, phase: Phase) -> dict[str, Any]:
    """The words of the study, kept with the run: a report must be readable without the code that made it."""
    return {
        "study_title": study.title,
        "hypothesis": study.hypothesis,
        "phases": {p.code: p.name for p in study.phases},
        "phase_name": phase.name,
        "question": phase.question,
        "seeds": list(phase.seeds),
        "failure_means": phase.failure_means,
        "remedies": [remedy.why for remedy in phase.remedies],
    }


def _execute(study: Study, phase: Phase, run: RunDir, config: Any) -> Verdict:
    """Measure, then judge; verdict.json is written last."""
    env = run.read_json(RunDir.ENV)
    inputs = {code: RunDir.open(path) for code, path in env["inputs"].items()}
    with run.exclusive():
        metrics = phase.run(Context(config, env["seed"], env["device"], env["preset"], run, inputs))
        run.write_json(RunDir.METRICS, {name: estimate.to_json() for name, estimate in metrics.items()})
        verdict = judge(run)
        run.write_json(RunDir.VERDICT, verdict.to_json())
    return verdict


def _input(study: Study, code: str, request: Request, seed: int) -> RunDir:
    """The run of a needed phase to build on: the same seed's if it counts, else any finished one of this preset."""
    runs = standing(study, study.phase(code), request.preset, request.root).runs
    if runs:
        return runs.get(seed, next(iter(runs.values())))
    finished = [run for run in find_runs(request.root, study.name, code, request.preset) if run.finished]
    if not finished:
        raise ValueError(
            f"{study.name}.{code} has no finished {request.preset} run to build on; "
            f"first: inscape run {study.name}.{code} --preset {request.preset}"
        )
    return finished[-1]


def _counts(phase: Phase, preset: str, run: RunDir) -> bool:
    """Finished, with a declared config, under today's gate, and not pushed past a shut gate."""
    if not run.finished:
        return False
    try:
        env, kept = run.read_json(RunDir.ENV), run.read_json(RunDir.GATE)
        declared = _with_remedies(phase.preset(preset), [phase.remedies[i] for i in env["remedies"]])
        return not env["despite_gate"] and kept == phase.gate.to_json() and _config_of(phase, run) == declared
    except (ValueError, IndexError):
        return False  # written by other code: it stays readable, and opens nothing


def _config_of(phase: Phase, run: RunDir) -> Any:
    return from_yaml(phase.config, run.path / RunDir.CONFIG)


def _with_remedies(config: Any, remedies: Sequence[Remedy]) -> Any:
    for remedy in remedies:
        config = with_changes(config, remedy.change)
    return config


def _outcome(run: RunDir | None) -> str:
    return "not run" if run is None else str(judge(run).outcome)
