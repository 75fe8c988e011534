"""Rewordings never change the meaning, counterfactuals always do and by the named edit only."""

import time
from collections import Counter

import numpy as np
import pytest

from inscape.data.scenes import (
    AUGMENTATIONS,
    EDITS,
    SPLITS,
    Fact,
    Object,
    Scene,
    augment,
    counterfactual,
    is_plain,
    paraphrase,
    parse,
    render,
    sample,
    split_of,
)
from inscape.data.scenes.fast import draw_scenes
from inscape.data.scenes.fast_counterfactuals import draw_counterfactuals
from inscape.data.scenes.scene import scene_from_codes

ATTRIBUTES = ("count", "size", "colour", "shape")


def differing(a, b):
    """The facts that only one of the scenes has, as (lost, gained)."""
    return set(a.facts) - set(b.facts), set(b.facts) - set(a.facts)


def objects_of(facts):
    return Counter(thing for fact in facts for thing in (fact.figure, fact.ground))


def values_of(facts, attribute):
    return Counter(getattr(thing, attribute) for fact in facts for thing in (fact.figure, fact.ground))


def is_edit(scene, other, edit):
    """Whether `other` is `scene` after one edit of this type, judged from the two scenes alone."""
    lost, gained = differing(scene, other)
    if len(lost) != len(gained) or not lost:
        return False
    kept = {a for a in ATTRIBUTES if values_of(lost, a) == values_of(gained, a)}
    relations = Counter(f.relation for f in lost) == Counter(f.relation for f in gained)
    if edit in ATTRIBUTES:
        removed, added = objects_of(lost) - objects_of(gained), objects_of(gained) - objects_of(lost)
        return len(lost) == 1 and relations and len(removed) == len(added) == 1 and kept == {*ATTRIBUTES} - {edit}
    if edit == "across":
        return len(lost) == 2 and relations and kept == {*ATTRIBUTES}
    (before,), (after,) = lost, gained
    if edit == "relation":
        return not relations and objects_of(lost) == objects_of(gained)
    if edit == "arguments":
        return relations and (before.figure, before.ground) == (after.ground, after.figure)
    return edit == "binding" and relations and kept == {*ATTRIBUTES}


def check_augmented(pairs, seed):
    """Label errors among this many augmented pairs, and how many pairs each augmentation gave."""
    rng = np.random.default_rng(seed)
    errors, made, i = 0, Counter(), 0
    while made.total() < pairs:
        name = AUGMENTATIONS[i % len(AUGMENTATIONS)]
        i += 1
        scene = sample(rng)
        text = render(scene, rng)
        other = augment(text, name, rng)
        if other is None:
            continue
        made[name] += 1
        errors += other == text or parse(other) != scene or parse(text) != scene
    return errors, made


def check_counterfactuals(pairs, seed):
    """Label errors among this many counterfactuals put into words and read back, and the number of each edit."""
    rng = np.random.default_rng(seed)
    errors, made, i = 0, Counter(), 0
    while made.total() < pairs:
        edit = EDITS[i % len(EDITS)]
        i += 1
        scene = sample(rng)
        other = counterfactual(scene, edit, rng)
        if other is None:
            continue
        made[edit] += 1
        errors += parse(render(other, rng)) != other or not is_plain(other) or not is_edit(scene, other, edit)
    return errors, made


def test_ten_thousand_augmented_pairs_have_no_label_error():
    errors, made = check_augmented(10_000, seed=0)
    assert errors == 0
    assert set(made) == set(AUGMENTATIONS)
    assert min(made.values()) > 300


def test_ten_thousand_counterfactuals_have_no_label_error():
    errors, made = check_counterfactuals(10_000, seed=0)
    assert errors == 0
    assert set(made) == set(EDITS)
    assert min(made.values()) > 700


