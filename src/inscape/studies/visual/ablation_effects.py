"""What a variant loses beside the full recipe: within one seed, and over all of them.

Within a seed the same held-out sentences are compared, so the interval says what other sentences would give. It is
blind to what another training would give, which is more. Over seeds trainings are counted, against one of two noises.
Variants that share their first steps with the full recipe: their differences, and those of the full recipe trained
again from there, are taken apart into variant, seed and the rest, and the rest is the noise (Fisher's two-way layout).
Variants that share nothing: the spread of the full recipe from different first weights. A loss must stand out of its
noise with Bonferroni over all targets, and have the same sign with every seed.

Of what is chosen among k samples the choice does much of the work of a training with the round trip or against copies,
so all k count as well. Whether looking like a picture helps compositional generalisation is the gap's to say: scene
exactness where the combinations were trained on, less that where they never were.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from inscape.core.estimate import Estimate, exact
from inscape.data.scenes import EDITS
from inscape.metrics.kept_share import mean_difference
from inscape.stats.beta_tail import student_quantile
from inscape.studies.visual.ablation_variants import CORE, VARIANTS

__all__ = [
    "AGAIN",
    "ANEW",
    "MUTE",
    "SHOWN",
    "TARGETS",
    "Loss",
    "largest_losses",
    "loss_name",
    "losses_over_seeds",
    "losses_within",
    "over_seeds",
    "without",
]

# The target metrics, fixed before any was measured: 1 where more is better, -1 where less is.
TARGETS: Mapping[str, int] = {
    "recall_at_1": 1,  # paraphrases among every one-edit counterfactual
    "recall_at_1_under_shift": 1,  # the same, V of the query shifted by 2 pixels
    "told_apart_swaps": 1,  # arguments and attributes swapped
    "scene_exact": 1,  # read back from V alone, held-out combinations
    "graph_f1": 1,  # of the paraphrase
    "rouge_l": -1,
    "round_trip_cosine": 1,
    "rouge_l_of_all_samples": -1,  # of all k, before one is chosen
    "copied_runs_of_all_samples": -1,
    "round_trip_cosine_of_all_samples": 1,
    "spectral_slope_in_photo_band": 1,
    "total_variation_in_photo_band": 1,
    "haar_sparsity_in_photo_band": 1,
    "gradient_kurtosis_in_photo_band": 1,
    "channel_correlation": -1,
    "amplitude": 1,
}
SEMANTIC = ("scene_exact", "graph_f1")  # what nothing but decoding gives: R@1 and swaps are contrast's as well
PICTURED = tuple(name for name in TARGETS if name.endswith("_in_photo_band"))
# What is compared beside them and decides nothing. The gap also widens where more of what was trained on comes back.
SHOWN: Mapping[str, int] = {
    "generalisation_gap": -1,  # scene exactness of seen combinations less that of held-out ones
    **dict.fromkeys(("recall_at_5", "scene_exact_seen", "sentence_exact"), 1),
    **{f"told_apart_{edit}": 1 for edit in EDITS},
}
CONFIDENCE = 0.95  # for all targets of a variant together
AGAIN, ANEW, MUTE, NOISE_GRID = "again", "anew", "mute", "noise_grid"
INTERVAL = 2 * 1.96  # width of a 95 % interval, in standard errors


class Loss(NamedTuple):
    """How much worse a variant is in one target, over seeds."""

    target: str
    by_seed: tuple[float, ...]  # in the target's units; above 0 is worse
    value: float  # mean over seeds, in standard deviations of training noise
    low: float
    high: float
    noise: float  # that standard deviation, in the target's units

    @property
    def seen(self) -> bool:
        """Whether it stands out, with every seed."""
        return self.low > 0

    @property
    def gain_seen(self) -> bool:
        """Whether the variant is better instead."""
        return self.high < 0


def loss_name(target: str, variant: str) -> str:
    """The metric's name for what a variant loses of a target."""
    return f"loss_of_{target}_in_{variant}"


def losses_within(
    values: Mapping[str, Sequence[float]], reference: Mapping[str, Sequence[float]], *, unit: str = "scenes"
) -> dict[str, Estimate]:
    """Of each target, and of what is shown, what `values` lose beside `reference`, sentence for sentence; above 0 is
    worse."""
    return {
        target: mean_difference([sign * x for x in reference[target]], [sign * x for x in values[target]], unit=unit)
        for target, sign in {**TARGETS, **SHOWN}.items()
        if target in values and target in reference
    }


