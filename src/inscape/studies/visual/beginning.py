"""How the training of a codec begins: text and decoder past the picture, then the picture between them.

Trained together from fresh weights, the reader chases states that move at every step, and the decoder reads a picture
that says little yet; most of a training went by before two facts came back. Begun this way, each part learns from
something that stands still. Afterwards everything is trained together, from V alone. See LOG.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from inscape.core.study import Context
from inscape.nn.latent_codec import LatentCodec
from inscape.nn.readout import PooledReadout
from inscape.stopping import part_of
from inscape.studies.visual.codec_training import Training, train_codec
from inscape.studies.visual.losses import calibrated_terms
from inscape.studies.visual.model import TrainedCodec
from inscape.studies.visual.objective import ImagePrior, TrainingTuples, past_terms, picture_terms
from inscape.studies.visual.sources import Source

__all__ = ["Beginning", "begin_codec"]

PICTURE = ("encoder.head.paint", "reader")  # what stands between text and decoder


@dataclass(frozen=True)
class Beginning:
    """Two short trainings before the one that counts. Each is left out at 0 steps."""

    past: int = 0  # steps in which text is decoded from the states that V would be painted from, V left out
    past_lr: float = 3e-3  # their peak learning rate
    past_noise: float = 0.5  # largest noise on these states, in units of their spread; it grows over half the steps
    picture: int = 0  # then steps in which painter and reader learn to carry these states, all else frozen
    picture_lr: float = 5e-3  # their peak learning rate

    def __post_init__(self) -> None:
        for name in ("past", "picture"):
            if getattr(self, name) < 0:
                raise ValueError(f"beginning.{name}={getattr(self, name)} is out of range; allowed: 0 or more steps")
        for name in ("past_lr", "picture_lr", "past_noise"):
            value = getattr(self, name)
            least = "above 0" if name.endswith("lr") else "0 or more"
            if not (math.isfinite(value) and (value > 0 or (value == 0 and not name.endswith("lr")))):
                raise ValueError(f"beginning.{name}={value} is out of range; allowed: {least}")


def begin_codec(
    context: Context,
    codec: TrainedCodec,
    source: Source,
    training: Training,
    beginning: Beginning,
    *,
    prior: ImagePrior = calibrated_terms,
) -> TrainedCodec:
    """The codec after its beginning; steps, batches and terms as in `training` but for what `beginning` says.

    Either part is a training with checkpoints of its own, in `past/` and `picture/` of the run. ValueError with a
    readout that can read V alone.
    """
    objective, vocab = training.objective, codec.tokenizer.vocab_size
    if beginning.past and isinstance(codec.model.readout, PooledReadout):
        raise ValueError("beginning.past needs codec.readout=spatial; the pooled one reads V and nothing else")

    def past(model: LatentCodec, batch: TrainingTuples, step: int) -> dict[str, Tensor]:
        grown = min(1.0, 2 * step / beginning.past)
        return past_terms(model, batch, objective, beginning.past_noise * grown)

    def picture(model: LatentCodec, batch: TrainingTuples, step: int) -> dict[str, Tensor]:
        return picture_terms(model, batch, step, objective, vocab, prior=prior)

    for name, steps, rate, terms in (
        ("past", beginning.past, beginning.past_lr, past),
        ("picture", beginning.picture, beginning.picture_lr, picture),
    ):
        if not steps:
            continue
        mixture = training.mixture if name == "past" else replace(training.mixture, edited=1, drawn=1)
        with part_of(context.run, name) as part:
            codec, _ = train_codec(
                context,
                codec,
                source,
                replace(training, fit=replace(training.fit, steps=steps, lr=rate), mixture=mixture),
                frozen=PICTURE if name == "past" else _all_but(PICTURE, codec.model),
                terms=terms,
                run=part,
                looks=name != "past",  # the picture is not there yet
                past_v=name == "past",
            )
    return codec


def _all_but(kept: Sequence[str], model: LatentCodec) -> tuple[str, ...]:
    """Parameters that belong to none of the modules `kept`."""
    return tuple(name for name, _ in model.named_parameters() if not name.startswith(tuple(f"{k}." for k in kept)))
