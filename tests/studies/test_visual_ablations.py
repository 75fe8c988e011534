"""P7: each variant changes what its name says and nothing else; the gate in planted worlds; finished arms are kept."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted_codec import PlantedModel, planted
from torch import Tensor

from inscape import stats
from inscape.core.config import differences, with_changes
from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Outcome
from inscape.core.rundir import RunDir
from inscape.core.runner import Request, resume, run_study
from inscape.core.study import SMOKE
from inscape.data.scenes import split_of
from inscape.nn.grid_head import GridHead
from inscape.nn.latent_codec import LatentCodec
from inscape.nn.light_head import LightHead, Painter
from inscape.nn.slots import SlotHead
from inscape.nn.vector_painter import VectorPainter
from inscape.stats import fields
from inscape.stopping import TrainingInterrupted
from inscape.studies.visual import ablation_arm, ablation_memory, ablation_tables, ablations, roundtrip_terms
from inscape.studies.visual.ablation_arm import Arm, copied_share, measure_arm, past_key
from inscape.studies.visual.ablation_drawing import COLUMNS
from inscape.studies.visual.ablation_effects import (
    SHOWN,
    TARGETS,
    largest_losses,
    loss_name,
    losses_over_seeds,
    losses_within,
    over_seeds,
)
from inscape.studies.visual.ablation_variants import CORE, VARIANTS, Recipe, noise_prior, prior_on_crops
from inscape.studies.visual.ablations import ACROSS_SEEDS, Config, recipe_of
from inscape.studies.visual.codec_training import _batch
from inscape.studies.visual.losses import Weights, calibrated_terms
from inscape.studies.visual.meaning import Measured
from inscape.studies.visual.objective import TrainingTuples, objective_terms, past_terms
from inscape.studies.visual.paraphrasing import meaning_of
from inscape.studies.visual.roundtrip_terms import RoundTrip
from inscape.studies.visual.sources import DataConfig, open_source
from inscape.studies.visual.study import STUDY

SOURCE = open_source(DataConfig(facts=1))
VOCAB = SOURCE.tokenizer.vocab_size
ALL = with_changes(STUDY.phase("P7").preset(SMOKE), {"variants": list(VARIANTS), "beginning.past": 6})
FULL = recipe_of(ALL, "full")


# --- the variants -------------------------------------------------------------------------------------------------


def changes(name: str) -> dict[str, Any]:
    """What a variant's recipe has otherwise: dotted names with their values."""
    recipe, found = recipe_of(ALL, name), {}
    for part in Recipe._fields:
        before, after = getattr(FULL, part), getattr(recipe, part)
        if dataclasses.is_dataclass(before):
            found |= differences(before, after, f"{part}.")
        elif before is not after:
            found[part] = after
    return found


