"""Tables are checked and say where they are wrong; broken files are set aside; whatever is well formed is read."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inscape.data.sounds.manifests import (
    CLASS_TEMPLATES,
    SoundClip,
    class_captions,
    load_clips,
    read_audiocaps,
    read_classes,
)

RATE = 16_000
HEADER = "audiocap_id,youtube_id,start_time,caption\n"
ROWS = HEADER + '1,aaa,30,"A dog barks, then a car"\n2,aaa,30,A dog  barking\n3,b_b-b,0,Rain falls\n'


def table(folder: Path, text: str | bytes = ROWS) -> Path:
    path = folder / "val.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def touch(root: Path, *names: str) -> Path:
    """Empty files: no file is opened by the readers."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write(path: Path, seconds: float, rate: int = RATE, level: float = 0.5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, level * np.sin(np.arange(round(seconds * rate)) * 0.1), rate)
    return path


# ------------------------------------------------------------------------------------------------------- AudioCaps


def test_rows_of_one_excerpt_are_references_of_one_clip(tmp_path: Path):
    root = touch(tmp_path / "audio", "aaa_30.wav", "deep/b_b-b.FLAC", "other.wav", "notes.txt", ".hidden/aaa.wav")
    manifest = read_audiocaps(table(tmp_path), root)
    assert manifest.missing == ()
    assert manifest.clips == (
        SoundClip(
            "aaa_30", root / "aaa_30.wav", ("A dog barks, then a car", "A dog barking"), split="val", source="aaa"
        ),
        SoundClip("b_b-b_0", root / "deep/b_b-b.FLAC", ("Rain falls",), split="val", source="b_b-b"),
    )


def test_a_video_with_two_excerpts_needs_the_start_in_the_name(tmp_path: Path):
    root = touch(tmp_path / "audio", "aaa.wav", "aaa_60.wav")
    manifest = read_audiocaps(table(tmp_path, HEADER + "1,aaa,30,x\n2,aaa,60,y\n"), root)
    assert [(clip.clip_id, clip.captions) for clip in manifest.clips] == [("aaa_60", ("y",))]
    assert manifest.missing == ("aaa_30",)


def test_missing_files_are_listed_and_fatal_only_where_all_are_missing(tmp_path: Path):
    root = touch(tmp_path / "audio", "aaa.mp3")
    assert read_audiocaps(table(tmp_path), root).missing == ("b_b-b_0",)
    (root / "aaa.mp3").rename(root / "aaa.txt")
    with pytest.raises(ValueError, match=r"holds none of the 2 clips of .*val.csv: files are named .* as aaa_30.wav$"):
        read_audiocaps(table(tmp_path), root)
    with pytest.raises(ValueError, match=r"sounds are read from a folder, and .* is not there"):
        read_audiocaps(table(tmp_path), tmp_path / "gone")


