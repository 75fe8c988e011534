"""Weights files: what does not fit together is refused in one line, and before memory is taken for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_visual_beginning import fresh

from inscape.core.rundir import RunDir
from inscape.data.tokenizer import Tokenizer
from inscape.nn.latent_codec import LatentCodec
from inscape.nn.unet import UNet, UNetConfig
from inscape.studies.visual.latent_prior import LatentPrior, Noise, load_prior, save_prior
from inscape.studies.visual.model import load, load_codec, load_encoder, save_codec, save_encoder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "codec.safetensors"
    save_codec(fresh(), path)
    return path


def rewritten(file: Path, part: str, **change: object) -> Path:
    """The same file with other words in its metadata."""
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    save_file(load_file(file), file, metadata | {part: json.dumps(json.loads(metadata[part]) | change)})
    return file


def test_what_is_saved_is_what_is_read(file: Path):
    for name, value in load_codec(file).model.state_dict().items():
        assert torch.equal(value, fresh().model.state_dict()[name]), name


@pytest.mark.parametrize(
    ("part", "change"),
    [("config", {"ffn": 65_536}), ("config", {"z": 65_536}), ("encoder", {"vocab": 65_536, "ffn": 16_384})],
)
def test_sizes_that_the_weights_do_not_have_take_no_memory(
    file: Path, part: str, change: dict[str, int], monkeypatch: pytest.MonkeyPatch
):
    built = []

    def watched(*sizes: object) -> LatentCodec:
        built.append(torch.get_default_device().type)
        return LatentCodec(*sizes)  # type: ignore[arg-type]

    monkeypatch.setattr("inscape.studies.visual.model.LatentCodec", watched)
    load(file)
    assert built == ["meta", "cpu"]
    with pytest.raises(ValueError, match=r"codec.safetensors is damaged or of another version: .* is wanted$"):
        load(rewritten(file, part, **change))
    assert built == ["meta", "cpu", "meta"]


def test_fewer_layers_than_weights_are_refused(file: Path):
    with pytest.raises(ValueError, match=r"reader.layers.0.* where nothing is wanted$"):
        load(rewritten(file, "config", reader_layers=0))


def with_metadata(file: Path, **change: str) -> Path:
    """The same file with other parts of its metadata."""
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    save_file(load_file(file), file, metadata | change)
    return file


def with_weight(file: Path, name: str, value: float) -> Path:
    """The same file with one number of one weight changed."""
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    weights = load_file(file)
    weights[name].view(-1)[-1] = value
    save_file(weights, file, metadata)
    return file


NORM = "text_encoder.norm.weight"


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("half", [False, True])
def test_a_codec_with_a_weight_that_is_no_number_is_refused(file: Path, half: bool, value: float):
    save_codec(fresh(), file, half=half)
    load(with_weight(file, f"encoder.{NORM}", 2.0))
    with_weight(file, f"encoder.{NORM}", value)
    said = rf"holds weights that are no finite numbers \(encoder.{NORM}\); fetch or copy it again, or use another file$"
    for read in (load, load_codec, load_encoder):
        with pytest.raises(ValueError, match=f"^{file} {said}"):
            read(file)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_encoder_with_a_weight_that_is_no_number_is_refused(tmp_path: Path, value: float):
    file = with_weight(save_encoder(fresh().to_latent, RunDir(tmp_path)), NORM, value)
    for read in (load, load_encoder):
        with pytest.raises(ValueError, match=rf"encoder.safetensors holds weights that are no finite .*\({NORM}\)"):
            read(file)


def test_a_prior_with_a_weight_that_is_no_number_is_refused(tmp_path: Path):
    net = UNet(UNetConfig(width=8, multipliers=(1,), heads=1))
    save_prior(LatentPrior(net, Noise()), tmp_path / "prior.safetensors")
    load_prior(with_weight(tmp_path / "prior.safetensors", "normaliser.std_C", 2.0))
    with_weight(tmp_path / "prior.safetensors", "normaliser.std_C", torch.nan)
    with pytest.raises(ValueError, match=r"prior.safetensors holds weights that are no finite .*\(normaliser.std_C\)"):
        load_prior(tmp_path)


@pytest.mark.parametrize("ids", [300, 700])
def test_a_tokenizer_of_another_size_than_the_embedding_is_refused(file: Path, ids: int):
    rows, words = fresh().tokenizer.vocab_size, [f"word{n}" for n in range(400)] * 2
    other = Tokenizer.train(words, ids)
    said = rf"damaged or of another version: its tokenizer has {other.vocab_size} ids, and its embedding {rows} rows$"
    assert (other.vocab_size > rows) == (ids > rows)
    with pytest.raises(ValueError, match=f"codec.safetensors is {said}"):
        load(with_metadata(file, tokenizer=other.to_json()))
    encoder = save_encoder(fresh().to_latent, RunDir(file.parent))
    with pytest.raises(ValueError, match=f"encoder.safetensors is {said}"):
        load_encoder(with_metadata(encoder, tokenizer=other.to_json()))


def test_a_length_that_takes_the_memory_is_refused_with_the_name_of_the_file(file: Path):
    with pytest.raises(
        ValueError,
        match=r"codec.safetensors is damaged or of another version: encoder.max_length=50000000 is out of range; allow",
    ):
        load(rewritten(file, "encoder", max_length=50_000_000))


@pytest.mark.parametrize("read", [load, load_codec, load_encoder, load_prior])
def test_a_name_that_no_disk_takes_is_one_line(read):
    with pytest.raises(ValueError, match=r"^x+ cannot be read: File name too long; give another path$"):
        read(Path("x" * 300))
