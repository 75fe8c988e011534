"""Which gates are open: worked out anew from what lies on the disk, each time it is asked.

Rules: only the declared config of a preset counts, perhaps with remedies (an overridden run is kept, and opens
nothing); all declared seeds must pass, under one config; a run counts only under the declaration (gate, seeds,
across-seeds gate) it was run under, and never if it was pushed past a shut gate; it counts only as long as the runs
that it was built on are there and count; `smoke` opens nothing; a shut gate shuts everything that builds on it. One
seed may climb alone as long as no other has failed (decision 0009). `data.*` overrides say what is asked about, not
how: the runs on one corpus are a ladder of their own, beside the declared one, and of a file they count as long as it
holds what it held (`core.corpus`). Outcomes are worked out from metrics.json and gate.json; where verdict.json says
anything else, one of them was edited, and the run does not count.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from inscape.core.config import differences, fingerprint_of_file, from_yaml, with_overrides
from inscape.core.corpus import CONTENTS, contents_of
from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Gate, Outcome, Verdict, fingerprint_of_gate
from inscape.core.program import program
from inscape.core.rundir import RunDir, find_runs, is_run_named
from inscape.core.study import SMOKE, Phase, Study

__all__ = [
    "Standing",
    "config_of",
    "declaration",
    "flaw_of",
    "gate_of_run",
    "is_open",
    "judge",
    "judge_across_seeds",
    "nothing_to_mend",
    "remedies_that_helped",
    "standing",
    "with_remedies",
]


class Standing(NamedTuple):
    """Whether a phase's gate has been passed in a preset, and what is missing where it has not."""

    open: bool
    reasons: tuple[str, ...]
    runs: Mapping[int, RunDir]  # seed -> the run that counts


def judge(run: RunDir, gate: Gate | None = None) -> Verdict:
    """Judge a run's stored metrics by the gate stored with it, or by `gate`. Pure: nothing is written."""
    metrics = _metrics(run)
    return (gate or gate_of_run(run)).judge(metrics)


def gate_of_run(run: RunDir) -> Gate:
    """The gate stored with a run; ValueError if it is missing, damaged, or not the one that the run began with."""
    kept, env, path = run.read_json(RunDir.GATE), run.read_json(RunDir.ENV), run.path / RunDir.GATE
    if kept is None:
        raise ValueError(f"{path} is missing, so there is nothing to judge by; restore it, or {_again(run)}")
    begun_with = env.get("gate_fingerprint") if isinstance(env, dict) else None
    if begun_with is not None and begun_with != fingerprint_of_gate(kept):
        raise ValueError(f"{path} was edited since the run began; undo that, or {_again(run)}")
    try:
        return Gate.from_json(kept)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); restore it, or {_again(run)}") from None


def standing(
    study: Study, phase: Phase, preset: str, root: Path, corpus: tuple[str, ...] = (), seed: int | None = None
) -> Standing:
    """Has every declared seed of `phase` passed on this corpus, under today's declaration and with one config?

    seed: ask for one declared seed alone. It must have passed, and of the others each that was run.
    """
    return _standing(_Ladder(study, preset, root, corpus), phase, seed)


def is_open(
    study: Study, phase: Phase, preset: str, root: Path, corpus: tuple[str, ...] = (), seed: int | None = None
) -> Standing:
    """Whether `phase` may run: every phase it needs has passed in this preset, and so have those that they need.

    A phase that mends another may run once that one has failed with every seed, and has nothing to do if it passed.
    seed: whether it may run with this one; see `standing`.
    """
    reasons = _shut_by(_Ladder(study, preset, root, corpus), phase, seed)
    return Standing(not reasons, tuple(dict.fromkeys(reasons)), {})


def nothing_to_mend(study: Study, phase: Phase, preset: str, root: Path, corpus: tuple[str, ...] = ()) -> str:
    """Why a phase that mends another has nothing to do; empty if it has, or mends none."""
    return _nothing_to_mend(_Ladder(study, preset, root, corpus), phase)


def remedies_that_helped(
    study: Study, phase: Phase, preset: str, root: Path, corpus: tuple[str, ...] = ()
) -> tuple[int, ...]:
    """The remedies with which a declared seed of `phase` has passed and counts, by the latest such run; none: empty."""
    ladder = _Ladder(study, preset, root, corpus)
    found: tuple[int, ...] = ()
    for run in ladder.runs(phase.on(corpus)):
        env, outcome, flaw = ladder.look(phase.on(corpus), run)
        if env is not None and not flaw and outcome == Outcome.PASS and env["remedies"]:
            found = tuple(env["remedies"])
    return found


def flaw_of(study: Study, phase: Phase, run: RunDir, root: Path) -> str:
    """Why a finished run under today's declaration does not count all the same; empty if it does, or is not declared.

    root: where the runs are that it was built on.
    """
    env: Any = run.read_json(RunDir.ENV)
    corpus = tuple(env["corpus"])
    return _Ladder(study, env["preset"], root, corpus).look(phase.on(corpus), run).flaw