@pytest.mark.slow
@pytest.mark.parametrize("check", [check_augmented, check_counterfactuals])
def test_a_million_pairs_have_no_label_error(check, capsys):
    start = time.perf_counter()
    errors, made = check(1_000_000, seed=1)
    with capsys.disabled():
        seconds = time.perf_counter() - start
        print(f"\n{check.__name__}: {errors} errors in {made.total():,} pairs {dict(made)}, {seconds:.0f} s")
    assert errors == 0


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("shuffle", "a red ball is on a blue block and a green cone is behind a red star",
         {"a green cone is behind a red star and a red ball is on a blue block"}),
        ("synonym", "the little red cone is behind a medium red ball",
         {"the small red cone is behind a medium red ball", "the tiny red cone is behind a medium red ball"}),
        ("synonym", "a gray cone is beside a red star",
         {"a grey cone is beside a red star"} | {f"a {gray} cone is next to a red star" for gray in ("gray", "grey")}),
        ("determiner", "two tiny red balls are behind the gray star",
         {f"{a} tiny red balls are behind {b} gray star" for a in ("two", "the two") for b in ("a", "the", "one")}
         - {"two tiny red balls are behind the gray star"}),
        ("determiner", "one orange cone is behind two red stars",
         {f"{a} orange cone is behind {b} red stars" for a in ("an", "the", "one") for b in ("two", "the two")}
         - {"one orange cone is behind two red stars"}),
        ("voice", "the blue block supports a red ball", {"a red ball is supported by the blue block"}),
        ("voice", "there are two red cubes that are held by a blue ring",
         {"there is a blue ring that holds two red cubes", "there is a blue ring which holds two red cubes"}),
        ("voice", "on a red star is a blue cone", {None}),
        ("inverse", "a red ball is in front of the blue cone", {"the blue cone is behind a red ball"}),
        ("inverse", "behind the blue cone sits a red ball",
         {f"in front of a red ball {verb} the blue cone" for verb in ("sits", "stands", "lies")}),
        ("inverse", "a red ball is in the blue ring",
         {f"the blue ring {verb} a red ball" for verb in ("contains", "holds")}),
        ("inverse", "a red ball is next to the blue cone",
         {f"the blue cone is {phrase} a red ball" for phrase in ("next to", "beside")}),
        ("renaming", "two big red balls are on a gray star", {"two big red spheres are on a gray star"}),
        ("renaming", "two red cones are on a blue star", {None}),
    ],
)  # fmt: skip
def test_each_augmentation_does_what_its_name_says(name, text, allowed):
    rng = np.random.default_rng(0)
    assert {augment(text, name, rng) for _ in range(80)} == allowed


def test_one_fact_has_no_order_and_a_doubled_clause_has_no_other():
    rng = np.random.default_rng(0)
    assert augment("a red ball is on a blue block", "shuffle", rng) is None
    assert augment("a red ball is on a blue block and a red ball is on a blue block", "shuffle", rng) is None


def test_paraphrases_keep_the_scene_and_differ_from_the_text():
    rng = np.random.default_rng(0)
    text = "A red ball is on the blue block."
    made = {paraphrase(text, rng) for _ in range(3_000)}
    assert {parse(other) for other in made} == {parse(text)}
    assert "a red ball is on the blue block" not in made
    assert len(made) > 1_000
    assert parse(paraphrase(parse(text), rng)) == parse(text)


def test_edits_that_would_keep_the_meaning_are_refused():
    rng = np.random.default_rng(0)
    ball, block = Object(2, None, "red", "ball"), Object(2, None, "blue", "block")
    beside = Scene([Fact("next to", ball, block)])
    assert counterfactual(beside, "arguments", rng) is None
    assert counterfactual(beside, "size", rng) is None
    assert counterfactual(beside, "across", rng) is None
    same_shape = Scene([Fact("next to", ball, Object(2, None, "blue", "ball"))])
    assert counterfactual(same_shape, "binding", rng) is None  # exchanging the colours only turns it round
    turned = counterfactual(Scene([Fact("on", ball, Object(2, None, "blue", "ball"))]), "binding", rng)
    assert turned == Scene([Fact("under", ball, Object(2, None, "blue", "ball"))])