STILL = {f"training.objective.jitter.{name}_probability": 0.0 for name in ("shift", "blur", "cutout")}
AT_ONCE = {"beginning.past": 0, "beginning.picture": 0, "training.fit.steps": 5}
EXPECTED: dict[str, dict[str, Any]] = {
    "full": {},
    "again": {},
    "anew": {},
    **{f"no_{term}": {f"training.objective.prior.{term}": 0.0} for term in list(vars(Weights()))[:6]},
    "no_contrast": {"training.objective.contrast": 0.0},
    "no_round_trip": {"round_trip.cycle": 0.0},
    "no_copy_suppression": {"round_trip.copy_suppression": 0.0},
    "no_jitter": STILL,
    "light_head": AT_ONCE,
    "grid_head": {"encoder.head": "grid"} | AT_ONCE,
    "slots": {"encoder.head": "slots"} | AT_ONCE,
    "mute": {f"training.objective.{name}": 0.0 for name in ("copy", "target", "from_z")},
    "no_image": {"training.objective.image": 0.0},
    "plain_vector": {"encoder.head": "vector", "training.objective.image": 0.0} | STILL,
    "noise_grid": {"prior": noise_prior},
    "size_48": {"encoder.H": 48, "encoder.W": 48, "encoder.C": 8, "codec.patch": 12, "prior": prior_on_crops},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_changes_what_its_name_says_and_nothing_else(name: str):
    assert changes(name) == EXPECTED[name]
    assert VARIANTS[name].seed == {"again": 1000, "anew": 2000}.get(name, 0)


def test_the_plans_pieces_are_all_there():
    assert set(EXPECTED) == set(VARIANTS)
    assert len(CORE) == 10
    assert set(CORE) == {name for name in VARIANTS if name.startswith("no_")} - {"no_image"}
    assert {VARIANTS[name].beside for name in ("grid_head", "slots")} == {"light_head"}


def model_of(name: str) -> LatentCodec:
    torch.manual_seed(0)
    recipe = recipe_of(ALL, name)
    return LatentCodec(dataclasses.replace(recipe.encoder, vocab=VOCAB), recipe.codec)


def batch_of(recipe: Recipe, step: int = 0) -> TrainingTuples:
    return _batch(SOURCE, recipe.training, 0, step, 0, 1)


def terms_of(name: str) -> dict[str, Tensor]:
    """All terms of one step of the tail, by name."""
    recipe, model = recipe_of(ALL, name), model_of(name)
    torch.manual_seed(1)
    objective = recipe.training.objective
    return roundtrip_terms.round_trip_terms(
        model, batch_of(recipe), 0, objective, recipe.round_trip, VOCAB, prior=recipe.prior
    )


ALL_TERMS = {"image", "contrast", "copy", "target", "from_z", "cycle", "copies"}
GONE = {
    "no_contrast": {"contrast"},
    "no_image": {"image"},
    "plain_vector": {"image"},
    "mute": {"copy", "target", "from_z"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_terms_of_a_step_are_those_that_the_variant_has(name: str, monkeypatch: pytest.MonkeyPatch):
    # A fresh decoder samples no copies by itself.
    monkeypatch.setattr(roundtrip_terms, "copied", lambda ours, said, length: said != 0)
    terms = {term: float(value.detach()) for term, value in terms_of(name).items()}
    assert set(terms) == ALL_TERMS - GONE.get(name, set())
    silent = {"no_round_trip": {"cycle"}, "no_copy_suppression": {"copies"}}.get(name, set())
    assert {term for term in ("cycle", "copies") if terms[term] == 0} == silent


@pytest.mark.parametrize("term", list(vars(Weights()))[:6])
def test_without_a_prior_that_term_alone_is_zero(term: str):
    latent = torch.randn(8, 6, 32, 32, generator=torch.Generator().manual_seed(0)) + 0.3
    holds = (torch.arange(8)[:, None] == torch.arange(12)).float()
    whole = calibrated_terms(latent, holds, FULL.training.objective.prior, share=0.8, dimensions=4)
    weights = recipe_of(ALL, f"no_{term}").training.objective.prior
    less = calibrated_terms(latent, holds, weights, share=0.8, dimensions=4)
    assert float(whole[term]) > 0
    assert {name: float(value) for name, value in less.items()} == {
        name: 0.0 if name == term else float(value) for name, value in whole.items()
    }


@pytest.mark.parametrize(
    ("name", "head", "painter"),
    [
        ("full", LightHead, Painter),
        ("light_head", LightHead, Painter),
        ("plain_vector", LightHead, VectorPainter),
        ("grid_head", GridHead, None),
        ("slots", SlotHead, None),
    ],
)
def test_the_heads_are_of_their_kinds(name: str, head: type, painter: type | None):
    found = model_of(name).encoder.head
    assert type(found) is head
    assert painter is None or type(found.paint) is painter


@pytest.mark.parametrize("name", ["full", "plain_vector", "size_48"])
def test_latents_have_their_sizes_and_are_read_in_as_many_places(name: str):
    model = model_of(name)
    latent = model.encode(torch.tensor([[1, 5, 6, 2]]))
    assert latent.shape[1:] == ((8, 48, 48) if name == "size_48" else (6, 32, 32))
    assert model.places == 16
    assert model.reader(latent).shape[1] == 16


def test_jitter_is_gone_from_what_is_seen(monkeypatch: pytest.MonkeyPatch):
    seen: list[bool] = []

    def watched(latent: Tensor, config: Any, **named: Any) -> Tensor:
        from inscape.nn.jitter import jitter

        moved = jitter(latent, config, **named)
        seen.append(torch.equal(moved, latent))
        return moved

    monkeypatch.setattr("inscape.studies.visual.objective.jitter", watched)
    for name in ("full", "no_jitter"):
        recipe = recipe_of(ALL, name)
        objective = dataclasses.replace(recipe.training.objective, invariance=0.2)
        torch.manual_seed(0)
        objective_terms(model_of(name), batch_of(recipe), 0, objective, VOCAB)
    assert seen == [False, True]


def test_the_prior_of_the_noise_grid_is_met_by_noise_and_the_other_by_pictures():
    generator = torch.Generator().manual_seed(0)
    noise = fields.white_noise(96, generator=generator).view(16, 6, 32, 32)
    leaves = fields.dead_leaves(96, generator=generator).view(16, 6, 32, 32)
    holds = (torch.arange(16)[:, None] == torch.arange(20)).float()
    pulled = ("spectrum", "tv", "wavelet", "kurtosis")

    def pull(prior: Any, latent: Tensor) -> float:
        terms = prior(latent, holds, Weights(), share=0.8, dimensions=4)
        return sum(float(terms[name]) for name in pulled)

    assert pull(noise_prior, noise) < 0.2 < pull(noise_prior, leaves)
    assert pull(noise_prior, noise) < 0.1 * pull(calibrated_terms, noise)
    assert pull(calibrated_terms, leaves) < 0.5 * pull(noise_prior, leaves)


def test_the_prior_of_the_larger_latent_looks_at_one_window_of_32_pixels():
    large = torch.randn(8, 8, 48, 48, generator=torch.Generator().manual_seed(0)).cumsum(-1).cumsum(-2)
    holds = (torch.arange(8)[:, None] == torch.arange(12)).float()
    torch.manual_seed(3)
    top, left = (int(torch.randint(17, ())) for _ in range(2))
    torch.manual_seed(3)
    found = prior_on_crops(large, holds, Weights(), share=0.8, dimensions=4)
    expected = calibrated_terms(large[..., top : top + 32, left : left + 32], holds, Weights(), share=0.8, dimensions=4)
    assert {name: float(value) for name, value in found.items()} == {n: float(v) for n, v in expected.items()}


SAME_PAST = {*CORE, "again", "no_image", "noise_grid"} - {"no_contrast"}


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - {"full", "anew"}))
def test_steps_past_the_picture_are_shared_where_they_are_the_same_to_the_last_bit(name: str):
    recipe = recipe_of(ALL, name)
    assert (past_key(recipe, 0) == past_key(FULL, 0)) == (name in SAME_PAST)
    assert VARIANTS[name].alone == (name not in SAME_PAST)
    assert past_key(recipe, 0) != past_key(recipe, 1)
    if name in SAME_PAST:
        found = []
        for each in (FULL, recipe):
            model = model_of("full")
            torch.manual_seed(2)
            terms = past_terms(model, batch_of(each), each.training.objective, 0.3)
            found.append({term: float(value.detach()) for term, value in terms.items()})
        assert found[0] == found[1]


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        (("full", "no_sound"), "unknown or repeated"),
        (("full", "full"), "unknown or repeated"),
        (("full", "slots"), "slots is compared with light_head"),
        (("no_tv",), "no_tv is compared with full"),
    ],
)
def test_a_list_of_variants_that_cannot_be_compared_is_refused(variants: tuple[str, ...], message: str):
    with pytest.raises(ValueError, match=message):
        Config(variants=variants)