class _Look(NamedTuple):
    """What one look at a run has shown."""

    env: dict[str, Any] | None  # None: it is no finished run under today's declaration
    outcome: str
    flaw: str  # why it does not count all the same; empty if it counts


class _Ladder:
    """The runs of a study on one corpus in one preset, each looked at once however often it is asked for."""

    def __init__(self, study: Study, preset: str, root: Path, corpus: tuple[str, ...]) -> None:
        self.study, self.preset, self.root, self.corpus = study, preset, root, corpus
        self._runs: dict[str, list[RunDir]] = {}
        self._declared: dict[str, tuple[Any, Any]] = {}
        self._looks: dict[Path, _Look] = {}
        self._contents: dict[str, str] | None = None

    def phase(self, code: str) -> Phase:
        return self.study.phase(code).on(self.corpus)

    def runs(self, phase: Phase) -> list[RunDir]:
        if phase.code not in self._runs:
            self._runs[phase.code] = list(find_runs(self.root, self.study.name, phase.code, self.preset))
        return self._runs[phase.code]

    def look(self, phase: Phase, run: RunDir) -> _Look:
        if run.path not in self._looks:
            self._looks[run.path] = _Look(None, "", "")  # should its record name itself as what it was built on
            self._looks[run.path] = self._look(phase, run)
        return self._looks[run.path]

    def _look(self, phase: Phase, run: RunDir) -> _Look:
        try:
            env, gate = run.read_json(RunDir.ENV), gate_of_run(run)
            config = self._config_if_declared(phase, run, env, gate) if run.finished else None
            if config is None:
                return _Look(None, "", "")
            verdict = judge(run, gate)
            flaw = self._flaw_of_contents(env) or self._flaw_of_inputs(phase, env, phase.builds_on(config))
            if verdict.to_json() != run.read_json(RunDir.VERDICT):
                flaw = f"does not count: its {RunDir.VERDICT} is not what {RunDir.METRICS} and {RunDir.GATE} give"
            return _Look(env, str(verdict.outcome), flaw)
        except (ValueError, IndexError, TypeError, KeyError, OverflowError, AttributeError):
            return _Look(None, "", "")  # damaged, or written by other code: it opens nothing

    def _config_if_declared(self, phase: Phase, run: RunDir, env: dict[str, Any], gate: Gate) -> Any:
        """A run's config if that and the seed are declared, under today's declaration, and it was not pushed."""
        if phase.code not in self._declared:
            preset_config = phase.preset(self.preset, self.corpus)
            self._declared[phase.code] = preset_config, with_overrides(preset_config, self.corpus)
        preset_config, declared = self._declared[phase.code]
        wanted = with_remedies(phase, declared, env["remedies"])
        fits = (
            tuple(env["corpus"]) == self.corpus
            and env["overrides"] == differences(preset_config, declared)
            and not env["despite_gate"]
            and env["preset"] == self.preset
            and env["seed"] in phase.seeds
            and declaration(phase).items() <= env.items()
            and gate == phase.gate_of(wanted)
            and env.get("fingerprint") == fingerprint_of_file(run.path / RunDir.CONFIG)
            and config_of(phase, run) == wanted
        )
        return wanted if fits else None

    def _flaw_of_contents(self, env: dict[str, Any]) -> str:
        """Why a run does not count for what it read; empty if that is as it was, or no longer here to be compared."""
        if self._contents is None:  # a folder is walked once, and not for each run
            self._contents = contents_of(self.corpus)
        changed = [word for word, now in self._contents.items() if env.get(CONTENTS, {}).get(word) != now]
        return f"read other contents than are there now: {', '.join(changed)}" if changed else ""

    def _flaw_of_inputs(self, phase: Phase, env: dict[str, Any], builds_on: Iterable[str]) -> str:
        """Why a run does not count for what it was built on; empty if all of that is here and counts."""
        inputs = env["inputs"]
        for code in dict.fromkeys((*builds_on, *inputs)):
            if code not in inputs:
                return f"was built on no run of {code}"
            needed, name = self.phase(code), Path(inputs[code]).name
            found = next((r for r in self.runs(needed) if is_run_named(name, r.path, r.read_json(RunDir.ENV))), None)
            if found is None:
                return f"was built on a run of {code} that is not here"
            there = self.look(needed, found)
            if there.env is None or there.flaw:
                return f"was built on a run of {code} that does not count (any more)"
            if there.env.get(CONTENTS, {}) != env.get(CONTENTS, {}):
                return f"was built on a run of {code} that read other contents of {', '.join(self.corpus)}"
            if code in phase.needs and there.outcome != Outcome.PASS:
                return f"was built on a run of {code} that has not passed: {there.outcome}"
            if env["seed"] in needed.seeds and there.env["seed"] != env["seed"]:
                return f"was built on seed {there.env['seed']} of {code}"
        return ""


