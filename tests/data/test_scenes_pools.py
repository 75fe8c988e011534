"""The pools hold every counterfactual and one right answer, stay in their split, and are the same for everyone."""

from collections import Counter
from itertools import product

import numpy as np
import pytest

from inscape.data.scenes import EDITS, Fact, Object, Scene, is_plain, parse, pools, split_of
from inscape.data.scenes.counterfactuals import all_counterfactuals, counterfactual
from inscape.data.scenes.fast_counterfactuals import draw_counterfactuals
from inscape.data.scenes.pools import codec_set, edit_pairs, retrieval_pool
from inscape.data.scenes.scene import COLOURS, COUNTS, INVERSES, RELATIONS, SHAPES, SIZES, scene_from_codes

VALUES = {"count": COUNTS, "size": SIZES, "colour": COLOURS, "shape": SHAPES}
SIZE = {1: 200, 2: 400, 3: 700}


@pytest.fixture(scope="module", params=[1, 2, 3])
def found(request):
    """A small pool, with its number of facts."""
    return request.param, retrieval_pool(SIZE[request.param], facts=request.param, seed=4)


def varied(thing, **values):
    words = {name: getattr(thing, name) for name in VALUES} | values
    return Object(**words)


def edits_between(scene, other):
    """The types of edit that lead from one fact to another, judged from the two alone by the words of the rules."""
    (a,), (b,) = scene.facts, other.facts
    turned = [(b.ground, b.figure)] if b.relation == "next to" else []
    types = set()
    for f, g in [(b.figure, b.ground), *turned]:
        if b.relation != a.relation:
            types |= {"relation"} if {f, g} == {a.figure, a.ground} else set()
            continue
        types |= {"arguments"} if (f, g) == (a.ground, a.figure) else set()
        for name in VALUES:
            x, y = getattr(a.figure, name), getattr(a.ground, name)
            crossed = varied(a.figure, **{name: y}), varied(a.ground, **{name: x})
            types |= {"binding"} if (f, g) == crossed else set()
            one = (f == varied(a.figure, **{name: getattr(f, name)}), g == a.ground)
            two = (f == a.figure, g == varied(a.ground, **{name: getattr(g, name)}))
            before, after = (x, getattr(f, name)) if all(one) else (y, getattr(g, name))
            types |= (
                {name} if (all(one) or all(two)) and None not in ((before, after) if name == "size" else ()) else set()
            )
    return types


def neighbours(scene):
    """Far more than the scenes one edit away: every relation over all near variants and mixtures of both objects."""
    (fact,) = scene.facts
    pair = fact.figure, fact.ground
    things = {varied(thing, **{name: value}) for thing in pair for name in VALUES for value in VALUES[name]}
    things |= {Object(*words) for words in product(*({getattr(t, n) for t in pair} for n in VALUES))}
    facts = (Fact(r, f, g) for r, f, g in product((*RELATIONS, *INVERSES), things, things))
    return {other for other in (Scene([f]) for f in facts) if other != scene and is_plain(other)}


@pytest.mark.parametrize(
    "text", ["two small red balls are on a blue cone", "a large red ball is beside a small red cone"]
)
def test_all_counterfactuals_of_one_fact_are_those_that_the_rules_name(text):
    scene = parse(text)
    by_edit = {edit: set() for edit in EDITS}
    for other in neighbours(scene):
        for edit in edits_between(scene, other):
            by_edit[edit].add(other)
    assert {edit: set(all_counterfactuals(scene, edit)) for edit in EDITS} == by_edit


@pytest.mark.parametrize("edit", EDITS)
def test_all_counterfactuals_of_three_facts_are_those_that_the_array_sampler_reaches(edit):
    scene = parse(
        "a small red ball is on two blue blocks and a red cone is next to a white ball "
        "and a black rod is in a large gray ring"
    )
    everything = all_counterfactuals(scene, edit)
    assert len(set(everything)) == len(everything)
    assert all(scene in all_counterfactuals(other, edit) for other in everything)  # the pool relies on it
    number = 2_000
    made = draw_counterfactuals(np.tile(scene.codes, (number, 1)), 3, np.arange(number), edits=[edit], split=None)
    assert set(everything) == {scene_from_codes(row) for row in made.scenes_BF}
    rng = np.random.default_rng(0)
    assert {counterfactual(scene, edit, rng) for _ in range(100)} <= set(everything)


def test_a_pool_holds_every_counterfactual_of_every_query(found):
    facts, pool = found
    assert len(pool.queries) == len(pool.targets_N) == len(pool.distractors) > 1
    assert len(pool.pool) == len(pool.scenes) == SIZE[facts]
    assert [parse(text) for text in pool.pool] == list(pool.scenes)
    for query, target, (rows_C, edits_C) in zip(pool.queries, pool.targets_N, pool.distractors, strict=True):
        scene = parse(query)
        assert pool.scenes[target] == scene
        named = {(EDITS[edit], pool.scenes[row]) for row, edit in zip(rows_C, edits_C, strict=True)}
        assert named == {(edit, other) for edit in EDITS for other in all_counterfactuals(scene, edit)}
        assert len(named) == len(rows_C)


