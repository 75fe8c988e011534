"""Runs of A0, A1 and A2 that hold planted latents instead of speech, and A3 and A4 on them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from inscape.core.estimate import Estimate
from inscape.core.gate import Outcome
from inscape.core.rundir import RunDir
from inscape.core.study import Context
from inscape.data.latent_store import FORMAT, PLAN, Shard, StoredUtterance, save_shard
from inscape.data.planted_latents import PlantedSize
from inscape.data.speech.splits import Splits, write_splits
from inscape.stats.context_windows import EVAL, HELD_OUT, TRAIN, Utterance
from inscape.studies.audio_structure import conditioning, frames, structure

RATE = 12.5
SIZE = PlantedSize(train_speakers=12, eval_speakers=8, bits=4, frames=90, walks=8)
SCHEMES = conditioning.Config(
    lags=(1, 4), mean_clusters=32, components=5, score_clusters=32, restarts=2, min_cluster=50
)
CONFIG = structure.Config(resamples=200, centred=False)
Made = tuple[dict[str, RunDir], dict[str, Estimate]]  # the runs of A0 to A4, and A4's metrics


def context(config: object, run: Path, **inputs: RunDir) -> Context:
    run.mkdir(parents=True, exist_ok=True)
    return Context(config, seed=0, device="cpu", preset="smoke", run=RunDir(run), inputs=inputs)


def planted_runs(utterances: Iterable[Utterance], root: Path, hold_out: int = 10, window: int = 8) -> dict[str, RunDir]:
    """Code -> run. Every `hold_out`-th utterance of the train speakers is held out; 0: none."""
    said = [u._replace(split=HELD_OUT) if u.split == TRAIN and hold_out and i % hold_out == hold_out - 1 else u
            for i, u in enumerate(utterances)]  # fmt: skip
    names = [f"{u.speaker_id}-{i:05d}" for i, u in enumerate(said)]
    runs = {code: RunDir(root / code) for code in ("A0", "A1", "A2")}
    for run in runs.values():
        run.path.mkdir(parents=True)
    _write_corpus(runs["A0"], said, names)
    folder = runs["A1"].path / "latents"
    folder.mkdir()
    RunDir(folder).write_json(PLAN, {"format": FORMAT, "shards": 1})
    rows = [StoredUtterance(name, u.speaker_id, len(u.latent_TD), len(u.latent_TD) / RATE, name)
            for name, u in zip(names, said, strict=True)]  # fmt: skip
    shard = Shard("planted", "planted", RATE, said[0].latent_TD.shape[1], rows, [])
    save_shard(folder, 0, shard, [u.latent_TD for u in said], [u.energy_T for u in said])
    runs["A1"].write_json("latents_of.json", {"corpus_sha256": "planted", "codec": "planted", "sha256": "planted"})
    asked = frames.Config(window=window, min_sec=0)
    frames.run(context(asked, runs["A2"].path, A0=runs["A0"], A1=runs["A1"]))
    return runs


def _write_corpus(run: RunDir, said: list[Utterance], names: list[str]) -> None:
    def of(*splits: str) -> tuple[str, ...]:
        return tuple(sorted(name for name, u in zip(names, said, strict=True) if u.split in splits))

    def speakers(*splits: str) -> tuple[str, ...]:
        return tuple(sorted({u.speaker_id for u in said if u.split in splits}))

    rows = [[name, u.speaker_id, name, len(u.latent_TD) / RATE, name] for name, u in zip(names, said, strict=True)]
    run.write_json("utterances.json", sorted(rows))
    run.write_json("corpus.json", {"sha256": "planted", "corpus": "planted", "hours": 1.0})
    fit = speakers(TRAIN, HELD_OUT)
    write_splits(Splits(fit, speakers(EVAL), of(TRAIN), of(HELD_OUT), of(EVAL)), run.path / "splits")


def sounds(
    place_UD: np.ndarray, speakers: list[str], splits: list[str], loudness_U: np.ndarray | None = None, frames: int = 60
) -> list[Utterance]:
    """Utterances that each stay at one place, with a jitter of 0.1; sorted by speaker."""
    rng = np.random.default_rng(0)
    found = []
    for i in np.argsort(np.array(speakers), kind="stable"):
        latent_TD = place_UD[i] + 0.1 * rng.standard_normal((frames, place_UD.shape[1]))
        energy_T = np.abs(rng.standard_normal(frames)) if loudness_U is None else np.full(frames, loudness_U[i])
        found.append(Utterance(speakers[i], latent_TD.astype(np.float32), energy_T.astype(np.float32), splits[i]))
    return found


def structure_of(
    runs: dict[str, RunDir], root: Path, config: structure.Config = CONFIG, *, drawn: bool = False
) -> Made:
    """A4 on these runs; its plots take longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        if not drawn:
            patch.setattr(structure, "draw_structure", lambda *_: None)
        metrics = dict(structure.run(context(config, root, **runs)))
    return runs | {"A4": RunDir(root)}, metrics


def through(
    utterances: Iterable[Utterance],
    root: Path,
    schemes: conditioning.Config = SCHEMES,
    config: structure.Config = CONFIG,
    *,
    drawn: bool = False,
) -> Made:
    """A2, A3 and A4 on these latents."""
    runs = planted_runs(utterances, root)
    conditioning.run(context(schemes, root / "A3", **runs))
    return structure_of(runs | {"A3": RunDir(root / "A3")}, root / "A4", config, drawn=drawn)


def missed(metrics: dict[str, Estimate]) -> set[str]:
    found = structure.GATE.judge(metrics).findings
    return {f.criterion.metric for f in found if f.outcome is not Outcome.PASS}


def outcome(metrics: dict[str, Estimate]) -> Outcome:
    return structure.GATE.judge(metrics).outcome
