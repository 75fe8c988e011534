"""The audio-fusion study on sounds of one's own: class folders and captions in CSV files, broken files, leaks, and
several clips of one recording.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_audio_fusion import STUDY, outcomes, ran, value

from inscape.core.gate import Outcome
from inscape.core.rundir import RunDir
from inscape.core.runner import Request, run_study
from inscape.core.study import SMOKE
from inscape.metrics.captions import degenerate_share
from inscape.studies.audio_fusion import connectivity, sounds
from inscape.studies.audio_fusion.kept_data import describe_split
from inscape.studies.audio_fusion.listening_gate import LISTENING
from inscape.studies.audio_fusion.measures import class_named as named
from inscape.studies.audio_fusion.measures import clip_mean, exact_share, say_where_too_few, share
from inscape.studies.audio_fusion.sounds import SoundConfig, Sounds, clips_of, open_sounds

RATE = 16_000
SHORT = ("data.seconds=0.5", "data.train=64", "data.held_out=8")


def write_wav(path: Path, hertz: float, seed: int) -> None:
    """Half a second of a tone in noise, another one for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seconds_S = np.arange(RATE // 2) / RATE
    noise_S = 0.1 * np.random.default_rng(seed).normal(size=len(seconds_S))
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hertz * seconds_S) + noise_S, RATE)


def class_folder(root: Path) -> Path:
    """Two classes, folds 1 to 4; two clips of each recording; names as ESC's."""
    for place, (label, hertz) in enumerate((("church_bells", 900.0), ("rain", 200.0))):
        for fold in (1, 2, 3, 4):
            for i in range(4):
                seed = 1000 * place + 10 * fold + i
                recording = f"{label[0]}{fold}{i // 2}"
                write_wav(root / label / f"{fold}-{recording}-{'AB'[i % 2]}.wav", hertz, seed)
    return root


def caption_tables(root: Path) -> tuple[str, ...]:
    """Audio and two CSV files as AudioCaps'; each training video has two excerpts."""
    for split, count in (("train", 24), ("test", 6)):
        rows = ["audiocap_id,youtube_id,start_time,caption"]
        for i in range(count):
            video, start = f"{split}{i // 2}", 10 * (i % 2)
            write_wav(root / "audio" / f"{video}_{start}.wav", 300.0 + 100 * (i % 5), len(split) * 1000 + i)
            rows += [f"{split}{i}a,{video},{start},a tone of kind {i % 5}"]
            rows += [f"{split}{i}b,{video},{start},somewhere a tone of kind {i % 5} sounds"]
        (root / f"{split}.csv").write_text("\n".join(rows) + "\n")
    return (
        f"data.path={root / 'audio'}",
        f"data.captions={root / 'train.csv'}",
        f"data.held_out_captions={root / 'test.csv'}",
        *SHORT,
    )


# --- whole studies ------------------------------------------------------------------------------------------------


def test_a_class_folder_from_files_to_figures(tmp_path) -> None:
    overrides = (f"data.path={class_folder(tmp_path / 'sounds')}", *SHORT)
    runs = ran(tmp_path / "runs", "identity", "connectivity", "phase1", overrides=overrides)
    first, last = runs["identity"], runs["phase1"]
    assert outcomes(first)["leaks"] is Outcome.PASS
    assert value(first, "set_aside") == 0
    held_out = open_sounds(first, "held_out")
    assert sorted(set(held_out.labels)) == ["church bells", "rain"]
    assert len(set(held_out.sources)) == 4, "two clips of each recording"
    metrics = last.read_json(RunDir.METRICS)
    for name in ("cider", "over_constant", "prefers_right_clip", "class_named", "exact", "gain_over_no_audio"):
        assert (metrics[name]["n"], metrics[name]["unit"]) == (4, "recordings"), name
    assert metrics["class_named"]["value"] <= 1
    assert runs["connectivity"].read_json(RunDir.METRICS)["exact"]["unit"] == "recordings"


