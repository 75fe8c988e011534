"""Attention matching: the model's own attention taken apart, closed forms of the fit, and a world that it keeps."""

from pathlib import Path

import pytest
import torch
from planted_recall import ASK, START, contexts, random_model, recalled_from_caches, trained_model
from scipy.optimize import nnls
from torch import Tensor

from inscape.compressors.attention_matching import (
    AttentionMatching,
    Seen,
    matched,
    non_negative_least_squares,
    ridge,
    seen_behind,
)
from inscape.compressors.interface import Compressed, Compressor
from inscape.compressors.kv_pruning import KvPruning
from inscape.compressors.receiving import cache_layers, prefill
from inscape.compressors.stored import load_compressor

PREFIX = (START, 3)
IDS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])


def test_what_is_seen_adds_up_to_the_models_own_attention():
    lm = random_model(attention="eager")
    layers = cache_layers(lm, prefill(lm, torch.cat((torch.tensor(PREFIX), IDS))))
    tails = [torch.tensor([16, 7, 2]), torch.tensor([5])]
    seen = seen_behind(lm, layers, tails, len(PREFIX))
    outputs: dict[tuple[int, int], Tensor] = {}
    for number, tail in enumerate(tails):

        def keep(module, given, number=number):
            outputs[number, module.layer_idx] = given[0][0, -len(tails[number]) :]

        handles = []
        for layer in lm.model.base_model.layers:
            layer.self_attn.o_proj.layer_idx = layer.self_attn.layer_idx
            handles.append(layer.self_attn.o_proj.register_forward_pre_hook(keep))
        lm.model(input_ids=torch.cat((torch.tensor(PREFIX), IDS, tail))[None])
        for handle in handles:
            handle.remove()
    for layer, (one, (_, values)) in enumerate(zip(seen, layers, strict=True)):
        weight_KNT = (one.logit_KNT - one.mass_KN[..., None]).exp()
        torch.testing.assert_close(weight_KNT.sum(-1), torch.ones(2, 8), msg="two heads, four places of two heads each")
        found_KNE = one.share_KN[..., None] * (weight_KNT @ values[0, :, len(PREFIX) :]) + one.rest_KNE
        expected_WHE = torch.cat([outputs[number, layer] for number in range(2)]).unflatten(-1, (4, 8))
        expected_KNE = expected_WHE.unflatten(1, (2, 2)).transpose(0, 1).flatten(1, 2)
        torch.testing.assert_close(found_KNE, expected_KNE, atol=1e-5, rtol=1e-4)


