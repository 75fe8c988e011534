"""Weights files: what does not fit together is refused in one line, and before memory is taken for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_visual_beginning import fresh

from inscape.nn.latent_codec import LatentCodec
from inscape.studies.visual.model import load, load_codec, save_codec


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
