"""The pictures of P2 and P3, measured here and drawn by `meaning_figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from inscape.core.estimate import Estimate
from inscape.core.rundir import RunDir
from inscape.data.scenes import EDITS
from inscape.data.scenes.pools import codec_set
from inscape.studies.visual import meaning_figures
from inscape.studies.visual.coding import embed_sentences
from inscape.studies.visual.meaning_metrics import name_for
from inscape.studies.visual.model import TrainedCodec
from inscape.studies.visual.sources import Source

__all__ = ["as_rows", "draw_meaning", "note_captions"]

DRAWN = 600  # sentences on the map
CHANCE = 0.5  # of telling two apart


def draw_meaning(
    run: RunDir, codec: TrainedCodec, source: Source, metrics: Mapping[str, Estimate], facts: Sequence[int]
) -> None:
    """The map of z and, where the corpus is the grammar, the bars of the edits."""
    folder = run.figures
    sentences, labels, name = source.held_out(DRAWN), [], "words"
    if any(key.startswith("told_apart") for key in metrics):
        sets = [codec_set(DRAWN // len(facts), facts=n) for n in facts]
        sentences = [sentence for each in sets for sentence in each.sentences]
        labels = [scene.facts[0].relation for each in sets for scene in each.scenes]
        name = "relation (of the first fact)"
        rows_EF3 = np.stack(
            [as_rows([metrics.get(name_for(f"told_apart_{edit}", n)) for n in facts]) for edit in EDITS]
        )
        meaning_figures.edit_bars(EDITS, facts, rows_EF3, folder / "edit_bars.png", chance=CHANCE)
    else:
        labels = [f"{5 * (len(sentence.split()) // 5)} or more" for sentence in sentences]
    z_NZ = embed_sentences(codec, sentences)
    meaning_figures.embedding_map(z_NZ, labels, folder / "embedding_map.png", label_name=name)
    note_captions(run)


def as_rows(estimates: Sequence[Estimate | None]) -> np.ndarray:
    """(value, low, high) of each; NaN where nothing was measured."""
    return np.array([(e.value, e.low, e.high) if e else (np.nan,) * 3 for e in estimates], dtype=np.float64)


def note_captions(run: RunDir) -> None:
    """Add the captions of the pictures that were drawn to those the run has."""
    known = run.read_json("figures/captions.json") or {}
    drawn = {name: text for name, text in meaning_figures.CAPTIONS.items() if (run.figures / name).is_file()}
    run.write_json("figures/captions.json", {**known, **drawn})