# --- what is lost -------------------------------------------------------------------------------------------------


def test_a_loss_is_positive_where_a_variant_is_worse_whatever_the_target():
    reference = {"recall_at_1": [1.0] * 40, "rouge_l": [0.4] * 40, "beside_the_point": [1.0]}
    values = {"recall_at_1": [0.75] * 40, "rouge_l": [0.5] * 40, "beside_the_point": [0.0]}
    reference["told_apart_colour"], values["told_apart_colour"] = [1.0] * 40, [0.5] * 40
    found = losses_within(values, reference)
    assert set(found) == {"recall_at_1", "rouge_l", "told_apart_colour"}, "targets, and what is shown beside them"
    assert found["told_apart_colour"].value == pytest.approx(0.5)
    assert found["recall_at_1"].value == pytest.approx(0.25)
    assert found["rouge_l"].value == pytest.approx(0.1)


def test_sentences_are_compared_in_pairs():
    hard = np.random.default_rng(0).uniform(size=200)  # what makes sentences differ is in both, and drops out
    found = losses_within({"graph_f1": list(hard - 0.1)}, {"graph_f1": list(hard)})
    assert found["graph_f1"].high - found["graph_f1"].low < 1e-9


World = Mapping[int, Mapping[str, Estimate]]
EVERY_PIECE = {variant: (target, 0.3) for variant, target in zip(CORE, TARGETS, strict=False)}
NOISE = 0.02  # of one training


def world(effects: Mapping[str, tuple[str, float]], seed: int = 0, seeds: int = 3, noise: float = NOISE) -> World:
    """Losses as runs would measure them: planted effects, and the noise of two trainings."""
    rng = np.random.default_rng(seed)
    found: dict[int, dict[str, Estimate]] = {}
    for s in range(seeds):
        signs = {**TARGETS, **SHOWN}
        of_full = {target: rng.normal(0, noise) for target in signs}
        found[s] = {target: exact(0.5 + signs[target] * of_full[target], 400, "scenes") for target in signs}
        for variant in VARIANTS:
            for target in (*TARGETS, *SHOWN):
                planted_in, size = effects.get(variant, ("", 0.0))
                loss = (size if planted_in == target else 0.0) + rng.normal(0, noise) + of_full[target]
                found[s][loss_name(target, variant)] = Estimate(loss, loss - 0.01, loss + 0.01, 400, "scenes")
    return found


SEEN = {"noise_grid": ("spectral_slope_in_photo_band", 0.8), "mute": ("scene_exact", 0.8)}


def outcomes(found: World) -> dict[str, Outcome]:
    verdict = ACROSS_SEEDS.judge(over_seeds(found))
    return {f.criterion.metric: f.outcome for f in verdict.findings} | {"gate": verdict.outcome}


