"""P6 as a run: from given weights, through its three trainings, killed in each of them and continued; and its pull."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from inscape.checkpoint import load_weights
from inscape.cluster.product import make_jobs
from inscape.codec import VisualCodec
from inscape.core.rundir import RunDir
from inscape.core.runner import Request, resume, run_study
from inscape.core.study import SMOKE, Context
from inscape.data.scenes import parse, split_of
from inscape.data.tokenizer import Tokenizer
from inscape.nn.latent_codec import LatentCodec, LatentCodecConfig
from inscape.nn.latent_encoder import LatentEncoderConfig
from inscape.nn.unet import UNet, UNetConfig
from inscape.studies.visual import codec_training, prior
from inscape.studies.visual.latent_prior import PRIOR_WEIGHTS, LatentPrior, Noise, load_prior
from inscape.studies.visual.model import CODEC_WEIGHTS, TrainedCodec, fingerprint, load_codec, save_codec
from inscape.studies.visual.objective import TrainingTuples
from inscape.studies.visual.roundtrip_terms import round_trip_terms
from inscape.studies.visual.sources import DataConfig, Mixture, open_source
from inscape.studies.visual.study import STUDY

SOURCE = open_source(DataConfig(facts=1))
SIZES = LatentCodecConfig(d=16, heads=2, ffn=16, dropout=0, patch=8, reader_layers=1, decoder_layers=1, z=16)


def tiny_codec(tokenizer: Tokenizer = SOURCE.tokenizer) -> TrainedCodec:
    torch.manual_seed(0)
    encoder = LatentEncoderConfig(
        vocab=tokenizer.vocab_size, d=16, layers=1, heads=2, ffn=16, dropout=0, head="light", coarse=4
    )
    return TrainedCodec(LatentCodec(encoder, SIZES).eval(), tokenizer)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("begun") / "codec.safetensors"
    save_codec(tiny_codec(), path)
    return path


def run_in(root: Path, codec: Path) -> RunDir:
    wish = Request(preset=SMOKE, device="cpu", root=root, overrides=(f"codec={codec}",))
    (run,) = run_study(STUDY, [STUDY.phase("P6")], wish, lambda _: None, lambda _: None)
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, begun: Path) -> RunDir:
    return run_in(tmp_path_factory.mktemp("whole"), begun)


def dying(fit: Callable[..., Any], part: str) -> Callable[..., Any]:
    """`fit` that is killed in the third step of the training that lies in `part`; smoke: in the run itself."""

    def fit_until(model: Any, batch_at: Any, loss_terms: Any, config: Any, run: RunDir, **words: Any) -> Any:
        def terms(model: Any, batch: Any, step: int) -> Any:
            if step == 2 and (run.path.name == part or (part == SMOKE and run.path.parent.name == part)):
                raise KeyboardInterrupt
            return loss_terms(model, batch, step)

        return fit(model, batch_at, terms, config, run, **words)

    return fit_until


# --- from given weights ---------------------------------------------------------------------------------------------


def test_named_weights_take_the_place_of_p5s_run(whole: RunDir):
    assert whole.read_json(RunDir.ENV)["inputs"] == {}
    phase = STUDY.phase("P6")
    assert phase.builds_on(phase.preset(SMOKE)) == ("P5",)
    assert phase.builds_on(replace(phase.preset(SMOKE), codec="shipped")) == ()


def test_the_gate_stays_shut_to_named_weights_and_without_them_a_run_is_wanted(tmp_path: Path, begun: Path):
    said: list[str] = []
    wish = Request(preset="quick", root=tmp_path, overrides=(f"codec={begun}",), device="cpu")
    assert run_study(STUDY, [STUDY.phase("P6")], wish, said.append, lambda _: None) == []
    assert "is shut" in said[0]
    with pytest.raises(ValueError, match=r"visual.P5 has no finished smoke run to build on"):
        run_study(STUDY, [STUDY.phase("P6")], Request(preset=SMOKE, root=tmp_path), said.append, lambda _: None)
    assert not list(tmp_path.rglob("env.json"))


def test_a_sweep_over_named_weights_wants_no_run_of_p5(tmp_path: Path, begun: Path):
    phase, codecs = STUDY.phase("P6"), [str(begun)]
    swept = make_jobs(STUDY, phase, SMOKE, {"codec": codecs, "pull.weight": ["1", "2"]}, [], tmp_path)
    assert len(swept) == 2
    with pytest.raises(ValueError, match=r"visual.P5 has no finished smoke run"):
        make_jobs(STUDY, phase, SMOKE, {"pull.weight": ["1", "2"]}, [], tmp_path)


def test_a_codec_that_is_not_there_or_of_other_text_is_refused_before_anything_is_written(tmp_path: Path):
    other = Tokenizer.train(["the cat sat on the mat", "the cat sat on the dog"], 400)
    save_codec(tiny_codec(other), tmp_path / "other.safetensors")
    for name, message in (("none", "does not exist"), ("other", "was trained on another corpus")):
        with pytest.raises(ValueError, match=message):
            run_in(tmp_path / "runs", tmp_path / f"{name}.safetensors")
    assert not (tmp_path / "runs").exists()


def test_text_files_are_passed_over(tmp_path: Path):
    (tmp_path / "own.txt").write_text("\n".join(f"sentence number {i}" for i in range(200)))
    config = replace(STUDY.phase("P6").preset(SMOKE), data=DataConfig(text=str(tmp_path / "own.txt")))
    assert "scene grammar" in prior.PHASE.skip(config)  # type: ignore[misc]
    assert prior.PHASE.skip(STUDY.phase("P6").preset(SMOKE)) == ""  # type: ignore[misc]


# --- the trainings --------------------------------------------------------------------------------------------------


def test_the_run_says_what_became_of_the_metrics_of_p5_and_of_retrieval_under_a_shift(whole: RunDir):
    found = whole.read_json(RunDir.METRICS)
    assert found is not None
    names = {"graph_f1", "rouge_l", "round_trip_cosine", "graph_f1_drop", "rouge_l_rise", "round_trip_cosine_drop"}
    assert names | {"recall_at_1_under_shift", "recall_drop_of_shifted", "moved_by_training"} <= set(found)
    assert found["graph_f1_drop"]["n"] == 8, "half of smoke's sentences"


@pytest.mark.parametrize("preset", ["quick", "small", "full"])
def test_the_codec_is_trained_on_with_p5s_own_terms_and_under_jitter_as_from_p3_on(preset: str):
    config, before = (STUDY.phase(code).preset(preset) for code in ("P6", "P5"))
    assert (config.training.objective, config.round_trip) == (before.training.objective, before.round_trip)
    objective = config.training.objective
    assert objective.invariance >= 0.2, "the plan's beta"
    assert objective.jitter.shift >= 2
    assert objective.jitter.shift_probability >= 0.5


def test_the_run_leaves_a_codec_that_moved_and_a_prior_that_samples(whole: RunDir, begun: Path):
    before, after = load_codec(begun).model.state_dict(), load_codec(whole.path).model.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith("encoder."))
    learned = load_prior(whole.path)
    assert learned.codec == fingerprint(load_codec(whole.path).model) != fingerprint(load_codec(begun).model)
    assert learned.net.normaliser.std_C.ne(1).all(), "the normaliser was measured"
    assert any(bool(p.ne(0).any()) for p in learned.net.leave.parameters()), "a fresh net's last layer is 0"
    drawn = VisualCodec.from_pretrained(whole.path).sample(2, steps=2)
    assert drawn.latents.shape == (2, 6, 32, 32)
    told = json.loads((whole.path / "examples.json").read_text())
    assert len(told) == 40 == sum(set(row) == {"sample", "cosine", "parsed"} for row in told)


def test_with_and_without_the_prior_the_batches_and_steps_are_the_same(whole: RunDir):
    lines = [
        [line for line in RunDir(path).read_log() if line["kind"] == "train"]
        for path in (whole.path, whole.path / "without_prior")
    ]
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]] == [1, 2, 3]
    terms, others = lines[0][0]["terms"], lines[1][0]["terms"]
    assert set(terms) - set(others) == {"prior"}
    assert {"cycle", "copies"} <= set(others), "P5's own terms, in both trainings"
    assert {name: terms[name] for name in others} == pytest.approx(others), "the first step sees equal weights"


@pytest.mark.parametrize("part", ["prior", "without_prior", SMOKE])
def test_a_run_that_was_killed_in_any_part_resumes_bit_for_bit(
    part: str, whole: RunDir, begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("measure_kept", "measure_denoise", "measure_codecs"):  # weights are compared, and take seconds less
        monkeypatch.setattr(prior, name, lambda *_: {})
    monkeypatch.setattr(prior, "measure_drawn", lambda *_: ({}, None))
    for name in ("draw_latents", "draw_samples", "examples"):
        monkeypatch.setattr(prior, name, lambda *_: [])
    with monkeypatch.context() as patch:
        for module in (prior, codec_training):
            patch.setattr(module, "fit", dying(module.fit, part))
        with pytest.raises(KeyboardInterrupt):
            run_in(tmp_path, begun)
    (found,) = (path.parent for path in tmp_path.rglob("env.json"))
    resume(STUDY, RunDir.open(found), lambda _: None)
    for name in (CODEC_WEIGHTS, PRIOR_WEIGHTS):
        ours, theirs = load_weights(found / name), load_weights(whole.path / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


# --- the pull -------------------------------------------------------------------------------------------------------


def batch_of() -> TrainingTuples:
    return TrainingTuples(*map(torch.from_numpy, SOURCE.tuples_at(0, 0, 0, 1, 8, Mixture())))


def pulled(weight: float, seen: list[Tensor] | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor], LatentCodec]:
    """The terms with the prior, those without, and the model; `seen` collects the levels."""
    torch.manual_seed(0)
    net = UNet(UNetConfig(width=4, multipliers=(1, 2), heads=2, groups=2))
    config = replace(STUDY.phase("P6").preset(SMOKE), pull=prior.Pull(weight, 0.25, 0.3))
    codec, batch, vocab = tiny_codec(), batch_of(), SOURCE.tokenizer.vocab_size
    with pytest.MonkeyPatch.context() as patch:
        if seen is not None:
            patch.setattr(prior, "prior_loss", lambda p, n, v, level, g: seen.append(level) or v.sum())
        torch.manual_seed(1)
        terms = prior.terms_with(config, LatentPrior(net, Noise()), vocab)(codec.model, batch, 0)
    torch.manual_seed(1)
    plain = round_trip_terms(codec.model, batch, 0, config.training.objective, config.round_trip, vocab)
    return terms, plain, codec.model


def test_the_pull_is_one_term_more_and_proportional_to_its_weight():
    terms, plain, _ = pulled(1.0)
    assert set(terms) - set(plain) == {"prior"}
    assert {name: terms[name].item() for name in plain} == {name: value.item() for name, value in plain.items()}
    assert pulled(2.0)[0]["prior"].item() == pytest.approx(2 * terms["prior"].item())
    assert pulled(0.0)[0]["prior"].item() == 0 < terms["prior"].item()


def test_the_pull_moves_the_encoder_and_nothing_else():
    terms, _, model = pulled(1.0)
    terms["prior"].backward()
    moved = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"encoder"}


def test_levels_are_drawn_for_each_sentence_in_the_range():
    levels: list[Tensor] = []
    pulled(1.0, levels)
    (level_B,) = levels
    assert len(level_B) == len(level_B.unique()) == len(batch_of().sentence_BT)
    assert 0.25 <= level_B.min() < level_B.max() <= 0.3


def test_the_buffer_holds_latents_of_training_sentences(tmp_path: Path):
    config = STUDY.phase("P6").preset(SMOKE)
    config = replace(config, learned=replace(config.learned, latents=70))
    trained = prior.learn_prior(Context(config, 0, "cpu", SMOKE, RunDir(tmp_path), {}), tiny_codec(), SOURCE)
    assert trained.latent_KCHW.shape == (70, 6, 32, 32)
    assert len(trained.scenes) == 70
    assert {split_of(scene) for scene in trained.scenes} == {"train"}
    first_BT = SOURCE.batch_at(0, 0, 0, 1, 64)
    ours = tiny_codec().model.encode(torch.from_numpy(first_BT))
    torch.testing.assert_close(trained.latent_KCHW[:64], ours.detach(), rtol=1e-3, atol=1e-3)
    assert trained.scenes[:64] == [parse(text) for text in SOURCE.tokenizer.decode(first_BT)]
