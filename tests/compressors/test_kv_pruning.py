"""KV pruning: nothing dropped changes nothing, scores are the model's own attention, and positions stay."""

from pathlib import Path

import pytest
import torch
from planted_recall import ASK, END, START, contexts, random_model, trained_model
from torch import Tensor, nn

from inscape.compressors.attention_queries import queries_collected
from inscape.compressors.interface import Compressor, Injected
from inscape.compressors.kv_pruning import KvPruning, attention_scores, kept_positions, key_norm_scores
from inscape.compressors.receiving import prefill
from inscape.nn.row_generation import CachedPrompt, continuation_logits, generate_from_cache
from inscape.pretrained.language_model import LanguageModel

IDS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8])
TAIL = [16, 2, 7]


def after(lm: LanguageModel, injected: Injected, tail: list[int]) -> Tensor:
    """Logits of what is written after the cache and the first of `tail`."""
    assert injected.cache is not None
    cache, positions = injected.cache
    prompt = CachedPrompt(cache, positions, int(positions[-1]) + 1, lm.rows(tail[:1]))
    return continuation_logits(lm, prompt, tail[1:])


@pytest.mark.parametrize("score", ["attention", "key_norm"])
@pytest.mark.parametrize("prefix", [(), (18, 0)])
def test_at_ratio_one_the_logits_are_those_of_the_text(score: str, prefix: tuple[int, ...]):
    lm = random_model()
    compressor: Compressor = KvPruning(1.0, score=score, prefix=prefix)
    found = after(lm, compressor.inject(lm, compressor.compress(lm, IDS)), TAIL)
    with torch.no_grad():
        text = lm.model(input_ids=torch.tensor([[*prefix, *IDS.tolist(), *TAIL]])).logits[0, -len(TAIL) : -1]
    torch.testing.assert_close(found, text, atol=2e-5, rtol=1e-5)


def test_what_stays_is_what_the_model_computed_at_its_own_positions():
    lm, compressor = random_model(), KvPruning(3.0, prefix=(18,))
    compressed, place_LM = compressor.compress(lm, IDS), compressor.kept(lm, IDS)
    whole = prefill(lm, torch.cat((torch.tensor([18]), IDS)))
    for layer, place_M in enumerate(place_LM):
        for name in ("keys", "values"):
            expected = getattr(whole.layers[layer], name)[0][:, place_M + 1]
            torch.testing.assert_close(compressed.tensors[name][layer], expected)
    injected = compressor.inject(lm, compressed)
    assert injected.rows_MD is None
    assert injected.cache is not None
    cache, positions = injected.cache
    assert [layer.keys.shape[2] for layer in cache.layers] == [5, 5]  # the prefix, and 12 / 3
    assert positions.tolist() == [0, 9, 10, 11, 12]


@torch.no_grad()
def masked(lm: LanguageModel, place_LM: Tensor, tail: list[int]) -> Tensor:
    """Logits of `tail` after the whole cache when each layer is forbidden to look at all but its own places."""
    handles, cache = [], prefill(lm, IDS)
    for block, place_M in zip(lm.model.model.layers, place_LM, strict=True):
        mask_SN = torch.full((len(tail), len(IDS) + len(tail)), float("-inf")).triu(len(IDS) + 1)
        dropped = [place for place in range(len(IDS)) if place not in place_M.tolist()]
        mask_SN[:, dropped] = float("-inf")

        def hide(module: nn.Module, given: tuple, named: dict, mask_SN: Tensor = mask_SN) -> tuple[tuple, dict]:
            return given, named | {"attention_mask": mask_SN[None, None]}

        handles.append(block.self_attn.register_forward_pre_hook(hide, with_kwargs=True))
    logits = lm.model(input_ids=torch.tensor([tail]), past_key_values=cache, use_cache=True).logits[0]
    for handle in handles:
        handle.remove()
    return logits


def test_a_pruned_cache_is_the_whole_one_under_a_mask():
    lm, compressor = random_model(), KvPruning(3.0, score="key_norm")
    place_LM = compressor.kept(lm, IDS)
    assert place_LM[0].tolist() != place_LM[1].tolist() != [8, 9, 10, 11]
    injected = compressor.inject(lm, compressor.compress(lm, IDS))
    expected = masked(lm, place_LM, TAIL)[:-1]
    torch.testing.assert_close(after(lm, injected, TAIL), expected, atol=2e-5, rtol=1e-4)
    assert injected.cache is not None
    counted = CachedPrompt(injected.cache[0], torch.arange(4), 4, lm.rows(TAIL[:1]))  # as if 4 tokens were the text
    assert (continuation_logits(lm, counted, TAIL[1:]) - expected).abs().max() > 0.1


