"""P0's and P1's gates in worlds where the answer is known: planted ones they must pass, empty ones they must fail.

The planted world of P1 is no network: pixels that start as a sum of one random field for each word of the sentence and
descend the calibrated prior.
"""

import dataclasses

import numpy as np
import pytest
import torch

from inscape.core.estimate import exact
from inscape.core.gate import Outcome
from inscape.stats import fields
from inscape.studies.visual import corpus, decoder, imageness, jitter, meaning, prior, roundtrip
from inscape.studies.visual.health import latent_health, presence_of_words, text_dependence, trend_values
from inscape.studies.visual.losses import Weights, calibrated_terms, tokens_held
from inscape.studies.visual.sources import DataConfig, open_source

SOURCE = open_source(DataConfig(facts=1))
SENTENCES = SOURCE.held_out(128)
WORDS = tokens_held(torch.from_numpy(SOURCE.tokenizer.encode(SENTENCES)), SOURCE.tokenizer.vocab_size)
PRESENCE = presence_of_words(SENTENCES)


def outcomes(latent: torch.Tensor) -> dict[str, Outcome]:
    """P1's findings for latents of SENTENCES that stay as they are for three evaluations."""
    evaluations = [{"step": step, "values": trend_values(latent)} for step in (1, 2, 3)]
    metrics = {
        **imageness.course(evaluations, len(latent)),
        **latent_health(latent, seed=0),
        **text_dependence(latent, PRESENCE, seed=0),
    }
    verdict = imageness.GATE.judge(metrics)
    return {finding.criterion.metric: finding.outcome for finding in verdict.findings} | {"gate": verdict.outcome}


