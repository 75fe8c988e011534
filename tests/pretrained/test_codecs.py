"""What holds for every codec, on tiny random weights; Mimi's projection in closed form; weights that are not there."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("transformers")
import torch
from safetensors.torch import load_file, save_file
from transformers import EncodecModel, MimiModel, WhisperModel

from inscape.pretrained import mimi
from inscape.pretrained.codec import AudioCodec, block_size, encode_by_length, open_codec
from inscape.pretrained.encodec import Encodec, tiny_encodec
from inscape.pretrained.mimi import tiny_mimi

KINDS = ("log-mel", "tiny-mimi", "tiny-encodec", "tiny-whisper")
RATES = {
    "log-mel": (16_000, 50),
    "tiny-mimi": (24_000, 12.5),
    "tiny-encodec": (24_000, 75),
    "tiny-whisper": (16_000, 50),
}


@pytest.fixture(scope="module", params=KINDS)
def codec(request: pytest.FixtureRequest) -> AudioCodec:
    return open_codec(request.param)


def noise(*lengths: int) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.uniform(-0.5, 0.5, n).astype(np.float32) for n in lengths]


def test_latents_have_the_shape_that_is_promised(codec: AudioCodec) -> None:
    block, lengths = block_size(codec), (1, 6000, 1920, 1921, 9600)
    for latent_TD, length in zip(codec.encode(noise(*lengths)), lengths, strict=True):
        assert latent_TD.shape == (math.ceil(length / block), codec.dimension)
        assert latent_TD.dtype == np.float32
        assert np.isfinite(latent_TD).all()


def test_rates_are_those_of_the_codec(codec: AudioCodec) -> None:
    assert (codec.sample_rate, codec.rate_hz) == RATES[codec.name.partition(":")[0]]
    assert block_size(codec) * codec.rate_hz == codec.sample_rate


def test_a_batch_gives_what_each_gives_alone(codec: AudioCodec) -> None:
    samples = noise(9000, 4000, 9000, 8999, 100, 9000, 24_001)
    for batched, waveform in zip(codec.encode(samples), samples, strict=True):
        (single,) = codec.encode([waveform])
        assert batched == pytest.approx(single, abs=1e-5 * max(1.0, float(np.abs(single).max())))


def test_latents_differ_with_the_sound_and_repeat_with_it(codec: AudioCodec) -> None:
    (first,), (again,) = codec.encode(noise(8000)), codec.encode(noise(8000))
    (other,) = codec.encode([noise(8000)[0][::-1].copy()])
    assert np.array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3 * np.abs(first).max()


def test_what_is_no_waveform_is_refused(codec: AudioCodec) -> None:
    for bad in (np.zeros((2, 9)), np.zeros(0), np.array([0.1, np.nan])):
        with pytest.raises(ValueError, match="one dimension of finite samples"):
            codec.encode([bad.astype(np.float32)])
    assert codec.encode([]) == []


def test_it_decodes_or_says_that_it_cannot(codec: AudioCodec) -> None:
    (latent_TD,) = codec.encode(noise(9000))
    if not codec.can_decode:
        with pytest.raises(ValueError, match="cannot be decoded"):
            codec.decode(latent_TD)
        return
    samples_S = codec.decode(latent_TD)
    assert samples_S.shape == (len(latent_TD) * block_size(codec),)
    assert np.isfinite(samples_S).all()


@pytest.mark.parametrize("kind", KINDS[1:])
def test_random_weights_are_those_of_their_seed(kind: str) -> None:
    state = torch.random.get_rng_state()
    first, again, other = (open_codec(f"{kind}:{seed}").encode(noise(3000))[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)
    assert torch.equal(state, torch.random.get_rng_state()), "nobody else's random numbers are used up"


# --- Mimi ---------------------------------------------------------------------------------------------------------


def test_the_projection_is_what_a_quantiser_that_rounds_nothing_would_give() -> None:
    """With each branch's code book set to exactly what arrives there, decode(encode(e)) must be z(e)."""
    codec = tiny_mimi()
    quantizer = codec._model.quantizer
    raw_BDT = torch.as_tensor(tiny_mimi(project=False).encode(noise(1920 * 10))[0]).T[None]
    for branch in (quantizer.semantic_residual_vector_quantizer, quantizer.acoustic_residual_vector_quantizer):
        (layer,) = branch.layers
        rows_TD = branch.input_proj(raw_BDT)[0].T
        layer.codebook.embed_sum.data[:10] = rows_TD
        layer.codebook.embed_sum.data[10:] = 1e4
        layer.codebook.cluster_usage.data.fill_(1.0)
        layer.codebook._embed = None
    rounded_BDT = quantizer.decode(quantizer.encode(raw_BDT).transpose(0, 1))
    (latent_TD,) = codec.encode(noise(1920 * 10))
    assert latent_TD == pytest.approx(rounded_BDT[0].T.numpy(), abs=1e-5)
    assert np.abs(latent_TD - raw_BDT[0].T.numpy()).max() > 0.1, "the projection does something"


def test_the_encoder_of_older_transformers_is_the_same() -> None:
    """Before 5.2 a MimiModel had its parts side by side."""
    model = tiny_mimi()._model
    older = SimpleNamespace(
        encoder=model.encoder.encoder_seanet,
        encoder_transformer=model.encoder.encoder_transformer,
        downsample=model.encoder.downsample,
        decoder=model.decoder.decoder_seanet,
        decoder_transformer=model.decoder.decoder_transformer,
        upsample=model.decoder.upsample,
    )
    samples_B1S = torch.as_tensor(np.stack(noise(1920 * 4, 1920 * 4)))[:, None]
    with torch.inference_mode():
        raw_BDT = mimi.encoded(model, samples_B1S)
        assert torch.equal(mimi.encoded(older, samples_B1S), raw_BDT)
        assert torch.equal(mimi.decoded(older, raw_BDT), mimi.decoded(model, raw_BDT))


