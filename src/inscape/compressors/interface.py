"""What every compressor of prompts looks like from outside, so that a pipeline takes any of them as an object.

A sender turns token ids into a `Compressed`, whose tensors are ALL that travels; a receiver, which owns the same frozen
language model and the same fitted compressor, turns it into an `Injected`, which it feeds the model instead of the
source's embedding rows. `inject` sees nothing but what travelled: a receiver that knows more (the norm of the original
rows, say) is measured on what it was told, not on what it received.

A ratio is honoured exactly or refused in one line. Row-wise: the table's D numbers a row become D / ratio, a whole
number. Sequences: a context of T tokens becomes floor(T / ratio) vectors, at least one.

Legend: T tokens, M rows that the model is fed, D width of its embedding table, d numbers that travel for a row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from inscape.core.rundir import RunDir, write_atomically

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from inscape.pretrained.language_model import LanguageModel

__all__ = [
    "LATENT",
    "Compressed",
    "Compressor",
    "Injected",
    "Saved",
    "check_ids",
    "nested",
    "nested_in",
    "read_saved",
    "row_width",
    "tensor_bits",
    "vector_count",
    "write_saved",
]

LATENT = "latent"  # name of the vectors (vectors, width) among the tensors that travel: what can be quantised
ABOUT = "compressor"  # one entry of metadata: of several, safetensors writes them in an order that changes


class Compressed(NamedTuple):
    """One prompt, or one context, as it travels."""

    tensors: dict[str, Tensor]  # all that travels
    tokens: int  # of the source
    vectors: int  # that stand for them


class Injected(NamedTuple):
    """What the receiver feeds the language model in place of the source's rows: one of the two is there."""

    rows_MD: Float[Tensor, "M D"] | None
    cache: tuple[Any, Int[Tensor, " M"]] | None = None  # past keys and values, and the positions they were made at


class Saved(NamedTuple):
    """A fitted compressor as a file holds it."""

    kind: str  # which class reads it
    settings: dict[str, Any]  # anything JSON can hold
    tensors: dict[str, Tensor]


class Compressor(Protocol):
    """Fewer numbers for a prompt, and what a frozen model is fed instead of it."""

    @property
    def name(self) -> str:
        """What is said of it in a report, the ratio left out."""
        ...

    @property
    def ratio(self) -> float:
        """Numbers a row before and after (row-wise), or tokens a vector (sequences); 1 or more."""
        ...

    @property
    def needs_context_only(self) -> bool:
        """True: it works on the context's span of a prompt. False: on any rows, so a whole prompt may be compressed."""
        ...

    def fit(
        self, lm: LanguageModel, sequences: Sequence[Int[Tensor, " T"]], *, seed: int, run: RunDir | None = None
    ) -> Compressor:
        """The compressor, fitted on the ids of training prompts (or contexts); itself where there is nothing to fit.

        The same seed and sequences give the same result. run: where a training keeps checkpoints and its log.
        ValueError in one line where the ratio cannot be honoured with this model.
        """
        ...

    def compress(self, lm: LanguageModel, ids_T: Int[Tensor, " T"]) -> Compressed:
        """What travels. ValueError where there is no token, a ratio that cannot be met, or nothing was fitted."""
        ...

    def inject(self, lm: LanguageModel, compressed: Compressed) -> Injected:
        """What the receiver feeds the model, a function of `compressed` and of the fitted compressor alone."""
        ...

    def bits(self, compressed: Compressed) -> float:
        """What `compressed` costs to send. What both sides own from the start (the fit) is not counted."""
        ...

    def saved(self) -> Saved:
        """All that `from_saved` needs. ValueError where nothing was fitted."""
        ...

    @classmethod
    def from_saved(cls, saved: Saved) -> Compressor:
        """The inverse of `saved`."""
        ...

    def save(self, path: Path) -> None:
        """Write it as one safetensors file: `write_saved(path, self.saved())`."""
        ...

    @classmethod
    def load(cls, path: Path) -> Compressor:
        """The inverse of `save`. ValueError in one line where the file holds something else."""
        ...


