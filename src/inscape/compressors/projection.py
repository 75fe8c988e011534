"""Rows of an embedding table seen through a linear map, and the sums over token rows that such maps are fitted from.

A token's row is a function of its id, so the sums over all token rows of a corpus are sums over the table weighted by
how often each id occurs. Counts are whole numbers: they do not depend on the order of the prompts, on chunks or on
shards, and neither does anything fitted from them. No token row is ever stored; two million cost one pass over the
table.

Legend: N token rows, T tokens, V rows of the table, D its width, d numbers kept, C rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from inscape.compressors.interface import LATENT, Compressed, Compressor, check_ids
from inscape.core.rundir import RunDir

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from inscape.pretrained.language_model import LanguageModel

__all__ = [
    "CHUNK",
    "NUMBERS",
    "Projection",
    "RowMoments",
    "RowProjector",
    "as_sent",
    "explained_share",
    "moments_of_prompts",
    "moments_of_rows",
    "project",
    "projected",
    "projection_sample",
    "row_moments",
    "rows_of",
    "sent_latent",
    "token_counts",
    "unproject",
]

NUMBERS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}  # to send a latent as
CHUNK = 4096  # table rows at a time: 19 MB of float64 at a width of 576
MOST_PROMPTS = 5000  # of the source document: "5000 samples, 50 % of the training data"


class RowMoments(NamedTuple):
    """Count, mean and covariance of token rows, in float64."""

    token_rows: int
    mean_D: Float[Tensor, " D"]
    covariance_DD: Float[Tensor, "D D"]  # divided by the count


class Projection(NamedTuple):
    """z = (e - mean) basis, and back e' = mean + z basis^T; the basis has orthonormal columns. float64."""

    mean_D: Float[Tensor, " D"]
    basis_Dd: Float[Tensor, "D d"]


class RowProjector(Compressor, Protocol):
    """A row-wise compressor whose latent is a projection, so that other receivers can be fitted to it."""

    @property
    def wire(self) -> str:
        """What the latent is sent as, a name of `NUMBERS`."""
        ...

    @property
    def projection(self) -> Projection | None:
        """None until it is fitted."""
        ...

    def fit(
        self, lm: LanguageModel, sequences: Sequence[Int[Tensor, " T"]], *, seed: int, run: RunDir | None = None
    ) -> RowProjector:
        """See `Compressor.fit`."""
        ...


def projection_sample(prompts: int) -> int:
    """min(5000, n / 2): how many of n training prompts a projection is fitted on. ValueError for fewer than 2."""
    if prompts < 2:
        raise ValueError(f"a projection is fitted on half of the training prompts, given {prompts}: give 2 or more")
    return min(MOST_PROMPTS, prompts // 2)


def token_counts(sequences: Sequence[Int[Tensor, " T"]], rows: int) -> Int[Tensor, " V"]:
    """How often each of `rows` ids occurs. ValueError for an id that is not one of them."""
    count_V = torch.zeros(rows, dtype=torch.int64)
    for ids_T in sequences:
        ids = torch.as_tensor(ids_T).to("cpu", torch.int64)
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= rows):
            raise ValueError(f"ids from {int(ids.min())} to {int(ids.max())} are not all in a table of {rows} rows")
        count_V += torch.bincount(ids, minlength=rows)
    return count_V


def row_moments(table_VD: Float[Tensor, "V D"], count_V: Int[Tensor, " V"]) -> RowMoments:
    """Moments of a corpus in which row v of the table occurs count_V[v] times. ValueError where none occurs.

    Two passes over the rows that occur, the second about the mean, so that nothing cancels.
    """
    total = int(count_V.sum())
    if total == 0:
        raise ValueError("there is no token row to take moments of: give prompts that are not empty")
    used = torch.nonzero(count_V).flatten()
    width = table_VD.shape[1]
    sum_D, scatter_DD = torch.zeros(width, dtype=torch.float64), torch.zeros(width, width, dtype=torch.float64)
    for ids in used.split(CHUNK):
        sum_D += count_V[ids].double() @ _chunk(table_VD, ids)
    mean_D = sum_D / total
    for ids in used.split(CHUNK):
        off_CD = _chunk(table_VD, ids) - mean_D
        scatter_DD += off_CD.T @ (off_CD * count_V[ids].double()[:, None])
    return RowMoments(total, mean_D, (scatter_DD + scatter_DD.T) / (2 * total))


