"""A frozen language model hears: audio tokens reach its layers through hooks that live as long as a `with` block.

    fusion = Fusion(FusionConfig("gated_cross_attention", layers=(8, 16, 24)), model)  # keeps shapes, not the model
    with fusion.attached(model, projector(features, mask)) as attached:
        logits = model(ids).logits

Four ways to hear, one interface, so that a comparison of two is a change of one word:

    prefix                  tokens as rows before the prompt, mixed in at the end (`fusion_prefix`)
    gated_cross_attention   after chosen layers, maps of its own (`fusion_blocks`)
    zero_init_attention     inside the self-attention of chosen layers
    lora_cross_attention    after chosen layers, the layer's own maps and low-rank additions: the seed's design

Whether a model listens can only be told if not listening is exact. So each kind is the model itself, to the last bit,
when it is made and at gate 0; a clip without a token adds exactly nothing; at strength 0 the model has no hook. Keys
and values of the audio are computed once for each block and serve every step of generation.

The model and the optimizer know nothing of each other: freeze the model (`requires_grad_(False)`), train Fusion and
projector; gradients pass through the frozen layers. With gradient checkpointing the backward pass, which runs the
layers again, has to be within the block too.

Legend: B clips, K audio tokens, T positions of the text, D width of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from inscape.nn.audio_tokens import AudioTokens
from inscape.nn.decoder_layers import decoder_layers, state_of, text_config
from inscape.nn.fusion_blocks import (
    GatedCrossAttention,
    LowRankCrossAttention,
    Memory,
    Projections,
    ZeroInitAttention,
    projections_of,
    straight_clamp,
)
from inscape.nn.fusion_joined import matrix_of
from inscape.nn.fusion_meter import Measurement, Meter
from inscape.nn.fusion_prefix import PrefixReader

if TYPE_CHECKING:
    from jaxtyping import Int

__all__ = ["KINDS", "Attached", "Fusion", "FusionConfig"]

KINDS = ("prefix", "gated_cross_attention", "zero_init_attention", "lora_cross_attention")
ON_OWN_MAPS = (
    "zero_init_attention",
    "lora_cross_attention",
)  # of the layer: these have to tell queries, keys and values


@dataclass(frozen=True)
class FusionConfig:
    """How the model hears. ValueError in one line for what is out of range."""

    kind: str = "lora_cross_attention"  # one of KINDS
    layers: tuple[int, ...] = ()  # numbers from 1 on of the layers after which, or in which, audio is heard; not prefix
    rank: int = 64  # of lora_cross_attention's additions
    alpha: float = 16.0  # their factor is alpha / rank
    residual_init: float = 0.3  # lora_cross_attention's gate at first
    residual_max: float = 1.0  # and at most
    normalise_hidden: bool = True  # whether lora_cross_attention's queries are of h / rms(h); False: of h
    heads: int = 8  # of gated_cross_attention
    head_width: int = 64  # of one of them
    feed_forward: bool = False  # whether gated_cross_attention has a gated FFN behind
    gate_warmup: int = 0  # steps over which all gates open linearly; 0 = open at once

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r} is no fusion; allowed: {', '.join(KINDS)}")
        if self.kind != "prefix" and not self.layers:
            raise ValueError(f"{self.kind} needs layers to work after or in, such as layers=(8, 16, 24)")
        if len(set(self.layers)) != len(self.layers) or min(self.layers, default=1) < 1:
            raise ValueError(f"layers={self.layers} are not possible; allowed: different numbers from 1 on")
        for name in ("rank", "heads", "head_width"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name}={value} is out of range; allowed: 1 or more")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha={self.alpha} is out of range; allowed: finite and above 0")
        if not 0 <= self.residual_init <= self.residual_max < math.inf:
            raise ValueError(
                f"residual_init={self.residual_init} residual_max={self.residual_max} are out of range; "
                "allowed: 0 <= residual_init <= residual_max"
            )
        if self.gate_warmup < 0:
            raise ValueError(f"gate_warmup={self.gate_warmup} is out of range; allowed: steps, or 0 for none")


@final
class Fusion(nn.Module):
    """All that is trained between projector and model: one block for each chosen layer, or the one gate of prefix.

    strength multiplies every gate and may be set between any two passes; 0 shuts it off. ValueError if a layer does
    not exist, or the kind needs a layer's maps of queries, keys and values and cannot tell them in this model.
    """

    def __init__(self, config: FusionConfig, model: nn.Module) -> None:
        super().__init__()
        self.config = config
        self._strength = self._warmth = 1.0
        self._attached = _Live()
        layers = decoder_layers(model)
        self._place = _place_of(model, layers)
        self._shape = _shape_of(model, layers)
        self.gate = nn.Parameter(torch.zeros(())) if config.kind == "prefix" else None
        self.blocks = nn.ModuleDict()
        for number in sorted(config.layers) if config.kind != "prefix" else ():
            if number > len(layers):
                raise ValueError(f"layers={config.layers}: {type(model).__name__} has layers 1 to {len(layers)}")
            self.blocks[str(number)] = _block(config, model, layers[number - 1])

    @property
    def strength(self) -> float:
        """What every gate is multiplied by, beside its warm-up."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        self._strength = value
        self._switch()

    @property
    def gain(self) -> float:
        """What every gate is multiplied by: strength times warm-up."""
        return self._strength * self._warmth

    def set_warmup(self, step: int) -> float:
        """Open the gates to min(1, step / gate_warmup), and say how far that is; count steps from 1.

        At step 0 they would be shut, and a model that hears nothing gives no gradient to learn from.
        """
        self._warmth = min(1.0, step / self.config.gate_warmup) if self.config.gate_warmup else 1.0
        self._switch()
        return self._warmth

    def _switch(self) -> None:
        for attached in self._attached:
            attached.switch(bool(self.gain))

    @contextmanager
    def attached(self, model: nn.Module, audio: AudioTokens, *, measure: bool = False) -> Iterator[Attached]:
        """Within the block the model hears: clip b in row b of every batch, or one clip in all rows.

        measure: keep the figures that `Attached.measurements` gives, at some cost. ValueError if the model is not of
        the shape that this was made for, or the tokens are not of the model's width.
        """
        layers = self._layers_of(model)
        attached = Attached(self, model, layers, _checked(audio, self._shape[1]), measure=measure)
        self._attached.append(attached)
        try:
            attached.switch(bool(self.gain))
            yield attached
        finally:
            self._attached.remove(attached)
            attached.switch(False)

    def _layers_of(self, model: nn.Module) -> nn.ModuleList:
        """Where they were when this was made, else searched for again."""
        found = model.get_submodule(self._place) if _is_list_at(model, self._place) else decoder_layers(model)
        assert isinstance(found, nn.ModuleList)
        if (shape := _shape_of(model, found)) != self._shape:
            raise ValueError(
                f"this fusion is of another model: (layers, width, heads, key heads, head width) are {shape} here and "
                f"were {self._shape} there; use the model it was made for"
            )
        return found


