"""What the codec's verbs do with files: sentences in, latents and embeddings out, latents in.

Every file that is read may be damaged, hostile or another thing altogether, and every name that is written may be taken
or impossible: all of it is a ValueError in one line, and all of it is found before anything is written.

Legend: B sentences, C, H, W of the latent, Z width of the embedding.
"""

from __future__ import annotations

import io
import json
import lzma
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from inscape.checkpoint import load_weights
from inscape.codec import VisualCodec, find_weights
from inscape.core.rundir import write_atomically
from inscape.data.text_lines import is_grouped, lines_of
from inscape.export.hub import resolve_pretrained
from inscape.studies.visual.latent_prior import prior_beside
from inscape.studies.visual.model import weights_files

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["embed_to_file", "encode_to_files", "read_grammar", "read_latents"]

LATENTS = "latents"  # the array's name in .safetensors and .npz
LARGEST_ARRAY = 4 << 30  # bytes; a few kilobytes of .npz can claim to be more than the memory holds


def encode_to_files(
    texts: Sequence[str],
    file: Path | None,
    weights: Path | None,
    out: Path,
    png: Path | None = None,
    *,
    strict: bool = False,
) -> str:
    """Encode sentences into a safetensors file, drawn as well if `png` is given; returns what was done, in words.

    The file holds `latents` (B, C, H, W) and, in its metadata, `sentences` as JSON. `strict` refuses sentences that are
    not of the codec's grammar. A link is followed and stays. ValueError as said above.
    """
    if texts and file:
        raise ValueError("give sentences or --file, not both")
    if not texts and not file:
        raise ValueError('nothing to encode: give sentences ("a red ball is on the blue block") or --file FILE')
    if png is not None and _target(png) == _target(out):
        raise ValueError(f"--out and --png both name {out}; give two names")
    sentences, names, codec = _opened(texts, file, weights, [out, *([png] if png else [])])
    latent_BCHW = codec.encode(sentences, strict=strict, names=names).as_subclass(Tensor)
    write_atomically(_target(out), save({LATENTS: latent_BCHW}, {"sentences": json.dumps(sentences)}))
    said = f"{out}: latents of {len(sentences)} sentences, {' x '.join(map(str, latent_BCHW.shape[1:]))}"
    if png:
        from inscape.studies.visual.figures import channel_montage

        channel_montage(latent_BCHW[:16].numpy(), sentences[:16], _target(png))
        said += f"\n{png}: picture{' of the first 16' if len(sentences) > 16 else ''}"
    return said


def embed_to_file(file: Path, weights: Path | None, out: Path) -> str:
    """Embed the sentences of a text file into a .npy of float32 (B, Z), row by row; returns what was done, in words."""
    sentences, names, codec = _opened((), file, weights, [out])
    z_BZ = codec.embed(sentences, names=names).numpy()
    content = io.BytesIO()
    np.save(content, z_BZ, allow_pickle=False)
    write_atomically(_target(out), content.getvalue())
    return f"{out}: embeddings of {len(sentences)} sentences, {z_BZ.shape[1]} numbers each"


def read_latents(path: Path) -> Float[Tensor, "B C H W"]:
    """The array `latents` of a .safetensors or .npz file, or a .npy file's; told apart by their content.

    Nothing is unpickled. ValueError in one line on anything else; whether a codec can read them is for it to say.
    """
    try:
        with path.open("rb") as file:
            start = file.read(6)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; give a file of latents, as inscape encode writes them") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if start == b"\x93NUMPY":
        return _from_numpy(path, _read_npy(path))
    if start[:2] == b"PK":
        return _from_numpy(path, _read_npz(path))
    if not start:
        raise ValueError(f"{path} is empty; give a file of latents, as inscape encode writes them")
    tensors = load_weights(path)
    if LATENTS not in tensors:
        raise ValueError(f"{path} {_holds(sorted(tensors))}; wanted an array named {LATENTS!r}")
    return tensors[LATENTS]


def read_grammar(path: Path) -> str:
    """The text of a grammar; ValueError if the file is missing, no UTF-8 or empty."""
    text = "".join(lines_of(path))
    if not text.strip():
        raise ValueError(f"{path} is empty; give a grammar in Lark syntax, from `start: ` on")
    return text


