"""A4's gate where frames are few: an honest control scatters, and many clusters explain whatever there is."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from planted_structure import SCHEMES, context, missed, outcome, planted_runs, structure_of, through

from inscape.core.estimate import Estimate
from inscape.core.gate import Outcome
from inscape.core.rundir import RunDir
from inscape.data.planted_latents import PlantedSize, no_rule, shared_rule
from inscape.metrics import structure_passes
from inscape.stats.context_windows import EVAL, TRAIN, Utterance
from inscape.studies.audio_structure import conditioning, structure
from inscape.studies.audio_structure.structure_rows import is_control

FEW = PlantedSize(train_speakers=2, eval_speakers=2, bits=2, frames=20, walks=1)
SMALL = dataclasses.replace(SCHEMES, mean_clusters=4, components=2, score_clusters=4, min_cluster=1)


# --- the control ----------------------------------------------------------------------------------------------------


def test_an_honest_control_of_few_frames_is_no_fault_of_the_instrument(tmp_path: Path) -> None:
    runs, metrics = through(no_rule(size=FEW).utterances(), tmp_path, SMALL)
    found = [structure.measured(runs["A4"], f"lag_{lag}") for lag in SMALL.lags]
    rows = [row for of in found if of for row in of.rows if is_control(row.condition) and row.n > row.clusters > 1]
    off = [abs(row.vr - (row.n - row.clusters) / (row.n - 1)) for row in rows]
    assert max(off) > 0.05, "the world is one in which a bound on that alone would be missed"
    assert not {name for name in missed(metrics) if name.startswith("control")}
    assert outcome(metrics) is Outcome.FAIL, "and not INVALID"
    assert {metrics[f"control_deviation_{split}"].value for split in (TRAIN, EVAL)} == {0}, "all within chance"
    beyond = [
        abs(row.vr - (row.n - row.clusters) / (row.n - 1)) - 4 * row.permuted_std
        for of in found if of for row in of.rows if is_control(row.condition) and np.isfinite(row.permuted_std)
    ]  # fmt: skip
    farthest = runs["A4"].read_json("phase0/decision.json")["controls"]["farthest"]
    assert farthest["deviation"] == pytest.approx(max(beyond)), "the one that is nearest to leaving it"
    assert max(beyond) < 0


def test_a_control_that_is_none_is_seen_in_few_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure_passes, "permuted_ids", lambda label_N, *_: label_N)
    _, metrics = through(shared_rule(0.9, size=FEW).utterances(), tmp_path, SMALL)
    assert {"control_deviation_train", "control_deviation_eval"} <= missed(metrics)
    assert outcome(metrics) is Outcome.INVALID


# --- few frames in many clusters --------------------------------------------------------------------------------------

SPEAKERS = {TRAIN: 16, EVAL: 8}
LOUD, QUIET = 1.0, 0.1


class Kind(NamedTuple):
    """Places of one kind: at each a few utterances are said, which stay there and step by the place's rule."""

    places: int
    said: int  # utterances at each place
    frames: int  # of an utterance
    rule: float  # spread of the places' rules
    noise: float  # spread of a step about its rule
    energy: float


def world(kinds: dict[str, list[Kind]]) -> list[Utterance]:
    """Each split's kinds of places; the k-th place of a kind is the same one, with the same rule, in every split."""
    rng, rules, found = np.random.default_rng(0), np.random.default_rng(1), []
    most = max(sum(kind.places for kind in of) for of in kinds.values())
    place_KD, rule_KD = 1e7 * rules.standard_normal((most, 4)), rules.standard_normal((most, 8))
    for split, of in kinds.items():
        every = [kind for kind in of for _ in range(kind.places)]
        for k, kind in enumerate(every):
            for i in range(kind.said):
                step_TD = kind.rule * rule_KD[k] + kind.noise * rng.standard_normal((kind.frames, 8))
                latent_TD = np.concatenate([np.tile(place_KD[k], (kind.frames, 1)), 1e-4 * np.cumsum(step_TD, 0)], 1)
                energy_T = (
                    np.full(kind.frames, kind.energy) if kind.energy else np.abs(rng.standard_normal(kind.frames))
                )
                speaker = f"{split}{(k + i) % SPEAKERS[split]:02d}"
                found.append(Utterance(speaker, latent_TD.astype(np.float32), energy_T.astype(np.float32), split))
    return sorted(found, key=lambda u: u.speaker_id)


