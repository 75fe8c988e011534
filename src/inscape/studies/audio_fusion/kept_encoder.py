"""Which audio encoder heard the clips: written down when they are read, and compared wherever its features are used.

A name in a config can be read and then ignored. So what was opened has to call itself what the config says, to give as
many frames as it says, and to be the one whose figures and weights stand beside every listener that was trained on it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from inscape.core.rundir import RunDir
from inscape.pretrained.audio_encoders import (
    Described,
    Expected,
    check_expected,
    check_name,
    describe_encoder,
    weights_digest,
)

__all__ = ["ENCODER", "KeptEncoder", "check_same_encoder", "figures_of", "keep_encoder", "kept_encoder"]

ENCODER = "encoder.json"  # in the run of the first phase


class KeptEncoder(NamedTuple):
    """What is written down of an encoder."""

    name: str  # as it calls itself
    dimension: int  # width of a frame
    sample_rate: int  # Hz
    rate_hz: float  # frames a second
    weights: str = ""  # digest of its weights; empty: it has none

    @property
    def figures(self) -> Expected:
        """What an encoder that is opened in its place must have."""
        return describe_encoder(self)

    def frames(self, seconds: float) -> int:
        """How many frames a clip of this length has."""
        return math.ceil(round(seconds * self.sample_rate) / round(self.sample_rate / self.rate_hz))


def figures_of(encoder: Described) -> KeptEncoder:
    """What an opened encoder says of itself."""
    figures = (int(encoder.dimension), int(encoder.sample_rate), float(encoder.rate_hz))
    return KeptEncoder(encoder.name, *figures, weights_digest(encoder))


def keep_encoder(run: RunDir, found: KeptEncoder) -> None:
    """Name and figures into `run`; ValueError if others stand there: a run is not continued with another encoder."""
    if (run.path / ENCODER).is_file():
        check_same_encoder(found, kept_encoder(run))
    run.write_json(ENCODER, found._asdict())


def kept_encoder(run: RunDir) -> KeptEncoder:
    """What the first phase wrote down in `run`. ValueError in one line if there is nothing, or nothing whole."""
    try:
        kept = run.read_json(ENCODER) or {}
        figures = (int(kept["dimension"]), int(kept["sample_rate"]), float(kept["rate_hz"]))
        return KeptEncoder(str(kept["name"]), *figures, str(kept["weights"]))
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"{run.path} does not say which encoder heard its clips ({ENCODER}): run the phase identity again"
        ) from None


def check_same_encoder(found: KeptEncoder, wanted: KeptEncoder) -> None:
    """ValueError in one line unless both have one name, the same figures and the same weights."""
    check_name(found.name, wanted.name)
    check_expected(found, wanted.figures)
    if found.weights != wanted.weights:
        raise ValueError(
            f"the audio encoder {found.name} has other weights (digest {found.weights[:12] or 'none'}) than those that "
            f"were heard by ({wanted.weights[:12] or 'none'}): open the same files, or run the phase identity again"
        )
