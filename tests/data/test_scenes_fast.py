"""The array sampler writes the renderer's sentences, is a pure function of its numbers, and outruns training."""

import time
from typing import Any

import numpy as np
import pytest

from inscape.data.scenes import SPLITS, WORDS, canonical, is_plain, parse, sample, split_of
from inscape.data.scenes.fast import (
    batch_at,
    canonical_wordings,
    draw_scenes,
    draw_wordings,
    phrase_table,
    tokenise,
    uniforms,
)
from inscape.data.scenes.sampling import SCENE_DRAWS
from inscape.data.scenes.scene import scene_from_codes
from inscape.data.scenes.wording import WORDING_DRAWS, choose_wording, write
from inscape.data.tokenizer import BOS, BUCKETS, EOS, Tokenizer

# "left" takes two tokens: words need not be one token each.
WORD_IDS = {word: [10 + i] if word != "left" else [200, 201] for i, word in enumerate(WORDS)}
WORD_OF = {ids[0]: word for word, ids in WORD_IDS.items()}


@pytest.fixture(scope="module")
def table():
    return phrase_table(WORD_IDS)


def decode(tokens_BT, lengths_B):
    rows = zip(tokens_BT.tolist(), lengths_B.tolist(), strict=True)
    return [" ".join(WORD_OF[i] for i in row[1 : length - 1] if i != 201) for row, length in rows]


@pytest.mark.parametrize("split", [*SPLITS, None])
@pytest.mark.parametrize("facts", [1, 2, 3, None])
def test_every_batch_decodes_to_its_scenes_and_stays_in_its_split(table, facts, split):
    tokens_BT, lengths_B, scenes_BF = batch_at(table, seed=3, step=5, size=200, facts=facts, split=split)
    assert tokens_BT.dtype == lengths_B.dtype == scenes_BF.dtype == np.int64
    assert tokens_BT.shape[1] in BUCKETS
    scenes = [scene_from_codes(row) for row in scenes_BF]
    assert [parse(text) for text in decode(tokens_BT, lengths_B)] == scenes
    assert {len(scene.facts) for scene in scenes} == ({facts} if facts else {1, 2, 3})
    assert all(is_plain(scene) and split in (None, split_of(scene)) for scene in scenes)
    for row, length in zip(tokens_BT, lengths_B, strict=True):
        assert row[0] == BOS
        assert row[length - 1] == EOS
        assert (row[1 : length - 1] >= 10).all()
        assert not row[length:].any()


def test_the_same_draws_give_the_sentence_of_the_renderer(table):
    index_B = np.arange(1_000)
    scenes_BF = draw_scenes(1, index_B, facts=None, split=None)
    texts = decode(*tokenise(table, draw_wordings(scenes_BF, 1, index_B, stream=4)))
    draws = uniforms(1, 2**32 + 4, index_B, WORDING_DRAWS).tolist()
    scenes = [scene_from_codes(row) for row in scenes_BF]
    assert texts == [write(choose_wording(scene, u)) for scene, u in zip(scenes, draws, strict=True)]
    assert decode(*tokenise(table, canonical_wordings(scenes_BF))) == [canonical(scene) for scene in scenes]


class Replay(np.random.Generator):
    """A generator that gives the numbers of the array sampler, attempt by attempt."""

    def __init__(self, seed, index):
        super().__init__(np.random.PCG64(0))
        self.seed_index, self.attempt = (seed, index), 0

    def random(self, *args: Any, **kwargs: Any) -> Any:
        seed, index = self.seed_index
        self.attempt += 1
        return uniforms(seed, self.attempt, np.array([index]), *args, **kwargs)[0]


@pytest.mark.parametrize("split", [*SPLITS, None])
@pytest.mark.parametrize("facts", [1, 3])
def test_the_same_draws_give_the_scene_of_the_scalar_sampler(facts, split):
    scenes_BF = draw_scenes(9, np.arange(60), facts=facts, split=split)
    drawn = [sample(Replay(9, index), facts=facts, split=split).codes for index in range(60)]
    assert [tuple(row[row >= 0].tolist()) for row in scenes_BF] == drawn
    assert SCENE_DRAWS == 9


