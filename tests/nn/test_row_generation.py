"""Fed with the table's own rows, or a cache that lost nothing, it writes what `generate` writes."""

import copy
import random

import pytest

pytest.importorskip("transformers")
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from inscape.nn import row_generation
from inscape.nn.row_generation import (
    CachedPrompt,
    continuation_logits,
    generate_from_cache,
    generate_from_caches,
    generate_rows,
    length_buckets,
)
from inscape.pretrained.language_model import LanguageModel, open_language_model

STOP = (256, 198)  # the sign for the end, and the line feed
NEW = 16


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return open_language_model("tiny")


def prompts(count: int, seed: int = 0, longest: int = 90) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(256) for _ in range(draw.randint(1, longest))] for _ in range(count)]


def plain(lm: LanguageModel, ids: list[int], new: int = NEW) -> list[int]:
    """transformers' own greedy generation, one prompt of ids at a time."""
    ids_1T = torch.tensor([ids])
    out = lm.model.generate(
        ids_1T, attention_mask=torch.ones_like(ids_1T), max_new_tokens=new, do_sample=False, eos_token_id=list(STOP)
    )
    return out[0, len(ids) :].tolist()


@torch.inference_mode()
def cached(lm: LanguageModel, ids: list[int], split: int, keep: list[int] | None = None) -> CachedPrompt:
    """The first `split` ids as a cache, of which positions `keep` are left; the rest as rows."""
    cache = lm.model(torch.tensor([ids[:split]]), use_cache=True).past_key_values
    positions = torch.arange(split) if keep is None else torch.tensor(keep, dtype=torch.long)
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[:, :, positions], layer.values[:, :, positions]
    return CachedPrompt(cache, positions, split, lm.rows(ids[split:]))


# --- the same as generate -----------------------------------------------------------------------------------------


def test_rows_of_the_table_give_what_ids_give_in_batches_of_any_size(lm: LanguageModel) -> None:
    asked = prompts(20)
    wanted = [plain(lm, ids) for ids in asked]
    assert len({tuple(said) for said in wanted}) > 16, "what is written depends on the prompt"
    assert {len(said) < NEW for said in wanted} == {True, False}, "some stop by themselves, and some are stopped"
    for batch in (1, 3, 16):
        assert generate_rows(lm, [lm.rows(i) for i in asked], max_new_tokens=NEW, stop_ids=STOP, batch=batch) == wanted


@settings(max_examples=10)
@given(asked=st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=40), min_size=1, max_size=5))
def test_a_batch_writes_what_each_writes_alone(lm: LanguageModel, asked: list[list[int]]) -> None:
    rows = [lm.rows(ids) for ids in asked]
    together = generate_rows(lm, rows, max_new_tokens=6, stop_ids=())
    assert together == [generate_rows(lm, [each], max_new_tokens=6, stop_ids=())[0] for each in rows]
    assert all(len(said) == 6 for said in together), "with nothing to stop at, it goes on to the end"


def test_learned_positions_are_counted_from_the_first_row_and_not_from_the_padding(lm: LanguageModel) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 128,
            "vocab_size": 257,
            "initializer_range": 0.3,
        }
        gpt2 = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=256, eos_token_id=256)).eval()
    other = LanguageModel(gpt2, lm.tokenizer, "gpt2")
    asked = prompts(8, seed=1, longest=30)
    assert other.window == 128
    assert generate_rows(other, [other.rows(ids) for ids in asked], max_new_tokens=NEW, stop_ids=STOP) == [
        plain(other, ids) for ids in asked
    ]


def test_the_historic_mistake_leaves_nothing_of_every_answer(lm: LanguageModel) -> None:
    """Given rows, transformers returns only the new ids; cutting the prompt's length off them made every F1 zero."""
    ids = prompts(1, seed=3)[0] * 2
    rows_1TD = lm.rows(ids)[None]
    mask_1T = torch.ones(rows_1TD.shape[:2], dtype=torch.long)
    out_1N = lm.model.generate(
        inputs_embeds=rows_1TD, attention_mask=mask_1T, max_new_tokens=NEW, do_sample=False, eos_token_id=list(STOP)
    )
    assert out_1N[0].tolist() == plain(lm, ids) != []
    assert lm.decode(out_1N[0, len(ids) :].tolist()) == "", "the mistake"
    (said,) = generate_rows(lm, [lm.rows(ids)], max_new_tokens=NEW, stop_ids=STOP)
    assert said == plain(lm, ids)


def test_the_id_that_stops_is_the_last_one_and_stands_once(lm: LanguageModel) -> None:
    asked = prompts(24)
    for said in generate_rows(lm, [lm.rows(ids) for ids in asked], max_new_tokens=NEW, stop_ids=STOP):
        assert not set(said[:-1]) & set(STOP)
        assert said[-1] in STOP or len(said) == NEW


