"""The graphs say what torch says, whatever the batch, the length and the kind of codec."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inscape import VisualCodec
from inscape.data.scenes import render, sample
from inscape.data.tokenizer import COPY
from inscape.export import onnx_graphs as module
from inscape.export.onnx_graphs import OPSET, onnx_graphs
from inscape.nn.latent_codec import LatentCodec

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

SENTENCES = [render(sample(i, facts=1 + i % 3), np.random.default_rng(i)) for i in range(9)]


def sessions(codec: LatentCodec) -> dict:
    return {
        name: onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        for name, graph in onnx_graphs(codec).items()
    }


@pytest.fixture(scope="module")
def run(exported) -> dict:
    files = exported("onnx")[0].glob("*.onnx")
    return {file.stem: onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]) for file in files}


def same(found: np.ndarray, wanted: Tensor) -> None:
    np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("batch", "length"), [(1, 3), (1, 64), (2, 12), (3, 25), (9, 40)])
@torch.inference_mode()
def test_latents_at_any_batch_and_length_with_padding(run: dict, shipped: VisualCodec, batch: int, length: int):
    tokens_BT = torch.zeros(batch, length, dtype=torch.int64)
    for row, sentence in zip(tokens_BT, SENTENCES, strict=False):
        ids = torch.from_numpy(shipped.trained.tokenizer.encode([sentence], length, "truncate")[0])
        row[: len(ids)] = ids
    (latent_BCHW,) = run["encoder"].run(None, {"tokens": tokens_BT.numpy()})
    same(latent_BCHW, shipped.trained.model.encode(tokens_BT))


def test_latents_are_those_of_the_codec(run: dict, shipped: VisualCodec):
    tokens_BT = shipped.trained.tokenizer.encode(SENTENCES)
    (latent_BCHW,) = run["encoder"].run(None, {"tokens": tokens_BT})
    same(latent_BCHW, shipped.encode(SENTENCES))
    same(run["readout"].run(["z"], {"latent": latent_BCHW})[0], shipped.embed(SENTENCES))


@pytest.mark.parametrize("batch", [1, 2, 9])
@torch.inference_mode()
def test_steps_are_those_of_the_decoder_from_an_empty_past_to_a_full_one(run: dict, shipped: VisualCodec, batch: int):
    model, latent_BCHW = shipped.trained.model, shipped.encode(SENTENCES[:batch]).as_subclass(Tensor)
    states_BPD = model.reader(latent_BCHW)
    looked = model.decoder.look_up(model.memory(states_BPD, model.embed(latent_BCHW, states_BPD)))
    keys, values = run["readout"].run(["memory_keys", "memory_values"], {"latent": latent_BCHW.numpy()})
    fed = {
        "memory_keys": keys,
        "memory_values": values,
        "past_keys": keys[..., :0, :],
        "past_values": values[..., :0, :],
    }
    token_B, past, bias_BM = torch.full((batch,), COPY), None, torch.zeros(batch, keys.shape[3])
    for said in range(63):
        logits_BTV, past, attention_BTM = model.decoder(token_B[:, None], looked, bias_BM, past)
        logits_BV, attention_BM, fed["past_keys"], fed["past_values"] = run["decoder_step"].run(
            None, {"token": token_B.numpy(), **fed}
        )
        same(logits_BV, logits_BTV[:, 0])
        same(attention_BM, attention_BTM[:, 0])
        same(fed["past_keys"], torch.stack([pair.key for pair in past], 1))
        assert fed["past_keys"].shape[3] == said + 1
        token_B = logits_BTV[:, 0].argmax(-1)
    np.testing.assert_allclose(attention_BM.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize(("head", "readout"), [("light", "pooled"), ("grid", "spatial")])
def test_other_kinds_of_codec_are_exported_too(tiny, head: str, readout: str):
    codec = tiny(head, readout, smoothing=True, unit_amplitude=readout == "pooled", max_length=9, H=24, W=16)
    found = sessions(codec.model)
    tokens_BT = codec.tokenizer.encode(["a red ball is", "a"])
    (latent_BCHW,) = found["encoder"].run(None, {"tokens": tokens_BT})
    with torch.inference_mode():
        wanted_BCHW = codec.model.encode(torch.from_numpy(tokens_BT))
        same(latent_BCHW, wanted_BCHW)
        same(found["readout"].run(["z"], {"latent": latent_BCHW})[0], codec.model.embed(wanted_BCHW))


def test_a_head_that_cannot_be_traced_is_refused(tiny):
    with pytest.raises(ValueError, match=r"encoder\.head='slots' cannot be exported to ONNX; allowed: grid, light"):
        onnx_graphs(tiny("slots").model)


def test_graphs_that_would_differ_from_torch_are_not_let_out(tiny, monkeypatch):
    monkeypatch.setattr(module, "_PlainShapes", module._known_warnings)  # without what mends the exporter
    with pytest.raises((AssertionError, RuntimeError, onnxruntime.capi.onnxruntime_pybind11_state.Fail)):
        onnx_graphs(tiny().model)


class Plus(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by


def test_a_large_number_may_differ_by_no_more_than_a_small_one():
    def graph(by: float) -> module._Graph:
        some = {0: "batch"}
        return module._Graph(Plus(by), lambda batch, _: (torch.randn(batch, 4),), {"x": some}, {"sum": some})

    content = module._traced("plus", graph(100.0)).SerializeToString()
    module._compare("plus", graph(100.0), content)
    with pytest.raises(AssertionError, match=r"plus\.onnx, output sum"):  # a relative bound would allow 0.01
        module._compare("plus", graph(100.0005), content)


def test_graphs_are_plain_and_repeatable(tiny):
    first, second = onnx_graphs(tiny().model), onnx_graphs(tiny().model)
    for name, graph in first.items():
        assert graph.SerializeToString() == second[name].SerializeToString()
        assert [(part.domain, part.version) for part in graph.opset_import] == [("", OPSET)]
        assert str(Path(module.__file__).parents[1]).encode() not in graph.SerializeToString()
        kinds = {weight.data_type for weight in graph.graph.initializer}
        assert kinds <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
