"""Files of the codec's verbs that lead nowhere or are damaged: one line, before any weights are read."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from inscape.codec_files import embed_to_file, encode_to_files, read_latents


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("circle").symlink_to("circle")
    Path("lines.txt").write_text("a red ball is on the blue block\n")


OUT, LINES = Path("out"), Path("lines.txt")
DOORS: dict[str, Callable[[Path], object]] = {
    "encode --file": lambda path: encode_to_files([], path, None, OUT),
    "encode --weights": lambda path: encode_to_files(["a red ball"], None, path, OUT),
    "embed --file": lambda path: embed_to_file(path, None, OUT),
    "embed --weights": lambda path: embed_to_file(LINES, path, OUT),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("circle", "cannot be read: its links lead nowhere; give another name"),
        ("x" * 300, "cannot be read: File name too long; give another path"),
    ],
    ids=["circle", "long"],
)
def test_a_name_that_leads_nowhere_is_one_line(door: str, name: str, said: str) -> None:
    before = sorted(Path().iterdir())
    with pytest.raises(ValueError, match=f"^{name} {said}$"):
        DOORS[door](Path(name))
    assert sorted(Path().iterdir()) == before


def test_latents_packed_with_lzma_and_damaged_are_one_line() -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("latents.npy", bytes(range(256)) * 99)
    damaged = bytearray(content.getvalue())
    start = len("latents.npy") + 30 + 9  # behind the archive's header of the member and LZMA's own
    damaged[start : start + 60] = b"\xff" * 60
    Path("v.npz").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"^v\.npz is a damaged \.npz file: "):
        read_latents(Path("v.npz"))
