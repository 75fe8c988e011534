"""T4's gate in worlds of sound: one in which every latent is predictable, and noise, in which none is.

In the planted world the loudness of each speaker's noise rises and falls with one period: whoever hears 0.6 seconds of
it knows where it goes. Eight frames of a slow and of a fast filterbank see very different shares of that period.
"""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from planted_predictions import context, judged, planted_inputs

from inscape.core.config import with_overrides
from inscape.core.estimate import Estimate
from inscape.core.gate import Outcome
from inscape.core.rundir import RunDir, write_json_atomically
from inscape.data import latent_extraction
from inscape.pretrained.codec import open_codec
from inscape.pretrained.log_mel import LogMel
from inscape.studies.audio_structure import representations
from inscape.studies.audio_structure.horizons import StatisticsConfig
from inscape.studies.audio_structure.prediction import TrainConfig
from inscape.studies.audio_structure.sources import SpeechConfig

SPEAKERS, SECONDS, RATE = 16, 5.0, 16_000
CODECS = ("log-mel:12.5", "log-mel:50")
Inputs = dict[str, RunDir]


def recordings(root: Path, depth: float) -> Inputs:
    """A0 to A2 of noise whose loudness swings by `depth`; their latents are never read."""
    inputs = planted_inputs(root, [np.zeros((250, 2), np.float32)] * SPEAKERS, eval_speakers=6)
    draw, time = np.random.default_rng(0), np.arange(round(SECONDS * RATE)) / RATE
    rows = json.loads((inputs["A0"].path / "utterances.json").read_text())
    for row in rows:
        swing = np.exp(depth * np.sin(2 * np.pi * (time / 0.9 + draw.uniform())))
        path = inputs["A0"].path / row[2]
        soundfile.write(path, 0.1 * swing / np.exp(depth) * draw.uniform(-1, 1, len(time)), RATE, subtype="FLOAT")
    return inputs


