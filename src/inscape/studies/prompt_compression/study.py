"""The prompt-compression study: its hypothesis and its phases, in order."""

from inscape.core.study import Study
from inscape.studies.prompt_compression import frontier, instrument, perplexity, reconstruction, sequences

__all__ = ["STUDY"]

STUDY = Study(
    name="prompt-compression",
    title="What of a prompt survives compression into a frozen language model",
    hypothesis="A frozen language model answers from a compressed prompt as it answers from the text.",
    phases=(instrument.PHASE, reconstruction.PHASE, perplexity.PHASE, frontier.PHASE, sequences.PHASE),
)