def test_latents_that_were_not_projected_are_not_decoded() -> None:
    codec = open_codec("tiny-mimi", project=False)
    assert codec.name == "tiny-mimi:0 (not projected)"
    with pytest.raises(ValueError, match="project=True"):
        codec.decode(np.zeros((2, 32), np.float32))


# --- EnCodec ------------------------------------------------------------------------------------------------------


def test_encodecs_latent_is_what_its_quantiser_is_given() -> None:
    codec = tiny_encodec()
    samples = noise(320 * 9)
    with torch.inference_mode():
        expected = codec._model.encoder(torch.as_tensor(samples[0])[None, None])[0].T.numpy()
    assert np.array_equal(codec.encode(samples)[0], expected)


def test_a_stereo_model_is_refused() -> None:
    model = tiny_encodec()._model
    model.config.audio_channels = 2
    with pytest.raises(ValueError, match="use a mono model"):
        Encodec(model, "encodec:48")


# --- Whisper ------------------------------------------------------------------------------------------------------


def test_a_recording_longer_than_whispers_window_is_cut_into_windows() -> None:
    codec = open_codec("tiny-whisper")  # windows of 2 s
    (waveform,) = noise(80_000)
    (whole,) = codec.encode([waveform])
    parts = codec.encode([waveform[:32_000], waveform[32_000:64_000], waveform[64_000:]])
    assert np.array_equal(whole, np.concatenate(parts))


# --- weights that are not there, or not right ---------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "model"), [("mimi", MimiModel), ("encodec", EncodecModel), ("whisper", WhisperModel)])
def test_weights_from_a_folder(tmp_path: Path, kind: str, model: type, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = open_codec(f"tiny-{kind}:3")
    if kind == "whisper":  # the codec keeps the encoder only: take the whole model on its way
        from inscape.pretrained import whisper

        kept: list = []
        monkeypatch.setattr(whisper, "WhisperEncoder", lambda m, name: kept.append(m) or SimpleNamespace(name=name))
        open_codec("tiny-whisper:3")
        kept[0].save_pretrained(tmp_path / "w")
        monkeypatch.undo()
    else:
        tiny._model.save_pretrained(tmp_path / "w")  # type: ignore[attr-defined]
    opened = open_codec(f"{kind}:{tmp_path / 'w'}")
    assert opened.name == (f"whisper:{tmp_path / 'w'}" if kind == "whisper" else f"{kind}:w")
    assert np.array_equal(opened.encode(noise(5000))[0], tiny.encode(noise(5000))[0])
    weights = load_file(tmp_path / "w" / "model.safetensors")
    gone = next(name for name in sorted(weights) if "encoder" in name and "weight" in name)
    del weights[gone]
    save_file(weights, tmp_path / "w" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"{kind}: the folder .* lacks 1 weights of this model"):
        open_codec(f"{kind}:{tmp_path / 'w'}")
    (tmp_path / "w" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=f"^{kind}: no weights from the folder .*$"):
        open_codec(f"{kind}:{tmp_path / 'w'}")


def test_an_empty_folder_and_a_folder_that_is_not_there_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^mimi: no weights from the folder"):
        open_codec(f"mimi:{tmp_path}")
    with pytest.raises(ValueError, match=r"^mimi: there is no folder .*gone; give a folder with its config\.json"):
        open_codec(f"mimi:{tmp_path}/gone")


def test_without_a_hub_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def offline(name: str, **options: bool) -> None:
        assert options["use_safetensors"]
        asked.append(options.get("local_files_only", False))
        raise OSError("We couldn't connect\nto the hub")

    monkeypatch.setattr(MimiModel, "from_pretrained", offline)
    with pytest.raises(
        ValueError, match=r"^mimi: no weights from kyutai/mimi, neither on this machine nor from the hub: "
    ) as refusal:
        open_codec("mimi")
    assert "copy them here and give mimi:FOLDER" in str(refusal.value)
    assert asked == [True, False], "local files first"


def test_a_codec_that_is_none_names_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^codec is 'opus'; allowed: log-mel, mimi, encodec, whisper, lyra"):
        open_codec("opus")
    for kind in ("tiny-mimi", "tiny-encodec", "tiny-whisper"):
        for seed in ("x", "9" * 30):
            with pytest.raises(ValueError, match=f"seed of random weights is '{seed}'; allowed: a number from 0 to 9"):
                open_codec(f"{kind}:{seed}")


def test_batches_hold_one_length_each_and_keep_the_order() -> None:
    seen: list[tuple[int, ...]] = []

    def first_of_block(batch: np.ndarray) -> np.ndarray:
        seen.append(batch.shape)
        return batch.reshape(len(batch), -1, 10)[..., :1]

    waveforms = [np.full(n, i + 1, np.float32) for i, n in enumerate((5, 20, 11, 10, 19, 12))]
    latents = encode_by_length(waveforms, 10, first_of_block, most=3)
    assert seen == [(2, 10), (3, 20), (1, 20)]
    assert [latent_TD.ravel().tolist() for latent_TD in latents] == [[1], [2, 2], [3, 3], [4], [5, 5], [6, 6]]
