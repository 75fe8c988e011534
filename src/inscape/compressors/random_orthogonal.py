"""A random orthogonal projection of token rows: what any d directions keep, so that PCA's are seen for what they add.

It is centred on the same mean as PCA and differs from it in nothing but the directions.

Legend: T tokens, D width of the table, d numbers kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

import torch

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
    moments_of_prompts,
    projected,
    projection_sample,
    sent_latent,
    unproject,
)
from inscape.core.rundir import RunDir

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from inscape.pretrained.language_model import LanguageModel

__all__ = ["RandomOrthogonal", "random_basis"]


@final
@dataclass(frozen=True, eq=False)
class RandomOrthogonal:
    """d random orthonormal directions; the receiver transposes."""

    kind: ClassVar[str] = "random_orthogonal"
    ratio: float  # D / d
    wire: str = "float32"  # what the latent is sent as
    projection: Projection | None = None

    @property
    def name(self) -> str:
        """See `Compressor.name`."""
        return "random orthogonal"

    @property
    def needs_context_only(self) -> bool:
        """See `Compressor.needs_context_only`."""
        return False

    def fit(
        self, lm: LanguageModel, sequences: Sequence[Int[Tensor, " T"]], *, seed: int, run: RunDir | None = None
    ) -> RandomOrthogonal:
        """See `Compressor.fit`: the mean is PCA's, and the directions are a function of the seed."""
        dimension = lm.dimension
        basis_Dd = random_basis(dimension, row_width(dimension, self.ratio), seed)
        mean_D = moments_of_prompts(lm, sequences[: projection_sample(len(sequences))]).mean_D
        return replace(self, projection=Projection(mean_D, basis_Dd))

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
        tensors = {"mean": projection.mean_D, "basis": projection.basis_Dd}
        return Saved(self.kind, {"ratio": self.ratio, "wire": self.wire}, tensors)

    @classmethod
    def from_saved(cls, saved: Saved) -> RandomOrthogonal:
        """See `Compressor.from_saved`."""
        return cls(**saved.settings, projection=Projection(saved.tensors["mean"], saved.tensors["basis"]))

    def save(self, path: Path) -> None:
        """See `Compressor.save`."""
        write_saved(path, self.saved())

    @classmethod
    def load(cls, path: Path) -> RandomOrthogonal:
        """See `Compressor.load`."""
        return cls.from_saved(read_saved(path, cls.kind))


def random_basis(dimension: int, width: int, seed: int) -> Float[Tensor, "D d"]:
    """Orthonormal columns, uniform over all such, in float64; a function of the seed.

    Q of a Gaussian matrix, its signs fixed by those of R's diagonal: without that it is not uniform.
    Source: Mezzadri 2007, "How to generate random matrices from the classical compact groups", section 5.
    """
    generator = torch.Generator().manual_seed(seed)
    gaussian_Dd = torch.randn(dimension, width, dtype=torch.float64, generator=generator)
    basis_Dd, upper_dd = torch.linalg.qr(gaussian_Dd)
    return basis_Dd * torch.where(upper_dd.diagonal() < 0, -1.0, 1.0)
