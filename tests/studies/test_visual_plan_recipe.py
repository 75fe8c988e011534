"""The plan's own recipe from P1 to P4: its terms and no others, what it leaves untouched, and that it is not mixed."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from inscape.core.rundir import RunDir
from inscape.core.runner import Request, run_study
from inscape.core.study import SMOKE
from inscape.studies.visual import decoder, imageness, jitter, meaning
from inscape.studies.visual.losses import plan_terms
from inscape.studies.visual.meaning import Measured
from inscape.studies.visual.model import load_codec
from inscape.studies.visual.sources import DataConfig, open_source
from inscape.studies.visual.study import STUDY

PLAN = ("recipe=plan",)


def ladder(root: Path, overrides: tuple[str, ...], codes: tuple[str, ...]) -> list[RunDir]:
    wish = Request(preset=SMOKE, seed=0, device="cpu", root=root, overrides=overrides, despite_gate="a test")
    return [run_study(STUDY, [STUDY.phase(code)], wish, lambda _: None, lambda _: None)[0] for code in codes]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RunDir]]:
    root = tmp_path_factory.mktemp("plan")
    with pytest.MonkeyPatch.context() as patch:
        for phase in (imageness, meaning, jitter, decoder):
            patch.setattr(phase, "draw_latents", lambda *_: None)
        ladder(root, (), ("P0",))
        codes = ("P1", "P2", "P3", "P4")
        yield dict(zip(codes, ladder(root, PLAN, codes), strict=True))


@pytest.mark.parametrize(
    ("code", "terms"),
    [("P2", {"image", "contrast"}), ("P3", {"image", "contrast", "invariance"}), ("P4", {"copy"})],
)
def test_the_terms_are_the_plans_and_no_others(runs, code, terms):
    lines = [line for line in runs[code].read_log() if line.get("kind") == "train"]
    assert {name for line in lines for name in line["terms"]} == terms


def test_reader_and_decoder_are_not_trained_before_p4_and_the_encoder_not_after_p3(runs):
    first, second, third = (load_codec(runs[code].path).model for code in ("P2", "P3", "P4"))
    for part, kept in (("reader", True), ("decoder", True), ("encoder", False)):
        pairs = zip(getattr(first, part).parameters(), getattr(second, part).parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs) == kept
    pairs = list(zip(second.encoder.parameters(), third.encoder.parameters(), strict=True))
    assert all(torch.equal(one, other) for one, other in pairs)


def test_the_image_prior_is_the_plans():
    source = open_source(DataConfig(facts=1))
    training = meaning.plan_training(replace(meaning.PHASE.preset("smoke").training))
    prior_of = {}
    latent_NCHW = torch.randn(4, 6, 32, 32, generator=torch.Generator().manual_seed(0))

    def spy(model, batch, step, objective, vocab, *, prior):
        prior_of.update(prior(latent_NCHW, None, objective.prior, share=0.8, dimensions=4.0))
        return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meaning, "objective_terms", spy)
        meaning.plan_terms_of(training, source)(None, None, 0)
    wanted = plan_terms(latent_NCHW, training.objective.prior)
    assert prior_of.keys() == wanted.keys()
    assert all(torch.equal(prior_of[name], wanted[name]) for name in wanted)
    assert (training.objective.image, training.objective.contrast) == (1.0, 1.0)
    assert (training.mixture.edited, training.mixture.drawn) == (1, 1)


@pytest.mark.parametrize(("code", "before"), [("P3", "P2"), ("P4", "P3")])
def test_one_recipe_does_not_go_on_with_the_others_codec(runs, code, before):
    with pytest.raises(ValueError, match=f"^recipe=joint would go on with .*{before} trained with recipe=plan.*--out"):
        ladder(runs["P1"].path.parents[3], (), (code,))


def test_remedies_that_change_a_number_for_the_worse_do_not_exist():
    for tau, then in ((0.07, 0.05), (0.05, 0.04), (0.04, 0.032)):
        given = replace(meaning.Config(), measured=Measured())
        given = replace(
            given, training=replace(given.training, objective=replace(given.training.objective, temperature=tau))
        )
        (remedy,) = (each for each in meaning.PHASE.remedies if "temperature" in str(each.change))
        assert remedy.applied_to(given).training.objective.temperature == pytest.approx(then)
