"""What a codec's frames hear: of the codecs that need no download, where the answer is known."""

from pathlib import Path

import numpy as np
import pytest
from planted_predictions import context, planted_inputs

from inscape.pretrained.codec import open_codec
from inscape.studies.audio_structure.latent_checks import Hearing, hearing
from inscape.studies.audio_structure.latents import codec_memory


def speech(codec: object, seconds: float = 5.0) -> np.ndarray:
    """Noise that swells and fades, at the codec's rate."""
    draw = np.random.default_rng(0)
    count = round(seconds * codec.sample_rate)  # type: ignore[attr-defined]
    swell = np.exp(np.sin(np.linspace(0, 20, count)) - 2)
    return (swell * draw.uniform(-1, 1, count)).astype(np.float32)


@pytest.mark.parametrize(
    ("spec", "heard"),
    [
        ("log-mel:12.5", Hearing(0, 0)),  # a window of one block
        ("log-mel", Hearing(0, 1)),  # 25 ms in steps of 20
        ("log-mel:200", Hearing(0, 4)),  # 25 ms in steps of 5
    ],
)
def test_a_filterbank_hears_as_far_as_its_window(spec: str, heard: Hearing) -> None:
    codec = open_codec(spec)
    assert hearing(codec, speech(codec), 0) == heard


def test_codecs_are_causal_and_remember_and_whisper_knows_its_future() -> None:
    for spec in ("tiny-mimi", "tiny-encodec"):
        codec = open_codec(spec)
        found = hearing(codec, speech(codec), 0)
        assert found.ahead == 0
        assert found.behind > 2
    whisper = open_codec("tiny-whisper")  # windows of 2 seconds, which know nothing of each other
    assert 0 < hearing(whisper, speech(whisper), 0).ahead <= 100


def test_a_recording_of_a_few_frames_is_no_fault() -> None:
    codec = open_codec("log-mel")
    for seconds in (0.001, 0.02, 0.05):
        assert hearing(codec, speech(codec, seconds), 0).ahead == 0


@pytest.mark.parametrize("behind", [1, 22])
def test_a_memory_of_more_than_one_frame_is_said_with_every_prediction(behind: int, tmp_path: Path) -> None:
    inputs = planted_inputs(tmp_path / "inputs", [np.zeros((20, 2), np.float32)] * 12)
    asked = context(None, tmp_path / "run", inputs)
    assert codec_memory(asked) == {}, "planted latents have no codec"
    made_of = inputs["A1"].read_json("latents_of.json")
    inputs["A1"].write_json("latents_of.json", made_of | {"codec": "lyra", "frames_ahead": 0, "frames_behind": behind})
    assert codec_memory(asked)["frames_behind"].value == behind
    said = [line["text"] for line in asked.run.read_log()]
    assert [text.startswith("a frame of lyra changes with 22 frames before its own") for text in said] == (
        [True] if behind > 1 else []
    )
