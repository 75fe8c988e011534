"""Hard negatives as arrays: for each scene one that is a single edit away, at the rate of `fast.py`.

The edits, and the chance of each result of an edit, are those of `counterfactual`: a proposal is drawn uniformly and
taken back if it changes nothing, keeps the meaning, is not plain or leaves the split. Where an edit finds nothing in
TRIES attempts (mostly because it does not apply to the scene), the next edit of the list is tried.

Legend: B scenes, F = 3 facts, P = 6 objects (figure and ground of each fact), A = 4 attributes of an object.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from inscape.data.scenes.counterfactuals import EDITS
from inscape.data.scenes.fast import assemble, first_fitting, in_split, take_apart, uniforms
from inscape.data.scenes.sampling import check_split
from inscape.data.scenes.scene import COLOURS, COUNTS, INVERSES, MAX_FACTS, RELATIONS, SHAPES, SIZES

__all__ = ["Counterfactuals", "draw_counterfactuals"]

TRIES = 64
ACROSS = EDITS.index("across")
_STREAM = 2 << 32

ATTRIBUTES = ("count", "size", "colour", "shape")
_SHAPE = tuple(map(len, (COUNTS, SIZES, COLOURS, SHAPES)))
# The relations as they can be said: index of the relation, and whether its arguments are turned.
_SAID = np.array(
    [(i, 0) for i in range(len(RELATIONS))] + [(RELATIONS.index(relation), 1) for relation in INVERSES.values()]
)


class Counterfactuals(NamedTuple):
    """One edit away from each scene given, and which: an index into EDITS. -1 in both where no edit applies."""

    scenes_BF: np.ndarray
    edit_B: np.ndarray


def draw_counterfactuals(
    scenes_BF: np.ndarray,
    seed: int,
    index_B: np.ndarray,
    *,
    edits: Sequence[str] = EDITS,
    split: str | None = "train",
) -> Counterfactuals:
    """One hard negative a scene: an edit of `edits` at random (repeat one to draw it more often), and a result of it.

    A pure function of each row's (scene, seed, index). ValueError on an unknown edit or split.
    """
    unknown = [edit for edit in edits if edit not in EDITS]
    if unknown or not edits:
        raise ValueError(f"edits are {list(edits)}; allowed: one or more of {', '.join(EDITS)}")
    check_split(split)
    scenes_BF, index_B = np.asarray(scenes_BF), np.asarray(index_B)
    # The edits to try, from a random one on: for scenes of several facts, and for single ones without `across`.
    several = [EDITS.index(edit) for edit in edits]
    single = [edit for edit in several if edit != ACROSS] or several
    choices = np.array([several, np.resize(single, len(several))])
    alone_B = ((scenes_BF >= 0).sum(axis=1) == 1).astype(np.int64)
    length_B = np.where(alone_B, len(single), len(several))
    start_B = (uniforms(seed, _STREAM, index_B, 1)[:, 0] * length_B).astype(np.int64)

    def edit_at(rows: np.ndarray, attempts: np.ndarray) -> np.ndarray:
        return choices[alone_B[rows], (start_B[rows] + (attempts - 1) // TRIES) % length_B[rows]]

    def propose(rows: np.ndarray, attempts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        draws = uniforms(seed, _STREAM + attempts, index_B[rows], 4)
        codes, plain = _edited(scenes_BF[rows], edit_at(rows, attempts), draws)
        changed = (codes != scenes_BF[rows]).any(axis=1)
        return codes, plain & changed & in_split(codes, split)

    others_BF, attempt_B = first_fitting(len(scenes_BF), propose, at_most=TRIES * len(several))
    edit_B = edit_at(np.arange(len(scenes_BF)), np.maximum(attempt_B, 1))
    return Counterfactuals(others_BF, np.where(attempt_B > 0, edit_B, -1))


def _edited(scenes_BF: np.ndarray, edit_B: np.ndarray, draws_B4: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each scene after a proposal of its edit, and whether it is plain; what cannot be leaves it unchanged."""
    relation, figure, ground = take_apart(scenes_BF)
    said_BF = scenes_BF >= 0
    count_B = said_BF.sum(axis=1)
    objects_BP = np.stack([figure, ground], axis=-1).reshape(len(scenes_BF), -1)
    values_BPA = np.stack(np.unravel_index(objects_BP, _SHAPE), axis=-1)
    place_B = (draws_B4[:, 0] * 2 * count_B).astype(np.int64)

    _set_value(values_BPA, edit_B, place_B, draws_B4[:, 1])
    _exchange(values_BPA, edit_B, place_B, count_B, draws_B4)
    rows = np.flatnonzero(edit_B == EDITS.index("relation"))
    said = _SAID[(draws_B4[rows, 1] * len(_SAID)).astype(np.int64)]
    rows, said = (kept[said[:, 0] != relation[rows, place_B[rows] // 2]] for kept in (rows, said))
    relation[rows, place_B[rows] // 2] = said[:, 0]
    rows = rows[said[:, 1] == 1]
    _swap(values_BPA, rows, place_B[rows], place_B[rows] ^ 1, np.arange(len(ATTRIBUTES)))

    figure, ground = np.moveaxis(
        np.ravel_multi_index(tuple(np.moveaxis(values_BPA, -1, 0)), _SHAPE).reshape(-1, MAX_FACTS, 2), -1, 0
    )
    return assemble(relation, figure, ground, said_BF)


def _set_value(values_BPA: np.ndarray, edit_B: np.ndarray, place_B: np.ndarray, draw_B: np.ndarray) -> None:
    """Edits of one attribute of one object, in place. A size is set only where one is stated, to one that is stated."""
    for a, (attribute, size) in enumerate(zip(ATTRIBUTES, _SHAPE, strict=True)):
        rows = np.flatnonzero(edit_B == EDITS.index(attribute))
        value = (draw_B[rows] * size).astype(np.int64)
        if attribute == "size":
            stated = (value > 0) & (values_BPA[rows, place_B[rows], a] > 0)
            rows, value = rows[stated], value[stated]
        values_BPA[rows, place_B[rows], a] = value


def _exchange(
    values_BPA: np.ndarray, edit_B: np.ndarray, place_B: np.ndarray, count_B: np.ndarray, draws_B4: np.ndarray
) -> None:
    """Edits by which two objects exchange one attribute or all, in place."""
    every = np.arange(len(ATTRIBUTES))
    rows = np.flatnonzero(edit_B == EDITS.index("arguments"))
    _swap(values_BPA, rows, place_B[rows], place_B[rows] ^ 1, every)
    binding = edit_B == EDITS.index("binding")
    across = (edit_B == ACROSS) & (count_B > 1)
    # The partner stands in one of the other facts: a step of 2 to 2 (facts - 1) + 1 places from the first of this fact.
    step_B = 2 + (draws_B4[:, 1] * 2 * (count_B - 1)).astype(np.int64)
    partner_B = np.where(binding, place_B ^ 1, ((place_B & ~1) + step_B) % (2 * count_B))
    option_B = (draws_B4[:, 2] * np.where(across, len(ATTRIBUTES) + 1, len(ATTRIBUTES))).astype(np.int64)
    for attributes in (*every[:, None], every):
        option = attributes[0] if len(attributes) == 1 else len(ATTRIBUTES)
        rows = np.flatnonzero((binding | across) & (option_B == option))
        _swap(values_BPA, rows, place_B[rows], partner_B[rows], attributes)


def _swap(values_BPA: np.ndarray, rows: np.ndarray, a: np.ndarray, b: np.ndarray, attributes: np.ndarray) -> None:
    ours = values_BPA[rows[:, None], a[:, None], attributes]
    values_BPA[rows[:, None], a[:, None], attributes] = values_BPA[rows[:, None], b[:, None], attributes]
    values_BPA[rows[:, None], b[:, None], attributes] = ours
