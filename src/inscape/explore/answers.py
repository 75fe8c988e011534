"""What the page tells of a latent: its statistics beside those of photographs, what it says and where each word looked.

Plain functions from tensors to what JSON can hold. Legend: N latents, C, H, W of each, P patches, M places of the
decoder's memory (the patches, then z), T tokens.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inscape.codec import VisualCodec
from inscape.data.scenes import EDITS, Object, Scene
from inscape.data.scenes.counterfactuals import all_counterfactuals
from inscape.data.tokenizer import EOS, PAD, Tokenizer
from inscape.stats import image_statistics, radial_spectrum
from inscape.stats.photographs import BANDS, SIDE
from inscape.studies.visual.coding import speak
from inscape.studies.visual.paraphrasing import meaning_of

__all__ = ["bands", "differences", "edit_between", "readings", "scene_of", "statistics"]


def bands(height: int, width: int) -> dict[str, dict[str, float]]:
    """Where 90 % of photographic crops lie, by statistic; empty at sizes for which nobody has measured them."""
    if (height, width) != (SIDE, SIDE):
        return {}
    shown = {name: BANDS[name] for name in ("spectral_slope", "gradient_kurtosis", "haar_sparsity")}
    return {name: {"median": band.median, "low": band.low, "high": band.high} for name, band in shown.items()}


def statistics(latent_NCHW: Tensor) -> list[dict[str, Any]]:
    """Of each latent, by channel: slope, kurtosis, sparsity, variance, and the spectrum with its fitted line.

    The spectrum is the log10 of power by log10 of frequency in cycles per pixel.
    """
    with torch.inference_mode():
        found = image_statistics(latent_NCHW)
        frequency_R, power_NCR = radial_spectrum(latent_NCHW)
    across = [round(math.log10(f), 4) for f in frequency_R.tolist()]
    logs_NCR = power_NCR.clamp_min(1e-12).log10()
    rows = []
    for i in range(len(latent_NCHW)):
        channels = [
            {
                "spectral_slope": _rounded(float(found.spectral_slope[i, c])),
                "gradient_kurtosis": _rounded(float(found.gradient_kurtosis[i, c])),
                "haar_sparsity": _rounded(float(found.haar_sparsity[i, c])),
                "variance": _rounded(float(found.variance[i, c])),
                "log_power": [_rounded(value) for value in logs_NCR[i, c].tolist()],
                "level": _rounded(_level(across, logs_NCR[i, c].tolist(), float(found.spectral_slope[i, c]))),
            }
            for c in range(latent_NCHW.shape[1])
        ]
        rows.append({"log_frequency": across, "channels": channels})
    return rows


def readings(codec: VisualCodec, latent_NCHW: Tensor) -> list[dict[str, Any]]:
    """What each latent says, word by word, with where on the latent each word looked.

    `attention`: a row of the patch grid after another, 0 to 255 of the most looked-at patch of that word; `on_z` is the
    share of its attention that went to z instead.
    """
    trained = codec.reading
    spoken = speak(trained, latent_NCHW)
    height, width = trained.model.reader.grid
    rows = []
    for text, tokens_T, attention_TM in zip(spoken.texts, spoken.tokens_NT, spoken.attention_NTM, strict=True):
        scene = meaning_of(text) if codec.knows_grammar else None
        rows.append(
            {
                "sentence": text,
                "grid": [height, width],
                "words": _words(trained.tokenizer, text, tokens_T, attention_TM, height * width),
                "scene": scene_of(scene),
                "in_grammar": scene is not None if codec.knows_grammar else None,
            }
        )
    return rows


def _words(
    tokenizer: Tokenizer, text: str, tokens_T: np.ndarray, attention_TM: np.ndarray, places: int
) -> list[dict[str, Any]]:
    """The words of a text, each with the mean attention of its tokens."""
    words = text.split()
    ids = [int(token) for token in tokens_T if token not in (PAD, EOS)]
    ends = tokenizer.decode(np.tril(np.tile(ids, (len(ids), 1)))) if ids else []  # each beginning, padded with 0
    owner = [max(0, len(end.split()) - 1) for end in ends]
    found = []
    for number, word in enumerate(words):
        mine = [i for i, of in enumerate(owner) if of == number]
        mean_M = attention_TM[mine].mean(0) if mine else np.zeros(attention_TM.shape[1])
        patches_P = mean_M[:places]
        scaled_P = np.rint(255 * patches_P / max(float(patches_P.max()), 1e-12)).astype(int)
        found.append({"text": word, "attention": scaled_P.tolist(), "on_z": _rounded(float(mean_M[places:].sum()))})
    return found


def differences(before: str, after: str) -> list[dict[str, str]]:
    """The words of two sentences side by side: runs that are the same, changed, gone or added."""
    a, b = before.split(), after.split()
    kinds = {"equal": "same", "replace": "changed", "delete": "gone", "insert": "added"}
    return [
        {"kind": kinds[tag], "was": " ".join(a[i:j]), "now": " ".join(b[k:m])}
        for tag, i, j, k, m in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    ]


def scene_of(scene: Scene | None) -> dict[str, Any] | None:
    """A scene as JSON, for drawing."""
    if scene is None:
        return None
    facts = scene.facts
    return {"facts": [{"relation": f.relation, "figure": _thing(f.figure), "ground": _thing(f.ground)} for f in facts]}


def _thing(thing: Object) -> dict[str, Any]:
    return {"count": thing.count, "size": thing.size, "colour": thing.colour, "shape": thing.shape}


def edit_between(first: str, second: str) -> str:
    """Which edit makes the first scene the second: its name, "none" if they mean the same, "several" if no one does it.

    "unread" where the parser cannot read one of them.
    """
    one, other = meaning_of(first), meaning_of(second)
    if one is None or other is None:
        return "unread"
    if one == other:
        return "none"
    names: Sequence[str] = [edit for edit in EDITS if other in all_counterfactuals(one, edit)]
    return names[0] if names else "several"


def _level(across: list[float], logs: list[float], slope: float) -> float:
    """The fitted line's height at frequency 1 (log10): the line of this slope through the middle of the spectrum."""
    return sum(logs) / len(logs) + slope * sum(across) / len(across)


def _rounded(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
