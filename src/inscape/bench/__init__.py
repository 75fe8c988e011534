"""Speed and memory figures behind `inscape bench NAME`, each measured beside a textbook version or a stated bound."""

from typing import Any

__all__ = ["measure"]


def measure(name: str) -> dict[str, Any]:
    """Run the benchmark of this name; ValueError names those there are.

    `prompt-compression:MODEL` and `audio-fusion:MODEL` are those of another language model than their default.
    """
    from inscape.bench import (
        audio_fusion,
        audio_structure,
        codec,
        explore,
        image_statistics,
        latent_size,
        processes,
        prompt_compression,
        scaling,
        visual_step,
    )

    found = {
        "visual-step": visual_step.run,
        "stats": image_statistics.run,
        "codec": codec.run,
        "latent-size": latent_size.run,
        "audio-structure": audio_structure.run,
        "prompt-compression": prompt_compression.run,
        "audio-fusion": audio_fusion.run,
        "explore": explore.run,
        "processes": processes.run,
        "scaling": scaling.run,
    }
    kind, _, model = name.partition(":")
    if model and kind in ("prompt-compression", "audio-fusion"):
        return (prompt_compression if kind == "prompt-compression" else audio_fusion).run(model)
    if name not in found:
        raise ValueError(f"there is no benchmark {name!r}; there are: {', '.join(found)}")
    return found[name]()