def test_until_sees_all_new_ids_of_its_prompt_and_ends_it(lm: LanguageModel) -> None:
    asked = prompts(6, seed=9)
    rows = [lm.rows(ids) for ids in asked]
    whole = generate_rows(lm, rows, max_new_tokens=NEW, stop_ids=())
    ends = [said[3 + i] for i, said in enumerate(whole)]
    cut = generate_rows(lm, rows, max_new_tokens=NEW, stop_ids=(), until=lambda new: new[-1] in ends and len(new) > 2)
    first = [next(n for n, i in enumerate(said, 1) if i in ends and n > 2) for said in whole]
    assert cut == [said[:n] for said, n in zip(whole, first, strict=True)]


@pytest.mark.parametrize("tokens", [1, 70, 100_000])
def test_what_is_read_together_does_not_matter(lm: LanguageModel, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, some together, or all: as a GPU does it."""
    asked = prompts(10, seed=6)
    monkeypatch.setattr(row_generation, "CPU_TOKENS", tokens)
    rows = [lm.rows(ids) for ids in asked]
    assert generate_rows(lm, rows, max_new_tokens=NEW, stop_ids=STOP) == [plain(lm, ids) for ids in asked]


def test_a_cache_that_forgets_is_read_in_one_piece(lm: LanguageModel) -> None:
    """Of a sliding window only the end is kept, and ends of different prompts cannot be laid side by side."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = MistralConfig(**sizes, vocab_size=257, sliding_window=16, num_key_value_heads=2, initializer_range=0.3)
        mistral = MistralForCausalLM(config).eval()
    other = LanguageModel(mistral, lm.tokenizer, "mistral")
    asked = prompts(8, seed=1, longest=60)
    assert not row_generation._reads_in_parts(other)
    assert row_generation._reads_in_parts(lm)
    assert generate_rows(other, [other.rows(ids) for ids in asked], max_new_tokens=NEW, stop_ids=STOP) == [
        plain(other, ids) for ids in asked
    ]


def test_other_rows_give_other_words_and_the_same_rows_the_same(lm: LanguageModel) -> None:
    rows_TD = lm.rows(prompts(1, seed=5)[0])
    noise_TD = torch.randn(rows_TD.shape, generator=torch.Generator().manual_seed(0))
    first, again, other = generate_rows(
        lm, [rows_TD, rows_TD.clone(), rows_TD + noise_TD], max_new_tokens=NEW, stop_ids=()
    )
    assert first == again != other


# --- from a cache -------------------------------------------------------------------------------------------------


def test_a_cache_that_lost_nothing_gives_what_ids_give(lm: LanguageModel) -> None:
    asked = [ids for ids in prompts(30) if len(ids) > 8][:12]
    split = [random.Random(i).randint(1, len(ids) - 1) for i, ids in enumerate(asked)]
    fed = [cached(lm, *each) for each in zip(asked, split, strict=True)]
    before = copy.deepcopy([prompt.cache.layers[1].keys for prompt in fed])
    wanted = [plain(lm, ids) for ids in asked]
    assert generate_from_caches(lm, fed, max_new_tokens=NEW, stop_ids=STOP, batch=5) == wanted
    assert all(torch.equal(a, b.cache.layers[1].keys) for a, b in zip(before, fed, strict=True)), "left as they are"
    one = fed[0]
    kept = {"length": one.length, "max_new_tokens": NEW, "stop_ids": STOP}
    assert generate_from_cache(lm, one.cache, one.positions_K, one.rows_SD, **kept) == wanted[0]


def test_one_row_may_follow_a_cache(lm: LanguageModel) -> None:
    ids = prompts(1, seed=7)[0]
    fed = cached(lm, ids, len(ids) - 1)
    kept = {"length": len(ids) - 1, "max_new_tokens": NEW, "stop_ids": STOP}
    assert generate_from_cache(lm, fed.cache, fed.positions_K, fed.rows_SD[0], **kept) == plain(lm, ids)


@torch.inference_mode()
def test_after_a_pruned_cache_positions_go_on_from_the_original_length(lm: LanguageModel) -> None:
    """The reference reads the whole prompt with a mask that hides the dropped positions: nothing else is different.

    Positions are dropped for the rows that follow only; the held ones have seen them, as in every pruning of caches.
    """
    ids, split = prompts(1, seed=11)[0] + list(range(60, 90)), 60
    kept = [t for t in range(split) if t % 3 == 0]  # the last one is dropped too
    pruned = cached(lm, ids, split, kept)
    whole = cached(lm, ids, split)
    hidden_1L = torch.ones(1, len(ids), dtype=torch.long)
    hidden_1L[0, [t for t in range(split) if t not in kept]] = 0
    wanted_SV = lm.model(
        inputs_embeds=whole.rows_SD[None],
        attention_mask=hidden_1L,
        position_ids=torch.arange(split, len(ids))[None],
        past_key_values=whole.cache,
    ).logits[0]
    got_V = continuation_logits(lm, pruned, [0])[0]
    assert torch.allclose(got_V, wanted_SV[-1], atol=1e-4)
    closed_up = pruned._replace(length=len(kept), positions_K=torch.arange(len(kept)))
    assert (continuation_logits(lm, closed_up, [0])[0] - wanted_SV[-1]).abs().max() > 0.1, "the mistake shows"


def test_pruned_caches_of_different_sizes_share_a_batch(lm: LanguageModel) -> None:
    asked = [ids * 3 for ids in prompts(6, seed=2) if len(ids) > 4]
    fed = [cached(lm, ids, len(ids) - 1 - i, list(range(0, len(ids) - 1 - i, i + 1))) for i, ids in enumerate(asked)]
    together = generate_from_caches(lm, fed, max_new_tokens=NEW, stop_ids=STOP)
    alone = [generate_from_caches(lm, [each], max_new_tokens=NEW, stop_ids=STOP)[0] for each in fed]
    assert together == alone


# --- logits of a continuation -------------------------------------------------------------------------------------


@torch.inference_mode()
def test_logits_of_a_continuation_are_those_of_one_pass_over_prompt_and_continuation(lm: LanguageModel) -> None:
    ids, said = prompts(1, seed=4)[0], [5, 77, 198, 3]
    wanted_NV = lm.model(torch.tensor([ids + said])).logits[0, len(ids) - 1 : -1]
    assert torch.allclose(continuation_logits(lm, lm.rows(ids), said), wanted_NV, atol=1e-4)
    assert torch.allclose(continuation_logits(lm, cached(lm, ids, len(ids) // 2), said), wanted_NV, atol=1e-4)
    greedy = generate_rows(lm, [lm.rows(ids)], max_new_tokens=5, stop_ids=())[0]
    assert continuation_logits(lm, lm.rows(ids), greedy).argmax(-1).tolist() == greedy
    with pytest.raises(ValueError, match="no continuation to predict"):
        continuation_logits(lm, lm.rows(ids), [])


# --- buckets ------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 3000), max_size=60), st.integers(1, 20))
def test_buckets_hold_every_prompt_once_with_little_padding(lengths: list[int], batch: int) -> None:
    groups = length_buckets(lengths, batch)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        of_group = [lengths[i] for i in group]
        padded = max(of_group) * len(group)
        assert len(group) <= batch
        assert padded - sum(of_group) <= row_generation.PADDING * padded
        assert padded <= row_generation.BATCH_TOKENS or len(group) == 1


def test_prompts_of_one_length_fill_their_batches() -> None:
    assert [len(group) for group in length_buckets([7] * 35, 16)] == [16, 16, 3]


# --- what is refused ----------------------------------------------------------------------------------------------


def test_what_cannot_be_gone_on_from_is_one_line(lm: LanguageModel) -> None:
    good = lm.rows([1, 2, 3])
    wrong = good.clone()
    wrong[1, 0] = torch.nan
    for bad, said in (
        (good[:0], r"^prompt 1 has rows of shape \(0, 32\); tiny takes one or more of 32$"),
        (good[:, :8], r"^prompt 1 has rows of shape \(3, 8\)"),
        (wrong, "^prompt 1 has rows that are not finite$"),
        (lm.rows([1]).expand(2040, -1), r"^prompt 1 has 2040 tokens and its answer up to 16, and the window .* 2048: "),
    ):
        with pytest.raises(ValueError, match=said):
            generate_rows(lm, [good, bad], max_new_tokens=NEW, stop_ids=STOP)
    with pytest.raises(ValueError, match="max_new_tokens is 0"):
        generate_rows(lm, [good], max_new_tokens=0, stop_ids=STOP)
    with pytest.raises(ValueError, match="batch is 0"):
        generate_rows(lm, [good], max_new_tokens=1, stop_ids=STOP, batch=0)
    assert generate_rows(lm, [], max_new_tokens=1, stop_ids=STOP) == []


def test_a_cache_that_does_not_fit_its_positions_is_one_line(lm: LanguageModel) -> None:
    fed = cached(lm, [1, 2, 3, 4, 5, 6], 4, [0, 2])
    for bad, said in (
        (
            fed._replace(positions_K=torch.tensor([0, 1, 2])),
            r"hold \(prompts, positions\) \[\(1, 2\)\], and positions of",
        ),
        (
            fed._replace(length=2),
            "its cache holds positions 0 to 2 of a length of 2; length counts the positions before",
        ),
        (fed._replace(length=2046), "prompt 0 has 2048 tokens"),
    ):
        with pytest.raises(ValueError, match=said):
            generate_from_caches(lm, [bad], max_new_tokens=NEW, stop_ids=STOP)
