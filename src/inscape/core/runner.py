"""Runs phases with their seeds and remedies, and keeps what they measured. Which phase may run: see `core.standing`."""

import dis
import re
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from inscape.core.config import differences, fingerprint, fingerprint_of_file, to_yaml, with_overrides
from inscape.core.corpus import CONTENTS, CORPUS, changed_contents, contents_of, corpus_of
from inscape.core.environment import environment
from inscape.core.estimate import NotFinite
from inscape.core.gate import Outcome, Verdict, fingerprint_of_gate
from inscape.core.program import program
from inscape.core.rundir import (
    FORMAT,
    RunDir,
    across_seeds_path,
    find_runs,
    run_name,
    write_json_atomically,
)
from inscape.core.standing import (
    Standing,
    config_of,
    declaration,
    gate_of_run,
    is_open,
    judge,
    judge_across_seeds,
    nothing_to_mend,
    remedies_that_helped,
    standing,
    with_remedies,
)
from inscape.core.study import SMOKE, Context, Phase, Study

__all__ = ["MeasurementFailed", "Request", "record_across_seeds", "resume", "run_phase", "run_study"]

Say = Callable[[str], None]

ELSEWHERE = re.compile(r'File "([^"]+)", line \d+, in .*\n +(.*)')  # a frame of a traceback that is told in words


class MeasurementFailed(RuntimeError):
    """A phase broke, or measured what is no number: a fault of the code or of what it trained, not of the input."""


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

    @property
    def corpus(self) -> tuple[str, ...]:
        """The overrides that say what is trained on; they have a ladder of their own."""
        return corpus_of(self.overrides)


def run_study(
    study: Study, phases: Sequence[Phase], request: Request, say: Say, finished: Callable[[RunDir], None]
) -> list[RunDir]:
    """Run `phases` in order, each with its seeds; a phase whose gate is shut is named and skipped."""
    done: list[RunDir] = []
    phases = [phase.on(request.corpus) for phase in phases]
    for phase in phases:
        _check(phase, request)
    for phase in phases:
        skipped = phase.skip(_asked_config(phase, request)) if phase.skip else ""
        if skipped:
            say(f"{study.name}.{phase.code} is skipped: {skipped}")
            continue
        moot = nothing_to_mend(study, phase, request.preset, request.root, request.corpus)
        if moot and not request.despite_gate:
            say(f"{study.name}.{phase.code} is skipped: {moot}")
            continue
        gate = is_open(study, phase, request.preset, request.root, request.corpus, request.seed)
        if not gate.open and request.preset != SMOKE and not request.despite_gate:
            say(f"{study.name}.{phase.code} is shut: {'; '.join(gate.reasons)}. Pass those, or give --despite-gate WHY")
            continue
        done += run_phase(study, phase, request, say, finished)
        verdict = record_across_seeds(study, phase, request.preset, request.root, request.corpus)
        if verdict is not None:
            say(f"{study.name}.{phase.code} across seeds {', '.join(map(str, phase.seeds))}: {verdict.outcome}")
    return done


def run_phase(
    study: Study, phase: Phase, request: Request, say: Say, finished: Callable[[RunDir], None]
) -> list[RunDir]:
    """Run a phase with each of its seeds; with `request.remedy`, again with the plan's remedies until all of them pass.

    A gate opens only if every seed passes under one config, so a remedy that one seed needs is applied to all: where a
    seed has passed with remedies already, the others begin with these.
    """
    done: list[RunDir] = []
    declared = corpus_of(request.overrides) == tuple(sorted(word.strip() for word in request.overrides))
    where = (request.preset, request.root, request.corpus)
    remedies = list(remedies_that_helped(study, phase, *where)) if request.remedy and declared else []
    for i in remedies:
        say(f"remedy from the start, since a seed has passed with it: {phase.remedies[i].why}")
    base = _asked_config(phase, request)
    while True:
        missed: set[str] = set()
        attempt: dict[int, RunDir] = {}
        for seed in _seeds(phase, request):
            run = attempt[seed] = _prepare(study, phase, request, seed, remedies)
            what = f"{study.name}.{phase.code} ({phase.name}), preset {request.preset}, seed {seed}"
            say(f"{what}: {run.path}{_ground(run)}")
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
        now = with_remedies(phase, base, remedies)
        left = [
            i
            for i, r in enumerate(phase.remedies)
            if i not in remedies and missed & set(r.when) and r.applied_to(now) != now  # a preset may have it already
        ]
        if not left:
            say(f"{study.name}.{phase.code}: no remedy is left for {', '.join(sorted(missed))}")
            return done
        remedies.append(left[0])
        remedy = phase.remedies[left[0]]
        changes = remedy.changes(now)
        say(f"remedy: {', '.join(f'{k}={v}' for k, v in changes.items())} because {remedy.why}")


