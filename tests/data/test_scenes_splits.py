"""No kept scene is ever trained on, every word still is, and the evaluation pack is the same for everyone."""

from collections import Counter

import numpy as np
import pytest

from inscape.data.scenes import EDITS, SPLITS, Scene, is_plain, parse, sample, split_of
from inscape.data.scenes.evaluation import evaluation_pack
from inscape.data.scenes.fast import draw_scenes
from inscape.data.scenes.scene import COLOURS, NAME_COUNT, RELATIONS, SHAPES, scene_from_codes
from inscape.data.scenes.splits import HELD_OUT, splits_of_facts


def combinations(scene):
    return {(fact.relation, *thing.name) for fact in scene.facts for thing in (fact.figure, fact.ground)}


HELD = {
    (relation, colour, shape)
    for r, relation in enumerate(RELATIONS)
    for c, colour in enumerate(COLOURS)
    for s, shape in enumerate(SHAPES)
    if (c + r) % 2 == 0 and s == (2 * c + r) % 9
}


def test_the_held_out_combinations_are_few_and_spread():
    assert len(HELD) == HELD_OUT.sum() == 25
    assert Counter(relation for relation, _, _ in HELD) == dict.fromkeys(RELATIONS, 5)
    assert set(Counter(colour for _, colour, _ in HELD).values()) == {2, 3}
    assert set(Counter(shape for _, _, shape in HELD)) == set(SHAPES)
    assert max(Counter((colour, shape) for _, colour, shape in HELD).values()) == 1


def test_training_scenes_show_everything_but_the_held_out():
    codes = draw_scenes(0, np.arange(20_000), split="train")
    seen = Counter(c for row in codes for c in combinations(scene_from_codes(row)))
    assert not set(seen) & HELD
    assert len(seen) == len(RELATIONS) * NAME_COUNT - len(HELD)
    assert min(seen.values()) > 60
    heldout = draw_scenes(0, np.arange(2_000), split="heldout")
    assert all(combinations(scene_from_codes(row)) & HELD for row in heldout)


def test_no_fact_of_a_later_split_is_in_an_earlier_one():
    facts = {}
    for name in SPLITS:
        codes = draw_scenes(1, np.arange(20_000), split=name)
        dealt = splits_of_facts(codes)
        assert dealt.max() == SPLITS.index(name)
        facts[name] = {
            code
            for code, split in zip(codes[codes >= 0], dealt[codes >= 0], strict=True)
            if split == SPLITS.index(name)
        }
        assert {split_of(scene_from_codes(row)) for row in codes[:300]} == {name}
    for i, first in enumerate(SPLITS):
        for second in SPLITS[i + 1 :]:
            assert not facts[first] & facts[second]


def test_shares_of_the_splits():
    rng = np.random.default_rng(0)
    share = Counter(split_of(sample(rng, facts=1)) for _ in range(6_000))
    assert share["validation"] / 6_000 == pytest.approx(0.044, abs=0.012)
    assert share["test"] / 6_000 == pytest.approx(0.044, abs=0.012)
    assert share["heldout"] / 6_000 == pytest.approx(0.11, abs=0.02)


def test_a_scene_is_as_strict_as_its_strictest_fact():
    train, heldout = sample(0, facts=1, split="train"), sample(0, facts=1, split="heldout")
    assert split_of(Scene([*train.facts, *heldout.facts])) == "heldout"
    test, validation = sample(0, facts=1, split="test"), sample(0, facts=1, split="validation")
    assert split_of(Scene([*train.facts, *validation.facts, *test.facts])) == "test"


@pytest.mark.parametrize("split", [*SPLITS, None])
@pytest.mark.parametrize("facts", [1, 2, 3, None])
def test_samples_are_plain_and_as_asked(facts, split):
    rng = np.random.default_rng(0)
    scenes = [sample(rng, facts=facts, split=split) for _ in range(30)]
    assert all(is_plain(scene) for scene in scenes)
    assert {len(scene.facts) for scene in scenes} == ({facts} if facts else {1, 2, 3})
    if split:
        assert {split_of(scene) for scene in scenes} == {split}


def test_sampling_is_a_function_of_its_seed():
    assert sample(7) == sample(7) == sample(np.random.default_rng(7))
    assert sample(7) != sample(8)
    assert sample() != sample()


@pytest.mark.parametrize("facts", [0, 4, True, "mixed"])
def test_nonsense_is_refused(facts):
    with pytest.raises(ValueError, match=r"facts is .*; allowed: 1 to 3, or None"):
        sample(0, facts=facts)
    with pytest.raises(ValueError, match="split is 'dev'; allowed: train"):
        sample(0, split="dev")


def test_the_evaluation_pack_is_the_one_that_figures_name():
    pack = evaluation_pack()
    assert pack.version == "7ce42c3250dd639e"
    evaluation_pack.cache_clear()
    assert evaluation_pack() == pack


def test_every_label_of_the_evaluation_pack_is_right():
    items = evaluation_pack().items
    assert Counter((item.split, item.facts) for item in items) == Counter(
        {(split, facts): 100 for split in SPLITS[1:] for facts in (1, 2, 3)}
    )
    assert len({parse(item.sentence) for item in items}) == len(items)
    for item in items:
        scene = parse(item.sentence)
        assert (split_of(scene), len(scene.facts)) == (item.split, item.facts)
        assert parse(item.paraphrase) == parse(item.canonical) == scene
        assert item.paraphrase != item.sentence
        assert scene not in [parse(text) for text in item.counterfactuals.values()]
    applied = Counter(edit for item in items for edit in item.counterfactuals)
    assert set(applied) == set(EDITS)
    assert min(applied.values()) > 500


def test_the_montage_is_sixteen_sentences_with_two_pairs_of_equal_meaning():
    montage = evaluation_pack().montage
    scenes = [parse(text) for text in montage]
    assert len(set(montage)) == 16
    assert [i for i, scene in enumerate(scenes) if scenes.index(scene) != i] == [1, 13]
    words = {word for text in montage for word in text.split()}
    assert set(COLOURS) <= words
    assert {fact.relation for scene in scenes for fact in scene.facts} == set(RELATIONS)
    assert {thing.shape for scene in scenes for thing in scene.objects} == set(SHAPES)