def test_relation_edits_reach_every_other_relation_and_never_the_inverse():
    rng = np.random.default_rng(0)
    scene = parse("a red ball is on a blue block")
    reached = [counterfactual(scene, "relation", rng) for _ in range(200)]
    ways = {(f.relation, f.figure.shape) for other in reached if other for f in other.facts}
    both = {(r, s) for r in ("left of", "in front of", "inside") for s in ("ball", "block")}
    assert {way for way in ways if way[0] != "next to"} == both
    assert {relation for relation, _ in ways} == {"left of", "in front of", "inside", "next to"}


@pytest.mark.parametrize("facts", [1, 2, 3])
def test_counterfactuals_drawn_as_arrays_are_single_edits_within_their_split(facts):
    index_B = np.arange(700)
    scenes_BF = draw_scenes(1, index_B, facts=facts)
    made = draw_counterfactuals(scenes_BF, 1, index_B)
    for codes, other_codes, edit in zip(scenes_BF, made.scenes_BF, made.edit_B, strict=True):
        scene, other = scene_from_codes(codes), scene_from_codes(other_codes)
        assert is_edit(scene, other, EDITS[edit])
        assert is_plain(other)
        assert split_of(other) == "train"
        assert other.codes == tuple(other_codes[other_codes >= 0].tolist())
    shares = np.bincount(made.edit_B, minlength=len(EDITS)) / len(index_B)
    applicable = [edit != "across" or facts > 1 for edit in EDITS]
    assert (shares[applicable] > 0.06).all()
    assert (shares[~np.array(applicable)] == 0).all()
    part = draw_counterfactuals(scenes_BF[40:43], 1, index_B[40:43])
    assert (part.scenes_BF == made.scenes_BF[40:43]).all()


@pytest.mark.parametrize("edit", EDITS)
def test_counterfactuals_drawn_as_arrays_have_the_results_and_chances_of_the_scalar_ones(edit):
    scene = parse("a small red ball is on two blue blocks and a red cone is next to a white ball")
    rng = np.random.default_rng(0)
    number = 3_000
    scalar = Counter(counterfactual(scene, edit, rng) for _ in range(number))
    codes = np.tile([*scene.codes, -1], (number, 1))
    made = draw_counterfactuals(codes, 3, np.arange(number), edits=[edit], split=None)
    arrays = Counter(scene_from_codes(row) for row in made.scenes_BF)
    assert set(scalar) == set(arrays)
    expected = number / len(scalar)
    assert max(abs(scalar[k] - arrays[k]) for k in arrays) < 6 * (2 * expected) ** 0.5


def test_counterfactuals_drawn_as_arrays_say_where_no_edit_applies():
    codes = [
        [*parse(text).codes, -1, -1] for text in ("a red ball is beside a red cone", "a red ball is on a red cone")
    ]
    made = draw_counterfactuals(np.array(codes), 0, np.arange(2), edits=["arguments", "across"], split=None)
    assert made.edit_B.tolist() == [-1, EDITS.index("arguments")]
    assert made.scenes_BF.tolist() == [[-1, -1, -1], [*parse("a red cone is on a red ball").codes, -1, -1]]
    for edits in (["swap"], []):
        with pytest.raises(ValueError, match="allowed: one or more of colour, shape"):
            draw_counterfactuals(np.array(codes), 0, np.arange(2), edits=edits)


@pytest.mark.parametrize("split", SPLITS)
def test_counterfactuals_stay_in_the_split_asked_for(split):
    rng = np.random.default_rng(0)
    made = [counterfactual(sample(rng, split=split), EDITS[i % len(EDITS)], rng, split=split) for i in range(200)]
    kept = [other for other in made if other is not None]
    assert {split_of(other) for other in kept} == {split}
    assert len(kept) > 60


def test_unknown_names_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="augmentation is 'passive'; allowed: shuffle, determiner, inverse"):
        augment("a red ball is on a blue block", "passive", rng)
    with pytest.raises(ValueError, match="edit is 'swap'; allowed: colour, shape"):
        counterfactual(parse("a red ball is on a blue block"), "swap", rng)
    with pytest.raises(ValueError, match="split is 'dev'; allowed: train, validation, test, heldout"):
        counterfactual(parse("a red ball is on a blue block"), "colour", rng, split="dev")
