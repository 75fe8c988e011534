"""fit: its arithmetic against closed forms and plain references, and what it tells."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from toy_training import CONFIG, batch_at, loss_terms, make_model, toy_fit

from inscape import train
from inscape.core.rundir import RunDir
from inscape.optimization import ema_decay_at


def parameters_of(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# --- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("lr", 0.0),
        ("beta2", 1.0),
        ("weight_decay", -0.1),
        ("warmup_steps", 41),
        ("accumulate", 0),
        ("clip_norm", -1.0),
        ("ema_decay", 1.0),
        ("precision", "float16"),
        ("log_every", 0),
        ("eval_every", -1),
        ("keep_checkpoints", 0),
    ],
)
def test_config_names_field_value_and_what_is_allowed(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{field}={value!r} is out of range; allowed: .+"):
        train.FitConfig(**{**CONFIG, field: value})


# --- schedule ---------------------------------------------------------------------------------------------------


@given(st.integers(1, 400), st.data())
def test_schedule_is_a_line_then_half_a_cosine(steps: int, data: st.DataObject) -> None:
    warmup = data.draw(st.integers(0, steps))
    config = train.FitConfig(steps=steps, lr=0.3, warmup_steps=warmup)
    rates = [train.learning_rate(config, step) for step in range(steps)]
    assert rates[:warmup] == pytest.approx([0.3 * (i + 1) / warmup for i in range(warmup)])
    cosine = [0.15 * (1 + math.cos(math.pi * i / (steps - warmup))) for i in range(steps - warmup)]
    assert rates[warmup:] == pytest.approx(cosine)
    assert all(0 < rate <= 0.3 + 1e-12 for rate in rates)


def test_schedule_reaches_its_peak_and_ends_at_zero() -> None:
    config = train.FitConfig(steps=1000, lr=1.0, warmup_steps=100)
    assert train.learning_rate(config, 99) == train.learning_rate(config, 100) == 1.0
    assert train.learning_rate(config, 550) == pytest.approx(0.5)
    assert train.learning_rate(config, 1000) == pytest.approx(0.0)


def test_a_held_rate_falls_late_and_to_zero():
    config = train.FitConfig(steps=1000, lr=1.0, warmup_steps=100, hold=0.5)
    assert train.learning_rate(config, 100) == train.learning_rate(config, 549) == 1.0
    assert train.learning_rate(config, 775) == pytest.approx(0.5)
    assert train.learning_rate(config, 1000) == pytest.approx(0.0)
    with pytest.raises(ValueError, match=r"hold=1.0 is out of range"):
        train.FitConfig(steps=10, hold=1.0)


# --- optimizer and average --------------------------------------------------------------------------------------


def test_decay_shrinks_matrices_only() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.LayerNorm(3))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    train.make_optimizer(model, train.FitConfig(steps=1, lr=0.5, weight_decay=0.1)).step()
    for name, p in model.named_parameters():
        factor = 1 - 0.5 * 0.1 if name == "1.weight" else 1.0
        torch.testing.assert_close(p.detach(), before[name] * factor)


def test_adamw_is_loshchilov_and_hutters() -> None:
    """Algorithm 2 of arXiv:1711.05101, written out in float64."""
    weight = nn.Linear(3, 2, bias=False).double()
    theta, mean, square = weight.weight.detach().clone(), 0.0, 0.0
    optimizer = train.make_optimizer(weight, train.FitConfig(steps=9, lr=0.01, weight_decay=0.1))
    for step in range(1, 6):
        gradient = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        weight.weight.grad = gradient.clone()
        optimizer.step()
        mean, square = 0.9 * mean + 0.1 * gradient, 0.95 * square + 0.05 * gradient**2
        adam = (mean / (1 - 0.9**step)) / ((square / (1 - 0.95**step)).sqrt() + 1e-8)
        theta = theta - 0.01 * (adam + 0.1 * theta)
        torch.testing.assert_close(weight.weight.detach(), theta)


def test_ema_closed_form() -> None:
    """After n updates the average is d^n w_0 + (1 - d) sum_i d^(n - i) w_i."""
    model, ema = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    assert model.running_mean is not None
    assert ema.running_mean is not None
    with torch.no_grad():
        for value in range(1, 6):
            model.weight.fill_(float(value))
            model.running_mean.fill_(float(value))
            train.update_ema(ema, model, 0.9)
    expected = 0.9**5 * 1.0 + 0.1 * sum(0.9 ** (5 - i) * i for i in range(1, 6))
    torch.testing.assert_close(ema.weight.detach(), torch.full((2,), expected))
    assert ema.running_mean.tolist() == [5.0, 5.0]


def test_ema_decay_warms_up_to_the_configured_one() -> None:
    config = train.FitConfig(steps=1, ema_decay=0.99)
    assert [ema_decay_at(config, step) for step in (0, 8, 10**4)] == [0.1, 0.5, 0.99]


# --- the loop against a plain one -------------------------------------------------------------------------------


def plain_loop(config: train.FitConfig, grow: int) -> tuple[nn.Module, nn.Module, list[float]]:
    """The textbook: unfused, unbatched operations, batches of `grow` consecutive indices joined."""
    model, ema = make_model(0.0), make_model(0.0)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(config.beta1, config.beta2), foreach=False, fused=False)
    norms = []
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = train.learning_rate(config, step)
        batches = [batch_at(step * grow + i, 0, 1) for i in range(grow)]
        batch = {name: torch.cat([b[name] for b in batches]) for name in ("x", "y")}
        optimizer.zero_grad()
        sum(loss_terms(model, batch, step).values()).backward()  # type: ignore[union-attr]
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))  # type: ignore[union-attr]
        norms.append(norm)
        for p in model.parameters():
            assert p.grad is not None
            p.grad *= min(1.0, config.clip_norm / norm)
        optimizer.step()
        decay = min(config.ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for average, p in zip(ema.parameters(), model.parameters(), strict=True):
                average.copy_(decay * average + (1 - decay) * p)
    return model, ema, norms


@pytest.mark.parametrize("accumulate", [1, 4])
def test_fit_takes_the_steps_of_a_plain_loop_on_the_joined_batch(tmp_path: Path, accumulate: int) -> None:
    changes = {"clip_norm": 0.3, "weight_decay": 0.5, "accumulate": accumulate, "log_every": 1}
    result = toy_fit(tmp_path, dropout=0.0, **changes)
    model, ema, norms = plain_loop(train.FitConfig(**CONFIG | changes), accumulate)
    torch.testing.assert_close(parameters_of(result.model), parameters_of(model), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parameters_of(result.ema), parameters_of(ema), rtol=1e-4, atol=1e-5)
    logged = [line["grad_norm"] for line in RunDir(tmp_path).read_log() if line["kind"] == "train"]
    assert logged == pytest.approx(norms, rel=1e-3)
    assert max(norms) > 0.3, "clipping was never put to the test"


def test_clip_norm_zero_never_clips(tmp_path: Path) -> None:
    def steep(model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        return {"steep": 1e3 * loss_terms(model, batch, step)["fit"]}

    for clip, bound in ((0.0, math.inf), (0.5, 0.5)):
        model = toy_fit(tmp_path / str(clip), terms=steep, clip_norm=clip, steps=5, warmup_steps=0).model
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))  # type: ignore[union-attr]
        assert 0.49 < norm <= bound + 1e-4
        assert norm > 1 or clip


def test_bfloat16_autocast_reaches_the_model_and_leaves_weights_float32(tmp_path: Path) -> None:
    seen = set()

    def terms(model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        out = model[0](batch["x"])  # type: ignore[index]
        seen.add(out.dtype)
        return loss_terms(model, batch, step)

    result = toy_fit(tmp_path, terms=terms, steps=5, precision="bfloat16")
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in result.model.parameters()} == {torch.float32}


def test_batches_may_be_nested(tmp_path: Path) -> None:
    def nested(index: int, rank: int, world: int) -> tuple[object, ...]:
        batch = batch_at(index, rank, world)
        return ([batch["x"]], {"y": batch["y"]}, "words pass through")

    def terms(model: nn.Module, batch: tuple[list[Tensor], dict[str, Tensor], str], step: int) -> dict[str, Tensor]:
        assert batch[2] == "words pass through"
        return {"fit": (model(batch[0][0]) - batch[1]["y"]).square().mean()}

    config = train.FitConfig(steps=3, precision="float32")
    assert train.fit(make_model(), nested, terms, config, RunDir(tmp_path), seed=0, device="cpu").steps == 3


# --- what it tells ----------------------------------------------------------------------------------------------


def test_log_lines_are_means_and_evaluations_come_back(tmp_path: Path) -> None:
    each, means = toy_fit(tmp_path / "each", log_every=1), toy_fit(tmp_path / "means")
    ones = [line for line in RunDir(tmp_path / "each").read_log() if line["kind"] == "train"]
    sevens = [line for line in RunDir(tmp_path / "means").read_log() if line["kind"] == "train"]
    assert [line["step"] for line in sevens] == [7, 14, 21, 28, 35, 40]
    for line, until in zip(sevens, (7, 14, 21, 28, 35, 40), strict=True):
        part = ones[until - (5 if until == 40 else 7) : until]
        assert line["terms"]["fit"] == pytest.approx(sum(one["terms"]["fit"] for one in part) / len(part))
        assert line["loss"] == pytest.approx(sum(line["terms"].values()))
        assert line["lr"] == train.learning_rate(train.FitConfig(**CONFIG), until - 1)
        assert line["rate"] > 0
        assert line["seconds"] > 0
    assert [e["step"] for e in means.evaluations] == [10, 20, 30, 40]
    assert means.evaluations == each.evaluations
    assert set(means.evaluations[0]["values"]) == {"error", "draw"}
    assert means.evaluations[-1]["values"]["error"] < means.evaluations[0]["values"]["error"]


def test_evaluate_gets_the_average_in_eval_mode_without_gradients(tmp_path: Path) -> None:
    seen: list[tuple[bool, bool, Tensor]] = []

    def look(ema: nn.Module, step: int) -> dict[str, float]:
        seen.append((ema.training, torch.is_grad_enabled(), parameters_of(ema).clone()))
        return {}

    config = train.FitConfig(steps=5, lr=0.01, precision="float32", eval_every=2)
    run = RunDir(tmp_path)
    result = train.fit(make_model(), batch_at, loss_terms, config, run, seed=0, device="cpu", evaluate=look)
    assert [(training, grad) for training, grad, _ in seen] == [(False, False)] * 3
    torch.testing.assert_close(seen[-1][2], parameters_of(result.ema), rtol=0, atol=0)
    assert not torch.equal(seen[-1][2], parameters_of(result.model))
    assert not result.model.training
    assert not result.ema.training


def test_progress_goes_to_standard_error_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("inscape.journal.PLAIN_EVERY", 0.0)
    toy_fit(tmp_path, steps=9)
    out, err = capsys.readouterr()
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("step 9/9  loss ")
    assert "fit " in last
    assert "steps/s" in last
    assert last.endswith("0 s left")


def test_a_bar_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr("inscape.journal.REDRAW_EVERY", 0.0)
    toy_fit(tmp_path, steps=30)
    out, err = capsys.readouterr()
    assert out == ""
    assert "training" in err
    assert "loss" in err


def test_tensorboard_is_written_when_installed(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    toy_fit(tmp_path, steps=10)
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


# --- divergence -------------------------------------------------------------------------------------------------


def poisoned(at: int, how: str):
    def terms(model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        found = loss_terms(model, batch, step)
        if step == at and how == "term":
            found["size"] = found["size"] * math.inf
        if step == at and how == "gradient":  # sqrt is finite at 0 and its slope is not
            found["size"] = (model(batch["x"]) * 0).abs().sum().sqrt()
        return found

    return terms


@pytest.mark.parametrize(
    ("how", "named"), [("term", "loss term 'size' became inf"), ("gradient", "gradient became nan")]
)
@pytest.mark.parametrize("free", [True, False])
def test_divergence_names_term_and_step_and_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, named: str, free: bool
) -> None:
    """free=False is what an accelerator does: it looks only when it must, and still names the very step."""
    monkeypatch.setattr(train, "_reading_is_free", lambda device: free)
    models = []

    def terms(model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        models.append(model)
        return poisoned(7, how)(model, batch, step)

    with pytest.raises(train.TrainingDiverged, match=rf"{named} in step 8, .*checkpoint step_6 is whole") as caught:
        toy_fit(tmp_path, terms=terms, log_every=11)
    assert "\n" not in str(caught.value)
    assert len(models) == (8 if free else 9), "an accelerator looks at the next checkpoint at the latest"
    assert bool(parameters_of(models[0]).isfinite().all()) == free, "where looking is free, the step is not taken"
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step_3", "step_6"]
    assert toy_fit(tmp_path).steps == 40


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    def spoil(model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        found = loss_terms(model, batch, step)
        if step == 5:
            with torch.no_grad():
                model[4].bias[0] = math.nan  # type: ignore[index]
        return found

    with pytest.raises(train.TrainingDiverged, match=r"model weight '4.bias' became nan in step 6"):
        toy_fit(tmp_path, terms=spoil)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_3"]


def test_looking_late_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = toy_fit(tmp_path / "now")
    monkeypatch.setattr(train, "_reading_is_free", lambda device: False)
    late = toy_fit(tmp_path / "late")
    assert torch.equal(parameters_of(now.model), parameters_of(late.model))
    logs = [RunDir(tmp_path / name).read_log() for name in ("now", "late")]
    for line in (*logs[0], *logs[1]):
        line.pop("rate", None)
        line.pop("seconds", None)
    assert json.dumps(logs[0]) == json.dumps(logs[1])


def test_terms_must_stay_the_same(tmp_path: Path) -> None:
    def fickle(model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        found = loss_terms(model, batch, step)
        return found if step < 2 else {"fit": found["fit"]}

    with pytest.raises(ValueError, match=r"gave \('fit',\) after \('fit', 'size'\); every step needs the same"):
        toy_fit(tmp_path, terms=fickle)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch's own, on importing its compiler
def test_compiled_training_stays_near_the_eager_one(tmp_path: Path) -> None:
    eager, compiled = (toy_fit(tmp_path / str(c), dropout=0.0, compile=c) for c in (False, True))
    assert compiled.model._compiled_call_impl is not None
    torch.testing.assert_close(parameters_of(eager.model), parameters_of(compiled.model), rtol=1e-3, atol=1e-4)


def test_a_model_of_which_only_parts_are_called_has_its_layers_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the codec, which has no forward: compiling the whole would do nothing, in silence."""
    compiled: list[str] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: compiled.append(type(self).__name__))

    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.GELU()) for _ in range(3))

    train._compile(Parts())
    assert compiled == ["Sequential"] * 3
    compiled.clear()
    train._compile(nn.Linear(2, 2))
    assert compiled == ["Linear"]
    with pytest.raises(ValueError, match=r"fit.compile=true finds nothing to compile in Module; leave it out"):
        train._compile(nn.Module())


def test_the_log_is_on_the_disk_before_a_checkpoint_that_comes_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    sync, save = RunDir.sync_log, train.save_checkpoint
    monkeypatch.setattr(RunDir, "sync_log", lambda self: (told.append("log"), sync(self)))
    monkeypatch.setattr(train, "save_checkpoint", lambda *words: (told.append("checkpoint"), save(*words)))
    toy_fit(tmp_path)
    assert told[:2] == ["log", "checkpoint"]
    assert told.count("log") == told.count("checkpoint")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_no_step_waits_for_the_gpu(tmp_path: Path) -> None:
    """torch raises on any synchronisation between log lines."""

    def watched(model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        torch.cuda.set_sync_debug_mode("error" if 1 <= step < 8 else "default")
        return loss_terms(model, batch, step)

    config = train.FitConfig(steps=20, log_every=10)
    run = RunDir(tmp_path)
    result = train.fit(make_model(), batch_at, watched, config, run, seed=0, device="cuda")
    assert result.steps == 20