@pytest.mark.parametrize("window", [1, 4, 12])
def test_scores_are_the_models_own_attention(window: int):
    eager, lm = random_model(attention="eager"), random_model()
    with torch.no_grad():
        attentions = eager.model(input_ids=IDS[None], output_attentions=True).attentions
    with torch.no_grad(), queries_collected(lm, window) as query_1HWE_of:
        cache = prefill(lm, IDS)
    for layer, weight_1HTT in enumerate(attentions):
        found = attention_scores(query_1HWE_of[layer][0], cache.layers[layer].keys[0])
        torch.testing.assert_close(found, weight_1HTT[0, :, -window:].sum(0).mean(0), atol=1e-5, rtol=1e-4)
    assert not any(module._forward_pre_hooks for module in lm.model.modules())


def test_the_smallest_keys_score_best():
    key_KSE = torch.tensor([[[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]])
    assert key_norm_scores(key_KSE).tolist() == [-5.0, -2.0, -2.0]


def test_the_best_stay_in_order_and_neighbours_share():
    score_LT = torch.tensor([[9.0, 0.0, 0.0, 7.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0, 8.0, 0.0]])
    assert kept_positions(score_LT, 3).tolist() == [[0, 3, 6], [1, 5, 6]]
    assert kept_positions(score_LT, 3, kernel=3).tolist() == [[0, 1, 6], [4, 5, 6]]
    assert kept_positions(score_LT, 3, latest=3).tolist() == [[4, 5, 6]] * 2
    assert kept_positions(torch.zeros(1, 4), 4).tolist() == [[0, 1, 2, 3]]


def test_the_question_chooses():
    # The planted model looks for the value when it is asked; of its cache only that place matters.
    lm = trained_model()
    ids, values = contexts(30, seed=5)
    whole, half = KvPruning(1.0, prefix=(START,)), KvPruning(4.0, prefix=(START,), kernel=1)
    hits = {"whole": 0, "asked": 0, "swapped": 0}
    sent = [half.compress(lm, each, torch.tensor([ASK])) for each in ids]
    for n, (each, value) in enumerate(zip(ids, values.tolist(), strict=True)):
        for name, compressor, compressed in (
            ("whole", whole, whole.compress(lm, each)),
            ("asked", half, sent[n]),
            ("swapped", half, sent[n - 1]),
        ):
            injected = compressor.inject(lm, compressed)
            assert injected.cache is not None
            cache, places = injected.cache
            new = generate_from_cache(
                lm, cache, places, lm.rows([ASK]), length=int(places[-1]) + 1, max_new_tokens=2, stop_ids=[END]
            )
            hits[name] += new == [value, END]
    assert hits["whole"] == 30
    assert hits["asked"] >= 27
    assert hits["swapped"] <= 10


def test_bits_are_counted_out():
    lm, compressor = random_model(), KvPruning(5.0)
    compressed = compressor.compress(lm, IDS)
    assert (compressed.tokens, compressed.vectors) == (12, 2)
    layers, key_heads, width = 2, 2, 8
    assert compressor.bits(compressed) == layers * 2 * key_heads * width * 2 * 32


@pytest.mark.parametrize("ratio", [1.0, 1.5, 2.5, 5.0, 12.0])
@pytest.mark.parametrize("score", ["attention", "key_norm"])
def test_every_layer_keeps_as_many_and_the_last(ratio: float, score: str):
    lm = random_model()
    place_LM = KvPruning(ratio, score=score).kept(lm, IDS)
    assert place_LM.shape == (2, int(12 // ratio))
    assert (place_LM.diff(dim=1) > 0).all()
    assert (place_LM[:, -1] == 11).all()


def test_a_file_brings_it_back(tmp_path: Path):
    compressor = KvPruning(4.0, score="key_norm", window=3, kernel=7, prefix=(1, 2))
    compressor.save(tmp_path / "it.safetensors")
    assert KvPruning.load(tmp_path / "it.safetensors") == compressor


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"ratio": 0.5}, "ratio 0.5"),
        ({"score": "age"}, "attention, key_norm"),
        ({"window": 0}, "window=0"),
        ({"kernel": 4}, "odd"),
    ],
)
def test_mistakes_are_one_line(changes: dict, line: str):
    with pytest.raises(ValueError, match=line) as caught:
        KvPruning(**{"ratio": 2.0} | changes)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_pruned_is_refused():
    lm = random_model()
    with pytest.raises(ValueError, match="leaves no vector"):
        KvPruning(13.0).compress(lm, IDS)
    for block in lm.model.model.layers:
        block.self_attn.in_proj = block.self_attn.q_proj
        del block.self_attn.q_proj
    with pytest.raises(ValueError, match="use score=key_norm"):
        KvPruning(2.0).compress(lm, IDS)
