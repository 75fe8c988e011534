"""The codec as three ONNX graphs, so that it runs where there is no torch: in onnxruntime, and in a browser.

    encoder        tokens -> latent
    readout        latent -> z, and the keys and values that cross-attention looks up in the decoder's memory
    decoder_step   one token -> logits of the next, where it looked, and the keys and values of all tokens so far

The memory's keys and values are projected once a latent, in the readout, so that a step's cost is that of one token.
They and the past have one layout, all layers in one array, and an empty past is a slice of length 0.

torch's newer exporter needs a package that the codec does not (onnxscript), so graphs are traced by the older one. Two
things about it are mended here: it infers wrong static shapes after `unflatten`, which `_PlainShapes` spells as a
reshape, and it leaves outputs' shapes open, which are written down afterwards. What it writes is compared with torch at
other sizes than those it was traced at before anyone sees it.

Legend: B batch, T tokens, S tokens said so far, C, H, W of the latent, Z width of z, L layers, H heads, M places of the
memory, E width of a head, V vocabulary.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from inscape.data.tokenizer import BOS, EOS, PAD
from inscape.extras import load_extra
from inscape.nn.decoder import Decoder, KeysValues
from inscape.nn.latent_codec import LatentCodec

__all__ = ["OPSET", "TOLERANCE", "onnx_graphs"]

OPSET = 17  # LayerNormalization is one operator from 17 on; onnxruntime-web reads up to 21
TOLERANCE = 1e-4  # absolute, against torch

Sizes = tuple[int, int]  # batch, length
TRACED, COMPARED = (1, 5), ((3, 9), (2, 0))


class _Graph(NamedTuple):
    """A module to trace, what to call it with at any batch and length, and the names of all that goes in and out.

    axes: name -> the names of its axes that may have any size, by their place.
    """

    module: nn.Module
    inputs: Callable[[int, int], tuple[Tensor, ...]]
    takes: dict[str, dict[int, str]]
    gives: dict[str, dict[int, str]]


class _Readout(nn.Module):
    def __init__(self, codec: LatentCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, latent_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states_BPD = self.codec.reader(latent_BCHW)
        z_BZ = self.codec.embed(latent_BCHW, states_BPD)
        return z_BZ, *_stacked(self.codec.decoder.look_up(self.codec.memory(states_BPD, z_BZ)))


class _DecoderStep(nn.Module):
    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, token_B: Tensor, keys_BLHME: Tensor, values_BLHME: Tensor, past_keys: Tensor, past_values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        bias_BM = torch.zeros_like(keys_BLHME[:, 0, 0, :, 0])
        looked, past = _apart(keys_BLHME, values_BLHME), _apart(past_keys, past_values)
        logits_B1V, kept, attention_B1M = self.decoder(token_B[:, None], looked, bias_BM, past)
        return logits_B1V[:, 0], attention_B1M[:, 0], *_stacked(kept)


class _PlainShapes(TorchFunctionMode):
    """`unflatten` as a reshape whose sizes the tracer follows."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.unflatten:
            x, dim, sizes = args
            dim %= x.ndim
            return x.reshape(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])
        return func(*args, **(kwargs or {}))


def onnx_graphs(codec: LatentCodec) -> dict[str, Any]:
    """The graphs by name, as onnx.ModelProto. ValueError in one line for a head that the tracer cannot follow."""
    head = codec.encoder.config.head
    if head == "slots":
        raise ValueError("encoder.head='slots' cannot be exported to ONNX; allowed: grid, light")
    assert not codec.training, "dropout would be traced"
    return {name: _traced(name, graph) for name, graph in _graphs(codec).items()}


