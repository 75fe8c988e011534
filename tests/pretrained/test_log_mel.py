"""The filterbank against closed forms and another implementation; no frame hears its future."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inscape.pretrained.codec import block_size, frame_energy, open_codec
from inscape.pretrained.log_mel import BANDS, FLOOR, LogMel, mel_filters


def sine(hertz: float, level: float = 1.0, seconds: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hertz * np.arange(int(16_000 * seconds)) / 16_000)).astype(np.float32)


def test_the_filters_agree_with_transformers() -> None:
    audio_utils = pytest.importorskip("transformers.audio_utils")
    theirs = audio_utils.mel_filter_bank(513, BANDS, 50.0, 8000.0, 16_000, norm=None, mel_scale="htk")
    assert mel_filters(1024, 16_000, BANDS, 50.0, 8000.0) == pytest.approx(theirs, abs=1e-6)


def test_every_filter_holds_a_frequency_at_every_rate() -> None:
    for rate in (12.5, 50.0, 100.0):
        assert (LogMel(rate)._filters.sum(0) > 0.3).all()


def test_a_sine_stands_at_its_power_in_its_band() -> None:
    """A^2 / 2 at the filter's centre; the bands away from it hold nothing."""
    edge = 700 * (
        10 ** (np.linspace(2595 * math.log10(1 + 50 / 700), 2595 * math.log10(9000 / 700 - 200 / 700), 66) / 2595) - 1
    )
    for band in (10, 30, 50):
        (latent_TD,) = LogMel().encode([sine(edge[band + 1], 0.5)])
        middle = latent_TD[len(latent_TD) // 2]
        assert middle.argmax() == band
        # The Hann window spreads a sine over three lines of its transform, and the triangle weighs them.
        assert 0.5 * 0.125 < np.exp(middle[band]) < 3 * 0.125
        assert middle[(band + 30) % BANDS] < math.log(FLOOR) + 8


def test_twice_the_amplitude_adds_ln_4_and_silence_is_the_floor() -> None:
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 8000).astype(np.float32)
    quiet, loud, silent = LogMel().encode([noise, 2 * noise, 0 * noise])
    assert loud - quiet == pytest.approx(np.full_like(quiet, math.log(4)), abs=1e-2)
    assert silent == pytest.approx(np.full_like(silent, math.log(FLOOR)))


@given(st.integers(1, 3000), st.sampled_from([12.5, 50.0, 100.0, 160.0]))
def test_one_frame_a_block_begun(samples: int, rate: float) -> None:
    codec = LogMel(rate)
    (latent_TD,) = codec.encode([np.ones(samples, np.float32)])
    assert latent_TD.shape == (math.ceil(samples / block_size(codec)), BANDS)
    assert latent_TD.dtype == np.float32


def test_no_frame_hears_its_future() -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, 3200).astype(np.float32)
    for rate, block in ((50.0, 320), (12.5, 1280)):
        (whole,), cut = LogMel(rate).encode([noise]), noise.copy()
        cut[2 * block :] = 0
        (changed,) = LogMel(rate).encode([cut])
        assert np.array_equal(whole[:2], changed[:2])
        assert not np.array_equal(whole[2], changed[2])


def test_batches_and_long_recordings_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    samples = [draw.uniform(-1, 1, n).astype(np.float32) for n in (5000, 320, 1, 9001)]
    single = [LogMel().encode([s])[0] for s in samples]
    assert all(np.array_equal(a, b) for a, b in zip(LogMel().encode(samples), single, strict=True))
    monkeypatch.setattr("inscape.pretrained.log_mel.FRAMES_AT_ONCE", 4)
    assert all(np.array_equal(a, b) for a, b in zip(LogMel().encode(samples), single, strict=True))


def test_the_energy_is_the_root_mean_square_of_each_block() -> None:
    samples_S = np.array([3, 4, 0, 0, 5], np.float32)
    assert frame_energy(samples_S, 2) == pytest.approx([math.sqrt(12.5), 0, math.sqrt(12.5)])
    assert frame_energy(samples_S, 2).dtype == np.float32


def test_it_is_opened_by_name_at_any_rate_that_divides() -> None:
    assert (open_codec("log-mel").rate_hz, open_codec("log-mel:12.5").rate_hz) == (50, 12.5)
    assert open_codec("log-mel:12.5").name == "log-mel:12.5"
    for where in ("7", "0", "-50", "nan", "fast"):
        with pytest.raises(ValueError, match="frames per second"):
            open_codec(f"log-mel:{where}")


def test_it_cannot_be_decoded() -> None:
    assert not LogMel().can_decode
    with pytest.raises(ValueError, match="keeps no phase"):
        LogMel().decode(np.zeros((3, BANDS)))
