"""P7: which pieces of the recipe are needed, and does it help that the latent looks like a picture?

Method: one recipe (contrast, decoding, jitter, image prior, then the round trip with copies made unlikely) is trained
from fresh weights, once whole and once for each piece left out or put in another's place, on the same batches and for
as many steps (ablation, as in Meyes et al. 2019). A run is one seed; its variants are its parts, and each finished one
is kept. Differences are of the same held-out sentences, whose combinations of colour, shape and relation no training
has. What other sentences would give is the smaller part of what is uncertain: another training gives other figures. So
the plan's criterion is judged over the seeds, where trainings are counted. A piece matters if without it one of
sixteen targets, chosen beforehand, falls further than the noise of training explains at 95 % for all together, and
falls with every seed (`ablation_effects`). The controls: the whole recipe, trained again with other batches, must not
be called better or worse in any target; and a grid held to white noise must be called less of a picture, and a codec
that was never made to decode worse in what is read back, or the comparison sees nothing.

A negative result would mean that some piece can go: nothing that is measured here is worse without it.

Cost: see the presets. On one CPU core `small` takes about 85 minutes a seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from inscape.core.estimate import Estimate, bootstrap_mean
from inscape.core.gate import Criterion, Gate
from inscape.core.study import Context, Phase, Remedy
from inscape.nn.latent_codec import LatentCodecConfig
from inscape.nn.latent_encoder import LatentEncoderConfig
from inscape.optimization import FitConfig
from inscape.studies.visual.ablation_arm import Arm, measure_arm, remove_beginnings, train_arm
from inscape.studies.visual.ablation_drawing import draw_ablations, write_tables
from inscape.studies.visual.ablation_effects import loss_name, losses_within, over_seeds, without
from inscape.studies.visual.ablation_variants import CORE, REFERENCE, VARIANTS, Recipe
from inscape.studies.visual.beginning import Beginning
from inscape.studies.visual.codec_training import Training
from inscape.studies.visual.meaning import Measured
from inscape.studies.visual.model import TrainedCodec
from inscape.studies.visual.roundtrip_terms import RoundTrip
from inscape.studies.visual.sources import DataConfig, Source, check_data, open_source

__all__ = ["ACROSS_SEEDS", "GATE", "PHASE", "Config", "recipe_of"]


@dataclass(frozen=True)
class Config:
    """The recipe that all variants share, and which of them are trained."""

    variants: tuple[str, ...] = tuple(VARIANTS)  # names of `ablation_variants.VARIANTS`; `full` among them
    data: DataConfig = field(default_factory=DataConfig)
    encoder: LatentEncoderConfig = field(  # its vocab follows the tokenizer's
        default_factory=lambda: LatentEncoderConfig(head="light", unit_amplitude=True)
    )
    codec: LatentCodecConfig = field(default_factory=LatentCodecConfig)
    beginning: Beginning = field(default_factory=Beginning)
    training: Training = field(default_factory=Training)
    tail: FitConfig = field(default_factory=lambda: FitConfig(steps=5000, warmup_steps=100))  # with the round trip
    round_trip: RoundTrip = field(default_factory=RoundTrip)
    measured: Measured = field(default_factory=Measured)

    def __post_init__(self) -> None:
        unknown = [name for name in self.variants if name not in VARIANTS]
        if unknown or len(set(self.variants)) < len(self.variants):
            raise ValueError(
                f"variants={list(self.variants)} has unknown or repeated names; allowed: {', '.join(VARIANTS)}"
            )
        missing = [name for name in self.variants if VARIANTS[name].beside not in self.variants]
        if missing:
            needed = sorted({VARIANTS[name].beside for name in missing})
            raise ValueError(f"variants: {', '.join(missing)} is compared with {', '.join(needed)}; name it as well")
        if REFERENCE not in self.variants:
            raise ValueError(f"variants={list(self.variants)} lacks {REFERENCE}, which the gate looks at; name it too")


GATE = Gate(
    (
        # Of the whole recipe. The plan's criterion is ACROSS_SEEDS's: one training of each can only show that they ran.
        Criterion("recall_at_1", at_least=0.5, source="calibrated", why="what was never learned cannot be lost"),
        Criterion("scene_exact", at_least=0.5, source="calibrated", why="likewise, from V alone"),
        Criterion("graph_f1", at_least=0.5, source="calibrated", why="likewise, of the paraphrase"),
        Criterion("spectral_slope_in_photo_band", at_least=0.5, source="calibrated", why="likewise, of the picture"),
        Criterion("recall_at_1_shuffled", at_most=0.05, role="control", source="calibrated", why="another query's "
                  "paraphrase as the right answer must not be found"),
        Criterion("scene_exact_swapped", at_most=0.05, role="control", source="calibrated", why="another sentence's V "
                  "must destroy it"),
    )
)  # fmt: skip

ACROSS_SEEDS = Gate(
    (
        *(
            Criterion(without(variant), at_least=0, why="dropping any core piece measurably degrades at least one "
                      "target metric: the surest of sixteen, in standard deviations of training noise")
            for variant in CORE
        ),
        Criterion("targets_lost_in_again", at_most=0, role="control", source="calibrated", why="the same recipe, "
                  "trained once more, must not be called better or worse in any target"),
        Criterion("picture_targets_lost_in_noise_grid", at_least=1, role="control", source="calibrated", why="a grid "
                  "held to white noise leaves the photographs' bands: a comparison that does not see that sees nothing "
                  "of pictures"),
        Criterion("semantic_targets_lost_in_mute", at_least=1, role="control", source="calibrated", why="what was "
                  "never made to decode reads nothing back: one that does not see that sees nothing of meaning"),
    )
)  # fmt: skip

REMEDIES = (
    Remedy(
        ("recall_at_1", "scene_exact", "graph_f1"),
        {"training.fit.steps": lambda steps: 2 * steps},
        "ours: what was never learned cannot be lost, so train longer",
    ),
)


def recipe_of(config: Config, name: str) -> Recipe:
    """The recipe after what the variant of this name changes."""
    whole = Recipe(config.encoder, config.codec, config.beginning, config.training, config.tail, config.round_trip)
    return VARIANTS[name].change(whole)


def check(config: Config) -> None:
    """ValueError on a corpus that is not there, or sizes that a variant cannot have."""
    check_data(config.data)
    for name in config.variants:
        recipe = recipe_of(config, name)
        if recipe.encoder.H % recipe.codec.patch or recipe.encoder.W % recipe.codec.patch:
            raise ValueError(f"codec.patch={config.codec.patch} does not tile the latent of {name}; allowed: 4, 8, 16")


def train_variant(context: Context, source: Source, name: str) -> Arm:
    """One variant of this seed."""
    config: Config = context.config
    variant, recipe = VARIANTS[name], recipe_of(config, name)

    def measure(codec: TrainedCodec) -> Arm:
        return measure_arm(
            codec,
            source.held_out(config.measured.held_out),
            config.data.facts or None,
            config.measured,
            recipe.round_trip,
            picture=variant.picture,
            seed=context.seed,
        )

    seed = context.seed + variant.seed
    past_seed = seed if variant.alone else context.seed
    return train_arm(replace(context, seed=seed), source, recipe, name, measure, past_seed=past_seed)


def compared(arms: Mapping[str, Arm]) -> dict[str, dict[str, Estimate]]:
    """Variant -> target -> what it loses beside the variant that it is held against, on the same sentences."""
    return {
        name: losses_within(arm.values, arms[VARIANTS[name].beside].values)
        for name, arm in arms.items()
        if name != REFERENCE
    }


def run(context: Context) -> Mapping[str, Estimate]:
    """Train every variant, or go on where an earlier attempt stopped; then compare."""
    config: Config = context.config
    source = open_source(config.data)
    arms = {name: train_variant(context, source, name) for name in config.variants}
    remove_beginnings(context.run)
    losses = compared(arms)
    write_tables(context.run, arms, losses)
    draw_ablations(context.run, arms, losses)
    metrics = {name: bootstrap_mean(values, "scenes") for name, values in arms[REFERENCE].values.items()}
    for variant, of_targets in losses.items():
        metrics |= {loss_name(target, variant): estimate for target, estimate in of_targets.items()}
    return metrics


PHASE = Phase(
    code="P7",
    name="ablations",
    question="Which pieces of the recipe are needed, and does it help that the latent looks like a picture?",
    config=Config,
    presets=Path(__file__).with_suffix(".yaml"),
    gate=GATE,
    run=run,
    needs=("P0",),
    seeds=(0, 1, 2),
    remedies=REMEDIES,
    across_seeds=ACROSS_SEEDS,
    over_seeds=over_seeds,
    check=check,
    skip=lambda config: "it needs the scene grammar, whose parser says what is right" if config.data.text else "",
    failure_means="Some piece can go: nothing that is measured here is worse without it.",
)
