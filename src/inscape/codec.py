"""Sentences to latents in two lines.

codec = VisualCodec.from_pretrained()
latent_BCHW = codec.encode(["a red ball is on the blue block"])
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import final

from safetensors.torch import save
from torch import Tensor

from inscape.core.rundir import find_runs, write_atomically
from inscape.data.text import lines_of
from inscape.studies.visual.model import WEIGHTS, TextToLatent, encode, load_encoder

__all__ = ["VisualCodec", "encode_to_files"]

RUNS = Path("runs")


@final
class VisualCodec:
    """A trained text encoder; its latents are small pictures, (B, 6, 32, 32) at the default size."""

    def __init__(self, model: TextToLatent) -> None:
        self._model = model

    @classmethod
    def from_pretrained(cls, weights: Path | str | None = None) -> VisualCodec:
        """Load a run folder or a weights file; without one, the newest finished P1 run under ./runs.

        ValueError in one line if there is none, or if the file is missing, damaged or foreign.
        """
        return cls(load_encoder(_newest_run() if weights is None else Path(weights)))

    def encode(self, sentences: Sequence[str]) -> Tensor:
        """Latents (B, C, H, W), float32 on the CPU, one for each sentence.

        ValueError on a bare string, on no sentence, and on a sentence that is empty or too long for the encoder.
        """
        if isinstance(sentences, str):
            raise ValueError("encode wants a list of sentences; for one sentence give [sentence]")
        if not sentences:
            raise ValueError("no sentence to encode; give one or more")
        for number, sentence in enumerate(sentences, 1):
            if not sentence.strip():
                raise ValueError(f"sentence {number} is empty; leave it out")
        return encode(self._model, list(sentences))


def encode_to_files(texts: Sequence[str], file: Path | None, weights: Path | None, out: Path, png: Path | None) -> str:
    """Encode sentences into a safetensors file, drawn as well if `png` is given; returns what was done, in words.

    The file holds `latents` (B, C, H, W) and, in its metadata, `sentences` as JSON. Everything is checked before
    anything is written.
    """
    if texts and file:
        raise ValueError("give sentences or --file, not both")
    if not texts and not file:
        raise ValueError('nothing to encode: give sentences ("a red ball is on the blue block") or --file FILE')
    _refuse_unwritable(out, png, [file] if file else [])
    sentences = _sentences_of(file) if file else list(texts)
    weights = _newest_run() if weights is None else weights
    _refuse_unwritable(out, png, [weights, weights / WEIGHTS])
    latent_BCHW = VisualCodec.from_pretrained(weights).encode(sentences)
    write_atomically(out, save({"latents": latent_BCHW}, {"sentences": json.dumps(sentences)}))
    said = f"{out}: latents of {len(sentences)} sentences, {' x '.join(map(str, latent_BCHW.shape[1:]))}"
    if png:
        from inscape.studies.visual.figures import channel_montage

        channel_montage(latent_BCHW[:16].numpy(), sentences[:16], png)
        said += f"\n{png}: picture{' of the first 16' if len(sentences) > 16 else ''}"
    return said


def _refuse_unwritable(out: Path, png: Path | None, read: Sequence[Path]) -> None:
    """ValueError if a file cannot be made where it is wanted, or would replace one that is read."""
    if png is not None and png.absolute() == out.absolute():
        raise ValueError(f"--out and --png both name {out}; give two names")
    for path in filter(None, (out, png)):
        try:
            if path.is_dir() or not path.parent.is_dir():
                reason = "it is a folder" if path.is_dir() else "its folder is missing"
                raise ValueError(f"{path} cannot be written: {reason}")
            if path.resolve() in {source.resolve() for source in read}:
                raise ValueError(f"{path} is read here, and would be overwritten; give another name")
            NamedTemporaryFile(prefix=f".{path.name}.", dir=path.parent).close()
        except OSError as error:
            raise ValueError(f"{path} cannot be written: {error.strerror}; give another name or folder") from None


def _sentences_of(file: Path) -> list[str]:
    """The lines of a UTF-8 text file that are not blank."""
    sentences = [line.strip() for line in lines_of(file) if line.strip()]
    if not sentences:
        raise ValueError(f"{file} holds no sentence; give one a line")
    return sentences


def _newest_run() -> Path:
    finished = [run for run in find_runs(RUNS, "visual", "P1") if run.finished]
    if not finished:
        raise ValueError(
            "there are no weights yet: give --weights RUN, or train some with: inscape run visual --preset quick"
        )
    return max(finished, key=lambda run: run.path.name).path
