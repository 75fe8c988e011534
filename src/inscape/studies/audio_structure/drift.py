"""The least that any latent shows: each dimension drifts back to its mean, by a share of how far it is off.

A step is x[t] - x[t-1], and where the context ends at x[t-1] it holds half of the step. Of frames that have nothing to
do with each other, of pure noise, this rule predicts the direction of the next step with a cosine of 0.71. What a
predictor knows beyond it is knowledge of the sequence.

Legend: N samples, W window frames, D latent dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from inscape.nn.context_encoder import Steps

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["Drift", "fit_drift"]


class Drift(NamedTuple):
    """Step = mean step + slope x (the context's last frame - mean frame), each dimension for itself."""

    frame_D: np.ndarray
    step_D: np.ndarray
    slope_D: np.ndarray

    def step(self, context_NWD: Float[Tensor, "N W D"]) -> Float[np.ndarray, "N D"]:
        """The step after each context, float64."""
        return self.step_D + self.slope_D * (context_NWD[:, -1].double().cpu().numpy() - self.frame_D)


def fit_drift(batches: Iterable[Steps]) -> Drift:
    """Least squares over training steps. A dimension that never moves drifts nowhere. ValueError without steps."""
    count, sums = 0, np.zeros(())
    for context_NWD, delta_ND in batches:
        x_ND, y_ND = context_NWD[:, -1].double().numpy(), delta_ND.double().numpy()
        sums = sums + np.stack([x_ND.sum(0), y_ND.sum(0), (x_ND * x_ND).sum(0), (x_ND * y_ND).sum(0)])
        count += len(x_ND)
    if count == 0:
        raise ValueError("no latent steps to fit a drift to: the windows are empty")
    frame_D, step_D, square_D, product_D = sums / count
    variance_D = square_D - frame_D**2
    varies_D = variance_D > 1e-12 * np.maximum(square_D, np.finfo(np.float64).tiny)
    slope_D = np.where(varies_D, (product_D - frame_D * step_D) / np.where(varies_D, variance_D, 1.0), 0.0)
    return Drift(frame_D, step_D, slope_D)
