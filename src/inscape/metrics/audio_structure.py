"""The numbers of one lag, as rows condition x slice x split: what the report shows and the gate decides on.

`measure` runs all passes over one shard; with several shards the passes of `structure_passes` are called one by one
and `rows_of` reads what they merge to. No threshold stands here.

Legend: K clusters, S schemes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from inscape.core.estimate import Estimate
from inscape.metrics.clustering import (
    ClusterDiagnostics,
    EntropyReduction,
    PairSpread,
    SpeakerSpread,
    adjusted_interval,
    cluster_diagnostics,
    degradation,
    entropy_reduction,
    held_out_interval,
    permutation_p,
    permuted_moments,
    ratio_with_means,
    speaker_spread,
    variance_ratio,
)
from inscape.metrics.structure_passes import (
    CONFIDENCE_SUMS,
    CONTROL_SUMS,
    SCHEME_SUMS,
    MeasureConfig,
    Plan,
    Terms,
    Totals,
    assign_utterances,
    merge_terms,
    pair_spread,
    plan_measurement,
    speaker_terms,
    sum_targets,
)
from inscape.stats.conditioning import Conditioning
from inscape.stats.context_windows import ATOMS, EVAL, SLICES, TRAIN, Utterances
from inscape.stats.sufficient import ClusterSums, SliceSums

__all__ = ["CONTROL_SUFFIX", "ConfidencePoint", "Measured", "Row", "measure", "rows_of"]

CONTROL_SUFFIX = "_control"


class Row(NamedTuple):
    """One condition on one slice of one split, at one lag. NaN where a number does not exist."""

    condition: str  # the scheme, or the scheme + "_control" for its permuted numbers
    lag: int
    slice: str
    split: str
    n: int
    clusters: int  # effective ones that occur
    excluded: float  # share of the eligible frames of this set in clusters that are not effective
    vr: float
    vr_adjusted: Estimate  # interval over speakers; controls have none
    vr_train_means: Estimate
    p_value: float  # permutation, frames exchanged
    permuted_std: float  # standard deviation of vr over all permutations; NaN where nothing can be permuted
    entropy: EntropyReduction
    speakers: SpeakerSpread  # of the raw ratio, each speaker with its own means
    speakers_adjusted: SpeakerSpread


class ConfidencePoint(NamedTuple):
    """The ratio where only the share of frames nearest to their centroid is kept, with means of what is kept."""

    condition: str
    lag: int
    split: str
    share: float
    n: int
    vr: float
    vr_adjusted: float


class Measured(NamedTuple):
    """Everything measured at one lag."""

    rows: list[Row]
    confidence: list[ConfidencePoint]
    diagnostics: dict[str, ClusterDiagnostics]  # scheme -> TRAIN, slice all; cluster numbers are the scheme's own
    effective: dict[str, int]  # scheme -> clusters with enough TRAIN samples
    degradation: dict[tuple[str, str], float]  # (condition, slice) -> (VR_eval - VR_train) / VR_train
    exact: bool  # False where targets were so far out that sums rounded, and their last digits depend on the sharding


def measure(
    utterances: Utterances, conditioning: Conditioning, threshold: float, config: MeasureConfig | None = None
) -> Measured:
    """All numbers of one lag, in three passes over `utterances`, which must come speaker by speaker.

    `threshold` is `Survey.energy_threshold`. ValueError if there are no TRAIN utterances or a speaker comes in two
    places.
    """
    plan = plan_measurement(assign_utterances(utterances, conditioning), conditioning, threshold, config)
    totals = sum_targets(utterances, plan)
    return rows_of(plan, totals, [speaker_terms(utterances, plan, totals)])


def rows_of(plan: Plan, totals: Totals, terms: Sequence[Terms]) -> Measured:
    """The numbers of one lag from the merged sums of all shards and every shard's speaker terms."""
    schemes, lag = plan.conditioning.config.schemes, plan.conditioning.lag
    splits = sorted(plan.label_SN, key=lambda split: (split != TRAIN, split))
    spread = {split: pair_spread(totals, split) for split in splits if split in totals.spread}
    rows, curve, diagnostics = [], [], {}
    for scheme, name in enumerate(schemes):
        for suffix, kind in (("", SCHEME_SUMS), (CONTROL_SUFFIX, CONTROL_SUMS)):
            for slice_ in SLICES:
                train = _of(totals, kind, scheme, TRAIN, slice_)
                rows += [
                    _row(plan, totals, terms, spread[split], (kind, scheme, split), slice_, train, name + suffix)
                    for split in splits
                    if split in spread
                ]
        for split in splits:
            sums = totals.sums.get((CONFIDENCE_SUMS, scheme, split))
            if sums is not None:
                curve += _confidence(sums, plan.config.shares, (name, lag, split))
        found = cluster_diagnostics(_of(totals, SCHEME_SUMS, scheme, TRAIN, "all"))
        diagnostics[name] = found._replace(cluster_K=plan.effective[scheme][found.cluster_K])
    effective = {name: len(kept) for name, kept in zip(schemes, plan.effective, strict=True)}
    ratio = {(row.condition, row.slice, row.split): row.vr for row in rows}
    worse = {
        (condition, slice_): degradation(ratio[condition, slice_, TRAIN], vr)
        for (condition, slice_, split), vr in ratio.items()
        if split == EVAL
    }
    return Measured(rows, curve, diagnostics, effective, worse, all(sums.exact for sums in totals.sums.values()))