def test_the_gate_passes_where_every_piece_matters_for_something():
    found = outcomes(world(EVERY_PIECE | SEEN))
    assert set(found.values()) == {Outcome.PASS}


@pytest.mark.parametrize("piece", CORE)
def test_a_piece_that_does_not_matter_is_named(piece: str):
    found = outcomes(world({k: v for k, v in EVERY_PIECE.items() if k != piece} | SEEN))
    missed = {name for name, outcome in found.items() if outcome is not Outcome.PASS} - {"gate"}
    assert missed == {f"loss_without_{piece.removeprefix('no_')}"}
    assert found["gate"] is Outcome.INCONCLUSIVE


def test_training_again_must_not_look_worse_or_better():
    for effect in (0.3, -0.3):
        found = outcomes(world(EVERY_PIECE | SEEN | {"again": ("graph_f1", effect)}))
        assert found["targets_lost_in_again"] is Outcome.INVALID
        assert found["gate"] is Outcome.INVALID


@pytest.mark.parametrize(
    ("unseen", "control"),
    [("noise_grid", "picture_targets_lost_in_noise_grid"), ("mute", "semantic_targets_lost_in_mute")],
)
def test_a_comparison_that_does_not_see_what_must_be_lost_sees_nothing(unseen: str, control: str):
    found = outcomes(world(EVERY_PIECE | {name: effect for name, effect in SEEN.items() if name != unseen}))
    assert {name for name, outcome in found.items() if outcome is Outcome.INVALID} == {control, "gate"}


@pytest.mark.parametrize(
    ("variant", "beside_the_point", "control"),
    [
        *(("mute", name, "semantic_targets_lost_in_mute") for name in ("amplitude", "recall_at_1", "told_apart_swaps")),
        *(
            ("noise_grid", name, "picture_targets_lost_in_noise_grid")
            for name in ("scene_exact", "recall_at_1", "channel_correlation", "amplitude")
        ),
    ],
)
def test_a_loss_of_something_else_is_not_what_a_control_must_lose(variant: str, beside_the_point: str, control: str):
    found = outcomes(world(EVERY_PIECE | SEEN | {variant: (beside_the_point, 0.8)}))
    assert {name for name, outcome in found.items() if outcome is Outcome.INVALID} == {control, "gate"}


def test_what_is_better_on_seen_combinations_alone_is_no_loss():
    better = {
        s: {**of, loss_name("scene_exact_seen", "no_tv"): exact(-0.3, 400, "scenes")}
        | {loss_name("generalisation_gap", "no_tv"): exact(0.3 + s / 1000, 400, "scenes")}
        for s, of in world({k: v for k, v in EVERY_PIECE.items() if k != "no_tv"} | SEEN).items()
    }
    assert losses_over_seeds(better, SHOWN)["no_tv"]["generalisation_gap"].seen
    assert outcomes(better)["loss_without_tv"] is not Outcome.PASS


def test_what_is_shown_beside_the_targets_decides_nothing():
    told = {"no_tv": ("told_apart_colour", 0.3), "again": ("sentence_exact", 0.3)}
    found = outcomes(world(EVERY_PIECE | SEEN | told))
    assert found["loss_without_tv"] is not Outcome.PASS
    assert found["targets_lost_in_again"] is Outcome.PASS
    assert losses_over_seeds(world(told), SHOWN)["no_tv"]["told_apart_colour"].seen


def test_of_quicks_variants_every_control_is_there_and_the_pieces_that_are_not_are_not_measured():
    kept = STUDY.phase("P7").preset("quick").variants
    found = {
        s: {n: e for n, e in of.items() if not n.startswith("loss_of") or any(n.endswith(f"_in_{v}") for v in kept)}
        for s, of in world(EVERY_PIECE | SEEN).items()
    }
    verdict = outcomes(found)
    assert verdict.pop("gate") is Outcome.INCONCLUSIVE
    assert {name for name, outcome in verdict.items() if outcome is Outcome.PASS} == {
        "loss_without_spectrum",
        "targets_lost_in_again",
        "picture_targets_lost_in_noise_grid",
        "semantic_targets_lost_in_mute",
    }


def test_quick_knows_how_far_trainings_that_share_nothing_differ():
    """Of three trainings alone the noise has two degrees of freedom, and a loss of fifteen times it may not be seen."""
    asked_of = tuple(f"_in_{variant}" for variant in STUDY.phase("P7").preset("quick").variants)
    for seed in range(60):
        found = world(SEEN | {"mute": ("scene_exact", 15 * NOISE)}, seed=seed)
        asked = {
            s: {n: e for n, e in of.items() if not n.startswith("loss_of") or n.endswith(asked_of)}
            for s, of in found.items()
        }
        assert over_seeds(asked)["semantic_targets_lost_in_mute"].value >= 1, seed


