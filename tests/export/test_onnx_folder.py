"""The folder for onnxruntime: its README is run as it stands, without torch, and says what the codec says."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from inscape import VisualCodec
from inscape.codec import SHIPPED
from inscape.data.scenes import render, sample

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

SENTENCES = [render(sample(1000 + i, facts=1 + i % 3), np.random.default_rng(i)) for i in range(50)]


@pytest.fixture(scope="module")
def folder(exported) -> Path:
    out, said = exported("onnx")
    assert re.fullmatch(r".*: encoder.onnx 5.\d MB, readout.onnx 5.\d MB, decoder_step.onnx 2.\d MB", said)
    return out


def code(folder: Path) -> str:
    (found,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return found


def test_the_readme_reads_fifty_sentences_as_the_codec_does(folder: Path, shipped: VisualCodec, monkeypatch):
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(code(folder), names)
    latent_BCHW = names["encode"](SENTENCES)
    np.testing.assert_allclose(latent_BCHW, shipped.encode(SENTENCES).numpy(), rtol=0, atol=1e-4)
    wanted = shipped.decode(shipped.encode(SENTENCES))
    assert names["decode"](latent_BCHW) == wanted
    assert len(set(wanted)) > 45  # and not one sentence fifty times
    noise_BCHW = np.random.default_rng(0).standard_normal((4, *shipped.latent_shape), dtype=np.float32)
    import torch

    assert names["decode"](noise_BCHW) == shipped.decode(torch.from_numpy(noise_BCHW))


def test_the_readme_runs_without_torch_and_without_this_package(folder: Path):
    script = f"import sys\nsys.modules['torch'] = sys.modules['inscape'] = None\n{code(folder)}"
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['a red ball is on the blue block', 'two green cones are next to a gray ring']"
    assert len([line for line in code(folder).splitlines() if line.strip()]) <= 36


def test_the_config_describes_the_graphs_as_onnxruntime_sees_them(folder: Path, shipped: VisualCodec):
    config = json.loads((folder / "config.json").read_text())
    assert config["latent_shape"] == list(shipped.latent_shape)
    assert (config["max_length"], config["vocab_size"]) == (64, shipped.trained.tokenizer.vocab_size)
    assert (config["special_ids"]["pad"], config["start_id"]) == (0, config["special_ids"]["copy"])
    for graph in config["graphs"].values():
        session = onnxruntime.InferenceSession(folder / graph["file"], providers=["CPUExecutionProvider"])
        for described, values in ((graph["inputs"], session.get_inputs()), (graph["outputs"], session.get_outputs())):
            assert list(described) == [value.name for value in values]
            for value in values:
                assert described[value.name]["shape"] == value.shape
                assert {"float32": "float", "int64": "int64"}[described[value.name]["type"]] in value.type
    memory = config["graphs"]["decoder_step"]["outputs"]["attention"]["shape"][1]
    assert memory == np.prod(config["memory"]["patch_grid"]) + config["memory"]["z_places"]


def test_it_holds_these_files_and_its_card_the_weights_own_account(folder: Path):
    graphs = {"encoder.onnx", "readout.onnx", "decoder_step.onnx"}
    assert {path.name for path in folder.iterdir()} == graphs | {"README.md", "config.json", "tokenizer.json"}
    assert SHIPPED.with_suffix(".md").read_text().strip() in (folder / "README.md").read_text()
