"""The visual study: its hypothesis and its phases, in order."""

from inscape.core.study import Study
from inscape.studies.visual import ablations, corpus, decoder, imageness, jitter, meaning, prior, roundtrip

__all__ = ["STUDY"]

STUDY = Study(
    name="visual",
    title="Text to a picture-like latent and back",
    hypothesis="A text encoder and decoder can be learned from text alone through a latent that is a small picture "
    "with the statistics of natural images.",
    phases=(
        corpus.PHASE,
        imageness.PHASE,
        meaning.PHASE,
        jitter.PHASE,
        decoder.PHASE,
        roundtrip.PHASE,
        prior.PHASE,
        ablations.PHASE,
    ),
)
