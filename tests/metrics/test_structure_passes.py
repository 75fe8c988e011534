"""All passes of a lag against frames in memory; shards and threads change no bit; planted worlds are as derived."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from structure_corpus import CONFIG, MEASURE, corpus, fitted

from inscape.data.planted_latents import PlantedSize, no_rule, shared_rule, speaker_rule
from inscape.metrics.audio_structure import CONTROL_SUFFIX, measure, rows_of
from inscape.metrics.structure_passes import (
    MeasureConfig,
    assign_utterances,
    merge_assignments,
    merge_totals,
    pair_spread,
    plan_measurement,
    speaker_terms,
    sum_targets,
)
from inscape.stats.conditioning import ConditioningConfig, permuted_ids
from inscape.stats.context_windows import EVAL, HELD_OUT, SLICES, TRAIN, deltas
from inscape.stats.kmeans import KMeansConfig

LAG = 2
KNOWN, CONDITIONING = fitted(corpus, LAG)
MEASURED = measure(corpus, CONDITIONING, KNOWN.energy_threshold, MEASURE)
ROWS = {(row.condition, row.slice, row.split): row for row in MEASURED.rows}


def frames():
    """Every eligible frame in memory: speaker, split, slice membership, labels, distances and normalised target."""
    table = {name: [] for name in ("speaker", "split", "t", "frames", "energy", "label", "distance", "delta")}
    for speaker, latent, energy, split in corpus():
        t = np.asarray(CONFIG.windows.eligible(len(latent)))
        found = CONDITIONING.assign(latent)
        mean, std = CONDITIONING.targets
        columns = {
            "speaker": np.full(len(t), speaker),
            "split": np.full(len(t), split),
            "t": t,
            "frames": np.full(len(t), len(latent)),
            "energy": energy[t],
            "label": found.label_SN.T,
            "distance": found.distance_SN.T,
            "delta": (deltas(latent, CONFIG.windows) - mean) / std,
        }
        for name, column in columns.items():
            table[name].append(column)
    return {name: np.concatenate(parts) for name, parts in table.items()}


FRAMES = frames()
POSITION = FRAMES["t"] / FRAMES["frames"]
INSIDE = {
    "all": np.ones(len(POSITION), bool),
    "high_energy": np.median(np.concatenate([u.energy_T for u in corpus() if u.split != EVAL])) < FRAMES["energy"],
    "utterance_medial": (POSITION >= 0.17) & (POSITION <= 0.83),
    "utterance_initial": POSITION < 0.17,
    "utterance_final": POSITION > 0.83,
}


def plain_ratio(x, label):
    """(raw, adjusted, clusters)"""
    kinds = np.unique(label)
    within = sum(((x[label == k] - x[label == k].mean(0)) ** 2).sum() for k in kinds)
    raw = within / ((x - x.mean(0)) ** 2).sum()
    return raw, raw * (len(x) - 1) / (len(x) - len(kinds)), len(kinds)


def selected(scheme, split, slice_):
    """The frames of a set, and its labels: effective clusters are those with 20 TRAIN frames."""
    label, train = FRAMES["label"][:, scheme], FRAMES["split"] == TRAIN
    effective = np.flatnonzero(np.bincount(label[train]) >= MEASURE.min_cluster)
    eligible = (FRAMES["split"] == split) & INSIDE[slice_]
    return eligible & np.isin(label, effective), eligible, label


CASES = [(s, split, slice_) for s in range(3) for split in (TRAIN, HELD_OUT, EVAL) for slice_ in SLICES]


@pytest.mark.parametrize(("scheme", "split", "slice_"), CASES)
def test_a_row_is_what_its_frames_say(scheme, split, slice_):
    row = ROWS[CONFIG.schemes[scheme], slice_, split]
    chosen, eligible, label = selected(scheme, split, slice_)
    x = FRAMES["delta"][chosen]
    raw, adjusted, clusters = plain_ratio(x, label[chosen])
    assert (row.lag, row.n, row.clusters) == (LAG, chosen.sum(), clusters)
    assert row.excluded == pytest.approx(1 - chosen.sum() / eligible.sum())
    assert (row.vr, row.vr_adjusted.value) == pytest.approx((raw, adjusted), abs=1e-5)
    train, _, _ = selected(scheme, TRAIN, slice_)
    means = {k: FRAMES["delta"][train & (label == k)].mean(0) for k in np.unique(label[train])}
    fallback = FRAMES["delta"][train].mean(0)
    predicted = np.stack([means.get(k, fallback) for k in label[chosen]])
    held_out = ((x - predicted) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    assert row.vr_train_means.value == pytest.approx(held_out, abs=1e-5)
    own = [
        plain_ratio(FRAMES["delta"][mine], label[mine])
        for speaker in np.unique(FRAMES["speaker"])
        if (mine := chosen & (FRAMES["speaker"] == speaker)).sum() >= MEASURE.min_speaker
    ]
    assert row.speakers.n == len(own)
    if own:
        assert row.speakers.mean == pytest.approx(np.mean([r for r, _, _ in own]), abs=1e-5)
        assert row.speakers.max == pytest.approx(max(r for r, _, _ in own), abs=1e-5)


@pytest.mark.parametrize("split", [TRAIN, EVAL])
def test_the_control_permutes_the_ids_of_its_split(split):
    label = FRAMES["label"][:, 0]
    control = label.copy()
    control[FRAMES["split"] == split] = permuted_ids(label[FRAMES["split"] == split], split)
    for slice_ in SLICES:
        chosen = (FRAMES["split"] == split) & INSIDE[slice_]
        expected = plain_ratio(FRAMES["delta"][chosen], control[chosen])[0]
        row = ROWS[CONFIG.schemes[0] + CONTROL_SUFFIX, slice_, split]
        assert row.vr == pytest.approx(expected, abs=1e-5)


def test_structure_is_found_where_it_is():
    row = ROWS["mean_vq8", "all", EVAL]
    assert row.vr_adjusted.high < 1
    assert row.p_value < 1e-4
    assert ROWS["mean_vq8" + CONTROL_SUFFIX, "all", EVAL].p_value > 0.001
    assert row.vr_adjusted.low < row.vr_adjusted.value < row.vr_adjusted.high
    assert row.vr_adjusted.n == 5
    assert MEASURED.exact


def test_the_point_of_the_interval_is_what_its_terms_sum_to():
    plan, totals = planned()
    for key, rows in speaker_terms(corpus, plan, totals).items():
        within, total, train = np.array([row[2:] for row in rows]).sum(0)
        row = ROWS[CONFIG.schemes[key[0]], key[1], key[2]]
        assert within / total == pytest.approx(row.vr, abs=1e-9)
        assert train / total == pytest.approx(row.vr_train_means.value, abs=1e-9)


def test_confidence_keeps_the_nearest():
    label, distance = FRAMES["label"][:, 1], FRAMES["distance"][:, 1]
    points = [p for p in MEASURED.confidence if (p.condition, p.split) == (CONFIG.schemes[1], EVAL)]
    chosen, _, _ = selected(1, EVAL, "all")
    assert [p.share for p in points] == list(MEASURE.shares)
    for point in points:
        near = chosen & (distance <= np.quantile(distance[chosen], point.share) * (1 + 1e-6))
        assert point.n == near.sum()
        assert point.vr == pytest.approx(plain_ratio(FRAMES["delta"][near], label[near])[0], abs=1e-5)


def planned(parts=(corpus,)):
    assignment = merge_assignments([assign_utterances(part, CONDITIONING) for part in parts])
    plan = plan_measurement(assignment, CONDITIONING, KNOWN.energy_threshold, MEASURE)
    return plan, sum_targets(parts[0], plan) if len(parts) == 1 else None


def by_speaker(shards):
    """Whole speakers in `shards` parts, each with how many eligible frames of a split stand before it."""
    utterances = list(corpus())
    names = sorted({u.speaker_id for u in utterances})
    parts, starts, before = [], [], {}
    for chosen in np.array_split(names, shards):
        part = [u for u in utterances if u.speaker_id in chosen]
        parts.append(lambda part=part: part)
        starts.append(dict(before))
        for u in part:
            before[u.split] = before.get(u.split, 0) + len(CONFIG.windows.eligible(len(u.latent_TD)))
    return parts, starts


@pytest.mark.parametrize("shards", [2, 7])
def test_shards_change_no_bit(shards):
    parts, starts = by_speaker(shards)
    plan, _ = planned(parts)
    totals = merge_totals([sum_targets(p, plan, s) for p, s in zip(parts, starts, strict=True)][::-1])
    terms = [speaker_terms(p, plan, totals, s) for p, s in zip(parts, starts, strict=True)][::-1]
    merged = rows_of(plan, totals, terms)
    # repr has every digit and, unlike ==, knows that NaN is NaN.
    assert repr(merged.rows) == repr(MEASURED.rows)
    assert repr(merged.confidence) == repr(MEASURED.confidence)


def test_threads_change_no_bit():
    program = Path(__file__).parent / "structure_corpus.py"
    found = []
    for threads in ("1", "2"):
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, threads)}
        done = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, check=True)
        found.append(done.stdout)
    assert found[0] == found[1]
    assert len(found[0].strip()) == 64


def test_a_cluster_is_effective_from_the_least_count_on():
    assignment = assign_utterances(corpus, CONDITIONING)
    count = np.bincount(assignment.label_SN[TRAIN][1], minlength=16)
    least = int(count[count > 0].min())
    for config, kept in ((least, (count >= least).sum()), (least + 1, (count > least).sum())):
        plan = plan_measurement(assignment, CONDITIONING, 0.0, MeasureConfig(min_cluster=config))
        assert len(plan.effective[1]) == kept
        for split, label in assignment.label_SN.items():  # the same set in every split
            assert ((plan.label_SN[split][1] >= 0) == np.isin(label[1], plan.effective[1])).all()


def test_the_spread_of_pairs_may_come_from_a_sample(monkeypatch):
    monkeypatch.setattr("inscape.metrics.structure_passes.SPREAD_FRAMES", 500)
    parts, starts = by_speaker(3)
    plan, whole = planned()
    merged = merge_totals([sum_targets(p, plan, s) for p, s in zip(parts, starts, strict=True)])
    stride = -(-plan.frames(TRAIN) // 500)
    found = pair_spread(merged, TRAIN)
    assert found == pair_spread(whole, TRAIN)
    x = FRAMES["delta"][FRAMES["split"] == TRAIN][::stride]
    centred = x - x.mean(0)
    norm = (centred**2).sum(1)
    expected = (len(x), norm.sum(), ((centred.T @ centred) ** 2).sum(), (norm**2).sum())
    assert found == pytest.approx(expected, rel=1e-3)
    sampled = rows_of(plan, merged, [speaker_terms(corpus, plan, merged)])
    for row in sampled.rows:
        p = ROWS[row.condition, row.slice, row.split].p_value
        assert row.p_value == pytest.approx(p, rel=0.3, abs=0.02, nan_ok=True)


def test_what_does_not_fit_together_is_refused():
    plan, totals = planned()
    utterances = list(corpus())
    with pytest.raises(ValueError, match="speaker s00 comes in two places"):
        sum_targets(lambda: [*utterances, utterances[0]], plan)
    with pytest.raises(ValueError, match="more train frames came than were assigned"):
        sum_targets(lambda: utterances, plan, {TRAIN: 10})
    with pytest.raises(ValueError, match="split 'test' was not assigned"):
        sum_targets(lambda: [utterances[0]._replace(split="test")], plan)
    with pytest.raises(ValueError, match="summed in two shards"):
        merge_totals([totals, totals])
    with pytest.raises(ValueError, match="has no 'train' frames"):
        plan_measurement(
            assign_utterances(lambda: [utterances[-1]._replace(split=EVAL)], CONDITIONING), CONDITIONING, 0.0
        )


# --- planted worlds -------------------------------------------------------------------------------------------------

SMALL = ConditioningConfig(mean_clusters=32, score_clusters=32, kmeans=KMeansConfig(restarts=2, sample_per_cluster=16))


def measured(world, config=SMALL, **settings):
    known, conditioning = fitted(world.utterances, 1, config)
    found = measure(world.utterances, conditioning, known.energy_threshold, MeasureConfig(resamples=200, **settings))
    return {(row.condition, row.slice, row.split): row for row in found.rows}, found


@pytest.mark.parametrize("scheme", range(3))
def test_the_world_of_a_shared_rule(scheme):
    world = shared_rule(0.45, size=PlantedSize(train_speakers=8, frames=200))
    rows, found = measured(world)
    name = SMALL.schemes[scheme]
    for slice_ in SLICES:
        for split, expected in ((TRAIN, world.vr_train), (EVAL, world.vr_eval)):
            row = rows[name, slice_, split]
            assert row.vr_adjusted.value == pytest.approx(expected, abs=0.03)
            assert row.excluded == 0
            assert rows[name + CONTROL_SUFFIX, slice_, split].vr_adjusted.value == pytest.approx(1, abs=0.01)
    assert abs(found.degradation[name, "all"]) < 0.05
    whole = rows[name, "all", TRAIN]
    # Half the walks' log variance is saved; the code's own dimensions never move.
    assert whole.entropy.gain == pytest.approx(-0.5 * math.log(0.55) * 8, abs=0.06)
    assert whole.speakers.mean == pytest.approx(0.55, abs=0.02)


def test_the_empty_world():
    rows, _ = measured(no_rule(size=PlantedSize(train_speakers=8, frames=200)))
    for (_, slice_, split), row in rows.items():
        assert row.vr_adjusted.value == pytest.approx(1, abs=0.005 if slice_ == "all" else 0.02), (slice_, split)
        assert row.p_value > 1e-4


def test_the_world_of_speakers_own_rules_fails_across_speakers_only():
    world = speaker_rule(size=PlantedSize(train_speakers=8, eval_speakers=8, frames=200))
    rows, found = measured(world)
    for name in SMALL.schemes:
        train, held_out = rows[name, "all", TRAIN], rows[name, "all", EVAL]
        assert train.vr == pytest.approx(world.vr_train, abs=0.01)
        assert held_out.vr == pytest.approx(world.vr_eval, abs=0.01)
        assert held_out.vr_train_means.value == pytest.approx(world.vr_eval_with_train_means, abs=0.02)
        assert max(train.vr, held_out.vr) < 0.6
        assert found.degradation[name, "all"] == pytest.approx(0.2 / 0.35, abs=0.06)


# --- evidence of minutes, run by hand -------------------------------------------------------------------------------

CALIBRATION = ConditioningConfig(
    mean_clusters=16, score_clusters=16, components=4, kmeans=KMeansConfig(restarts=1, sample_per_cluster=8)
)


@pytest.mark.slow
def test_null_calibration_over_a_thousand_worlds():
    ratios, false_alarms = {}, {}
    for seed in range(1000):
        size = PlantedSize(train_speakers=2, eval_speakers=2, bits=4, frames=60, walks=6)
        rows, _ = measured(no_rule(size=size, seed=seed), CALIBRATION, min_cluster=20)
        for key, row in rows.items():
            if row.slice == "all":
                ratios.setdefault(key, []).append(row.vr_adjusted.value)
                false_alarms.setdefault(key, []).append(row.p_value < 0.05)
    for key in ratios:
        print(key, f"mean adjusted VR {np.mean(ratios[key]):.5f}, false alarms {np.mean(false_alarms[key]):.4f}")
    for key in ratios:
        assert np.mean(ratios[key]) == pytest.approx(1, abs=0.001), key
    every = np.concatenate(list(false_alarms.values()))
    assert np.mean(every) == pytest.approx(0.05, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("explained", [0.02, 0.2, 0.5, 0.8])
def test_a_planted_ratio_is_recovered_within_5_thousandths(explained):
    size = PlantedSize(train_speakers=20, eval_speakers=20, frames=330)  # 51,040 eligible frames in each split
    rows, _ = measured(shared_rule(explained, size=size, seed=1))
    for name in SMALL.schemes:
        for split in (TRAIN, EVAL):
            value = rows[name, "all", split].vr_adjusted.value
            print(name, split, f"{value:.5f} of {1 - explained}")
            assert value == pytest.approx(1 - explained, abs=0.005)


@pytest.mark.slow
def test_power_at_2_percent_with_50k_frames():
    found = []
    for seed in range(40):
        size = PlantedSize(train_speakers=20, eval_speakers=2, frames=330)
        rows, _ = measured(shared_rule(0.02, size=size, seed=seed), CALIBRATION)
        found.append(rows["mean_vq16", "all", TRAIN].p_value < 0.05)
    print("power", np.mean(found))
    assert np.mean(found) >= 0.95
