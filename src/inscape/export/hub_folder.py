"""`--format hf`: a folder to upload as it is, and to load with `VisualCodec.from_pretrained`.

model.safetensors is the weights file that every run writes: sizes and tokenizer are in its metadata, so that weights
and vocabulary cannot be mixed up. config.json and tokenizer.json say the same for readers other than this package.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from inscape.core.rundir import write_atomically, write_json_atomically
from inscape.export.card import model_card
from inscape.nn.latent_codec import LatentCodec
from inscape.studies.visual.model import MODEL_WEIGHTS, TrainedCodec, save_codec

__all__ = ["FORMAT", "KIND", "megabytes", "write_hf", "write_model"]

KIND = "inscape visual codec"
FORMAT = 1  # raise it when a reader of older folders would be misled

USAGE = """
## Use

```python
from inscape import VisualCodec

codec = VisualCodec.from_pretrained("this/folder")  # or owner/name, once it is on the hub
latent = codec.encode(["a red ball is on the blue block"])
print(codec.decode(latent), codec.paraphrase("a red ball is on the blue block"))
```
"""


def write_hf(codec: TrainedCodec, about: str, folder: Path) -> str:
    """Fill the folder; returns what it is, in words."""
    write_model(codec, about, folder)
    write_atomically(folder / "README.md", model_card(about, USAGE, library="inscape"))
    return f"model, tokenizer and card for the hub and VisualCodec.from_pretrained, {megabytes(folder)}"


def write_model(codec: TrainedCodec, about: str, folder: Path) -> None:
    """config.json, model.safetensors and tokenizer.json."""
    sizes: dict[str, Any] = {"encoder": asdict(codec.model.encoder.config), "codec": asdict(codec.model.config)}
    write_json_atomically(folder / "config.json", {"kind": KIND, "format": FORMAT} | sizes)
    save_codec(codec, folder / MODEL_WEIGHTS, about=about, half=_are_halves(codec.model))
    codec.tokenizer.save(folder / "tokenizer.json")


def megabytes(folder: Path) -> str:
    """Size of all files together."""
    return f"{sum(file.stat().st_size for file in folder.rglob('*') if file.is_file()) / 1e6:.1f} MB"


def _are_halves(model: LatentCodec) -> bool:
    """Whether float16 holds every weight exactly: so it is where the weights came as float16."""
    return all(bool((value == value.half().float()).all()) for value in model.state_dict().values())