def test_false_alarms_are_as_rare_as_they_are_said_to_be():
    found = [losses_over_seeds(world({}, seed=seed)) for seed in range(200)]
    for name in ("again", "no_contrast"):  # of either noise
        alarms = [any(loss.seen or loss.gain_seen for loss in losses[name].values()) for losses in found]
        assert 0.0 < np.mean(alarms) < 0.1


def test_variants_that_share_nothing_are_held_against_trainings_that_share_nothing():
    found = {seed: dict(metrics) for seed, metrics in world(EVERY_PIECE).items()}
    results = {0: (0.3, 0.1), 1: (0.5, 0.2), 2: (0.4, 0.6)}  # of the whole recipe, and of the same anew
    for seed, (whole, anew) in results.items():
        found[seed] |= {
            "recall_at_1": exact(whole, 9, "s"),
            loss_name("recall_at_1", "anew"): exact(whole - anew, 9, "s"),
        }
        found[seed] |= {loss_name("recall_at_1", v): exact(0.1, 9, "s") for v in ("no_contrast", "no_tv")}
    losses = losses_over_seeds(found)
    assert losses["no_contrast"]["recall_at_1"].noise == pytest.approx(np.std([0.3, 0.1, 0.5, 0.2, 0.4, 0.6], ddof=1))
    assert losses["no_tv"]["recall_at_1"].noise < 0.1
    assert not losses["no_contrast"]["recall_at_1"].seen


def test_the_surest_loss_is_in_units_of_training_noise_and_names_its_target():
    loss = largest_losses(losses_over_seeds(world(EVERY_PIECE)))["no_tv"]
    assert loss.target == EVERY_PIECE["no_tv"][0]
    assert loss.noise == pytest.approx(NOISE, rel=0.3)
    assert loss.value == pytest.approx(0.3 / loss.noise, rel=0.1)
    assert loss.seen
    assert len(loss.by_seed) == 3


def test_seeds_that_disagree_in_sign_say_nothing():
    found = {seed: dict(metrics) for seed, metrics in world(EVERY_PIECE).items()}
    name = loss_name(EVERY_PIECE["no_tv"][0], "no_tv")
    found[0][name], found[1][name], found[2][name] = exact(0.9, 9, "s"), exact(0.9, 9, "s"), exact(-0.001, 9, "s")
    loss = losses_over_seeds(found)["no_tv"][EVERY_PIECE["no_tv"][0]]
    assert loss.value > 0
    assert not loss.seen


def test_one_seed_alone_says_nothing_and_neither_do_figures_that_are_all_the_same():
    assert over_seeds(world(EVERY_PIECE, seeds=1)) == {}
    flat = {s: {name: exact(0.0, 400, "scenes") for name in of} for s, of in world({}).items()}
    estimates = over_seeds(flat)
    assert not any(name.startswith("loss_without") for name in estimates)
    assert all(math.isnan(loss.low) for losses in losses_over_seeds(flat).values() for loss in losses.values())


def test_where_training_makes_no_difference_sentences_still_say_how_sure_one_is():
    found = {s: {n: exact(0.0, 400, "scenes") for n in of} for s, of in world({}).items()}
    for metrics in found.values():
        metrics[loss_name("recall_at_1", "no_tv")] = Estimate(0.01, -0.02, 0.04, 400, "scenes")
    assert not losses_over_seeds(found)["no_tv"]["recall_at_1"].seen


# --- the tables of all seeds --------------------------------------------------------------------------------------


def written(root: Path, found: World, value: Callable[[int, str, str], float]) -> list[str]:
    """The tables of this world's evidence, line by line; every interval over sentences is 0.02 wide."""
    for seed, metrics in found.items():
        folder = root / f"seed-{seed}"
        (folder / "ablations").mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({n: e.to_json() for n, e in metrics.items()}))
        rows = [
            f"{name},full,{metric},{x:.6g},{x - 0.01:.6g},{x + 0.01:.6g},400,,,"
            for name in VARIANTS
            for metric in (*TARGETS, *SHOWN)
            for x in [value(seed, name, metric)]
        ]
        rows += [f"{name},full,{figure},{3e9 + seed},,,,,," for name in VARIANTS for figure in COSTS]
        (folder / "ablations/tables.csv").write_text("\n".join([",".join(COLUMNS), *rows]))
    return ablation_tables.tables(sorted(root.iterdir())).splitlines()


COSTS = ("gigabytes_resident_at_most", "trained_a_second")


def column(lines: list[str], title: str) -> dict[str, str]:
    """Variant -> cell, of the first table that has a column of this title."""
    headers = [i - 1 for i, line in enumerate(lines) if line.startswith("|---")]
    start = next(i for i in headers if f"| {title} |" in lines[i])
    place = [cell.strip() for cell in lines[start].split("|")].index(title)
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    return {cells[1].strip(" `"): cells[place].strip() for cells in (row.split("|") for row in rows)}


