"""CLAP's frames against transformers' own features and pooling, their order in time, and where they come from."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")
import torch
from transformers import ClapAudioModel, ClapConfig, ClapFeatureExtractor, ClapModel

from inscape.pretrained import clap
from inscape.pretrained.audio_encoders import describe_encoder, open_audio_encoder
from inscape.pretrained.clap import ClapEncoder, tiny_clap


def noise(length: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, length).astype(np.float32)


def tower(fused: bool) -> tuple[Any, Any]:
    """A tower of either kind, and its feature extractor."""
    config = tiny_clap()._model.config
    config.enable_fusion = fused
    features = ClapFeatureExtractor(
        feature_size=16, hop_length=1920, frequency_min=50, truncation="fusion" if fused else "rand_trunc"
    )
    torch.manual_seed(1)
    model = ClapAudioModel(config).eval().requires_grad_(False)
    norm = model.audio_encoder.batch_norm.state_dict()
    norm["running_mean"].uniform_(-40, -20)
    norm["running_var"].uniform_(50, 100)
    return model, features


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("seconds", [10.0, 3.7])
def test_the_mean_of_claps_frames_is_what_clap_pools(fused: bool, seconds: float) -> None:
    """Against transformers' own features and pooling, of a window that is full and of one that is repeated."""
    model, features = tower(fused)
    waveform = noise(int(48_000 * seconds))
    found = features(waveform, sampling_rate=48_000, return_tensors="pt")
    inputs = found["input_features"].float()
    with torch.inference_mode():
        pooled = model(inputs, is_longer=torch.zeros(1, 1, dtype=torch.bool)).pooler_output[0].numpy()
    encoder = ClapEncoder(model, features, "clap")
    repeated = np.zeros(480_000, np.float32)
    copies = np.tile(waveform, 480_000 // len(waveform))
    repeated[: len(copies)] = copies
    (whole,), (kept,) = encoder.encode([repeated]), encoder.encode([waveform])
    assert whole.mean(0) == pytest.approx(pooled, abs=1e-5)
    assert kept == pytest.approx(whole[: math.ceil(len(waveform) / 15_000)], abs=1e-5)


def test_claps_frames_stand_in_the_order_of_time() -> None:
    """A click changes the frame of its own block most, in each of the four pieces of the image."""
    encoder = tiny_clap()
    quiet = noise(480_000)
    quiet *= 1e-3
    for block in (1, 6, 12, 19, 26, 30):
        loud = quiet.copy()
        loud[block * 15_000 + 4000 : block * 15_000 + 11_000] *= 500
        change = np.abs(encoder.encode([loud])[0] - encoder.encode([quiet])[0]).sum(1)
        assert change.argmax() == block


def test_a_recording_longer_than_claps_window_is_cut_and_no_random_number_is_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = tiny_clap()
    for name in ("randint", "choice"):  # with which transformers' own extractor chooses what to hear
        monkeypatch.setattr(np.random, name, None)
    waveform = noise(1_000_000)
    (whole,) = encoder.encode([waveform])
    parts = encoder.encode([waveform[:480_000], waveform[480_000:960_000], waveform[960_000:]])
    assert whole == pytest.approx(np.concatenate(parts), abs=1e-5)


@pytest.mark.parametrize("whole", [True, False])
def test_clap_from_a_folder(tmp_path: Path, whole: bool) -> None:
    tiny = tiny_clap(3)
    model, folder = tiny._model, tmp_path / "c"
    if whole:
        config = ClapConfig(
            audio_config=tiny._model.config.to_dict(),
            text_config={
                "vocab_size": 8,
                "hidden_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 8,
            },
            projection_dim=8,
        )
        model = ClapModel(config)
        model.audio_model.load_state_dict(tiny._model.state_dict())
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"^clap: no preprocessor_config\.json from .*$"):
        open_audio_encoder(f"clap:{folder}")
    tiny._features.save_pretrained(folder)
    opened = open_audio_encoder(f"clap:{folder}", expect=describe_encoder(tiny))
    assert opened.name == f"clap:{folder}"
    assert np.array_equal(opened.encode([noise(50_000)])[0], tiny.encode([noise(50_000)])[0])
    ClapFeatureExtractor(feature_size=16, hop_length=480).save_pretrained(folder)
    with pytest.raises(
        ValueError, match=r"^clap:\S+c: preprocessor_config\.json does not fit config\.json: .* 1001 frames"
    ):
        open_audio_encoder(f"clap:{folder}")


def test_clap_without_a_hub_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, **options: bool) -> None:
        raise OSError("We couldn't connect\nto the hub")

    monkeypatch.setattr(ClapModel, "from_pretrained", offline)
    with pytest.raises(ValueError, match=r"^clap: no weights from laion/clap-htsat-fused, .* give clap:FOLDER"):
        open_audio_encoder("clap")
    monkeypatch.setattr(clap, "load_pretrained", lambda *_: SimpleNamespace(audio_model=tiny_clap()._model))
    monkeypatch.setattr(ClapFeatureExtractor, "from_pretrained", offline)
    with pytest.raises(ValueError, match=r"^clap: no preprocessor_config.json from .*We couldn't connect\)$"):
        open_audio_encoder("clap:laion/clap-htsat-unfused")
