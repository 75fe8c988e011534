"""Lyra v2's continuous latent: the output of its SoundStream encoder (Zeghidour et al. 2021), before the quantiser.

16 kHz mono, 50 Hz, 64 numbers a frame, causal, through ai-edge-litert from a folder with the codec's own files
(soundstream_encoder.tflite, lyragan.tflite; Apache-2.0, github.com/google/lyra).

The networks keep their past inside, and the interpreter cannot be told to forget it: with signature runners, which
these files need, `reset_all_variables` changes nothing (ai-edge-litert 2.3), and a network just loaded starts from a
state that no sound leads to. So every recording is led in by 32 frames of silence, more than the 22 frames that the
encoder and the 25 that the decoder remember; what came before is then forgotten to the bit. And one set of kernels:
XNNPACK's latents differ from the plain kernels' by some per cent. Here XNNPACK, on one thread.

Legend: S samples, T frames, D = 64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inscape.extras import load_extra
from inscape.pretrained.codec import check_samples
from inscape.user_paths import user_path

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["Lyra", "open_lyra"]

ENCODER, DECODER = "soundstream_encoder.tflite", "lyragan.tflite"
BLOCK = 320
LEAD_IN = 32  # frames


class Lyra:
    """Encoder and decoder as an `AudioCodec`. Not for two threads at once: the networks keep their past inside."""

    name, sample_rate, rate_hz, dimension, can_decode = "lyra", 16_000, 50.0, 64, True

    def __init__(self, encoder: Any, decoder: Any, files: Sequence[Path] = ()) -> None:
        """Two interpreters, from `open_lyra`, and the files that they read: the weights, which no interpreter shows."""
        self._encoder, self._decoder, self.files = encoder, decoder, tuple(files)
        silence = np.zeros((LEAD_IN, 1, BLOCK), dtype=np.float32)
        self._silence_D = _stream(encoder, silence, self.dimension)[-1]

    def encode(self, samples: Sequence[Float[np.ndarray, " S"]]) -> list[Float[np.ndarray, "T D"]]:
        """See `AudioCodec.encode`; one recording after the other, each as if after silence."""
        check_samples(samples)
        return [self._encode(samples_S) for samples_S in samples]

    def decode(self, latent_TD: Float[np.ndarray, "T D"]) -> Float[np.ndarray, " S"]:
        """The waveform of latents that no quantiser rounded."""
        frames = np.empty((LEAD_IN + len(latent_TD), 1, 1, self.dimension), dtype=np.float32)
        frames[:LEAD_IN] = self._silence_D
        frames[LEAD_IN:, 0, 0] = latent_TD
        return _stream(self._decoder, frames, BLOCK)[LEAD_IN:].ravel()

    def _encode(self, samples_S: np.ndarray) -> np.ndarray:
        frames = np.zeros((LEAD_IN + math.ceil(len(samples_S) / BLOCK), 1, BLOCK), dtype=np.float32)
        frames.reshape(-1)[LEAD_IN * BLOCK : LEAD_IN * BLOCK + len(samples_S)] = samples_S
        return _stream(self._encoder, frames, self.dimension)[LEAD_IN:].copy()


def open_lyra(folder: str) -> Lyra:
    """Lyra from a local folder. ValueError in one line if it is not there, is damaged, or the package is missing."""
    place = user_path(folder)
    missing = [name for name in (ENCODER, DECODER) if not (place / name).is_file()]
    if not folder or missing:
        raise ValueError(
            f"lyra reads {ENCODER} and {DECODER} from a local folder, and {folder or 'none'} was given: lyra:FOLDER"
        )
    litert = load_extra("ai_edge_litert.interpreter", "audio", "the codec lyra")

    def load(name: str) -> Any:
        kernels = litert.OpResolverType.AUTO  # XNNPACK where it is built in, which it is on x86-64 and ARM64
        try:
            return litert.Interpreter(str(place / name), num_threads=1, experimental_op_resolver_type=kernels)
        except (ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0][:120]
            raise ValueError(f"{place / name} is not a model that can be read ({reason}): fetch it again") from None

    return Lyra(load(ENCODER), load(DECODER), [place / name for name in (ENCODER, DECODER)])


def _stream(interpreter: Any, frames: np.ndarray, width: int) -> np.ndarray:
    """One network over `frames`, frame by frame, (T, width)."""
    (name,) = interpreter.get_signature_list()
    runner = interpreter.get_signature_runner(name)
    (given,), (returned,) = runner.get_input_details(), runner.get_output_details()
    rows = np.empty((len(frames), width), dtype=np.float32)
    for row, frame in zip(rows, frames, strict=True):
        row[:] = runner(**{given: frame})[returned].ravel()
    return rows
