"""A control, and the truth about compressing rows: who owns the table reads every token from d numbers, even from one.

A compressed row is a function of its id. A receiver with the same table compresses all of it, looks for the nearest
compressed row, and has the id: no information was lost and no training was needed, at any d at which different rows
stay different. So a receiver that cannot do better than this is measured for what it does WITHOUT the table.

Everything is float64. At d = 1 the 49,152 numbers of a table lie 1e-6 apart on average and 1e-11 where they are
closest; float32 would make some of them equal, and would call that a loss of the method.

Legend: T tokens, V rows of the table, D its width, d width of a latent, N different ids, C rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from inscape.compressors.projection import Projection, project
from inscape.core.estimate import Estimate, bootstrap_mean

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from inscape.pretrained.language_model import LanguageModel

__all__ = ["IdEquivalence", "identical_rows", "nearest_rows", "recovered_ids"]

ROWS, QUERIES = 4096, 512  # of one block of distances: 17 MB of float64
ROUNDING = 64 * np.finfo(np.float64).eps  # of a squared distance got by expanding, relative to the squared norms


class IdEquivalence(NamedTuple):
    """What the nearest compressed row of the table says of the tokens of some prompts."""

    recovered: Estimate  # mean over prompts of the share of tokens whose row was found; the gate is 1
    wrong: tuple[tuple[int, int], ...]  # (id, id taken for it) of every id that was not
    identical: tuple[tuple[int, ...], ...]  # ids of prompts that share their row with others, in groups, by name:
    # they are the same to the model as well, so any of a group counts as found


def recovered_ids(
    projection: Projection, lm: LanguageModel, prompts: Sequence[Int[Tensor, " T"]], unit: str = "prompts"
) -> IdEquivalence:
    """Project the rows of `prompts`, and read every id back from the projected table."""
    table_VD = lm.table_VD.detach().cpu()
    asked = torch.unique(torch.cat([ids_T.to("cpu", torch.int64) for ids_T in prompts]))
    latent_Nd = project(projection, table_VD[asked])
    found = nearest_rows(latent_Nd, table_VD, projection)
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
    """A number for each row, equal where rows are equal in every bit; and the groups of two or more equal rows."""
    whole_VD = np.ascontiguousarray(table_VD.detach().float().cpu().numpy()) + np.float32(0)  # -0 becomes 0
    keys_V = whole_VD.view(np.dtype((np.void, whole_VD.shape[1] * whole_VD.itemsize))).ravel()
    first_of: dict[bytes, int] = {}
    group_V = np.array([first_of.setdefault(key.tobytes(), i) for i, key in enumerate(keys_V)])
    repeated = np.flatnonzero(np.bincount(group_V, minlength=len(group_V)) > 1)
    return group_V, tuple(tuple(np.flatnonzero(group_V == first).tolist()) for first in repeated)


def nearest_rows(
    latent_Nd: Float[Tensor, "N d"], table_VD: Float[Tensor, "V D"], projection: Projection
) -> Int[Tensor, " N"]:
    """The id of the nearest projected row to each latent, the lowest of several at the same distance.

    Distances by the expansion |z|^2 - 2 z p + |p|^2 only say which rows can be nearest at all; those are compared by
    their true differences, since the expansion cannot tell points apart that are closer than 1e-8 of their norm. The
    table is projected in chunks and never as a whole.
    """
    best_N = torch.full((len(latent_Nd),), torch.inf, dtype=torch.float64)
    nearest_N = torch.zeros(len(latent_Nd), dtype=torch.int64)
    for first in range(0, len(table_VD), ROWS):
        row_Cd = project(projection, table_VD[first : first + ROWS])
        square_C = row_Cd.square().sum(1)
        for start in range(0, len(latent_Nd), QUERIES):
            at = slice(start, start + QUERIES)
            _improve(best_N[at], nearest_N[at], latent_Nd[at], row_Cd, square_C, first)
    return nearest_N


def _improve(
    best_Q: Tensor, nearest_Q: Tensor, latent_Qd: Tensor, row_Cd: Tensor, square_C: Tensor, first: int
) -> None:
    """Put squared distances and ids of nearer rows of this chunk into `best_Q` and `nearest_Q`."""
    square_Q = latent_Qd.square().sum(1)
    distance_QC = torch.addmm(square_C, latent_Qd, row_Cd.T, alpha=-2.0) + square_Q[:, None]
    slack_Q = ROUNDING * latent_Qd.shape[1] ** 0.5 * (square_Q + float(square_C.max()))
    bound_Q = torch.minimum(best_Q, distance_QC.amin(1) + slack_Q) + slack_Q
    query, row = torch.nonzero(distance_QC <= bound_Q[:, None], as_tuple=True)
    for some in torch.arange(len(query)).split(ROWS * QUERIES // max(1, latent_Qd.shape[1])):
        exact = (latent_Qd[query[some]] - row_Cd[row[some]]).square().sum(1)
        # Rows stand in ascending order and a later one must be strictly nearer, so the lowest id wins.
        order = np.lexsort((row[some].numpy(), exact.numpy(), query[some].numpy()))
        queries = query[some].numpy()[order]
        leading = torch.from_numpy(order[np.flatnonzero(np.diff(queries, prepend=-1))])
        mine, value, place = query[some][leading], exact[leading], row[some][leading]
        nearer = value < best_Q[mine]
        best_Q[mine[nearer]] = value[nearer]
        nearest_Q[mine[nearer]] = first + place[nearer]
