"""Runs phases, keeps their gates and says which phase is open.

Rules: only the declared config of a preset counts, perhaps with remedies (an overridden run is kept, and opens
nothing); all declared seeds must pass, under one config; a run counts only under the declaration (gate, seeds,
across-seeds gate) it was run under, and never if it was pushed past a shut gate; `smoke` opens nothing; a shut gate
shuts everything that builds on it.
Whether a gate is open is worked out anew from metrics.json, so editing verdict.json fools nobody.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from inscape.core.config import (
    differences,
    fingerprint,
    fingerprint_of_file,
    from_yaml,
    to_yaml,
    with_changes,
    with_overrides,
)
from inscape.core.environment import environment
from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Gate, Outcome, Verdict
from inscape.core.rundir import FORMAT, RunDir, across_seeds_path, find_runs, write_atomically, write_json_atomically
from inscape.core.study import SMOKE, Context, Phase, Study

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
    metrics = _metrics(run)
    if gate is None:
        kept = run.read_json(RunDir.GATE)
        if kept is None:
            raise ValueError(f"{run.path} has no {RunDir.GATE}: nothing to judge by")
        gate = Gate.from_json(kept)
    return gate.judge(metrics)


def standing(study: Study, phase: Phase, preset: str, root: Path) -> Standing:
    """Has every declared seed of `phase` passed, under today's declaration and with one config?"""
    if preset == SMOKE:
        return Standing(False, ("smoke runs exercise the code and open nothing",), {})
    latest: dict[str, dict[int, RunDir]] = {}
    for run in find_runs(root, study.name, phase.code, preset):
        if _counts(phase, preset, run):
            env = run.read_json(RunDir.ENV)
            latest.setdefault(env["fingerprint"], {})[env["seed"]] = run
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
    """Whether `phase` may run: every phase it needs has passed in this preset, and so have those that they need."""
    reasons: list[str] = []
    for needed in map(study.phase, phase.needs):
        reasons += is_open(study, needed, preset, root).reasons
        reasons += standing(study, needed, preset, root).reasons
    return Standing(not reasons, tuple(dict.fromkeys(reasons)), {})


def judge_across_seeds(phase: Phase, runs: Mapping[int, RunDir]) -> Verdict:
    """Judge `spread_of_<metric>` (largest minus smallest over the declared seeds) by the phase's across-seeds gate."""
    assert phase.across_seeds is not None
    measured: dict[str, list[float]] = {}
    for seed in phase.seeds:
        for name, estimate in (_metrics(runs[seed]) if seed in runs else {}).items():
            measured.setdefault(name, []).append(estimate.value)
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
        _check(phase, request)
    for phase in phases:
        gate = is_open(study, phase, request.preset, request.root)
        if not gate.open and request.preset != SMOKE and not request.despite_gate:
            say(f"{study.name}.{phase.code} is shut: {'; '.join(gate.reasons)}. Pass those, or give --despite-gate WHY")
            continue
        done += run_phase(study, phase, request, say, finished)
        verdict = _record_across_seeds(study, phase, request.preset, request.root)
        if verdict is not None:
            say(f"{study.name}.{phase.code} across seeds {', '.join(map(str, phase.seeds))}: {verdict.outcome}")
    return done


def run_phase(
    study: Study, phase: Phase, request: Request, say: Say, finished: Callable[[RunDir], None]
) -> list[RunDir]:
    """Run a phase with each of its seeds; with `request.remedy`, again with the plan's remedies until all of them pass.

    A gate opens only if every seed passes under one config, so a remedy that one seed needs is applied to all.
    """
    done: list[RunDir] = []
    remedies: list[int] = []
    while True:
        missed: set[str] = set()
        attempt: dict[int, RunDir] = {}
        for seed in _seeds(phase, request):
            run = attempt[seed] = _prepare(study, phase, request, seed, remedies)
            say(f"{study.name}.{phase.code} ({phase.name}), preset {request.preset}, seed {seed}: {run.path}")
            verdict = _first_execution(study, phase, run)
            done.append(run)
            finished(run)
            say(f"{study.name}.{phase.code} seed {seed}: {verdict.outcome}")
            missed |= _missed(verdict)
            if missed and request.remedy:
                break
        if not missed and phase.across_seeds and set(attempt) >= set(phase.seeds):
            missed = _missed(judge_across_seeds(phase, attempt))
        if not missed or not request.remedy:
            return done
        left = [i for i, r in enumerate(phase.remedies) if i not in remedies and missed & set(r.when)]
        if not left:
            say(f"{study.name}.{phase.code}: no remedy is left for {', '.join(sorted(missed))}")
            return done
        remedies.append(left[0])
        remedy = phase.remedies[left[0]]
        say(f"remedy: {', '.join(f'{k}={v}' for k, v in remedy.change.items())} because {remedy.why}")


def resume(study: Study, run: RunDir, finished: Callable[[RunDir], None]) -> Verdict:
    """Go on with an interrupted run from its last checkpoint."""
    env = run.read_json(RunDir.ENV)
    phase = study.phase(env["phase"])
    if env.get("fingerprint") != fingerprint_of_file(run.path / RunDir.CONFIG):
        raise ValueError(
            f"{run.path / RunDir.CONFIG} was edited since the run began, so its parts would not fit together; "
            f"undo that, or start another with inscape run {study.name}.{phase.code} key=value"
        )
    verdict = _execute(study, phase, run)
    finished(run)
    _record_across_seeds(study, phase, env["preset"], run.path.resolve().parents[3])
    return verdict


