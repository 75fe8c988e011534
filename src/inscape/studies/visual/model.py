"""The visual study's models on the disk: one safetensors file that needs nothing beside it.

P1 writes an encoder, later phases the whole codec. The file's metadata holds the sizes and the tokenizer, so weights
and vocabulary cannot be mixed up.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from inscape.checkpoint import load_weights, weights_of
from inscape.core.rundir import RunDir, write_atomically
from inscape.data.tokenizer import Tokenizer
from inscape.nn.latent_codec import LatentCodec, LatentCodecConfig
from inscape.nn.latent_encoder import LatentEncoder, LatentEncoderConfig
from inscape.user_paths import is_there

__all__ = [
    "CODEC_WEIGHTS",
    "MODEL_WEIGHTS",
    "WEIGHTS",
    "TextToLatent",
    "TrainedCodec",
    "encode",
    "fingerprint",
    "load",
    "load_codec",
    "load_encoder",
    "refuse_broken_weights",
    "save_codec",
    "save_encoder",
    "weights_files",
]

WEIGHTS = "encoder.safetensors"  # in a P1 run
CODEC_WEIGHTS = "codec.safetensors"  # in a run of P2 or later
MODEL_WEIGHTS = "model.safetensors"  # in an exported folder
ENCODER_KIND = "inscape visual encoder 1"
CODEC_KIND = "inscape visual codec 1"

M = TypeVar("M", bound=nn.Module)


class TextToLatent(NamedTuple):
    """An encoder (a LatentEncoder, or its running average) with the tokenizer that it was trained with."""

    encoder: nn.Module
    tokenizer: Tokenizer


class TrainedCodec(NamedTuple):
    """A codec with the tokenizer that it was trained with."""

    model: LatentCodec
    tokenizer: Tokenizer
    rewords: bool = False  # whether its decoder was trained to say a sentence in other words
    reads_back: bool = True  # whether its decoder was ever trained: what another one says is noise

    @property
    def to_latent(self) -> TextToLatent:
        """Its encoder."""
        return TextToLatent(self.model.encoder, self.tokenizer)


def save_encoder(model: TextToLatent, run: RunDir) -> Path:
    """Write the weights into the run; returns the path."""
    metadata = {"kind": ENCODER_KIND, "config": _json(_sizes(model)), "tokenizer": model.tokenizer.to_json()}
    path = run.path / WEIGHTS
    write_atomically(path, save(weights_of(model.encoder), metadata))
    return path


def save_codec(codec: TrainedCodec, path: Path, *, about: str = "", half: bool = False) -> None:
    """Write the whole codec. half: as float16, for weights that travel; `about` is kept with them, in words."""
    weights = weights_of(codec.model)
    if half:
        weights = {name: value.half() for name, value in weights.items()}
    metadata = {
        "kind": CODEC_KIND,
        "encoder": _json(_sizes(codec.to_latent)),
        "config": _json(codec.model.config),
        "tokenizer": codec.tokenizer.to_json(),
        "rewords": json.dumps(codec.rewords),
        "reads_back": json.dumps(codec.reads_back),
        "about": about,
    }
    write_atomically(path, save(weights, metadata))


def fingerprint(model: nn.Module) -> str:
    """SHA-256, in hex, of the weights' names, shapes and values, these as float16, as weights that travel have them."""
    found = hashlib.sha256()
    for name, value in sorted(weights_of(model).items()):
        found.update(f"{name} {tuple(value.shape)}\n".encode())
        found.update(value.half().numpy().tobytes())
    return found.hexdigest()


def load(path: Path) -> TrainedCodec | TextToLatent:
    """What a file or a run directory holds: the codec, or the encoder where there is no more; ValueError in one line.

    The messages are those of `load_codec` and `load_encoder`.
    """
    file = _weights_file(path, (CODEC_WEIGHTS, WEIGHTS))
    tensors, metadata = _read(file)
    build = _codec if metadata.get("kind") == CODEC_KIND else _encoder
    return build(file, tensors, metadata)


def load_encoder(path: Path) -> TextToLatent:
    """Read an encoder from a file or a run directory; ValueError in one line if it is missing, damaged or foreign."""
    file = _weights_file(path, (WEIGHTS, CODEC_WEIGHTS))
    tensors, metadata = _read(file)
    if metadata.get("kind") == CODEC_KIND:
        return _codec(file, tensors, metadata).to_latent
    return _encoder(file, tensors, metadata)


def load_codec(path: Path) -> TrainedCodec:
    """Read a codec from a file or a run directory; ValueError in one line if it is missing, damaged or foreign."""
    file = _weights_file(path, (CODEC_WEIGHTS,))
    return _codec(file, *_read(file))


