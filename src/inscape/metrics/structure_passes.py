"""The passes over a corpus that measure one lag: assign, plan, sum, and a last one for what each speaker adds.

    assignment = merge_assignments([assign_utterances(shard, conditioning) for shard in shards])
    plan = plan_measurement(assignment, conditioning, threshold)
    totals = merge_totals([sum_targets(shard, plan, start) ...]);  terms = merge_terms([speaker_terms(...)])

A shard holds whole speakers, one after the other, and `start` says how many eligible frames of each split stand in the
shards before it. Sums are exact, so any sharding gives the same bits. Memory: the sums (rows that occur x D), the
chunk, and 28 bytes a frame of labels; latents are never kept.

Legend: N eligible frames, D dimensions, S schemes, K clusters, U speakers, Q shares of confidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from inscape.metrics.clustering import PairSpread, SpeakerTerms, fixed_means, residual_square, variance_ratio
from inscape.stats.conditioning import Conditioning, permuted_ids
from inscape.stats.context_windows import ATOMS, SLICES, TRAIN, Utterances, deltas, frame_atoms
from inscape.stats.exact_sums import on_grid, power_of_two
from inscape.stats.sufficient import ClusterSums, GridTargets, SliceSums, grid_targets

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = [
    "CONFIDENCE_SUMS",
    "CONTROL_SUMS",
    "SCHEME_SUMS",
    "Assignment",
    "MeasureConfig",
    "Plan",
    "SpeakerRatio",
    "Terms",
    "Totals",
    "assign_utterances",
    "merge_assignments",
    "merge_terms",
    "merge_totals",
    "pair_spread",
    "plan_measurement",
    "speaker_terms",
    "sum_targets",
]

SCHEME_SUMS, CONTROL_SUMS, CONFIDENCE_SUMS = "scheme", "control", "confidence"
WITH_DISTANCE = 2  # the first two schemes have centroids, so a distance
CHUNK = 4096  # frames of one speaker that are summed at a time
SPREAD_FRAMES = 65536  # of each split; the spread of pairs is a shape, and a sample of this size has it to 1 %
SPREAD_STEP = 2.0**-14


@dataclass(frozen=True)
class MeasureConfig:
    """What counts as enough; the defaults are the plan's."""

    min_cluster: int = 100  # TRAIN samples of a cluster that is kept, in every split and slice
    min_speaker: int = 50  # samples of a speaker whose own ratio is reported
    seed: int = 42
    resamples: int = 1000  # of the bootstrap over speakers
    shares: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # most confident, ascending to 1


@dataclass(frozen=True)
class Assignment:
    """The number every scheme assigns to every eligible frame, by split, in the order of the utterances."""

    lag: int
    label_SN: dict[str, Int[np.ndarray, "S N"]]
    distance_SN: dict[str, Float[np.ndarray, "2 N"]]  # of the schemes with centroids


def assign_utterances(utterances: Utterances, conditioning: Conditioning) -> Assignment:
    """One pass: cluster numbers and distances of a shard."""
    labels: dict[str, list[np.ndarray]] = {}
    distances: dict[str, list[np.ndarray]] = {}
    for _, latent_TD, _, split in utterances():
        found = conditioning.assign(latent_TD)
        labels.setdefault(split, []).append(found.label_SN.astype(np.int32))
        distances.setdefault(split, []).append(found.distance_SN[:WITH_DISTANCE].astype(np.float32))
    return Assignment(
        conditioning.lag,
        {split: np.concatenate(parts, axis=1) for split, parts in labels.items()},
        {split: np.concatenate(parts, axis=1) for split, parts in distances.items()},
    )