def test_captions_alone_need_no_folder(tmp_path: Path):
    manifest = read_audiocaps(table(tmp_path), None)
    assert [(clip.clip_id, clip.path) for clip in manifest.clips] == [("aaa_30", None), ("b_b-b_0", None)]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + ROWS,
        ROWS.replace("\n", "\r\n"),
        ROWS + "\n\n",
        "more,caption,start_time,youtube_id,audiocap_id\n,x,30,aaa,1\n",
        HEADER + '1,aaa,30,"two\nlines"\n',
        HEADER + "1, aaa ,30.5, Grüße 音 \n",
    ],
)
def test_other_well_formed_tables_are_read(tmp_path: Path, text: str):
    clip = read_audiocaps(table(tmp_path, text), None).clips[0]
    assert clip.source == "aaa"
    assert all("\n" not in said and said == said.strip() != "" for said in clip.captions)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "row 1: column audiocap_id is missing; needed: audiocap_id, youtube_id, start_time, caption"),
        ("audiocap_id,youtube_id,start_time\n1,a,3\n", "row 1: column caption is missing"),
        ("audiocap_id;youtube_id;start_time;caption\n", "row 1: column audiocap_id is missing"),
        (HEADER.replace("\n", ",caption\n"), "row 1: column caption stands twice"),
        (HEADER, "holds a header and no row"),
        (HEADER + "1,aaa,30,x\n2,bbb,30, \n", "row 3, column caption: empty"),
        (HEADER + "1,,30,x\n", "row 2, column youtube_id: empty"),
        (HEADER + ",aaa,30,x\n", "row 2, column audiocap_id: empty"),
        (HEADER + "1,aaa,soon,x\n", "row 2, column start_time: 'soon' is no number of seconds"),
        (HEADER + "1,aaa,-3,x\n", "row 2, column start_time: '-3' is no number"),
        (HEADER + "1,aaa,3,x\n\n2,bbb,3,x\n1,ccc,3,x\n", "row 5, column audiocap_id: '1' stands in row 2 as well"),
        (HEADER + "1,aaa,30,a dog, a cat\n", "row 2: 5 fields, and the header has 4; quote a text with commas"),
        (HEADER + "1,aaa,30\n", "row 2: 3 fields, and the header has 4"),
        (HEADER + '1,aaa,30,"never closed\n', "line 2 is not CSV: unexpected end of data"),
        (HEADER + '1,aaa,30,"a" dog\n', "line 2 is not CSV"),
        (HEADER + f"1,aaa,30,{'x' * 200_000}\n", "line 2 is not CSV: field larger than field limit"),
        (HEADER.encode() + b"1,aaa,30,caf\xe9\n", "line 2 is not UTF-8; save the table as CSV in UTF-8"),
        (HEADER.encode("utf-16"), "is not UTF-8|NUL byte"),
        (HEADER.encode() + b"1,aaa,30,x\0y\n", "line 2 holds a NUL byte; a CSV file is text"),
    ],
)
def test_every_fault_of_a_table_is_one_line_that_says_where(tmp_path: Path, text: str | bytes, message: str):
    with pytest.raises(ValueError, match=message) as refusal:
        read_audiocaps(table(tmp_path, text), None)
    assert "\n" not in str(refusal.value)
    assert "val.csv" in str(refusal.value)


def test_a_table_that_is_no_file_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"is a folder; name a CSV file"):
        read_audiocaps(tmp_path, None)
    with pytest.raises(ValueError, match=r"does not exist; give the path of a CSV file"):
        read_audiocaps(tmp_path / "gone.csv", None)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.integers(0, len(ROWS)))
def test_bytes_put_anywhere_are_read_or_refused_in_one_line(tmp_path: Path, odd: bytes, at: int):
    whole = ROWS.encode()
    path = table(tmp_path, whole[:at] + odd + whole[at:])
    refusal = ""
    try:
        clips = read_audiocaps(path, None).clips
    except ValueError as error:
        clips, refusal = (), str(error)
    assert "\n" not in refusal
    assert bool(clips) != bool(refusal)
    assert all(clip.captions and all(clip.captions) for clip in clips)


# --------------------------------------------------------------------------------------------------------- classes


def test_sub_folders_are_classes_and_names_give_fold_and_source(tmp_path: Path):
    touch(
        tmp_path,
        "dog_bark/1-77-A.ogg",
        "dog_bark/2-77-B.ogg",
        "rain/2-5.wav",
        "rain/x.txt",
        ".git/1-1.wav",
        "loose.wav",
    )
    clips = read_classes(tmp_path).clips
    assert [(c.clip_id, c.label, c.split, c.source) for c in clips] == [
        ("dog_bark/1-77-A.ogg", "dog bark", "1", "77"),
        ("dog_bark/2-77-B.ogg", "dog bark", "2", "77"),
        ("rain/2-5.wav", "rain", "2", ""),
    ]
    assert clips[0].captions == class_captions("dog bark")
    assert clips[0].captions[:2] == ("the sound of dog bark", "dog bark can be heard")
    assert len(set(clips[0].captions)) == len(CLASS_TEMPLATES)


def test_folds_choose_clips(tmp_path: Path):
    touch(tmp_path, "a/1-7-A.ogg", "a/2-8-A.ogg", "b/1-9-A.ogg", "b/3-9-A.ogg")
    assert [clip.split for clip in read_classes(tmp_path, folds=(1, 3)).clips] == ["1", "1", "3"]
    train, test = (read_classes(tmp_path, folds=folds).clips for folds in ((1,), (2, 3)))
    assert not set(train) & set(test)
    with pytest.raises(ValueError, match=r"folds asked for of .*: 5; it holds: 1, 2, 3"):
        read_classes(tmp_path, folds=(1, 5))
    with pytest.raises(ValueError, match=r"folds asked for of .*: none; it holds"):
        read_classes(tmp_path, folds=())


