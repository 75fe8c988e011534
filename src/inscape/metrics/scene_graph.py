"""Is the meaning there? A text is read by the grammar's parser and its scene compared with the one it should state.

`scene_exact` asks whether the scenes are equal. Graph F1 says how much of the scene is there, as SPICE does for image
captions: a scene is a collection of tuples, and F1 counts the tuples that two scenes share. For every fact:

    object      (shape), for figure and ground each
    attribute   (shape, count), (shape, colour) and, where a size is said, (shape, size), for figure and ground each
    relation    (relation, figure, ground), with the whole objects as its arguments

Tuples are counted as often as they occur. Two things differ from SPICE, so that F1 is 1 exactly when the scenes are
equal: a relation's arguments are whole objects and not nouns, since "the red ball on the blue ball" turned about has
the same nouns; and synonyms are normalised by the grammar and not by WordNet.

F1 is generous to bags of words. For scenes of `sample` with 1, 2 and 3 facts, swapped arguments in one fact still have
0.88, 0.94 and 0.96, a wrong colour 0.76, 0.88 and 0.92, another scene drawn at random 0.07, 0.13 and 0.18. It is to be
read beside `scene_exact`, never for it. Source: Anderson et al. 2016, "SPICE".
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from inscape.core.estimate import Estimate, bootstrap_mean, proportion
from inscape.data.scenes import Object, Scene, parse

__all__ = ["SceneScores", "graph_f1", "scene_exact", "score_by_facts", "score_scenes", "text_graph_f1"]

UNIT = "scenes"

# ("object", shape), ("count", shape, 2), ("colour", shape, "red"), ("size", shape, "small"), (relation, figure, ground)
GraphTuple = tuple[str, str] | tuple[str, str, int | str] | tuple[str, Object, Object]


class SceneScores(NamedTuple):
    """Of texts that should each state a scene: mean Graph F1, share exact, share that is a sentence of the grammar."""

    graph_f1: Estimate
    exact: Estimate
    grammatical: Estimate


def graph_f1(expected: Scene, got: Scene) -> float:
    """F1 over the tuples of two scenes, in [0, 1]; symmetric, and 1 exactly when they are equal."""
    first, second = _tuples(expected), _tuples(got)
    return 2 * (first & second).total() / (first.total() + second.total())


def text_graph_f1(text: str, scene: Scene) -> float:
    """`graph_f1` of the scene that the text states; 0 for a text outside the grammar."""
    got = _read(text)
    return 0.0 if got is None else graph_f1(scene, got)


def scene_exact(text: str, scene: Scene) -> bool:
    """Whether the text is a sentence of the grammar that states this scene, in any wording."""
    return _read(text) == scene


def score_scenes(texts: Sequence[str], scenes: Sequence[Scene]) -> SceneScores:
    """All scores of texts against the scenes they should state; of none, nothing is measured.

    ValueError if there are not as many texts as scenes.
    """
    _require_pairs(texts, scenes)
    got = [_read(text) for text in texts]
    pairs = list(zip(scenes, got, strict=True))
    return SceneScores(
        bootstrap_mean(
            [0.0 if found is None else graph_f1(scene, found) for scene, found in pairs], UNIT, mostly_whole=True
        ),
        proportion(sum(found == scene for scene, found in pairs), len(got), UNIT),
        proportion(sum(found is not None for found in got), len(got), UNIT),
    )


def score_by_facts(texts: Sequence[str], scenes: Sequence[Scene]) -> dict[int, SceneScores]:
    """`score_scenes` for the scenes of each number of facts that occurs, ascending: a mean hides the hard ones."""
    _require_pairs(texts, scenes)
    groups: dict[int, list[int]] = {}
    for i, scene in enumerate(scenes):
        groups.setdefault(len(scene.facts), []).append(i)
    return {n: score_scenes([texts[i] for i in groups[n]], [scenes[i] for i in groups[n]]) for n in sorted(groups)}


def _tuples(scene: Scene) -> Counter[GraphTuple]:
    tuples: Counter[GraphTuple] = Counter((fact.relation, fact.figure, fact.ground) for fact in scene.facts)
    for thing in scene.objects:
        tuples.update(
            (("object", thing.shape), ("count", thing.shape, thing.count), ("colour", thing.shape, thing.colour))
        )
        if thing.size is not None:
            tuples["size", thing.shape, thing.size] += 1
    return tuples


def _read(text: str) -> Scene | None:
    try:
        return parse(text)
    except ValueError:
        return None


def _require_pairs(texts: Sequence[str], scenes: Sequence[Scene]) -> None:
    if isinstance(texts, str) or len(texts) != len(scenes):
        given = "one text" if isinstance(texts, str) else f"{len(texts)} texts"
        raise ValueError(f"wanted a text for each scene, given {given} and {len(scenes)} scenes")
