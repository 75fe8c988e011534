"""A folder is seen whole or not at all."""

import sys
from pathlib import Path

import pytest

from inscape.export.new_folder import check_new_folder, new_folder


def test_nothing_is_seen_before_the_end(tmp_path: Path):
    with new_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("a")
        assert not (tmp_path / "out").exists()
        assert folder.parent == tmp_path
    assert (tmp_path / "out" / "a").read_text() == "a"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_whatever_goes_wrong_nothing_is_left(error: type[BaseException], tmp_path: Path):
    def fail() -> None:
        with new_folder(tmp_path / "out") as folder:
            (folder / "a").write_text("a")
            raise error

    with pytest.raises(error):
        fail()
    assert not list(tmp_path.iterdir())


def test_what_somebody_else_wrote_meanwhile_is_kept(tmp_path: Path):
    (tmp_path / "out").mkdir()

    def be_late() -> None:
        with new_folder(tmp_path / "out"):
            (tmp_path / "out" / "theirs").write_text("theirs")

    with pytest.raises(ValueError, match="out cannot be written: Directory not empty"):
        be_late()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "theirs"]


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="such a link is then a name like any other")
def test_a_link_that_leads_to_itself_is_one_line(tmp_path: Path):
    (tmp_path / "l").symlink_to(tmp_path / "l")
    with pytest.raises(ValueError, match=r"l cannot be written: Symlink loop from .*; give another name or folder"):
        check_new_folder(tmp_path / "l")


def test_a_name_that_no_disk_takes_is_one_line(tmp_path: Path):
    with pytest.raises(ValueError, match="cannot be written: File name too long"):
        check_new_folder(tmp_path / ("a" * 300))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="its parent folder is missing"):
        check_new_folder(tmp_path / "file" / "out")
