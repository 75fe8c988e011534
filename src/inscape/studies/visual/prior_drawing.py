"""The picture of P6: samples out of noise beside latents of sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from inscape.core.rundir import RunDir
from inscape.studies.visual.figures import channel_montage
from inscape.studies.visual.prior_metrics import Samples

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["draw_samples"]

ROWS = 6  # of each kind
FILE = "samples.png"
CAPTION = (
    "Above: latents drawn out of noise, with the sentence that is read off each. Below: latents of given sentences. A "
    "column shares one colour scale. Samples should look like the others, and unlike each other."
)


def draw_samples(
    run: RunDir, samples: Samples, latent_NCHW: Float[Tensor, "N C H W"], sentences: Sequence[str]
) -> None:
    """Draw the first samples above the first latents of `sentences`."""
    shown = torch.cat((samples.latent_NCHW[:ROWS], latent_NCHW[:ROWS]))
    names = [f"drawn: {text}" for text in samples.texts[:ROWS]] + [f"given: {text}" for text in sentences[:ROWS]]
    channel_montage(shown.numpy(), names, run.figures / FILE)
    known = run.read_json("figures/captions.json") or {}
    run.write_json("figures/captions.json", {**known, FILE: CAPTION})
