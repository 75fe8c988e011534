"""Tier 1 of the audio study: the alignment rule, training as a pure function, rollouts against the best possible."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from inscape.core.config import with_overrides
from inscape.core.rundir import RunDir
from inscape.data.planted_dynamics import LinearGaussianWorld, VonMisesFisherWorld
from inscape.nn import vmf
from inscape.studies.audio_structure.frame_windows import (
    FrameWindows,
    StepBatches,
    UtterancesInMemory,
    prefetched,
    step_windows,
    steps_of,
)
from inscape.studies.audio_structure.prediction import (
    ContextConfig,
    DiagConfig,
    PredictorConfig,
    RolloutConfig,
    TrainConfig,
    load_predictor,
    new_predictor,
    save_predictor,
    train_predictor,
)
from inscape.studies.audio_structure.prediction_figures import CAPTIONS, draw_injection
from inscape.studies.audio_structure.prediction_measures import measure_predictor
from inscape.studies.audio_structure.rollout import (
    CURVES,
    MODES,
    diagnose,
    fine_tune,
    rollout_terms,
    trace,
    truth_share,
    written,
)


def counting(frames: int, dimension: int = 2) -> np.ndarray:
    """x[i] = i in every dimension."""
    return np.repeat(np.arange(frames, dtype=np.float32)[:, None], dimension, 1)


def tiny(head: str = "direction_magnitude", **train: Any) -> PredictorConfig:
    settings: dict[str, Any] = {"max_steps": 60, "batch": 64, "lr": 3e-3, "eval_every": 0} | train
    return PredictorConfig(
        head=head,
        hidden=32,
        components=4,
        context=ContextConfig(window=4),
        train=TrainConfig(**settings),
        rollout=RolloutConfig(steps=6, max_steps=20, batch=16, lr=1e-3),
        diag=DiagConfig(max_train_samples=2000),
    )


def run_in(path: Path) -> RunDir:
    path.mkdir(parents=True, exist_ok=True)
    return RunDir(path)


def linear_corpus(count: int, seed: int, dimension: int = 8, frames: int = 200) -> UtterancesInMemory:
    return UtterancesInMemory(LinearGaussianWorld(dimension).utterances(count, frames, seed))


# --- windows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("horizon", "target", "mean"), [(1, 10, 7.5), (2, 15, 11.5), (4, 15, 9.5)])
def test_contexts_follow_the_alignment_rule(horizon: int, target: int, mean: float):
    windows = step_windows(UtterancesInMemory([counting(20)]), 4, horizon)
    steps = steps_of(windows.at(np.arange(windows.total)), 4)
    first = 4 - 1 + horizon
    assert float(steps.context_NWD[target - first].mean()) == mean
    assert steps.context_NWD[target - first, :, 0].tolist() == [mean - 1.5, mean - 0.5, mean + 0.5, mean + 1.5]
    assert (steps.delta_ND == 1).all()


def test_every_horizon_has_the_same_targets():
    corpus = UtterancesInMemory([counting(50), counting(11), counting(30)])
    for horizon in (1, 2, 4):
        windows = step_windows(corpus, 8, horizon, horizons=(1, 2, 4))
        utterance, start = windows.places(np.arange(windows.total))
        targets = [(int(u), int(s) + windows.length - 1) for u, s in zip(utterance, start, strict=True)]
        assert targets == [(0, t) for t in range(11, 50)] + [(2, t) for t in range(11, 30)]


def test_draws_are_a_pure_function_of_seed_and_step():
    windows = step_windows(linear_corpus(3, 0), 4, 1)
    whole = windows.draw(5, 7, 0, 1, 8)
    assert torch.equal(whole, windows.draw(5, 7, 0, 1, 8))
    assert not torch.equal(whole, windows.draw(5, 8, 0, 1, 8))
    assert not torch.equal(whole, windows.draw(6, 7, 0, 1, 8))
    assert torch.equal(whole, torch.cat([windows.draw(5, 7, rank, 2, 8) for rank in (0, 1)]))


def test_only_the_chosen_utterances_are_read():
    corpus = UtterancesInMemory([counting(20) + 1000 * i for i in range(4)], ["a", "b", "a", "c"])
    windows = FrameWindows(corpus, 5, indices=[1, 3])
    numbers = windows.sample(10**6, 0)
    assert len(numbers) == windows.total == 32
    assert set((windows.at(numbers)[:, 0, 0] // 1000).tolist()) == {1, 3}
    assert set(windows.units(numbers, "speakers")) == {"b", "c"}
    assert set(windows.units(numbers, "utterances")) == {"utterance-1", "utterance-3"}
    assert len(np.unique(windows.sample(7, 0))) == 7
    spread = windows.spread(5, 3, seed=0)
    assert windows.units(spread, "speakers").tolist() == ["b"] * 3 + ["c"] * 3


def test_step_batches_are_read_again_at_each_pass():
    windows = step_windows(linear_corpus(2, 0), 4, 1)
    batches = StepBatches.of(windows, 4, windows.sample(100, 0), size=30)
    assert sum(len(b.delta_ND) for b in batches) == 100
    assert all(torch.equal(a.delta_ND, b.delta_ND) for a, b in zip(batches, batches, strict=True))
    assert len(batches[0::2]) + len(batches[1::2]) == len(batches)


def test_reading_ahead_changes_nothing():
    def batch_at(index: int, rank: int, world: int) -> int:
        return 100 * index + rank

    for workers in (0, 1, 3):
        with prefetched(batch_at, workers, 10) as batches:
            assert [batches(i, 2, 3) for i in range(4, 10)] == [100 * i + 2 for i in range(4, 10)]


def test_too_short_or_crooked_corpora_are_refused():
    with pytest.raises(ValueError, match="none of 2 utterances has 9 frames"):
        step_windows(UtterancesInMemory([counting(8), counting(3)]), 8, 1)
    with pytest.raises(ValueError, match="one D"):
        UtterancesInMemory([counting(8, 2), counting(8, 3)])
    with pytest.raises(ValueError, match="1 speakers for 2"):
        UtterancesInMemory([counting(8), counting(8)], ["a"])
    with pytest.raises(ValueError, match="unit='frames'"):
        FrameWindows(UtterancesInMemory([counting(8)]), 4).units(np.arange(2), "frames")


# --- settings -----------------------------------------------------------------------------------------------------


def test_the_seeds_knobs_are_there():
    config = with_overrides(
        PredictorConfig(),
        [
            "train.max_steps=300",
            "context.horizons_k=[1,2]",
            "train.max_eval_samples=1000",
            "rollout.enabled=false",
            "train.num_workers=2",
            "train.compile=true",
            "train.compile_mode=reduce-overhead",
            "train.amp=true",
            "train.amp_dtype=bfloat16",
            "diag.max_train_samples=500",
            "diag.n_eval_utterances=4",
            "diag.segments_per_utt=2",
        ],
    )
    assert config.context.horizons_k == (1, 2)
    assert config.train.fit_config(300, 1e-3).precision == "bfloat16"
    assert not config.rollout.enabled


@pytest.mark.parametrize(
    "override",
    [
        "head=gru",
        "hidden=0",
        "context.window=0",
        "context.horizons_k=[]",
        "context.horizons_k=[1,1]",
        "context.horizons_k=[0]",
        "train.max_steps=0",
        "train.amp_dtype=float16",
        "train.compile_mode=fast",
        "train.lr=0",
        "rollout.p_true=1.5",
        "rollout.steps=0",
        "diag.max_train_samples=1",
        "diag.n_eval_utterances=0",
    ],
)
def test_settings_out_of_range_are_named(override: str):
    with pytest.raises(ValueError, match="allowed") as caught:
        with_overrides(PredictorConfig(), [override])
    assert override.split("=")[0] in str(caught.value)


# --- training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("head", "steps"), [("direction_magnitude", 60), ("mixture_density", 250)])
def test_training_learns_a_planted_world_and_survives_the_disk(head: str, steps: int, tmp_path: Path):
    config, train, unseen = tiny(head, max_steps=steps), linear_corpus(10, 0), linear_corpus(6, 1)
    model = train_predictor(config, step_windows(train, 4, 1), run_in(tmp_path / "run"), seed=0)
    found = measure_predictor(model, step_windows(unseen, 4, 1), samples=1000)
    assert found.metrics["dnll"].high < -2
    assert found.metrics["dnll_per_dim"].value == pytest.approx(found.metrics["dnll"].value / 8)
    assert found.metrics["direction_cosine"].low > 0.8
    assert (found.metrics["dnll"].n, found.metrics["dnll"].unit) == (6, "speakers")
    assert found.metrics["still_share"].value == 0
    utterance, frame, nats = found.worst[0]
    assert utterance.startswith("utterance-")
    assert 4 <= frame < 200
    assert nats > found.metrics["dnll"].value
    save_predictor(model, config, tmp_path / "model.safetensors")
    again = load_predictor(tmp_path / "model.safetensors")
    assert measure_predictor(again, step_windows(unseen, 4, 1), samples=1000) == found


def test_the_same_seed_gives_the_same_bits_with_workers_and_without(tmp_path: Path):
    windows = step_windows(linear_corpus(4, 0), 4, 1)
    weights = []
    for i, (seed, workers) in enumerate([(0, 0), (0, 2), (1, 0)]):
        config = tiny(max_steps=10, num_workers=workers)
        model = train_predictor(config, windows, run_in(tmp_path / str(i)), seed=seed)
        weights.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_an_empty_world_gains_nothing(tmp_path: Path):
    rng = np.random.default_rng(0)
    train, unseen = (UtterancesInMemory(list(rng.standard_normal((8, 300, 6)).cumsum(1))) for _ in range(2))
    model = train_predictor(tiny(max_steps=30, lr=3e-4), step_windows(train, 4, 1), run_in(tmp_path / "run"), seed=0)
    found = measure_predictor(model, step_windows(unseen, 4, 1), samples=2000).metrics
    assert found["dnll"].value > -0.05
    assert abs(found["direction_cosine"].value) < 0.1


def test_steps_without_length_are_counted_and_not_scored(tmp_path: Path):
    utterances = LinearGaussianWorld(8).utterances(6, 200, 0)
    for x in utterances:
        x[1::4] = x[0::4]
    windows = step_windows(UtterancesInMemory(utterances), 4, 1)
    model = train_predictor(tiny(max_steps=20), windows, run_in(tmp_path / "run"), seed=0)
    found = measure_predictor(model, windows, samples=10**6).metrics
    assert found["still_share"].value == pytest.approx(0.25, abs=0.01)
    assert all(estimate.measured for estimate in found.values())


def test_what_is_not_a_predictor_is_refused(tmp_path: Path):
    for name, content in (("missing", None), ("damaged", b"nonsense")):
        if content:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="holds no predictor"):
            load_predictor(tmp_path / name)
    with pytest.raises(ValueError, match="head='gru'"):
        new_predictor("gru", 4, 8)


# --- rollouts -----------------------------------------------------------------------------------------------------


class Best(nn.Module):
    """The best predictor of the linear-Gaussian world, with the interface of the trained ones."""

    window = 4

    def __init__(self, world: LinearGaussianWorld, gain: float = 1.0) -> None:
        super().__init__()
        self.dimension = world.dimension
        self.weight = nn.Parameter(gain * torch.from_numpy(world.transition - np.eye(world.dimension)).float())

    def forward(self, context_NWD: torch.Tensor) -> torch.Tensor:
        return context_NWD[:, -1] @ self.weight.T

    def step(self, given: torch.Tensor) -> torch.Tensor:
        return given

    def scored(self, delta_ND: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(delta_ND), dtype=torch.bool)

    def nll(self, given: torch.Tensor, delta_ND: torch.Tensor) -> torch.Tensor:
        return 50 * (delta_ND - given).square().sum(-1)

    def baseline_nll(self, delta_ND: torch.Tensor) -> torch.Tensor:
        return delta_ND.square().sum(-1)


WORLD = LinearGaussianWorld(8, decay=0.98)


def segments(count: int = 40, steps: int = 16, seed: int = 0) -> FrameWindows:
    return FrameWindows(UtterancesInMemory(WORLD.utterances(count, 60, seed)), 4 + steps)


def test_the_best_predictor_rolls_out_to_the_closed_form():
    windows = FrameWindows(UtterancesInMemory(WORLD.utterances(3000, 20, 0)), 20)
    frames = windows.at(np.arange(windows.total))
    free, taught = (trace(Best(WORLD), frames, mode) for mode in ("D_rollout", "A_teacher"))  # type: ignore[arg-type]
    for step in (1, 4, 16):
        assert free.cosine_NK[:, step - 1].mean() == pytest.approx(WORLD.best_cosine(step), abs=0.02)
        assert taught.cosine_NK[:, step - 1].mean() == pytest.approx(WORLD.best_cosine(1), abs=0.01)


def test_the_truth_is_written_when_the_mode_says_so():
    assert [sorted(written(mode, 16, 4)) for mode in MODES] == [list(range(1, 17)), [4, 8, 12], [1], []]
    windows = segments(10)
    frames = windows.at(np.arange(0, windows.total, 7))
    error = {mode: trace(Best(WORLD), frames, mode).state_error_NK.max(0) for mode in MODES}  # type: ignore[arg-type]
    without_error = {mode: (np.flatnonzero(e < 1e-6) + 1).tolist() for mode, e in error.items()}
    assert without_error == {
        "A_teacher": list(range(1, 17)),
        "B_periodic": [1, 5, 9, 13],
        "C_one_shot": [1, 2],
        "D_rollout": [1],
    }
    with pytest.raises(ValueError, match="mode='E'"):
        written("E", 16, 4)


def test_the_diagnosis_has_a_row_for_every_mode_and_step(tmp_path: Path):
    found = diagnose(Best(WORLD), segments(), utterances=12, per_utterance=3)  # type: ignore[arg-type]
    rows = found.rows()
    assert [(row["mode"], row["step"]) for row in rows] == [(m, k) for m in MODES for k in range(1, 17)]
    assert all(row["n"] == 12 and math.isfinite(float(row["dnll_low"])) for row in rows)
    last = {row["mode"]: row for row in rows if row["step"] == 16}
    assert last["A_teacher"]["dnll"] < last["B_periodic"]["dnll"] < last["D_rollout"]["dnll"]  # type: ignore[operator]
    paths = draw_injection(found, tmp_path)
    assert {path.name for path in paths} == set(CAPTIONS) == {f"injection_{name}.png" for name in CURVES}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_standing_still_shows_in_the_ratio():
    windows = segments(10)
    frames = windows.at(np.arange(0, windows.total, 7))
    for gain in (0.0, 0.5, 1.0):
        found = trace(Best(WORLD, gain), frames, "A_teacher")  # type: ignore[arg-type]
        assert found.length_NK.sum() / found.true_length_NK.sum() == pytest.approx(gain, abs=0.1)


def test_where_nothing_moves_nothing_is_measured(tmp_path: Path):
    class Blind(Best):
        def scored(self, delta_ND: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(delta_ND), dtype=torch.bool)

    found = diagnose(Blind(WORLD), segments(3), utterances=2, per_utterance=2)  # type: ignore[arg-type]
    assert not any(e.measured for curves in found.curves.values() for curve in curves.values() for e in curve)
    draw_injection(found, tmp_path)


def test_scheduled_sampling_falls_to_zero():
    config = RolloutConfig()
    assert [truth_share(config, step) for step in (0, 1000, 2000, 9000)] == pytest.approx([0.2, 0.1, 0, 0])


def test_rollout_loss_is_the_teachers_where_all_frames_are_true():
    frames = segments().at(np.arange(50))
    model: Any = Best(WORLD, 0.7)
    always = RolloutConfig(p_true=1.0, p_true_steps=10**9, teacher_weight=0.1)
    terms = rollout_terms(model, frames, always, 0)
    assert float(terms["rollout"].detach()) == pytest.approx(10 * float(terms["teacher"].detach()), rel=1e-5)
    never = rollout_terms(model, frames, RolloutConfig(p_true=0.0), 0)
    found = trace(model, frames, "D_rollout").nll_NK.mean() / 8
    assert float(never["rollout"].detach()) == pytest.approx(found, rel=1e-5)
    assert float(never["rollout"].detach()) > float(terms["rollout"].detach())


def test_no_gradient_goes_through_own_frames():
    frames = segments().at(np.arange(20))
    model: Any = Best(WORLD, 0.7)
    (found,) = torch.autograd.grad(rollout_terms(model, frames, RolloutConfig(p_true=0.0), 0)["rollout"], model.weight)
    # by hand: contexts first, then the gradient with all of them held
    contexts, context = [], frames[:, :4]
    with torch.no_grad():
        for _ in range(16):
            contexts.append(context)
            context = torch.cat((context[:, 1:], (context[:, -1] + model(context))[:, None]), 1)
    delta = frames[:, 4:] - frames[:, 3:-1]
    held = sum(model.nll(model(c), delta[:, k]).sum() for k, c in enumerate(contexts)) / (20 * 16 * 8)
    torch.testing.assert_close(found, torch.autograd.grad(held, model.weight)[0])


@pytest.mark.parametrize("head", ["direction_magnitude", "mixture_density"])
def test_fine_tuning_lowers_the_rollouts_nll(head: str, tmp_path: Path):
    config, corpus = tiny(head, max_steps=30), linear_corpus(10, 0)
    model = train_predictor(config, step_windows(corpus, 4, 1), run_in(tmp_path / "one"), seed=0)
    windows = FrameWindows(corpus, 10)
    frames = windows.at(windows.sample(300, 0))
    before = trace(model, frames, "D_rollout").nll_NK.mean()
    tuned = fine_tune(model, config, windows, run_in(tmp_path / "two"), seed=0)
    after = trace(tuned, frames, "D_rollout")
    assert after.nll_NK.mean() < before
    assert 0.2 < after.length_NK.sum() / after.true_length_NK.sum() < 2
    with pytest.raises(ValueError, match="segments of 9 frames"):
        fine_tune(tuned, config, FrameWindows(corpus, 9), run_in(tmp_path / "three"), seed=0)


# --- the numbers ------------------------------------------------------------------------------------------


def vmf_world_gain(tmp_path: Path, dimension: int, utterances: int, config: PredictorConfig) -> tuple[Any, float]:
    """What the trained head reaches on unseen trajectories at cosine 0.73, and the most that can be reached."""
    kappa = vmf.concentration(0.73, dimension)
    world = VonMisesFisherWorld(dimension, kappa)
    train, unseen = (UtterancesInMemory(world.utterances(n, 1000, i)) for i, n in enumerate((utterances, 20)))
    windows = (step_windows(corpus, config.context.window, 1) for corpus in (train, unseen))
    model = train_predictor(config, next(windows), run_in(tmp_path / "run"), seed=0)
    at = torch.tensor(kappa, dtype=torch.float64)
    optimum = float(vmf.log_partition(at, dimension) - at * vmf.mean_cosine(at, dimension))
    return measure_predictor(model, next(windows), samples=10_000).metrics, optimum


def test_the_head_comes_near_the_optimum_of_a_small_vmf_world(tmp_path: Path):
    found, optimum = vmf_world_gain(tmp_path, 16, 10, tiny(max_steps=150))
    assert 0.93 * optimum > found["dnll_direction"].value > optimum * 1.03
    assert found["log_magnitude_r2"].low > 0


@pytest.mark.slow
def test_the_head_comes_near_the_optimum_at_512_dimensions(tmp_path: Path):
    config = PredictorConfig(hidden=64, train=TrainConfig(max_steps=2000, eval_every=0))
    found, optimum = vmf_world_gain(tmp_path, 512, 400, config)
    print(f"\noptimum {optimum:.2f}", *(f"\n{name} {value}" for name, value in found.items()))
    assert optimum == pytest.approx(-194.7, abs=0.1)
    assert found["dnll_direction"].value <= -185
    assert found["dnll"].value <= -185
    assert found["log_magnitude_r2"].value >= 0


@pytest.mark.slow
def test_the_rollout_keeps_95_percent_of_the_best_cosine(tmp_path: Path):
    world = LinearGaussianWorld(32)
    train, unseen = (UtterancesInMemory(world.utterances(n, 500, i)) for i, n in enumerate((100, 100)))
    config = PredictorConfig(
        hidden=64, train=TrainConfig(max_steps=1500, eval_every=0), rollout=RolloutConfig(max_steps=300)
    )
    model = train_predictor(config, step_windows(train, 8, 1), run_in(tmp_path / "one"), seed=0)
    windows = FrameWindows(unseen, 24)

    def share(name: str, model: Any) -> float:
        curves = diagnose(model, windows, utterances=100, per_utterance=16).curves["D_rollout"]
        cosine, ratio = curves["direction_cosine"][15], curves["magnitude_ratio"][15]
        print(f"\n{name}: cosine at step 16 {cosine} of {world.best_cosine(16):.4f}, length ratio {ratio}")
        return cosine.value / world.best_cosine(16)

    assert share("one step ahead", model) >= 0.94
    tuned = fine_tune(model, config, FrameWindows(train, 24), run_in(tmp_path / "two"), seed=0)
    assert share("fine-tuned on rollouts", tuned) >= 0.95
