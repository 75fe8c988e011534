"""How a frozen model reads, while gradients pass through it, what stands in the place of a context.

Two forms of memory: rows, which are fed between the prompt's prefix and its tail, and keys and values of every layer,
which lie in the cache as if the context had been read. Neither changes the model.

Legend: B prompts, N padded length, T tokens of a context, P of the prefix, S of the tail, M places of the memory,
L layers, K key heads, E width of a head, D width of the embedding table, Q predictions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from inscape.compressors.interface import Compressed, Injected

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from inscape.pretrained.language_model import LanguageModel

__all__ = [
    "CacheMemory",
    "Memory",
    "Turn",
    "cache_layers",
    "first_layers",
    "injected_cache",
    "prefill",
    "states_of",
    "tail_logits",
]


class CacheMemory(NamedTuple):
    """Keys and values that stand for a context; keys carry their rotation."""

    prefix: tuple[int, ...]  # ids in front of the context when they were made; the receiver reads them itself
    keys_LKME: Tensor
    values_LKME: Tensor


Memory = Tensor | CacheMemory  # rows (M, D), or keys and values


class Turn(NamedTuple):
    """One prompt, as its receiver reads it."""

    prefix_PD: Tensor  # rows in front of the context; left out where the memory is a cache, which says what they are
    memory: Memory
    tokens: int  # T: of the context; behind a cache the tail stands where it would have stood
    tail_SD: Tensor  # rows after the context


def tail_logits(lm: LanguageModel, turns: Sequence[Turn], looked: Sequence[range]) -> Float[Tensor, "Q V"]:
    """Next-token logits at the places of each tail that `looked` names; the head runs at no other.

    ValueError where some memories are rows and some are caches.
    """
    caches = [turn.memory for turn in turns if isinstance(turn.memory, CacheMemory)]
    if caches and len(caches) < len(turns):
        raise ValueError("memories are either all rows or all keys and values; encode the batch by one compressor")
    if caches:
        states_BND, starts = _behind_caches(lm, turns, caches), [0] * len(turns)
    else:
        fed = [torch.cat((t.prefix_PD, t.memory.to(t.tail_SD.dtype), t.tail_SD)) for t in turns]  # type: ignore[union-attr]
        states_BND = states_of(lm, fed)
        starts = [len(whole) - len(turn.tail_SD) for whole, turn in zip(fed, turns, strict=True)]
    chosen = [states[s + r.start : s + r.stop] for states, s, r in zip(states_BND, starts, looked, strict=True)]
    return lm.model.get_output_embeddings()(torch.cat(chosen))


def _behind_caches(lm: LanguageModel, turns: Sequence[Turn], memories: Sequence[CacheMemory]) -> Tensor:
    """States of the tails, padded on the right. Caches are padded on their right, where the mask hides them."""
    from transformers import DynamicCache

    before = {prefix: _prefix_layers(lm, prefix) for prefix in {memory.prefix for memory in memories}}
    sizes = [len(memory.prefix) + memory.keys_LKME.shape[2] for memory in memories]
    cache: Any = DynamicCache()
    for layer in range(memories[0].keys_LKME.shape[0]):
        sides: tuple[list[Tensor], list[Tensor]] = ([], [])
        for memory, size in zip(memories, sizes, strict=True):
            made = (memory.keys_LKME[layer], memory.values_LKME[layer])
            for side, read_KPE, made_KME in zip(sides, before[memory.prefix][layer], made, strict=True):
                held_KNE = torch.cat((read_KPE.to(made_KME.dtype), made_KME), 1)
                side.append(functional.pad(held_KNE, (0, 0, 0, max(sizes) - size)))
        cache.update(*map(torch.stack, sides), layer)
    tail_BSD = pad_sequence([turn.tail_SD.to(lm.dtype) for turn in turns], batch_first=True)
    place_S = torch.arange(tail_BSD.shape[1], device=lm.device)
    start_B = torch.tensor([len(m.prefix) + t.tokens for m, t in zip(memories, turns, strict=True)], device=lm.device)
    held_BK = torch.arange(max(sizes), device=lm.device) < torch.tensor(sizes, device=lm.device)[:, None]
    seen_BL = torch.cat((held_BK, held_BK.new_ones(tail_BSD.shape[:2])), 1)
    return lm.model.base_model(
        inputs_embeds=tail_BSD,
        attention_mask=seen_BL.long(),
        position_ids=start_B[:, None] + place_S,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state


@torch.no_grad()
def _prefix_layers(lm: LanguageModel, prefix: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    """Keys and values (K, P, E) of each layer after reading the prefix."""
    if not prefix:
        nothing = torch.zeros(1, dtype=torch.long, device=lm.device)
        return [(k[0][:, :0], v[0][:, :0]) for k, v in cache_layers(lm, prefill(lm, nothing))]
    return [(k[0], v[0]) for k, v in cache_layers(lm, prefill(lm, torch.tensor(prefix, device=lm.device)))]


def prefill(lm: LanguageModel, ids_S: Int[Tensor, " S"]) -> Any:
    """A `DynamicCache` of keys and values after reading these ids; an empty one for none."""
    from transformers import DynamicCache

    cache = DynamicCache()
    if len(ids_S):
        lm.model.base_model(input_ids=ids_S[None], past_key_values=cache, use_cache=True)
    return cache


def injected_cache(lm: LanguageModel, compressed: Compressed, prefix: Sequence[int], places: Iterable[int]) -> Injected:
    """A cache of the prefix, read here, and of the `keys` and `values` (L, K, M, E) that travelled.

    places: which places of the context the M positions are said to have stood at.
    """
    cache = prefill(lm, torch.tensor(prefix, dtype=torch.long, device=lm.device))
    sent = (compressed.tensors[name].to(lm.device, lm.dtype) for name in ("keys", "values"))
    for layer, (keys_KME, values_KME) in enumerate(zip(*sent, strict=True)):
        cache.update(keys_KME[None], values_KME[None], layer)
    stood = (*range(len(prefix)), *(len(prefix) + place for place in places))
    return Injected(None, (cache, torch.tensor(stood, dtype=torch.long, device=lm.device)))


def cache_layers(lm: LanguageModel, cache: Any) -> list[tuple[Tensor, Tensor]]:
    """Keys and values (B, K, S, E) of each layer. ValueError for a model that keeps anything else."""
    layers = list(cache.layers)
    if len(layers) != int(lm.model.config.get_text_config().num_hidden_layers):
        raise ValueError(f"{lm.name} does not keep keys and values in every layer: its cache cannot be pruned or made")
    return [(layer.keys, layer.values) for layer in layers]


def states_of(
    lm: LanguageModel,
    rows: Sequence[Float[Tensor, "T D"]],
    positions: Sequence[Int[Tensor, " T"]] | None = None,
    *,
    depth: int = 0,
    cache: Any = None,
) -> Float[Tensor, "B N D"]:
    """The model's last hidden states of rows side by side, padded on the right; those of padding mean nothing.

    depth: how many layers are run before the final norm; 0: all of them. cache: an empty transformers cache, which then
    holds the keys and values.

    Under a causal mask padding at the end changes nothing before it, so no mask is needed to hide it. One of ones is
    given with `positions`: without any, transformers takes positions that do not count up by one for several sequences
    packed into one row, and lets none of them see the others.
    """
    rows_BND = pad_sequence([each.to(lm.dtype) for each in rows], batch_first=True)
    given: dict[str, Any] = {"use_cache": cache is not None}
    if cache is not None:
        given["past_key_values"] = cache
    if positions is not None:
        ones_BN = torch.ones(rows_BND.shape[:2], dtype=torch.long, device=rows_BND.device)
        given |= {"position_ids": pad_sequence(list(positions), batch_first=True), "attention_mask": ones_BN}
    with first_layers(lm, depth):
        return lm.model.base_model(inputs_embeds=rows_BND, **given).last_hidden_state


@contextmanager
def first_layers(lm: LanguageModel, depth: int) -> Iterator[None]:
    """Within, the model has only its first `depth` layers, and its final norm; with 0 all of them.

    ValueError where there are fewer, or they are not to be found.
    """
    if depth == 0 or depth == lm.model.config.get_text_config().num_hidden_layers:
        yield
        return
    base = lm.model.base_model
    layers = getattr(base, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ValueError(f"{lm.name} keeps its layers in another place than Llama's: only all of them can be run")
    if not 1 <= depth <= len(layers):
        raise ValueError(f"{depth} layers are out of range; allowed: 1 to {len(layers)} for {lm.name}")
    try:
        base.layers = layers[:depth]
        yield
    finally:
        base.layers = layers