def _graphs(codec: LatentCodec) -> dict[str, _Graph]:
    sizes, encoder = codec.config, codec.encoder.config
    width, places = sizes.d // sizes.heads, codec.places + sizes.z_places

    def tokens(batch: int, length: int) -> tuple[Tensor, ...]:
        tokens_BT = torch.randint(EOS + 1, encoder.vocab, (batch, min(length + 2, encoder.max_length)))
        tokens_BT[:, 0], tokens_BT[:, -1] = BOS, EOS
        tokens_BT[1:, 1 + length // 2 :] = PAD
        return (tokens_BT,)

    def latent(batch: int, length: int) -> tuple[Tensor, ...]:
        return (torch.randn(batch, encoder.C, encoder.H, encoder.W),)

    def step(batch: int, length: int) -> tuple[Tensor, ...]:
        length = min(length, encoder.max_length - 1)
        pairs = [
            torch.randn(batch, sizes.decoder_layers, sizes.heads, n, width) for n in (places, places, length, length)
        ]
        return (torch.randint(0, encoder.vocab, (batch,)), *pairs)

    batch, past, present = {0: "batch"}, {0: "batch", 3: "past"}, {0: "batch", 3: "present"}
    memory = {"memory_keys": batch, "memory_values": batch}
    return {
        "encoder": _Graph(codec.encoder, tokens, {"tokens": {0: "batch", 1: "tokens"}}, {"latent": batch}),
        "readout": _Graph(_Readout(codec), latent, {"latent": batch}, {"z": batch} | memory),
        "decoder_step": _Graph(
            _DecoderStep(codec.decoder),
            step,
            {"token": batch} | memory | {"past_keys": past, "past_values": past},
            {"logits": batch, "attention": batch, "present_keys": present, "present_values": present},
        ),
    }


@torch.inference_mode()
def _traced(name: str, graph: _Graph) -> Any:
    onnx = load_extra("onnx", "onnx", "writing ONNX graphs")
    graph.module.eval()  # the exporter ends by giving back the mode it found, to all that is inside
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]), _known_warnings():
        torch.manual_seed(0)
        given, file = graph.inputs(*TRACED), Path(folder, "graph.onnx")
        with _PlainShapes():
            torch.onnx.export(
                graph.module,
                given,
                file,
                input_names=list(graph.takes),
                output_names=list(graph.gives),
                dynamic_axes=graph.takes | graph.gives,
                opset_version=OPSET,
                dynamo=False,
            )
        proto = onnx.load(file)
    _write_shapes(proto, graph, _run(graph.module, given))
    onnx.checker.check_model(proto, full_check=True)
    _compare(name, graph, proto.SerializeToString())
    return proto


def _write_shapes(proto: Any, graph: _Graph, outputs: list[np.ndarray]) -> None:
    """Name the axes of the outputs that may have any size, and fix the others."""
    for value, given in zip(proto.graph.output, outputs, strict=True):
        for i, (axis, size) in enumerate(zip(value.type.tensor_type.shape.dim, given.shape, strict=True)):
            if i in graph.gives[value.name]:
                axis.dim_param = graph.gives[value.name][i]
            else:
                axis.dim_value = size


def _compare(name: str, graph: _Graph, content: bytes) -> None:
    """Raise AssertionError if onnxruntime and torch differ at sizes other than the traced ones."""
    runtime = load_extra("onnxruntime", "onnx", "checking ONNX graphs")
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for sizes in COMPARED:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            given = graph.inputs(*sizes)
        found = session.run(None, dict(zip(graph.takes, (x.numpy() for x in given), strict=True)))
        for output, wanted, got in zip(graph.gives, _run(graph.module, given), found, strict=True):
            np.testing.assert_allclose(got, wanted, 0, TOLERANCE, err_msg=f"{name}.onnx, output {output}")


def _run(module: nn.Module, given: tuple[Tensor, ...]) -> list[np.ndarray]:
    out = module(*given)
    return [x.numpy() for x in (out if isinstance(out, tuple) else (out,))]


@contextmanager
def _known_warnings() -> Iterator[None]:
    """Silence what the tracer says of this package's code and has been compared all the same; nothing else."""
    traced = (
        "Iterating over a tensor",  # a pair or triple of projections is taken apart: always two or three
        "Converting a tensor to a Python boolean",  # one of two ways to the same result is chosen, or a length checked
        "Using len to get tensor shape",  # in an expand of batch size 1, which ONNX broadcasts
    )
    older = ("You are using the legacy TorchScript-based ONNX export", "The feature will be removed")
    with warnings.catch_warnings():
        for message in traced:
            warnings.filterwarnings("ignore", message, torch.jit.TracerWarning, r"inscape\.(nn|export)\.")
        for message in older:
            warnings.filterwarnings("ignore", message, DeprecationWarning)
        warnings.filterwarnings("ignore", "Constant folding - Only steps=1", UserWarning)  # left for the runtime to do
        yield


def _stacked(pairs: list[KeysValues]) -> tuple[Tensor, Tensor]:
    return torch.stack([pair.key for pair in pairs], 1), torch.stack([pair.value for pair in pairs], 1)


def _apart(keys_BLHME: Tensor, values_BLHME: Tensor) -> list[KeysValues]:
    return [KeysValues(*pair) for pair in zip(keys_BLHME.unbind(1), values_BLHME.unbind(1), strict=True)]
