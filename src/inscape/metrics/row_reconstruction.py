"""How near the rows a receiver made are to the rows of the embedding table, prompt by prompt.

Padding is no row: a prompt is given as its valid rows alone, so nothing has to be masked afterwards and nothing can be
forgotten. `valid_rows` makes such prompts of a padded batch.

Legend: B prompts, T tokens, D width of the table.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from inscape.core.estimate import Estimate
from inscape.metrics.qa import mean_over_questions

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

__all__ = ["RowReconstruction", "reconstruction_of_prompt", "row_reconstruction", "valid_rows"]


class RowReconstruction(NamedTuple):
    """Means over prompts."""

    cosine: Estimate  # mean over a prompt's rows of cos(r, e); rows of norm 0 have no direction and are left out
    mse: Estimate  # mean over a prompt's numbers of (r - e)^2
    relative_error: Estimate  # ||r - e|| / ||e|| over all numbers of a prompt


def row_reconstruction(
    original: Sequence[Float[Tensor, "T D"]],
    made: Sequence[Float[Tensor, "T D"]],
    *,
    groups: Sequence[Hashable] | None = None,
    unit: str = "prompts",
) -> RowReconstruction:
    """Rows e of each prompt against the rows r made of it, with intervals over prompts, or over whole `groups` of them.

    unit: what groups are called. ValueError where the two do not match, a prompt has no row, or all its rows are zero.
    """
    if len(original) != len(made):
        raise ValueError(f"{len(original)} prompts and {len(made)} reconstructions: wanted one for each")
    found = [reconstruction_of_prompt(e, r) for e, r in zip(original, made, strict=True)]
    scores = ([values[i] for values in found] for i in range(3))
    return RowReconstruction(*(mean_over_questions(score, groups=groups, unit=unit) for score in scores))


def reconstruction_of_prompt(
    original_TD: Float[Tensor, "T D"], made_TD: Float[Tensor, "T D"]
) -> tuple[float, float, float]:
    """Cosine, mean squared error and relative error of one prompt, in float64. ValueError as `row_reconstruction`."""
    if original_TD.shape != made_TD.shape or original_TD.ndim != 2 or not len(original_TD):
        raise ValueError(
            f"rows of shape {tuple(original_TD.shape)} and reconstructions of {tuple(made_TD.shape)}: wanted both "
            "(tokens, width), with one token or more"
        )
    e_TD, r_TD = original_TD.detach().double().cpu(), made_TD.detach().double().cpu()
    norm_T, made_norm_T = e_TD.norm(dim=1), r_TD.norm(dim=1)
    if not norm_T.any():
        raise ValueError("all rows of a prompt are zero: they have no direction and no relative error")
    directed = norm_T > 0
    dot_T = (e_TD * r_TD).sum(1)
    cosine_T = torch.where(made_norm_T > 0, dot_T / (norm_T * made_norm_T), 0.0)[directed]
    off_TD = r_TD - e_TD
    return (
        float(cosine_T.clamp(-1.0, 1.0).mean()),
        float(off_TD.square().mean()),
        float(off_TD.norm() / e_TD.norm()),
    )


def valid_rows(row_BTD: Float[Tensor, "B T D"], keep_BT: Bool[Tensor, "B T"]) -> list[Float[Tensor, "T D"]]:
    """The rows of each prompt of a padded batch, without the padding."""
    if row_BTD.shape[:2] != keep_BT.shape:
        raise ValueError(f"rows of shape {tuple(row_BTD.shape)} do not fit a mask of {tuple(keep_BT.shape)}")
    return [row_TD[keep_T.bool()] for row_TD, keep_T in zip(row_BTD, keep_BT, strict=True)]
