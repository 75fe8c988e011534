"""`VisualCodec.sample`: latents out of noise with their sentences, where a prior lies beside the weights."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch

from inscape.codec import Latents, VisualCodec
from inscape.export import export
from inscape.nn.latent_codec import LatentCodec, LatentCodecConfig
from inscape.nn.latent_encoder import LatentEncoderConfig
from inscape.nn.unet import UNet, UNetConfig
from inscape.studies.visual.latent_prior import PRIOR_WEIGHTS, LatentPrior, Noise, prior_beside, sampled, save_prior
from inscape.studies.visual.model import CODEC_WEIGHTS, MODEL_WEIGHTS, TrainedCodec, fingerprint, save_codec
from inscape.studies.visual.paraphrasing import meaning_of
from inscape.studies.visual.sources import DataConfig, open_source

TOKENIZER = open_source(DataConfig()).tokenizer
SIZES = LatentCodecConfig(d=16, heads=2, ffn=16, patch=8, reader_layers=1, decoder_layers=1, readout_layers=0)


def tiny_prior(channels: int = 6) -> LatentPrior:
    torch.manual_seed(0)
    net = UNet(UNetConfig(channels=channels, width=4, multipliers=(1, 2), heads=2, groups=2)).eval()
    for parameter in net.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return LatentPrior(net.requires_grad_(False), Noise())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a run of P6 leaves it."""
    path = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    encoder = LatentEncoderConfig(vocab=TOKENIZER.vocab_size, d=16, layers=1, heads=2, ffn=16, head="light", coarse=4)
    model = LatentCodec(encoder, SIZES).eval()
    save_codec(TrainedCodec(model, TOKENIZER), path / CODEC_WEIGHTS)
    save_prior(tiny_prior()._replace(codec=fingerprint(model)), path / PRIOR_WEIGHTS)
    return path


@pytest.fixture(scope="module")
def codec(folder: Path) -> VisualCodec:
    return VisualCodec.from_pretrained(folder)


def test_samples_are_latents_with_what_is_read_off_them(codec: VisualCodec):
    assert codec.samples
    drawn = codec.sample(3, steps=2, seed=5)
    assert isinstance(drawn.latents, Latents)
    assert drawn.latents.shape == (3, *codec.latent_shape)
    assert drawn.latents.to_hwc().shape == (3, 32, 32, 6)
    assert drawn.sentences == codec.decode(drawn.latents)
    assert torch.equal(drawn.latents, sampled(tiny_prior(), 3, codec.latent_shape, 2, 5))


def test_a_seed_names_the_samples_and_others_give_others(codec: VisualCodec):
    first = codec.sample(2, steps=2, seed=1)
    assert torch.equal(codec.sample(2, steps=2, seed=1).latents, first.latents)
    assert not torch.equal(codec.sample(2, steps=2, seed=2).latents, first.latents)
    assert not torch.equal(codec.sample(2, steps=3, seed=1).latents, first.latents)


def test_constrained_samples_are_sentences_of_the_grammar(codec: VisualCodec):
    free, ruled = codec.sample(4, steps=2), codec.sample(4, steps=2, constrained=True)
    assert torch.equal(free.latents, ruled.latents)
    assert all(meaning_of(sentence) for sentence in ruled.sentences)
    assert not all(meaning_of(sentence) for sentence in free.sentences), "an untrained decoder says anything"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"n": 0}, "n=0 is out of range; allowed: a whole number from 1 to 1000"),
        ({"n": 1001}, "n=1001 is out of range"),
        ({"n": True}, "n=True is out of range"),
        ({"steps": 0}, "steps=0 is out of range; allowed: a whole number from 1 to 1000"),
        ({"steps": 2.5}, "steps=2.5 is out of range"),
        ({"seed": -1}, "seed=-1 is out of range"),
    ],
)
def test_what_cannot_be_drawn_is_refused(codec: VisualCodec, words: dict, message: str):
    with pytest.raises(ValueError, match=message):
        codec.sample(**words)


