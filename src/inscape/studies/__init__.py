"""The studies that this package ships: one folder and one line here each."""

from inscape.core.study import Study

__all__ = ["all_studies", "study"]


def all_studies() -> tuple[Study, ...]:
    """Every study, in the order of the house. Imported on call: the command line's help must not wait for torch."""
    from inscape.studies.audio_fusion.study import STUDY as AUDIO_FUSION
    from inscape.studies.audio_structure.study import STUDY as AUDIO_STRUCTURE
    from inscape.studies.prompt_compression.study import STUDY as PROMPT_COMPRESSION
    from inscape.studies.visual.study import STUDY as VISUAL

    return (VISUAL, AUDIO_STRUCTURE, PROMPT_COMPRESSION, AUDIO_FUSION)


def study(name: str) -> Study:
    """The study of this name; ValueError names those there are."""
    found = {s.name: s for s in all_studies()}
    if name not in found:
        raise ValueError(f"there is no study {name!r}; there are: {', '.join(found)}")
    return found[name]
