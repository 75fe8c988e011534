"""Run directories with known contents, made the way the runner makes them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Criterion, Gate
from inscape.core.rundir import FORMAT, RunDir, across_seeds_path, write_json_atomically

ATTACK = "<script>alert('x')</script>"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PLAN = Criterion("accuracy", at_least=0.9, why="the plan's own line")
OURS = Criterion("text_dependence", at_least=0.1, partial=0.05, source="calibrated", why="V may ignore its text")
CONTROL = Criterion("shuffled_accuracy", at_most=0.2, role="control", source="calibrated", why="chance stays chance")
GATE = Gate([PLAN, OURS, CONTROL])
PASSING = {
    "accuracy": Estimate(0.95, 0.93, 0.97, 300, "scenes"),
    "text_dependence": exact(0.4, 300, "scenes"),
    "shuffled_accuracy": exact(0.1, 300, "scenes"),
    "words_per_minute": exact(6500.0, 1, "runs"),
}
OUTCOMES = {  # what must be measured for each outcome
    "PASS": {},
    "PARTIAL": {"text_dependence": exact(0.07, 300, "scenes")},
    "FAIL": {"accuracy": exact(0.5, 300, "scenes")},
    "INCONCLUSIVE": {"accuracy": Estimate(0.9, 0.85, 0.95, 300, "scenes")},
    "INVALID": {"shuffled_accuracy": exact(0.9, 300, "scenes")},
}


def about(**changes: Any) -> dict[str, Any]:
    """The words of a study that the runner keeps with a run."""
    return {
        "study_title": "Seeing words",
        "hypothesis": "Words have a picture.",
        "phases": {"P0": "Corpus", "P1": "Pictures", "P2": "Meaning"},
        "phase_name": "Pictures",
        "question": "Do words have a picture?",
        "seeds": [0],
        "failure_means": "They may have none.",
        "remedies": ["look longer", "look closer"],
    } | changes


def planted_run(
    root: Path,
    *,
    study: str = "visual",
    phase: str = "P1",
    preset: str = "quick",
    seed: int = 0,
    metrics: dict[str, Estimate] | None = None,
    words: dict[str, Any] | None = None,
    **env: Any,
) -> RunDir:
    """A finished run; `metrics` replace some of the passing ones, `env` some of env.json, `words` some of about."""
    run = RunDir.create(root, study, phase, preset, "0123abcd", seed)
    asked = {
        "format": FORMAT,
        "study": study,
        "phase": phase,
        "preset": preset,
        "seed": seed,
        "device": "cpu",
        "overrides": {},
        "remedies": [],
        "despite_gate": None,
        "inputs": {},
        "about": about(**(words or {})),
        "versions": {"python": "3.11.9", "torch": None},
        "git_commit": "c0ffee",
        "git_dirty": False,
        "platform": "Linux-6.1-somehost-x86_64",
        "processor": "x86_64",
        "cores": 2,
        "command": ["inscape", "run", f"{study}.{phase}"],
    }
    (run.path / run.CONFIG).write_text("steps: 10\n")
    run.write_json(run.GATE, GATE.to_json())
    run.write_json(run.ENV, asked | env)
    for step in (1, 2, 3):
        run.append_log({"kind": "train", "step": step, "loss": 1 / step, "terms": {"tv": 0.5}, "seconds": 60.0 * step})
    run.append_log({"kind": "eval", "step": 3, "alpha": 2.0})
    (run.figures / "b.png").write_bytes(PIXEL)
    (run.figures / "a.png").write_bytes(PIXEL)
    (run.figures / "captions.json").write_text(json.dumps({"b.png": "The second letter first."}))
    found = PASSING | (metrics or {})
    run.write_json(run.METRICS, {name: estimate.to_json() for name, estimate in found.items()})
    run.write_json(run.VERDICT, GATE.judge(found).to_json())
    return run


def planted_across_seeds(root: Path, spread: float, *runs: RunDir, fingerprint: str = "") -> None:
    """across_seeds.json beside the runs of visual.P1 quick, as the runner writes it; without `runs`, as it once did."""
    gate = Gate([Criterion("spread_of_accuracy", at_most=0.05)])
    verdict = gate.judge({"spread_of_accuracy": exact(spread, 2, "seeds")})
    path = across_seeds_path(root, "visual", "P1", "quick")
    named = {str(run.read_json(RunDir.ENV)["seed"]): run.path.name for run in runs}
    of = {"fingerprint": fingerprint, "runs": named} if runs else {}
    write_json_atomically(path, {"seeds": [0, 1], **of, **verdict.to_json()})
