"""What P7 takes away, puts in another's place, or trains once more: one line of the plan, one variant.

A variant changes one thing in the recipe that all share; everything else, data and number of steps included, is equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from inscape.nn.jitter import JitterConfig
from inscape.nn.latent_codec import LatentCodecConfig
from inscape.nn.latent_encoder import LatentEncoderConfig
from inscape.optimization import FitConfig
from inscape.stats.photographs import SIDE
from inscape.studies.visual.beginning import Beginning
from inscape.studies.visual.codec_training import Training
from inscape.studies.visual.losses import WHITE_NOISE, calibrated_terms
from inscape.studies.visual.objective import ImagePrior
from inscape.studies.visual.roundtrip_terms import RoundTrip

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CORE", "REFERENCE", "VARIANTS", "Recipe", "Variant", "noise_prior", "prior_on_crops"]


class Recipe(NamedTuple):
    """One whole training, from fresh weights."""

    encoder: LatentEncoderConfig
    codec: LatentCodecConfig
    beginning: Beginning
    training: Training  # everything together
    tail: FitConfig  # then the same with the round trip and copies made unlikely
    round_trip: RoundTrip
    prior: ImagePrior = calibrated_terms


class Variant(NamedTuple):
    """What it is in words, what it changes, and the variant that it is held against."""

    words: str
    change: Callable[[Recipe], Recipe]
    beside: str = "full"
    alone: bool = False  # whether it shares no step with `beside`, not even those past the picture
    seed: int = 0  # added to the run's; of the steps past the picture only where it is alone
    picture: bool = True  # whether V has neighbours, so that it can be shifted and has image statistics


def _objective(**changes: Any) -> Callable[[Recipe], Recipe]:
    def change(recipe: Recipe) -> Recipe:
        objective = replace(recipe.training.objective, **changes)
        return recipe._replace(training=replace(recipe.training, objective=objective))

    return change


def _without_prior(term: str) -> Callable[[Recipe], Recipe]:
    def change(recipe: Recipe) -> Recipe:
        return _objective(prior=replace(recipe.training.objective.prior, **{term: 0.0}))(recipe)

    return change


def _round_trip(**changes: Any) -> Callable[[Recipe], Recipe]:
    return lambda recipe: recipe._replace(round_trip=replace(recipe.round_trip, **changes))


STILL = JitterConfig(shift_probability=0.0, blur_probability=0.0, cutout_probability=0.0)


def _head(head: str) -> Callable[[Recipe], Recipe]:
    """Another head, and everything trained together from the first step: only the light head can begin otherwise.

    A step past the picture, or of the picture alone, costs half of one of everything, and counts so.
    """

    def change(recipe: Recipe) -> Recipe:
        beginning, fit = recipe.beginning, recipe.training.fit
        steps = fit.steps + (beginning.past + beginning.picture) // 2
        return recipe._replace(
            encoder=replace(recipe.encoder, head=head),
            beginning=replace(beginning, past=0, picture=0),
            training=replace(recipe.training, fit=replace(fit, steps=steps)),
        )

    return change


def _vector(recipe: Recipe) -> Recipe:
    """As many values, dealt out like cards: no image prior, no T, no convolution; all else is alike."""
    return _objective(image=0.0, jitter=STILL)(recipe._replace(encoder=replace(recipe.encoder, head="vector")))


def noise_prior(*given: Any, **named: Any) -> dict[str, Tensor]:
    """`calibrated_terms` with white noise as the aim."""
    return calibrated_terms(*given, **named, aim=WHITE_NOISE)


def prior_on_crops(latent_BCHW: Tensor, *given: Any, **named: Any) -> dict[str, Tensor]:
    """`calibrated_terms` of a random crop of 32 x 32: what photographs are like is known at that size only."""
    top, left = (int(torch.randint(size - SIDE + 1, ())) for size in latent_BCHW.shape[-2:])
    return calibrated_terms(latent_BCHW[..., top : top + SIDE, left : left + SIDE], *given, **named)


def _larger(recipe: Recipe) -> Recipe:
    """48 x 48 x 8, painted from and read in as many places."""
    wide = replace(recipe.encoder, H=48, W=48, C=8)
    patch = recipe.codec.patch * wide.W // recipe.encoder.W
    return recipe._replace(encoder=wide, codec=replace(recipe.codec, patch=patch), prior=prior_on_crops)


REFERENCE = "full"
PRIORS = ("spectrum", "tv", "wavelet", "kurtosis", "covariance", "variance")

VARIANTS: Mapping[str, Variant] = {
    REFERENCE: Variant("everything", lambda recipe: recipe),
    "again": Variant(
        "everything, with other batches after the steps past the picture", lambda recipe: recipe, seed=1000
    ),
    "anew": Variant("everything, from other first weights", lambda recipe: recipe, alone=True, seed=2000),
    **{f"no_{term}": Variant(f"without the prior's {term} term", _without_prior(term)) for term in PRIORS},
    "no_contrast": Variant("without InfoNCE", _objective(contrast=0.0), alone=True),
    "no_round_trip": Variant("without the loss of the round trip", _round_trip(cycle=0.0)),
    "no_copy_suppression": Variant("without the unlikelihood of copies", _round_trip(copy_suppression=0.0)),
    "no_jitter": Variant("without shifts, blur and holes of V", _objective(jitter=STILL)),
    "light_head": Variant("light head, everything together from the first step", _head("light"), alone=True),
    "grid_head": Variant(
        "grid head (the plan's: one query a pixel), likewise", _head("grid"), beside="light_head", alone=True
    ),
    "slots": Variant("six slots, likewise", _head("slots"), beside="light_head", alone=True),
    "mute": Variant(
        "nothing is decoded in training: what is read back must be lost",
        _objective(copy=0.0, target=0.0, from_z=0.0),
        alone=True,
    ),
    "no_image": Variant("without the whole image prior", _objective(image=0.0)),
    "plain_vector": Variant("a plain vector of as many values", _vector, alone=True, picture=False),
    "noise_grid": Variant("a grid held to white noise by the same prior", lambda r: r._replace(prior=noise_prior)),
    "size_48": Variant("48 x 48 x 8 instead of 32 x 32 x 6", _larger, alone=True),
}

# The plan's core pieces: dropping any of them is to make something measurably worse.
CORE = (*(f"no_{term}" for term in PRIORS), "no_contrast", "no_round_trip", "no_copy_suppression", "no_jitter")
