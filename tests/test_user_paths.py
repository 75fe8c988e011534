"""A home folder that there is not, and a name that no disk takes, are one line at every door that reads a path."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from inscape.data.sounds.manifests import read_audiocaps, read_classes
from inscape.data.speech.corpus import open_speech
from inscape.data.speech.librispeech import download_librispeech
from inscape.data.speech.synthetic_voices import synthesise_speech
from inscape.pretrained.audio_encoders import check_name
from inscape.pretrained.clap import open_clap
from inscape.pretrained.codec import load_pretrained
from inscape.pretrained.language_model import open_language_model
from inscape.pretrained.llava import open_llava_language
from inscape.pretrained.lyra import open_lyra
from inscape.pretrained.smollm2 import cache_folder
from inscape.studies.audio_fusion.possible import _layers_of
from inscape.studies.audio_fusion.sounds import SoundConfig, clips_of
from inscape.studies.audio_structure.sources import SpeechConfig, check_speech
from inscape.user_paths import is_there, user_path

NOBODY, LONG = "~nobody-of-this-name/clips", "x" * 300


def cache_named(where: str) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INSCAPE_CACHE", where)
        return cache_folder()


def captions_named(where: str) -> int:
    return clips_of(SoundConfig(path=".", captions=where, held_out_captions=where), "train")


DOORS: dict[str, Callable[[str], object]] = {
    "user_path": user_path,
    "speech": open_speech,
    "speech of a study": lambda where: check_speech(SpeechConfig(path=where, train=0.5, eval=0.5)),
    "download": lambda where: download_librispeech(where, "dev-clean"),
    "voices": lambda where: synthesise_speech(where, speakers=2),
    "classes": read_classes,
    "captions": lambda where: read_audiocaps(where, None),
    "sounds of a study": lambda where: clips_of(SoundConfig(path=where), "train"),
    "captions of a study": captions_named,
    "codec": lambda where: load_pretrained(object, where, "mimi"),
    "lyra": open_lyra,
    "encoder": lambda where: check_name("clap", f"clap:{where}"),
    "clap": open_clap,
    "language model": open_language_model,
    "llava": open_llava_language,
    "cache": cache_named,
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (NOBODY, r"names a home folder that is not known here; give the whole path$"),
        (LONG, r"cannot be read: File name too long; give another path$"),
    ],
    ids=["nobody", "long"],
)
def test_every_door_refuses_it_in_one_line(door: str, given: str, said: str) -> None:
    with pytest.raises(ValueError, match=rf"^{given}[^\n]* {said}"):
        DOORS[door](given)


def test_what_a_model_holds_is_not_known_where_its_folder_has_no_home(tmp_path: Path) -> None:
    def layers(model: str) -> int | None:
        return _layers_of(SimpleNamespace(data=SimpleNamespace(model=model)))

    (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": 7}))
    assert layers(str(tmp_path)) == 7
    assert layers(NOBODY) is None, "it is told when the model is opened"


def test_other_paths_are_left_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/a/b") == tmp_path / "a/b"
    for given in ("a/b", "/a/b", "a/~nobody", "", str(tmp_path), tmp_path):
        assert user_path(given) == Path(given)
    assert is_there(tmp_path)
    (tmp_path / "link").symlink_to("link")
    assert not is_there(tmp_path / "link")