def test_the_tables_of_all_seeds_mark_what_is_lost_beyond_noise(tmp_path: Path):
    planted_in = EVERY_PIECE | SEEN | {"no_kurtosis": ("", 0.0), "size_48": ("graph_f1", -0.4)}
    lines = written(tmp_path, world(planted_in), lambda seed, *_: 0.5 + seed / 10)
    surest = column(lines, "matters")
    assert (surest["no_tv"], surest["no_kurtosis"]) == ("yes", "not shown")
    assert EVERY_PIECE["no_tv"][0].replace("_", " ") == column(lines, "loses most surely")["no_tv"]
    assert {"again", "anew", "mute"}.isdisjoint(surest)
    cells = column(lines, "graph f1")
    assert cells["full"].split("; ")[0] == "0.600 [0.352, 0.848]", "Student's of three seeds, 0.1 apart"
    worse = {name for name, cell in cells.items() if cell.endswith("▼")}
    assert worse == {name for name, (target, _) in planted_in.items() if target == "graph_f1"} - {"size_48"}
    assert {name for name, cell in cells.items() if cell.endswith("▲")} == {"size_48"}


def test_a_cell_has_its_figure_and_its_loss_each_with_an_interval(tmp_path: Path):
    lines = written(tmp_path, world({"no_tv": ("told_apart_colour", 0.3)}), lambda *_: 0.5)
    lost = losses_over_seeds(world({"no_tv": ("told_apart_colour", 0.3)}), SHOWN)["no_tv"]["told_apart_colour"]
    cell = column(lines, "told apart colour")["no_tv"]
    value, loss = cell.split("; lost ")
    assert value == "0.500 [0.490, 0.510]", "no narrower than over sentences, where trainings do not differ"
    mean, low, high = (float(x) for x in re.findall(r"[+-]\d\.\d+", loss))
    assert (mean, low, high) == pytest.approx([x * lost.noise for x in (lost.value, lost.low, lost.high)], abs=5e-4)
    assert 0 < low < mean < high
    assert mean == pytest.approx(0.3, abs=0.05)
    for figure in COSTS:
        assert column(lines, figure.replace("_", " "))["full"] == "3e+09"


def test_whether_looking_like_a_picture_helps_is_answered_by_the_gap_and_by_what_comes_back(tmp_path: Path):
    def answers(name: str, gap: float, exact_lost: float) -> dict[str, str]:
        found = {seed: dict(metrics) for seed, metrics in world({"no_image": ("generalisation_gap", gap)}).items()}
        for seed, metrics in found.items():
            metrics[loss_name("scene_exact", "no_image")] = exact(exact_lost + seed / 1000, 400, "scenes")
        return column(written(tmp_path / name, found, lambda *_: 0.5), "looking like a picture")

    assert answers("helps", 0.3, 0.3) == {"full": "", "no_image": "helps"} | dict.fromkeys(OTHERS, "not shown")
    assert answers("costs", -0.3, -0.2)["no_image"] == "costs"
    for name, gap, lost in (("barely_helps", 0.3, 0.005), ("barely_costs", -0.3, -0.005)):
        assert answers(name, gap, lost)["no_image"] == "not shown", "no more than another training would give"
    assert answers("reads_nothing", -0.3, 0.5)["no_image"] == "not shown", "what reads nothing back has no gap either"
    assert answers("nothing", 0.0, 0.0)["no_image"] == "not shown"


OTHERS = ("noise_grid", "plain_vector")


def test_no_evidence_is_answered_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert ablation_tables.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == "wanted the evidence of two seeds or more, given 0\n"


# --- one arm ------------------------------------------------------------------------------------------------------

FEW = Measured(decide=1, pools=1, pool_size=500, per_edit=4, held_out=40, sentences=16)


def test_a_planted_codec_is_measured_as_it_is_made():
    codec = planted(PlantedModel, SOURCE.tokenizer)
    held_out = SOURCE.held_out(40)
    arm = measure_arm(codec, held_out, 1, FEW, RoundTrip(tie=0.01), picture=True, seed=0)
    mean = {name: float(np.mean(values)) for name, values in arm.values.items()}
    for name in ("recall_at_1", "recall_at_1_under_shift", "told_apart_swaps", "scene_exact", "scene_exact_seen"):
        assert mean[name] == 1.0, name
    assert mean["graph_f1"] == 1.0
    assert mean["generalisation_gap"] == 0.0
    assert mean["round_trip_cosine_of_all_samples"] == pytest.approx(1.0)
    assert mean["rouge_l"] <= mean["rouge_l_of_all_samples"] < 0.8, "the choice is of the least alike"
    assert mean["recall_at_1_shuffled"] == mean["scene_exact_swapped"] == mean["copy_rate"] == 0.0
    assert set(TARGETS) <= set(arm.values)
    assert len(arm.values["told_apart_swaps"]) == 2 * FEW.per_edit
    assert len(arm.slopes) == 40 * 6
    assert np.array(arm.correlation).shape == (6, 6)
    assert arm.figures["bytes_of_a_latent"] == 4 * 6 * 32 * 32
    assert json.loads(json.dumps(arm._asdict())) == arm._asdict()


