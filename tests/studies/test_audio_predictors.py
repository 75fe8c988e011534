"""T1's, T2's and T3's gates in worlds of trajectories: one they must pass, and noise of two shapes they must fail.

In the linear-Gaussian world each step follows from the last frame, and the best possible cosines are known. Noise is
frames that have nothing to do with each other; one frame ahead they look predictable all the same, since the context
holds one half of the step.
"""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted_predictions import context, judged, planted_inputs, save_latents

from inscape.core.estimate import Estimate, bootstrap_mean
from inscape.core.gate import Outcome
from inscape.core.rundir import RunDir
from inscape.data.planted_dynamics import LinearGaussianWorld
from inscape.nn.direction_magnitude import DirectionMagnitude
from inscape.stopping import TrainingInterrupted
from inscape.studies.audio_structure import direction, frame_windows, horizons, injection, prediction, predictor
from inscape.studies.audio_structure.drift import fit_drift
from inscape.studies.audio_structure.frame_windows import (
    StepBatches,
    UtterancesInMemory,
    step_windows,
    steps_of,
)
from inscape.studies.audio_structure.horizons import StatisticsConfig, write_rows
from inscape.studies.audio_structure.predicted_speech import alignment_errors, predicted_speech
from inscape.studies.audio_structure.prediction import (
    ContextConfig,
    PredictorConfig,
    RolloutConfig,
    TrainConfig,
    load_config,
    load_predictor,
    save_predictor,
    trained_on,
)
from inscape.studies.audio_structure.prediction_measures import Measured, measure_predictor

SPEAKERS, FRAMES, D = 24, 200, 8
WORLD = LinearGaussianWorld(D)
Inputs = dict[str, RunDir]
Metrics = dict[str, Estimate]


def noise(shape: str = "normal") -> list[np.ndarray]:
    """Independent frames; "heavy": each with a loudness of its own, so that steps are far from Gaussian; "levels": each
    recording with one of its own, which any frame of it tells.
    """
    draw = np.random.default_rng(0)
    x = draw.standard_normal((SPEAKERS, FRAMES, D))
    if shape in ("heavy", "levels"):
        x *= np.exp(draw.standard_normal((SPEAKERS, FRAMES if shape == "heavy" else 1, 1)))
    return list(x.astype(np.float32))


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return planted_inputs(tmp_path_factory.mktemp("linear"), WORLD.utterances(SPEAKERS, FRAMES, 0))


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return planted_inputs(tmp_path_factory.mktemp("noise"), noise())


def small(phase: Any, **changes: Any) -> Any:
    """A config of T1 or T2 for these worlds."""
    steps = 120 if phase is predictor else 50
    settings: dict[str, Any] = {
        "hidden": 32,
        "context": ContextConfig(window=4, horizons_k=(1, 2)),
        "train": TrainConfig(max_steps=steps, batch=128, lr=3e-3, max_eval_samples=2000, eval_every=0),
        "diag": StatisticsConfig(max_train_samples=3000),
    }
    return phase.Config(**settings | changes)


# --- T1 -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def t1(linear: Inputs, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, Metrics]:
    asked = context(small(predictor), tmp_path_factory.mktemp("t1"), linear)
    return asked.run, dict(predictor.run(asked))


