"""What a codec's frames hear: of the codecs that need no download, where the answer is known."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from planted_predictions import context, planted_inputs

from inscape.core.gate import Outcome
from inscape.data import latent_extraction
from inscape.data.latent_extraction import extract
from inscape.data.speech.audio_files import read_audio
from inscape.data.speech.corpus import Utterance
from inscape.pretrained.codec import open_codec
from inscape.pretrained.log_mel import LogMel
from inscape.studies.audio_structure import latents
from inscape.studies.audio_structure.latent_checks import (
    Hearing,
    checks_of,
    hearing,
    loudness_correlation,
    memory,
    shift_difference,
)
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


# --- a latent that knows how late it is -------------------------------------------------------------------------------


class Clock(LogMel):
    """Log-mel, one of whose dimensions is a function of the frame's number."""

    def __init__(self, clock: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__()
        self.clock = clock

    def encode(self, samples: Any) -> Any:
        found = [latent_TD.copy() for latent_TD in super().encode(samples)]
        for latent_TD in found:
            latent_TD[:, -1] = 3.0 * self.clock(np.arange(len(latent_TD)))
        return found


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Eight recordings of noise that swells and fades, at 16 kHz."""
    folder = tmp_path_factory.mktemp("noise")
    for i in range(8):
        soundfile.write(folder / f"{i}.wav", speech(LogMel(), 3 + i / 10), 16_000, subtype="FLOAT")
    return [str(folder / f"{i}.wav") for i in range(8)]


CLOCKS = {
    "counts": lambda t: t / 40,
    "turns slowly": lambda t: np.sin(t / 15),
    "turns in two": lambda t: t % 2,
    "turns in three": lambda t: t % 3,
    "knows its beginning": lambda t: np.exp(-t / 100) * 6,
}


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_clock_passes_all_the_other_checks_and_fails_this_one(clock: str, paths: list[str], tmp_path: Path) -> None:
    codec = Clock(CLOCKS[clock])
    said = [Utterance(str(i), str(i), Path(path)) for i, path in enumerate(paths)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent_extraction, "open_codec", lambda *_, **__: codec)
        store = extract(said, f"log-mel:{clock}", tmp_path / "store").store
    path_of = {u.utterance_id: str(u.path) for u in said}
    notices = list[str]()
    found = checks_of(codec, store, path_of, range(8), compared=4, read_off=8, seed=0, say=notices.append)
    assert notices == []
    criteria = [c for c in latents.GATE.criteria if c.metric in found]
    assert [c.metric for c in criteria if c.decide(found[c.metric]) is not Outcome.PASS] == ["shift_difference"]


@pytest.mark.parametrize(("speakers", "units"), [(8, 4), (2, 2), (1, 1)])
def test_recordings_of_one_speaker_are_one_unit_of_the_readout(
    speakers: int, units: int, paths: list[str], tmp_path: Path
) -> None:
    said = [Utterance(str(i), f"speaker {i % speakers}", Path(path)) for i, path in enumerate(paths)]
    found = loudness_correlation(extract(said, "log-mel", tmp_path / "store").store, range(8), 0)
    assert (found.n, found.unit) == (units, "speakers")
    assert found.value > 0.9
    assert found.measured == (units > 1), "of one speaker nothing is known about others"


def shift(codec: Any, paths: list[str]) -> tuple[float, int]:
    """What A1 asks: the largest movement, and of how many dimensions."""
    return shift_difference(codec, paths, memory(codec, read_audio(paths[-1], codec.sample_rate), 0))


@pytest.mark.parametrize("spec", ["log-mel", "log-mel:12.5", "log-mel:200"])
def test_a_filterbank_has_no_clock(spec: str, paths: list[str]) -> None:
    difference, compared = shift(open_codec(spec), paths[:4])
    assert difference < 1e-4
    assert compared == 64


@pytest.mark.parametrize("spec", ["tiny-mimi", "tiny-encodec"])
def test_a_codec_that_remembers_is_compared_where_it_has_forgotten(spec: str, paths: list[str]) -> None:
    difference, compared = shift(open_codec(spec), paths[:4])
    assert difference < 0.01
    assert compared > 0


class Wide(LogMel):
    """512 numbers a frame: log-mel eight times over, one that never changes, and perhaps a count of frames."""

    dimension = 512

    def __init__(self, counts: bool) -> None:
        super().__init__()
        self.counts = counts

    def encode(self, samples: Any) -> Any:
        found = [np.tile(latent_TD, 8) for latent_TD in super().encode(samples)]
        for latent_TD in found:
            latent_TD[:, 0] = 3.0
            if self.counts:
                latent_TD[:, -1] = np.arange(len(latent_TD)) / 40
        return found


def test_a_count_in_one_dimension_of_512_is_seen(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{seconds}.wav") for seconds in (2, 3, 6, 12)]
    for path, seconds in zip(paths, (2, 3, 6, 12), strict=True):
        soundfile.write(path, speech(LogMel(), seconds), 16_000, subtype="FLOAT")
    assert shift(Wide(counts=False), paths)[0] < 1e-4
    assert shift(Wide(counts=True), paths)[0] > 0.5


class Remembering(LogMel):
    """Log-mel and, in every dimension but the last, a mean over a past of so many frames."""

    def __init__(self, past: int, counts: bool = False) -> None:
        super().__init__()
        self.past, self.counts = past, counts

    def encode(self, samples: Any) -> Any:
        found = []
        for latent_TD in super().encode(samples):
            sum_TD = np.cumsum(latent_TD.astype(np.float64), axis=0)
            ago_TD = np.concatenate([np.zeros((self.past, 64)), sum_TD])[: len(sum_TD)]
            other_TD = (latent_TD + 3 * (sum_TD - ago_TD) / self.past).astype(np.float32)
            other_TD[:, -1] = np.arange(len(latent_TD)) / 40 if self.counts else latent_TD[:, -1]
            found.append(other_TD)
        return found


@pytest.mark.parametrize(("past", "compared"), [(20, 64), (80, 64), (250, 1)])
def test_a_memory_is_no_clock_and_one_without_end_is_said(past: int, compared: int, paths: list[str]) -> None:
    for counts, passes in ((False, True), (True, False)):
        difference, found = shift(Remembering(past, counts), paths)
        assert found == compared
        assert (difference < 0.05) == passes, "a dimension that forgets is compared, whatever the others remember"


def test_where_all_remember_without_end_a_notice_says_that_nothing_was_compared(
    paths: list[str], tmp_path: Path
) -> None:
    class Endless(Remembering):
        def encode(self, samples: Any) -> Any:
            return [latent_TD[:, :1] for latent_TD in super().encode(samples)]

    codec, said = Endless(250), list[str]()
    codec.dimension = 1
    utterances = [Utterance(str(i), str(i), Path(path)) for i, path in enumerate(paths)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent_extraction, "open_codec", lambda *_, **__: codec)
        store = extract(utterances, "log-mel", tmp_path / "store").store
    path_of = {u.utterance_id: str(u.path) for u in utterances}
    found = checks_of(codec, store, path_of, range(8), compared=4, read_off=8, seed=0, say=said.append)
    assert found["shift_difference"].value == 0
    assert ["1 of the 1 numbers" in text and "says nothing" in text for text in said] == [True]


def test_recordings_of_one_frame_cannot_be_cut(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "short.wav", speech(LogMel(), 0.11), 16_000, subtype="FLOAT")
    assert math.isnan(shift(open_codec("log-mel:8"), [str(tmp_path / "short.wav")])[0])
