"""Replay, empty context, truncation and another prompt's latent; each can fail."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from planted_recall import START, random_model
from table_only_model import planted_model, planted_prompts

from inscape.compressors.controls import EmptyContext, Replay, other_prompt, travels_alone
from inscape.compressors.interface import Compressed, Injected, Saved
from inscape.compressors.kv_pruning import KvPruning
from inscape.compressors.pca import Pca
from inscape.compressors.quantised import Quantised
from inscape.compressors.stored import load_compressor, restored, restored_projector
from inscape.compressors.truncation import EqualBits, EqualVectors, ids_from_bytes, ids_to_bytes, tokens_within

LM, PROMPTS = planted_model(), planted_prompts()


def test_replay_is_the_table_bit_for_bit() -> None:
    replay = Replay().fit(LM, PROMPTS, seed=0)
    sent = replay.compress(LM, PROMPTS[0])
    assert torch.equal(replay.inject(LM, sent).rows_MD, LM.table_VD[PROMPTS[0]])
    assert replay.bits(sent) == len(PROMPTS[0]) * 16 * 32
    half = planted_model()._replace(table_VD=LM.table_VD.bfloat16())
    assert replay.inject(half, replay.compress(half, PROMPTS[0])).rows_MD.dtype == torch.bfloat16


def test_an_empty_context_sends_nothing() -> None:
    sent = EmptyContext().compress(LM, PROMPTS[0])
    assert EmptyContext().inject(LM, sent).rows_MD.shape == (0, 16)
    assert (EmptyContext().bits(sent), sent.vectors, sent.tokens) == (0.0, 0, len(PROMPTS[0]))
    assert (EmptyContext().ratio, EmptyContext().needs_context_only) == (math.inf, True)


# --- truncation ---------------------------------------------------------------------------------------------------


@given(st.integers(1, 5000), st.data())
def test_ids_travel_in_whole_bytes_at_log2_v_each(rows: int, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, rows - 1), max_size=40))
    content = ids_to_bytes(torch.tensor(ids, dtype=torch.int64), rows)
    assert ids_from_bytes(content, rows, len(ids)).tolist() == ids
    bits = len(ids) * math.log2(rows)
    assert bits - 1e-9 <= 8 * len(content) < bits + 8 + 1e-9


@given(st.floats(0, 5000), st.integers(2, 50_000), st.integers(0, 300))
def test_as_many_tokens_as_fit_and_no_more(bits: float, rows: int, tokens: int) -> None:
    kept = tokens_within(bits, rows, tokens)
    size = 8 * len(ids_to_bytes(torch.full((kept,), rows - 1), rows))
    assert kept == 0 or size <= bits
    if kept < tokens:
        assert 8 * len(ids_to_bytes(torch.full((kept + 1,), rows - 1), rows)) > bits


def test_equal_vectors_keeps_the_beginning() -> None:
    ids_T = torch.arange(23)
    kept = EqualVectors(4.0)
    sent = kept.compress(LM, ids_T)
    assert (sent.tokens, sent.vectors) == (23, 5)
    assert torch.equal(kept.inject(LM, sent).rows_MD, LM.table_VD[:5])
    assert kept.bits(sent) == 8 * math.ceil(5 * math.log2(60) / 8)
    with pytest.raises(ValueError, match="3 tokens cannot be compressed 4 times"):
        kept.compress(LM, torch.arange(3))


def test_at_equal_bits_a_row_wise_latent_buys_the_whole_context() -> None:
    """d float16 numbers a token against 6 bits an id: nothing is saved by narrow rows, and the control shows it."""
    ids_T = PROMPTS[0]
    pca = Pca(16.0, wire="float16").fit(LM, PROMPTS, seed=0)  # one number a token
    whole = EqualBits(pca)
    sent = whole.compress(LM, ids_T)
    assert sent.vectors == len(ids_T)
    assert torch.equal(whole.inject(LM, sent).rows_MD, LM.table_VD[ids_T])
    assert whole.bits(sent) < pca.bits(pca.compress(LM, ids_T))


def test_at_equal_bits_a_sequence_compressor_is_met_exactly() -> None:
    few = EqualBits(EqualVectors(4.0))
    sent = few.compress(LM, torch.arange(40))
    assert sent.vectors in (10, 11)  # bytes are whole
    assert few.bits(sent) == EqualVectors(4.0).bits(EqualVectors(4.0).compress(LM, torch.arange(40)))
    none = EqualBits(EmptyContext())
    assert none.inject(LM, none.compress(LM, torch.arange(9))).rows_MD.shape == (0, 16)


# --- another prompt's latent --------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=40), st.integers(0, 10**6))
def test_each_prompt_gets_another_groups_and_each_is_used_once(groups: list[str], seed: int) -> None:
    assume(2 * max(groups.count(group) for group in groups) <= len(groups))
    other_P = other_prompt(groups, seed)
    assert sorted(other_P.tolist()) == list(range(len(groups)))
    assert all(groups[i] != groups[j] for i, j in enumerate(other_P))
    assert np.array_equal(other_P, other_prompt(groups, seed))


def test_the_seed_draws_other_partners() -> None:
    groups = [str(i // 2) for i in range(40)]
    assert not np.array_equal(other_prompt(groups, 0), other_prompt(groups, 1))


def test_one_article_for_most_prompts_is_one_line() -> None:
    for groups in ([], ["a"], ["a", "a", "b"]):
        with pytest.raises(ValueError, match="are of one group"):
            other_prompt(groups, 0)


# --- only what travelled ------------------------------------------------------------------------------------------


class Remembers:
    """A receiver with the source's rows up its sleeve: perfect, and worth nothing."""

    name = "remembers"

    def compress(self, lm, ids_T) -> Compressed:
        self.row_TD = lm.table_VD[ids_T]
        return Compressed({}, len(ids_T), 0)

    def inject(self, lm, compressed) -> Injected:
        return Injected(self.row_TD)