def _encoder(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> TextToLatent:
    _check_kind(file, metadata, ENCODER_KIND)
    with _one_line(file):
        config = LatentEncoderConfig(**json.loads(metadata["config"]))
        encoder = _filled(lambda: LatentEncoder(config), tensors)
        tokenizer = _tokenizer_for(config, metadata)
    refuse_broken_weights(file, encoder)
    return TextToLatent(encoder.eval(), tokenizer)


def _codec(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> TrainedCodec:
    _check_kind(file, metadata, CODEC_KIND)
    with _one_line(file):
        encoder = LatentEncoderConfig(**json.loads(metadata["encoder"]))
        config = LatentCodecConfig(**json.loads(metadata["config"]))
        model = _filled(lambda: LatentCodec(encoder, config), {name: value.float() for name, value in tensors.items()})
        tokenizer = _tokenizer_for(encoder, metadata)
        rewords = json.loads(metadata.get("rewords", "false")) is True  # weights of before do not say
        reads_back = json.loads(metadata.get("reads_back", "true")) is True
    refuse_broken_weights(file, model)
    return TrainedCodec(model.eval(), tokenizer, rewords, reads_back)


def _tokenizer_for(sizes: LatentEncoderConfig, metadata: Mapping[str, str]) -> Tokenizer:
    """The tokenizer; ValueError unless it has an id for each row of the embedding, and no more."""
    tokenizer = Tokenizer.from_json(metadata["tokenizer"])
    if tokenizer.vocab_size != sizes.vocab:
        raise ValueError(f"its tokenizer has {tokenizer.vocab_size} ids, and its embedding {sizes.vocab} rows")
    return tokenizer


def refuse_broken_weights(file: Path, model: nn.Module) -> None:
    """ValueError if a weight read from the file is NaN or infinite: all that is computed with it would be NaN."""
    for name, value in model.state_dict().items():
        if not np.isfinite(value.detach().cpu().numpy()).all():  # torch's own would import its compiler
            raise ValueError(
                f"{file} holds weights that are no finite numbers ({name}); fetch or copy it again, or use another file"
            )


def _filled(build: Callable[[], M], weights: Mapping[str, Tensor]) -> M:
    """The model with these weights. Shapes are compared first: sizes that the weights do not have take no memory."""
    with torch.device("meta"), _NoInitialisation():
        wanted = {name: tuple(value.shape) for name, value in build().state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    if wanted != given:
        name = next(name for name in (*wanted, *given) if wanted.get(name) != given.get(name))
        raise RuntimeError(f"{name} is {given.get(name, 'missing')} where {wanted.get(name, 'nothing')} is wanted")
    with _NoInitialisation():
        model = build()
    model.load_state_dict(weights)
    return model


@final
class _NoInitialisation(TorchFunctionMode):
    """Draws no number: weights are filled afterwards, and drawing on "meta" would import the compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return (torch.empty if func is torch.randn else func)(*args, **kwargs)


def weights_files(path: Path) -> list[Path]:
    """Every file that `load` may open for `path`: the file itself, or those that a folder may hold."""
    return [path / name for name in (CODEC_WEIGHTS, WEIGHTS, MODEL_WEIGHTS)] if path.is_dir() else [path]


def _weights_file(path: Path, names: Sequence[str]) -> Path:
    path = Path(path)
    if is_there(path) and path.is_dir():
        wanted = (*names, MODEL_WEIGHTS)
        found = next((path / name for name in wanted if is_there(path / name) and (path / name).is_file()), None)
        if found is None:
            missing = " or ".join(wanted)
            raise ValueError(f"{path} holds no {missing}; give a finished visual run or a weights file")
        return found
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give a finished visual run or a weights file")
    return path


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a weights file."""
    tensors = load_weights(file)  # its message says what else the file may be
    try:
        with safe_open(file, "pt") as opened:
            return tensors, opened.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{file} cannot be read: {error}") from None


def _check_kind(file: Path, metadata: Mapping[str, str], wanted: str) -> None:
    if metadata.get("kind") != wanted:
        raise ValueError(f"{file} holds {metadata.get('kind', 'weights of unknown kind')!r}; wanted {wanted!r}")


@contextmanager
def _one_line(file: Path) -> Iterator[None]:
    """Whatever does not fit together becomes one line for the user."""
    try:
        yield
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise ValueError(f"{file} is damaged or of another version: {str(error).splitlines()[0]}") from None


def _json(sizes: Any) -> str:
    return json.dumps(dataclasses.asdict(sizes))


@torch.inference_mode()
def encode(model: TextToLatent, sentences: list[str], batch: int = 64) -> Tensor:
    """Latents (B, C, H, W) float32 on the CPU. Sentences of like length share a batch; the order is kept."""
    device, longest = next(model.encoder.parameters()).device, _sizes(model).max_length
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    parts = []
    for start in range(0, len(order), batch):
        chunk = [sentences[i] for i in order[start : start + batch]]
        tokens_BT = torch.from_numpy(model.tokenizer.encode(chunk, max_length=longest))
        parts.append(model.encoder(tokens_BT.to(device)).cpu())
    latent_BCHW = torch.cat(parts)
    return latent_BCHW[torch.tensor(order).argsort()].contiguous()


def _sizes(model: TextToLatent) -> LatentEncoderConfig:
    config = model.encoder.config
    assert isinstance(config, LatentEncoderConfig)
    return config