def row_width(dimension: int, ratio: float) -> int:
    """d = D / ratio, the numbers a row has after row-wise compression. ValueError unless that is a whole number."""
    width = round(dimension / ratio) if math.isfinite(ratio) and ratio >= 1 else 0
    if width < 1 or width * ratio != dimension:
        written = [(float(f"{dimension / d:g}"), d) for d in range(dimension, 0, -1)]
        allowed = [(each, d) for each, d in written if each * d == dimension]
        whole = ", ".join(f"{each:g}" for each, _ in allowed if each.is_integer())
        nearest, d = min(allowed, key=lambda each: abs(each[0] - ratio))
        raise ValueError(
            f"ratio {ratio:g} does not divide rows of {dimension} numbers; allowed: {whole}, or {dimension} over any "
            f"whole number; the nearest is {nearest:g} ({dimension} / {d})"
        )
    return width


def vector_count(tokens: int, ratio: float) -> int:
    """floor(T / ratio), the vectors that stand for T tokens. ValueError where that is none, or the ratio is below 1."""
    if not (math.isfinite(ratio) and ratio >= 1):
        raise ValueError(f"ratio {ratio:g} cannot be met: allowed are numbers from 1 on")
    if tokens < ratio:
        raise ValueError(
            f"{tokens} tokens cannot be compressed {ratio:g} times: that leaves no vector; "
            f"give a longer context or a ratio of at most {tokens}"
        )
    return math.floor(tokens / ratio)


def check_ids(lm: LanguageModel, ids_T: Int[Tensor, " T"]) -> None:
    """ValueError in one line unless `ids_T` are one or more ids of the model's table."""
    if ids_T.ndim != 1 or ids_T.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"ids have shape {tuple(ids_T.shape)} and type {ids_T.dtype}; wanted one axis of integers")
    if not len(ids_T):
        raise ValueError("there is no token to compress: give a text that is not empty")
    low, high, rows = int(ids_T.min()), int(ids_T.max()), lm.vocab_size
    if low < 0 or high >= rows:
        raise ValueError(f"ids from {low} to {high} are not all in the model's table of {rows} rows; tokenise with it")


def tensor_bits(compressed: Compressed) -> float:
    """The size of all that travels, in bits: what `bits` is where numbers are sent as they lie in memory."""
    return float(sum(8 * tensor.numel() * tensor.element_size() for tensor in compressed.tensors.values()))


def nested(name: str, inner: Saved) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and tensors of a part, under `name`, to be stored among those of a whole."""
    about = {name: {"kind": inner.kind, "settings": inner.settings}}
    return about, {f"{name}/{key}": tensor for key, tensor in inner.tensors.items()}


def nested_in(saved: Saved, name: str) -> Saved:
    """The inverse of `nested`. KeyError where there is no such part."""
    about, prefix = saved.settings[name], f"{name}/"
    tensors = {key.removeprefix(prefix): value for key, value in saved.tensors.items() if key.startswith(prefix)}
    return Saved(about["kind"], about["settings"], tensors)


def write_saved(path: Path, saved: Saved) -> None:
    """Write one safetensors file, whole or not at all."""
    tensors: Mapping[str, Tensor] = {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in saved.tensors.items()
    }
    about = {"kind": saved.kind, "settings": saved.settings}
    write_atomically(path, save(dict(tensors), {ABOUT: json.dumps(about)}))


def read_saved(path: Path, kind: str | None = None) -> Saved:
    """The inverse of `write_saved`. ValueError in one line for any other file, or one of another kind than `kind`."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[ABOUT])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        found, settings = str(about["kind"]), dict(about["settings"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} holds no compressor ({reason}); give a file that a compressor wrote") from None
    if kind is not None and found != kind:
        raise ValueError(f"{path} holds a compressor of kind {found!r}, wanted {kind!r}; give another file")
    return Saved(found, settings, tensors)