def _read_npy(path: Path) -> np.ndarray:
    try:
        # Mapped, so that a header that claims more than the file holds is refused and not allocated.
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, OSError, EOFError, TypeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{path} is damaged or no plain array of numbers: {_first_line(error)}") from None


def _read_npz(path: Path) -> np.ndarray:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {info.filename: info.file_size for info in archive.infolist()}
            if f"{LATENTS}.npy" not in names:
                found = sorted(name.removesuffix(".npy") for name in names)
                raise ValueError(f"{path} {_holds(found)}; wanted an array named {LATENTS!r}")
            if names[f"{LATENTS}.npy"] > LARGEST_ARRAY:
                raise ValueError(f"{path} unpacks to more than {LARGEST_ARRAY >> 30} GiB; give fewer latents at a time")
            content = archive.read(f"{LATENTS}.npy")
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, MemoryError) as error:
        raise ValueError(f"{path} is a damaged .npz file: {_first_line(error)}") from None
    try:
        return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, TypeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{path} is damaged or holds no plain array of numbers: {_first_line(error)}") from None


def _from_numpy(path: Path, array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{path} holds {array.dtype}; wanted floats")
    native = array.astype(array.dtype.newbyteorder("="))  # torch knows one byte order
    return torch.from_numpy(native.astype(np.float64) if native.dtype.kind == "f" else native.astype(np.int64))


def _holds(names: Sequence[str]) -> str:
    few = ", ".join(repr(name[:40]) for name in names[:3])
    return f"holds {few}{' and more' if len(names) > 3 else ''}" if names else "holds nothing"


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _opened(
    texts: Sequence[str], file: Path | None, weights: Path | None, writes: Sequence[Path]
) -> tuple[list[str], list[str] | None, VisualCodec]:
    """Sentences, their names and the codec, once it is clear that everything can be written where it is wanted."""
    _refuse_unwritable(writes, [file] if file else [])
    sentences, names = _lines_of(file) if file else (list(texts), None)
    found = find_weights() if weights is None else resolve_pretrained(weights)
    prior = prior_beside(found)
    _refuse_unwritable(writes, [*weights_files(found), *([prior] if prior else [])])
    return sentences, names, VisualCodec.from_pretrained(found)


def _target(path: Path, done: str = "written") -> Path:
    """Where what is written to `path` ends up: links are followed, as a shell's `>` follows them; `read` likewise."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # links in a circle, by the version of Python
        raise ValueError(f"{path} cannot be {done}: its links lead nowhere; give another name") from None


def _refuse_unwritable(writes: Sequence[Path], reads: Sequence[Path]) -> None:
    """ValueError if a file cannot be made where it is wanted, or would replace one that is read, or is no file."""
    for path in writes:
        target = _target(path)
        try:
            if target.is_dir() or not target.parent.is_dir():
                reason = "it is a folder" if target.is_dir() else "its folder is missing"
                raise ValueError(f"{path} cannot be written: {reason}")
            if target in {_target(source, "read") for source in reads}:
                raise ValueError(f"{path} is read here, and would be overwritten; give another name")
            if os.path.lexists(target) and not target.is_file():
                raise ValueError(f"{path} cannot be written: it is a device, a pipe or the like; give another name")
            NamedTemporaryFile(prefix=f".{target.name}.", dir=target.parent).close()
        except OSError as error:
            raise ValueError(f"{path} cannot be written: {error.strerror}; give another name or folder") from None


def _lines_of(file: Path) -> tuple[list[str], list[str]]:
    """The lines of a UTF-8 text file that are not blank, and what messages are to call each; of a .tsv its cells."""
    cut = "\t" if is_grouped(file) else None
    found = [
        (cell.strip(), f"{file}, line {number}" + (f", column {column}" if cut else ""))
        for number, line in enumerate(lines_of(file), 1)
        for column, cell in enumerate(line.split(cut) if cut else (line,), 1)
        if cell.strip()
    ]
    if not found:
        raise ValueError(f"{file} holds no sentence; give one a line")
    sentences, names = zip(*found, strict=True)
    return list(sentences), list(names)
