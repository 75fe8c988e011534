"""The download, against a server on loopback: whole, broken off, resumed, wrong, absent."""

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from inscape.data.speech.corpus import open_speech
from inscape.data.speech.librispeech import CHECKSUMS, download_librispeech

SUBSET = "dev-clean"


def archive(inside: str = f"LibriSpeech/{SUBSET}") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name in (
            "LibriSpeech/README.TXT",
            *(f"{inside}/{s}/7/{s}-7-000{k}.flac" for s in (1, 2) for k in range(2)),
        ):
            content = name.encode() * 500
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


class Server(ThreadingHTTPServer):
    content = archive()
    most: int | None = None  # bytes after which the connection is dropped
    ranges = True
    asked: list[str | None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.headers.get("Range"))
        if self.path != f"/{SUBSET}.tar.gz":
            self.send_error(404)
            return
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1]) if self.server.ranges else 0
        rest = self.server.content[start:]
        if start and not rest:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: self.server.most])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as found:
        found.asked = []
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def download(server: Server, folder: Path, **options: object) -> Path:
    source = f"http://127.0.0.1:{server.server_address[1]}"
    options.setdefault("checksum", hashlib.md5(server.content).hexdigest())
    return download_librispeech(folder, SUBSET, source=source, **options)  # type: ignore[arg-type]


def test_a_whole_transfer(server: Server, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    target = download(server, tmp_path, on_progress=lambda *x: told.append(x))
    assert target == tmp_path / "LibriSpeech" / SUBSET
    assert open_speech(target).speakers == ("1", "2")
    assert told[-1] == (len(server.content), len(server.content))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["LibriSpeech"], "no archive, nothing temporary"
    assert (tmp_path / "LibriSpeech" / "README.TXT").is_file()


def test_a_second_call_asks_for_nothing(server: Server, tmp_path: Path) -> None:
    assert download(server, tmp_path) == download(server, tmp_path)
    assert len(server.asked) == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_transfer_goes_on(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.most, server.ranges = 100, ranges
    with pytest.raises(ValueError, match=r"broke off at 100 of .* call again"):
        download(server, tmp_path)
    assert not (tmp_path / "LibriSpeech").exists()
    server.most = None
    assert open_speech(download(server, tmp_path)).speakers == ("1", "2")
    assert server.asked == [None, "bytes=100-"]


def test_a_transfer_that_only_lacked_its_name_is_finished(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{SUBSET}.tar.gz.part").write_bytes(server.content)
    assert download(server, tmp_path).is_dir()


def test_a_wrong_checksum_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"has the MD5 .*, not {CHECKSUMS[SUBSET]}: remove it"):
        download(server, tmp_path, checksum=None)
    assert not (tmp_path / "LibriSpeech").exists()


@pytest.mark.parametrize("content", [b"no archive", archive()[:-30], archive("LibriSpeech/other"), archive("../out")])
def test_an_archive_that_is_none_is_refused(server: Server, tmp_path: Path, content: bytes) -> None:
    server.content = content
    folder = tmp_path / "in"
    with pytest.raises(ValueError, match="remove it and call again"):
        download(server, folder)
    assert not (folder / "LibriSpeech" / SUBSET).exists()
    assert [p.name for p in tmp_path.iterdir()] == ["in"], "nothing was written outside"


def test_the_archive_can_be_kept(server: Server, tmp_path: Path) -> None:
    download(server, tmp_path, keep_archive=True)
    assert (tmp_path / f"{SUBSET}.tar.gz").read_bytes() == server.content


def test_no_connection_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^http://127\.0\.0\.1:9/.* cannot be reached \(.*\): fetch .* by hand"):
        download_librispeech(tmp_path, SUBSET, source="http://127.0.0.1:9")


def test_a_missing_archive_is_one_line(server: Server, tmp_path: Path) -> None:
    source = f"http://127.0.0.1:{server.server_address[1]}/nowhere"
    with pytest.raises(ValueError, match="answers 404"):
        download_librispeech(tmp_path, SUBSET, source=source)


def test_an_unknown_subset_and_a_folder_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no subset 'all'; allowed: dev-clean"):
        download_librispeech(tmp_path, "all")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be kept under"):
        download_librispeech(tmp_path / "file", SUBSET)
