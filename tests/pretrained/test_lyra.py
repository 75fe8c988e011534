"""Lyra against its own weights, where INSCAPE_LYRA names their folder; and its refusals everywhere."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from inscape.data.speech.audio_files import read_audio
from inscape.pretrained import lyra as lyra_files
from inscape.pretrained.audio_encoders import open_audio_encoder, weights_digest
from inscape.pretrained.codec import AudioCodec, open_codec


def test_a_folder_without_lyra_is_one_line(tmp_path: Path) -> None:
    for where in ("", str(tmp_path)):
        with pytest.raises(ValueError, match=r"^lyra reads soundstream_encoder\.tflite and .*: lyra:FOLDER$"):
            open_codec(f"lyra:{where}")


def test_files_that_are_no_models_are_one_line(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    for name in ("soundstream_encoder.tflite", "lyragan.tflite"):
        (tmp_path / name).write_bytes(b"words" * 9)
    with pytest.raises(ValueError, match=r"soundstream_encoder\.tflite is not a model"):
        open_codec(f"lyra:{tmp_path}")


def test_a_digest_is_of_the_files_where_weights_are_no_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    litert = SimpleNamespace(Interpreter=lambda *_, **__: None, OpResolverType=SimpleNamespace(AUTO=0))
    monkeypatch.setattr(lyra_files, "load_extra", lambda *_: litert)
    monkeypatch.setattr(lyra_files, "_stream", lambda *_: np.zeros((1, 64), np.float32))
    for name in (lyra_files.ENCODER, lyra_files.DECODER):
        (tmp_path / name).write_bytes(b"1234")
    first = weights_digest(open_audio_encoder(f"lyra:{tmp_path}"))
    assert first == weights_digest(open_audio_encoder(f"lyra:{tmp_path}")) != ""
    (tmp_path / lyra_files.ENCODER).write_bytes(b"1235")
    assert weights_digest(open_audio_encoder(f"lyra:{tmp_path}")) != first


def lyra_folder() -> Path:
    """INSCAPE_LYRA, or assets/lyra beside INSCAPE_DATA."""
    named, data = os.environ.get("INSCAPE_LYRA"), os.environ.get("INSCAPE_DATA")
    return Path(named) if named else Path(data).parent / "assets" / "lyra" if data else Path("none")


@pytest.fixture(scope="module")
def lyra() -> AudioCodec:
    pytest.importorskip("ai_edge_litert")
    if not (lyra_folder() / "soundstream_encoder.tflite").is_file():
        pytest.skip("set INSCAPE_LYRA to a folder with Lyra v2's .tflite files")
    return open_codec(f"lyra:{lyra_folder()}")


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return read_audio(lyra_folder() / "sample1_16kHz.wav", 16_000)


@pytest.mark.realdata
def test_the_first_recording_is_as_any_other(lyra: AudioCodec, speech: np.ndarray) -> None:
    fresh = open_codec(f"lyra:{lyra_folder()}")
    (first,), (second,) = fresh.encode([speech[:16_000]]), fresh.encode([speech[:16_000]])
    _, after_another = lyra.encode([speech[16_000:], speech[:16_000]])
    assert np.array_equal(first, second)
    assert np.array_equal(first, after_another), "a batch gives what each gives alone"


@pytest.mark.realdata
def test_latents_are_lyras(lyra: AudioCodec, speech: np.ndarray) -> None:
    assert (lyra.sample_rate, lyra.rate_hz, lyra.dimension, lyra.can_decode) == (16_000, 50, 64, True)
    (latent_TD,) = lyra.encode([speech])
    assert latent_TD.shape == (-(-len(speech) // 320), 64)
    assert 5 < latent_TD.std() < 9
    (cut,) = lyra.encode([speech[:3200]])
    assert np.array_equal(latent_TD[:10], cut), "causal"


@pytest.mark.realdata
def test_what_is_decoded_is_the_speech(lyra: AudioCodec, speech: np.ndarray) -> None:
    """The loudness over time agrees, and not with the recording shifted by half of its length."""
    (latent_TD,) = lyra.encode([speech])
    heard = lyra.decode(latent_TD)
    assert np.array_equal(lyra.decode(latent_TD), heard), "what was decoded before is forgotten"
    assert heard.shape == (320 * len(latent_TD),)

    def loudness(x: np.ndarray) -> np.ndarray:
        return np.log(np.sqrt((x[: len(x) // 640 * 640].reshape(-1, 640) ** 2).mean(1)) + 1e-3)

    original = loudness(speech)
    decoded = loudness(heard)[: len(original)]
    shifted = np.roll(decoded, len(decoded) // 2)
    assert np.corrcoef(original, decoded)[0, 1] > 0.9 > 0.5 > np.corrcoef(original, shifted)[0, 1]