def test_a_sentence_depends_on_its_number_and_not_on_its_batch(table):
    whole = batch_at(table, seed=2, step=3, size=96)
    again = batch_at(table, seed=2, step=3, size=96)
    assert all((a == b).all() for a, b in zip(whole, again, strict=True))
    parts = [batch_at(table, seed=2, step=3, size=96, rank=rank, world=4, buckets=[64]) for rank in range(4)]
    assert (np.concatenate([part.scenes_BF for part in parts]) == whole.scenes_BF).all()
    tokens = np.concatenate([part.tokens_BT for part in parts])
    assert (tokens[:, : whole.tokens_BT.shape[1]] == whole.tokens_BT).all()
    one = draw_scenes(2, np.array([3 * 96 + 17]))
    assert (one[0] == whole.scenes_BF[17]).all()
    for other in (batch_at(table, seed=2, step=4, size=96), batch_at(table, seed=1, step=3, size=96)):
        assert not (other.scenes_BF == whole.scenes_BF).all(axis=1).any()


def test_streams_are_paraphrases(table):
    index_B = np.arange(300)
    scenes_BF = draw_scenes(0, index_B)
    first, second = (decode(*tokenise(table, draw_wordings(scenes_BF, 0, index_B, stream=s))) for s in (0, 1))
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 5
    assert [parse(text) for text in first] == [parse(text) for text in second]


def test_uniform_numbers_are_uniform_and_independent():
    draws = uniforms(5, 1, np.arange(40_000), 4)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert np.allclose(np.histogram(draws, 20, (0, 1))[0] / draws.size, 0.05, atol=0.003)
    shifted = np.concatenate([draws, uniforms(5, 2, np.arange(40_000), 4), np.roll(draws, 1, axis=0)], axis=1)
    off_diagonal = np.corrcoef(shifted.T) - np.eye(12)
    assert np.abs(off_diagonal).max() < 0.025


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_tokens_are_those_of_the_tokenizer(kind):
    texts = [" ".join(WORDS), *(canonical(sample(i)) for i in range(50))]
    tokenizer = Tokenizer.train(texts, 400, kind)
    index_B = np.arange(50)
    scenes_BF = draw_scenes(0, index_B, facts=1)
    tokens_BT, _ = tokenise(phrase_table(tokenizer.word_ids(WORDS)), draw_wordings(scenes_BF, 0, index_B))
    assert [parse(text) for text in tokenizer.decode(tokens_BT)] == [scene_from_codes(row) for row in scenes_BF]
    again = tokenizer.encode(tokenizer.decode(tokens_BT))
    assert (again == tokens_BT[:, : again.shape[1]]).all()


def test_bad_input_is_refused(table):
    with pytest.raises(ValueError, match="missing: cone, star"):
        phrase_table({word: ids for word, ids in WORD_IDS.items() if word not in ("cone", "star")})
    with pytest.raises(ValueError, match=r"size 10, rank 0, world 4: size must be a positive multiple of world"):
        batch_at(table, seed=0, step=0, size=10, world=4)
    with pytest.raises(ValueError, match="size 8, rank 4, world 4"):
        batch_at(table, seed=0, step=0, size=8, rank=4, world=4)
    with pytest.raises(ValueError, match=r"a sentence of \d+ tokens is longer than the largest bucket, 16"):
        batch_at(table, seed=0, step=0, size=8, facts=3, buckets=[8, 16])
    with pytest.raises(ValueError, match="facts is 0"):
        batch_at(table, seed=0, step=0, size=8, facts=0)


@pytest.mark.parametrize("facts", [1, None])
def test_at_least_fifty_thousand_sentences_a_second_on_one_core(table, facts):
    best = 0.0
    for attempt in range(5):
        start = time.process_time()
        for step in range(8):
            batch_at(table, seed=attempt, step=step, size=1024, facts=facts)
        best = max(best, 8 * 1024 / (time.process_time() - start))
    assert best > 50_000