@pytest.fixture(scope="module")
def swinging(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return recordings(tmp_path_factory.mktemp("swinging"), 1.5)


def small(**changes: Any) -> representations.Config:
    settings: dict[str, Any] = {
        "data": SpeechConfig(codec=(changes.get("codecs") or CODECS)[0]),
        "codecs": CODECS,
        "hidden": 16,
        "train": TrainConfig(max_steps=20, batch=64, lr=5e-4, max_eval_samples=600, eval_every=0),
        "diag": StatisticsConfig(max_train_samples=500),
    }
    return representations.Config(**settings | changes)


@pytest.fixture(scope="module")
def t4(swinging: Inputs, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, dict[str, Estimate]]:
    asked = context(small(), tmp_path_factory.mktemp("t4"), swinging)
    return asked.run, dict(representations.run(asked))


def test_t4_passes_the_planted_world(t4: tuple[RunDir, dict[str, Estimate]]) -> None:
    run, metrics = t4
    assert judged(representations.GATE, metrics)["gate"] is Outcome.PASS, metrics
    with (run.path / "representations.csv").open() as file:
        slow, fast = csv.DictReader(file)
    assert [slow[f"{name}_frames"] for name in ("window", "lag", "span")] == ["8", "2", "1"]
    assert [fast[f"{name}_frames"] for name in ("window", "lag", "span")] == ["32", "8", "4"]
    assert (slow["codec"], slow["rate_hz"], fast["rate_hz"]) == ("log-mel:12.5", "12.5", "50.0")
    assert float(fast["gain_per_second"]) == metrics["gain_per_second_log_mel_50hz"].value
    assert float(fast["naive_gain_per_second"]) == pytest.approx(50 * float(fast["naive_gain_per_frame"]))
    assert metrics["least_gain_per_second"] == min(
        (metrics[f"gain_per_second_log_mel_{rate}hz"] for rate in ("12_5", "50")), key=lambda e: e.low
    )
    assert metrics["recordings_lost"].value == 0
    assert run.read_json("figures/captions.json").keys() == {p.name for p in run.figures.glob("*.png")}


class Smooth(LogMel):
    """A filterbank smoothed over 200 ms at 50 frames a second; at 12.5 every fourth of the very same frames."""

    def encode(self, samples: Any) -> Any:
        found = []
        for fine_TD in LogMel(50).encode(samples):
            padded = np.concatenate([np.repeat(fine_TD[:1], 9, 0), fine_TD])
            smooth_TD = np.lib.stride_tricks.sliding_window_view(padded, 10, 0).mean(-1).astype(np.float32)
            found.append(smooth_TD if self.rate_hz == 50 else np.concatenate([smooth_TD[3::4], smooth_TD[-1:]]))
        return [x_TD[: -(-len(s) // round(RATE / self.rate_hz))] for x_TD, s in zip(found, samples, strict=True)]


def test_the_comparison_in_frames_misleads_and_the_one_in_time_does_not(
    swinging: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two latents that are one and the same: a fast one, and every fourth of its frames."""
    codecs = {"log-mel:slow": Smooth(12.5), "log-mel:quick": Smooth(50)}
    for module in (latent_extraction, representations):
        monkeypatch.setattr(module, "open_codec", lambda spec, **_: codecs[spec])
    metrics = dict(representations.run(context(small(codecs=tuple(codecs)), tmp_path, swinging)))
    naive, matched = (
        [metrics[f"{name}_cosine_log_mel_{rate}hz"].value for rate in ("12_5", "50")] for name in ("naive", "matched")
    )
    assert naive[0] > 2 * naive[1], "a step of 20 ms is another thing than one of 80 ms"
    assert matched[0] < 1.25 * matched[1], "what is left is learning from four times as many inputs"


def test_t4_fails_noise(tmp_path: Path) -> None:
    inputs = recordings(tmp_path / "inputs", 0.0)
    metrics = dict(representations.run(context(small(), tmp_path / "run", inputs)))
    found = judged(representations.GATE, metrics)
    assert metrics["naive_cosine_log_mel_12_5hz"].value > 0.6, "half of the step is known"
    assert found["least_matched_cosine"] is found["gate"] is Outcome.FAIL
    assert found["least_gain_per_second"] is not Outcome.PASS


def test_a_lag_that_no_whole_number_of_frames_gives_is_invalid(swinging: Inputs, tmp_path: Path) -> None:
    matched = representations.MatchedConfig(window_sec=0.32, lag_sec=0.2, span_sec=0.1)
    metrics = dict(representations.run(context(small(matched=matched), tmp_path, swinging)))
    assert metrics["lag_mismatch"].value == pytest.approx(0.2)
    assert judged(representations.GATE, metrics)["gate"] is Outcome.INVALID


class Choosy(LogMel):
    """It gives no numbers for one recording in four or so."""

    def encode(self, samples: Any) -> Any:
        refuses = [int(1e6 * float(np.abs(samples_S[:100]).sum())) % 4 == 0 for samples_S in samples]
        return [x * np.nan if no else x for x, no in zip(super().encode(samples), refuses, strict=True)]


def test_only_recordings_that_all_codecs_took_are_compared(
    swinging: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, choosy = latent_extraction.open_codec, "log-mel:choosy"  # a name of its own: opened codecs are kept
    monkeypatch.setattr(
        latent_extraction, "open_codec", lambda spec, **more: Choosy() if spec == choosy else given(spec, **more)
    )
    asked = context(small(codecs=("log-mel:12.5", choosy)), tmp_path, swinging)
    stores = [representations.stored(asked, spec, i) for i, spec in enumerate(asked.config.compared)]
    found = representations.opened(asked, stores)
    fewer, more = sorted(len(of.speech.store) for of in found)
    assert fewer < more == SPEAKERS
    sides = [
        {of.speech.store.utterances[i].utterance_id for i in (*of.speech.train, *of.speech.heldout, *of.speech.eval)}
        for of in found
    ]
    assert sides[0] == sides[1]
    assert len(sides[0]) == fewer
    share = representations.lost(asked, stores)
    assert (share.value, share.n) == (1 - fewer / SPEAKERS, SPEAKERS)
    criterion = next(c for c in representations.GATE.criteria if c.metric == "recordings_lost")
    assert criterion.decide(share) is Outcome.INVALID, "and not a comparison on what is left"


class Deaf(LogMel):
    """Numbers that have nothing to do with the sound, and look one frame ahead."""

    def encode(self, samples: Any) -> Any:
        found = super().encode(samples)
        draws = [np.random.default_rng(len(x)).normal(size=x.shape).astype(np.float32) for x in found]
        return [y + 0.01 * np.concatenate([x[1:], x[-1:]]) for x, y in zip(found, draws, strict=True)]


def test_every_store_is_asked_what_a1_asks_of_its_own(
    swinging: Inputs, t4: tuple[RunDir, dict[str, Estimate]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("frames_ahead", 0),
        ("frames_behind", 1),
        ("non_finite", 0),
        ("batch_difference", 0),
        ("shift_difference", 0),
    ):
        assert t4[1][name].value == value
    assert t4[1]["loudness_correlation"].low > 0.9
    given, deaf = open_codec, "log-mel:deaf"
    for module in (latent_extraction, representations):
        monkeypatch.setattr(module, "open_codec", lambda spec, **more: Deaf() if spec == deaf else given(spec, **more))
    asked = context(small(codecs=("log-mel:12.5", deaf)), tmp_path, swinging)
    stores = [representations.stored(asked, spec, i) for i, spec in enumerate(asked.config.compared)]
    found = representations.checked(asked, stores)
    judgements = {c.metric: c.decide(found[c.metric]) for c in representations.GATE.criteria if c.metric in found}
    assert {name for name, outcome in judgements.items() if outcome is not Outcome.PASS} == {
        "shift_difference",
        "loudness_correlation",
        "frames_ahead",
    }
    assert {c.role for c in representations.GATE.criteria if c.metric in found} == {"control"}


def test_the_least_is_the_one_that_reaches_farthest_down_or_was_not_measured() -> None:
    sure, unsure = Estimate(0.2, 0.18, 0.22, 6, "speakers"), Estimate(0.3, -0.1, 0.7, 6, "speakers")
    nothing = Estimate(math.nan, math.nan, math.nan, 0, "speakers")
    assert representations.least([sure, unsure]) == unsure
    assert representations.least([sure, nothing, unsure]) is nothing


def test_a1s_latents_are_not_extracted_again(swinging: Inputs, tmp_path: Path) -> None:
    asked = context(small(), tmp_path, swinging)
    made = representations.stored(asked, "log-mel:50", 1)
    other = RunDir(tmp_path / "a1")
    other.path.mkdir()
    made.latents.folder.rename(other.path / "latents")
    write_json_atomically(other.path / "latents_of.json", {"spec": "log-mel:50", "project": True})
    again = representations.stored(context(small(), tmp_path / "run", swinging | {"A1": other}), "log-mel:50", 1)
    assert again.latents.folder == other.path / "latents"
    assert again.verified is None, "A1 did that"
    assert not (tmp_path / "run" / "latents_1").exists()


def test_seconds_become_frames() -> None:
    matched = representations.MatchedConfig()
    for rate, frames in ((12.5, (8, 2, 1)), (50, (32, 8, 4)), (75, (48, 12, 6)), (100, (64, 16, 8))):
        assert representations.frames_of(matched, rate) == frames
        assert representations.frames_of(matched, rate).mismatch(matched, rate) < 1e-9
    with pytest.raises(ValueError, match=r"at 5 frames a second .* give a longer matched.lag_sec"):
        representations.frames_of(matched, 5)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("codecs=[log-mel]", "two or more, all different"),
        ("codecs=[log-mel,log-mel]", "two or more, all different"),
        ("codecs=[log-mel,mp3]", "codec is 'mp3'"),
        ("matched.span_sec=0.16", "or the context holds one end of the target"),
        ("matched.window_sec=0", "matched.window_sec=0.0 is out of range"),
        ("head=gru", "head='gru' is out of range"),
        ("train.max_steps=0", "train.max_steps=0 is out of range"),
    ],
)
def test_settings_out_of_range_are_named(override: str, said: str) -> None:
    with pytest.raises(ValueError, match="allowed") as caught:
        with_overrides(representations.Config(), [override])
    assert said in str(caught.value)


def test_a_codec_that_is_not_there_is_refused_before_any_run() -> None:
    with pytest.raises(ValueError, match="from a local folder, and none was given"):
        representations.check(representations.Config(codecs=("lyra",)))
    representations.check(representations.Config())


def test_one_latent_under_two_names_is_not_compared_with_itself() -> None:
    with pytest.raises(ValueError, match=r"log-mel and log-mel:50 are one codec, log-mel; allowed: two or more, all"):
        representations.check(representations.Config(codecs=("log-mel:12.5", "log-mel", "log-mel:50")))


@pytest.mark.parametrize(
    ("overrides", "compared"),
    [
        ([], ("log-mel", "log-mel:12.5")),
        (["data.codec=log-mel:12.5"], ("log-mel:12.5", "log-mel")),
        (["data.codec=log-mel:100"], ("log-mel:100", "log-mel:12.5")),
        (["data.codec=lyra:weights"], ("lyra:weights", "log-mel")),
        (["data.codec=mimi", "codecs=[log-mel,mimi]"], ("log-mel", "mimi")),
        (["data.codec=lyra:weights", "codecs=[mimi,encodec]"], ("lyra:weights", "mimi", "encodec")),
    ],
)
def test_what_is_asked_about_is_always_compared(overrides: list[str], compared: tuple[str, ...]) -> None:
    assert with_overrides(representations.Config(), overrides).compared == compared


def test_t4_compares_the_codec_that_was_asked_about(swinging: Inputs, tmp_path: Path) -> None:
    data = SpeechConfig(codec="log-mel:25")
    metrics = dict(representations.run(context(small(data=data, codecs=()), tmp_path, swinging)))
    assert {name for name in metrics if name.startswith("rate_hz")} == {
        "rate_hz_log_mel_25hz",
        "rate_hz_log_mel_12_5hz",
    }


def test_full_compares_the_plans_codecs() -> None:
    assert representations.PHASE.preset("full").compared == ("mimi", "encodec")