class _Live(list["Attached"]):
    """What is attached now. A copy of a fusion is attached to nothing: the model belongs to the original's blocks."""

    def __deepcopy__(self, memo: Any) -> _Live:
        return _Live()

    def __reduce__(self) -> tuple[type[_Live], tuple[()]]:
        return (_Live, ())


@final
class Attached:
    """One clip for each row of a batch, while a model hears them; made by `Fusion.attached`."""

    def __init__(
        self, fusion: Fusion, model: nn.Module, layers: nn.ModuleList, audio: AudioTokens, *, measure: bool
    ) -> None:
        self._fusion, self._model, self._layers, self._audio = fusion, model, layers, audio
        self._audible_B = audio.mask_BK.any(1)
        self._memories: dict[int, Memory] = {}
        self._learning = torch.is_grad_enabled()  # as where the block began, wherever its gates are opened
        self._meter = Meter() if measure else None
        self._reader: PrefixReader | None = None
        self._handles: list[Any] = []

    def switch(self, on: bool) -> None:
        """Put all hooks into the model, or take all out: with its gates shut a listener costs the model nothing."""
        if not on:
            while self._handles:
                self._handles.pop().remove()
            return
        if self._handles:
            return
        try:
            if self._fusion.config.kind == "prefix":
                self._handles.append(self._read_twice())
            for key in self._fusion.blocks:
                self._listen(int(key))
        except BaseException:
            self.switch(False)
            raise

    def measurements(self) -> dict[int, Measurement]:
        """By number of the layer, over all passes so far; prefix counts as after the last layer.

        ValueError unless attached with measure=True.
        """
        if self._meter is None:
            raise ValueError("nothing was measured; use attached(..., measure=True)")
        return self._meter.read()

    def only(self, kept_A: Int[Tensor, " A"]) -> None:
        """Keep the clips at these places, when the other rows have left the batch; one clip for all rows stays."""
        if len(self._audible_B) == 1:
            return
        self._audio = AudioTokens(*(part[kept_A] for part in self._audio))
        self._audible_B = self._audible_B[kept_A]
        self._memories = {number: memory.only(kept_A) for number, memory in self._memories.items()}
        if self._reader is not None:
            self._reader.audio = self._audio

    def _listen(self, number: int) -> None:
        """Hooks on one layer. Keys and values are computed now, if they are not there yet."""
        block, layer = self._fusion.blocks[str(number)], self._layers[number - 1]
        maps = projections_of(layer, text_config(self._model).num_attention_heads)
        self._memory(number, block, maps)
        if isinstance(block, ZeroInitAttention):
            assert maps is not None
            self._handles += self._inside(number, block, maps, layer)
        else:
            self._handles.append(layer.register_forward_hook(self._after(number, block, maps)))

    def _read_twice(self) -> Any:
        """prefix: the hook on the module that owns the layers."""
        fusion, gate = self._fusion, self._fusion.gate
        assert gate is not None
        backbone = self._model.get_submodule(_place_of(self._model, self._layers).rpartition(".")[0])
        self._reader = reader = self._reader or PrefixReader(self._model, backbone, self._audio)

        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            # Negative as well: a gate that early noise pushed to one side would else stay shut, and teach nothing.
            value = fusion.gain * straight_clamp(gate, -1.0, 1.0)
            if not torch.is_grad_enabled() and not float(value.detach()):
                return None
            without_BTD = output.last_hidden_state
            self._check_rows(without_BTD)
            added_BTD = value * (reader.with_audio(args, kwargs, output) - without_BTD)
            added_BTD = self._audible(added_BTD.to(without_BTD.dtype))
            self._measure(len(self._layers), without_BTD, added_BTD, value, None)
            output.last_hidden_state = without_BTD + added_BTD
            return output

        return backbone.register_forward_hook(hook, with_kwargs=True)

    def _after(self, number: int, block: Any, maps: Projections | None) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            gain, hidden_BTD = self._fusion.gain, state_of(output)
            self._check_rows(hidden_BTD)
            heard = block(maps, hidden_BTD, self._memory(number, block, maps), gain)
            added_BTD = self._audible(heard.added_BTI.to(hidden_BTD.dtype))
            self._measure(number, hidden_BTD, added_BTD, gain * block.gate_value(), heard.weight_BHKT)
            hidden_BTD = hidden_BTD + added_BTD
            return (hidden_BTD, *output[1:]) if isinstance(output, tuple) else hidden_BTD

        return hook

    def _inside(self, number: int, block: ZeroInitAttention, maps: Projections, layer: nn.Module) -> list[Any]:
        """Queries are caught as they leave q_proj, and what they read is added to what goes into o_proj."""
        caught: list[Tensor] = []
        added: list[tuple[Tensor, Tensor]] = []

        def catch(module: nn.Module, args: Any, output: Tensor) -> None:
            caught[:] = [output]

        def add(module: nn.Module, args: Any) -> Any:
            assert caught, "o_proj was reached without q_proj"
            gain, query_BTI, mixed_BTI = self._fusion.gain, caught.pop(), args[0]
            self._check_rows(query_BTI)
            heard = block(maps, query_BTI, self._memory(number, block, maps), gain)
            added_BTI = self._audible(heard.added_BTI.to(mixed_BTI.dtype))
            added[:] = [(added_BTI.detach(), heard.weight_BHKT.detach())] if self._meter is not None else []
            return (mixed_BTI + added_BTI, *args[1:])

        def measure(module: nn.Module, args: Any, output: Any) -> None:
            if added:
                added_BTI, weight_BHKT = added.pop()
                with torch.no_grad():
                    added_BTD = nn.functional.linear(added_BTI, matrix_of(maps.out).to(added_BTI.dtype))
                self._measure(number, state_of(output), added_BTD, self._fusion.gain * block.gate_value(), weight_BHKT)

        hooks = [maps.query.register_forward_hook(catch), maps.out.register_forward_pre_hook(add)]
        return hooks if self._meter is None else [*hooks, layer.register_forward_hook(measure)]

    def _memory(self, number: int, block: Any, maps: Projections | None) -> Memory:
        """Keys and values of the audio in this layer: computed at the first asking, then the same."""
        if number not in self._memories:
            tokens_BKD = self._audio.tokens_BKD.to(self._model.get_input_embeddings().weight.dtype)  # type: ignore[operator]
            with torch.set_grad_enabled(self._learning):
                self._memories[number] = block.memory(maps, tokens_BKD, self._audio.mask_BK)
        return self._memories[number]

    def _audible(self, added_BTX: Tensor) -> Tensor:
        return added_BTX.where(self._audible_B[:, None, None], 0.0)

    def _measure(self, number: int, hidden: Tensor, added: Tensor, gate: Tensor, weight: Tensor | None) -> None:
        if self._meter is not None:
            self._meter.add(number, hidden, added, gate, self._audible_B, weight)

    def _check_rows(self, x_BTX: Tensor) -> None:
        clips, rows = len(self._audio.mask_BK), len(x_BTX)
        if clips not in (1, rows):
            raise ValueError(
                f"{clips} clips are attached and the batch has {rows} rows; give one clip for each row, or one for all"
            )