def test_names_without_folds_are_read_whole_and_not_by_fold(tmp_path: Path):
    touch(tmp_path, "a/one.ogg", "b/12-3.ogg")
    assert [(clip.split, clip.source) for clip in read_classes(tmp_path).clips] == [("", ""), ("", "")]
    with pytest.raises(ValueError, match=r"one.ogg has no fold: with folds, names begin with a digit and -"):
        read_classes(tmp_path, folds=(1,))


def test_a_folder_without_classes_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"sounds are read from a folder, and .* is not there"):
        read_classes(tmp_path / "gone")
    touch(tmp_path, "file", "a/1.wav")
    with pytest.raises(ValueError, match=r"sounds are read from a folder, and .* is a file"):
        read_classes(tmp_path / "file")
    with pytest.raises(ValueError, match="holds 1 sub-folders; sounds are read from one sub-folder a class"):
        read_classes(tmp_path)
    touch(tmp_path, "b/notes.txt")
    with pytest.raises(ValueError, match=r"class folder .*b holds no audio file \(\.aif"):
        read_classes(tmp_path)


# --------------------------------------------------------------------------------------------------------- loading


def test_clips_come_at_one_length_with_their_own(tmp_path: Path):
    paths = [write(tmp_path / "short.wav", 0.5), write(tmp_path / "long.flac", 3.0, rate=44_100)]
    loaded = load_clips([SoundClip(path.stem, path, ("x",)) for path in paths], RATE, 2.0)
    assert loaded.waveform_NS.shape == (2, 32_000)
    assert loaded.waveform_NS.dtype == np.float32
    assert loaded.length_N.tolist() == [8000, 32_000]
    assert not loaded.waveform_NS[0, 8000:].any()
    assert np.abs(loaded.waveform_NS[:, :8000]).max(axis=1) == pytest.approx([0.5, 0.5], abs=0.01)
    assert loaded.quarantined == ()


def test_broken_files_are_set_aside_with_their_reason_and_stop_nothing(tmp_path: Path):
    good = write(tmp_path / "good.wav", 1.0)
    write(tmp_path / "silent.wav", 1.0, level=0.0)
    write(tmp_path / "tiny.wav", 0.01)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.mp3").write_text("no sound\n" * 100, encoding="utf-8")
    whole = write(tmp_path / "cut.flac", 3.0).read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    names = ["silent.wav", "tiny.wav", "empty.wav", "good.wav", "text.mp3", "cut.flac", "gone.wav"]
    clips = [SoundClip(name, tmp_path / name, ("x",)) for name in names] + [SoundClip("made", None, ("x",))]
    loaded = load_clips(clips, RATE, 1.0)
    assert [clip.path for clip in loaded.clips] == [good]
    assert loaded.waveform_NS.shape == (1, RATE)
    reasons = {Path(one.path).name: one.reason for one in loaded.quarantined}
    assert reasons.pop("cut.flac").startswith(("cut off", "cannot be read"))
    assert reasons.pop("tiny.wav").startswith("too short")
    assert all(reasons.pop(name).startswith("cannot be read as audio") for name in ("empty.wav", "text.mp3"))
    assert reasons == {"silent.wav": "silent", "gone.wav": "does not exist", "made": "has no file"}


def test_nothing_that_can_be_read_is_an_empty_answer():
    loaded = load_clips([SoundClip("made", None, ("x",))], RATE, 1.0)
    assert (loaded.clips, loaded.waveform_NS.shape, len(loaded.length_N)) == ((), (0, RATE), 0)


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1.0), (RATE, 0.0), (RATE, float("nan")), (RATE, 1e9)])
def test_a_length_that_makes_no_sense_is_refused(rate: int, seconds: float):
    with pytest.raises(ValueError, match=r"allowed: a rate above 0, and above 0 to 3600 s"):
        load_clips([], rate, seconds)


def real(name: str) -> Path:
    path = Path(os.environ.get("INSCAPE_DATA", "")) / name
    if "INSCAPE_DATA" not in os.environ or not path.exists():
        pytest.skip(f"set INSCAPE_DATA to a folder that holds {name}")
    return path


@pytest.mark.realdata
def test_the_real_folders_are_read():
    manifest = read_audiocaps(real("audiocaps/val.csv"), None)
    assert len(manifest.clips) == 495
    assert {len(clip.captions) for clip in manifest.clips} == {5}
    clips = read_classes(real("esc10"), folds=(4,)).clips
    assert (len(clips), len({clip.label for clip in clips})) == (80, 10)
    loaded = load_clips(clips[::10], RATE, 5.0)
    assert (loaded.waveform_NS.shape, loaded.quarantined) == ((8, 80_000), ())