def losses_over_seeds(
    metrics: Mapping[int, Mapping[str, Estimate]], targets: Mapping[str, int] = TARGETS
) -> dict[str, dict[str, Loss]]:
    """Variant -> target -> loss, of what every seed has measured; `metrics` are those of each seed's run."""
    seeds = sorted(metrics)
    found: dict[str, dict[str, Loss]] = {}
    for target, sign in targets.items():
        rows = {variant: _row(metrics, loss_name(target, variant)) for variant in VARIANTS}
        rows = {variant: row for variant, row in rows.items() if len(row) == len(seeds)}
        whole = _row(metrics, target)
        noises = {
            False: _noise_of_the_rest([rows[v] for v in (*CORE, AGAIN) if v in rows and not VARIANTS[v].alone]),
            True: _noise_of_trainings(sign, whole, rows.get(ANEW, [])) if len(whole) == len(seeds) else None,
        }
        for variant, row in rows.items():
            noise = noises[VARIANTS[variant].alone]
            if noise is not None:
                found.setdefault(variant, {})[target] = _loss(target, row, noise)
    return found


class _Noise(NamedTuple):
    """Standard deviation of one training's result, and its degrees of freedom."""

    size: float
    freedom: int


def _row(metrics: Mapping[int, Mapping[str, Estimate]], name: str) -> list[Estimate]:
    """What was measured under this name, seed by seed."""
    found = [metrics[seed].get(name) for seed in sorted(metrics)]
    return [estimate for estimate in found if estimate is not None and estimate.measured]


def _noise_of_the_rest(rows: Sequence[Sequence[Estimate]]) -> _Noise | None:
    """What variant and seed leave unexplained.

    The full recipe is a row of zeros: what all variants of a seed share, its result included, is the seed's.
    """
    if not rows or len(rows[0]) < 2:
        return None
    loss_VS = np.array([[estimate.value for estimate in row] for row in rows])
    rows_VS = np.vstack((np.zeros(loss_VS.shape[1]), loss_VS))
    rest_VS = rows_VS - rows_VS.mean(1, keepdims=True) - rows_VS.mean(0) + rows_VS.mean()
    freedom = (len(rows_VS) - 1) * (rows_VS.shape[1] - 1)
    return _Noise(math.sqrt(float((rest_VS**2).sum()) / freedom), freedom)


def _noise_of_trainings(sign: int, whole: Sequence[Estimate], anew: Sequence[Estimate]) -> _Noise | None:
    """The spread of trainings of the full recipe that share nothing: of every seed, and anew of every seed."""
    first = [sign * estimate.value for estimate in whole]
    other = [value - lost.value for value, lost in zip(first, anew, strict=False)]
    results = np.array(first + other)
    return _Noise(float(results.std(ddof=1)), len(results) - 1) if len(results) > 2 else None


def _loss(target: str, row: Sequence[Estimate], noise: _Noise) -> Loss:
    """Where no training differs at all, as at 1.00 for all, the sentences still say how sure a difference is."""
    threshold = student_quantile(1 - (1 - CONFIDENCE) / len(TARGETS), noise.freedom)
    by_seed = tuple(e.value for e in row)
    of_sentences = [(e.high - e.low) / INTERVAL for e in row]
    error = math.sqrt(max(2 * noise.size**2, float(np.mean(np.square(of_sentences)))) / len(row))
    unit = error * math.sqrt(len(row) / 2)
    if unit < 1e-12:
        return Loss(target, by_seed, math.nan, math.nan, math.nan, unit)
    mean, half = float(np.mean(by_seed)) / unit, threshold * error / unit
    # Seeds that disagree in sign say nothing, however far one of them is out.
    low = mean - half if min(by_seed) > 0 else min(mean - half, -half)
    high = mean + half if max(by_seed) < 0 else max(mean + half, half)
    return Loss(target, by_seed, mean, min(low, mean), max(high, mean), unit)


def largest_losses(found: Mapping[str, Mapping[str, Loss]]) -> dict[str, Loss]:
    """Of each variant the target in which it loses most surely."""
    largest: dict[str, Loss] = {}
    for variant, losses in found.items():
        measured = [loss for loss in losses.values() if math.isfinite(loss.low)]
        if measured:
            largest[variant] = max(measured, key=lambda loss: (loss.low, loss.value))
    return largest


def over_seeds(metrics: Mapping[int, Mapping[str, Estimate]]) -> dict[str, Estimate]:
    """What the gate over seeds is asked: the surest loss without each core piece, and the controls."""
    found = losses_over_seeds(metrics)
    estimates = {
        without(variant): Estimate(loss.value, loss.low, loss.high, len(metrics), "seeds")
        for variant, loss in largest_losses(found).items()
        if variant in CORE
    }
    if AGAIN in found:
        seen = sum(loss.seen or loss.gain_seen for loss in found[AGAIN].values())
        estimates[f"targets_lost_in_{AGAIN}"] = exact(seen, len(metrics), "seeds")
    for variant, kind, targets in ((NOISE_GRID, "picture", PICTURED), (MUTE, "semantic", SEMANTIC)):
        if variant in found:
            seen = sum(loss.seen for target, loss in found[variant].items() if target in targets)
            estimates[f"{kind}_targets_lost_in_{variant}"] = exact(seen, len(metrics), "seeds")
    return estimates


def without(variant: str) -> str:
    """The gate's name for the surest loss of a core variant: loss_without_tv."""
    return f"loss_without_{variant.removeprefix('no_')}"