def test_at_ratio_one_it_is_the_cache_itself():
    lm = random_model()
    sent = AttentionMatching(1.0, prefix=PREFIX, questions=((16,), (7, 2)), wire="float32").compress(lm, IDS)
    for layer, (keys, values) in enumerate(cache_layers(lm, prefill(lm, torch.cat((torch.tensor(PREFIX), IDS))))):
        torch.testing.assert_close(sent.tensors["keys"][layer], keys[0, :, 2:], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(sent.tensors["values"][layer], values[0, :, 2:], atol=1e-4, rtol=1e-3)


COMMON = 3.0  # of every query, along the first of eight dimensions


def seen_of(key_1TE: Tensor) -> Seen:
    """What queries that have one direction in common see in these keys, and something beside them."""
    generator = torch.Generator().manual_seed(7)
    query_1NE = torch.randn(1, 200, 8, generator=generator)
    query_1NE[..., 0] = COMMON
    logit_1NT = query_1NE @ key_1TE.transpose(1, 2) * 8**-0.5
    share_1N = torch.rand(1, 200, generator=generator) * 0.8 + 0.1
    rest_1NE = (1 - share_1N[..., None]) * torch.randn(1, 200, 8, generator=generator)
    return Seen(query_1NE, logit_1NT, logit_1NT.logsumexp(-1), share_1N, rest_1NE)


def drawn(seen: Seen, keys: Tensor) -> Tensor:
    """The attention that each of these keys draws, in units of what the context drew."""
    return (seen.query_KNE @ keys.transpose(1, 2) * keys.shape[-1] ** -0.5 - seen.mass_KN[..., None]).exp()


def test_a_key_that_stands_for_three_draws_as_much_as_all_three_did():
    generator = torch.Generator().manual_seed(0)
    key_1TE = 0.4 * torch.randn(1, 4, 8, generator=generator)
    fainter_1TE = key_1TE.clone()
    fainter_1TE[..., 0] -= 8**0.5 / COMMON  # draws 1 / e of the attention
    value_1TE = torch.randn(1, 4, 8, generator=generator)
    seen = seen_of(torch.cat((key_1TE, fainter_1TE, fainter_1TE), 1))
    torch.testing.assert_close(drawn(seen, key_1TE).sum(-1), torch.full((1, 200), 1 / (1 + 2 / torch.e)))
    keys, values = matched(seen, torch.cat((key_1TE, fainter_1TE, fainter_1TE), 1), value_1TE.repeat(1, 3, 1), 4)
    assert (drawn(seen, keys).sum(-1) - 1).abs().max() < 0.05, "but for the ridge"
    torch.testing.assert_close(values, value_1TE, atol=0.05, rtol=0.05)


def output(seen: Seen, keys: Tensor, values: Tensor) -> Tensor:
    """Of attention to these keys beside prefix and tail, in the weights that softmax gives."""
    weight = drawn(seen, keys) * seen.share_KN[..., None]
    return (weight @ values + seen.rest_KNE) / (weight.sum(-1, keepdim=True) + 1 - seen.share_KN[..., None])


def test_a_head_finds_nearer_what_it_found_than_with_the_kept_keys_as_they_were():
    generator = torch.Generator().manual_seed(0)
    key_1TE, value_1TE = (torch.randn(1, 6, 8, generator=generator) for _ in range(2))
    seen = seen_of(key_1TE)
    wanted = output(seen, key_1TE, value_1TE)
    keys, values = matched(seen, key_1TE, value_1TE, 3)
    weight_1NT = (seen.logit_KNT - seen.mass_KN[..., None]).exp() * seen.share_KN.sqrt()[..., None]
    kept = weight_1NT.square().mean(1)[0].topk(3).indices.sort().values
    pruned = output(seen, key_1TE[:, kept], value_1TE[:, kept])
    errors = [float((each - wanted).square().mean()) for each in (output(seen, keys, values), pruned)]
    assert errors[0] < 0.6 * errors[1]


def test_least_squares_are_the_textbooks():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(2, 30, 4, generator=generator), torch.rand(2, 30, 3, generator=generator)
    prior = torch.randn(2, 4, 3, generator=generator)
    found = ridge(x.double(), y.double(), prior.double(), 0.1)
    for head in range(2):
        added = 0.1 * float((x[head] ** 2).sum(0).mean())
        wide = torch.cat((x[head], added**0.5 * torch.eye(4))).double()
        long = torch.cat((y[head], added**0.5 * prior[head])).double()
        torch.testing.assert_close(found[head], torch.linalg.lstsq(wide, long).solution)
    for y_N in (x[0] @ torch.tensor([2.0, 0.5, 1.0, 0.0]), y[0, :, 0]):
        there, least = non_negative_least_squares(x[:1], y_N[None]), nnls(x[0].numpy(), y_N.numpy())[1]
        assert there.min() > 0
        assert float((x[0] @ there[0] - y_N).norm()) <= least + 0.02 * float(y_N.norm())


def test_it_keeps_the_value_where_a_pruned_cache_loses_it(tmp_path: Path):
    lm, (ids, values) = trained_model(), contexts(60, 5)
    matching = AttentionMatching(4.0, prefix=(START,), questions=((ASK,),))
    pruning = KvPruning(4.0, prefix=(START,))

    def recalled(compressor: Compressor) -> float:
        injected = [compressor.inject(lm, compressor.compress(lm, each)) for each in ids]
        return recalled_from_caches(lm, injected, values.tolist())

    assert recalled(matching) >= 0.95
    assert recalled(pruning) <= 0.9
    matching.save(tmp_path / "it.safetensors")
    for back in (AttentionMatching.load(tmp_path / "it.safetensors"), load_compressor(tmp_path / "it.safetensors")):
        assert back == matching


def test_bits_are_counted_out_and_the_latest_places_are_said():
    lm, compressor = random_model(), AttentionMatching(3.0, prefix=PREFIX)
    compressed = compressor.compress(lm, IDS)
    assert (compressed.tokens, compressed.vectors) == (8, 2)
    assert compressor.bits(compressed) == 2 * 2 * 2 * 8 * 2 * 16, "layers, sides, heads, width, vectors, bits"
    injected = compressor.inject(lm, Compressed(dict(compressed.tensors), 8, 2))
    assert injected.cache is not None
    cache, places_K = injected.cache
    assert places_K.tolist() == [0, 1, 2 + 6, 2 + 7]
    assert [layer.keys.shape for layer in cache.layers] == [(1, 2, 4, 8)] * 2


@pytest.mark.parametrize(
    ("changes", "line"), [({"ratio": 0}, "ratio 0"), ({"questions": ((1,), ())}, "no ids"), ({"wire": "a"}, "wire")]
)
def test_impossible_settings_are_one_line(changes: dict, line: str):
    with pytest.raises(ValueError, match=line) as caught:
        AttentionMatching(**{"ratio": 2.0} | changes)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="leaves no vector"):
        AttentionMatching(9.0).compress(random_model(), IDS)