def resume(study: Study, run: RunDir, finished: Callable[[RunDir], None]) -> Verdict:
    """Go on with an interrupted run from its last checkpoint."""
    env = run.read_json(RunDir.ENV)
    phase = study.phase(env["phase"])
    if env.get("fingerprint") != fingerprint_of_file(run.path / RunDir.CONFIG):
        raise ValueError(
            f"{run.path / RunDir.CONFIG} was edited since the run began, so its parts would not fit together; "
            f"undo that, or start another with {program()} run {study.name}.{phase.code} key=value"
        )
    gate_of_run(run)  # refused before anything more is measured
    words, then = env.get("corpus"), env.get(CONTENTS, {})
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"{run.path / RunDir.ENV} is damaged: corpus missing or of a wrong type")
    if changed := [word for word in changed_contents(then, words) if word in then]:
        raise ValueError(
            f"{', '.join(changed)} holds something else than when {run.path} began; put back what it held, or start "
            f"another with {program()} run {study.name}.{phase.code} {' '.join(words)}"
        )
    verdict = _execute(study, phase, run)
    finished(run)
    if run.root is not None:
        record_across_seeds(study, phase, env["preset"], run.root, tuple(words))
    return verdict


def _asked_config(phase: Phase, request: Request) -> Any:
    return with_overrides(phase.preset(request.preset, request.corpus), request.overrides)


def _check(phase: Phase, request: Request) -> None:
    """Refuse nonsense before anything is written."""
    base = _asked_config(phase, request)
    for remedy in phase.remedies if request.remedy else ():
        remedy.applied_to(base)
    if phase.check:
        phase.check(base)
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
    declared = phase.preset(request.preset, request.corpus)
    base = with_overrides(declared, request.overrides)
    config = with_remedies(phase, base, remedies)
    if remedies and phase.check:
        phase.check(config)
    gate = is_open(study, phase, request.preset, request.root, request.corpus, request.seed)
    if not gate.open and request.preset != SMOKE and not request.despite_gate:
        raise ValueError(f"{study.name}.{phase.code} is shut: {'; '.join(gate.reasons)}")
    inputs = {code: _input(study, code, request, seed, gate) for code in phase.builds_on(config)}
    criteria = phase.gate_of(config).to_json()
    asked = {
        "format": FORMAT,
        "study": study.name,
        "phase": phase.code,
        "preset": request.preset,
        "seed": seed,
        "device": request.device,
        "fingerprint": fingerprint(config),
        "gate_fingerprint": fingerprint_of_gate(criteria),
        "overrides": differences(declared, base),
        "corpus": list(request.corpus),
        CONTENTS: contents_of(request.corpus, folders=False),
        "remedies": list(remedies),
        "despite_gate": None if gate.open else request.despite_gate,
        "out": str(request.root),
        "inputs": {code: str(found.path.resolve()) for code, found in inputs.items()},
        "about": _about(study, phase),
        **declaration(phase),
    }
    words, env = to_yaml(config), asked | environment()
    run = RunDir.create(request.root, study.name, phase.code, request.preset, asked["fingerprint"], seed)
    run.write_asked(words, criteria, env)
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
    env, config = run.read_json(RunDir.ENV), config_of(phase, run)
    inputs = {code: _built_on(run, code, path) for code, path in env["inputs"].items()}
    with run.exclusive():
        if run.finished:
            raise ValueError(f"{run.path} is finished; start another with {program()} run {study.name}.{phase.code}")
        try:
            metrics = phase.run(Context(config, env["seed"], env["device"], env["preset"], run, inputs))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted; continue with: {program()} resume {run.path}") from None
        except NotFinite as error:
            raise MeasurementFailed(
                f"{study.name}.{phase.code} seed {env['seed']} failed: {error}; what there is of it is kept: {run.path}"
            ) from error
        except ValueError as error:
            if _refuses(error, phase.run.__module__):
                raise
            raise MeasurementFailed(
                f"{study.name}.{phase.code} seed {env['seed']} failed, by a fault of the code{_place(error)}: {error}; "
                f"what there is of it is kept; to see all: INSCAPE_TRACEBACK=1 {program()} resume {run.path}"
            ) from error
        if folders := {k: v for k, v in contents_of(env.get("corpus", [])).items() if k not in env.get(CONTENTS, {})}:
            run.write_json(RunDir.ENV, env | {CONTENTS: env.get(CONTENTS, {}) | folders})
        run.write_json(RunDir.METRICS, {name: estimate.to_json() for name, estimate in metrics.items()})
        verdict = judge(run)
        run.write_json(RunDir.VERDICT, verdict.to_json())
    return verdict


