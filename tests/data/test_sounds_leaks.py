"""Each planted leak is found by its kind and no other; a clean world has none."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from inscape.data.sounds.leaks import FLOOR_DB, Leak, _distances, audit_leaks, fingerprint
from inscape.data.sounds.manifests import SoundClip, read_audiocaps, read_classes
from inscape.data.sounds.synthesis import synthesise
from inscape.data.sounds.world import EVENTS, SoundScene, captions, scenes

RATE = 16_000


def world(split: str, count: int, seed: int) -> tuple[list[SoundClip], list[np.ndarray]]:
    drawn = scenes(split, count, seed)
    clips = [SoundClip(f"{split}-{i}", None, captions(scene), split=split) for i, scene in enumerate(drawn)]
    return clips, [synthesise(scene, 1000 * seed + i) for i, scene in enumerate(drawn)]


def filed(folder: Path, name: str, sound_S: np.ndarray, source: str = "", rate: int = RATE) -> SoundClip:
    folder.mkdir(exist_ok=True)
    soundfile.write(folder / name, sound_S, rate)
    return SoundClip(f"{folder.name}/{name}", folder / name, (f"the caption of {folder.name}/{name}",), source=source)


@pytest.fixture
def sides(tmp_path: Path) -> tuple[list[SoundClip], list[SoundClip]]:
    """Files of both sides, without a leak."""
    return tuple(
        [
            filed(tmp_path / split, f"{i}.wav", sound, source=f"{split}{i}")
            for i, sound in enumerate(world(split, 6, 0)[1])
        ]
        for split in ("train", "held_out")
    )  # pyright: ignore[reportReturnType]


def test_the_clean_world_has_none():
    (train, heard), (test, asked) = world("train", 300, 1), world("held_out", 150, 2)
    report = audit_leaks(train, test, waveforms=(heard, asked))
    assert report == ((), 0.0, ())
    assert (report.leaks, report.lines) == (0, ())


def test_clean_files_have_none(sides):
    assert audit_leaks(*sides) == ((), 0.0, ())


def test_equal_scenes_are_no_equal_sounds():
    """The hardest case for the fingerprint: every event alone, twice."""
    clips = [SoundClip(str(event.code), None, ("x",)) for event in EVENTS]
    other = [clip._replace(clip_id=f"other {clip.clip_id}") for clip in clips]
    waveforms = [[synthesise(SoundScene(event), seed) for event in EVENTS] for seed in (0, 1)]
    assert audit_leaks(clips, other, waveforms=(waveforms[0], waveforms[1])).leaks == 0


def test_two_tones_nearly_of_one_pitch_are_two_sounds():
    """Equal by their fingerprints, and told apart by the waveforms."""
    beeps = [np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE) for hertz in (700, 700.3)]
    assert np.abs(fingerprint(beeps[0]) - fingerprint(beeps[1])).max() < 0.5
    clips = [SoundClip(str(i), None, ("a beep",)) for i in range(2)]
    assert audit_leaks(clips[:1], clips[1:], waveforms=(beeps[:1], beeps[1:])).leaks == 0


def test_distances_are_those_of_a_plain_loop():
    above_MD, above_ND = (np.maximum(np.random.default_rng(i).normal(0, 9, (4 + i, 99)), 0) for i in range(2))
    above_MD[0], above_ND[0] = 0, 0
    for m, one in enumerate(above_MD):
        for n, other in enumerate(above_ND):
            either = (one > 0) | (other > 0)
            plain = np.sqrt(((one - other)[either] ** 2).mean()) if either.any() else np.inf
            assert _distances(above_MD, above_ND)[m, n] == pytest.approx(plain, rel=1e-5)


def test_stationary_noises_are_no_equal_sounds():
    draw = np.random.default_rng(0)
    clips = [SoundClip(str(i), None, ("rain",)) for i in range(60)]
    rain = [draw.standard_normal(5 * RATE) * 0.1 for _ in clips]
    assert audit_leaks(clips[:30], clips[30:], waveforms=(rain[:30], rain[30:])).found == ()


def test_a_clip_on_both_sides_is_found_in_every_way(sides):
    train, test = sides
    report = audit_leaks(train, [*test, train[3]])
    name = train[3].clip_id
    assert report.found == tuple(Leak(f"same {how}", name, name) for how in ("id", "source", "file", "sound"))
    assert report.leaks == 4
    assert report.lines[0] == f"same id: test clip {name} and training clip {name}"
    assert report.caption_overlap == pytest.approx(1 / 7)


def test_another_excerpt_of_one_recording_is_found(sides):
    train, test = sides
    test[2] = test[2]._replace(source=train[4].source)
    assert audit_leaks(train, test).found == (Leak("same source", train[4].clip_id, test[2].clip_id),)


def test_a_copied_file_is_found_and_named_once(sides, tmp_path: Path):
    train, test = sides
    shutil.copy(train[1].path, test[0].path)
    shutil.copy(train[1].path, train[5].path)
    found = audit_leaks(train, test).found
    assert found == tuple(Leak(how, train[1].clip_id, test[0].clip_id) for how in ("same file", "same sound"))


@pytest.mark.parametrize(
    "name", ["louder.wav", "inverted.flac", "later.wav", "shorter.wav", "eight_bit.aiff", "rate.wav"]
)
def test_one_sound_in_another_file_is_found(sides, tmp_path: Path, name: str):
    train, test = sides
    sound_S, _ = soundfile.read(train[2].path)
    onset = int(np.argmax(np.abs(sound_S) > 0.1 * np.abs(sound_S).max()))
    if name == "rate.wav":
        soxr = pytest.importorskip("soxr")
        copy = filed(tmp_path / "copies", name, soxr.resample(sound_S, RATE, 44_100), rate=44_100)
    else:
        changed = {
            "louder.wav": sound_S * 1.1,
            "inverted.flac": -0.3 * sound_S,
            "later.wav": np.concatenate([np.zeros(5000), sound_S]),
            "shorter.wav": sound_S[max(0, onset - 100) :],
            "eight_bit.aiff": np.round(sound_S * 127) / 127,
        }
        copy = filed(tmp_path / "copies", name, changed[name])
    assert audit_leaks(train, [*test, copy]).found == (Leak("same sound", train[2].clip_id, copy.clip_id),)


def test_captions_that_stand_on_both_sides_are_a_share_and_no_leak():
    train = [SoundClip("1", None, ("A dog barks.", "rain"))]
    test = [SoundClip("2", None, ("a  dog barks", "a cat")), SoundClip("3", None, ("a dog barks", "wind"))]
    report = audit_leaks(train, test)
    assert (report.leaks, report.caption_overlap) == (0, 0.5)


def test_files_that_cannot_be_read_are_listed(sides):
    train, test = sides
    test[0].path.write_bytes(b"no sound")
    train[0].path.unlink()
    report = audit_leaks(train, test)
    assert [one.path for one in report.unheard] == [str(train[0].path), str(test[0].path)]
    assert report.leaks == 0


def test_equal_broken_files_are_equal_files(sides):
    train, test = sides
    for clip in (train[0], test[0]):
        clip.path.write_bytes(b"no sound")
    assert audit_leaks(train, test).found == (Leak("same file", train[0].clip_id, test[0].clip_id),)


def test_silence_is_like_nothing():
    clips = [SoundClip(str(i), None, ("x",)) for i in range(4)]
    silence, tone = np.zeros(RATE), np.sin(np.arange(RATE))
    assert (fingerprint(silence) == FLOOR_DB).all()
    assert (fingerprint(np.zeros(0)) == FLOOR_DB).all()
    assert audit_leaks(clips[:2], clips[2:], waveforms=([silence, tone], [silence, silence])).leaks == 0


def test_a_fingerprint_is_decibels_below_the_loudest_bin():
    """A tone of one band, half as loud in its second half: 0 dB, then 6.02 below, and the floor elsewhere."""
    tone = np.sin(2 * np.pi * 720 * np.arange(64_000) / RATE) * np.where(np.arange(64_000) < 32_000, 0.8, 0.4)
    print_TF = fingerprint(tone)
    assert print_TF.shape == (64, 16)
    assert print_TF[1:30, 1] == pytest.approx(np.zeros(29), abs=0.05)
    assert print_TF[34:62, 1] == pytest.approx(np.full(28, -6.02), abs=0.05)
    assert (print_TF[:, 3:] == FLOOR_DB).all()


def test_sides_that_cannot_be_compared_are_refused():
    clip = SoundClip("1", None, ("x",))
    with pytest.raises(ValueError, match="0 training clips and 1 test clips; a leak audit needs both"):
        audit_leaks([], [clip])
    with pytest.raises(ValueError, match="1 and 0 waveforms of 1 and 1 clips"):
        audit_leaks([clip], [clip], waveforms=([np.zeros(9)], []))


@pytest.mark.realdata
def test_the_real_folds_share_nothing_and_the_real_tables_no_video():
    root = Path(os.environ.get("INSCAPE_DATA", ""))
    if "INSCAPE_DATA" not in os.environ or not (root / "esc10").is_dir() or not (root / "audiocaps").is_dir():
        pytest.skip("set INSCAPE_DATA to a folder that holds esc10/<class>/*.ogg and audiocaps/*.csv")
    train, test = (read_classes(root / "esc10", folds=folds).clips for folds in ((1, 2, 3), (4,)))
    report = audit_leaks(train[::4], test[::2])
    assert (report.leaks, report.caption_overlap, report.unheard) == (0, 1.0, ())
    train, test = (read_audiocaps(root / "audiocaps" / f"{name}.csv", None).clips for name in ("train", "val"))
    report = audit_leaks(train, test)
    assert report.leaks == 0
    assert 0 < report.caption_overlap < 0.2