def _of(totals: Totals, kind: str, scheme: int, split: str, slice_: str) -> SliceSums:
    """The sums of one set; of a split without eligible frames they are empty."""
    sums = totals.sums.get((kind, scheme, split))
    if sums is None:
        width = next(iter(totals.sums.values())).dimension
        sums = ClusterSums(1, ATOMS, width, squares=kind == SCHEME_SUMS)
    return sums.of_parts(SLICES[slice_])


def _row(
    plan: Plan,
    totals: Totals,
    terms: Sequence[Terms],
    spread: PairSpread,
    key: tuple[str, int, str],
    slice_: str,
    train: SliceSums,
    condition: str,
) -> Row:
    kind, scheme, split = key
    sums, config = _of(totals, kind, scheme, split, slice_), plan.config
    ratio = variance_ratio(sums)
    eligible = int(totals.eligible[split][list(SLICES[slice_])].sum())
    with_train = ratio_with_means(sums, train)
    adjusted, held_out, own = _point(ratio.adjusted), _point(with_train), []
    if kind == SCHEME_SUMS:
        mine = merge_terms(terms, (scheme, slice_, split))
        numbers = {"seed": config.seed, "resamples": config.resamples}
        adjusted = adjusted_interval(ratio.adjusted, mine, ratio.clusters, **numbers)
        held_out = held_out_interval(with_train, mine, **numbers)
        own = [x for x in totals.own if (x.scheme, x.slice, x.split) == (scheme, slice_, split)]
    return Row(
        condition,
        plan.conditioning.lag,
        slice_,
        split,
        ratio.n,
        ratio.clusters,
        1 - ratio.n / eligible if eligible else math.nan,
        ratio.raw,
        adjusted,
        held_out,
        permutation_p(sums, spread),
        permuted_moments(sums, spread).std,
        entropy_reduction(sums),
        speaker_spread(np.array([x.raw for x in own])),
        speaker_spread(np.array([x.adjusted for x in own])),
    )


def _point(value: float) -> Estimate:
    """A number whose interval was not measured."""
    return Estimate(value, math.nan, math.nan, 0, "speakers")


def _confidence(sums: ClusterSums, shares: tuple[float, ...], name: tuple[str, int, str]) -> list[ConfidencePoint]:
    ratios = [variance_ratio(sums.of_parts(range(last + 1))) for last in range(len(shares))]
    return [
        ConfidencePoint(*name, share, ratio.n, ratio.raw, ratio.adjusted)
        for share, ratio in zip(shares, ratios, strict=True)
    ]
