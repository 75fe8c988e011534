"""The audio-structure study: its hypothesis and its phases, in order."""

from inscape.core.study import Study
from inscape.studies.audio_structure import (
    conditioning,
    corpus,
    direction,
    frames,
    injection,
    latents,
    predictor,
    representations,
    structure,
)

__all__ = ["STUDY"]

STUDY = Study(
    name="audio-structure",
    title="Local structure in the latents of speech codecs",
    hypothesis="The last frames of a codec's continuous latent tell how it goes on, by a coarse rule that is the same "
    "for every speaker, utterance and position.",
    phases=(
        corpus.PHASE,
        latents.PHASE,
        frames.PHASE,
        conditioning.PHASE,
        structure.PHASE,
        predictor.PHASE,
        direction.PHASE,
        injection.PHASE,
        representations.PHASE,
    ),
)