def test_each_query_has_one_right_answer_which_is_another_sentence(found):
    facts, pool = found
    assert len(set(pool.scenes)) == len(set(pool.pool)) == SIZE[facts]
    assert len(set(pool.targets_N.tolist())) == len(pool.targets_N)
    assert not set(pool.queries) & set(pool.pool)


def test_queries_and_fillers_are_of_the_split_and_counterfactuals_need_not_be(found):
    facts, pool = found
    assert {len(scene.facts) for scene in pool.scenes} == {facts}
    assert {split_of(pool.scenes[row]) for row in pool.targets_N} == {"test"}
    rows = {row for distractors in pool.distractors for row in distractors.rows_C.tolist()}
    others = set(range(len(pool.pool))) - rows - set(pool.targets_N.tolist())
    assert {split_of(pool.scenes[row]) for row in others} == {"test"}
    assert {split_of(pool.scenes[row]) for row in rows} >= {"test", "heldout"}
    # Another query would have been asked for if an average one had fitted twice over.
    assert len(others) < 2 * len(rows) / len(pool.queries)


def test_the_place_of_a_row_says_nothing():
    pool = retrieval_pool(2_000, facts=1)
    assert 0.35 < pool.targets_N.mean() / 2_000 < 0.65
    assert pool.targets_N.tolist() != sorted(pool.targets_N.tolist())


def test_a_scene_near_another_query_is_not_asked_for_and_what_two_share_stands_once(monkeypatch):
    first = parse("two small red balls are on a blue cone")
    near = parse("two small red balls are on a green cone")
    apart = parse("two large red balls are on a green cone")  # two edits: both ways round lie between them
    drawn, sample = iter([first, near, first, apart]), pools.sample
    monkeypatch.setattr(pools, "sample", lambda *args, **words: next(drawn, None) or sample(*args, **words))
    pool = retrieval_pool(200, facts=1)
    assert [pool.scenes[row] for row in pool.targets_N[:2]] == [first, apart]
    assert len(set(pool.scenes)) == 200
    a, b = ({pool.scenes[row] for row in pool.distractors[i].rows_C} for i in (0, 1))
    assert {near, parse("two large red balls are on a blue cone")} <= a & b


@pytest.mark.parametrize("split", ["validation", "test", "heldout"])
def test_codec_sets_are_distinct_sentences_of_their_split(split):
    made = codec_set(60, facts=2, seed=1, split=split)
    assert [parse(text) for text in made.sentences] == list(made.scenes)
    assert len(set(made.sentences)) == len(set(made.scenes)) == 60
    assert {split_of(scene) for scene in made.scenes} == {split}
    assert codec_set(20, facts=2, seed=1, split=split).sentences == made.sentences[:20]
    assert {len(scene.facts) for scene in codec_set(30, split=split).scenes} == {1, 2, 3}


@pytest.mark.parametrize("facts", [1, 3])
def test_edit_pairs_mean_the_same_and_something_else(facts):
    pairs = edit_pairs(12, facts=facts, seed=2)
    applicable = [edit for edit in EDITS if edit != "across" or facts > 1]
    assert Counter(pair.edit for pair in pairs) == dict.fromkeys(applicable, 12)
    for anchor, paraphrase, other, edit in pairs:
        scene = parse(anchor)
        assert split_of(scene) == "test"
        assert parse(paraphrase) == scene
        assert paraphrase != anchor
        assert parse(other) in all_counterfactuals(scene, edit)
    assert len({parse(pair.anchor) for pair in pairs}) == len(pairs)


def test_the_sets_are_functions_of_facts_and_seed():
    def drawn(facts, seed):
        pool = retrieval_pool(250, facts=facts, seed=seed)
        return pool.queries, pool.pool, edit_pairs(2, facts=facts, seed=seed), codec_set(5, facts=facts, seed=seed)

    first, again, other_seed, other_facts = drawn(1, 0), drawn(1, 0), drawn(1, 1), drawn(2, 0)
    assert first == again
    for part, seeded, counted in zip(first, other_seed, other_facts, strict=True):
        assert part not in (seeded, counted)
    assert not set(first[0]) & set(first[3].sentences)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match=r"size is 20; allowed: \d+ or more, which the first query takes"):
        retrieval_pool(20, facts=3)
    with pytest.raises(ValueError, match="facts is 4; allowed: 1 to 3"):
        retrieval_pool(facts=4)
    with pytest.raises(ValueError, match="split is 'dev'; allowed: train, validation, test"):
        codec_set(3, split="dev")
    with pytest.raises(ValueError, match="count is 0; allowed: 1 or more"):
        codec_set(0)
    with pytest.raises(ValueError, match="per_edit is 0; allowed: 1 or more"):
        edit_pairs(0)
