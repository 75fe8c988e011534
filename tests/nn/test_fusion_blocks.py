"""Each block against a plain reference, head by head."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from fusion_worlds import awake, clips, counted, logits, prompts
from tiny_models import tiny_model
from torch import nn
from torch.nn import functional

from inscape.nn.audio_tokens import AudioTokens
from inscape.nn.decoder_layers import decoder_layers
from inscape.nn.fusion_blocks import projections_of


def state_after(model: Any, number: int, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """What leaves a layer, after all hooks that were there before."""
    seen = []
    layer = model.model.layers[number - 1]
    handle = layer.register_forward_hook(lambda m, args, output: seen.append(output))
    with torch.no_grad():
        model(**given)
    handle.remove()
    return seen[0]


def read_by_heads(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int, there: Any) -> Any:
    """Attention of one clip, one head at a time, over the tokens that are there; key heads are shared in turn."""
    width = query.shape[-1] // heads
    shared = heads // (key.shape[-1] // width)
    found = []
    for head in range(heads):
        group = head // shared
        q, k, v = (x[:, i * width : (i + 1) * width] for x, i in ((query, head), (key, group), (value, group)))
        found.append((q @ k[there].T * width**-0.5).softmax(-1) @ v[there])
    return torch.cat(found, -1)


def low_rank(x: torch.Tensor, addition: Any) -> torch.Tensor:
    return 8.0 / 4 * x @ addition.down_RI.T @ addition.up_OR.T


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@torch.no_grad()
def test_lora_cross_attention_is_the_seed_s_formula(architecture: str, normalise: bool):
    model, given = deepcopy(tiny_model(architecture)).double(), prompts()  # a sharp softmax magnifies rounding
    audio = AudioTokens(clips().tokens_BKD.double(), clips().mask_BK)
    fusion = awake("lora_cross_attention", model, layers=(1,), normalise_hidden=normalise).double()
    hidden = state_after(model, 1, given)
    with fusion.attached(model, audio):
        found = state_after(model, 1, given)
    block: Any = fusion.blocks["1"]
    own = model.model.layers[0].self_attn
    for i in range(3):
        h, a = hidden[i], audio.tokens_BKD[i]
        x = h / (h.square().mean(-1, keepdim=True) + 1e-6).sqrt() if normalise else h
        query, value = own.q_proj(x) + low_rank(x, block.query), own.v_proj(a) + low_rank(a, block.value)
        mixed = read_by_heads(query, own.k_proj(a), value, 4, audio.mask_BK[i])
        torch.testing.assert_close(found[i], h + 0.6 * low_rank(mixed, block.out), atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_gated_cross_attention_is_flamingo_s():
    model, given, audio = tiny_model("llama"), prompts(), clips()
    fusion = awake("gated_cross_attention", model, layers=(2,), feed_forward=True)
    hidden = state_after(model, 2, given)
    with fusion.attached(model, audio):
        found = state_after(model, 2, given)
    block: Any = fusion.blocks["2"]
    gate = torch.tensor(0.6).tanh()
    for i in range(3):
        h, a = hidden[i], audio.tokens_BKD[i]
        mixed = read_by_heads(block.query(block.norm(h)), block.key(a), block.value(a), 2, audio.mask_BK[i])
        h = h + gate * block.out(mixed)
        inner = functional.gelu(block.inner.up(block.inner_norm(h)))
        torch.testing.assert_close(found[i], h + gate * block.inner.down(inner), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "opt", "qwen3"])
@torch.no_grad()
def test_zero_init_attention_adds_to_what_goes_into_the_out_projection(architecture: str):
    model, given, audio = tiny_model(architecture), prompts(), clips()
    fusion = awake("zero_init_attention", model, layers=(1,))
    layer = (model.model.decoder if architecture == "opt" else model.model).layers[0].self_attn
    maps = projections_of(layer, 4)
    assert maps is not None
    seen: dict[str, torch.Tensor] = {}

    def into(name: str) -> Any:
        return lambda module, args: seen.setdefault(name, args[0])

    handles = [maps.query.register_forward_pre_hook(into("hidden")), maps.out.register_forward_pre_hook(into("own"))]
    with fusion.attached(model, audio):
        handles.append(maps.out.register_forward_pre_hook(into("both")))
        model(**given)
    for handle in handles:
        handle.remove()
    block: Any = fusion.blocks["1"]
    normed = (lambda x, norm: norm(x.unflatten(-1, (-1, 16))).flatten(-2)) if architecture == "qwen3" else None
    for i in range(3):
        query, a = maps.query(seen["hidden"][i]), audio.tokens_BKD[i]
        key = maps.key(a)
        if normed is not None:
            query, key = normed(query, layer.q_norm), normed(key, layer.k_norm)
        read = read_by_heads(query, key, maps.value(a), 4, audio.mask_BK[i])
        gated = (block.gate_H.tanh()[:, None] * read.unflatten(-1, (4, -1))).flatten(-2)
        torch.testing.assert_close(seen["both"][i] - seen["own"][i], gated, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["lora_cross_attention", "gated_cross_attention"])
@torch.no_grad()
def test_twice_the_gate_adds_twice_as_much(kind: str):
    # The defect of the original: LayerNorm behind the scale, and every scale adds the same.
    model, given = tiny_model("llama"), prompts()
    fusion = awake(kind, model, layers=(2,))
    hidden = state_after(model, 2, given)
    added = []
    for gate in (0.3, 0.6):
        torch.nn.init.constant_(fusion.blocks["2"].gate, gate if kind[0] == "l" else torch.tensor(gate).atanh().item())  # type: ignore[arg-type]
        with fusion.attached(model, clips()):
            added.append(state_after(model, 2, given) - hidden)
    torch.testing.assert_close(added[1], 2 * added[0], atol=2e-6, rtol=1e-3)
    assert added[0].abs().max() > 0.1


@pytest.mark.parametrize("kind", ["lora_cross_attention", "gated_cross_attention", "zero_init_attention"])
@torch.no_grad()
def test_the_scale_of_the_tokens_is_heard(kind: str):
    model, given, audio = tiny_model("llama"), prompts(), clips()
    fusion = awake(kind, model)
    with fusion.attached(model, audio):
        wanted = logits(model, given)
    with fusion.attached(model, AudioTokens(5 * audio.tokens_BKD, audio.mask_BK)):
        assert (logits(model, given) - wanted).abs().max() > 0.05


@pytest.mark.parametrize("kind", ["lora_cross_attention", "gated_cross_attention", "zero_init_attention"])
@torch.no_grad()
def test_keys_and_values_are_computed_once_in_a_block(kind: str):
    model, given, audio = tiny_model("llama"), prompts(), clips()
    fusion = awake(kind, model, layers=(1,))
    block: Any = fusion.blocks["1"]
    own = model.model.layers[0].self_attn
    key, value = (block.key, block.value) if kind[0] == "g" else (own.k_proj, own.v_proj)
    with counted(key) as keys, counted(value) as values, fusion.attached(model, audio):
        cache = model(**given, use_cache=True).past_key_values
        for step in range(4):
            mask_BT = torch.cat([given["attention_mask"], torch.ones(3, step + 1, dtype=torch.long)], 1)
            model(input_ids=given["input_ids"][:, :1], attention_mask=mask_BT, past_key_values=cache)
    text = [] if kind[0] == "g" else [7, 1, 1, 1, 1]
    assert keys == values == [5, *text]


def split_by_hand(architecture: str, joined: torch.Tensor) -> list[torch.Tensor]:
    """Queries, keys and values out of what the one map gives, as each model's own code has it."""
    if architecture == "gpt_neox":
        return [part.flatten(-2) for part in joined.unflatten(-1, (4, 24)).chunk(3, dim=-1)]
    keys = 32 if architecture == "gpt2" else 16
    return list(joined.split([32, keys, keys], dim=-1))


