"""PCA of token rows: of all maps to d numbers and back, the one that loses least of the rows (Eckart & Young 1936).

The hypothesis it serves: if the rows a model is fed are close to its own, it answers as it would have answered.

Legend: T tokens, D width of the table, d numbers kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

import torch
from torch import Tensor

from inscape.compressors.interface import (
    LATENT,
    Compressed,
    Injected,
    Saved,
    read_saved,
    row_width,
    tensor_bits,
    write_saved,
)
from inscape.compressors.projection import (
    Projection,
    RowMoments,
    moments_of_prompts,
    projected,
    projection_sample,
    sent_latent,
    unproject,
)
from inscape.core.rundir import RunDir

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from inscape.pretrained.language_model import LanguageModel

__all__ = ["Pca", "principal_components"]


@final
@dataclass(frozen=True, eq=False)
class Pca:
    """The leading principal components of token rows; the receiver transposes.

    It is fitted on the first min(5000, n / 2) of n training prompts, which stand in a random order.
    """

    kind: ClassVar[str] = "pca"
    ratio: float  # D / d
    wire: str = "float32"  # what the latent is sent as
    projection: Projection | None = None
    variance_D: Float[Tensor, " D"] | None = None  # of ALL components, largest first
    token_rows: int = 0  # it was fitted on

    @property
    def name(self) -> str:
        """See `Compressor.name`."""
        return "pca"

    @property
    def needs_context_only(self) -> bool:
        """See `Compressor.needs_context_only`."""
        return False

    def fit(
        self, lm: LanguageModel, sequences: Sequence[Int[Tensor, " T"]], *, seed: int, run: RunDir | None = None
    ) -> Pca:
        """See `Compressor.fit`; nothing is drawn, so the seed changes nothing."""
        width = row_width(lm.dimension, self.ratio)
        moments = moments_of_prompts(lm, sequences[: projection_sample(len(sequences))])
        projection, variance_D = principal_components(moments, width)
        return replace(self, projection=projection, variance_D=variance_D, token_rows=moments.token_rows)

    @property
    def explained(self) -> float:
        """Share of the variance in the d components, of that in ALL of them, on the rows it was fitted on.

        ValueError where it is not fitted.
        """
        kept = projected(self).basis_Dd.shape[1]
        assert self.variance_D is not None
        total = float(self.variance_D.sum())
        return float(self.variance_D[:kept].sum()) / total if total > 0 else 1.0

    def compress(self, lm: LanguageModel, ids_T: Int[Tensor, " T"]) -> Compressed:
        """See `Compressor.compress`."""
        return sent_latent(self, lm, ids_T)

    def inject(self, lm: LanguageModel, compressed: Compressed) -> Injected:
        """See `Compressor.inject`."""
        return Injected(unproject(projected(self), compressed.tensors[LATENT]).to(lm.dtype))

    def bits(self, compressed: Compressed) -> float:
        """See `Compressor.bits`."""
        return tensor_bits(compressed)

    def saved(self) -> Saved:
        """See `Compressor.saved`."""
        projection = projected(self)
        assert self.variance_D is not None
        tensors = {"mean": projection.mean_D, "basis": projection.basis_Dd, "variance": self.variance_D}
        settings = {"ratio": self.ratio, "wire": self.wire, "token_rows": self.token_rows}
        return Saved(self.kind, settings, tensors)

    @classmethod
    def from_saved(cls, saved: Saved) -> Pca:
        """See `Compressor.from_saved`."""
        projection = Projection(saved.tensors["mean"], saved.tensors["basis"])
        return cls(**saved.settings, projection=projection, variance_D=saved.tensors["variance"])

    def save(self, path: Path) -> None:
        """See `Compressor.save`."""
        write_saved(path, self.saved())

    @classmethod
    def load(cls, path: Path) -> Pca:
        """See `Compressor.load`."""
        return cls.from_saved(read_saved(path, cls.kind))


def principal_components(moments: RowMoments, width: int) -> tuple[Projection, Float[Tensor, " D"]]:
    """The `width` leading components, and the variances of ALL of them, largest first.

    A component's sign makes its largest entry positive: else it would be the eigensolver's whim.
    """
    variance_D, vector_DD = torch.linalg.eigh(moments.covariance_DD)
    basis_Dd = vector_DD.flip(1)[:, :width]
    largest_1d = basis_Dd.abs().argmax(0, keepdim=True)
    basis_Dd = basis_Dd * torch.where(basis_Dd.gather(0, largest_1d) < 0, -1.0, 1.0)
    return Projection(moments.mean_D, basis_Dd.contiguous()), variance_D.flip(0).clamp(min=0.0)
