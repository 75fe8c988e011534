"""The audio-fusion study: its hypothesis and its phases, in order."""

from inscape.core.study import Study
from inscape.studies.audio_fusion import connectivity, fixes, forgetting, identity, phase1, phase2

__all__ = ["STUDY"]

STUDY = Study(
    name="audio-fusion",
    title="A frozen language model that is taught to hear",
    hypothesis="A frozen language model can be taught to write what it hears, its words come from the sound, and its "
    "way with text is left alone.",
    phases=(identity.PHASE, connectivity.PHASE, phase1.PHASE, phase2.PHASE, forgetting.PHASE, fixes.PHASE),
)