@pytest.fixture(scope="module")
def planted() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    words = PRESENCE.shape[1]
    patterns = fields.power_law(2.2, words * 6, generator=generator).reshape(words, 6, 32, 32)
    start = torch.einsum("nk,kchw->nchw", torch.from_numpy(PRESENCE).float(), patterns)
    pixels = (start / start.std()).requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=0.05)
    for step in range(80):
        cut = step % 2
        seen = pixels[..., cut : 30 + cut, cut : 30 + cut]
        loss = sum(calibrated_terms(seen, WORDS, Weights(), share=0.5, dimensions=16).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return pixels.detach()


def test_p1_passes_the_planted_world(planted):
    found = outcomes(planted)
    assert found["gate"] is Outcome.PASS, found


def test_p1_fails_a_flat_field():
    found = outcomes(1e-4 * torch.randn(128, 6, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert found["amplitude"] is Outcome.FAIL
    assert found["tv"] is Outcome.FAIL, "the plan's own criterion sees it too"


def test_p1_fails_one_picture_for_every_sentence(planted):
    found = outcomes(planted[:1] + 0.01 * torch.randn(planted.shape, generator=torch.Generator().manual_seed(0)))
    assert found["text_share"] is Outcome.FAIL
    assert found["text_probe"] is not Outcome.PASS
    assert found["spectral_slope_in_photo_band"] is Outcome.PASS


def test_p1_fails_a_picture_and_its_negative(planted):
    signs = torch.where(torch.randn(128, generator=torch.Generator().manual_seed(0)) > 0, 1.0, -1.0)
    found = outcomes(signs[:, None, None, None] * planted[:1])
    assert found["text_share"] is Outcome.PASS
    assert found["text_dimensions"] is Outcome.FAIL


def test_p1_fails_pictures_of_other_sentences(planted):
    shuffled = planted[torch.from_numpy(np.random.default_rng(0).permutation(128))]
    found = outcomes(shuffled)
    assert found["text_dimensions"] is Outcome.PASS
    assert found["text_probe"] is not Outcome.PASS


def test_p1_fails_a_stamped_tile(planted):
    found = outcomes(planted[..., 8:16, 8:16].repeat(1, 1, 4, 4))
    assert found["grid_energy"] is Outcome.FAIL
    assert found["peakedness_in_photo_band"] is Outcome.FAIL


@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_p1_fails_structureless_gaussian_fields(alpha):
    generator = torch.Generator().manual_seed(0)
    words = PRESENCE.shape[1]
    patterns = fields.power_law(alpha, words * 6, generator=generator).reshape(words, 6, 32, 32)
    latent = torch.einsum("nk,kchw->nchw", torch.from_numpy(PRESENCE).float(), patterns)
    found = outcomes(latent / latent.std())
    assert found["channels_in_slope_range"] is (Outcome.PASS if alpha == 2.0 else Outcome.FAIL)
    assert found["gradient_kurtosis_in_photo_band"] is Outcome.FAIL
    assert found["auc_against_photographs"] is Outcome.FAIL
    assert found["text_probe"] is Outcome.PASS


MOVING = {  # every later phase whose training may spoil the picture
    "P2": meaning.GATE,
    "P2 of groups": meaning.TEXT_GATE,
    "P2 of sentences": meaning.PLAIN_TEXT_GATE,
    "P3": jitter.GATE,
    "P3 of groups": jitter.TEXT_GATE,
    "P3 of sentences": jitter.PLAIN_TEXT_GATE,
    "P4, unfrozen": decoder.gate_for(decoder.Config(freeze=False)),
    "P5": roundtrip.GATE,
    "P6": prior.GATE,
}


@pytest.mark.parametrize("phase", MOVING)
def test_later_phases_fail_a_picture_that_has_moved_to_the_frame_or_faded(phase, planted):
    def judged(latent: torch.Tensor) -> dict[str, Outcome]:
        verdict = MOVING[phase].judge(latent_health(latent, seed=0))
        found = {finding.criterion.metric: finding.outcome for finding in verdict.findings}
        return {name: found[name] for name in ("unevenness", "amplitude", "auc_against_photographs")}

    framed = planted.clone()
    framed[..., 4:-4, 4:-4] *= 0.1
    assert set(judged(planted).values()) == {Outcome.PASS}
    assert judged(framed / framed.std())["unevenness"] is Outcome.FAIL
    assert judged(0.01 * planted)["amplitude"] is Outcome.FAIL


def test_p1_is_invalid_if_the_shuffled_readout_finds_words(planted):
    metrics = {c.metric: exact(c.bound, 9, "sentences") for c in imageness.GATE.criteria}
    assert imageness.GATE.judge(metrics).outcome is Outcome.PASS
    metrics["text_probe_shuffled"] = exact(0.7, 9, "sentences")
    assert imageness.GATE.judge(metrics).outcome is Outcome.INVALID


def test_a_course_of_two_evaluations_is_not_measured():
    evaluation = {"step": 1, "values": {"tv": 1.0, "channels_in_slope_range": 6, "speckle": 0.1}}
    assert imageness.course([evaluation] * 2, 10) == {}
    assert imageness.course([evaluation] * 3, 10)["tv_change"].value == 0


def test_a_falling_tv_is_no_plateau_and_an_early_lapse_of_slope_counts_only_in_the_last_three():
    def at(tv: float, channels: int) -> dict:
        return {"step": 1, "values": {"tv": tv, "channels_in_slope_range": channels, "speckle": 0.1}}

    course = imageness.course([at(900, 0), at(500, 4), at(400, 5), at(300, 6)], 10)
    assert course["tv_change"].value == pytest.approx(0.4)
    assert course["channels_in_slope_range"].value == 4


def test_p0_finds_nothing_wrong_with_the_grammar():
    assert corpus.parse_errors(300, 0) == 0
    for found in (corpus.augmentation_errors(600, 0), corpus.counterfactual_errors(600, 0)):
        assert found.errors == 0
        assert found.checked > 300


def test_p0_catches_wordings_that_do_not_parse_back(monkeypatch):
    render = corpus.render
    monkeypatch.setattr(corpus, "render", lambda scene, rng: render(corpus.sample(rng, facts=1), rng))
    assert corpus.parse_errors(200, 0) > 150


@pytest.mark.parametrize(
    "broken",
    [
        lambda text, name, rng: corpus.render(corpus.sample(rng), rng),
        lambda text, name, rng: text,
        lambda text, name, rng: None,
    ],
    ids=["another scene", "the same sentence", "never"],
)
def test_p0_catches_augmentations_that_break_or_do_nothing(monkeypatch, broken):
    monkeypatch.setattr(corpus, "augment", broken)
    assert corpus.augmentation_errors(200, 0).errors >= 6


def test_p0_catches_one_augmentation_that_is_never_met(monkeypatch):
    augment = corpus.augment
    monkeypatch.setattr(
        corpus, "augment", lambda text, name, rng: None if name == "shuffle" else augment(text, name, rng)
    )
    assert corpus.augmentation_errors(300, 0).errors == 1


@pytest.mark.parametrize("broken", [lambda scene, edit, rng: scene, lambda scene, edit, rng: None])
def test_p0_catches_counterfactuals_that_change_nothing_or_never_come(monkeypatch, broken):
    monkeypatch.setattr(corpus, "counterfactual", broken)
    assert corpus.counterfactual_errors(200, 0).errors >= 8


def test_p0_catches_leaks_between_splits():
    source = open_source(DataConfig())
    config = corpus.Config(draws=512)
    assert corpus.split_leaks(source, config, 0) == 0

    @dataclasses.dataclass(frozen=True)
    class Leaking:
        tokenizer = source.tokenizer
        held_out = staticmethod(source.held_out)

        def batch_at(self, seed, step, rank, world, size):
            return source.tokenizer.encode(source.held_out(size))

    assert corpus.split_leaks(Leaking(), config, 0) >= 512


def test_p0_catches_a_tokenizer_that_loses_words():
    source = open_source(DataConfig())

    class Forgetful:
        encode = staticmethod(source.tokenizer.encode)

        @staticmethod
        def decode(tokens):
            return [text.replace("red", "") for text in source.tokenizer.decode(tokens)]

    @dataclasses.dataclass(frozen=True)
    class Broken:
        tokenizer = Forgetful()

    sentences = ["a red ball is on the blue block", "a green ball is on the blue block"]
    assert corpus.tokenizer_errors(source, sentences) == 0
    assert corpus.tokenizer_errors(Broken(), sentences) == 1


def test_p0_catches_a_biased_slope(monkeypatch):
    good = corpus.instrument_checks(500, 0)
    assert good["slope_bias"].value <= 0.02
    slope = corpus.stats.spectral_slope
    monkeypatch.setattr(corpus.stats, "spectral_slope", lambda x: 1.06 * slope(x))
    assert corpus.instrument_checks(500, 0)["slope_bias"].value > 0.02