class OfTraining(PlantedModel):
    """Reads back what has a combination of training, and of nothing else the scene."""

    def generate(self, memory_BMD, bias_BM, start, **words):  # type: ignore[no-untyped-def]
        said = super().generate(memory_BMD, bias_BM, start, **words)
        texts = self.tokenizer.decode(self.read(memory_BMD, bias_BM).numpy())
        unseen_B = torch.tensor([(s := meaning_of(text)) is not None and split_of(s) == "heldout" for text in texts])
        return said._replace(tokens_BT=said.tokens_BT.masked_fill(unseen_B[:, None], 0))


def test_the_gap_is_what_held_out_combinations_lose_against_seen_ones():
    found = []
    for kind in (PlantedModel, OfTraining):
        arm = measure_arm(
            planted(kind, SOURCE.tokenizer), SOURCE.held_out(40), 1, FEW, RoundTrip(), picture=False, seed=0
        )
        found.append(arm.values)
    assert np.mean(found[1]["generalisation_gap"]) == 1.0 == np.mean(found[1]["scene_exact_seen"])
    assert np.mean(found[1]["scene_exact"]) == 0.0
    lost = losses_within(found[1], found[0])["generalisation_gap"]
    assert (lost.value, lost.n) == (1.0, FEW.sentences)


def test_the_share_of_copied_words_is_of_words_that_end_a_run_of_the_sentence():
    sentence = "a red ball is on the blue block"
    assert copied_share(sentence, sentence, 4) == 5 / 8
    assert copied_share(sentence, "the blue block is under a red ball", 4) == 0.0
    assert copied_share(sentence, "so a red ball is there", 4) == 1 / 6
    assert copied_share(sentence, "", 4) == copied_share("", sentence, 4) == 0.0


@pytest.mark.skipif(sys.platform != "linux" or torch.cuda.is_available(), reason="resident memory, as Linux counts it")
def test_the_peak_of_an_arm_is_not_that_of_the_one_before():
    large = np.ones(50_000_000)  # 0.4 GB
    before = ablation_memory.peak()["gigabytes_resident_at_most"]
    del large
    if not ablation_memory.forget_peak():
        pytest.skip("this machine does not let a process forget its peak")
    after = ablation_memory.peak()["gigabytes_resident_at_most"]
    assert after < before - 0.3
    small = np.ones(20_000_000)
    assert ablation_memory.peak()["gigabytes_resident_at_most"] == pytest.approx(after + small.nbytes / 1e9, abs=0.03)


@pytest.mark.skipif(torch.cuda.is_available(), reason="then torch counts")
@pytest.mark.parametrize("kind", [TypeError, OSError, AttributeError])
def test_where_no_library_can_be_asked_nothing_is_watched(kind: type[Exception], monkeypatch: pytest.MonkeyPatch):
    """Windows opens no library of no name: TypeError."""

    def refuse(name: None) -> None:
        raise kind

    monkeypatch.setattr(ablation_memory.ctypes, "CDLL", refuse)
    assert not ablation_memory.forget_peak()


def test_a_vector_is_not_asked_for_what_only_pictures_have():
    codec = planted(PlantedModel, SOURCE.tokenizer)
    arm = measure_arm(codec, SOURCE.held_out(40), 1, FEW, RoundTrip(), picture=False, seed=0)
    assert set(TARGETS) - set(arm.values) == {
        "recall_at_1_under_shift",
        "channel_correlation",
        "amplitude",
        *(name for name in TARGETS if name.endswith("_in_photo_band")),
    }
    assert arm.slopes == []


def test_a_shift_is_by_two_pixels_both_ways_in_all_four_directions():
    latent = torch.zeros(64, 1, 32, 32)
    latent[:, :, 16, 16] = 1
    moved = ablation_arm._shifted(latent).nonzero()[:, 2:] - 16
    assert {tuple(place) for place in moved.tolist()} == {(2, 2), (2, -2), (-2, 2), (-2, -2)}


