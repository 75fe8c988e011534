"""The folder for the hub: what its readers find in it, and that nothing is lost on the way."""

import json
from pathlib import Path

import pytest
import tokenizers
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open

from inscape import VisualCodec
from inscape.codec import SHIPPED
from inscape.export import export
from inscape.nn.latent_codec import LatentCodecConfig
from inscape.nn.latent_encoder import LatentEncoderConfig
from inscape.studies.visual.model import load_codec, save_codec


@pytest.fixture(scope="module")
def folder(exported) -> Path:
    return exported("hf")[0]


def test_it_holds_four_files_and_the_config_tells_the_sizes(folder: Path, shipped: VisualCodec):
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    config = json.loads((folder / "config.json").read_text())
    assert (config["kind"], config["format"]) == ("inscape visual codec", 1)
    assert LatentEncoderConfig(**config["encoder"]) == shipped.trained.model.encoder.config
    assert LatentCodecConfig(**config["codec"]) == shipped.trained.model.config


def test_weights_stay_halves_where_nothing_is_lost_and_only_there(folder: Path, tiny, tmp_path: Path):
    sizes = [path.stat().st_size for path in (folder / "model.safetensors", SHIPPED)]
    assert abs(sizes[0] - sizes[1]) < 1000, "but for the words beside the weights"
    codec = tiny()
    save_codec(codec, tmp_path / "codec.safetensors")
    export("hf", tmp_path / "out", tmp_path)
    again = load_codec(tmp_path / "out").model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in codec.model.state_dict().items())


def test_the_weights_carry_their_vocabulary_and_so_does_tokenizer_json(folder: Path, shipped: VisualCodec):
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata()["tokenizer"] == (folder / "tokenizer.json").read_text()
    text = "a red ball is on the blue block"
    ids = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    assert ids == shipped.trained.tokenizer.encode([text])[0, 1:-1].tolist()


def test_the_card_is_one_that_the_hub_reads(folder: Path, tiny, tmp_path: Path):
    card = ModelCard.load(folder / "README.md")
    told = card.data.to_dict()
    assert (told["license"], told["library_name"]) == ("apache-2.0", "inscape")
    assert told["pipeline_tag"] == "sentence-similarity"
    assert "inscape" in told["tags"]
    assert SHIPPED.with_suffix(".md").read_text().strip() in card.text
    save_codec(tiny(), tmp_path / "codec.safetensors")
    export("hf", tmp_path / "out", tmp_path)
    assert "carry no account of themselves" in ModelCard.load(tmp_path / "out" / "README.md").text


def test_what_the_card_says_to_run_runs(folder: Path, monkeypatch, capsys):
    _, code, _ = (folder / "README.md").read_text().replace("```python", "```").split("```")
    exec(code.replace("this/folder", str(folder)), {})
    assert capsys.readouterr().out.startswith("['a red ball is on the blue block'] [")
