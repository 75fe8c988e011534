"""onnxruntime-web, which runs ONNX graphs in a browser: found or fetched when a page is exported, for it weighs 12 MB.

Two files do it, WebAssembly and the script that loads it, without threads and so without the headers that threads need.
Their version is pinned and their content known beforehand, so that an exported page is the same wherever it was made.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

__all__ = ["FILES", "FOLDER", "LICENSE", "VERSION", "find_runtime"]

VERSION = "1.23.2"  # reads opsets up to 21; the smallest that needs no third file
FILES = {  # name in the package's folder dist -> SHA-256
    "ort.wasm.bundle.min.mjs": "cace3b98bee45c1c40ed04e07b984fb66012acacb702e6aecd9008239bf35e99",
    "ort-wasm-simd-threaded.wasm": "45eaee27761ad883742a8d4b8fce1538d60ce43b51adf1726fafccc59b8c1a15",
}
LICENSE = "LICENSE"  # beside dist; not in every package
FOLDER = "INSCAPE_ORT_WEB"
PATIENCE = 600  # seconds for 26 MB

NAME = f"onnxruntime-web@{VERSION}"
WAYS = f"set {FOLDER} to the folder dist of the npm package {NAME}"


def find_runtime() -> dict[str, bytes]:
    """Content of FILES by name, and of the licence where there is one.

    From the folder that INSCAPE_ORT_WEB names, else through npm. ValueError in one line that says what to set.
    """
    if given := os.environ.get(FOLDER):
        return _read_folder(Path(given))
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(f"export --format web needs {NAME}, and npm, which would fetch it, is not here; {WAYS}")
    with tempfile.TemporaryDirectory(prefix="inscape-web-") as folder:
        return _read_package(_packed(npm, Path(folder)))


def _read_folder(dist: Path) -> dict[str, bytes]:
    found = {}
    for name in FILES:
        try:
            found[name] = (dist / name).read_bytes()
        except OSError as error:
            raise ValueError(f"{FOLDER}={dist}: {name} cannot be read ({error.strerror}); {WAYS}") from None
        _check(name, found[name], f"{FOLDER}={dist}")
    for place in (dist.parent / LICENSE, dist / LICENSE):
        if place.is_file():
            found[LICENSE] = place.read_bytes()
    return found


def _packed(npm: str, folder: Path) -> Path:
    """The package as npm fetches it from the registry that it knows; nothing of it is run."""
    command = [npm, "pack", NAME, "--ignore-scripts", "--fetch-retries", "1", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(f"npm did not fetch {NAME} within {PATIENCE} s; try again, or {WAYS}") from None
    except OSError as error:
        raise ValueError(f"npm cannot be run ({error.strerror}); {WAYS}") from None
    packed = list(folder.glob("*.tgz"))
    if done.returncode or len(packed) != 1:
        said = [line for line in done.stderr.splitlines() if line.strip() and "notice" not in line]
        reason = " ".join(said[0].split())[:200] if said else f"exit status {done.returncode}"
        raise ValueError(f"npm cannot fetch {NAME} ({reason}); {WAYS}")
    return packed[0]


def _read_package(path: Path) -> dict[str, bytes]:
    """Only what is asked for by name is read, and nothing is unpacked: no path in the archive can lead anywhere."""
    found = {}
    try:
        with tarfile.open(path) as package:
            for name in (*FILES, LICENSE):
                inside = f"package/{name if name == LICENSE else f'dist/{name}'}"
                member = package.extractfile(inside) if inside in package.getnames() else None
                if member is not None:
                    found[name] = member.read()
    except (tarfile.TarError, OSError, EOFError, KeyError) as error:
        raise ValueError(f"npm's package {NAME} cannot be read ({str(error)[:200]}); {WAYS}") from None
    for name in FILES:
        _check(name, found.get(name, b""), f"npm's package {NAME}")
    return found


def _check(name: str, content: bytes, source: str) -> None:
    if hashlib.sha256(content).hexdigest() != FILES[name]:
        raise ValueError(f"{source}: {name} is damaged or of another version; {WAYS}")
