"""The door of every export: what is refused, that it is refused before anything is written, and what is said."""

import sys
from pathlib import Path

import pytest

import inscape.export
from inscape import VisualCodec
from inscape.core.rundir import RunDir
from inscape.export import FORMATS, export
from inscape.studies.visual.model import WEIGHTS, save_codec, save_encoder


def refused(message: str, *given) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        export(*given)
    assert "\n" not in str(caught.value)


def test_an_unknown_format_is_named_with_those_that_are_known(tmp_path: Path):
    refused("'gguf' is not known; allowed: hf, sbert, onnx, web", "gguf", tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", FORMATS)
def test_a_place_that_is_taken_or_impossible_is_refused(format: str, tmp_path: Path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    refused("full exists and is not empty; give the name of a new folder", format, tmp_path / "full")
    refused("file is a file; give the name of a new folder", format, tmp_path / "file")
    refused("out cannot be written: its parent folder is missing", format, tmp_path / "nowhere" / "out")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "mine.txt"]


@pytest.mark.parametrize("format", FORMATS)
def test_an_encoder_alone_is_refused(format: str, tiny, tmp_path: Path):
    run = tmp_path / "run"
    run.mkdir()
    save_encoder(tiny().to_latent, RunDir(run))
    for weights in (run, run / WEIGHTS):
        refused("an encoder of P1, which can only encode", format, tmp_path / "out", weights)
    refused("missing.safetensors does not exist", format, tmp_path / "out", tmp_path / "missing.safetensors")
    assert list(tmp_path.iterdir()) == [run]


@pytest.mark.parametrize("format", FORMATS)
def test_a_decoder_that_was_never_trained_is_refused(format: str, tiny, tmp_path: Path):
    weights = tmp_path / "codec.safetensors"
    save_codec(tiny()._replace(reads_back=False), weights)
    refused("the decoder of these weights is not trained yet", format, tmp_path / "out", weights)
    assert list(tmp_path.iterdir()) == [weights]


@pytest.mark.parametrize(
    ("format", "package", "extra"),
    [("sbert", "sentence_transformers", "sbert"), ("onnx", "onnxruntime", "onnx"), ("web", "onnx", "onnx")],
)
def test_a_missing_package_is_named_with_its_extra(format: str, package: str, extra: str, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    refused(
        rf"export --format {format} needs the package {package}: pip install 'inscape\[{extra}\]'", format, tmp_path
    )
    assert not list(tmp_path.iterdir())


def test_a_failure_half_way_leaves_nothing_behind(shipped: VisualCodec, tmp_path: Path, monkeypatch):
    def fill(codec, about, folder):
        (folder / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(inscape.export, "_writer", lambda format: fill)
    refused("out cannot be written: No space left on device", "hf", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_filled_and_a_new_one_is_made(tiny, tmp_path: Path):
    save_codec(tiny(), tmp_path / "codec.safetensors")
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new"):
        said = export("hf", tmp_path / name, tmp_path / "codec.safetensors")
        assert said.startswith(f"{tmp_path / name}: model, tokenizer and card")
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o755
    assert {path.name for path in tmp_path.iterdir()} == {"codec.safetensors", "empty", "new"}
