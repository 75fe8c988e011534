"""What a model looks for as it reads: the queries of its layers, collected while it runs as it always does.

For models whose attention is built as Llama's is, with q_proj and rotary positions.

Legend: L layers, B rows side by side, H query heads, W places, E width of a head, D width of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from inscape.pretrained.language_model import LanguageModel

__all__ = ["queries_collected"]


@contextmanager
def queries_collected(lm: LanguageModel, latest: int = 0) -> Iterator[dict[int, Tensor]]:
    """Within, each layer's queries (B, H, W, E) are collected as the model reads, rotation included.

    latest: how many of the last places; 0: all. Only queries are computed a second time; the model's own attention runs
    as ever, fused where it can be. ValueError for a model whose attention is built otherwise.
    """
    found: dict[int, Tensor] = {}
    handles = [
        module.register_forward_pre_hook(_collecting(found, latest), with_kwargs=True)
        for module in lm.model.base_model.modules()
        if hasattr(module, "q_proj") and hasattr(module, "layer_idx") and hasattr(module, "head_dim")
    ]
    layers = int(lm.model.config.get_text_config().num_hidden_layers)
    try:
        if len(handles) != layers:
            raise ValueError(
                f"{lm.name} has {layers} layers, and {len(handles)} attend as Llama's do, by q_proj and rotary "
                "positions; use score=key_norm"
            )
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _collecting(found: dict[int, Tensor], latest: int) -> Callable[..., None]:
    def hook(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        part: Any = module
        hidden_BWD = (named["hidden_states"] if "hidden_states" in named else given[0])[:, -latest:]
        query_BWHE = part.q_proj(hidden_BWD).unflatten(-1, (-1, part.head_dim))
        query_BHWE = getattr(part, "q_norm", nn.Identity())(query_BWHE).transpose(1, 2)
        cos_B1WE, sin_B1WE = (angles[:, None, -latest:] for angles in named["position_embeddings"])
        first, second = query_BHWE.chunk(2, dim=-1)
        found[part.layer_idx] = query_BHWE * cos_B1WE + torch.cat((-second, first), dim=-1) * sin_B1WE

    return hook
