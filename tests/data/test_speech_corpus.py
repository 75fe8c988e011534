"""Layouts are told apart by the files; ids are unique and printable; every refusal is one line."""

import os
import sys
from pathlib import Path

import pytest

from inscape.data.speech.corpus import LAYOUTS, open_speech, printable


def touch(root: Path, *names: str) -> Path:
    """Empty files: no file is opened by `open_speech`."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def speakers_and_ids(root: Path, **options: str) -> tuple[str, list[tuple[str, str]]]:
    corpus = open_speech(root, **options)
    return corpus.layout, [(u.speaker_id, u.utterance_id) for u in corpus.utterances]


LIBRISPEECH = ("12/7/12-7-0000.flac", "12/7/12-7-0001.flac", "345/8/345-8-0000.flac")


@pytest.mark.parametrize("inside", ["", "LibriSpeech/train-clean-100/"])
def test_librispeech_at_any_depth(tmp_path: Path, inside: str) -> None:
    touch(tmp_path, *(inside + name for name in LIBRISPEECH), inside + "12/7/12-7.trans.txt")
    assert speakers_and_ids(tmp_path) == (
        "librispeech",
        [("12", "12-7-0000"), ("12", "12-7-0001"), ("345", "345-8-0000")],
    )
    assert open_speech(tmp_path).other_files == 1


def test_the_same_utterance_in_two_subsets_keeps_two_ids(tmp_path: Path) -> None:
    touch(tmp_path, *("a/" + n for n in LIBRISPEECH), *("b/" + n for n in LIBRISPEECH[:1]))
    ids = [u.utterance_id for u in open_speech(tmp_path).utterances]
    assert len(set(ids)) == 4
    assert "a/12/7/12-7-0000.flac" in ids


def test_sub_folders_are_speakers(tmp_path: Path) -> None:
    touch(tmp_path, "wav48/p1/x/a.wav", "wav48/p1/b.WAV", "wav48/p2/a.mp3", "wav48/loose.wav", "notes.md")
    found = speakers_and_ids(tmp_path)
    assert found == ("sub-folder", [("p1", "wav48/p1/b"), ("p1", "wav48/p1/x/a"), ("p2", "wav48/p2/a")])
    corpus = open_speech(tmp_path)
    assert (corpus.without_speaker, corpus.other_files, corpus.speakers) == (1, 1, ("p1", "p2"))


def test_prefixes_are_speakers(tmp_path: Path) -> None:
    touch(tmp_path, "anna_1.ogg", "anna-2-x.ogg", "bob_1.wav", "noise.wav", ".hidden_1.wav")
    assert speakers_and_ids(tmp_path) == ("prefix", [("anna", "anna-2-x"), ("anna", "anna_1"), ("bob", "bob_1")])
    assert open_speech(tmp_path).without_speaker == 1


def test_one_folder_of_all_falls_back_to_prefixes(tmp_path: Path) -> None:
    touch(tmp_path, "audio/a_1.wav", "audio/b_1.wav")
    assert open_speech(tmp_path).layout == "prefix"


def test_the_layout_can_be_said(tmp_path: Path) -> None:
    touch(tmp_path, "x/anna_1.wav", "y/bob_1.wav", "y/anna_2.wav")
    assert open_speech(tmp_path).speakers == ("x", "y")
    assert open_speech(tmp_path, layout="prefix").speakers == ("anna", "bob")


def test_two_files_of_one_stem_keep_two_ids(tmp_path: Path) -> None:
    touch(tmp_path, "a_1.wav", "a_1.flac", "b_1.wav")
    assert [u.utterance_id for u in open_speech(tmp_path).utterances] == ["a_1.flac", "a_1.wav", "b_1"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes any bytes as a name")
def test_names_that_are_no_text_become_printable_ids(tmp_path: Path) -> None:
    touch(tmp_path, "a_1.wav")
    for name in (b"b_\xff.wav", b"c_\n\x1b.wav"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    corpus = open_speech(tmp_path)
    assert [u.utterance_id for u in corpus.utterances] == ["a_1", r"b_\xff", r"c_\n\x1b"]
    assert all(u.path.exists() for u in corpus.utterances)
    assert printable("naïve 音") == "naïve 音"


def test_the_order_does_not_depend_on_the_disk(tmp_path: Path) -> None:
    forward = touch(tmp_path / "f", *(f"s{i % 3}/{i}.wav" for i in range(9)))
    backward = touch(tmp_path / "b", *(f"s{i % 3}/{i}.wav" for i in reversed(range(9))))
    assert speakers_and_ids(forward) == speakers_and_ids(backward)


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ((), {}, "holds no audio file"),
        (("readme.txt",), {}, "and 1 other files"),
        (("a_1.wav", "a_2.wav"), {}, "fewer than two speakers"),
        (("1.wav", "2.wav"), {}, "fewer than two speakers"),
        (("x/1.wav", "y/2.wav"), {"layout": "librispeech"}, "in the layout librispeech"),
        (("a_1.wav",), {"layout": "folders"}, "allowed: " + ", ".join(LAYOUTS)),
    ],
)
def test_a_folder_that_is_no_corpus_is_refused_in_one_line(
    tmp_path: Path, files: tuple[str, ...], options: dict[str, str], message: str
) -> None:
    touch(tmp_path, *files)
    with pytest.raises(ValueError, match=message) as refusal:
        open_speech(tmp_path, **options)
    assert "\n" not in str(refusal.value)


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    with pytest.raises(ValueError, match="does not exist"):
        open_speech(tmp_path / "gone")
    with pytest.raises(ValueError, match="is a file"):
        open_speech(tmp_path / "a.wav")


@pytest.mark.realdata
def test_the_real_folder_is_251_speakers() -> None:
    folder = Path(os.environ.get("INSCAPE_DATA", "")) / "librispeech"
    if "INSCAPE_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("set INSCAPE_DATA to a folder that holds librispeech/<speaker>-<chapter>-<utterance>.flac")
    corpus = open_speech(folder)
    assert (corpus.layout, len(corpus.utterances), len(corpus.speakers)) == ("prefix", 251, 251)
