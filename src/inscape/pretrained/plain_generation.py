"""One prompt of ids through transformers' own `generate`: what everything that feeds rows is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from inscape.pretrained.language_model import LanguageModel

__all__ = ["generate_from_ids"]


@torch.inference_mode()
def generate_from_ids(
    lm: LanguageModel, ids: Sequence[int], max_new_tokens: int, until: Callable[[list[int]], bool]
) -> list[int]:
    """The new ids alone; greedy, with transformers' own cache, until `until` says so of them or the model stops."""
    from transformers import StoppingCriteria, StoppingCriteriaList

    class IsOver(StoppingCriteria):
        def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
            done = [until(each) for each in input_ids[:, len(ids) :].tolist()]
            return torch.tensor(done, device=input_ids.device)

    ids_1T = torch.tensor([list(ids)], device=lm.device)
    out_1T = lm.model.generate(
        ids_1T,
        attention_mask=torch.ones_like(ids_1T),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=list(lm.end_ids) or None,
        stopping_criteria=StoppingCriteriaList([IsOver()]),
        pad_token_id=0,
    )
    return out_1T[0, len(ids) :].tolist()