def _check(phase: Phase, request: Request) -> None:
    """Refuse nonsense before anything is written."""
    base = with_overrides(phase.preset(request.preset), request.overrides)
    for remedy in phase.remedies if request.remedy else ():
        with_changes(base, remedy.change)
    if request.seed is not None and not 0 <= request.seed < 2**31:
        raise ValueError(f"--seed {request.seed}: wanted 0 to {2**31 - 1}")
    if request.despite_gate is not None and not request.despite_gate.strip():
        raise ValueError("--despite-gate wants a reason in words: it is kept with the run and shown in its report")


def _seeds(phase: Phase, request: Request) -> tuple[int, ...]:
    if request.seed is not None:
        return (request.seed,)
    return phase.seeds[:1] if request.preset == SMOKE else phase.seeds


def _missed(verdict: Verdict) -> set[str]:
    return {f.criterion.metric for f in verdict.findings if f.outcome is not Outcome.PASS}


def _prepare(study: Study, phase: Phase, request: Request, seed: int, remedies: Sequence[int]) -> RunDir:
    """Make the run directory and write down what was asked, before anything is measured."""
    declared = phase.preset(request.preset)
    base = with_overrides(declared, request.overrides)
    config = _with_remedies(phase, base, remedies)
    gate = is_open(study, phase, request.preset, request.root)
    if not gate.open and request.preset != SMOKE and not request.despite_gate:
        raise ValueError(f"{study.name}.{phase.code} is shut: {'; '.join(gate.reasons)}")
    asked = {
        "format": FORMAT,
        "study": study.name,
        "phase": phase.code,
        "preset": request.preset,
        "seed": seed,
        "device": request.device,
        "fingerprint": fingerprint(config),
        "overrides": differences(declared, base),
        "remedies": list(remedies),
        "despite_gate": None if gate.open else request.despite_gate,
        "inputs": {code: str(_input(study, code, request, seed).path.resolve()) for code in phase.needs},
        "about": _about(study, phase),
        **_declared(phase),
    }
    run = RunDir.create(request.root, study.name, phase.code, request.preset, asked["fingerprint"], seed)
    write_atomically(run.path / RunDir.CONFIG, to_yaml(config))
    run.write_json(RunDir.GATE, phase.gate.to_json())
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


def _first_execution(study: Study, phase: Phase, run: RunDir) -> Verdict:
    """`_execute`, where a user's mistake that shows only now (a missing file, say) leaves no run behind."""
    try:
        return _execute(study, phase, run)
    except ValueError:
        run.discard_if_nothing_was_measured()
        raise


def _execute(study: Study, phase: Phase, run: RunDir) -> Verdict:
    """Measure, then judge; verdict.json is written last."""
    env, config = run.read_json(RunDir.ENV), _config_of(phase, run)
    inputs = {code: RunDir.open(path) for code, path in env["inputs"].items()}
    with run.exclusive():
        if run.finished:
            raise ValueError(f"{run.path} is finished; start another with inscape run {study.name}.{phase.code}")
        metrics = phase.run(Context(config, env["seed"], env["device"], env["preset"], run, inputs))
        run.write_json(RunDir.METRICS, {name: estimate.to_json() for name, estimate in metrics.items()})
        verdict = judge(run)
        run.write_json(RunDir.VERDICT, verdict.to_json())
    return verdict


def _record_across_seeds(study: Study, phase: Phase, preset: str, root: Path) -> Verdict | None:
    """Write what the across-seeds gate says of the runs that count, once every declared seed has one."""
    runs = standing(study, phase, preset, root).runs
    if not phase.across_seeds or not set(runs) >= set(phase.seeds):
        return None
    verdict = judge_across_seeds(phase, runs)
    path = across_seeds_path(root, study.name, phase.code, preset)
    write_json_atomically(path, {"seeds": list(phase.seeds), **verdict.to_json()})
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


def _declared(phase: Phase) -> dict[str, Any]:
    """What of a phase's declaration no other file of a run keeps."""
    across = phase.across_seeds
    return {"declared_seeds": list(phase.seeds), "across_seeds": across.to_json() if across else None}


def _counts(phase: Phase, preset: str, run: RunDir) -> bool:
    """Finished, readable, with declared config and seed, under today's declaration, not pushed past a shut gate."""
    if not run.finished:
        return False
    try:
        judge(run)
        env = run.read_json(RunDir.ENV)
        return (
            not env["overrides"]
            and not env["despite_gate"]
            and env["preset"] == preset
            and env["seed"] in phase.seeds
            and _declared(phase).items() <= env.items()
            and run.read_json(RunDir.GATE) == phase.gate.to_json()
            and env.get("fingerprint") == fingerprint_of_file(run.path / RunDir.CONFIG)
            and _config_of(phase, run) == _with_remedies(phase, phase.preset(preset), env["remedies"])
        )
    except (ValueError, IndexError, TypeError):
        return False  # damaged, or written by other code: it opens nothing


def _config_of(phase: Phase, run: RunDir) -> Any:
    return from_yaml(phase.config, run.path / RunDir.CONFIG)


def _with_remedies(phase: Phase, config: Any, remedies: Iterable[int]) -> Any:
    for index in remedies:
        config = with_changes(config, phase.remedies[index].change)
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