def test_captions_in_csv_files_from_files_to_figures(tmp_path) -> None:
    overrides = caption_tables(tmp_path)
    runs = ran(tmp_path / "runs", "identity", "connectivity", "phase1", "retention", overrides=overrides)
    assert outcomes(runs["identity"])["leaks"] is Outcome.PASS
    assert set(open_sounds(runs["identity"], "held_out").sources) == {"test0", "test1", "test2"}
    rows = runs["phase1"].read_json("captions.json")
    assert all(row["references"][1].startswith("somewhere a tone") and not row["label"] for row in rows)
    assert "class_named" not in runs["phase1"].read_json(RunDir.METRICS)
    kept = runs["retention"].read_json(RunDir.METRICS)
    for name in ("gain_none", "kept_less_nine_tenths_full", "own_over_shuffled_full"):
        assert (kept[name]["n"], kept[name]["unit"]) == (3, "recordings"), name


def test_a_home_folder_is_found_for_captions_as_for_sounds(tmp_path, monkeypatch) -> None:
    caption_tables(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    data = SoundConfig(path="~/audio", captions="~/train.csv", held_out_captions="~/test.csv")
    assert (clips_of(data, "train"), clips_of(data, "held_out")) == (22, 6)


# --- leaks and broken files ---------------------------------------------------------------------------------------


def test_a_planted_leak_makes_every_phase_invalid(tmp_path) -> None:
    folder = class_folder(tmp_path / "sounds")
    shutil.copy(folder / "rain" / "1-r10-A.wav", folder / "rain" / "4-x99-A.wav")
    overrides = (f"data.path={folder}", *SHORT[:-1], "data.held_out=9")
    runs = ran(tmp_path / "runs", "identity", "connectivity", "retention", "fixes", overrides=overrides)
    assert any("rain/4-x99-A" in line for line in runs["identity"].read_json("leaks.json")["lines"])
    for code, run in runs.items():
        assert outcomes(run)["leaks"] is Outcome.INVALID, code


def test_broken_files_are_set_aside_counted_and_listed(tmp_path) -> None:
    folder = class_folder(tmp_path / "sounds")
    for name in ("1-r10-A.wav", "4-r40-B.wav"):
        (folder / "rain" / name).write_bytes(b"no audio")
    run = ran(tmp_path / "runs", "identity", overrides=(f"data.path={folder}", *SHORT))["identity"]
    assert value(run, "set_aside") == 2
    listed = run.read_json("quarantine.json")
    assert sorted(Path(each["path"]).name for each in listed) == ["1-r10-A.wav", "4-r40-B.wav"]
    assert all(each["reason"] for each in listed)
    assert open_sounds(run, "held_out").size == 7


def test_clips_whose_file_is_missing_are_listed_and_counted(tmp_path) -> None:
    overrides = caption_tables(tmp_path)
    for name in ("train3_0.wav", "test1_10.wav"):
        (tmp_path / "audio" / name).unlink()
    (tmp_path / "audio" / "train4_0.wav").write_bytes(b"no audio")
    run = ran(tmp_path / "runs", "identity", overrides=overrides)["identity"]
    assert value(run, "set_aside") == 3
    listed = {Path(each["path"]).name: each["reason"] for each in run.read_json("quarantine.json")}
    assert {name for name, reason in listed.items() if reason == "does not exist"} == {"train3_0", "test1_10"}
    assert listed.keys() == {"train3_0", "test1_10", "train4_0.wav"}


def test_clips_that_are_cut_are_counted_and_said(tmp_path, capsys) -> None:
    overrides = caption_tables(tmp_path)
    whole = ran(tmp_path / "runs", "identity", overrides=overrides)["identity"]
    assert value(whole, "cut_share") == 0
    assert "were cut" not in capsys.readouterr().err
    seconds_S = np.zeros(RATE) + 0.1 * np.random.default_rng(5).normal(size=RATE)
    for i in range(3):
        soundfile.write(tmp_path / "audio" / f"test{i}_0.wav", np.roll(seconds_S, 100 * i) * (i + 1) / 4, RATE)
    run = ran(tmp_path / "runs", "identity", overrides=overrides)["identity"]
    assert value(run, "cut_share") == pytest.approx(3 / 30)
    assert run.read_json("data.json")["held_out"]["cut"] == 3
    assert "3 of 30 clips are longer than data.seconds=0.5 and were cut" in capsys.readouterr().err


def test_clips_that_are_not_watched_are_trained_on(tmp_path, monkeypatch) -> None:
    folder = class_folder(tmp_path / "sounds")
    data = SoundConfig(path=str(folder))
    splits = {split: {c.clip_id for c in sounds._listed(data, split)} for split in sounds.SPLITS}
    assert [len(splits[split]) for split in sounds.SPLITS] == [22, 2, 8]
    monkeypatch.setattr(sounds, "WATCHED_OF_FILES", 1)
    fewer = {split: {c.clip_id for c in sounds._listed(data, split)} for split in sounds.SPLITS}
    assert [len(fewer[split]) for split in sounds.SPLITS] == [23, 1, 8]
    assert fewer["train"] | fewer["validation"] == splits["train"] | splits["validation"]
    assert not fewer["train"] & fewer["validation"]


def test_the_sounds_of_a_run_have_digests_that_later_phases_keep(tmp_path) -> None:
    runs = ran(tmp_path, "identity", "connectivity", "fixes")
    kept = runs["identity"].read_json("data.json")
    assert kept["train"]["clips"] == 32
    assert runs["connectivity"].read_json("data.json") == runs["fixes"].read_json("data.json") == kept
    assert ran(tmp_path, "identity")["identity"].read_json("data.json") == kept
    request = Request(preset=SMOKE, device="cpu", root=tmp_path, seed=1)
    (other,) = run_study(STUDY, [STUDY.phase("identity")], request, lambda line: None, lambda run: None)
    for split, each in other.read_json("data.json").items():
        assert each["captions_sha256"] != kept[split]["captions_sha256"]
        assert each["features_sha256"] != kept[split]["features_sha256"]
    clips = runs["identity"].read_json("clips_train.json")
    clips["captions"][0][0] += "!"
    changed = describe_split(clips, runs["identity"].path / "features_train.npy")
    assert changed["captions_sha256"] != kept["train"]["captions_sha256"]
    assert changed["features_sha256"] == kept["train"]["features_sha256"]


def test_a_split_of_broken_files_is_answered_with_the_first_reason_and_a_list(tmp_path) -> None:
    folder = class_folder(tmp_path / "sounds")
    broken = sorted(folder.rglob("4-*.wav"))
    for path in broken:
        path.write_bytes(b"no audio")
    with pytest.raises(ValueError, match=r"split held_out .*: 8 files were set aside, the first because: ") as caught:
        ran(tmp_path / "runs", "identity", overrides=(f"data.path={folder}", *SHORT))
    assert "\n" not in str(caught.value)
    (listed,) = (tmp_path / "runs").rglob("quarantine.json")
    rows = json.loads(listed.read_text())
    assert sorted(each["path"] for each in rows) == [str(path) for path in broken]
    assert rows[0]["reason"] in str(caught.value)


# --- few clips, and several of one recording ----------------------------------------------------------------------


def test_fewer_clips_than_are_to_be_learned_are_refused_before_and_after_reading(tmp_path) -> None:
    folder = class_folder(tmp_path / "sounds")
    overrides = (f"data.path={folder}", *SHORT)
    told = "allowed: 2 to 22, such as clips=22"
    with pytest.raises(ValueError, match=told):
        ran(tmp_path / "runs", "connectivity", overrides=(*overrides, "clips=23"))
    (folder / "rain" / "1-r10-A.wav").write_bytes(b"no audio")
    (folder / "rain" / "1-r10-B.wav").write_bytes(b"no audio")
    ran(tmp_path / "runs", "identity", overrides=overrides)
    before = set(tmp_path.rglob("config.yaml"))
    with pytest.raises(ValueError, match=r"clips=22 are to be learned by heart, and the training split has 2[01]"):
        ran(tmp_path / "runs", "connectivity", overrides=(*overrides, "clips=22"))
    assert set(tmp_path.rglob("config.yaml")) == before


def test_quick_learns_what_ten_classes_leave_to_learn() -> None:
    phase = STUDY.phase("connectivity")
    assert (phase.preset("quick").clips, phase.preset("quick", ("data.path=esc10",)).clips) == (256, 225)
    assert phase.check is connectivity.check_connectivity


def of_recordings(sources: list[str]) -> Sounds:
    count = len(sources)
    labels = ["rain", "church bells"] * (count // 2)
    return Sounds(np.zeros((count, 1, 1)), np.ones(count), [("rain",)] * count, labels, False, sources)


def test_clips_of_one_recording_count_once() -> None:
    alone = of_recordings([])
    pairs = of_recordings([f"r{i // 4}" for i in range(40)])
    scores = [float(i // 4 % 2) for i in range(40)]  # all clips of a recording have its score
    apart, together = clip_mean(scores, alone), clip_mean(scores, pairs)
    assert apart.value == together.value == 0.5
    assert (apart.n, apart.unit, together.n, together.unit) == (40, "clips", 10, "recordings")
    assert together.high - together.low > 1.5 * (apart.high - apart.low)
    assert pairs.first(4).sources == ["r0"] * 4
    assert exact_share(["rain"] * 40, [("rain",)] * 40, pairs).unit == "recordings"


def test_where_all_is_right_recordings_leave_a_doubt() -> None:
    pairs = of_recordings([f"r{i // 4}" for i in range(40)])
    found, of_clips = share([True] * 40, pairs), share([True] * 40, of_recordings([]))
    assert (found.value, found.high) == (1, 1)
    assert found.low < of_clips.low < 1
    assert share([False] * 40, pairs).high == pytest.approx(1 - found.low)
    few = share([True, True, True, False], of_recordings(list("abcd")))
    assert (few.low, few.high) == (0, 1), "Student's interval would leave 0 to 1"


@pytest.mark.parametrize(("recordings", "passes"), [(72, False), (73, True)])
def test_too_few_recordings_to_pass_are_said_before_training(tmp_path, recordings: int, passes: bool) -> None:
    held_out = of_recordings([f"r{i % recordings}" for i in range(150)])
    run = RunDir(tmp_path)
    say_where_too_few(run, held_out)
    assert [f"{recordings} recordings are held out" in line["text"] for line in run.read_log()] == [True] * (not passes)
    criterion = next(each for each in LISTENING if each.metric == "degenerate_share")
    found = degenerate_share(["rain falls"] * 150, **held_out.drawn)
    assert (criterion.decide(found) is Outcome.PASS) == passes


def test_phase_1_says_that_too_few_are_held_out(tmp_path) -> None:
    lines = ran(tmp_path, "identity", "connectivity", "phase1")["phase1"].read_log()
    assert any(line.get("text", "").startswith("8 clips are held out, and without a single") for line in lines)


def test_a_class_is_named_where_it_stands_alone() -> None:
    four = of_recordings(["a", "b", "c", "d"])  # rain, church bells, rain, church bells
    said = ["the sound of rain", "Church bells can be heard", "rain and church bells", "a train of bells"]
    assert named(said, four).value == 0.5


def test_a_run_from_before_recordings_were_kept_is_told_so(tmp_path) -> None:
    run = ran(tmp_path, "identity")["identity"]
    assert open_sounds(run, "train").drawn == {"groups": None, "unit": "clips"}
    path = run.path / "clips_train.json"
    kept = json.loads(path.read_text())
    del kept["sources"]
    path.write_text(json.dumps(kept))
    with pytest.raises(ValueError, match=r"which recordings its clips were cut from.*run the phase identity") as caught:
        open_sounds(run, "train")
    assert "\n" not in str(caught.value)
