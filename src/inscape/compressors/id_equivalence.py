"""A control, and the truth about compressing rows: who owns the table reads every token from d numbers, even from one.

A compressed row is a function of its id. A receiver with the same table compresses all of it, looks for the nearest
compressed row, and has the id: no information was lost and no training was needed, at any d at which different rows
stay different. So a receiver that cannot do better than this is measured for what it does WITHOUT the table.

Without a wire everything is float64. At d = 1 the 49,152 numbers of a table lie 1e-6 apart on average and 1e-11 where
they are closest; float32 would make some of them equal, and would call that a loss of the method. With the wire of a
compressor both sides are rounded as it rounds, and what these numbers cannot tell apart counts as lost.

Legend: T tokens, V rows of the table, D its width, d width of a latent, N different ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from inscape.compressors.projection import Projection, as_sent, project
from inscape.core.estimate import Estimate, bootstrap_mean

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from inscape.pretrained.language_model import LanguageModel

__all__ = ["IdEquivalence", "identical_rows", "nearest_rows", "recovered_ids"]

BLOCK = 2048  # rows at a time: 9 MB of float64 at a width of 576, which the allocator keeps and need not fetch anew


class IdEquivalence(NamedTuple):
    """What the nearest compressed row of the table says of the tokens of some prompts."""

    recovered: Estimate  # mean over prompts of the share of tokens whose row was found; the gate is 1
    wrong: tuple[tuple[int, int], ...]  # (id, id taken for it) of every id that was not
    identical: tuple[tuple[int, ...], ...]  # ids of prompts that share their row with others, in groups, by name:
    # they are the same to the model as well, so any of a group counts as found


def recovered_ids(
    projection: Projection,
    lm: LanguageModel,
    prompts: Sequence[Int[Tensor, " T"]],
    unit: str = "prompts",
    wire: str = "",
) -> IdEquivalence:
    """Project the rows of `prompts`, and read every id back from the projected table; as sent by `wire`, if given."""
    table_VD = lm.table_VD.detach().cpu()
    asked = torch.unique(torch.cat([ids_T.to("cpu", torch.int64) for ids_T in prompts]))
    latent_Nd = _received(projection, table_VD[asked], wire)
    found = nearest_rows(latent_Nd, table_VD, projection, wire)
    group_V, groups = identical_rows(table_VD)
    right_N = group_V[asked.numpy()] == group_V[found.numpy()]
    is_right = np.zeros(len(table_VD))
    is_right[asked.numpy()] = right_N
    shares = [float(is_right[ids_T.cpu().numpy()].mean()) for ids_T in prompts]
    wrong = tuple((int(i), int(j)) for i, j, right in zip(asked, found, right_N, strict=True) if not right)
    met = set(asked.tolist())
    return IdEquivalence(
        bootstrap_mean(shares, unit), wrong, tuple(group for group in groups if met.intersection(group))
    )


def identical_rows(table_VD: Float[Tensor, "V D"]) -> tuple[Int[np.ndarray, " V"], tuple[tuple[int, ...], ...]]:
    """A number for each row, equal where rows are equal in every number; and the groups of two or more equal rows.

    Rows of different hash differ; only those that share one are compared.
    """
    weight_D = np.random.default_rng(0).integers(0, 2**64, table_VD.shape[1], dtype=np.uint64)
    hash_V = np.concatenate([(_words(some) * weight_D).sum(1) for some in table_VD.split(BLOCK)])
    _, place_V, count = np.unique(hash_V, return_inverse=True, return_counts=True)
    group_V, first_of = np.arange(len(hash_V)), {}
    for i in np.flatnonzero(count[place_V] > 1):
        group_V[i] = first_of.setdefault(_words(table_VD[i : i + 1]).tobytes(), i)
    repeated = np.flatnonzero(np.bincount(group_V, minlength=len(group_V)) > 1)
    return group_V, tuple(tuple(np.flatnonzero(group_V == first).tolist()) for first in repeated)


def _words(row_CD: Tensor) -> Int[np.ndarray, "C D"]:
    """The bits of each number as float64; those of -0 are 0's."""
    return (row_CD.detach().cpu().double().numpy() + 0.0).view(np.uint64)


