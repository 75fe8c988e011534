"""A4's gate through the phases: a world that must pass, one that is empty, one of single speakers, and broken controls.

Each world goes through A2, A3 and A4 as speech does; only the latents are planted, and what must come out is known in
closed form.
"""

import csv
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from planted_structure import CONFIG, SCHEMES, SIZE, Made, context, missed, outcome, planted_runs, structure_of, through

from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Outcome
from inscape.core.rundir import RunDir
from inscape.data.planted_latents import PlantedWorld, no_rule, shared_rule, speaker_rule
from inscape.metrics import structure_passes
from inscape.stats.context_windows import EVAL, SLICES, TRAIN, Utterance
from inscape.studies.audio_structure import conditioning, structure
from inscape.studies.audio_structure.eligible_frames import centred_by_speaker, eligible_utterances
from inscape.studies.audio_structure.structure_decision import decide
from inscape.studies.audio_structure.structure_figures import CAPTIONS
from inscape.studies.audio_structure.structure_rows import findings_from_json, findings_to_json, metrics_file
from inscape.studies.audio_structure.study import STUDY

CONDITIONS = ["mean_vq32", "pca5_vq32", "pca5_quartile"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Made:
    schemes = dataclasses.replace(SCHEMES, lags=(1, 2, 4))
    world = shared_rule(0.5, size=SIZE)
    return through(world.utterances(), tmp_path_factory.mktemp("shared"), schemes, drawn=True)


@pytest.fixture(scope="module")
def faint(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A rule that is there and too faint for the plan: 4 % of the variance."""
    return through(shared_rule(0.04, size=SIZE).utterances(), tmp_path_factory.mktemp("faint"))


def decision_of(made: Made) -> dict:
    return made[0]["A4"].read_json("phase0/decision.json")


CLAIMS = {c.metric for c in structure.GATE.criteria if c.role == "claim"}
ABOUT_THE_RULE = {name for name in CLAIMS if name.startswith("vr_")} | {"permutation_p"}


# --- worlds ---------------------------------------------------------------------------------------------------------


def test_the_world_of_a_shared_rule_passes(shared: Made) -> None:
    runs, metrics = shared
    assert outcome(metrics) is Outcome.PASS, missed(metrics)
    for name in ("vr_train", "vr_eval", "vr_adjusted_train", "vr_adjusted_eval", "vr_eval_with_train_means"):
        assert metrics[name].value == pytest.approx(0.5, abs=0.02), name
    assert metrics["ratio_inside_eval_speakers"].value == pytest.approx(0.5, abs=0.03)
    # ln 2 / 2 of each of 8 walks; the code's dimensions never move.
    assert metrics["entropy_gain_nats_eval"].value == pytest.approx(4 * math.log(2), abs=0.1)
    assert metrics["conditions_passing"].value == 3
    found = decision_of(shared)
    assert (found["outcome"], found["plan"], found["calibrated"]) == ("PASS", "PASS", "PASS")
    assert found["conditions_passing"] == CONDITIONS
    assert all(c["violations"] == c["calibrated_violations"] == [] for c in found["conditions"].values())
    # A3, too, passes it: what is planted is clusters of sound.
    a3 = {c.metric for c in conditioning.GATE.criteria}
    kept = conditioning.metrics_of(runs["A3"].read_json("conditioning.json")["found"], 0, 1)
    assert a3 <= set(kept)
    assert conditioning.GATE.judge(kept).outcome is Outcome.PASS


def test_the_empty_world_fails_and_says_why(tmp_path: Path) -> None:
    made = through(no_rule(size=SIZE).utterances(), tmp_path)
    assert outcome(made[1]) is Outcome.FAIL
    assert missed(made[1]) == ABOUT_THE_RULE
    found = decision_of(made)
    assert (found["outcome"], found["conditions_passing"], found["controls"]["violations"]) == ("FAIL", [], [])
    for reasons in found["conditions"].values():
        assert len(reasons["violations"]) == 6, "every ratio, in each slice and split that the plan names"
        assert reasons["violations"][0].startswith("vr_train is ")
        assert reasons["violations"][0].endswith(", wanted <= 0.6")
        assert len(reasons["calibrated_violations"]) == 8, "the adjusted ones, train means, and chance"
    report = (tmp_path / "A4" / "phase0" / "report.txt").read_text()
    assert "Decision: FAIL" in report
    for reason in found["conditions"]["mean_vq32"]["violations"]:
        assert f"plan: {reason}" in report


def test_a_rule_of_single_speakers_fails_across_speakers_and_nowhere_else(tmp_path: Path) -> None:
    world = speaker_rule(size=SIZE)
    _, metrics = made = through(world.utterances(), tmp_path)
    assert metrics["vr_train"].value == pytest.approx(world.vr_train, abs=0.02)
    assert metrics["vr_eval"].value == pytest.approx(world.vr_eval, abs=0.02)
    assert metrics["vr_eval_with_train_means"].value == pytest.approx(world.vr_eval_with_train_means, abs=0.03)
    assert outcome(metrics) is Outcome.FAIL
    assert missed(metrics) == {"degradation", "degradation_adjusted", "vr_eval_with_train_means"}
    for found in decision_of(made)["conditions"].values():
        assert [reason.split()[0] for reason in found["violations"]] == ["degradation"]


def test_a_faint_rule_is_seen_and_fails(faint: Made) -> None:
    _, metrics = faint
    assert outcome(metrics) is Outcome.FAIL
    assert metrics["permutation_p"].value < 1e-6
    assert metrics["vr_adjusted_eval"].high < 1


def many_places(count: int = 256) -> list[Utterance]:
    """256 places, each in one train and one eval utterance of 6 frames; steps follow from nothing."""
    rng = np.random.default_rng(0)
    place_KD, found = 1e7 * rng.standard_normal((count, 4)), []
    for split, speakers in ((TRAIN, 16), (EVAL, 8)):
        for k in range(count):
            walk_TD = 1e-4 * np.cumsum(rng.standard_normal((6, 8)), axis=0)
            latent_TD = np.concatenate([np.tile(place_KD[k], (6, 1)), walk_TD], axis=1).astype(np.float32)
            energy_T = np.abs(rng.standard_normal(6)).astype(np.float32)
            found.append(Utterance(f"{split}{k % speakers:02d}", latent_TD, energy_T, split))
    return sorted(found, key=lambda u: u.speaker_id)


def test_two_frames_a_cluster_pass_the_plan_and_fail_ours(tmp_path: Path) -> None:
    schemes = dataclasses.replace(SCHEMES, mean_clusters=256, score_clusters=256, components=4, min_cluster=1)
    runs = planted_runs(many_places(), tmp_path, hold_out=0, window=1)  # 2 eligible frames of each utterance
    conditioning.run(context(schemes, tmp_path / "A3", **runs))
    _, metrics = structure_of(runs | {"A3": RunDir(tmp_path / "A3")}, tmp_path / "A4")
    verdict = structure.GATE.judge(metrics)
    assert metrics["vr_eval"].value < 0.6
    assert verdict.outcome_of("plan") is Outcome.PASS, "random clusters of two frames leave half"
    assert verdict.outcome_of("calibrated") is verdict.outcome is Outcome.FAIL
    assert metrics["vr_adjusted_eval"].value == pytest.approx(1, abs=0.1)
    assert {"vr_adjusted_train", "vr_adjusted_eval", "vr_eval_with_train_means", "permutation_p"} <= missed(metrics)


# --- the control ----------------------------------------------------------------------------------------------------


def unpermuted(label_N: np.ndarray, split: str, seed: int) -> np.ndarray:
    return label_N


def shifted(label_N: np.ndarray, split: str, seed: int) -> np.ndarray:
    return np.roll(label_N, 1)


def drawn_anew(label_N: np.ndarray, split: str, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice(label_N, len(label_N))


def again(made: Made, root: Path, *, drawn: bool = False) -> dict[str, Estimate]:
    """A4 once more, on the same schemes."""
    runs = {code: run for code, run in made[0].items() if code != "A4"}
    return structure_of(runs, root, drawn=drawn)[1]


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        (unpermuted, {"control_deviation_train", "control_deviation_eval", "control_p"}),
        (shifted, {"control_deviation_train", "control_deviation_eval", "control_p"}),
        (drawn_anew, {"control_histogram_errors"}),
    ],
)
def test_a_broken_control_is_invalid_whatever_was_found(
    shared: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable, seen: set[str]
) -> None:
    monkeypatch.setattr(structure_passes, "permuted_ids", fault)
    metrics = again(shared, tmp_path)
    assert missed(metrics) == seen
    assert outcome(metrics) is Outcome.INVALID
    found = RunDir(tmp_path).read_json("phase0/decision.json")
    assert (found["outcome"], found["plan"], found["conditions_passing"]) == ("INVALID", "INVALID", [])
    assert {reason.split()[0] for reason in found["controls"]["violations"]} == seen
    assert "CONTROL, a fault of the instrument" in (tmp_path / "phase0" / "report.txt").read_text()


def test_a_shifted_control_is_invalid_even_where_the_rule_is_fainter_than_the_plans_tolerance(
    faint: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structure_passes, "permuted_ids", shifted)
    metrics = again(faint, tmp_path)
    assert metrics["control_deviation_eval"].value < 0.05
    assert "control_p" in missed(metrics)
    assert outcome(metrics) is Outcome.INVALID, "and not FAIL"


def test_a4_is_invalid_on_other_frames_than_the_tables(shared: Made, tmp_path: Path) -> None:
    runs = shared[0]
    rule = runs["A2"].read_json("frames.json")
    other = RunDir(tmp_path / "A2")
    other.path.mkdir()
    other.write_json("frames.json", {**rule, "energy_median": 1.2 * rule["energy_median"]})
    metrics = again(({**runs, "A2": other}, {}), tmp_path / "A4")
    assert missed(metrics) == {"frames_unlike_table"}
    assert outcome(metrics) is Outcome.INVALID


# --- the rule -------------------------------------------------------------------------------------------------------


def test_the_plans_rule_stands_verbatim() -> None:
    plan = {str(c): c for c in structure.GATE.criteria if c.source == "plan"}
    assert set(plan) == {
        "vr_train <= 0.6",
        "vr_eval <= 0.6",
        "degradation <= 0.2",
        "control_deviation_train <= 0.05",
        "control_deviation_eval <= 0.05",
        *(f"vr_{split}_{s} <= 0.65" for split in ("train", "eval") for s in ("high_energy", "utterance_medial")),
    }
    below = plan["vr_train <= 0.6"]
    assert below.decide(exact(0.6, 9, "speakers")) is Outcome.FAIL, "the plan says < 0.6"
    assert below.decide(exact(0.5999999, 9, "speakers")) is Outcome.PASS
    assert {c.role for c in plan.values() if c.metric.startswith("control")} == {"control"}


def at_the_bound(**changes: float) -> dict[str, Estimate]:
    """Metrics that pass the gate, but for `changes`."""
    return {c.metric: exact(changes.get(c.metric, c.bound), 9, "speakers") for c in structure.GATE.criteria}


def test_any_condition_that_passes_leads() -> None:
    conditions = {
        "cross": at_the_bound(vr_eval=0.1, degradation=0.9),
        "passes": at_the_bound(),
        "ours": at_the_bound(vr_eval=0.2, vr_adjusted_eval=0.9),
    }
    decision = decide(structure.GATE, conditions)
    assert (decision.leading, decision.verdict.outcome) == ("passes", Outcome.PASS)
    assert decision.passing == ["passes", "ours"]
    del conditions["passes"]
    decision = decide(structure.GATE, conditions)
    assert decision.leading == "ours", "the plan's violations count first"
    assert (decision.verdict.outcome_of("plan"), decision.verdict.outcome) == (Outcome.PASS, Outcome.FAIL)
    few = at_the_bound(vr_eval=0.7, excluded_share=0.9, permutation_p=0.9)
    many = at_the_bound(vr_eval=0.7, degradation=0.9)
    assert decide(structure.GATE, {"few": few, "many": many}).leading == "many", (
        "the plan does not see what is left out"
    )
    nothing = {name: exact(math.nan, 0, "speakers") for name in at_the_bound()}
    assert decide(structure.GATE, {"unmeasured": nothing, "cross": conditions["cross"]}).leading == "cross"


@pytest.mark.parametrize("metric", sorted(c.metric for c in structure.GATE.criteria))
def test_each_criterion_can_stop_a_condition(metric: str) -> None:
    criterion = next(c for c in structure.GATE.criteria if c.metric == metric)
    worse = criterion.bound + (0.01 if criterion.at_least is None else -0.01 if criterion.bound > 0.1 else -1e-6)
    assert outcome(at_the_bound()) is Outcome.PASS
    stopped = Outcome.INVALID if criterion.role == "control" else Outcome.FAIL
    assert outcome(at_the_bound(**{metric: worse})) is stopped


def test_an_interval_across_the_bound_decides_nothing() -> None:
    metrics = at_the_bound() | {"vr_adjusted_eval": Estimate(0.58, 0.5, 0.62, 9, "speakers")}
    assert outcome(metrics) is Outcome.INCONCLUSIVE


# --- what is written ------------------------------------------------------------------------------------------------


def test_the_plans_files_are_there_and_agree(shared: Made) -> None:
    runs, metrics = shared
    folder = runs["A4"].path / "phase0"
    assert {p.name for p in folder.iterdir()} == {"metrics.json", "tables.csv", "report.txt", "decision.json", "plots"}
    assert {p.name for p in (folder / "plots").iterdir()} == set(CAPTIONS)
    assert set(runs["A4"].read_json("figures/captions.json")) == {p.name for p in runs["A4"].figures.glob("*.png")}
    rows = json.loads((folder / "metrics.json").read_text())["rows"]
    every = [name + control for name in CONDITIONS for control in ("", "_control")]
    keys = {(row["condition"], row["lag"], row["slice"]) for row in rows}
    assert keys == {(c, lag, s) for c in every for lag in (1, 2, 4) for s in SLICES}
    assert len(rows) == len(keys)
    assert all(set(row["splits"]) == {"train", "heldout", "eval"} for row in rows)
    row = next(r for r in rows if (r["condition"], r["lag"], r["slice"]) == ("mean_vq32", 1, "all"))
    with (folder / "tables.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3 * len(rows)
    line = next(
        x for x in lines if [x["condition"], x["lag"], x["slice"], x["split"]] == ["mean_vq32", "1", "all", "eval"]
    )
    assert float(line["vr"]) == row["splits"]["eval"]["vr"]
    assert float(line["degradation"]) == row["degradation"]
    train, new = row["splits"]["train"]["vr"], row["splits"]["eval"]["vr"]
    assert row["degradation"] == pytest.approx((new - train) / train)
    assert float(line["entropy_gain_nats_per_dim"]) == pytest.approx(float(line["entropy_gain_nats"]) / SIZE.dimension)
    assert line["entropy_ratio_reliable"] in ("True", "False")
    assert metrics["degradation"].value in {r["degradation"] for r in rows}


def test_a_killed_run_does_not_measure_a_lag_again_and_ends_the_same(
    shared: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lags: list[int] = []
    measure = structure.measure_lag

    def counted(utterances, fitted, *rest):
        lags.append(fitted.lag)
        if lags == [1, 2]:
            raise KeyboardInterrupt
        return measure(utterances, fitted, *rest)

    monkeypatch.setattr(structure, "measure_lag", counted)
    with pytest.raises(KeyboardInterrupt):
        again(shared, tmp_path)
    assert again(shared, tmp_path, drawn=True) == shared[1]
    assert lags == [1, 2, 2, 4]
    for path in (shared[0]["A4"].path / "phase0").rglob("*.*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / path.relative_to(shared[0]["A4"].path)).read_bytes()


def test_findings_come_back_from_their_file_as_they_were(shared: Made) -> None:
    found = structure.measured(shared[0]["A4"], "lag_1")
    assert found is not None
    assert repr(findings_from_json(json.loads(json.dumps(findings_to_json(found))))) == repr(found)
    assert any(math.isnan(row.vr_adjusted.low) for row in found.rows), "controls have no interval: NaN goes through"
    assert metrics_file([found])["sums_exact"] is True
    with pytest.raises(ValueError, match="damaged"):
        findings_from_json({"lag": 1})


def test_schemes_of_other_latents_are_refused(shared: Made, tmp_path: Path) -> None:
    runs = dict(shared[0])
    runs["A3"] = RunDir(tmp_path / "A3")
    runs["A3"].path.mkdir()
    fitted = shared[0]["A3"].read_json("conditioning.json")
    assert fitted["latents_sha256"] == "planted"
    runs["A3"].write_json("conditioning.json", fitted | {"latents_sha256": "another"})
    with pytest.raises(ValueError, match="are of other latents: run A3 again"):
        again((runs, {}), tmp_path / "A4")


# --- the ablation ---------------------------------------------------------------------------------------------------


def with_offsets(world: PlantedWorld) -> list[Utterance]:
    """The same world, each speaker's latents moved to another place, farther than codes are apart."""
    rng, place = np.random.default_rng(3), {}
    moved = []
    for u in world.utterances():
        if u.speaker_id not in place:
            place[u.speaker_id] = np.concatenate([3e8 * rng.standard_normal(SIZE.bits + 1), np.zeros(SIZE.walks)])
        moved.append(u._replace(latent_TD=(u.latent_TD + place[u.speaker_id]).astype(np.float32)))
    return moved


def test_speakers_means_are_taken_off(tmp_path: Path) -> None:
    runs = planted_runs(with_offsets(shared_rule(0.5, size=SIZE)), tmp_path)
    utterances, _ = eligible_utterances(context(CONFIG, tmp_path / "x", **runs))
    total: dict[str, np.ndarray] = {}
    for u in centred_by_speaker(utterances)():
        total[u.speaker_id] = total.get(u.speaker_id, 0.0) + u.latent_TD.sum(0, dtype=np.float64)
    assert len(total) == SIZE.train_speakers + SIZE.eval_speakers
    assert np.abs(np.stack(list(total.values()))).max() < 1e-6 * 3e8 * 16 * 90


def test_the_ablation_finds_a_rule_that_offsets_of_speakers_hide_and_decides_nothing(tmp_path: Path) -> None:
    asked = dataclasses.replace(CONFIG, centred=True)
    _, metrics = through(with_offsets(shared_rule(0.5, size=SIZE)), tmp_path, config=asked)
    rows = json.loads((tmp_path / "A4" / "phase0" / "metrics.json").read_text())["rows"]
    ratio = {
        r["condition"]: r["splits"]["eval"]["vr_adjusted"]["value"]
        for r in rows
        if r["lag"] == 1 and r["slice"] == "all"
    }
    assert ratio["mean_vq32_centred"] == pytest.approx(0.5, abs=0.05)
    assert ratio["mean_vq32"] > 0.8
    assert ratio["mean_vq32_centred_control"] == pytest.approx(1, abs=0.02)
    assert outcome(metrics) is not Outcome.PASS
    assert set(json.loads((tmp_path / "A4" / "phase0" / "decision.json").read_text())["conditions"]) == set(CONDITIONS)
    assert "Ablation" in (tmp_path / "A4" / "phase0" / "report.txt").read_text()


def test_full_is_the_plan() -> None:
    full = STUDY.phase("A4").preset("full")
    assert (full.min_speaker, full.centred) == (50, True)
    assert STUDY.phase("A4").needs == ("A0", "A1", "A2", "A3")