def _block(config: FusionConfig, model: nn.Module, layer: nn.Module) -> nn.Module:
    width = text_config(model).hidden_size
    if config.kind == "gated_cross_attention":
        return GatedCrossAttention(width, config.heads, config.head_width, feed_forward=config.feed_forward)
    maps = projections_of(layer, text_config(model).num_attention_heads)
    if maps is None:
        others = " or ".join(kind for kind in KINDS if kind not in ON_OWN_MAPS)
        raise ValueError(
            f"{config.kind} needs q_proj, k_proj, v_proj, or the three in one as GPT-2, GPT-NeoX or Phi-3 have them; "
            f"{type(model).__name__} has neither: use {others}"
        )
    if config.kind == "zero_init_attention":
        return ZeroInitAttention(maps)
    residual = (config.residual_init, config.residual_max)
    return LowRankCrossAttention(
        maps, width, rank=config.rank, alpha=config.alpha, residual=residual, normalise=config.normalise_hidden
    )


def _shape_of(model: nn.Module, layers: nn.ModuleList) -> tuple[int, ...]:
    """Layers, width, heads, and where queries stand apart also key heads and the width of a head."""
    config = text_config(model)
    maps = projections_of(layers[0], config.num_attention_heads)
    own = () if maps is None else (maps.key_heads, maps.width)
    return (len(layers), config.hidden_size, config.num_attention_heads, *own)


def _is_list_at(model: nn.Module, place: str) -> bool:
    try:
        return isinstance(model.get_submodule(place), nn.ModuleList)
    except AttributeError:
        return False


def _place_of(model: nn.Module, layers: nn.ModuleList) -> str:
    return next(name for name, module in model.named_modules() if module is layers)


def _checked(audio: AudioTokens, width: int) -> AudioTokens:
    """Tokens that are not there at zero, whatever they held. ValueError where tokens and mask do not fit."""
    tokens_BKD, mask_BK = audio
    if tokens_BKD.ndim != 3 or tokens_BKD.shape[-1] != width or not tokens_BKD.shape[1]:
        raise ValueError(f"audio tokens are of shape {tuple(tokens_BKD.shape)}; wanted (clips, 1 or more, {width})")
    if mask_BK.shape != tokens_BKD.shape[:2] or mask_BK.dtype != torch.bool:
        raise ValueError(
            f"the mask of the audio tokens is {mask_BK.dtype} of shape {tuple(mask_BK.shape)}; "
            f"wanted: torch.bool of shape {tuple(tokens_BKD.shape[:2])}"
        )
    return AudioTokens(tokens_BKD.masked_fill(~mask_BK[..., None], 0.0), mask_BK)
