"""Any compressor's vectors in 8 or 4 bits a number, packed into real bytes: what travels is what is counted.

Symmetric, as in GPTQ's and llama.cpp's simplest formats: a group of numbers shares one float16 scale s, and each number
x becomes the whole number nearest to x / s, from -127 to 127 or from -7 to 7. The scale is largest / 127 (or 7) rounded
UP to float16, so nothing is clipped and no number moves by more than s / 2. Codes are written with an offset of 128 or
8, so that code 0 is never a number; two numbers of 4 bits share a byte, and an odd last one shares it with code 0.

Legend: N vectors, d numbers of a vector, G groups of a vector, B bytes of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple, final

import numpy as np
import torch

from inscape.compressors.interface import (
    LATENT,
    Compressed,
    Compressor,
    Injected,
    Saved,
    nested,
    nested_in,
    read_saved,
    tensor_bits,
    write_saved,
)
from inscape.core.rundir import RunDir

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8
    from torch import Tensor

    from inscape.pretrained.language_model import LanguageModel

__all__ = ["LARGEST", "Codes", "Quantised", "dequantise", "numbers_sent", "quantise"]

LARGEST = {8: 127, 4: 7}  # bits -> largest whole number


class Codes(NamedTuple):
    """Quantised vectors."""

    packed_NB: UInt8[Tensor, "N B"]
    scale_NG: Float[Tensor, "N G"]  # float16


@final
@dataclass(frozen=True, eq=False)
class Quantised:
    """What `inner` sends, its vectors in `number_bits` bits; a wrapper for any compressor that sends a latent."""

    kind: ClassVar[str] = "quantised"
    inner: Compressor
    number_bits: int = 8  # 8 | 4
    group: int = 0  # numbers that share a scale; 0 = all of a vector

    def __post_init__(self) -> None:
        if self.number_bits not in LARGEST:
            raise ValueError(f"number_bits={self.number_bits} is not known; allowed: {', '.join(map(str, LARGEST))}")
        if self.group < 0:
            raise ValueError(f"group={self.group} is out of range; allowed: 1 or more, or 0 for whole vectors")

    @property
    def name(self) -> str:
        """See `Compressor.name`."""
        return f"{self.inner.name}, int{self.number_bits}"

    @property
    def ratio(self) -> float:
        """See `Compressor.ratio`: of the inner compressor; fewer bits a number show in `bits`."""
        return self.inner.ratio

    @property
    def needs_context_only(self) -> bool:
        """See `Compressor.needs_context_only`."""
        return self.inner.needs_context_only

    def fit(self, lm: LanguageModel, sequences: Sequence[Tensor], *, seed: int, run: RunDir | None = None) -> Quantised:
        """See `Compressor.fit`."""
        return replace(self, inner=self.inner.fit(lm, sequences, seed=seed, run=run))

    def compress(self, lm: LanguageModel, ids_T: Tensor) -> Compressed:
        """See `Compressor.compress`. ValueError if what `inner` sends holds no latent."""
        sent = self.inner.compress(lm, ids_T)
        if LATENT not in sent.tensors:
            raise ValueError(f"{self.inner.name} sends no vectors that could be quantised; use it as it is")
        codes = quantise(sent.tensors[LATENT], self.number_bits, self.group)
        others = {name: tensor for name, tensor in sent.tensors.items() if name != LATENT}
        tensors = others | {"codes": codes.packed_NB, "scales": codes.scale_NG}
        return Compressed(tensors, sent.tokens, sent.vectors)

    def inject(self, lm: LanguageModel, compressed: Compressed) -> Injected:
        """See `Compressor.inject`."""
        return self.inner.inject(lm, self.decoded(lm, compressed))

    def decoded(self, lm: LanguageModel, compressed: Compressed) -> Compressed:
        """What `inner` would have sent, but for rounding: its latent is float32."""
        codes = Codes(compressed.tensors["codes"], compressed.tensors["scales"])
        others = {name: tensor for name, tensor in compressed.tensors.items() if name not in ("codes", "scales")}
        latent_Nd = dequantise(codes, self.number_bits, self.group)
        return Compressed(others | {LATENT: latent_Nd}, compressed.tokens, compressed.vectors)

    def bits(self, compressed: Compressed) -> float:
        """See `Compressor.bits`."""
        return tensor_bits(compressed)

    def saved(self) -> Saved:
        """See `Compressor.saved`."""
        settings, tensors = nested("inner", self.inner.saved())
        return Saved(self.kind, settings | {"number_bits": self.number_bits, "group": self.group}, tensors)

    @classmethod
    def from_saved(cls, saved: Saved) -> Quantised:
        """See `Compressor.from_saved`."""
        from inscape.compressors.stored import restored

        return cls(restored(nested_in(saved, "inner")), saved.settings["number_bits"], saved.settings["group"])

    def save(self, path: Path) -> None:
        """See `Compressor.save`."""
        write_saved(path, self.saved())

    @classmethod
    def load(cls, path: Path) -> Quantised:
        """See `Compressor.load`."""
        return cls.from_saved(read_saved(path, cls.kind))


def numbers_sent(compressor: Compressor, compressed: Compressed) -> int:
    """How many numbers travelled, scales among them: of 4 bits two lie in a byte, else each is one of a tensor's."""
    packed = isinstance(compressor, Quantised) and compressor.number_bits == 4
    return sum(
        _unpack(tensor.cpu().numpy(), 4).size if packed and name == "codes" else tensor.numel()
        for name, tensor in compressed.tensors.items()
    )


