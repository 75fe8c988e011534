"""What a caption says is true of the waveform, measured without knowledge of how it was made."""

import itertools

import numpy as np
import pytest

from inscape.data.sounds.synthesis import synthesise
from inscape.data.sounds.world import EVENTS, Event, SoundScene, caption, sample_scene

RATE = 16_000
SEEDS = range(8)
FRAME = 80  # 5 ms


def sounding(samples_S: np.ndarray) -> list[tuple[float, float]]:
    """Begin and end in seconds of each stretch that is far above the background and within 30 dB of the loudest.

    Gaps below 40 ms are closed.
    """
    power = (samples_S[: len(samples_S) // FRAME * FRAME].reshape(-1, FRAME) ** 2).mean(axis=1)
    loud = np.flatnonzero(power > max(36 * np.quantile(power, 0.05), 1e-3 * power.max()))
    breaks = np.flatnonzero(np.diff(loud) > 8)
    begins, ends = loud[np.r_[0, breaks + 1]], loud[np.r_[breaks, len(loud) - 1]] + 1
    return [(begin * FRAME / RATE, end * FRAME / RATE) for begin, end in zip(begins, ends, strict=True)]


def cut(samples_S: np.ndarray, begin: float, end: float) -> np.ndarray:
    return samples_S[round(begin * RATE) : round(end * RATE)]


def peak_hz(part_S: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(part_S * np.hanning(len(part_S)), 1 << 15))
    return float(spectrum.argmax() * RATE / (1 << 15))


def band_share(part_S: np.ndarray, low: float, high: float) -> float:
    power = np.abs(np.fft.rfft(part_S)) ** 2
    hertz = np.fft.rfftfreq(len(part_S), 1 / RATE)
    return float(power[(hertz >= low) & (hertz < high)].sum() / power.sum())


def alone(event: Event, seed: int) -> tuple[np.ndarray, list[tuple[float, float]]]:
    samples_S = synthesise(SoundScene(event), seed)
    return samples_S, sounding(samples_S)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: caption(SoundScene(event)).replace(" ", "-"))
def test_count_length_and_loudness_of_every_event(event: Event):
    for seed in SEEDS:
        samples_S, stretches = alone(event, seed)
        assert len(stretches) == event.count
        for begin, end in stretches:
            if event.length:
                assert {"short": 0.08, "long": 0.34}[event.length] <= end - begin
                assert end - begin <= {"short": 0.17, "long": 0.47}[event.length]
            peak = np.abs(cut(samples_S, begin, end)).max()
            low, high = {"quiet": (0.02, 0.06), None: (0.12, 0.2), "loud": (0.25, 0.47)}[event.loudness]
            assert low < peak < high


@pytest.mark.parametrize(("pitch", "low", "high"), [("low", 240, 360), ("high", 1200, 1800)])
def test_tones_have_their_pitch(pitch: str, low: float, high: float):
    for seed in SEEDS:
        samples_S, stretches = alone(Event("tone", 3, "long", pitch), seed)
        heard = [peak_hz(cut(samples_S, *stretch)) for stretch in stretches]
        assert all(low - 3 <= hertz <= high + 3 for hertz in heard)
        assert np.ptp(heard) < 3  # the sounds of one event are equal


@pytest.mark.parametrize(("kind", "rises"), [("rising tone", True), ("falling tone", False)])
@pytest.mark.parametrize("length", ["short", "long"])
def test_glides_go_their_way_all_the_way(kind: str, rises: bool, length: str):
    for seed in SEEDS:
        samples_S, stretches = alone(Event(kind, 2, length), seed)
        for begin, end in stretches:
            edges = np.linspace(begin, end, 5)
            heard = [peak_hz(cut(samples_S, a, b)) for a, b in itertools.pairwise(edges)]
            steps = np.diff(np.log2(heard))
            assert (np.sign(steps) == (1 if rises else -1)).all()
            assert abs(steps.sum()) > 0.8


def test_timbres_lie_where_they_belong():
    for seed in SEEDS:
        parts = {}
        for event in (
            Event("click", 1, loudness="loud"),
            Event("thump", 1, loudness="loud"),
            Event("noise burst", 1, "long", None, "loud"),
            Event("buzz", 1, "long", None, "loud"),
        ):
            samples_S, stretches = alone(event, seed)
            parts[event.kind] = cut(samples_S, *stretches[0])
        assert band_share(parts["click"], 2500, 5500) > 0.9
        assert band_share(parts["thump"], 0, 150) > 0.9
        assert 0.3 < band_share(parts["noise burst"], 0, 4000) < 0.7
        assert 115 < peak_hz(parts["buzz"]) < 175
        assert band_share(parts["buzz"], 300, 8000) > 0.1  # harmonics: no tone


def test_loud_is_twenty_decibels_above_quiet():
    for kind in ("click", "thump"):
        energy = {
            level: np.mean([(synthesise(SoundScene(Event(kind, 1, loudness=level)), s) ** 2).sum() for s in SEEDS])
            for level in ("quiet", "loud")
        }
        assert 30 < energy["loud"] / energy["quiet"] < 150


CLICK, THUMP = Event("click", 2, loudness="loud"), Event("thump", 2, loudness="loud")


def spans(samples_S: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    """First and last moment of the sound above 2500 Hz (clicks) and below 150 Hz (thumps)."""
    spectrum, hertz = np.fft.rfft(samples_S), np.fft.rfftfreq(len(samples_S), 1 / RATE)
    high, low = (sounding(np.fft.irfft(spectrum * keep)) for keep in (hertz > 2500, hertz < 150))
    return (high[0][0], high[-1][1]), (low[0][0], low[-1][1])


def test_then_is_one_after_the_other():
    for seed in SEEDS:
        clicks, thumps = spans(synthesise(SoundScene(CLICK, THUMP, "then"), seed))
        assert 0.2 < thumps[0] - clicks[1] < 0.45
        clicks, thumps = spans(synthesise(SoundScene(THUMP, CLICK, "then"), seed))
        assert 0.2 < clicks[0] - thumps[1] < 0.45


def test_while_is_at_the_same_time_and_either_may_begin():
    lags = []
    for seed in SEEDS:
        clicks, thumps = spans(synthesise(SoundScene(CLICK, THUMP, "while"), seed))
        assert min(clicks[1], thumps[1]) - max(clicks[0], thumps[0]) > 0.8 * (clicks[1] - clicks[0])
        lags.append(clicks[0] - thumps[0])
    assert np.ptp(lags) > 0.08


def test_a_quiet_event_is_heard_beside_every_other():
    """The quietest kind of sound beside the loudest it is drawn with: its band still stands far above without it."""
    click = Event("click", 1, loudness="quiet")
    for other in (
        Event("buzz", 3, "long", None, "quiet"),
        Event("tone", 3, "long", "high"),
        Event("falling tone", 3, "long"),
    ):
        for seed in SEEDS:
            with_click, without = (synthesise(s, seed) for s in (SoundScene(click, other, "while"), SoundScene(other)))
            peaks = []
            for samples_S in (with_click, without):
                spectrum, hertz = np.fft.rfft(samples_S), np.fft.rfftfreq(len(samples_S), 1 / RATE)
                peaks.append(np.abs(np.fft.irfft(spectrum * (hertz > 2900))).max())
            assert peaks[0] > 2 * peaks[1]


def test_waveforms_are_plain_bounded_and_never_equal():
    seen = set()
    for index in range(200):
        samples_S = synthesise(sample_scene(0, index), index)
        assert (samples_S.shape, samples_S.dtype) == ((64_000,), np.float32)
        assert np.abs(samples_S).max() < 1
        assert (np.abs(samples_S) > 1e-6).mean() > 0.99  # the background is everywhere
        seen.add(samples_S.tobytes())
    assert len(seen) == 200


def test_the_longest_scene_fits_at_every_seed():
    scene = SoundScene(Event("rising tone", 3, "long"), Event("noise burst", 3, "long", None, "loud"), "then")
    for seed in range(100):
        stretches = sounding(synthesise(scene, seed))
        assert len(stretches) == 6
        assert stretches[0][0] > 0.04
        assert stretches[-1][1] < 3.97


def test_a_clip_is_a_function_of_scene_and_seed():
    scene = sample_scene(0, 1)
    assert np.array_equal(synthesise(scene, 7), synthesise(scene, 7))
    onsets = {sounding(synthesise(scene, seed))[0][0] for seed in range(10)}
    assert len(onsets) > 5
    assert len(synthesise(scene, 7, rate=48_000, seconds=10.0)) == 480_000
    other_rate = synthesise(scene, 7, rate=48_000)[::3]
    assert sounding(other_rate)[0][0] == pytest.approx(sounding(synthesise(scene, 7))[0][0], abs=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seconds": 3.9}, "seconds is 3.9; allowed: 4 or more"),
        ({"seconds": float("nan")}, "seconds is nan; allowed"),
        ({"rate": 8000}, "rate is 8000 Hz; allowed: 16000 or more"),
        ({"seed": -1}, "seed is -1; allowed: 0 or more"),
    ],
)
def test_what_cannot_be_made_is_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        synthesise(SoundScene(CLICK), **{"seed": 0, **options})
