"""What is asked of every listener that was taught: that it says more than it could without ears, and of the sound."""

from __future__ import annotations

from inscape.core.gate import Criterion, Gate
from inscape.studies.audio_fusion.sounds import SoundConfig

__all__ = ["LISTENING", "MASKED", "gate_of_sounds"]

LISTENING = (
    Criterion("three_times_no_audio", at_least=0, source="calibrated", why="CIDEr less three times that of the same "
              "model without audio"),
    Criterion("over_constant", at_least=1, source="calibrated", why="CIDEr over that of the one training caption that "
              "fits best: what needs no ears"),
    Criterion("degenerate_share", at_most=0.05, source="calibrated", why="captions that repeat or are empty"),
    Criterion("gain_lost_less_four_fifths", at_least=0, role="control", source="calibrated", why="given another clip's "
              "sound, four fifths of the gain over no audio must go: else the captions do not come from the sound"),
    Criterion("silence_over_constant", at_most=5, role="control", source="calibrated", why="of silence nothing can be "
              "said that is right of a clip"),
    Criterion("prefers_right_clip", at_least=0.75, role="control", source="calibrated", why="a caption must be more "
              "probable with its own clip than with a wrong one"),
    Criterion("gain_over_no_audio", at_least=1, role="control", source="calibrated", why="CIDEr with the sound less "
              "CIDEr without"),
    Criterion("model_changed", at_most=0, role="control", source="calibrated", why="the frozen model's weights, before "
              "and after"),
    Criterion("gate_0_difference", at_most=0, role="control", source="calibrated", why="with the gate shut a trained "
              "listener must be the frozen model, bit for bit"),
    Criterion("silent_difference", at_most=0, role="control", source="calibrated", why="a clip without a single frame "
              "must change nothing, where uniform attention over nothing would"),
    Criterion("leaks", at_most=0, role="control", source="calibrated", why="no held-out clip may be a training clip"),
    Criterion("smallest_gradient_norm", at_least=1e-9, role="control", source="plan"),
)  # fmt: skip

# Of files, how well one caption for all scores hangs on which clips are held out.
MASKED = Criterion("heard_through_mask", at_most=0, role="control", source="calibrated", why="of a clip whose frames "
                   "are all masked must be said what is said without audio, word for word: no frame adds exactly "
                   "nothing, and a listener that looks past its mask speaks of the clip")  # fmt: skip


def gate_of_sounds(gate: Gate, data: SoundConfig) -> Gate:
    """The gate for the corpus: of files, what is said of masked clips is compared, and silence is not scored."""
    kept = [each for each in gate.criteria if each.metric != "silence_over_constant"]
    return Gate((*kept, MASKED)) if data.path else gate
