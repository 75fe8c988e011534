"""The training diary of the plan: one JSON object a line, with the keys of the source document and no others.

Each line is what one evaluation knew; a key that it did not measure is null, never zero. The last line has f1 and em as
well, measured when the training was over. The same folder's log.jsonl has the loss of every step; this file is for
reading two runs side by side.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from inscape.compressors.interface import Compressor
from inscape.compressors.projection import rows_of
from inscape.core.rundir import write_atomically
from inscape.metrics.row_reconstruction import row_reconstruction

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from inscape.pretrained.language_model import LanguageModel

__all__ = [
    "DIAGNOSTICS",
    "DIAGNOSTIC_KEYS",
    "append_diagnostics",
    "complete_diagnostics",
    "peak_memory",
    "read_diagnostics",
    "reconstruction_values",
]

DIAGNOSTICS = "diagnostics.jsonl"  # in the folder of a training
DIAGNOSTIC_KEYS = (
    "recon_mse",  # mean (r - e)^2
    "recon_cosine_sim",  # mean over valid rows of cos(r, e)
    "recon_rel_error",  # ||r - e|| / ||e||
    "lr",  # of the step before
    "compression_ratio",  # D / d
    "quick_f1",  # on a few held-out questions, in percent
    "f1",  # on all of them, in percent
    "em",  # likewise
    "memory",  # peak, bytes
)


def reconstruction_values(
    compressor: Compressor, lm: LanguageModel, prompts: Sequence[Int[Tensor, " T"]]
) -> dict[str, float]:
    """The reconstruction keys and the ratio, of a row-wise compressor on `prompts`: means over prompts.

    ValueError where the compressor feeds other rows than one for each token.
    """
    made = []
    for ids_T in prompts:
        row_TD = compressor.inject(lm, compressor.compress(lm, ids_T)).rows_MD
        if row_TD is None or len(row_TD) != len(ids_T):
            raise ValueError(f"{compressor.name} does not feed one row for each token, so there is nothing to compare")
        made.append(row_TD)
    found = row_reconstruction([rows_of(lm, ids_T) for ids_T in prompts], made)
    return {
        "recon_mse": found.mse.value,
        "recon_cosine_sim": found.cosine.value,
        "recon_rel_error": found.relative_error.value,
        "compression_ratio": compressor.ratio,
    }


def append_diagnostics(path: Path, step: int, epoch: float, values: Mapping[str, float | None]) -> None:
    """Add the line of `step`; lines of this and later steps are dropped first, as a continued training repeats them.

    ValueError for a key that is not in `DIAGNOSTIC_KEYS`, or a number that is not finite.
    """
    unknown = sorted(set(values) - set(DIAGNOSTIC_KEYS))
    if unknown:
        raise ValueError(f"diagnostics know no {unknown[0]!r}; allowed: {', '.join(DIAGNOSTIC_KEYS)}")
    strange = [key for key, value in values.items() if value is not None and not math.isfinite(value)]
    if strange:
        raise ValueError(f"{strange[0]}={values[strange[0]]} is not finite; leave out what was not measured")
    line = {"step": step, "epoch": epoch} | {key: values.get(key) for key in DIAGNOSTIC_KEYS}
    kept = [before for before in read_diagnostics(path) if before["step"] < step]
    write_atomically(path, "".join(json.dumps(each, allow_nan=False) + "\n" for each in (*kept, line)))


def complete_diagnostics(path: Path, values: Mapping[str, float | None]) -> None:
    """Add to the last line what was measured when the training was over. ValueError where there is no line."""
    lines = read_diagnostics(path)
    if not lines:
        raise ValueError(f"{path} has no line to complete: the training has not evaluated anything")
    last = lines[-1]
    known = {key: last[key] for key in DIAGNOSTIC_KEYS}
    append_diagnostics(path, last["step"], last["epoch"], {**known, **values})


def read_diagnostics(path: Path) -> list[dict[str, Any]]:
    """All lines, none where there is no file. ValueError where it is damaged."""
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it") from None


def peak_memory(device: torch.device | str = "cpu") -> int | None:
    """The most bytes this process has held: on the GPU for cuda, else resident; None where the system does not say."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
