"""`--format onnx`: the three graphs with all that a program in another language must know to run them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inscape.core.rundir import write_atomically, write_json_atomically
from inscape.data.tokenizer import COPY, SPECIALS
from inscape.export.card import model_card
from inscape.export.hub_folder import FORMAT, KIND
from inscape.export.onnx_graphs import onnx_graphs
from inscape.studies.visual.model import TrainedCodec

__all__ = ["onnx_config", "write_onnx", "write_onnx_model"]

USAGE = Path(__file__).with_name("onnx_usage.md")
TYPES = {1: "float32", 7: "int64"}  # onnx.TensorProto.DataType


def write_onnx(codec: TrainedCodec, about: str, folder: Path) -> str:
    """Fill the folder; returns what it is, in words."""
    files = write_onnx_model(codec, folder)
    usage = USAGE.read_text(encoding="utf-8")
    write_atomically(folder / "README.md", model_card(about, usage, library="onnx", tags=["onnx"]))
    return ", ".join(f"{file.name} {file.stat().st_size / 1e6:.1f} MB" for file in files)


def write_onnx_model(codec: TrainedCodec, folder: Path) -> list[Path]:
    """The graphs, config.json and tokenizer.json; returns the paths of the graphs."""
    graphs = onnx_graphs(codec.model)
    for name, graph in graphs.items():
        write_atomically(folder / f"{name}.onnx", graph.SerializeToString())
    write_json_atomically(folder / "config.json", onnx_config(codec, graphs))
    codec.tokenizer.save(folder / "tokenizer.json")
    return [folder / f"{name}.onnx" for name in graphs]


def onnx_config(codec: TrainedCodec, graphs: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says. Axes of a graph's inputs and outputs are numbers, or names where any size will do."""
    encoder = codec.model.encoder.config
    return {
        "kind": f"{KIND}, ONNX",
        "format": FORMAT,
        "latent_shape": [encoder.C, encoder.H, encoder.W],
        "max_length": encoder.max_length,
        "vocab_size": encoder.vocab,
        "special_ids": {name.strip("<>"): place for place, name in enumerate(SPECIALS)},
        "start_id": COPY,
        "memory": {"patch_grid": list(codec.model.reader.grid), "z_places": codec.model.config.z_places},
        "graphs": {
            name: {
                "file": f"{name}.onnx",
                "inputs": {value.name: _described(value) for value in graph.graph.input},
                "outputs": {value.name: _described(value) for value in graph.graph.output},
            }
            for name, graph in graphs.items()
        },
    }


def _described(value: Any) -> dict[str, Any]:
    tensor = value.type.tensor_type
    return {"type": TYPES[tensor.elem_type], "shape": [axis.dim_param or axis.dim_value for axis in tensor.shape.dim]}
