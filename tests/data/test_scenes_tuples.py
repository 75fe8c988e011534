"""Tuples against the parser: what means the same, what is one edit away, and that they are functions of their numbers.

Legend as in the module: B sentences of a rank, the second half one edit away from the first; T tokens.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inscape.data.scenes import EDITS, SPLITS, WORDS, canonical, is_plain, parse, split_of
from inscape.data.scenes.counterfactuals import all_counterfactuals
from inscape.data.scenes.fast import phrase_table
from inscape.data.scenes.fast_counterfactuals import Counterfactuals
from inscape.data.scenes.tuples import SWAPS, Tuples, facts_of_step, shared_pairs, tuples_at
from inscape.data.tokenizer import BOS, EOS, PAD

TABLE = phrase_table({word: [10 + i] for i, word in enumerate(WORDS)})
TOKENS = ("sentence_BT", "paraphrase_BT", "canonical_BT", "reworded_BT")


def drawn(step: int = 3, size: int = 64, *, seed: int = 5, **settings: Any) -> Tuples:
    return tuples_at(TABLE, seed=seed, step=step, size=size, **settings)


def texts(tokens_BT: np.ndarray) -> list[str]:
    rows = []
    for row in tokens_BT.tolist():
        end = row.index(EOS)
        assert row[0] == BOS
        assert not any(row[end + 1 :])
        assert min(row[1:end]) >= 10
        rows.append(" ".join(WORDS[i - 10] for i in row[1:end]))
    return rows


def only(facts: int) -> tuple[float, ...]:
    return tuple(float(n == facts) for n in (1, 2, 3))


@pytest.mark.parametrize("split", [*SPLITS, None])
@pytest.mark.parametrize("facts", [1, 2, 3])
def test_wordings_of_a_row_mean_the_same_and_rows_lie_in_their_split(facts: int, split: str | None):
    tuples = drawn(facts=only(facts), split=split)
    said = {name: texts(getattr(tuples, name)) for name in TOKENS}
    scenes = [parse(text) for text in said["sentence_BT"]]
    assert [parse(text) for text in said["paraphrase_BT"]] == scenes
    assert [parse(text) for text in said["reworded_BT"]] == scenes
    assert said["canonical_BT"] == [canonical(scene) for scene in scenes]
    assert all(is_plain(scene) and len(scene.facts) == facts for scene in scenes)
    assert all(split in (None, split_of(scene)) for scene in scenes)
    for one, other in (("sentence_BT", "paraphrase_BT"), ("paraphrase_BT", "reworded_BT")):
        assert sum(a == b for a, b in zip(said[one], said[other], strict=True)) <= 2
    assert len({getattr(tuples, name).shape for name in TOKENS}) == 1
    assert all(getattr(tuples, name).dtype == np.int64 for name in TOKENS)


@pytest.mark.parametrize("facts", [1, 2, 3])
def test_a_row_and_its_partner_differ_by_the_edit_that_is_named(facts: int):
    tuples = drawn(size=240, facts=only(facts))
    scenes = [parse(text) for text in texts(tuples.sentence_BT)]
    assert tuples.edit_E.shape == (120,)
    assert tuples.edit_E.min() >= 0
    for scene, other, edit in zip(scenes, scenes[120:], tuples.edit_E, strict=False):
        assert other in all_counterfactuals(scene, EDITS[edit])
    assert len({*scenes}) == 240, "no scene twice, or one would be its own negative"


def test_swaps_are_drawn_as_much_oftener_as_asked():
    for swaps, share in ((0, 3 / 8), (2, 9 / 14)):
        edits = Counter(EDITS[i] for i in drawn(size=4000, facts=only(2), swaps=swaps).edit_E)
        assert sum(edits[swap] for swap in SWAPS) / 2000 == pytest.approx(share, abs=0.06)


def test_where_no_edit_applies_another_scene_stands_in(monkeypatch: pytest.MonkeyPatch):
    def never(scenes_BF: np.ndarray, *_: object, **__: object) -> Counterfactuals:
        return Counterfactuals(np.full_like(scenes_BF, -1), np.full(len(scenes_BF), -1))

    found = drawn(size=8)
    monkeypatch.setattr("inscape.data.scenes.tuples.draw_counterfactuals", never)
    tuples = drawn(size=8)
    assert tuples.edit_E.tolist() == [-1] * 4
    scenes = [parse(text) for text in texts(tuples.sentence_BT)]
    assert len({*scenes}) == 8
    assert [parse(text) for text in texts(found.sentence_BT)][:4] == scenes[:4]


@pytest.mark.parametrize("facts", [1, 2])
def test_a_family_may_have_several_edits_and_none_twice(facts: int):
    tuples = drawn(size=240, facts=only(facts), edited=5)
    scenes = [parse(text) for text in texts(tuples.sentence_BT)]
    assert tuples.edit_E.shape == (200,)
    assert (tuples.edit_E >= 0).mean() > 0.7, "one fact has few swaps, and those that come again are replaced"
    for row, edit in enumerate(tuples.edit_E):
        if edit >= 0:
            assert scenes[40 + row] in all_counterfactuals(scenes[row % 40], EDITS[edit])
    assert len({*scenes}) == 240, "no scene twice, or one would be its own negative"


def test_they_are_functions_of_their_numbers():
    first, again = drawn(), drawn()
    for name in (*TOKENS, "edit_E"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    kept = set(texts(first.canonical_BT))
    for other in (drawn(step=4), drawn(seed=6), drawn(step=2)):
        assert not kept & set(texts(other.canonical_BT))


def test_ranks_share_the_step_and_no_sentence():
    whole = drawn(size=64, facts=only(2))
    parts = [drawn(size=64, rank=rank, world=4, facts=only(2)) for rank in range(4)]
    assert all(len(part.sentence_BT) == 16 for part in parts)
    for name in TOKENS:
        halves = [(texts(getattr(part, name))[:8], texts(getattr(part, name))[8:]) for part in parts]
        first, second = ([text for half in halves for text in half[i]] for i in (0, 1))
        assert first + second == texts(getattr(whole, name))
    assert np.concatenate([part.edit_E for part in parts]).tolist() == whole.edit_E.tolist()


def test_all_sentences_of_a_step_say_as_many_facts_and_steps_follow_the_weights():
    counts = Counter(facts_of_step(5, step, (1, 2, 3)) for step in range(6000))
    for facts, weight in zip((1, 2, 3), (1, 2, 3), strict=True):
        assert counts[facts] / 6000 == pytest.approx(weight / 6, abs=0.03)
    for step in range(4):
        scenes = [parse(text) for text in texts(drawn(step=step, size=8).sentence_BT)]
        assert {len(scene.facts) for scene in scenes} == {facts_of_step(5, step, (1, 1, 1))}
    assert {facts_of_step(0, step, (0, 7, 0)) for step in range(50)} == {2}
    assert {facts_of_step(0, step, (0.5, 0, 0.5)) for step in range(50)} == {1, 3}
    ranks = [drawn(step=7, size=16, rank=rank, world=2) for rank in (0, 1)]
    assert len({len(parse(text).facts) for part in ranks for text in texts(part.sentence_BT)}) == 1


@pytest.mark.parametrize("facts", [(0, 0, 0), (1, -1, 1), (1, 1), (1, float("nan"), 1), (float("inf"), 1, 1)])
def test_weights_that_are_no_distribution_are_refused(facts: tuple[float, ...]):
    with pytest.raises(ValueError, match=r"weights of 1, 2 and 3 facts: three numbers, 0 or more, not all 0"):
        drawn(facts=facts)


@pytest.mark.parametrize(
    ("size", "rank", "world"), [(7, 0, 1), (2, 0, 1), (6, 0, 4), (12, 0, 4), (8, 2, 2), (8, -1, 2)]
)
def test_sizes_that_cannot_be_shared_are_refused(size: int, rank: int, world: int):
    with pytest.raises(ValueError, match=f"size {size}, edited 1, rank {rank}, world {world}: size must be a mult"):
        drawn(size=size, rank=rank, world=world)


def test_the_reworded_one_shares_fewer_pairs_of_words_than_a_random_wording():
    tuples = drawn(size=200, facts=only(2))
    ours = shared_pairs(tuples.paraphrase_BT, tuples.reworded_BT).mean()
    assert ours < 0.9 * shared_pairs(tuples.paraphrase_BT, tuples.sentence_BT).mean()


def test_of_more_rewordings_the_chosen_one_shares_less_and_the_rest_stays_as_it_was():
    few, many = (drawn(size=256, rewordings=n) for n in (3, 12))
    shared = [shared_pairs(t.paraphrase_BT, t.reworded_BT) for t in (few, many)]
    assert (shared[1] <= shared[0]).all()
    assert shared[1].mean() < 0.9 * shared[0].mean()
    for name in TOKENS[:3]:
        assert texts(getattr(few, name)) == texts(getattr(many, name))
    with pytest.raises(ValueError, match="rewordings 0"):
        drawn(rewordings=0)


def test_partners_are_worded_independently():
    """Else the hard negative would be the sentence in its paraphrase's very words, but for the edit."""
    tuples = drawn(size=600, facts=only(2))
    names = ("sentence_BT", "paraphrase_BT")
    usual = shared_pairs(tuples.sentence_BT, tuples.paraphrase_BT).mean()
    for first in names:
        for second in names:
            across = shared_pairs(getattr(tuples, first)[:300], getattr(tuples, second)[300:]).mean()
            assert across < 1.1 * usual, f"{first} and the partner's {second}"


@given(st.lists(st.lists(st.integers(10, 13), min_size=1, max_size=6), min_size=2, max_size=2))
def test_shared_pairs_are_counted(words: list[list[int]]):
    rows = [[BOS, *row, EOS] for row in words]
    padded = np.array([row + [PAD] * (8 - len(row)) for row in rows])
    first, second = ([*pairwise(row)] for row in rows)
    expected = sum(pair in first for pair in second if pair[1] != EOS)
    assert shared_pairs(padded[:1], padded[1:]).tolist() == [expected]