@pytest.mark.parametrize("made_of", [Replay(), Pca(4.0), Quantised(Pca(4.0)), EqualVectors(2.0), EqualBits(Replay())])
def test_every_compressor_lives_on_what_travelled(made_of) -> None:
    assert travels_alone(made_of.fit(LM, PROMPTS, seed=0), LM, torch.arange(6), torch.arange(6, 12))


def test_a_receiver_that_remembers_the_source_is_caught() -> None:
    assert not travels_alone(Remembers(), LM, torch.arange(6), torch.arange(6, 12))


def test_caches_live_on_what_travelled_as_well() -> None:
    class Remembering:
        """A pruner whose receiver puts the latest context's keys into the cache, whatever was sent."""

        def __init__(self, inner: KvPruning) -> None:
            self.inner = inner

        def compress(self, lm, ids_T) -> Compressed:
            self.seen = self.inner.compress(lm, ids_T)
            return self.seen

        def inject(self, lm, compressed) -> Injected:
            return self.inner.inject(lm, self.seen)

    lm, pruning = random_model(), KvPruning(2.0, prefix=(START,))
    first_T, second_T = torch.arange(6), torch.arange(6, 12)
    assert travels_alone(pruning, lm, first_T, second_T)
    assert not travels_alone(Remembering(pruning), lm, first_T, second_T)


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "made_of", [Replay(), EmptyContext(), EqualVectors(3.0), EqualBits(EqualVectors(2.0)), Quantised(Replay(), 4, 8)]
)
def test_a_file_brings_any_of_them_back(made_of, tmp_path) -> None:
    made_of.save(tmp_path / "it.safetensors")
    for again in (load_compressor(tmp_path / "it.safetensors"), type(made_of).load(tmp_path / "it.safetensors")):
        assert (again.name, again.ratio) == (made_of.name, made_of.ratio)
        rows = [c.inject(LM, c.compress(LM, PROMPTS[0])).rows_MD for c in (made_of, again)]
        assert torch.equal(*rows)


def test_sequence_compressors_come_through_the_same_door(tmp_path) -> None:
    KvPruning(ratio=4.0).save(tmp_path / "it.safetensors")
    assert isinstance(load_compressor(tmp_path / "it.safetensors"), KvPruning)


def test_an_unknown_kind_is_one_line() -> None:
    with pytest.raises(ValueError, match="kind 'magic' is not known"):
        restored(Saved("magic", {}, {}))
    with pytest.raises(ValueError, match="no projection of rows; allowed: pca, random_orthogonal"):
        restored_projector(Saved("replay", {}, {}))
