"""Audio tokens as rows before the prompt, made so that a gate can shut them off exactly.

Rows before a prompt change every state behind them, however small they are: there is no scale at which prefix tuning
(Li and Liang 2021; of a frozen model that sees, Tsimpoukelli et al. 2021) is the model itself. So the model reads
twice, once without the rows and once with them, and the last states before the head are mixed:

    h = without + g (with - without)            g = 0: the model, to the last bit; g = 1: plain prefix tuning

g lies in -1..1. Rows that mean nothing yet do harm, and the first gradients push the gate below 0; were it held there,
no gradient would ever reach the rows, and they would stay as they are.

It costs a second pass. In generation that pass has its own cache of keys and values, which follows the model's own: it
begins with the rows, and grows with each step. The pass goes through the backbone, which is the module that owns the
layers: there ids and images have become rows already.

A token that is not there is hidden by the attention mask and takes no position.

Legend: B batch, K audio tokens, S rows fed now, P positions that the cache holds, D width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from inscape.nn.audio_tokens import AudioTokens
from inscape.nn.decoder_layers import text_config

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["PrefixReader"]

MOVES = ("batch_repeat_interleave", "batch_select_indices", "reorder_cache")  # of a cache's batch: beams, prompts done


@final
class PrefixReader:
    """The passes with audio, while it is attached. `audio` may be replaced when prompts leave the batch."""

    def __init__(self, model: nn.Module, backbone: nn.Module, audio: AudioTokens) -> None:
        self.audio = audio
        self._backbone: Any = backbone
        self._embed: Any = model.get_input_embeddings()  # type: ignore[operator]
        self._window = getattr(text_config(model), "max_position_embeddings", None)
        self._signature = inspect.signature(backbone.forward)
        self._caches: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()  # the model's cache -> that of the second pass

    def with_audio(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Float[Tensor, "B S D"]:
        """The backbone's last states for what it was just given, had the audio stood before it.

        output: what the backbone gave without. ValueError for a cache that was not filled while attached, for masks
        of more than two axes, and for text that the window does not hold together with the audio.
        """
        given = self._signature.bind(*args, **kwargs).arguments
        given |= given.pop("kwargs", {})
        rows_BSD = given.get("inputs_embeds")
        rows_BSD = self._embed(given["input_ids"]) if rows_BSD is None else rows_BSD
        cache = output.past_key_values
        held = 0 if cache is None else cache.get_seq_length() - rows_BSD.shape[1]
        tokens_BKD, prefix_BK = (x.expand(len(rows_BSD), *x.shape[1:]) for x in self.audio)
        mask_BL = torch.cat([prefix_BK.long(), _text_mask(given, rows_BSD, held)], 1)
        self._check(mask_BL.shape[1])
        first = held == 0
        fed_BRD = torch.cat([tokens_BKD.to(rows_BSD.dtype), rows_BSD], 1) if first else rows_BSD
        places = {}
        if "position_ids" in self._signature.parameters:
            places["position_ids"] = _positions(given, prefix_BK, mask_BL, rows_BSD.shape[1], first=first)
        return self._backbone.forward(
            inputs_embeds=fed_BRD,
            attention_mask=mask_BL,
            past_key_values=self._second(cache, held),
            use_cache=cache is not None,
            **places,
        ).last_hidden_state[:, -rows_BSD.shape[1] :]

    def _second(self, cache: Any, held: int) -> Any:
        """The cache of the pass with audio that goes with the model's own."""
        from transformers import DynamicCache

        if cache is None:
            return None
        if held == 0:
            second = DynamicCache(config=self._backbone.config)
            for name in MOVES:
                _follow(cache, second, name)
            self._caches[cache] = second
        second = self._caches.get(cache)
        if second is None or (held and second.get_seq_length() != held + self.audio.tokens_BKD.shape[1]):
            raise ValueError(
                f"the cache holds {held} positions that were not all read with this audio attached; "
                "read the prompt anew within the block"
            )
        return second

    def _check(self, length: int) -> None:
        if self._window is not None and length > self._window:
            raise ValueError(
                f"audio and text take {length} positions and the model's window is {self._window}; "
                "shorten the text or take fewer audio tokens"
            )


def _text_mask(given: dict[str, Any], rows_BSD: Tensor, held: int) -> Tensor:
    mask = given.get("attention_mask")
    if mask is None:
        return torch.ones(len(rows_BSD), held + rows_BSD.shape[1], dtype=torch.long, device=rows_BSD.device)
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        raise ValueError("prefix needs an attention mask of shape (batch, positions), or none; not one made already")
    return mask.long()


def _positions(given: dict[str, Any], prefix_BK: Tensor, mask_BL: Tensor, rows: int, *, first: bool) -> Tensor:
    """Counted among what is there; positions that the caller names are moved on by the audio tokens before them."""
    place_BL = (mask_BL.cumsum(1) - 1).clamp_min(0)
    named = given.get("position_ids")
    if named is not None:
        place_BL = torch.cat([place_BL[:, :-rows], named + prefix_BK.sum(1, keepdim=True)], 1)
    return place_BL[:, -(rows + prefix_BK.shape[1]) :] if first else place_BL[:, -rows:]


def _follow(cache: Any, second: Any, name: str) -> None:
    """Whatever moves the batch of the model's cache moves that of the second one too."""
    own, other = getattr(cache, name, None), getattr(second, name, None)
    if own is None or other is None:
        return

    def both(*args: Any, _moves: tuple[Callable[..., Any], ...] = (own, other)) -> None:
        for move in _moves:
            move(*args)

    setattr(cache, name, both)
