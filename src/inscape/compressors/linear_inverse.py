"""The best linear receiver of projected rows, in closed form: whatever a trained receiver gains, it gains beyond this.

Least squares from latents z to rows e over all token rows of the training prompts,

    W = (cov(z) + ridge mean-variance I)^-1 cov(z, e),    e' = mean(e) + (z - mean(z)) W

and since z is linear in e, all four moments follow from the mean and covariance of e, which are streamed. For the
principal components of the same rows W is their transpose.

Legend: T tokens, D width of the table, d numbers kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple, final

import torch

from inscape.compressors.interface import (
    LATENT,
    Compressed,
    Injected,
    Saved,
    nested,
    nested_in,
    read_saved,
    write_saved,
)
from inscape.compressors.projection import Projection, RowMoments, RowProjector, moments_of_prompts, projected
from inscape.core.rundir import RunDir

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from inscape.pretrained.language_model import LanguageModel

__all__ = ["AffineMap", "LinearInverse", "least_squares_inverse"]


class AffineMap(NamedTuple):
    """e' = bias + z weight, float64."""

    weight_dD: Float[Tensor, "d D"]
    bias_D: Float[Tensor, " D"]


@final
@dataclass(frozen=True, eq=False)
class LinearInverse:
    """The sender of `inner` and the linear receiver that fits it best."""

    kind: ClassVar[str] = "linear_inverse"
    inner: RowProjector
    ridge: float = 0.0  # of the latent's mean variance; 0 is plain least squares
    inverse: AffineMap | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.ridge) and self.ridge >= 0):
            raise ValueError(f"ridge={self.ridge} is out of range; allowed: 0 or more")

    @property
    def name(self) -> str:
        """See `Compressor.name`."""
        return f"{self.inner.name}, linear inverse"

    @property
    def ratio(self) -> float:
        """See `Compressor.ratio`."""
        return self.inner.ratio

    @property
    def needs_context_only(self) -> bool:
        """See `Compressor.needs_context_only`."""
        return False

    def fit(
        self, lm: LanguageModel, sequences: Sequence[Int[Tensor, " T"]], *, seed: int, run: RunDir | None = None
    ) -> LinearInverse:
        """See `Compressor.fit`: an inner compressor that is not fitted is fitted first; the inverse on all prompts."""
        inner = self.inner
        if inner.projection is None:
            inner = inner.fit(lm, sequences, seed=seed, run=run)
        moments = moments_of_prompts(lm, sequences)
        return replace(self, inner=inner, inverse=least_squares_inverse(projected(inner), moments, self.ridge))

    def compress(self, lm: LanguageModel, ids_T: Int[Tensor, " T"]) -> Compressed:
        """See `Compressor.compress`."""
        return self.inner.compress(lm, ids_T)

    def inject(self, lm: LanguageModel, compressed: Compressed) -> Injected:
        """See `Compressor.inject`."""
        latent_Td = compressed.tensors[LATENT]
        weight_dD, bias_D = (tensor.to(latent_Td.device) for tensor in self._fitted())
        return Injected((bias_D + latent_Td.double() @ weight_dD).to(lm.dtype))

    def bits(self, compressed: Compressed) -> float:
        """See `Compressor.bits`."""
        return self.inner.bits(compressed)

    def saved(self) -> Saved:
        """See `Compressor.saved`."""
        weight_dD, bias_D = self._fitted()
        settings, tensors = nested("inner", self.inner.saved())
        settings["ridge"] = self.ridge
        return Saved(self.kind, settings, tensors | {"weight": weight_dD, "bias": bias_D})

    @classmethod
    def from_saved(cls, saved: Saved) -> LinearInverse:
        """See `Compressor.from_saved`."""
        from inscape.compressors.stored import restored_projector

        inner = restored_projector(nested_in(saved, "inner"))
        return cls(inner, saved.settings["ridge"], AffineMap(saved.tensors["weight"], saved.tensors["bias"]))

    def save(self, path: Path) -> None:
        """See `Compressor.save`."""
        write_saved(path, self.saved())

    @classmethod
    def load(cls, path: Path) -> LinearInverse:
        """See `Compressor.load`."""
        return cls.from_saved(read_saved(path, cls.kind))

    def _fitted(self) -> AffineMap:
        if self.inverse is None:
            raise ValueError(f"{self.name} is not fitted: call fit(lm, sequences, seed=...) first")
        return self.inverse


def least_squares_inverse(projection: Projection, moments: RowMoments, ridge: float = 0.0) -> AffineMap:
    """The affine map from latents to rows of least mean squared error over the rows of `moments`.

    Directions in which the latent never varied carry nothing and get weight 0 (the pseudo-inverse).
    """
    basis_Dd = projection.basis_Dd
    across_dD = basis_Dd.T @ moments.covariance_DD
    own_dd = across_dD @ basis_Dd
    own_dd = (own_dd + own_dd.T) / 2
    own_dd = own_dd + ridge * own_dd.diagonal().mean() * torch.eye(len(own_dd), dtype=own_dd.dtype)
    weight_dD = torch.linalg.pinv(own_dd, hermitian=True, rtol=1e-12) @ across_dD
    mean_d = (moments.mean_D - projection.mean_D) @ basis_Dd
    return AffineMap(weight_dD, moments.mean_D - mean_d @ weight_dD)
