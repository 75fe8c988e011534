"""Retrieval and its relatives: a planted embedding is found, a constant or a random one is not."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from inscape.metrics.retrieval import TIE, cosine_gap, recall_at, target_ranks, told_apart


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


MEANING = normal(0, 300, 32)
NOISY = MEANING + 0.1 * normal(1, 300, 32)
CONSTANT = np.broadcast_to(normal(2, 32), (300, 32)).astype(np.float32)
EACH = np.arange(300)
# Small integers: equal cosines happen often.
ROWS = arrays(np.float64, (9, 2), elements=st.integers(-2, 2).map(float))


def plain_ranks(query, pool, target):
    """Ranks one cosine at a time, ties against the query."""

    def cosine(a, b):
        norms = float(np.linalg.norm(a) * np.linalg.norm(b))
        return float(a @ b) / norms if norms else 0.0

    return [
        sum(cosine(q, item) >= cosine(q, pool[t]) - TIE for i, item in enumerate(pool) if i != t)
        for q, t in zip(query, target, strict=True)
    ]


@given(ROWS, ROWS, arrays(np.int64, 9, elements=st.integers(0, 8)))
def test_ranks_are_counted_item_by_item(query, pool, target):
    assert target_ranks(query, pool, target).tolist() == plain_ranks(query, pool, target)


def test_a_planted_embedding_is_found_wherever_its_target_stands():
    order = np.random.default_rng(3).permutation(300)
    found = recall_at(NOISY, MEANING[order], np.argsort(order), 1)
    assert (found.value, found.n, found.unit) == (1, 300, "scenes")
    assert found.low < 1
    assert recall_at(NOISY, MEANING[order], np.roll(np.argsort(order), 1), 1).value < 0.05


@pytest.mark.parametrize("k", [1, 10, 299])
def test_a_constant_embedding_finds_nothing(k):
    assert recall_at(CONSTANT, CONSTANT, EACH, k).value == 0
    assert recall_at(np.zeros((300, 4)), np.zeros((300, 4)), EACH, k).value == 0
    # All but one float's rounding is equal to a collapse too.
    rounded = CONSTANT * (1 + 1e-7 * normal(4, *CONSTANT.shape))
    assert recall_at(rounded, rounded, EACH, k).value == 0


def test_a_random_embedding_finds_its_target_by_chance():
    found = recall_at(normal(5, 3000, 8), normal(6, 50, 8), np.arange(3000) % 50, 10)
    assert found.low < 0.2 < found.high


def test_recall_grows_with_k_and_blocks_change_nothing(monkeypatch):
    weak = MEANING + 2 * normal(7, 300, 32)
    found = [recall_at(weak, MEANING, EACH, k) for k in (1, 5, 50)]
    assert 0 < found[0].value < found[1].value < found[2].value < 1
    monkeypatch.setattr("inscape.metrics.retrieval.BLOCK", 7)
    assert [recall_at(weak, MEANING, EACH, k) for k in (1, 5, 50)] == found


def test_length_says_nothing_and_tensors_are_welcome():
    scale = np.exp(20 * normal(8, 300, 1))
    assert recall_at(scale * NOISY, MEANING / scale, EACH, 1).value == 1
    assert recall_at(1e-200 * NOISY, 1e200 * MEANING, EACH, 1).value == 1
    assert recall_at(torch.tensor(NOISY).float(), torch.tensor(MEANING).float(), torch.arange(300), 1).value == 1


def test_the_gap_of_orthogonal_rows_is_one():
    rows = np.eye(8)
    assert cosine_gap(rows, 3 * rows).value == pytest.approx(1)
    assert cosine_gap(rows, rows, -rows.sum(0, keepdims=True)).value == pytest.approx(1 + 1 / np.sqrt(8))
    assert cosine_gap(rows, rows, 5 * rows[:2]).value == pytest.approx(1 - 1 / 8)  # two rows in eight have 1 / 2
    assert cosine_gap(rows, -rows, rows[:1]).value == pytest.approx(-1 - 1 / 8)


def test_without_a_pool_the_others_are_all_other_positives():
    first, second = (rows[:20] / np.linalg.norm(rows[:20], axis=1, keepdims=True) for rows in (NOISY, MEANING))
    cosine = first @ second.T
    others = (cosine.sum() - np.trace(cosine)) / (20 * 19)
    assert cosine_gap(NOISY[:20], MEANING[:20]).value == pytest.approx(np.trace(cosine) / 20 - others)


def test_the_gap_is_wide_where_planted_and_nothing_where_empty():
    assert cosine_gap(NOISY, MEANING).low > 0.9
    assert cosine_gap(CONSTANT, CONSTANT).value == pytest.approx(0, abs=1e-12)
    shuffled = cosine_gap(NOISY, np.roll(MEANING, 1, axis=0))
    assert shuffled.low < 0 < shuffled.high


def test_meanings_are_told_apart_where_planted_and_not_where_empty():
    other = np.roll(MEANING, 1, axis=0)
    assert told_apart(MEANING, NOISY, other).value == 1
    assert told_apart(MEANING, other, NOISY).value == 0
    assert told_apart(CONSTANT, CONSTANT, CONSTANT).value == 0, "a tie is wrong"
    assert told_apart(MEANING, NOISY, NOISY).value == 0
    assert told_apart(*(CONSTANT * (1 + 1e-7 * normal(seed, *CONSTANT.shape)) for seed in range(3))).value == 0
    chance = told_apart(*normal(9, 3, 2000, 8))
    assert chance.low < 0.5 < chance.high


@given(ROWS, ROWS, ROWS)
def test_of_two_orders_at_most_one_is_right(anchor, positive, negative):
    one, other = told_apart(anchor, positive, negative), told_apart(anchor, negative, positive)
    assert 0 <= one.value <= 1 - other.value <= 1


BROKEN = np.where(np.arange(32) == 3, np.nan, NOISY)


@pytest.mark.parametrize(
    "measure",
    [
        lambda: recall_at(BROKEN, MEANING, EACH, 1),
        lambda: recall_at(NOISY, BROKEN, EACH, 1),
        lambda: recall_at(NOISY, MEANING, EACH, 0),
        lambda: recall_at(NOISY, MEANING, EACH, 300),
        lambda: recall_at(NOISY[:1], MEANING[:1], EACH[:1], 1),
        lambda: recall_at(NOISY, MEANING, EACH + 1, 1),
        lambda: recall_at(NOISY, MEANING, EACH - 1, 1),
        lambda: recall_at(NOISY, MEANING, EACH * 1.0, 1),
        lambda: recall_at(NOISY, MEANING, EACH[:5], 1),
        lambda: recall_at(NOISY, MEANING[:, :5], EACH, 1),
        lambda: recall_at(NOISY[0], MEANING, EACH, 1),
        lambda: cosine_gap(BROKEN, MEANING),
        lambda: cosine_gap(NOISY[:1], MEANING[:1]),
        lambda: cosine_gap(NOISY, MEANING[:5]),
        lambda: cosine_gap(NOISY, MEANING, MEANING[:0]),
        lambda: cosine_gap(NOISY, MEANING, MEANING[:, :5]),
        lambda: told_apart(NOISY, MEANING, BROKEN),
        lambda: told_apart(NOISY, MEANING, MEANING[:5]),
    ],
)
def test_nonsense_is_refused(measure):
    with pytest.raises(ValueError, match=r"embeddings|recall_at|retrieval|cosine_gap"):
        measure()