def _chunk(table_VD: Tensor, ids: Tensor) -> Tensor:
    return table_VD.detach()[ids.to(table_VD.device)].to("cpu", torch.float64)


def moments_of_prompts(lm: LanguageModel, sequences: Sequence[Int[Tensor, " T"]]) -> RowMoments:
    """Moments of all token rows of `sequences`."""
    return row_moments(lm.table_VD, token_counts(sequences, lm.vocab_size))


def moments_of_rows(row_ND: Float[Tensor, "N D"]) -> RowMoments:
    """Moments of rows that stand in no table."""
    return row_moments(row_ND, torch.ones(len(row_ND), dtype=torch.int64))


def explained_share(projection: Projection, moments: RowMoments) -> float:
    """1 - (mean squared error of projecting) / (variance about the moments' own mean), over ALL components.

    On the rows a PCA was fitted on this is its explained variance. On others it says what generalises: a basis fitted
    on too few rows explains nearly all of those few and much less of the rest, and below 0 it is worse than the mean.
    """
    shift_D = moments.mean_D - projection.mean_D
    total = float(moments.covariance_DD.trace())
    lost = float(shift_D @ shift_D) - float((shift_D @ projection.basis_Dd).square().sum())
    kept = float((projection.basis_Dd * (moments.covariance_DD @ projection.basis_Dd)).sum())
    return (kept - lost) / total if total > 0 else 1.0


def project(projection: Projection, row_TD: Float[Tensor, "T D"]) -> Float[Tensor, "T d"]:
    """(e - mean) basis in float64, on the device of the rows."""
    mean_D, basis_Dd = (tensor.to(row_TD.device) for tensor in projection)
    return (row_TD.double() - mean_D) @ basis_Dd


def unproject(projection: Projection, latent_Td: Float[Tensor, "T d"]) -> Float[Tensor, "T D"]:
    """mean + z basis^T in float64: of all rows with this latent the one nearest to the mean."""
    mean_D, basis_Dd = (tensor.to(latent_Td.device) for tensor in projection)
    return mean_D + latent_Td.double() @ basis_Dd.T


def rows_of(lm: LanguageModel, ids_T: Int[Tensor, " T"]) -> Float[Tensor, "T D"]:
    """Rows of the embedding table. ValueError where there is no id, or one that is not in the table."""
    check_ids(lm, ids_T)
    return lm.table_VD.detach()[ids_T.to(lm.device)]


def as_sent(latent: Float[Tensor, ...], wire: str) -> Float[Tensor, ...]:
    """Rounded to the numbers that are sent. ValueError for other numbers, or a latent that they cannot hold."""
    if wire not in NUMBERS:
        raise ValueError(f"wire={wire!r} is not known; allowed: {', '.join(NUMBERS)}")
    sent = latent.to(NUMBERS[wire])
    if not torch.isfinite(sent).all():
        raise ValueError(f"a latent is not finite as {wire}; use float32, and look at the model's embedding table")
    return sent


def projected(compressor: RowProjector) -> Projection:
    """The projection of a fitted compressor. ValueError where it is not fitted."""
    if compressor.projection is None:
        raise ValueError(f"{compressor.name} is not fitted: call fit(lm, sequences, seed=...) first")
    return compressor.projection


def sent_latent(compressor: RowProjector, lm: LanguageModel, ids_T: Int[Tensor, " T"]) -> Compressed:
    """A prompt as a projecting compressor sends it: one latent for each token, and nothing else."""
    projection = projected(compressor)
    row_TD = rows_of(lm, ids_T)
    if row_TD.shape[1] != len(projection.mean_D):
        raise ValueError(
            f"{compressor.name} was fitted on rows of {len(projection.mean_D)} numbers and {lm.name} has rows of "
            f"{row_TD.shape[1]}: fit it on this model"
        )
    tensors: dict[str, Any] = {LATENT: as_sent(project(projection, row_TD), compressor.wire)}
    return Compressed(tensors, tokens=len(ids_T), vectors=len(ids_T))
