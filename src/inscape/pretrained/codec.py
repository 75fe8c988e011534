"""What every audio codec looks like from here, and the one door to all of them.

    codec = open_codec("log-mel")
    latent_TD, = codec.encode([samples_S])         # T = ceil(S / block) frames

A codec here is whatever turns a waveform into a sequence of continuous vectors at a fixed rate: the latent before a
neural codec's quantiser, an encoder's states, or a filterbank. Frame t stands for the block of samples
[t block, (t+1) block), the last one filled up with zeros.

Legend: S samples, T frames, D width of the latent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from inscape.extras import load_extra
from inscape.pretrained.random_weights import seed_of
from inscape.user_paths import user_path

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = [
    "CODECS",
    "AudioCodec",
    "block_size",
    "check_samples",
    "encode_by_length",
    "frame_energy",
    "load_pretrained",
    "open_codec",
]

CODECS = {  # kind -> what stands after the colon, and the default
    "log-mel": "frames per second (50)",
    "mimi": "hub name or folder (kyutai/mimi)",
    "encodec": "hub name or folder (facebook/encodec_24khz)",
    "whisper": "hub name or folder (openai/whisper-base)",
    "lyra": "folder with the .tflite files",
    "tiny-mimi": "seed of random weights (0)",
    "tiny-encodec": "seed of random weights (0)",
    "tiny-whisper": "seed of random weights (0)",
}
Model = TypeVar("Model")


class AudioCodec(Protocol):
    """Latents [T, D] from waveforms, and back where `can_decode`."""

    @property
    def name(self) -> str:
        """What is said of it in a report."""
        ...

    @property
    def sample_rate(self) -> int:
        """Of the waveforms it takes, Hz."""
        ...

    @property
    def rate_hz(self) -> float:
        """Latent frames per second."""
        ...

    @property
    def dimension(self) -> int:
        """D."""
        ...

    @property
    def can_decode(self) -> bool: ...

    def encode(self, samples: Sequence[Float[np.ndarray, " S"]]) -> list[Float[np.ndarray, "T D"]]:
        """float32 latents of each mono waveform, T = ceil(S / block); one waveform's latents never depend on another's.

        ValueError on a waveform that is empty, not one-dimensional, or not finite.
        """
        ...

    def decode(self, latent_TD: Float[np.ndarray, "T D"]) -> Float[np.ndarray, " S"]:
        """A waveform of T blocks. ValueError where the codec cannot decode."""
        ...


def open_codec(spec: str, *, device: str = "cpu", project: bool = True) -> AudioCodec:
    """The codec named `kind` or `kind:where`, such as "log-mel", "mimi", "mimi:models/mimi", "lyra:assets/lyra".

    device: where torch codecs run. project: Mimi's latent through the quantiser's own linear maps (see `mimi.py`).
    Local files are tried before the hub. ValueError in one line if the kind is unknown, or its files or packages are
    not there.
    """
    kind, _, where = spec.partition(":")
    if kind not in CODECS:
        raise ValueError(f"codec is {spec!r}; allowed: {', '.join(CODECS)}, each alone or as kind:where")
    if kind == "log-mel":
        from inscape.pretrained.log_mel import LogMel

        return LogMel(_frame_rate(where))
    if kind == "lyra":
        from inscape.pretrained.lyra import open_lyra

        return open_lyra(where)
    load_extra("transformers", "lm", f"the codec {kind}")
    if kind.endswith("mimi"):
        from inscape.pretrained.mimi import open_mimi, tiny_mimi

        return tiny_mimi(seed_of(where), project) if kind == "tiny-mimi" else open_mimi(where, device, project)
    if kind.endswith("encodec"):
        from inscape.pretrained.encodec import open_encodec, tiny_encodec

        return tiny_encodec(seed_of(where)) if kind == "tiny-encodec" else open_encodec(where, device)
    from inscape.pretrained.whisper import open_whisper, tiny_whisper

    return tiny_whisper(seed_of(where)) if kind == "tiny-whisper" else open_whisper(where, device)


def block_size(codec: AudioCodec) -> int:
    """Samples a frame."""
    return round(codec.sample_rate / codec.rate_hz)


def frame_energy(samples_S: Float[np.ndarray, " S"], block: int) -> Float[np.ndarray, " T"]:
    """Root mean square of each block of samples, float32; the last block is filled up with zeros."""
    padded = np.zeros(math.ceil(len(samples_S) / block) * block)
    padded[: len(samples_S)] = samples_S
    return np.sqrt((padded.reshape(-1, block) ** 2).mean(1)).astype(np.float32)


def check_samples(samples: Sequence[np.ndarray]) -> None:
    """ValueError on a waveform that no codec can take."""
    for i, samples_S in enumerate(samples):
        if samples_S.ndim != 1 or not len(samples_S) or not np.isfinite(samples_S).all():
            raise ValueError(
                f"waveform {i} has shape {samples_S.shape}: a codec takes one dimension of finite samples, one or more"
            )


def encode_by_length(
    samples: Sequence[np.ndarray], block: int, encode: Callable[[np.ndarray], np.ndarray], *, most: int = 8
) -> list[np.ndarray]:
    """Batches of waveforms of one length only, so that no padding beyond the last block can reach a latent.

    encode: float32 (B, T block) -> (B, T, D). Results stand in the order of `samples`.
    """
    check_samples(samples)
    by_frames: dict[int, list[int]] = {}
    for i, samples_S in enumerate(samples):
        by_frames.setdefault(math.ceil(len(samples_S) / block), []).append(i)
    latents: list[np.ndarray] = [np.empty(0)] * len(samples)
    for frames, same in by_frames.items():
        for chunk in (same[at : at + most] for at in range(0, len(same), most)):
            batch = np.zeros((len(chunk), frames * block), dtype=np.float32)
            for row, i in zip(batch, chunk, strict=True):
                row[: len(samples[i])] = samples[i]
            for i, latent_TD in zip(chunk, encode(batch), strict=True):
                latents[i] = np.ascontiguousarray(latent_TD, dtype=np.float32)
    return latents


def load_pretrained(model: type[Model], where: str, kind: str) -> Model:
    """`model.from_pretrained`: from a folder, else what an earlier download left on this machine, else the hub.

    Safetensors only; every weight must be there, since a missing one would silently be random. ValueError in one line.
    """
    folder = user_path(where)
    if folder.is_dir():
        return _from_pretrained(model, str(folder), kind, f"the folder {where}", local_files_only=True)
    if where.startswith((".", "/", "~")) or where.count("/") > 1:
        raise ValueError(f"{kind}: there is no folder {where}; give a folder with its config.json and .safetensors")
    try:
        return _from_pretrained(model, where, kind, where, local_files_only=True)
    except ValueError:
        return _from_pretrained(
            model,
            where,
            kind,
            f"{where}, neither on this machine nor from the hub: copy them here and give {kind}:FOLDER",
        )


def _from_pretrained(model: Any, where: str, kind: str, said: str, **options: bool) -> Any:
    try:
        loaded, info = model.from_pretrained(where, use_safetensors=True, output_loading_info=True, **options)
    except Exception as error:  # the hub, the network, JSON and safetensors each raise their own
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise ValueError(f"{kind}: no weights from {said} ({reason})") from None
    if missing := sorted(info["missing_keys"]) or sorted(str(key) for key in info.get("mismatched_keys", ())):
        raise ValueError(f"{kind}: {said} lacks {len(missing)} weights of this model, such as {missing[0]}")
    return loaded.eval().requires_grad_(False)


def _frame_rate(where: str) -> float:
    try:
        return float(where or 50)
    except ValueError:
        raise ValueError(f"log-mel:{where}: give frames per second, such as log-mel:12.5") from None