def _received(projection: Projection, row_ND: Tensor, wire: str) -> Tensor:
    latent_Nd = project(projection, row_ND)
    return as_sent(latent_Nd, wire).double() if wire else latent_Nd


def nearest_rows(
    latent_Nd: Float[Tensor, "N d"], table_VD: Float[Tensor, "V D"], projection: Projection, wire: str = ""
) -> Int[Tensor, " N"]:
    """The id of the nearest projected row to each latent: exact, whatever the latents are. Of equal ones the lowest.

    Along one axis the table is sorted, so the rows beside a latent on it give a bound of the distance, and only rows
    within this bound on that axis can be nearer. Where latents are projected rows the bound is rounding, and one row is
    left; the farther they are from any, the more are looked at. Distances are sums of squared differences: expanding
    the square could not tell points apart that are closer than 1e-8 of their norm. No more than BLOCK rows are
    projected at a time.
    """
    axis_D1 = Projection(projection.mean_D, projection.basis_Dd[:, :1])
    along_V = torch.cat([_received(axis_D1, some, wire).flatten() for some in table_VD.split(BLOCK)])
    along_V, order_V = torch.sort(along_V, stable=True)
    beside_N = torch.searchsorted(along_V, latent_Nd[:, 0].contiguous())
    search = _Search(latent_Nd, lambda place: _received(projection, table_VD[place], wire), order_V)
    below_N, above_N = (beside_N - 1).clamp(min=0), beside_N.clamp(max=len(along_V) - 1) + 1
    search.compare(below_N, above_N)
    # A hair more than the distance, since what was projected twice may differ in the last bit.
    reach_N = search.best_N.sqrt() * (1 + 1e-9) + 1e-12 * latent_Nd.norm(dim=1)
    low_N = torch.searchsorted(along_V, latent_Nd[:, 0] - reach_N)
    high_N = torch.searchsorted(along_V, latent_Nd[:, 0] + reach_N, right=True)
    seen_N = (low_N >= below_N) & (high_N <= above_N)
    search.compare(low_N, torch.where(seen_N, low_N, high_N))
    return search.nearest_N


@final
class _Search:
    """The nearest row to each latent among those it was compared with."""

    def __init__(self, latent_Nd: Tensor, received: Callable[[Tensor], Tensor], order_V: Tensor) -> None:
        self.latent_Nd, self.received, self.order_V = latent_Nd, received, order_V
        self.best_N = torch.full((len(latent_Nd),), torch.inf, dtype=torch.float64)  # squared distance
        self.nearest_N = torch.zeros(len(latent_Nd), dtype=torch.int64)

    def compare(self, low_N: Tensor, high_N: Tensor) -> None:
        """Compare each latent with the rows from place low to before high in the sorted order."""
        end_N = (high_N - low_N).clamp(min=0).cumsum(0)
        total = int(end_N[-1]) if len(end_N) else 0
        for first in range(0, total, BLOCK):
            pair = torch.arange(first, min(first + BLOCK, total))
            query = torch.searchsorted(end_N, pair, right=True)
            row = self.order_V[high_N[query] - (end_N[query] - pair)]
            self._improve(query, row)

    def _improve(self, query: Tensor, row: Tensor) -> None:
        off = self.received(row) - self.latent_Nd[query]
        distance = off.square().sum(1)
        order = np.lexsort((row.numpy(), distance.numpy(), query.numpy()))  # of equal distances the lowest id
        leading = torch.from_numpy(order[np.flatnonzero(np.diff(query.numpy()[order], prepend=-1))])
        mine, value, found = query[leading], distance[leading], row[leading]
        nearer = (value < self.best_N[mine]) | ((value == self.best_N[mine]) & (found < self.nearest_N[mine]))
        self.best_N[mine[nearer]], self.nearest_N[mine[nearer]] = value[nearer], found[nearer]