def quantise(vector_Nd: Float[Tensor, "N d"], bits: int, group: int = 0) -> Codes:
    """Vectors as packed whole numbers and the scales of their groups; `group` 0 is one scale a vector.

    |x - dequantised x| <= scale / 2 for every number. ValueError where a number is not finite, or so large that float16
    has no scale for it.
    """
    count, width = vector_Nd.shape
    size, largest = group or width, LARGEST[bits]
    x_Nd = vector_Nd.detach().cpu().double().numpy()
    if not np.isfinite(x_Nd).all():
        raise ValueError("vectors with numbers that are not finite cannot be quantised; look at what made them")
    groups = math.ceil(width / size)
    padded = np.zeros((count, groups * size))
    padded[:, :width] = x_Nd
    grouped_NGs = padded.reshape(count, groups, size)
    wanted_NG = np.abs(grouped_NGs).max(axis=2, initial=0.0) / largest
    if wanted_NG.max(initial=0.0) > np.finfo(np.float16).max:
        raise ValueError(f"numbers up to {np.abs(x_Nd).max():.3g} are too large for a float16 scale; send float32")
    scale_NG = wanted_NG.astype(np.float16)
    np.nextafter(scale_NG, np.float16(np.inf), out=scale_NG, where=scale_NG < wanted_NG)
    step_NG1 = np.where(scale_NG > 0, scale_NG, 1).astype(np.float64)[:, :, None]
    code = np.rint(grouped_NGs / step_NG1).astype(np.int16).reshape(count, -1)[:, :width] + largest + 1
    return Codes(torch.from_numpy(_pack(code.astype(np.uint8), bits)), torch.from_numpy(scale_NG))


def dequantise(codes: Codes, bits: int, group: int = 0) -> Float[Tensor, "N d"]:
    """The vectors again, float32: each is its whole number times its scale, without further rounding."""
    code_Nd = _unpack(codes.packed_NB.cpu().numpy(), bits).astype(np.float32)
    scale_NG = codes.scale_NG.cpu().numpy().astype(np.float32)
    size, width = group or code_Nd.shape[1], code_Nd.shape[1]
    scale_Nd = np.repeat(scale_NG, size, axis=1)[:, :width]
    return torch.from_numpy((code_Nd - np.float32(LARGEST[bits] + 1)) * scale_Nd)


def _pack(code_Nd: np.ndarray, bits: int) -> np.ndarray:
    if bits == 8:
        return code_Nd
    even_Nd = np.pad(code_Nd, ((0, 0), (0, code_Nd.shape[1] % 2)))
    return even_Nd[:, 0::2] | even_Nd[:, 1::2] << 4


def _unpack(packed_NB: np.ndarray, bits: int) -> np.ndarray:
    if bits == 8:
        return packed_NB
    code_Nd = np.stack((packed_NB & 15, packed_NB >> 4), axis=2).reshape(len(packed_NB), -1)
    padded = code_Nd.size > 0 and not code_Nd[:, -1].any()
    return code_Nd[:, :-1] if padded else code_Nd