def judged(said: list[Utterance], places: int, root: Path, window: int) -> dict[str, Estimate]:
    """A4's metrics; every cluster of a train frame counts."""
    schemes = dataclasses.replace(SCHEMES, mean_clusters=places, score_clusters=places, components=4, min_cluster=1)
    runs = planted_runs(said, root, hold_out=0, window=window)
    conditioning.run(context(schemes, root / "A3", **runs))
    return structure_of(runs | {"A3": RunDir(root / "A3")}, root / "A4")[1]


def of_both(*kinds: Kind) -> dict[str, list[Kind]]:
    return {TRAIN: list(kinds), EVAL: list(kinds)}


@pytest.mark.parametrize(
    ("slice_", "window", "ruled", "empty"),
    [
        # Quiet frames follow a rule; loud ones follow none, and are two a place.
        ("high_energy", 1, Kind(8, 8, 27, 3.0, 0.3, QUIET), Kind(256, 1, 6, 0.0, 1.0, LOUD)),
        # The last frames of short utterances follow a rule; those in the middle of longer ones follow none.
        ("utterance_medial", 3, Kind(8, 48, 7, 3.0, 0.3, 0.0), Kind(256, 2, 8, 0.0, 1.0, 0.0)),
    ],
)
def test_two_frames_a_cluster_of_a_slice_do_not_persist(
    slice_: str, window: int, ruled: Kind, empty: Kind, tmp_path: Path
) -> None:
    metrics = judged(world(of_both(ruled, empty)), 264, tmp_path, window)
    verdict = structure.GATE.judge(metrics)
    assert verdict.outcome_of("plan") is Outcome.PASS, missed(metrics)
    for split in (TRAIN, EVAL):
        assert metrics[f"vr_{split}_{slice_}"].value < 0.65
        assert metrics[f"vr_adjusted_{split}_{slice_}"].value == pytest.approx(1, abs=0.1)
    assert {f"vr_adjusted_{split}_{slice_}" for split in (TRAIN, EVAL)} == missed(metrics) - ABOUT_CLUSTERS
    assert verdict.outcome is Outcome.FAIL


ABOUT_CLUSTERS = {"voices_in_a_cluster", "clusters_at_one_loudness"}  # of two frames there are two voices


def test_few_frames_of_the_new_voices_do_not_hide_what_they_lose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SPEAKERS, EVAL, 24)  # of eight the intervals would reach over the slices' bounds
    kinds = {TRAIN: [Kind(128, 8, 9, 1.0, 0.35, 0.0)], EVAL: [Kind(128, 2, 6, 1.0, 0.57, 0.0)]}
    metrics = judged(world(kinds), 128, tmp_path, 1)
    verdict = structure.GATE.judge(metrics)
    assert verdict.outcome_of("plan") is Outcome.PASS, missed(metrics)
    assert metrics["degradation"].value < 0.2 < metrics["degradation_adjusted"].low
    assert missed(metrics) == {"degradation_adjusted"}
    assert verdict.outcome is Outcome.FAIL


def test_a_rule_that_new_voices_keep_passes_with_as_few_frames(tmp_path: Path) -> None:
    kinds = {TRAIN: [Kind(128, 8, 9, 1.0, 0.5, 0.0)], EVAL: [Kind(128, 3, 8, 1.0, 0.5, 0.0)]}
    metrics = judged(world(kinds), 128, tmp_path, 1)
    assert outcome(metrics) is Outcome.PASS, missed(metrics)
