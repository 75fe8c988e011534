"""A3's gate: worlds whose clusters are clusters of sound, and others whose clusters are something else."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from planted_structure import context, planted_runs, sounds

from inscape.core.estimate import Estimate
from inscape.core.gate import Outcome
from inscape.core.rundir import RunDir
from inscape.data.planted_latents import PlantedSize, no_rule
from inscape.stats.context_windows import EVAL, TRAIN
from inscape.studies.audio_structure import conditioning
from inscape.studies.audio_structure.clustering_checks import differing_labels
from inscape.studies.audio_structure.sources import SpeechConfig
from inscape.studies.audio_structure.study import STUDY

CONFIG = conditioning.Config(mean_clusters=16, components=3, score_clusters=16, restarts=4, min_cluster=50)
Runs = dict[str, RunDir]


def fitted(runs: Runs, folder: Path, config: conditioning.Config = CONFIG) -> dict[str, Estimate]:
    return dict(conditioning.run(context(config, folder, **runs)))


def missed(metrics: dict[str, Estimate]) -> tuple[Outcome, set[str]]:
    verdict = conditioning.GATE.judge(metrics)
    return verdict.outcome, {f.criterion.metric for f in verdict.findings if f.outcome is not Outcome.PASS}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """16 codes, said by all of 8 speakers, with loudness that has nothing to do with them."""
    size = PlantedSize(train_speakers=8, eval_speakers=4, bits=4, frames=100)
    return planted_runs(no_rule(size=size).utterances(), tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def done(world: Runs, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, dict[str, Estimate]]:
    folder = tmp_path_factory.mktemp("a3")
    return RunDir(folder), fitted(world, folder)


def test_a3_passes_clusters_of_sound(done: tuple[RunDir, dict[str, Estimate]]) -> None:
    run, metrics = done
    assert missed(metrics) == (Outcome.PASS, set())
    assert metrics["clusters_used"].value == pytest.approx(16, abs=0.2), "what is held out is not balanced"
    assert 7 < metrics["voices_in_a_cluster"].value < 8
    assert 15 < metrics["clusters_at_one_loudness"].value < 16
    assert metrics["heldout_distance"].value == pytest.approx(1, abs=0.01)
    assert metrics["dead_of_mean_vq16"].value == 0
    found = run.read_json("conditioning.json")
    assert found["schemes"] == ["mean_vq16", "pca3_vq16", "pca3_quartile"]
    assert [lag["lag"] for lag in found["found"]] == [1, 2, 4]
    assert {p.name for p in (run.path / "conditioning").iterdir()} == {
        f"lag_{lag}.{kind}" for lag in (1, 2, 4) for kind in ("npz", "json")
    }


def test_the_share_of_explained_variance_is_that_of_a_plain_pca(done: tuple[RunDir, dict[str, Estimate]]) -> None:
    # Four code dimensions of scales 1, 0.9, 0.8, 0.7 hold all variance that float32 can see, and three are kept.
    assert done[1]["pca_explained"].value == pytest.approx((1 + 0.81 + 0.64) / (1 + 0.81 + 0.64 + 0.49), abs=0.01)


SPEAKERS, REPEATS = 8, 12


def world_of(place_UD: np.ndarray, loudness_U: np.ndarray | None = None) -> list:
    """Utterances of 8 train speakers, 12 each, at the places given; the same again for 8 eval speakers."""
    names = [f"{split}{i // REPEATS}" for split in (TRAIN, EVAL) for i in range(SPEAKERS * REPEATS)]
    splits = [TRAIN] * (SPEAKERS * REPEATS) + [EVAL] * (SPEAKERS * REPEATS)
    twice = None if loudness_U is None else np.tile(loudness_U, 2)
    return sounds(np.tile(place_UD, (2, 1)), names, splits, twice, frames=40)


def places(number_U: np.ndarray, count: int) -> np.ndarray:
    return 10 * np.random.default_rng(1).standard_normal((count, 4))[number_U]


UTTERANCES = np.arange(SPEAKERS * REPEATS)
EACH_VOICE, EACH_SOUND = UTTERANCES // REPEATS, (UTTERANCES * 5) % 16


def test_a3_fails_clusters_that_are_single_voices(tmp_path: Path) -> None:
    runs = planted_runs(world_of(places(EACH_VOICE, SPEAKERS)), tmp_path)
    outcome, found = missed(fitted(runs, tmp_path / "run"))
    assert outcome is Outcome.FAIL
    assert "voices_in_a_cluster" in found
    assert "excluded_share" not in found


def test_a3_fails_clusters_that_are_loudness(tmp_path: Path) -> None:
    # A louder sound lies further out along one line, whoever makes it.
    place_UD = EACH_SOUND[:, None] * np.array([3.0, 0, 0, 0])
    runs = planted_runs(world_of(place_UD, 1.0 + EACH_SOUND), tmp_path)
    assert missed(fitted(runs, tmp_path / "run")) == (Outcome.FAIL, {"clusters_at_one_loudness"})
    quiet = planted_runs(world_of(place_UD), tmp_path / "quiet")
    assert missed(fitted(quiet, tmp_path / "quiet" / "run")) == (Outcome.PASS, set()), "the same places, any loudness"


def test_a3_fails_one_cluster_that_holds_nearly_all(tmp_path: Path) -> None:
    far = np.zeros(SPEAKERS * REPEATS, dtype=int)
    far[::12] = 1 + np.arange(SPEAKERS) % 3
    config = dataclasses.replace(CONFIG, mean_clusters=4, score_clusters=4)
    runs = planted_runs(world_of(places(far, 4)), tmp_path)
    assert "clusters_used" in missed(fitted(runs, tmp_path / "run", config))[1]


def test_a3_fails_clusters_of_single_recordings(tmp_path: Path) -> None:
    runs = planted_runs(world_of(places(UTTERANCES, len(UTTERANCES))), tmp_path, hold_out=5)
    config = dataclasses.replace(CONFIG, mean_clusters=100, score_clusters=100, min_cluster=1)
    metrics = fitted(runs, tmp_path / "run", config)
    assert metrics["heldout_distance"].value > 5
    assert "heldout_distance" in missed(metrics)[1]


def test_a3_fails_a_clustering_that_is_too_fine(world: Runs, tmp_path: Path) -> None:
    metrics = fitted(world, tmp_path, dataclasses.replace(CONFIG, lags=(1, 4), min_cluster=1500))
    assert metrics["excluded_share"].value > 0.1
    assert conditioning.GATE.judge(metrics).outcome_of("plan") is Outcome.FAIL


def test_a3_is_invalid_on_other_frames_than_the_tables(world: Runs, tmp_path: Path) -> None:
    other = RunDir(tmp_path / "a2")
    other.path.mkdir()
    rule = world["A2"].read_json("frames.json")
    other.write_json("frames.json", {**rule, "rows": {**rule["rows"], "train": rule["rows"]["train"] - 1}})
    metrics = fitted({**world, "A2": other}, tmp_path / "run", dataclasses.replace(CONFIG, lags=(1, 4)))
    assert metrics["frames_unlike_table"].value == 1
    assert missed(metrics)[0] is Outcome.INVALID


def test_a3_is_invalid_if_the_file_gives_other_numbers(
    world: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = conditioning.read_schemes

    def damaged(run: RunDir, lag: int):
        found = read(run, lag)
        return dataclasses.replace(found, edge_P3=found.edge_P3 + 1e9)

    monkeypatch.setattr(conditioning, "read_schemes", damaged)
    metrics = fitted(world, tmp_path, dataclasses.replace(CONFIG, lags=(1, 4)))
    assert metrics["reload_errors"].value > 0
    assert missed(metrics)[0] is Outcome.INVALID


def test_a_refit_is_the_same_to_the_bit_and_a_killed_run_does_not_repeat_a_lag(
    world: Runs, done: tuple[RunDir, dict[str, Estimate]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:

        def killed(self: RunDir, record: dict) -> None:
            if record.get("lag") == 2:
                raise KeyboardInterrupt

        patch.setattr(RunDir, "append_log", killed)
        with pytest.raises(KeyboardInterrupt):
            fitted(world, tmp_path)
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "conditioning").iterdir()}
    assert len(before) == 4
    (tmp_path / "conditioning" / "lag_2.json").unlink()  # killed before the last file of a lag
    assert fitted(world, tmp_path) == done[1]
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "conditioning").iterdir()}
    for name, changed in before.items():
        assert (after[name] == changed) == name.startswith("lag_1"), name
    for path in (done[0].path / "conditioning").iterdir():
        assert path.read_bytes() == (tmp_path / "conditioning" / path.name).read_bytes()


def test_what_is_stored_is_no_pickle_and_damage_is_one_line(
    done: tuple[RunDir, dict[str, Estimate]], tmp_path: Path
) -> None:
    run = done[0]
    with np.load(run.path / "conditioning" / "lag_1.npz", allow_pickle=False) as stored:
        assert all(stored[name].dtype != object for name in stored.files)
    (tmp_path / "conditioning").mkdir()
    for content in (b"", b"PK\x03\x04 not a zip", b"text"):
        (tmp_path / "conditioning" / "lag_1.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"lag_1\.npz"):
            conditioning.read_schemes(RunDir(tmp_path), 1)
    with pytest.raises(ValueError, match="fit again"):
        conditioning.read_schemes(RunDir(tmp_path / "nothing"), 1)


def test_labels_that_differ_are_counted(world: Runs, done: tuple[RunDir, dict[str, Estimate]]) -> None:
    from inscape.studies.audio_structure.eligible_frames import eligible_utterances

    utterances, _ = eligible_utterances(context(CONFIG, done[0].path, **world))
    one = conditioning.read_schemes(done[0], 1)
    other = dataclasses.replace(one, edge_P3=one.edge_P3 + 1e9)
    assert differing_labels(utterances, one, one) == 0
    assert differing_labels(utterances, one, other) > 100


def test_the_lags_must_end_where_the_tables_frames_begin(world: Runs, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lags=\[1, 2\]: the largest must be A2's max_lag, 4"):
        fitted(world, tmp_path, dataclasses.replace(CONFIG, lags=(1, 2)))
    for lags in ((), (2, 1), (0, 4), (2, 4)):
        with pytest.raises(ValueError, match="lags="):
            dataclasses.replace(CONFIG, lags=lags)


def test_without_held_out_utterances_the_gate_does_not_ask_for_them(tmp_path: Path) -> None:
    runs = planted_runs(world_of(places(EACH_SOUND, 16)), tmp_path, hold_out=0)
    config = dataclasses.replace(CONFIG, data=SpeechConfig(heldout=0), lags=(1, 4))
    metrics = fitted(runs, tmp_path / "run", config)
    assert "heldout_distance" not in metrics
    assert STUDY.phase("A3").gate_of(config).judge(metrics).outcome is Outcome.PASS
    assert STUDY.phase("A3").gate_of(CONFIG) == conditioning.GATE


def test_full_is_the_plan() -> None:
    full = STUDY.phase("A3").preset("full")
    assert (full.lags, full.mean_clusters, full.components, full.score_clusters) == ((1, 2, 4), 64, 8, 256)
    assert (full.restarts, full.iterations, full.seed, full.min_cluster) == (10, 100, 42, 100)
    assert {str(c) for c in conditioning.GATE.criteria if c.source == "plan"} == {"excluded_share <= 0.1"}
