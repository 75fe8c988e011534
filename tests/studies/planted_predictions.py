"""Runs of A0, A1 and A2 whose latents are planted trajectories, one a speaker, for the phases that predict them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inscape.core.estimate import Estimate
from inscape.core.gate import Gate, Outcome
from inscape.core.rundir import RunDir, write_json_atomically
from inscape.core.study import Context
from inscape.data.latent_store import FORMAT, PLAN, Shard, StoredUtterance, save_shard
from inscape.data.speech.corpus import Utterance
from inscape.data.speech.splits import split_speakers, write_splits

EVAL = 8  # speakers that things are tested on
RATE_HZ = 50.0


def planted_inputs(
    root: Path, trajectories: Sequence[np.ndarray], *, eval_speakers: int = EVAL, sha256: str = "planted"
) -> dict[str, RunDir]:
    """Finished runs of the first three phases; the last speakers in the shuffled order are the eval ones.

    sha256: what A1 calls its latents.
    """
    runs = {code: RunDir(root / code) for code in ("A0", "A1", "A2")}
    names = [f"s{i:03d}" for i in range(len(trajectories))]
    rows = [
        (f"{name}/u", name, f"{name}.wav", len(x) / RATE_HZ, name) for name, x in zip(names, trajectories, strict=True)
    ]
    utterances = [Utterance(row[0], row[1], Path(row[2])) for row in rows]
    write_json_atomically(runs["A0"].path / "corpus.json", {"sha256": "planted"})
    write_json_atomically(runs["A0"].path / "utterances.json", rows)
    train = len(trajectories) - eval_speakers
    splits = split_speakers(utterances, train, eval_speakers, seed=0, heldout_share=0.1)
    write_splits(splits, runs["A0"].path / "splits")
    save_latents(runs["A1"].path, trajectories, sha256)
    rule: dict[str, object] = {
        "latents_sha256": sha256,
        "window": 8,
        "max_lag": 4,
        "min_sec": 0.0,
        "energy_median": 1.0,
        "rows": {},
        "high_energy": {},
    }
    write_json_atomically(runs["A2"].path / "frames.json", rule)
    return runs


def save_latents(run: Path, trajectories: Sequence[np.ndarray], sha256: str = "planted") -> None:
    """The store of a run of A1."""
    folder = run / "latents"
    write_json_atomically(folder / PLAN, {"format": FORMAT, "shards": 1})
    stored = [
        StoredUtterance(f"s{i:03d}/u", f"s{i:03d}", len(x), len(x) / RATE_HZ, f"s{i:03d}.wav")
        for i, x in enumerate(trajectories)
    ]
    shard = Shard("planted", "planted", RATE_HZ, trajectories[0].shape[1], stored, [])
    save_shard(folder, 0, shard, trajectories, [np.ones(len(x), np.float32) for x in trajectories])
    of = {"corpus_sha256": "planted", "codec": "planted", "sha256": sha256}
    write_json_atomically(run / "latents_of.json", of)


def context(config: object, run: Path, inputs: dict[str, RunDir]) -> Context:
    run.mkdir(parents=True, exist_ok=True)
    return Context(config, seed=0, device="cpu", preset="smoke", run=RunDir(run), inputs=inputs)


def judged(gate: Gate, metrics: dict[str, Estimate]) -> dict[str, Outcome]:
    """The outcome of each metric and of the `gate`; of a metric with two criteria the one that is not passed."""
    verdict = gate.judge(metrics)
    found: dict[str, Outcome] = {}
    for finding in verdict.findings:
        if found.get(finding.criterion.metric, Outcome.PASS) is Outcome.PASS:
            found[finding.criterion.metric] = finding.outcome
    return found | {"gate": verdict.outcome}
