"""The pictures of P4: what noise on V costs, and where the words were read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from inscape.core.estimate import Estimate
from inscape.core.rundir import RunDir
from inscape.studies.visual import meaning_figures
from inscape.studies.visual.coding import Reading, speak
from inscape.studies.visual.decoding_metrics import noise_name
from inscape.studies.visual.meaning_drawing import as_rows, note_captions
from inscape.studies.visual.meaning_metrics import name_for
from inscape.studies.visual.model import TrainedCodec, encode

__all__ = ["draw_attention", "draw_noise"]


def draw_noise(run: RunDir, metrics: Mapping[str, Estimate], facts: Sequence[int], sigmas: Sequence[float]) -> None:
    """Scenes read back exactly against the noise, from none on."""
    names = ["scene_exact", *map(noise_name, sigmas)]
    rows_FS3 = np.stack([as_rows([metrics.get(name_for(name, n)) for name in names]) for n in facts])
    sigma_S = np.array([0.0, *sigmas])
    meaning_figures.noise_curve(sigma_S, rows_FS3, facts, run.figures / "noise_curve.png")
    note_captions(run)


def draw_attention(run: RunDir, codec: TrainedCodec, sentence: str) -> None:
    """One sentence: its latent, and where each decoded word looked."""
    latent = encode(codec.to_latent, [sentence])
    spoken = speak(codec, latent, Reading(sees_z=False))
    words = spoken.texts[0].split()
    starts = np.flatnonzero(codec.tokenizer.starts_word()[spoken.tokens_NT[0]])[: len(words)]
    maps_TM = spoken.attention_NTM[0, starts, : codec.model.places]
    maps_THW = maps_TM.reshape(len(starts), *codec.model.reader.grid)
    meaning_figures.attention_over_latent(
        latent[0].numpy(), words[: len(starts)], maps_THW, run.figures / "attention_over_latent.png"
    )
    note_captions(run)
