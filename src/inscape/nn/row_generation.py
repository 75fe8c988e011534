"""Greedy generation from embedding rows, or from a cache of keys and values, instead of from token ids.

A prompt that was compressed reaches a language model as rows that stand in no table, or as a cache that holds fewer
positions than the prompt had. What a model writes after it must differ from its usual writing by that and by nothing
else, so that fed with the table's own rows it gives, id for id, what `model.generate(input_ids=...)` gives: greedy,
without penalties, the id that stopped it included. Two traps lie here:

* given `inputs_embeds`, transformers' `generate` returns only the new tokens. Cutting the prompt's length off them
  leaves nothing, and every answer is empty. Here only new tokens are ever returned.
* after a cache that was pruned to K of T positions, the next token stands at position T and not at K.

Prompts of nearly one length share a batch, padded on the left, and those that have stopped leave it. On a CPU they are
read one by one and share only the writing: reading is bound by arithmetic, where padding costs and company gains
nothing; writing is bound by memory, where sixteen tokens cost little more than one.

Legend: B batch, T tokens of a prompt, K positions held by a cache, S rows fed now, L = K + S, D width of a row,
V vocabulary, N new tokens, H key heads, E width of one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from inscape.pretrained.language_model import LanguageModel

__all__ = [
    "CachedPrompt",
    "continuation_logits",
    "generate_from_cache",
    "generate_from_caches",
    "generate_rows",
    "length_buckets",
]

PADDING = 0.25  # the largest share of a batch that may be padding: it is computed like anything else
BATCH_TOKENS = 16_384  # the most tokens of a batch: its keys and values have to fit into memory
CPU_TOKENS = 128  # the most tokens that a CPU reads at once, where there is more than one prompt: more is no faster


class CachedPrompt(NamedTuple):
    """A prompt whose beginning is held by a cache, and whose end is fed as rows.

    positions_K: where in the prompt the K held positions stood; length: how many positions that beginning had before
    any were dropped, so that the first row of `rows_SD` stands at position `length`.
    """

    cache: Any  # a transformers Cache of one prompt: keys (1, H, K, E) and values of each layer, already rotated
    positions_K: Int[Tensor, " K"]
    length: int
    rows_SD: Float[Tensor, "S D"]  # one or more: the logits after the last of them give the first new token


Fed = Tensor | CachedPrompt
Until = Callable[[list[int]], bool]


def generate_rows(
    lm: LanguageModel,
    rows: Sequence[Float[Tensor, "T D"]],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int],
    until: Until | None = None,
    batch: int = 16,
) -> list[list[int]]:
    """The new token ids after each prompt, ONLY those, in the order of `rows`; greedy.

    rows: embedding rows of whole prompts, of any lengths from 1 on. Writing ends with an id of `stop_ids`, which is
    kept as the last, or when `until` says so of the new ids, or after max_new_tokens. To end an answer with its line,
    `until=line_is_over(lm)` is the way: a line feed among the stop ids would cut off a model that begins with one. In
    float32 the ids are those of `generate` on a single prompt of ids, unless two logits are equal to within rounding.
    ValueError in one line: a prompt without rows, of another width or not finite; prompt and answer together longer
    than the window.
    """
    return _generate(lm, list(rows), batch, _Written(len(rows), max_new_tokens, stop_ids, until))


def generate_from_caches(
    lm: LanguageModel,
    prompts: Sequence[CachedPrompt],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int],
    until: Until | None = None,
    batch: int = 16,
) -> list[list[int]]:
    """`generate_rows` for prompts whose beginning is a cache. The caches are left as they are.

    ValueError also where positions and cache do not fit each other, or layers hold different numbers of positions.
    """
    return _generate(lm, list(prompts), batch, _Written(len(prompts), max_new_tokens, stop_ids, until))


def generate_from_cache(
    lm: LanguageModel,
    cache: Any,
    positions: Int[Tensor, " K"],
    last_row: Float[Tensor, "S D"] | Float[Tensor, " D"],
    *,
    length: int,
    max_new_tokens: int,
    stop_ids: Collection[int],
    until: Until | None = None,
) -> list[int]:
    """`generate_from_caches` for one prompt.

    last_row: the row, or all the rows, that follow what the cache holds. length: how many positions the cache stood
    for before it was pruned; it cannot be told from `positions`, of which the last may have been dropped.
    """
    prompt = CachedPrompt(cache, positions, length, torch.atleast_2d(last_row))
    return _generate(lm, [prompt], 1, _Written(1, max_new_tokens, stop_ids, until))[0]


@torch.inference_mode()
def continuation_logits(lm: LanguageModel, prompt: Fed, ids: Sequence[int]) -> Float[Tensor, "N V"]:
    """The logits with which each of `ids` is predicted when they follow the prompt; float32.

    Row n is the prediction of ids[n] from the prompt and ids[:n]. With one continuation after two forms of a prompt,
    it says how far they lead apart (`metrics.next_token`). ValueError as in `generate_rows`, or without ids.
    """
    if not ids:
        raise ValueError("there is no continuation to predict: give one or more ids")
    _check([prompt], lm, len(ids))
    rows_SD = _rows_of(prompt)
    said_SD = lm.rows(ids[:-1]).to(rows_SD)
    longer_SD = torch.cat([rows_SD, said_SD])
    fed = prompt._replace(rows_SD=longer_SD) if isinstance(prompt, CachedPrompt) else longer_SD
    logits_1NV, _ = _Batch.of(lm, [fed]).read(lm, len(ids))
    return logits_1NV[0].float()


def length_buckets(lengths: Sequence[int], batch: int, tokens: int = BATCH_TOKENS) -> list[list[int]]:
    """Indices of prompts, grouped so that those of a group are nearly of one length; longest first.

    A group has at most `batch` prompts; at most a quarter of it is padding; and with its padding it has at most
    `tokens` tokens, or one prompt.
    """
    if batch < 1:
        raise ValueError(f"batch is {batch}; allowed: numbers from 1 on")
    groups: list[list[int]] = []
    longest = held = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        padded = longest * (len(groups[-1]) + 1) if groups else 0
        full = not groups or len(groups[-1]) == batch or padded > tokens
        if full or padded - held - lengths[i] > PADDING * padded:
            groups.append([])
            longest, held = lengths[i], 0
        groups[-1].append(i)
        held += lengths[i]
    return groups


class _Batch:
    """Prompts side by side: their cache, which of its positions are theirs, and where the next row of each stands."""

    def __init__(self, rows_BSD: Tensor, keep_BL: Tensor, positions_BS: Tensor, cache: Any) -> None:
        self.rows_BSD, self.keep_BL, self.positions_BS, self.cache = rows_BSD, keep_BL, positions_BS, cache

    @classmethod
    def of(cls, lm: LanguageModel, prompts: Sequence[Fed]) -> _Batch:
        """Rows and caches are padded on the left, each for itself: the mask knows of both holes."""
        rows = [_rows_of(prompt).to(lm.device, lm.dtype) for prompt in prompts]
        rows_BSD = pad_sequence(rows, batch_first=True, padding_side="left")
        sizes_B1 = torch.tensor([[len(each)] for each in rows], device=lm.device)
        starts_B1 = torch.tensor([[_start(prompt)] for prompt in prompts], device=lm.device)
        place_BS = torch.arange(rows_BSD.shape[1], device=lm.device) - rows_BSD.shape[1] + sizes_B1
        cache, held_BK = _held_side_by_side(lm, prompts)
        keep_BL = torch.cat([held_BK, place_BS >= 0], 1)
        return cls(rows_BSD, keep_BL, starts_B1 + place_BS.clamp(min=0), cache)

    @classmethod
    def joined(cls, parts: Sequence[_Batch]) -> _Batch:
        """Batches that have been read, as one: what is shorter is padded on the left."""
        if len(parts) == 1:
            return parts[0]
        most = max(part.keep_BL.shape[1] for part in parts)
        keep_BL = torch.cat([pad(part.keep_BL, (most - part.keep_BL.shape[1], 0)) for part in parts])
        positions_B1 = torch.cat([part.positions_BS for part in parts])
        return cls(
            torch.cat([part.rows_BSD for part in parts]), keep_BL, positions_B1, _stacked([p.cache for p in parts])
        )

    def read(self, lm: LanguageModel, keep: int) -> tuple[Float[Tensor, "B N V"], _Batch]:
        """The logits after the last `keep` rows, and this batch with everything in its cache and no rows left."""
        places = {"position_ids": self.positions_BS} if _takes(lm, "position_ids") else {}
        # Indices, not their number: by that a model slices, and to multiply a slice the whole table is copied.
        kept_N = torch.arange(-keep, 0, device=lm.device) + self.rows_BSD.shape[1]
        last = {"logits_to_keep": kept_N} if _takes(lm, "logits_to_keep") else {}
        # A mask that hides nothing is left out: without it attention takes the faster way, as in `generate`.
        mask_BL = None if bool(self.keep_BL.all()) else self.keep_BL.long()
        out = lm.model(
            inputs_embeds=self.rows_BSD,
            attention_mask=mask_BL,
            past_key_values=self.cache,
            use_cache=True,
            **places,
            **last,
        )
        nothing_B0D = self.rows_BSD[:, :0]
        return out.logits[:, -keep:], _Batch(nothing_B0D, self.keep_BL, self.positions_BS[:, -1:], out.past_key_values)

    def followed_by(self, lm: LanguageModel, ids_B: Int[Tensor, " B"]) -> _Batch:
        """One more id for each prompt, at its next position."""
        keep_BL = torch.cat([self.keep_BL, self.keep_BL.new_ones(len(ids_B), 1)], 1)
        rows_B1D = lm.model.get_input_embeddings()(ids_B[:, None])
        return _Batch(rows_B1D, keep_BL, self.positions_BS + 1, self.cache)

    def only(self, kept_A: Int[Tensor, " A"]) -> _Batch:
        """The prompts at these places, when the others are done."""
        self.cache.batch_select_indices(kept_A)
        return _Batch(self.rows_BSD[kept_A], self.keep_BL[kept_A], self.positions_BS[kept_A], self.cache)


class _Written:
    """What has been written after each prompt so far, and whether that is all."""

    def __init__(self, prompts: int, most: int, stop_ids: Collection[int], until: Until | None) -> None:
        if most < 1:
            raise ValueError(f"max_new_tokens is {most}; allowed: numbers from 1 on")
        self.new: list[list[int]] = [[] for _ in range(prompts)]
        self.most, self._stop, self._until = most, frozenset(stop_ids), until

    def add(self, prompts: Sequence[int], ids_B: Int[Tensor, " B"]) -> list[int]:
        """One more id for each of these prompts; the places among them of those that go on."""
        for i, chosen in zip(prompts, ids_B.tolist(), strict=True):
            self.new[i].append(chosen)
        return [place for place, i in enumerate(prompts) if not self._is_done(self.new[i])]

    def _is_done(self, new: list[int]) -> bool:
        return len(new) >= self.most or new[-1] in self._stop or (self._until is not None and self._until(new))


@torch.inference_mode()
def _generate(lm: LanguageModel, prompts: Sequence[Fed], batch: int, written: _Written) -> list[list[int]]:
    _check(prompts, lm, written.most)
    lengths = [_held(prompt) + len(_rows_of(prompt)) for prompt in prompts]
    tokens = CPU_TOKENS if _reads_in_parts(lm) else BATCH_TOKENS
    for bucket in length_buckets(lengths, batch):
        parts = []
        for group in length_buckets([lengths[i] for i in bucket], batch, tokens):
            together = [bucket[i] for i in group]
            parts.append(_step(lm, _Batch.of(lm, [prompts[i] for i in together]), together, written))
        alive = [i for part in parts for i in part.prompts]
        if not alive:
            continue
        state = _Batch.joined([part.state for part in parts if part.prompts])
        ids_B = torch.cat([part.ids_B for part in parts])
        while alive:
            state, ids_B, alive = _step(lm, state.followed_by(lm, ids_B), alive, written)
    return written.new


class _Step(NamedTuple):
    """Those that go on after one more token: their batch, the ids just written, and which prompts they are."""

    state: _Batch
    ids_B: Int[Tensor, " B"]
    prompts: list[int]


def _step(lm: LanguageModel, state: _Batch, prompts: Sequence[int], written: _Written) -> _Step:
    logits_B1V, state = state.read(lm, 1)
    ids_B = logits_B1V[:, -1].argmax(-1)
    going = written.add(prompts, ids_B)
    if 0 < len(going) < len(prompts):
        state = state.only(torch.tensor(going, device=ids_B.device))
    return _Step(state, ids_B[going], [prompts[place] for place in going])


def _reads_in_parts(lm: LanguageModel) -> bool:
    """Whether prompts are read apart and joined: on a CPU, where the cache of every layer is plain keys and values."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    layers = getattr(DynamicCache(config=lm.model.config), "layers", ())
    return lm.device.type == "cpu" and all(type(layer) is DynamicLayer for layer in layers)


