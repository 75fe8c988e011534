"""LibriSpeech, fetched once: download with a bar and a checksum, unpacked under a temporary name, renamed.

The source of the corpus is https://www.openslr.org/12 (Panayotov et al. 2015), CC BY 4.0. Nothing of it is part of this
package. A broken transfer goes on where it stopped; a finished one is never repeated.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from inscape.user_paths import user_path

__all__ = ["CHECKSUMS", "SOURCE", "download_librispeech"]

SOURCE = "https://www.openslr.org/resources/12"
CHECKSUMS = {  # MD5, as published beside the archives
    "dev-clean": "42e2234ba48799c1f50f24a7926300a1",
    "dev-other": "c8d0bcc9cca99d4f8b62fcc847357931",
    "test-clean": "32fa31d27d2e1cad72775fee3f4849a9",
    "test-other": "fb5a50374b501bb3bac4815ee91d3135",
    "train-clean-100": "2a93770f6d5c6c964bc36631d331a522",
    "train-clean-360": "c0e676e450a7ff2f54aeade5171606fa",
    "train-other-500": "d1a0fd59409feb2c614ce4d30c387708",
}
BLOCK = 1 << 20
TIMEOUT_SEC = 30.0

Report = Callable[[int, int | None], None]


def download_librispeech(
    folder: Path | str,
    subset: str = "train-clean-100",
    *,
    source: str = SOURCE,
    checksum: str | None = None,
    keep_archive: bool = False,
    on_progress: Report | None = None,
) -> Path:
    """Make folder/LibriSpeech/<subset>/ exist and return it; at once if it does.

    source: where <subset>.tar.gz lies. checksum: MD5 of a mirror's own archive; the published one if not given.
    on_progress(done, total) is told bytes of the transfer (total None where the server does not say); without it, a bar
    is drawn on a terminal. ValueError in one line for an unknown subset, no connection, a wrong checksum, a full disk.
    """
    if subset not in CHECKSUMS:
        raise ValueError(f"LibriSpeech has no subset {subset!r}; allowed: {', '.join(CHECKSUMS)}")
    root = user_path(folder)
    target = root / "LibriSpeech" / subset
    if target.is_dir():
        return target
    archive = root / f"{subset}.tar.gz"
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not archive.exists():
            _fetch(f"{source}/{archive.name}", archive, on_progress)
        _check(archive, checksum or CHECKSUMS[subset])
        _unpack(archive, root, subset)
        if not keep_archive:
            archive.unlink()
    except OSError as error:
        raise ValueError(f"LibriSpeech cannot be kept under {root}: {error.strerror or error}") from None
    return target


def _fetch(address: str, archive: Path, on_progress: Report | None) -> None:
    """Transfer into <archive>.part, continuing what is there, then rename."""
    part = archive.with_name(archive.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    by_hand = f"fetch {archive.name} by hand, unpack it, and give the folder"
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_SEC)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:  # asked for what lies beyond the end: all of it is here
            part.replace(archive)
            return
        raise ValueError(f"{address} answers {error.code} {error.reason}: {by_hand}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise ValueError(f"{address} cannot be reached ({getattr(error, 'reason', error)}): {by_hand}") from None
    with answer:
        if answer.status != 206:  # the server sends the whole file, whatever was asked
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        with part.open("ab" if have else "wb") as file, _reporter(archive.name, total, on_progress) as report:
            for block in _blocks(answer, address):
                file.write(block)
                report(file.tell(), total)
            done = file.tell()
    if total is not None and done < total:
        raise ValueError(f"{address} broke off at {done} of {total} bytes: call again, and it goes on from there")
    part.replace(archive)


def _blocks(answer, address: str) -> Iterator[bytes]:
    while True:
        try:
            block = answer.read(BLOCK)
        except (OSError, HTTPException) as error:
            raise ValueError(f"{address} broke off ({error}): call again, and it goes on from there") from None
        if not block:
            return
        yield block


def _check(archive: Path, checksum: str) -> None:
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != checksum:
        raise ValueError(f"{archive} has the MD5 {found}, not {checksum}: remove it and call again")


def _unpack(archive: Path, root: Path, subset: str) -> None:
    """Into a temporary folder, then the subset is renamed into place and the corpus's own notes beside it."""
    if not hasattr(tarfile, "data_filter"):
        raise ValueError("unpacking safely needs Python 3.11.4 or later: update Python, or unpack by hand")
    partial = root / f".{subset}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(f"{archive} cannot be unpacked ({error}): remove it and call again") from None
    unpacked = partial / "LibriSpeech"
    if not (unpacked / subset).is_dir():
        raise ValueError(f"{archive} holds no LibriSpeech/{subset}: remove it and call again")
    (root / "LibriSpeech").mkdir(exist_ok=True)
    for note in sorted(path for path in unpacked.iterdir() if path.is_file()):
        note.replace(root / "LibriSpeech" / note.name)
    (unpacked / subset).rename(root / "LibriSpeech" / subset)
    shutil.rmtree(partial)


@contextmanager
def _reporter(name: str, total: int | None, on_progress: Report | None) -> Iterator[Report]:
    """Where progress goes: to the caller, else to a bar on a terminal, else nowhere."""
    if on_progress is not None or not sys.stderr.isatty():
        yield on_progress or (lambda done, total: None)
        return
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (*Progress.get_default_columns()[:2], DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total)
        yield lambda done, total: bar.update(task, completed=done, total=total)