def test_of_a_larger_latent_the_middle_is_measured():
    latent = torch.randn(40, 8, 48, 48, generator=torch.Generator().manual_seed(0))
    latent[:, :, 8:40, 8:40] = fields.power_law(2.5, 320, generator=torch.Generator().manual_seed(0)).view(
        40, 8, 32, 32
    )
    values, slopes, correlation = ablation_arm._picture(latent)
    assert np.mean(slopes) == pytest.approx(2.5, abs=0.1)
    assert np.mean(values["amplitude"]) == pytest.approx(1.0, abs=0.01)
    assert len(values["channel_correlation"]) == 2  # groups of 16; the rest is left out
    assert len(correlation) == 8
    assert float(stats.spectral_slope(latent).mean()) < 2


def test_a_variant_is_held_against_the_one_that_it_names():
    arms = {name: Arm({"recall_at_1": [share] * 40}, [], [], {}) for name, share in RECALLS.items()}
    found = {name: round(losses["recall_at_1"].value, 6) for name, losses in ablations.compared(arms).items()}
    assert found == {"light_head": 0.3, "grid_head": 0.4, "no_tv": 0.1}


RECALLS = {"full": 0.9, "light_head": 0.6, "grid_head": 0.2, "no_tv": 0.8}


# --- a run --------------------------------------------------------------------------------------------------------


def start(root: Path, *overrides: str) -> RunDir:
    wish = Request(preset=SMOKE, device="cpu", root=root)
    run_study(STUDY, [STUDY.phase("P0")], wish, lambda _: None, lambda _: None)
    wish = dataclasses.replace(wish, overrides=overrides)
    (run,) = run_study(STUDY, [STUDY.phase("P7")], wish, lambda _: None, lambda _: None)
    return run


FEWER = "variants=[full,again,anew,mute,noise_grid]"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return start(tmp_path_factory.mktemp("whole"), FEWER)


def without_times(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    return {key: value for key, value in content.items() if key != "figures"}


def test_a_run_compares_every_variant_with_the_whole(whole: RunDir):
    metrics = whole.read_json(RunDir.METRICS)
    assert {loss_name(target, name) for target in TARGETS for name in ("again", "mute", "noise_grid")} <= set(metrics)
    assert set(TARGETS) <= set(metrics)
    rows = list(csv.DictReader((whole.path / "ablations/tables.csv").read_text().splitlines()))
    assert {row["variant"] for row in rows} == {"full", "again", "anew", "mute", "noise_grid"}
    row = next(r for r in rows if (r["variant"], r["metric"]) == ("noise_grid", "rouge_l"))
    assert float(row["loss"]) == pytest.approx(metrics["loss_of_rouge_l_in_noise_grid"]["value"], abs=1e-5)
    told = next(r for r in rows if (r["variant"], r["metric"]) == ("again", "told_apart_colour"))
    assert float(told["low"]) <= float(told["value"]) <= float(told["high"])
    assert float(told["loss_low"]) <= float(told["loss"]) <= float(told["loss_high"])
    costs = {row["metric"] for row in rows if row["variant"] == "anew" and not row["low"]}
    assert {"parameters", "seconds_a_step", "trained_a_second", "encoded_a_second", "decoded_a_second"} <= costs
    assert not list(whole.path.rglob("checkpoints/*"))


def test_what_begins_alike_is_trained_once_and_another_training_is_another(whole: RunDir):
    assert (
        len(list((whole.path / "begun").iterdir())) == 3
    )  # of five arms: anew and mute have their own, the others share theirs
    slopes = [without_times(whole.path / f"arms/{name}/measured.json")["slopes"] for name in ("full", "again", "anew")]
    assert slopes[0] != slopes[1] != slopes[2] != slopes[0]


def test_finished_arms_are_kept_and_the_rest_comes_out_the_same(
    whole: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trained: list[str] = []
    true_train = ablation_arm._train

    def stopping(context: Any, *given: Any) -> Any:
        trained.append(context.run.path.name)
        if len(trained) == 2:
            raise TrainingInterrupted("asked to stop")
        return true_train(context, *given)

    monkeypatch.setattr(ablation_arm, "_train", stopping)
    with pytest.raises(TrainingInterrupted, match=r"stopped within arms/noise_grid.*inscape resume .*/P7/smoke/[^/]+$"):
        start(tmp_path, "variants=[full,noise_grid]")
    (run,) = [RunDir(path) for path in (tmp_path / "visual/P7/smoke").iterdir()]
    kept = (run.path / "arms/full/measured.json").stat().st_mtime_ns
    resume(STUDY, run, lambda _: None)
    assert trained == ["full", "noise_grid", "noise_grid"]
    assert (run.path / "arms/full/measured.json").stat().st_mtime_ns == kept
    for name in ("full", "noise_grid"):
        path = f"arms/{name}/measured.json"
        assert without_times(run.path / path) == without_times(whole.path / path)


def test_a_text_file_is_not_asked():
    skip = ablations.PHASE.skip
    assert skip is not None
    assert "grammar" in skip(Config(data=DataConfig(text="own.txt")))
    assert skip(Config()) == ""