def _held_side_by_side(lm: LanguageModel, prompts: Sequence[Fed]) -> tuple[Any, Bool[Tensor, "B K"]]:
    """One cache for all prompts, padded on the left, and which of its positions are not padding."""
    from transformers import DynamicCache

    sizes_B = torch.tensor([_held(prompt) for prompt in prompts], device=lm.device)
    most = int(sizes_B.max())
    held_BK = torch.arange(most, device=lm.device) >= most - sizes_B[:, None]
    caches = [prompt.cache for prompt in prompts if isinstance(prompt, CachedPrompt)]
    return _stacked(caches, lm.device) if most else DynamicCache(config=lm.model.config), held_BK


def _stacked(caches: Sequence[Any], device: torch.device | None = None) -> Any:
    """One cache of the prompts of all of them, a copy; what is shorter is padded on the left."""
    from transformers import DynamicCache

    stacked = DynamicCache()
    for i, first in enumerate(caches[0].layers):
        layers = [cache.layers[i] for cache in caches]
        most = max(layer.keys.shape[-2] for layer in layers)
        keys, values = (
            torch.cat(
                [pad(x_BHKE.to(device or first.keys.device), (0, 0, most - x_BHKE.shape[-2], 0)) for x_BHKE in part]
            )
            for part in ([layer.keys for layer in layers], [layer.values for layer in layers])
        )
        stacked.update(keys, values, i)
    return stacked


