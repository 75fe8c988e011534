"""A trained codec in the formats that others read: for the hub, for sentence-transformers, onnxruntime, a browser.

    hf      config.json, model.safetensors, tokenizer.json and a model card: what VisualCodec.from_pretrained fetches;
            with prior.safetensors, where one lies beside the weights
    sbert   the same, and what sentence-transformers needs to load it as a SentenceTransformer
    onnx    three graphs that say everything without torch
    web     the page of `inscape explore` with these graphs inside it, for any server of plain files

Imports are lazy: `hub` is asked for by every codec that is loaded, and must not bring the writers along.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from inscape.extras import load_extra

if TYPE_CHECKING:
    from inscape.studies.visual.model import TrainedCodec

__all__ = ["FORMATS", "export"]


class _Needs(NamedTuple):
    """The packages that a format needs beside the default ones, and the extra that installs them."""

    extra: str = ""
    packages: tuple[str, ...] = ()


ONNX = _Needs("onnx", ("onnx", "onnxruntime"))
NEEDS = {"hf": _Needs(), "sbert": _Needs("sbert", ("sentence_transformers",)), "onnx": ONNX, "web": ONNX}
FORMATS = tuple(NEEDS)


def export(format: str, out: Path, weights: Path | None = None) -> str:
    """Write the folder `out`, whole or not at all; returns what was done, in words.

    weights: as in `VisualCodec.from_pretrained`. ValueError in one line, before anything is written: an unknown
    format, a package that is missing, an `out` that is taken, weights that are an encoder alone or whose decoder is not
    trained, another codec's prior.
    """
    from inscape.codec import VisualCodec, find_weights
    from inscape.export.hub import about_weights, resolve_pretrained
    from inscape.export.new_folder import check_new_folder, new_folder
    from inscape.studies.visual.latent_prior import PRIOR_WEIGHTS, load_prior, prior_beside

    if format not in NEEDS:
        raise ValueError(f"format {format!r} is not known; allowed: {', '.join(FORMATS)}")
    check_new_folder(out)
    extra, packages = NEEDS[format]
    for package in packages:
        load_extra(package, extra, f"export --format {format}")
    source = find_weights() if weights is None else resolve_pretrained(weights)
    codec = VisualCodec.from_pretrained(source).reading
    about = about_weights(source)
    prior = prior_beside(source) if format == "hf" else None
    if prior is not None:
        load_prior(prior, codec.model)  # damaged, or another codec's: refused here, and not where it has travelled to
    with new_folder(out) as folder:
        if prior is not None:
            shutil.copyfile(prior, folder / PRIOR_WEIGHTS)
        said = _writer(format)(codec, about, folder)
    return f"{out}: {said}"


def _writer(format: str) -> Callable[[TrainedCodec, str, Path], str]:
    if format == "sbert":
        from inscape.export.sbert_folder import write_sbert

        return write_sbert
    if format == "onnx":
        from inscape.export.onnx_folder import write_onnx

        return write_onnx
    if format == "web":
        from inscape.export.web_folder import write_web

        return write_web
    from inscape.export.hub_folder import write_hf

    return write_hf