def test_t1_passes_the_planted_world(t1: tuple[RunDir, Metrics]) -> None:
    run, metrics = t1
    assert judged(predictor.GATE, metrics)["gate"] is Outcome.PASS, metrics
    assert (metrics["dnll_k1"].n, metrics["dnll_k1"].unit) == (8, "speakers")
    for k in (1, 2):
        assert metrics[f"direction_cosine_k{k}"].value > 0.8 * WORLD.best_cosine(k)
        assert metrics[f"cosine_over_drift_k{k}"].low > 0.1, "a rotation is no drift"
        assert metrics[f"over_strangers_within_k{k}"].value == pytest.approx(
            metrics[f"dnll_k{k}"].value - metrics["strangers_dnll"].value, abs=1e-6
        )
    with (run.path / "horizons.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["horizon"] for row in rows] == ["1", "2"]
    assert float(rows[1]["seconds"]) == 2 / 50
    assert float(rows[1]["dnll_low"]) == metrics["dnll_k2"].low
    worst = run.read_json("worst_frames.json")["k2"]
    assert len(worst) == 10
    assert worst[0]["dnll"] >= worst[-1]["dnll"]
    assert worst[0]["seconds"] == worst[0]["frame"] / 50
    assert set(run.read_json("figures/captions.json")) == {p.name for p in run.figures.glob("*.png")}


@pytest.mark.parametrize("shape", ["normal", "heavy", "levels"])
def test_t1_fails_noise_though_the_plan_passes_it(shape: str, tmp_path: Path) -> None:
    inputs = planted_inputs(tmp_path / "inputs", noise(shape))
    metrics = dict(predictor.run(context(small(predictor), tmp_path / "run", inputs)))
    found = judged(predictor.GATE, metrics)
    assert found["dnll_k1"] is Outcome.PASS, "half of the step is known, and the plan's baseline does not know it"
    assert predictor.GATE.judge(metrics).outcome_of("plan") is Outcome.PASS
    assert found["over_swapped_within_median_per_dim_k2"] is found["gate"] is Outcome.FAIL
    assert metrics["over_strangers_within_per_dim_k2"].high > -0.02
    assert abs(metrics["drift_cosine_k2"].value) < 0.05
    if shape == "normal":
        assert metrics["drift_cosine_k1"].value == pytest.approx(0.7, abs=0.03)
    elif shape == "levels":
        assert metrics["dnll_k2"].value < -1, "the level alone beats one Gaussian for all"
    else:
        assert metrics["dnll_median_k2"].high < 0, "the shape of the steps alone beats a Gaussian"


def test_t1_is_invalid_if_the_control_sees_the_target(
    linear: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_windows.FrameWindows, "elsewhere", lambda _, numbers_N, draw: numbers_N)
    config = small(predictor, context=ContextConfig(window=4, horizons_k=(1,)))
    found = judged(predictor.GATE, dict(predictor.run(context(config, tmp_path, linear))))
    assert found["strangers_cosine"] is found["gate"] is Outcome.INVALID


@pytest.mark.parametrize("shift", [-1, 1])
def test_windows_that_are_a_frame_off_are_seen(shift: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert alignment_errors(4, (1, 2, 8)) == (0, 2 * 39 * 3 * 5)
    assert alignment_errors(4, (3,), span=2)[0] == 0
    at = frame_windows.FrameWindows.at

    def shifted(self: frame_windows.FrameWindows, numbers_N: np.ndarray) -> torch.Tensor:
        return at(self, np.clip(numbers_N + shift, 0, self.total - 1))

    monkeypatch.setattr(frame_windows.FrameWindows, "at", shifted)
    assert alignment_errors(4, (1, 2, 8))[0] > 0


def test_t1_goes_on_after_an_interruption_with_what_was_trained(
    linear: Inputs, t1: tuple[RunDir, Metrics], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = context(small(predictor), tmp_path, linear)
    with monkeypatch.context() as patch:

        def interrupted(*given: Any, **more: Any) -> Any:
            if given[2].path.name == "k2":
                raise TrainingInterrupted("stopped; continue with: inscape resume here/k2")
            return prediction.train_predictor(*given, **more)

        patch.setattr(horizons, "train_predictor", interrupted)
        with pytest.raises(TrainingInterrupted, match=f"stopped within k2, and saved; .* resume {tmp_path}$"):
            predictor.run(asked)
    trained = {p: p.stat().st_mtime_ns for p in (tmp_path / "k1" / "checkpoints").rglob("*.safetensors")}
    assert trained
    assert dict(predictor.run(asked)) == t1[1]
    assert all(p.stat().st_mtime_ns == at for p, at in trained.items())
    for path in t1[0].path.glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


# --- T2 -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def t2(linear: Inputs, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, Metrics]:
    asked = context(small(direction), tmp_path_factory.mktemp("t2"), linear)
    return asked.run, dict(direction.run(asked))


def test_t2_passes_the_planted_world(t2: tuple[RunDir, Metrics]) -> None:
    run, metrics = t2
    assert judged(direction.GATE, metrics)["gate"] is Outcome.PASS, metrics
    for k in (1, 2):
        assert metrics[f"direction_cosine_k{k}"].value > 0.93 * WORLD.best_cosine(k)
    assert metrics["certainty_error_k1"].value < 0.1
    assert set(run.read_json("figures/captions.json")) == {p.name for p in run.figures.glob("*.png")}


def test_t2_fails_noise(noisy: Inputs, tmp_path: Path) -> None:
    metrics = dict(direction.run(context(small(direction), tmp_path, noisy)))
    found = judged(direction.GATE, metrics)
    assert found["dnll_k1"] is Outcome.PASS, "the plan's own criterion does not see it"
    assert metrics["direction_cosine_k1"].value > 0.6
    for name in ("cosine_over_drift_k1", "direction_cosine_k2", "gate"):
        assert found[name] is Outcome.FAIL
    assert found["dnll_direction_k2"] is not Outcome.PASS


def changed_heads(monkeypatch: pytest.MonkeyPatch, change: Callable[[DirectionMagnitude], object]) -> None:
    """Every head of T2 is changed after its training."""

    def fitted(*given: Any) -> Any:
        models: Any = horizons.fit_horizons(*given)
        for model in models.values():
            change(model)
        return models

    monkeypatch.setattr(direction, "fit_horizons", fitted)


def test_t2_fails_the_head_of_the_first_experiment(
    linear: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It points right, and its concentration and its lengths say nothing of it."""
    changed_heads(
        monkeypatch, lambda model: (model.log_kappa.sub_(6), model.log_length.add_(4 * model.log_spread.exp()))
    )  # type: ignore[arg-type, return-value]
    metrics = dict(direction.run(context(small(direction), tmp_path, linear)))
    found = judged(direction.GATE, metrics)
    assert found["direction_cosine_k2"] is found["cosine_over_drift_k1"] is Outcome.PASS
    assert found["direction_efficiency_k1"] is found["log_magnitude_r2_k1"] is found["gate"] is Outcome.FAIL


def test_t2_is_invalid_if_numbers_are_not_finite(
    linear: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed_heads(monkeypatch, lambda model: model.direction.bias.data.fill_(math.nan))
    config = small(direction, train=TrainConfig(max_steps=2, max_eval_samples=200, eval_every=0))
    metrics = dict(direction.run(context(config, tmp_path, linear)))
    assert metrics["not_finite"].value > 0
    assert judged(direction.GATE, metrics)["gate"] is Outcome.INVALID


def test_a_cosine_is_worth_what_the_closed_form_says() -> None:
    assert direction.worth_of(0.73, 512) == pytest.approx(194.7, abs=0.1)
    assert direction.worth_of(0, 512) == direction.worth_of(-0.5, 512) == 0
    worth = direction.worth_of(0.5, 64)
    gain, cosine = (tuple(x) for x in (-0.8 * worth * np.array([0.9, 1.0, 1.1]), (0.5, 0.5, 0.5)))
    metrics = {"dnll_direction": bootstrap_mean(gain, "speakers")}
    found = direction.efficiency(Measured(metrics, [], (), {"dnll_direction": gain, "direction_cosine": cosine}), 64, 0)
    assert found.value == pytest.approx(0.8)
    half = 4.302653 * 0.8 * 0.1 / math.sqrt(3)  # Student's, of three speakers
    assert (found.low, found.high) == pytest.approx((0.8 - half, 0.8 + half), rel=1e-5)
    nothing = {"dnll_direction": gain, "direction_cosine": (-0.1, 0.0, 0.1)}
    assert not direction.efficiency(Measured(metrics, [], (), nothing), 64, 0).measured


# --- T3 -------------------------------------------------------------------------------------------------------------


def rollouts(**changes: Any) -> injection.Config:
    settings: dict[str, Any] = {
        "rollout": RolloutConfig(max_steps=40, batch=32, lr=3e-4, p_true_steps=40),
        "diag": injection.InjectionConfig(n_eval_utterances=8, segments_per_utt=10),
    }
    return injection.Config(**settings | changes)


def test_t3_passes_the_planted_world(linear: Inputs, t2: tuple[RunDir, Metrics], tmp_path: Path) -> None:
    asked = context(rollouts(), tmp_path, linear | {"T2": t2[0]})
    metrics = dict(injection.run(asked))
    assert judged(injection.GATE, metrics)["gate"] is Outcome.PASS, metrics
    assert metrics["rollout_cosine_last"].value > 0.85 * WORLD.best_cosine(16)
    assert metrics["rollout_cosine_last"].unit == "speakers"
    assert metrics["rollout_seconds"].value == 16 / 50
    assert math.isfinite(metrics["repaired_by_writing"].value)
    with (tmp_path / "injection.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 4 * 16
    assert {row["predictor"] for row in rows} == {"one step ahead", "trained on rollouts"}
    assert {row["mode"] for row in rows} == {"A_teacher", "B_periodic", "C_one_shot", "D_rollout"}
    assert set(asked.run.read_json("figures/captions.json")) == {p.name for p in asked.run.figures.glob("*.png")}
    assert len(list(asked.run.figures.glob("*.png"))) == 5
    tuned = load_predictor(tmp_path / "predictor_rollout.safetensors")
    assert load_config(tmp_path / "predictor_rollout.safetensors").rollout == rollouts().rollout
    before = load_predictor(t2[0].path / "predictor_k1.safetensors")
    pairs = zip(tuned.parameters(), before.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs), "it was trained further"


def test_t3_without_training_on_rollouts(linear: Inputs, t2: tuple[RunDir, Metrics], tmp_path: Path) -> None:
    config = rollouts(rollout=RolloutConfig(enabled=False))
    metrics = dict(injection.run(context(config, tmp_path, linear | {"T2": t2[0]})))
    assert injection.gate_for(config) == injection.UNTUNED_GATE != injection.gate_for(rollouts()) == injection.GATE
    assert judged(injection.gate_for(config), metrics)["gate"] is Outcome.PASS
    assert "tuning_gain_per_dim" not in metrics
    assert not (tmp_path / "rollout").exists()


def test_t3_fails_noise(noisy: Inputs, tmp_path: Path) -> None:
    asked = context(small(direction), tmp_path / "t2", noisy)
    direction.run(asked)
    metrics = dict(injection.run(context(rollouts(), tmp_path / "t3", noisy | {"T2": asked.run})))
    found = judged(injection.GATE, metrics)
    assert metrics["rollout_cosine_first"].value > 0.6, "one frame ahead noise looks predictable"
    for name in ("rollout_cosine_last", "rollout_cosine_second", "gate"):
        assert found[name] is Outcome.FAIL


def with_head(run: RunDir, folder: Path, change: Callable[[DirectionMagnitude], Any]) -> RunDir:
    """A run of T2 that has only its first head, changed."""
    path = run.path / "predictor_k1.safetensors"
    model, config = load_predictor(path), load_config(path)
    assert isinstance(model, DirectionMagnitude)
    change(model)
    folder.mkdir()
    save_predictor(model, config, folder / path.name, latents=trained_on(path))
    return RunDir(folder)


@pytest.mark.parametrize(("factor", "missed"), [(-5, "stands still"), (2, "runs away")])
def test_t3_fails_a_rollout_that_stands_still_or_runs_away(
    linear: Inputs, t2: tuple[RunDir, Metrics], tmp_path: Path, factor: float, missed: str
) -> None:
    other = with_head(t2[0], tmp_path / "t2", lambda model: model.log_length.add_(factor))
    config = rollouts(rollout=RolloutConfig(enabled=False))
    metrics = dict(injection.run(context(config, tmp_path / "t3", linear | {"T2": other})))
    assert judged(injection.UNTUNED_GATE, metrics)["length_ratio_last"] is Outcome.FAIL, missed


def test_t3_is_invalid_if_a_rollout_is_not_finite(linear: Inputs, t2: tuple[RunDir, Metrics], tmp_path: Path) -> None:
    other = with_head(t2[0], tmp_path / "t2", lambda model: model.direction.bias.data.fill_(math.nan))
    config = rollouts(rollout=RolloutConfig(enabled=False))
    metrics = dict(injection.run(context(config, tmp_path / "t3", linear | {"T2": other})))
    assert metrics["not_finite"].value > 0
    assert judged(injection.UNTUNED_GATE, metrics)["gate"] is Outcome.INVALID


def test_t3_refuses_a_head_of_other_latents_and_none(
    linear: Inputs, t2: tuple[RunDir, Metrics], tmp_path: Path
) -> None:
    wider = planted_inputs(tmp_path / "wider", LinearGaussianWorld(10).utterances(SPEAKERS, 60, 0))
    with pytest.raises(ValueError, match="is for latents of 8 numbers, and A1's have 10: run T2 again"):
        injection.run(context(rollouts(), tmp_path / "t3", wider | {"T2": t2[0]}))
    with pytest.raises(ValueError, match="has no predictor of horizon 1: run T2 with 1 in horizons_k"):
        injection.run(context(rollouts(), tmp_path / "t3", linear | {"T2": RunDir(tmp_path)}))
    others = planted_inputs(tmp_path / "others", LinearGaussianWorld(D).utterances(SPEAKERS, 60, 1), sha256="others")
    with pytest.raises(ValueError, match=r"was trained on other latents than .*A1: run T2 again"):
        injection.run(context(rollouts(), tmp_path / "t3", others | {"T2": t2[0]}))


# --- what they share ------------------------------------------------------------------------------------------------


def test_the_drift_is_the_regression_on_the_last_frame() -> None:
    draw = np.random.default_rng(0)
    x = np.zeros((3000, 3))
    for t in range(1, len(x)):  # autoregressive, each dimension for itself; the third never moves
        x[t, :2] = (0.9, 0.2) * x[t - 1, :2] + draw.standard_normal(2)
    corpus = UtterancesInMemory([x.astype(np.float32) + 5])
    windows = step_windows(corpus, 4, 1)
    found = fit_drift(StepBatches.of(windows, 4, np.arange(windows.total)))
    assert found.slope_D == pytest.approx([-0.1, -0.8, 0.0], abs=0.05)
    assert found.frame_D == pytest.approx(x.mean(0) + 5, abs=0.02)
    steps = steps_of(windows.at(np.arange(10)), 4)
    due = found.step_D + found.slope_D * (steps.context_NWD[:, -1].numpy() - found.frame_D)
    np.testing.assert_allclose(found.step(steps.context_NWD), due, rtol=1e-6)
    with pytest.raises(ValueError, match="no latent steps"):
        fit_drift([])


def test_strange_contexts_are_of_other_places_of_the_same_recording_and_the_steps_stay() -> None:
    counted = [np.column_stack((np.arange(n), np.full(n, u))).astype(np.float32) for u, n in enumerate((60, 12, 40))]
    windows = step_windows(UtterancesInMemory(counted), 4, 2)
    numbers = windows.sample(1000, 0)
    there_N = windows.has_elsewhere(numbers)
    of_numbers = windows.places(numbers)[0]
    assert there_N[of_numbers != 1].all()
    assert windows.places(numbers[there_N])[1][of_numbers[there_N] == 1].tolist() == [0, 6], "12 frames hold two of 6"
    numbers = numbers[there_N]
    own, strange = (list(StepBatches.of(windows, 4, numbers, 30, strangers=seed)) for seed in (None, 0))
    assert all(torch.equal(a.delta_ND, b.delta_ND) for a, b in zip(own, strange, strict=True))
    first, other = (torch.cat([batch.context_NWD[:, 0] for batch in x]) for x in (own, strange))
    assert torch.equal(first[:, 1], other[:, 1]), "of the same recording"
    assert (first[:, 0] - other[:, 0]).abs().min() == 6, "and neither context, nor target, in both"
    drawn = windows.elsewhere(np.full(2000, numbers[20]), np.random.default_rng(0)) - numbers[20]
    assert set(drawn.tolist()) == {*range(-20, -5), *range(6, 35)}, "every place that is far enough off, and no other"
    whole = windows.draw_strange(5, 7, 0, 1, 8, 4)
    parts = [windows.draw_strange(5, 7, rank, 2, 8, 4) for rank in (0, 1)]
    assert torch.equal(whole.context_NWD, torch.cat([part.context_NWD for part in parts]))
    with pytest.raises(ValueError, match="no utterance holds two windows of 6 frames that share none"):
        _ = step_windows(UtterancesInMemory(counted[1:2]), 4, 2, horizons=(3,)).with_elsewhere


def test_what_no_recording_is_long_enough_for_is_not_measured() -> None:
    windows = step_windows(UtterancesInMemory(WORLD.utterances(3, 10, 0)), 4, 2)
    model = prediction.new_predictor("mixture_density", 4, D, hidden=8, components=2)
    model.measure(StepBatches.of(windows, 4, np.arange(windows.total)))
    found = measure_predictor(model, windows, samples=100, swapped=0).metrics
    assert not found["over_swapped_within_median_per_dim"].measured
    assert found["dnll"].measured


def test_a_target_that_the_context_holds_is_refused() -> None:
    corpus = UtterancesInMemory([np.zeros((30, 2), np.float32)])
    assert step_windows(corpus, 4, 3, span=3).span == 3
    for span in (0, 4):
        with pytest.raises(ValueError, match=f"span={span} frames with horizon=3: allowed are 1 to the horizon"):
            step_windows(corpus, 4, 3, span=span)


def test_the_predicted_speech_is_split_by_a0_and_cut_by_a2(linear: Inputs, tmp_path: Path) -> None:
    speech = predicted_speech(context(None, tmp_path, linear))
    assert (len(speech.train), len(speech.heldout), len(speech.eval)) == (14, 2, 8)
    assert len({*speech.train, *speech.heldout, *speech.eval}) == SPEAKERS
    rule = linear["A2"].read_json("frames.json")
    strict = RunDir(tmp_path)
    strict.write_json("frames.json", rule | {"min_sec": 100.0})
    with pytest.raises(ValueError, match=r"no utterance of 100 s or more is in the split train: give longer ones"):
        predicted_speech(context(None, tmp_path, linear | {"A2": strict}))
    other = RunDir(tmp_path / "a1")
    save_latents(other.path, noise())
    other.write_json("latents_of.json", {"corpus_sha256": "another", "codec": "planted"})
    with pytest.raises(ValueError, match="are of another corpus"):
        predicted_speech(context(None, tmp_path, linear | {"A1": other}))
    of = {"corpus_sha256": "planted", "codec": "planted"}
    other.write_json("latents_of.json", of | {"sha256": "another"})
    with pytest.raises(ValueError, match=r"the table in .*A2 is of other latents than .*a1: run A2 again"):
        predicted_speech(context(None, tmp_path, linear | {"A1": other}))
    other.write_json("latents_of.json", of)  # as it was before latents had a digest
    with pytest.raises(ValueError, match=r"latents_of\.json does not say of which latents it is: run A1 again"):
        predicted_speech(context(None, tmp_path, linear | {"A1": other}))


def test_a_table_leaves_empty_what_was_not_measured(tmp_path: Path) -> None:
    write_rows(tmp_path / "t.csv", [{"name": "a", "x": 1.5}, {"name": "b", "x": math.nan}])
    assert (tmp_path / "t.csv").read_text() == "name,x\na,1.5\nb,\n"


@pytest.mark.parametrize(
    ("phase", "overrides"),
    [
        (predictor, "train.max_steps=9 context.horizons_k=[1,2] train.max_eval_samples=9 diag.max_train_samples=9"),
        (direction, "train.num_workers=2 train.compile=true train.compile_mode=max-autotune train.amp=true"),
        (injection, "rollout.enabled=false diag.n_eval_utterances=4 diag.segments_per_utt=2 train.amp_dtype=bfloat16"),
    ],
)
def test_the_seeds_knobs_are_knobs_of_the_phases(phase: Any, overrides: str) -> None:
    from inscape.core.config import with_overrides

    config = with_overrides(phase.Config(), overrides.split())
    assert config != phase.Config()


@pytest.mark.parametrize(
    ("phase", "override"),
    [
        (predictor, "hidden=0"),
        (predictor, "diag.max_train_samples=1"),
        (predictor, "train.checkpoint_every=-1"),
        (direction, "layers=0"),
        (injection, "diag.period=0"),
        (injection, "diag.segments_per_utt=0"),
        (injection, "rollout.p_true=2"),
    ],
)
def test_settings_out_of_range_are_named(phase: Any, override: str) -> None:
    from inscape.core.config import with_overrides

    with pytest.raises(ValueError, match="allowed") as caught:
        with_overrides(phase.Config(), [override])
    assert override.split("=")[0].rpartition(".")[2] in str(caught.value)


def test_the_defaults_are_the_plans() -> None:
    one, two, three = (phase.PHASE.preset("full") for phase in (predictor, direction, injection))
    for config in (one, two):
        assert (config.hidden, config.layers, config.context) == (1024, 2, ContextConfig(8, (1, 2, 4, 8)))
        found = (config.train.batch, config.train.lr, config.train.weight_decay, config.train.clip_norm)
        assert found == (256, 1e-3, 1e-4, 1.0)
        assert 15_000 <= config.train.max_steps <= 25_000
    assert one.components == 8
    rollout = three.rollout
    assert (rollout.steps, rollout.teacher_weight, rollout.p_true, rollout.p_true_steps) == (16, 0.1, 0.2, 2000)
    assert three.diag == injection.InjectionConfig(16, 8, 4)
    assert isinstance(one.predictor, PredictorConfig)