def _rows_of(prompt: Fed) -> Float[Tensor, "S D"]:
    return prompt.rows_SD if isinstance(prompt, CachedPrompt) else prompt


def _held(prompt: Fed) -> int:
    return len(prompt.positions_K) if isinstance(prompt, CachedPrompt) else 0


def _start(prompt: Fed) -> int:
    return prompt.length if isinstance(prompt, CachedPrompt) else 0


def _takes(lm: LanguageModel, argument: str) -> bool:
    return argument in inspect.signature(lm.model.forward).parameters


def _check(prompts: Sequence[Fed], lm: LanguageModel, new: int) -> None:
    """ValueError in one line for what no model could go on from."""
    if not _takes(lm, "past_key_values"):
        raise ValueError(f"{lm.name} keeps no keys and values to go on from; use a transformer")
    for i, prompt in enumerate(prompts):
        rows_SD = _rows_of(prompt)
        if rows_SD.ndim != 2 or rows_SD.shape[1] != lm.dimension or not len(rows_SD):
            raise ValueError(
                f"prompt {i} has rows of shape {tuple(rows_SD.shape)}; {lm.name} takes one or more of {lm.dimension}"
            )
        if not bool(torch.isfinite(rows_SD).all()):
            raise ValueError(f"prompt {i} has rows that are not finite")
        if isinstance(prompt, CachedPrompt):
            _check_cache(i, prompt, lm)
        if (length := _start(prompt) + len(rows_SD)) + new > lm.window:
            raise ValueError(
                f"prompt {i} has {length} tokens and its answer up to {new}, and the window of {lm.name} is "
                f"{lm.window}: shorten the context, or take a model with a longer window"
            )


def _check_cache(i: int, prompt: CachedPrompt, lm: LanguageModel) -> None:
    sizes = {tuple(layer.keys.shape[:1]) + tuple(layer.keys.shape[-2:-1]) for layer in prompt.cache.layers}
    positions_K = prompt.positions_K
    if positions_K.ndim != 1 or sizes != {(1, len(positions_K))}:
        raise ValueError(
            f"prompt {i}: the layers of its cache hold (prompts, positions) {sorted(sizes)}, and positions of shape "
            f"{tuple(positions_K.shape)} are named: wanted one prompt, and in each layer as many as are named"
        )
    if len(positions_K) and not 0 <= int(positions_K.min()) <= int(positions_K.max()) < prompt.length:
        raise ValueError(
            f"prompt {i}: its cache holds positions {int(positions_K.min())} to {int(positions_K.max())} of a length "
            f"of {prompt.length}; length counts the positions before any were dropped"
        )
    if prompt.length != len(positions_K) and not _takes(lm, "position_ids"):
        raise ValueError(f"{lm.name} counts positions by itself: it cannot go on from a cache that was pruned")