def merge_assignments(parts: Sequence[Assignment]) -> Assignment:
    """The assignments of shards, in the order of the shards. ValueError if their lags differ."""
    if len({part.lag for part in parts}) != 1:
        raise ValueError(f"shards of one lag are wanted, given the lags {[part.lag for part in parts]}")

    def joined(tables: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        splits = dict.fromkeys(split for table in tables for split in table)
        return {split: np.concatenate([t[split] for t in tables if split in t], axis=1) for split in splits}

    return Assignment(
        parts[0].lag, joined([part.label_SN for part in parts]), joined([part.distance_SN for part in parts])
    )


@dataclass(frozen=True)
class Plan:
    """What every shard must agree on before it sums. Clusters are renumbered 0 .. K-1 over the effective ones."""

    conditioning: Conditioning
    threshold: float  # of energy
    config: MeasureConfig
    effective: tuple[Int[np.ndarray, " K"], ...]  # per scheme, the original numbers of the clusters that are kept
    label_SN: dict[str, Int[np.ndarray, "S N"]]  # -1 where the cluster is not effective
    control_SN: dict[str, Int[np.ndarray, "S N"]]
    bin_SN: dict[str, Int[np.ndarray, "2 N"]]  # which share of confidence a frame first falls into

    def frames(self, split: str) -> int:
        """Eligible frames of a split in all shards."""
        return self.label_SN[split].shape[1]


def plan_measurement(
    assignment: Assignment, conditioning: Conditioning, threshold: float, config: MeasureConfig | None = None
) -> Plan:
    """Effective clusters, the permuted control and the bins of confidence, from ALL shards' assignments."""
    config = config or MeasureConfig()
    if TRAIN not in assignment.label_SN:
        raise ValueError(f"the assignment has no {TRAIN!r} frames: effective clusters are counted on them")
    kept, renumber = [], []
    for label_N, clusters in zip(assignment.label_SN[TRAIN], conditioning.config.clusters, strict=True):
        kept.append(np.flatnonzero(np.bincount(label_N, minlength=clusters) >= config.min_cluster))
        table_K = np.full(clusters, -1, dtype=np.int32)
        table_K[kept[-1]] = np.arange(len(kept[-1]))
        renumber.append(table_K)
    seed = conditioning.config.kmeans.seed
    labels, controls, bins = {}, {}, {}
    for split, label_SN in assignment.label_SN.items():
        labels[split] = np.stack([table_K[x] for table_K, x in zip(renumber, label_SN, strict=True)])
        controls[split] = np.stack([permuted_ids(x, split, seed) for x in labels[split]])
        bins[split] = np.stack(
            [
                _confidence_bins(distance_N, label_N >= 0, config.shares)
                for distance_N, label_N in zip(assignment.distance_SN[split], labels[split], strict=False)
            ]
        )
    return Plan(conditioning, threshold, config, tuple(kept), labels, controls, bins)


def _confidence_bins(distance_N: np.ndarray, kept_N: np.ndarray, shares: tuple[float, ...]) -> np.ndarray:
    """The first share whose quantile of distance, over the frames that are kept, a frame does not exceed."""
    if not kept_N.any():
        return np.zeros(len(distance_N), dtype=np.int8)
    edge_Q = np.quantile(distance_N[kept_N], shares)
    return np.minimum(np.searchsorted(edge_Q, distance_N), len(shares) - 1).astype(np.int8)


class _Part(NamedTuple):
    """Frames of one speaker and split, next to each other in the order of the split."""

    speaker: str
    split: str
    frames: slice
    atom_N: np.ndarray
    targets: GridTargets


def _parts(utterances: Utterances, plan: Plan, start: Mapping[str, int] | None) -> Iterator[_Part]:
    """The targets of a shard, speaker by speaker. ValueError if a speaker comes back or frames do not fit the plan."""
    place = dict(start or {})
    pending: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    speaker, seen = None, set()
    windows, targets = plan.conditioning.config.windows, plan.conditioning.targets

    def flush(split: str) -> _Part:
        delta_ND, atom_N = (np.concatenate(arrays) for arrays in zip(*pending.pop(split), strict=True))
        first = place.get(split, 0)
        place[split] = first + len(atom_N)
        if place[split] > plan.frames(split):
            raise ValueError(f"more {split} frames came than were assigned: sum the same utterances, start included")
        frames = slice(first, place[split])
        return _Part(str(speaker), split, frames, atom_N, grid_targets(delta_ND, targets.mean_D, targets.std_D))

    for name, latent_TD, energy_T, split in utterances():
        if name != speaker:
            for waiting in list(pending):
                yield flush(waiting)
            if name in seen:
                raise ValueError(f"speaker {name} comes in two places: sort the utterances by speaker")
            seen.add(name)
            speaker = name
        if split not in plan.label_SN:
            raise ValueError(f"split {split!r} was not assigned; the plan knows {sorted(plan.label_SN)}")
        atom_N = frame_atoms(energy_T, plan.threshold, windows)
        pending.setdefault(split, []).append((deltas(latent_TD, windows), atom_N))
        if sum(len(atoms) for _, atoms in pending[split]) >= CHUNK:
            yield flush(split)
    for waiting in list(pending):
        yield flush(waiting)


class SpeakerRatio(NamedTuple):
    """The variance ratio inside one speaker, with the speaker's own means."""

    scheme: int
    slice: str
    split: str
    speaker: str
    n: int
    raw: float
    adjusted: float


@dataclass
class _Spread:
    """Moments of a sample of the targets of one split."""

    dimension: int
    n: int = 0
    fourth: float = 0.0  # sum ||d||^4
    sum_D: np.ndarray = field(init=False)
    cube_D: np.ndarray = field(init=False)  # sum ||d||^2 d
    scatter_DD: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.sum_D, self.cube_D = np.zeros(self.dimension), np.zeros(self.dimension)
        self.scatter_DD = np.zeros((self.dimension, self.dimension))

    def add(self, targets: GridTargets, chosen: slice) -> None:
        x_ND, norm_N = on_grid(targets.delta_ND[chosen], SPREAD_STEP), targets.norm_N[chosen]
        step = power_of_two(self.dimension) ** 2 * SPREAD_STEP**2  # ||d||^4 is about D^2
        self.n += len(x_ND)
        self.fourth += float(on_grid(norm_N * norm_N, step).sum())
        self.sum_D += x_ND.sum(axis=0)
        self.cube_D += on_grid(norm_N[:, None] * x_ND, step).sum(axis=0)
        self.scatter_DD += x_ND.T @ x_ND

    def merge(self, other: _Spread) -> None:
        self.n += other.n
        self.fourth += other.fourth
        self.sum_D += other.sum_D
        self.cube_D += other.cube_D
        self.scatter_DD += other.scatter_DD


@dataclass
class Totals:
    """The sums of one lag: by (kind, scheme, split), every eligible frame by atom, and each speaker's own ratios."""

    sums: dict[tuple[str, int, str], ClusterSums] = field(default_factory=dict)
    eligible: dict[str, Int[np.ndarray, " atoms"]] = field(default_factory=dict)
    spread: dict[str, _Spread] = field(default_factory=dict)
    own: list[SpeakerRatio] = field(default_factory=list)


def sum_targets(utterances: Utterances, plan: Plan, start: Mapping[str, int] | None = None) -> Totals:
    """One pass over a shard: the sums of every scheme, its control and its bins of confidence."""
    totals, local, speaker = Totals(), {}, None
    for part in _parts(utterances, plan, start):
        if part.speaker != speaker:
            _close_speaker(totals, local, speaker, plan)
            local, speaker = {}, part.speaker
        split, atom_N, frames = part.split, part.atom_N, part.frames
        count_A = totals.eligible.setdefault(split, np.zeros(ATOMS, dtype=np.int64))
        count_A += np.bincount(atom_N, minlength=ATOMS)
        width = part.targets.delta_ND.shape[1]
        stride = -(-plan.frames(split) // SPREAD_FRAMES)
        totals.spread.setdefault(split, _Spread(width)).add(part.targets, slice(-frames.start % stride, None, stride))
        for scheme, kept in enumerate(plan.effective):
            label_N = plan.label_SN[split][scheme, frames]
            own = local.setdefault((scheme, split), ClusterSums(len(kept), ATOMS, width, squares=True))
            own.add(_key(atom_N, label_N, len(kept)), part.targets)
            control = _table(totals, CONTROL_SUMS, scheme, split, len(kept), ATOMS, width)
            control.add(_key(atom_N, plan.control_SN[split][scheme, frames], len(kept)), part.targets)
            if scheme < WITH_DISTANCE:
                shares = len(plan.config.shares)
                table = _table(totals, CONFIDENCE_SUMS, scheme, split, len(kept), shares, width)
                table.add(_key(plan.bin_SN[split][scheme, frames], label_N, len(kept)), part.targets)
    _close_speaker(totals, local, speaker, plan)
    return totals


def _key(part_N: np.ndarray, label_N: np.ndarray, clusters: int) -> np.ndarray:
    return np.where(label_N >= 0, part_N.astype(np.int64) * clusters + label_N, -1)


def _table(totals: Totals, kind: str, scheme: int, split: str, clusters: int, parts: int, width: int) -> ClusterSums:
    key = (kind, scheme, split)
    if key not in totals.sums:
        totals.sums[key] = ClusterSums(clusters, parts, width, squares=kind == SCHEME_SUMS)
    return totals.sums[key]


def _close_speaker(totals: Totals, local: dict[tuple[int, str], ClusterSums], speaker: str | None, plan: Plan) -> None:
    for (scheme, split), sums in local.items():
        _table(totals, SCHEME_SUMS, scheme, split, sums.clusters, ATOMS, sums.dimension).merge(sums)
        for name, atoms in SLICES.items():
            ratio = variance_ratio(sums.of_parts(atoms))
            if ratio.n >= plan.config.min_speaker:
                totals.own.append(SpeakerRatio(scheme, name, split, str(speaker), ratio.n, ratio.raw, ratio.adjusted))


def merge_totals(parts: Sequence[Totals]) -> Totals:
    """The sums of all shards, in any order. ValueError if a speaker was in two shards."""
    merged = Totals()
    for part in parts:
        for key, sums in part.sums.items():
            _table(merged, *key, sums.clusters, sums.parts, sums.dimension).merge(sums)
        for split, count_A in part.eligible.items():
            merged.eligible[split] = merged.eligible.get(split, 0) + count_A
        for split, spread in part.spread.items():
            merged.spread.setdefault(split, _Spread(spread.dimension)).merge(spread)
        merged.own += part.own
    merged.own.sort()
    if len({ratio[:4] for ratio in merged.own}) < len(merged.own):
        raise ValueError("a speaker was summed in two shards: keep all utterances of a speaker in one")
    return merged


def pair_spread(totals: Totals, split: str) -> PairSpread:
    """The moments of a split's targets about their mean, for `permutation_p`."""
    spread, n = totals.spread[split], max(totals.spread[split].n, 1)
    mean_D, trace = spread.sum_D / n, float(np.diagonal(spread.scatter_DD).sum())
    norm = float(np.square(mean_D).sum())
    along = float(np.einsum("d,de,e->", mean_D, spread.scatter_DD, mean_D))
    # ||d - m||^4 = (||d||^2 - 2 m.d + ||m||^2)^2, summed term by term.
    fourth = spread.fourth - 4 * float((mean_D * spread.cube_D).sum()) + 2 * norm * trace + 4 * along - 3 * n * norm**2
    centred_DD = spread.scatter_DD - np.outer(spread.sum_D, mean_D)
    return PairSpread(spread.n, trace - n * norm, float(np.square(centred_DD).sum()), fourth)


Terms = dict[tuple[int, str, str], list[tuple[str, int, float, float, float]]]  # (scheme, slice, split) -> speakers


def speaker_terms(utterances: Utterances, plan: Plan, totals: Totals, start: Mapping[str, int] | None = None) -> Terms:
    """The last pass over a shard: what each speaker adds to the sums of squares about the means of ALL shards."""
    sets = {
        (scheme, name, split): sums.of_parts(atoms)
        for (kind, scheme, split), sums in totals.sums.items()
        if kind == SCHEME_SUMS
        for name, atoms in SLICES.items()
    }
    terms: Terms = {key: [] for key in sets}
    local: dict[tuple[int, str], ClusterSums] = {}
    speaker = None

    def close() -> None:
        for (scheme, split), sums in local.items():
            for name, atoms in SLICES.items():
                mine = sums.of_parts(atoms)
                if mine.n:
                    whole, train = sets[scheme, name, split], sets[scheme, name, TRAIN]
                    within, total, fixed = (residual_square(mine, mean) for mean in _means(mine, whole, train))
                    terms[scheme, name, split].append((str(speaker), mine.n, within, total, fixed))

    for part in _parts(utterances, plan, start):
        if part.speaker != speaker:
            close()
            local, speaker = {}, part.speaker
        for scheme, kept in enumerate(plan.effective):
            width = part.targets.delta_ND.shape[1]
            own = local.setdefault((scheme, part.split), ClusterSums(len(kept), ATOMS, width, squares=False))
            own.add(_key(part.atom_N, plan.label_SN[part.split][scheme, part.frames], len(kept)), part.targets)
    close()
    return terms


def _means(mine: SliceSums, whole: SliceSums, train: SliceSums) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each cluster of a speaker: its mean in the whole set, the mean of the whole set, its mean in TRAIN."""
    centre_D = whole.sum_KD.sum(axis=0) / whole.n
    return fixed_means(mine, whole), np.repeat(centre_D[None], len(mine.cluster_K), axis=0), fixed_means(mine, train)


def merge_terms(parts: Sequence[Terms], key: tuple[int, str, str]) -> SpeakerTerms:
    """The speakers of all shards for one sample set, in the order of their names."""
    speakers = sorted(row for part in parts for row in part.get(key, []))
    columns = np.array([row[1:] for row in speakers], dtype=np.float64).reshape(-1, 4).T
    return SpeakerTerms(columns[0].astype(np.int64), *columns[1:])
