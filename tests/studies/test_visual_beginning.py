"""The beginning of a training: which parts move in which of its two halves, and that a finished half is not redone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from inscape.core.rundir import RunDir
from inscape.core.study import Context
from inscape.nn.latent_codec import LatentCodec, LatentCodecConfig
from inscape.nn.latent_encoder import LatentEncoder, LatentEncoderConfig
from inscape.studies.visual.beginning import Beginning, begin_codec
from inscape.studies.visual.codec_training import Training, new_codec, train_codec
from inscape.studies.visual.model import TextToLatent, TrainedCodec
from inscape.studies.visual.objective import Objective, TrainingTuples, past_terms
from inscape.studies.visual.sources import DataConfig, open_source
from inscape.train import FitConfig

SIZES = {"d": 16, "heads": 2, "ffn": 24, "dropout": 0.0}
SOURCE = open_source(DataConfig(facts=1))
FIT = FitConfig(steps=9, lr=1e-3, warmup_steps=1, eval_every=9, log_every=9, checkpoint_every=9, precision="float32")
TRAINING = Training(batch=4, objective=Objective(dimensions=2), fit=FIT)


def context_in(folder: Path) -> Context:
    return Context(config=None, seed=0, device="cpu", preset="smoke", run=RunDir(folder), inputs={})


def fresh(readout: str = "spatial") -> TrainedCodec:
    torch.manual_seed(0)
    encoder = LatentEncoder(
        LatentEncoderConfig(vocab=SOURCE.tokenizer.vocab_size, layers=1, head_ffn=24, head="light", coarse=4, **SIZES)
    )
    config = LatentCodecConfig(patch=8, reader_layers=1, decoder_layers=1, readout=readout, z=8, **SIZES)
    return new_codec(TextToLatent(encoder, SOURCE.tokenizer), config, seed=0)


def moved(before: TrainedCodec, after: TrainedCodec) -> set[str]:
    old = dict(before.model.named_parameters())
    names = {name for name, p in after.model.named_parameters() if not torch.equal(p, old[name])}
    return {"picture" if name.startswith(("encoder.head.paint.", "reader.")) else "text" for name in names}


def begun(folder: Path, **settings: object) -> TrainedCodec:
    return begin_codec(context_in(folder), fresh(), SOURCE, TRAINING, Beginning(**settings))


def test_text_and_decoder_move_first_then_the_picture_alone(tmp_path: Path):
    past = begun(tmp_path, past=2)
    assert moved(fresh(), past) == {"text"}
    both = begun(tmp_path, past=2, picture=2)
    assert moved(past, both) == {"picture"}
    assert all(parameter.requires_grad for parameter in both.model.parameters())


def test_each_half_leaves_checkpoints_and_is_not_done_twice(tmp_path: Path):
    first = begun(tmp_path, past=2, picture=2)
    saved = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")}
    assert {path.parts[len(tmp_path.parts)] for path in saved} == {"past", "picture"}
    again = begun(tmp_path, past=2, picture=2)
    assert moved(first, again) == set()
    assert {path: path.stat().st_mtime_ns for path in saved} == saved


def test_noise_grows_over_the_first_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    noises: list[float] = []

    def watched(model: LatentCodec, batch: TrainingTuples, objective: Objective, noise: float) -> dict[str, Tensor]:
        noises.append(noise)
        return past_terms(model, batch, objective, noise)

    monkeypatch.setattr("inscape.studies.visual.beginning.past_terms", watched)
    begun(tmp_path, past=4, past_noise=0.4)
    assert noises == pytest.approx([0.0, 0.2, 0.4, 0.4])


def test_a_decoder_that_never_moved_is_said_to_be_untrained(tmp_path: Path):
    def trained(frozen: tuple[str, ...], name: str, codec: TrainedCodec) -> TrainedCodec:
        (tmp_path / name).mkdir()
        return train_codec(context_in(tmp_path / name), codec, SOURCE, TRAINING, frozen=frozen)[0]

    assert not fresh().reads_back
    plan = trained(("reader", "z_enter", "decoder"), "plan", fresh())
    assert not plan.reads_back
    assert not trained(("decoder",), "plan goes on", plan).reads_back
    joint = trained((), "joint", plan)
    assert joint.reads_back
    assert trained(("decoder",), "joint goes on", joint).reads_back
    assert begun(tmp_path / "begun", past=1).reads_back


def test_no_steps_no_change(tmp_path: Path):
    assert moved(fresh(), begun(tmp_path)) == set()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"past": -1}, r"beginning.past=-1 .* allowed: 0 or more steps"),
        ({"picture_lr": 0.0}, r"beginning.picture_lr=0.0 .* allowed: above 0"),
        ({"past_noise": float("nan")}, r"beginning.past_noise=nan .* allowed: 0 or more"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        Beginning(**settings)


def test_a_readout_that_reads_v_alone_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"codec.readout=spatial"):
        begin_codec(context_in(tmp_path), fresh("pooled"), SOURCE, TRAINING, Beginning(past=1))
    assert list(tmp_path.iterdir()) == []