def _refuses(error: ValueError, study: str) -> bool:
    """Whether a `raise` of this package, or of a study outside it, has made the error: it refuses what the user gave.

    What Python or a library makes of a call of ours, such as shapes that do not fit, is a fault of ours. study: the
    module of the phase, which may be installed where libraries are.
    """
    end = _frames(error)[-1]
    if str(end.tb_frame.f_globals.get("__name__")).startswith("concurrent.futures."):
        last = ELSEWHERE.findall(str(error.__cause__))[-1:]  # of another process only the words arrive
        return any(_is_ours(file, study) and line.startswith("raise ") for file, line in last)
    code = end.tb_frame.f_code
    return dis.opname[code.co_code[end.tb_lasti]] == "RAISE_VARARGS" and _is_ours(code.co_filename, study)


def _is_ours(file: str, study: str) -> bool:
    parts = Path(file).parts
    if installed := [i for i, part in enumerate(parts) if part in ("site-packages", "dist-packages")]:
        return parts[installed[-1] + 1].removesuffix(".py") in ("inscape", study.partition(".")[0])
    return not Path(file).is_relative_to(sysconfig.get_path("stdlib"))


def _frames(error: BaseException) -> list[TracebackType]:
    """The error's traceback, from where it was caught to where it was raised."""
    found, at = [], error.__traceback__
    while at is not None:
        found.append(at)
        at = at.tb_next
    return found


def _place(error: BaseException) -> str:
    """Where in this package the error passed last, in words."""
    package = Path(__file__).parent.parent
    for at in reversed(_frames(error)):
        file = Path(at.tb_frame.f_code.co_filename)
        if file.is_relative_to(package) and file != Path(__file__):
            return f" in {file.relative_to(package.parent)}:{at.tb_lineno}"
    return ""


def _built_on(run: RunDir, code: str, path: str) -> RunDir:
    try:
        return RunDir.open(str(path))
    except ValueError as error:
        raise ValueError(f"{run.path} builds on a run of {code} that cannot be read: {error}") from None


def record_across_seeds(study: Study, phase: Phase, preset: str, root: Path, corpus: tuple[str, ...]) -> Verdict | None:
    """Write what the across-seeds gate says of the runs that count, once every declared seed has one; None until then.

    Of runs on a user's own corpus it is worked out and not written: the file beside the runs is the declared corpus's.
    """
    phase = phase.on(corpus)
    runs = standing(study, phase, preset, root, corpus).runs
    if not phase.across_seeds or not set(runs) >= set(phase.seeds):
        return None
    verdict = judge_across_seeds(phase, runs)
    if corpus:
        return verdict
    about = {
        "seeds": list(phase.seeds),
        "fingerprint": runs[phase.seeds[0]].read_json(RunDir.ENV)["fingerprint"],
        "runs": {str(seed): run_name(runs[seed]) for seed in phase.seeds},
    }
    write_json_atomically(across_seeds_path(root, study.name, phase.code, preset), {**about, **verdict.to_json()})
    return verdict


def _input(study: Study, code: str, request: Request, seed: int, gate: Standing) -> RunDir:
    """The run of a needed phase to build on: where the gate is open the same seed's that counts, else another's.

    Past a shut gate, and in smoke runs, none need count: one of the same seed goes before one under the declared
    config, that before any other finished one of this preset, and of equals the latest is taken.
    """
    runs = standing(study, study.phase(code), request.preset, request.root, request.corpus, request.seed).runs
    if runs and (gate.open or seed in runs):
        return runs.get(seed, next(iter(runs.values())))
    contents = contents_of(request.corpus)
    finished = [
        (run, env)
        for run in find_runs(request.root, study.name, code, request.preset)
        if run.finished
        and (env := run.read_json(RunDir.ENV)).get("corpus") == list(request.corpus)
        and env.get(CONTENTS, {}) == contents
    ]
    if not finished:
        words = [f"--preset {request.preset}", *([] if request.root == Request.root else [f"--out {request.root}"])]
        raise ValueError(
            f"{study.name}.{code} has no finished {request.preset} run to build on; "
            f"first: {program()} run {study.name}.{code} {' '.join((*words, *request.corpus))}"
        )
    return max(reversed(finished), key=lambda found: (found[1]["seed"] == seed, _is_declared(*found, runs)))[0]


def _is_declared(run: RunDir, env: Mapping[str, Any], runs: Mapping[int, RunDir]) -> tuple[bool, bool]:
    """Whether a run counts, and whether its config at least was no one's own and its gate not pushed."""
    own = [key for key in env["overrides"] if not key.startswith(CORPUS)]
    return run.path in {other.path for other in runs.values()}, not own and not env["despite_gate"]


def _ground(run: RunDir) -> str:
    """What a run is built on, in words; empty if it is the first."""
    told = []
    for code, path in run.read_json(RunDir.ENV)["inputs"].items():
        ground = RunDir(Path(path))
        try:
            outcome = str(judge(ground).outcome)
        except ValueError:
            outcome = "damaged"
        told.append(f"{code} seed {ground.read_json(RunDir.ENV)['seed']} ({outcome}): {path}")
    return f"; built on {', '.join(told)}" if told else ""
