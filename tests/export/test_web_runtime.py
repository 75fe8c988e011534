"""onnxruntime-web from a folder or through npm: what is taken, what is refused in one line, and nothing unpacked."""

import hashlib
import io
import os
import sys
import tarfile
from pathlib import Path

import pytest

from inscape.export import web_runtime
from inscape.export.web_runtime import FILES, FOLDER, LICENSE, VERSION, find_runtime

shebang = pytest.mark.skipif(os.name == "nt", reason="npm is played by a script with a shebang")

CONTENT = {"ort.wasm.bundle.min.mjs": b"export const env = {};", "ort-wasm-simd-threaded.wasm": b"\0asm\1\0\0\0"}


@pytest.fixture(autouse=True)
def _other_content(monkeypatch):
    """The pinned version is another, tiny one, and neither a folder nor npm is known."""
    assert FILES.keys() == CONTENT.keys()
    pinned = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
    monkeypatch.setattr(web_runtime, "FILES", pinned)
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.setenv("PATH", "")


def dist(root: Path, content: dict[str, bytes] = CONTENT) -> Path:
    folder = root / "package" / "dist"
    folder.mkdir(parents=True)
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return folder


def npm(root: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program of that name; `script` is Python and knows the folder to pack into."""
    program = root / "bin" / "npm"
    program.parent.mkdir()
    head = "import pathlib, shutil, sys\nassert sys.argv[1] == 'pack'\nfolder = pathlib.Path(sys.argv[-1])\n"
    program.write_text(f"#!{sys.executable}\n{head}{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))


def package(root: Path, **members: bytes) -> Path:
    path = root / "made.tgz"
    with tarfile.open(path, "w:gz") as file:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return path


def refused(*said: str) -> None:
    with pytest.raises(ValueError, match=FOLDER) as caught:
        find_runtime()
    line = str(caught.value)
    assert "\n" not in line
    assert f"set {FOLDER} to the folder dist of the npm package onnxruntime-web@{VERSION}" in line
    assert all(part in line for part in said), line


def test_a_folder_is_read_with_the_licence_beside_it(tmp_path: Path, monkeypatch):
    monkeypatch.setenv(FOLDER, str(dist(tmp_path)))
    assert find_runtime() == CONTENT
    (tmp_path / "package" / LICENSE).write_text("MIT")
    assert find_runtime() == CONTENT | {LICENSE: b"MIT"}


def test_a_folder_that_is_missing_or_damaged_is_one_line_and_npm_is_not_asked_instead(tmp_path: Path, monkeypatch):
    npm(tmp_path, monkeypatch, f"(pathlib.Path({str(tmp_path)!r}) / 'asked').touch()")
    monkeypatch.setenv(FOLDER, str(tmp_path / "nowhere"))
    refused("nowhere: ort.wasm.bundle.min.mjs cannot be read (No such file or directory)")
    folder = dist(tmp_path)
    monkeypatch.setenv(FOLDER, str(folder))
    (folder / "ort-wasm-simd-threaded.wasm").write_bytes(b"\0asm")
    refused("ort-wasm-simd-threaded.wasm is damaged or of another version")
    (folder / "ort-wasm-simd-threaded.wasm").unlink()
    (folder / "ort-wasm-simd-threaded.wasm").mkdir()
    refused("ort-wasm-simd-threaded.wasm cannot be read (Is a directory)")
    assert not (tmp_path / "asked").exists()


def test_without_npm_and_without_a_folder_it_is_one_line():
    refused(f"export --format web needs onnxruntime-web@{VERSION}", "npm, which would fetch it, is not here")


@shebang
def test_only_files_that_are_asked_for_are_read(tmp_path: Path, monkeypatch):
    members = {f"package/dist/{name}": data for name, data in CONTENT.items()}
    evil = {"../../evil": b"evil", str(tmp_path.parent / "evil"): b"evil", "package/dist/../../evil": b"evil"}
    made = package(tmp_path, **evil, **members, **{"package/LICENSE": b"MIT"})
    npm(tmp_path, monkeypatch, f"shutil.copy({str(made)!r}, folder)")
    assert find_runtime() == CONTENT | {LICENSE: b"MIT"}
    assert not list(tmp_path.parent.rglob("evil"))


@shebang
def test_a_package_without_them_or_damaged_is_one_line(tmp_path: Path, monkeypatch):
    made = package(tmp_path, **{"package/dist/ort.wasm.bundle.min.mjs": b"other"})
    npm(tmp_path, monkeypatch, f"shutil.copy({str(made)!r}, folder)")
    refused("ort.wasm.bundle.min.mjs is damaged or of another version")
    made.write_bytes(made.read_bytes()[:40])
    refused(f"npm's package onnxruntime-web@{VERSION} cannot be read")


@shebang
def test_npms_own_words_are_passed_on_in_one_line(tmp_path: Path, monkeypatch):
    said = "npm notice\\nnpm error code E404\\nnpm error 404  Not Found\\n"
    npm(tmp_path, monkeypatch, f"sys.stderr.write('{said}')\nsys.exit(1)")
    refused(f"npm cannot fetch onnxruntime-web@{VERSION} (npm error code E404)")


@shebang
def test_npm_that_packs_nothing_or_takes_too_long_is_one_line(tmp_path: Path, monkeypatch):
    npm(tmp_path, monkeypatch, "import time\ntime.sleep(float(pathlib.Path(sys.argv[0]).with_name('s').read_text()))")
    (tmp_path / "bin" / "s").write_text("0")
    refused("npm cannot fetch", "(exit status 0)")
    (tmp_path / "bin" / "s").write_text("60")
    monkeypatch.setattr(web_runtime, "PATIENCE", 0.5)
    refused("npm did not fetch", "within 0.5 s")
