"""The pictures of P2 and P3, measured here and drawn by `meaning_figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from inscape.core.estimate import Estimate
from inscape.core.rundir import RunDir
from inscape.data.scenes import EDITS, render
from inscape.data.scenes.counterfactuals import counterfactual
from inscape.data.scenes.pools import codec_set
from inscape.studies.visual import meaning_figures
from inscape.studies.visual.coding import embed_sentences
from inscape.studies.visual.meaning_metrics import HELD_OUT, name_for
from inscape.studies.visual.model import TrainedCodec
from inscape.studies.visual.sources import Source

__all__ = ["Point", "as_rows", "draw_meaning", "note_captions", "scenes_with_edits"]

DRAWN = 600  # sentences of a text file on the map
SCENES, WORDINGS = 20, 7  # scenes on the map, and of each a sentence with six paraphrases
CHANCE = 0.5  # of telling two apart


class Point(NamedTuple):
    """A sentence on the map: the scene that it words, or that it is one edit away from."""

    sentence: str
    scene: int
    edited: bool


def draw_meaning(
    run: RunDir, codec: TrainedCodec, source: Source, metrics: Mapping[str, Estimate], facts: Sequence[int]
) -> None:
    """The map of z and, where the corpus is the grammar, the bars of the edits."""
    folder = run.figures
    place = folder / "embedding_map.png"
    if any(key.startswith("told_apart") for key in metrics):
        shown = scenes_with_edits(facts)
        edited_B = np.array([point.edited for point in shown])
        z_NZ = embed_sentences(codec, [point.sentence for point in shown])
        labels = [point.scene for point in shown]
        name = f"{SCENES} scenes, a colour each"
        meaning_figures.embedding_map(z_NZ, labels, place, label_name=name, edited_B=edited_B)
        rows_EF3 = np.stack(
            [as_rows([metrics.get(name_for(f"told_apart_{edit}", n)) for n in facts]) for edit in EDITS]
        )
        meaning_figures.edit_bars(EDITS, facts, rows_EF3, folder / "edit_bars.png", chance=CHANCE)
    else:
        sentences = source.held_out(DRAWN)
        words = [f"{5 * (len(sentence.split()) // 5)} or more" for sentence in sentences]
        meaning_figures.embedding_map(embed_sentences(codec, sentences), words, place, label_name="words")
    note_captions(run)


def scenes_with_edits(facts: Sequence[int]) -> list[Point]:
    """`SCENES` held-out scenes, of each number of facts by turns, each in `WORDINGS` different wordings and, for every
    type of edit that applies, after one edit, worded at random; the same every time."""
    rng = np.random.default_rng(0)
    drawn = {n: codec_set(SCENES, facts=n, split=HELD_OUT).scenes for n in facts}
    points = []
    for number in range(SCENES):
        scene = drawn[facts[number % len(facts)]][number]
        worded: dict[str, None] = {}
        while len(worded) < WORDINGS:
            worded.setdefault(render(scene, rng))
        edits = (counterfactual(scene, edit, rng) for edit in EDITS)
        points += [Point(sentence, number, False) for sentence in worded]
        points += [Point(render(other, rng), number, True) for other in edits if other is not None]
    return points


def as_rows(estimates: Sequence[Estimate | None]) -> np.ndarray:
    """(value, low, high) of each; NaN where nothing was measured."""
    return np.array([(e.value, e.low, e.high) if e else (np.nan,) * 3 for e in estimates], dtype=np.float64)


def note_captions(run: RunDir) -> None:
    """Add the captions of the pictures that were drawn to those the run has."""
    known = run.read_json("figures/captions.json") or {}
    drawn = {name: text for name, text in meaning_figures.CAPTIONS.items() if (run.figures / name).is_file()}
    run.write_json("figures/captions.json", {**known, **drawn})