def _standing(ladder: _Ladder, phase: Phase, seed: int | None = None) -> Standing:
    if ladder.preset == SMOKE:
        return Standing(False, ("smoke runs exercise the code and open nothing",), {})
    phase = phase.on(ladder.corpus)
    latest: dict[str, dict[int, RunDir]] = {}  # by config, and by what the files of a corpus held
    flaws: dict[str, dict[int, str]] = {}
    for run in ladder.runs(phase):
        env, _, flaw = ladder.look(phase, run)
        if env is not None:
            kind = f"{env['fingerprint']} {sorted(env.get(CONTENTS, {}).items())}"
            of_config = latest.setdefault(kind, {})
            if flaw:
                flaws.setdefault(kind, {})[env["seed"]] = flaw
            else:
                of_config[env["seed"]] = run
    best = Standing(False, (f"{phase.code} has no finished {ladder.preset} run under today's config and gate",), {})
    for config, runs in latest.items():
        asked = [s for s in phase.seeds if seed not in phase.seeds or s == seed or s in runs]
        outcomes = {s: ladder.look(phase, runs[s]).outcome if s in runs else "not run" for s in asked}
        reasons = [
            f"{phase.code} seed {s} {flaws[config][s]}"
            if s not in runs and s in flaws.get(config, {})
            else f"{phase.code} seed {s}: {outcome}"
            for s, outcome in outcomes.items()
            if outcome != Outcome.PASS
        ]
        if not reasons and phase.across_seeds and len(asked) == len(phase.seeds):
            verdict = judge_across_seeds(phase, runs)
            reasons = [] if verdict.passed else [f"{phase.code} across seeds: {verdict.outcome}"]
        if not reasons:
            return Standing(True, (), runs)
        best = Standing(False, tuple(reasons), runs)
    return best


def _shut_by(ladder: _Ladder, phase: Phase, seed: int | None) -> list[str]:
    """Why a phase may not run; empty if it may."""
    reasons = _unmended(ladder, phase) if phase.mends and ladder.preset != SMOKE else []
    for needed in map(ladder.study.phase, phase.needs):
        reasons += _shut_by(ladder, needed, seed)
        reasons += _standing(ladder, needed, seed).reasons
    return reasons


def _nothing_to_mend(ladder: _Ladder, phase: Phase) -> str:
    if phase.mends and _standing(ladder, ladder.study.phase(phase.mends)).open:
        return f"{phase.mends} has passed, so there is nothing to mend"
    if phase.mends_only:
        broken = ladder.phase(phase.mends)
        runs = _standing(ladder, broken).runs
        reached = (_reached(run, metric) for run in runs.values() for metric in phase.mends_only)
        if set(runs) >= set(broken.seeds) and all(reached):
            return f"{phase.mends} has reached its {' and '.join(phase.mends_only)}, so there is nothing to mend"
    return ""


def _reached(run: RunDir, metric: str) -> bool:
    """Whether a run whose instrument is whole passed every criterion of this metric."""
    verdict = judge(run)
    of_metric = [f.outcome for f in verdict.findings if f.criterion.metric == metric and f.criterion.role == "claim"]
    return verdict.outcome is not Outcome.INVALID and set(of_metric) == {Outcome.PASS}


def _unmended(ladder: _Ladder, phase: Phase) -> list[str]:
    """Why a phase that mends another may not run yet, or never: a broken instrument is no failure to answer."""
    if moot := _nothing_to_mend(ladder, phase):
        return [moot]
    broken = ladder.phase(phase.mends)
    tried = _standing(ladder, broken).runs
    outcomes = {s: ladder.look(broken, tried[s]).outcome if s in tried else "not run" for s in broken.seeds}
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


def config_of(phase: Phase, run: RunDir) -> Any:
    return from_yaml(phase.config, run.path / RunDir.CONFIG)


def with_remedies(phase: Phase, config: Any, remedies: Iterable[int]) -> Any:
    for index in remedies:
        config = phase.remedies[index].applied_to(config)
    return config


def _metrics(run: RunDir) -> dict[str, Estimate]:
    stored, path = run.read_json(RunDir.METRICS), run.path / RunDir.METRICS
    if stored is None and run.finished:
        raise ValueError(f"{path} is missing, though the run is finished; restore it, or {_again(run)}")
    if stored is None:
        raise ValueError(f"{path} is missing: it has not been measured yet; {program()} resume {run.path}")
    try:
        return {name: Estimate.from_json(fields) for name, fields in stored.items()}
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is damaged ({error}); restore it, or {_again(run)}") from None


def _again(run: RunDir) -> str:
    """What to do where a run's files are beyond repair."""
    env = run.read_json(RunDir.ENV)
    if not isinstance(env, dict) or not {"study", "phase", "preset", "seed"} <= env.keys():
        return "run the phase again"
    words = f"{program()} run {env['study']}.{env['phase']} --preset {env['preset']} --seed {env['seed']}"
    return f"run the phase again: {words}"