def test_a_codec_without_a_prior_says_so_in_one_line(folder: Path, tmp_path: Path):
    shutil.copy(folder / CODEC_WEIGHTS, tmp_path / CODEC_WEIGHTS)
    alone = VisualCodec.from_pretrained(tmp_path)
    assert not alone.samples
    with pytest.raises(ValueError, match=r"^there is no latent prior beside these weights.*give a run of visual.P6$"):
        alone.sample()


def test_a_damaged_prior_or_another_codecs_is_found_when_it_is_asked_for(folder: Path, tmp_path: Path):
    shutil.copy(folder / CODEC_WEIGHTS, tmp_path / CODEC_WEIGHTS)
    save_prior(tiny_prior(channels=4), tmp_path / PRIOR_WEIGHTS)
    other = VisualCodec.from_pretrained(tmp_path)
    assert len(other.encode(["a red ball is on the blue block"])) == 1
    with pytest.raises(ValueError, match="give the codec that it was trained with"):
        other.sample()
    (tmp_path / PRIOR_WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"^[^\n]*prior.safetensors[^\n]*$"):
        VisualCodec.from_pretrained(tmp_path).sample()


def test_a_prior_knows_its_codec_among_those_of_one_shape(folder: Path, codec: VisualCodec, tmp_path: Path):
    shutil.copy(folder / PRIOR_WEIGHTS, tmp_path / PRIOR_WEIGHTS)
    other = copy.deepcopy(codec.trained)
    save_codec(other, tmp_path / CODEC_WEIGHTS, half=True)
    again = VisualCodec.from_pretrained(tmp_path).sample(1, steps=2)
    assert torch.equal(again.latents, codec.sample(1, steps=2).latents), "the same codec, as halves"
    next(other.model.decoder.parameters()).data[0, 0] += 1
    save_codec(other, tmp_path / CODEC_WEIGHTS)
    message = r"prior.safetensors was trained with another codec: give the codec that it was trained with$"
    with pytest.raises(ValueError, match=message):
        VisualCodec.from_pretrained(tmp_path).sample()
    with pytest.raises(ValueError, match=message):
        export("hf", tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()
    save_prior(tiny_prior(), tmp_path / PRIOR_WEIGHTS)
    assert len(VisualCodec.from_pretrained(tmp_path).sample(1, steps=2).sentences) == 1, "one that does not say"


def test_which_prior_lies_beside_which_weights(folder: Path, tmp_path: Path):
    assert prior_beside(folder) == prior_beside(folder / CODEC_WEIGHTS) == folder / PRIOR_WEIGHTS
    for name in ("visual-small.safetensors", MODEL_WEIGHTS, PRIOR_WEIGHTS, "visual-small-prior.safetensors"):
        (tmp_path / name).touch()
    assert prior_beside(tmp_path / MODEL_WEIGHTS) == tmp_path / PRIOR_WEIGHTS
    assert prior_beside(tmp_path / "visual-small.safetensors") == tmp_path / "visual-small-prior.safetensors"
    assert prior_beside(tmp_path / "visual-full.safetensors") is None, "the prior of some other codec"
    assert prior_beside(tmp_path / f"{'x' * 240}.safetensors") is None, "no disk takes a name as long as its prior's"


def test_a_folder_for_the_hub_carries_the_prior(folder: Path, codec: VisualCodec, tmp_path: Path):
    export("hf", tmp_path / "with", folder)
    theirs = VisualCodec.from_pretrained(tmp_path / "with")
    assert torch.equal(theirs.sample(2, steps=2).latents, codec.sample(2, steps=2).latents)
    shutil.copy(folder / CODEC_WEIGHTS, tmp_path / "alone.safetensors")
    export("hf", tmp_path / "without", tmp_path / "alone.safetensors")
    assert not (tmp_path / "without" / PRIOR_WEIGHTS).exists()
