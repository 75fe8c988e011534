"""Names of models: what is taken as a path, what is fetched, and what is said when it cannot be."""

import shutil
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects

from inscape import VisualCodec
from inscape.codec import SHIPPED
from inscape.export.hub import FILES, about_weights, resolve_pretrained
from inscape.nn.unet import UNet, UNetConfig
from inscape.studies.visual.latent_prior import PRIOR_WEIGHTS, LatentPrior, Noise, save_prior
from inscape.studies.visual.model import load_codec, load_encoder, save_codec

SENTENCES = ["a red ball is on the blue block"]
NAME = "somebody/scene-codec_1.0"


@pytest.fixture(scope="module")
def folder(exported) -> Path:
    return exported("hf")[0]


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch) -> list[str]:
    """A hub with one repository, which also holds a prior and a pickle; returns the names that were asked for."""
    asked = []

    def snapshot_download(name: str, *, allow_patterns: list[str]) -> str:
        asked.append(name)
        if name != NAME:
            answer = type("Response", (), {"headers": {}, "request": None})()
            raise huggingface_hub.errors.RepositoryNotFoundError("404 Client Error.\n\nNo such thing", response=answer)
        cache = tmp_path / "cache"
        cache.mkdir(exist_ok=True)
        for file in filter_repo_objects([*FILES, "pytorch_model.bin", "evil.py"], allow_patterns=allow_patterns):
            if file == PRIOR_WEIGHTS:
                save_prior(LatentPrior(UNet(UNetConfig(width=8, multipliers=(1,))), Noise()), cache / file)
            else:
                shutil.copy(folder / file, cache / file)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    return asked


def test_an_exported_folder_and_its_file_are_understood(folder: Path, shipped: VisualCodec):
    for weights in (folder, str(folder), folder / "model.safetensors"):
        assert resolve_pretrained(weights) == Path(weights)
        assert torch.equal(VisualCodec.from_pretrained(weights).encode(SENTENCES), shipped.encode(SENTENCES))
    assert torch.equal(load_codec(folder).model.embed(shipped.encode(SENTENCES)), shipped.embed(SENTENCES))
    assert load_encoder(folder).tokenizer.fingerprint == shipped.trained.tokenizer.fingerprint


def test_a_name_is_fetched_and_nothing_pickled_with_it(hub: list[str], tmp_path: Path, shipped: VisualCodec):
    for name in (NAME, Path(NAME)):
        assert torch.equal(VisualCodec.from_pretrained(name).encode(SENTENCES), shipped.encode(SENTENCES))
        assert VisualCodec.from_pretrained(name).sample(1, steps=1).latents.shape == (1, 6, 32, 32)
    assert hub == [NAME] * 4
    assert {path.name for path in (tmp_path / "cache").iterdir()} == set(FILES)
    assert all(name.endswith((".json", ".md", ".safetensors")) for name in FILES)


def test_what_is_on_the_disk_goes_before_the_hub(hub: list[str], tmp_path: Path, folder: Path):
    shutil.copytree(folder, tmp_path / NAME)
    assert resolve_pretrained(NAME) == Path(NAME)
    VisualCodec.from_pretrained(NAME)
    assert not hub


@pytest.mark.parametrize(
    "path",
    ["a", "a/b/c", "./a/b", "../a/b", "~/b", "/a", "a/b.safetensors", "a b/c", "a/", "-a/b", "a/é", "http://a/b"],
)
def test_what_cannot_be_a_repository_stays_a_path(path: str, hub: list[str]):
    assert resolve_pretrained(path) == Path(path)
    with pytest.raises(ValueError, match="does not exist; give a finished visual run or a weights file"):
        VisualCodec.from_pretrained(path)
    assert not hub


def one_line(name: str) -> str:
    with pytest.raises(ValueError, match=rf"^{name} ") as caught:
        VisualCodec.from_pretrained(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_name_that_the_hub_does_not_know_is_one_line(hub: list[str]):
    said = one_line("nobody/nothing")
    assert said.endswith("cannot be fetched from the hub: there is none of that name there, or it is private")


def test_without_a_network_it_is_one_line(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert "is no file or folder here, and cannot be fetched from the hub: Cannot find" in one_line("nobody/nothing")


def test_whatever_the_client_raises_is_one_line(monkeypatch):
    def broken(name, **options):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", broken)
    assert one_line("nobody/nothing").endswith("from the hub: first line")


def test_without_the_package_it_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "needs the package huggingface_hub: pip install 'inscape[sbert]'" in one_line("nobody/nothing")


def test_a_repository_without_weights_of_ours_is_refused(hub: list[str], folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: str(tmp_path))
    assert "on the hub has no model.safetensors" in one_line("somebody/bert")


def test_weights_say_what_they_are(folder: Path, shipped: VisualCodec, tmp_path: Path):
    card = SHIPPED.with_suffix(".md").read_text().strip()
    assert about_weights(SHIPPED) == about_weights(folder) == card
    save_codec(shipped.trained, tmp_path / "codec.safetensors")
    assert about_weights(tmp_path) == ""