@pytest.mark.parametrize(
    ("architecture", "place", "name"),
    [
        ("gpt2", "transformer.h.0.attn", "c_attn"),
        ("gpt_neox", "gpt_neox.layers.0.attention", "query_key_value"),
        ("phi3", "model.layers.0.self_attn", "qkv_proj"),
    ],
)
@torch.no_grad()
def test_a_joined_map_is_told_apart_as_the_model_does(architecture: str, place: str, name: str):
    model, seen = tiny_model(architecture), []
    attention = model.get_submodule(place)
    maps = projections_of(model.get_submodule(place.rpartition(".")[0]), 4)
    assert maps is not None
    assert (maps.heads, maps.key_heads, maps.width) == (4, 2 if architecture == "phi3" else 4, 8)
    x = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(4))
    handle = maps.query.register_forward_hook(lambda module, args, output: seen.append(output))
    joined = getattr(attention, name)(x)
    handle.remove()
    found = [part(x) for part in (maps.query, maps.key, maps.value)]
    for part, wanted in zip(found, split_by_hand(architecture, joined), strict=True):
        torch.testing.assert_close(part, wanted)
    torch.testing.assert_close(seen[0], found[0])


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "phi3"])
@torch.no_grad()
def test_what_zero_init_adds_behind_the_out_map_is_measured(architecture: str):
    """The meter's added state is what the out map makes of what was added before it."""
    model, given = tiny_model(architecture), prompts()
    fusion = awake("zero_init_attention", model, layers=(2,))
    layer = projections_of(decoder_layers(model)[1], 4)
    assert layer is not None
    outs: list[torch.Tensor] = []
    handle = layer.out.register_forward_hook(lambda module, args, output: outs.append(output))
    model(**given)
    with fusion.attached(model, clips(), measure=True) as attached:
        model(**given)
        measured = attached.measurements()[2].added_rms
    handle.remove()
    wanted = (outs[1] - outs[0]).square().mean(-1).sqrt().mean()
    assert measured == pytest.approx(float(wanted), rel=1e-3)


def test_layers_whose_joined_map_is_not_known_have_no_projections():
    assert projections_of(decoder_layers(tiny_model("mpt"))[0], 4) is None
    attention = nn.Module()
    attention.query_key_value, attention.dense = nn.Linear(32, 48), nn.Linear(32, 32)  # as Falcon's, of one key head
    assert projections_of(attention, 4) is None
    attention = nn.Module()
    attention.c_attn, attention.c_proj = nn.Linear(32, 96), nn.Linear(32, 32)  # as GPT-BigCode's: by heads
    assert projections_of(attention, 4) is None
    attention = nn.Module()
    attention.query_key_value, attention.dense = nn.Linear(32, 96), nn.Linear(32, 32)
    assert projections_of(attention, 4) is not None
    attention.q_layernorm = nn.LayerNorm(8)  # as Persimmon's
    assert projections_of(attention, 4) is None
    maps = projections_of(tiny_model("llama").model.layers[0], 4)
    assert maps is not None
    assert (maps.heads, maps.key_heads, maps.width) == (4, 2, 8)
