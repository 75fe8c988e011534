"""The audio encoder of a config is the one that hears, and the one that a listener is used with."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_audio_fusion import STUDY, ran

from inscape.core.rundir import RunDir
from inscape.core.study import SMOKE
from inscape.pretrained import clap
from inscape.pretrained.audio_encoders import open_audio_encoder, weights_digest
from inscape.pretrained.clap import tiny_clap
from inscape.pretrained.log_mel import LogMel
from inscape.studies.audio_fusion import possible, sounds
from inscape.studies.audio_fusion.kept_encoder import ENCODER, KeptEncoder, figures_of, keep_encoder, kept_encoder
from inscape.studies.audio_fusion.language import open_language
from inscape.studies.audio_fusion.listener import load_listener


def features(run: RunDir) -> np.ndarray:
    return np.load(run.path / "features_train.npy")


@pytest.mark.parametrize("asked", ["log-mel:25", "tiny-whisper", "tiny-clap:3"])
def test_a_name_that_is_read_and_ignored_is_refused(tmp_path, monkeypatch, asked: str) -> None:
    def deaf_to_names(spec: str, **given: Any) -> Any:
        return open_audio_encoder("log-mel", **given)

    monkeypatch.setattr(sounds, "open_audio_encoder", deaf_to_names)
    with pytest.raises(ValueError, match=f"the audio encoder {asked} was asked for, and log-mel was opened") as caught:
        ran(tmp_path, "identity", overrides=(f"data.encoder={asked}",))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("config.yaml")), "and no run is left"


def test_two_encoders_leave_other_figures_and_other_features(tmp_path) -> None:
    first = ran(tmp_path, "identity")["identity"]
    other = ran(tmp_path, "identity", overrides=("data.encoder=tiny-clap",))["identity"]
    assert kept_encoder(first) == KeptEncoder("log-mel:25", 64, 16_000, 25.0)
    assert kept_encoder(other) == KeptEncoder(
        "tiny-clap:0", 16, 48_000, 3.2, weights_digest(open_audio_encoder("tiny-clap"))
    )
    assert (features(first).shape[1:], features(other).shape[1:]) == ((100, 64), (13, 16))


class TwiceAsFast(LogMel):
    """Says 25 frames a second and gives 50."""

    def encode(self, samples: Any) -> list[np.ndarray]:
        return LogMel(50).encode(samples)


def test_frames_beyond_what_an_encoder_says_are_not_cut_in_silence(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sounds, "open_audio_encoder", lambda spec, **given: TwiceAsFast(25))
    with pytest.raises(ValueError, match=r"log-mel:25 gave features of shape \(200, 64\) for 4 s") as caught:
        ran(tmp_path, "identity")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("config.yaml"))
    whole = sounds._Heard([np.zeros((7, 64), np.float32)], [("rain",)], [""])
    with pytest.raises(ValueError, match="gave features of shape"):
        sounds._keep_split(RunDir(tmp_path), "train", iter([whole]), sounds.SoundConfig(seconds=0.24), LogMel(25), ())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (None, "does not say which encoder heard its clips"),
        ({"name": "log-mel:12.5"}, "log-mel:25 was asked for, and log-mel:12.5 was opened"),
        ({"dimension": 80}, "holds features that are not log-mel:25's"),
        ({"rate_hz": "fast"}, "does not say which encoder heard its clips"),
    ],
)
def test_a_later_phase_compares_what_was_written_down(tmp_path, changed: dict | None, said: str) -> None:
    path = ran(tmp_path, "identity")["identity"].path / ENCODER
    if changed is None:
        path.unlink()
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    before = set(tmp_path.rglob("config.yaml"))
    with pytest.raises(ValueError, match=said) as caught:
        ran(tmp_path, "connectivity")
    assert "\n" not in str(caught.value)
    assert set(tmp_path.rglob("config.yaml")) == before, "nothing was begun"


def test_a_first_phase_that_does_not_say_whether_it_leaks_is_refused(tmp_path) -> None:
    (ran(tmp_path, "identity")["identity"].path / "leaks.json").unlink()
    with pytest.raises(ValueError, match="does not say whether its splits leak") as caught:
        ran(tmp_path, "connectivity")
    assert "\n" not in str(caught.value)


def test_a_listener_says_by_which_encoder_it_hears(tmp_path) -> None:
    runs = ran(tmp_path, "identity", "connectivity")
    lm = open_language("own", STUDY.phase("connectivity").preset(SMOKE).language, runs["identity"], "cpu")
    path, kept = runs["connectivity"].path / "listener.safetensors", kept_encoder(runs["identity"])
    load_listener(path, lm, kept)
    for other, said in (
        (kept._replace(name="aisfx"), "log-mel:25 was asked for, and aisfx was opened"),
        (
            kept._replace(weights="another"),
            r"has other weights \(digest another\) than those that were heard by \(none\)",
        ),
        (kept._replace(rate_hz=12.5), "expected are dimension 64, sample rate 16000 Hz and frame rate 25 Hz"),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            load_listener(path, lm, other)
        assert "\n" not in str(caught.value)


def clap_folder(folder: Path, seed: int) -> Path:
    """A tower of random weights and how its spectrogram is made, as a hub has them."""
    tiny = tiny_clap(seed)
    tiny._model.save_pretrained(folder)
    tiny._features.save_pretrained(folder)
    return folder


def test_a_folder_that_is_read_and_ignored_inside_the_encoder_is_refused(tmp_path, monkeypatch) -> None:
    first, second = (clap_folder(tmp_path / name / "model", seed) for seed, name in enumerate("ab"))
    load = clap.load_pretrained
    monkeypatch.setattr(clap, "load_pretrained", lambda model, where, kind: load(model, str(first), kind))
    asked = sounds.SoundConfig(encoder=f"clap:{second}")
    with pytest.raises(ValueError, match=r"b/model was asked for, and clap:\S+a/model was opened") as caught:
        sounds.open_encoder(asked, "cpu")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(clap, "load_pretrained", load)
    assert sounds.open_encoder(asked, "cpu").name == f"clap:{second}"


def test_other_weights_under_the_same_name_are_noticed(tmp_path) -> None:
    runs = tmp_path / "runs"
    asked = (f"data.encoder=clap:{clap_folder(tmp_path / 'model', 0)}",)
    found = ran(runs, "identity", "connectivity", overrides=asked)
    path, kept = found["connectivity"].path / "listener.safetensors", kept_encoder(found["identity"])
    lm = open_language("own", STUDY.phase("connectivity").preset(SMOKE).language, found["identity"], "cpu")
    load_listener(path, lm, figures_of(open_audio_encoder(asked[0].partition("=")[2])))
    clap_folder(tmp_path / "model", 1)
    other = figures_of(open_audio_encoder(asked[0].partition("=")[2]))
    assert other[:-1] == kept[:-1], "by name and figures they are one"
    with pytest.raises(ValueError, match="has other weights") as caught:
        load_listener(path, lm, other)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="has other weights"):
        keep_encoder(found["identity"], other)


def test_a_run_is_not_continued_with_another_encoder(tmp_path) -> None:
    run, kept = RunDir(tmp_path), KeptEncoder("clap", 768, 48_000, 3.2)
    keep_encoder(run, kept)
    keep_encoder(run, kept)
    with pytest.raises(ValueError, match="frame rate"):
        keep_encoder(run, kept._replace(rate_hz=3.3))
    assert kept_encoder(run) == kept


# --- what a config tells is refused before anything runs ----------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "overrides", "said"),
    [
        ("identity", ("data.model=tiny", "listener.fusion.layers=[9]"), r"the model tiny has not; allowed: 1 to 2"),
        ("phase1", ("phase1.fusion.layers=[9]",), r"phase1.fusion.layers=\(9,\) name .* allowed: 1 to 2"),
        ("identity", ("listener.projector.heads=3",), "listener.projector.heads=3 does not divide .* width of 8"),
        ("fixes", ("baseline.projector.heads=3",), "baseline.projector.heads=3 does not divide"),
        ("identity", ("listener.projector.bottleneck=0", "listener.projector.heads=7"), "inner width of 64"),
        ("phase2", ("listener.projector.kind=linear_stack",), "hold 32 frames, and a clip of 4 s has 100"),
        ("connectivity", ("clips=33",), "clips=33 are to be learned by heart, and the training split has 32"),
    ],
)
def test_what_cannot_be_made_is_refused_at_once(tmp_path, code: str, overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        ran(tmp_path, code, overrides=overrides)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("config.yaml"))


def test_the_layers_of_a_folder_are_read_from_its_config(tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"num_hidden_layers": 5}}))
    preset = STUDY.phase("identity").preset
    for model, layers in ((f"llava:{tmp_path}", 5), (str(tmp_path), 5), ("a/model/of/a/hub", None)):
        config = preset(SMOKE, ())
        object.__setattr__(config.data, "model", model)
        assert possible.surroundings_of(config).layers == layers


def test_what_shows_once_the_model_is_open_leaves_no_run(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(possible, "_layers_of", lambda config: None)
    with pytest.raises(ValueError, match="allowed: 1 to 2"):
        ran(tmp_path, "identity", overrides=("data.model=tiny", "listener.fusion.layers=[9]"))
    assert not list(tmp_path.rglob("config.yaml"))
