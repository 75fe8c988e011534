"""Where the decoder layers of a language model are, found by what they do.

The path to them differs from architecture to architecture and has moved between versions of transformers
(`model.layers`, `transformer.h`, `model.decoder.layers`, `language_model.model.layers`, ...). So it is not guessed: two
tokens are sent through the model, and the layers are those modules of a list, as many as the config says, that each
were called once, in order, and took in and gave out two states of the model's width. A vision tower of the same depth
and width is not among them, since text does not pass through it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["decoder_layers", "state_of", "text_config"]


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The list of decoder layers of a transformers model, in order. It runs the model on two tokens, without gradients.

    A model on torch's meta device, made to count its parameters, cannot run: there the shapes of weights have to do.
    ValueError in one line if the model has no text config, cannot read two ids, or not exactly one list fits.
    """
    config = text_config(model)
    count, width = config.num_hidden_layers, config.hidden_size
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    on_meta = any(parameter.is_meta for parameter in model.parameters())
    found = _lists_of_width(lists, width) if on_meta else _lists_that_states_pass(model, lists, width)
    if len(found) != 1:
        raise ValueError(
            f"{type(model).__name__} has {len(found) or 'no'} list(s) of {count} decoder layers through which states "
            f"of width {width} pass; wanted exactly one, as in a Hugging Face causal language model"
        )
    return found[0]


def text_config(model: nn.Module) -> Any:
    """The part of a transformers config that describes the language model. ValueError if there is none."""
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    if not all(isinstance(getattr(config, name, None), int) for name in ("num_hidden_layers", "hidden_size")):
        raise ValueError(
            f"{type(model).__name__} has no config with num_hidden_layers and hidden_size; "
            "give a Hugging Face causal language model"
        )
    return config


def state_of(output: Any) -> Any:
    """The hidden states among what a decoder layer gives: some give them alone, some first of several."""
    return output[0] if isinstance(output, tuple) and output else output


def _lists_of_width(lists: list[nn.ModuleList], width: int) -> list[nn.ModuleList]:
    """Lists of which each member has a weight with the model's width among its sizes."""
    return [each for each in lists if all(any(width in p.shape for p in member.parameters()) for member in each)]


def _lists_that_states_pass(model: nn.Module, lists: list[nn.ModuleList], width: int) -> list[nn.ModuleList]:
    calls: list[list[int]] = [[] for _ in lists]
    handles = []

    def noting(which: int, place: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            given = args[0] if args else kwargs.get("hidden_states")
            shapes = {tuple(x.shape) if isinstance(x, Tensor) else None for x in (given, state_of(output))}
            calls[which].append(place if shapes == {(1, 2, width)} else -1)

        return hook

    try:
        for which, members in enumerate(lists):
            handles += [m.register_forward_hook(noting(which, i), with_kwargs=True) for i, m in enumerate(members)]
        _read_two_ids(model)
    finally:
        for handle in handles:
            handle.remove()
    return [members for members, called in zip(lists, calls, strict=True) if called == list(range(len(members)))]


@torch.no_grad()
def _read_two_ids(model: Any) -> None:
    """One pass that leaves no trace: a model in training draws its dropout from a copy of the random state."""
    try:
        device = model.get_input_embeddings().weight.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=device), use_cache=False)
    except Exception as error:  # each architecture raises its own
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise ValueError(f"{type(model).__name__} cannot be run on two token ids ({said})") from None
