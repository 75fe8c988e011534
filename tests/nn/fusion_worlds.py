"""What the tests of fusion stand on: prompts, clips, and fusions that have something to say."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from tiny_models import ARCHITECTURES, UNKNOWN
from torch import nn

from inscape.nn.audio_tokens import AudioTokens
from inscape.nn.fusion import KINDS, Fusion, FusionConfig

TOY = FusionConfig(layers=(1, 2), rank=4, alpha=8.0, heads=2, head_width=8)
# Models whose queries cannot be told can hear in two ways only.
CASES = [(k, a) for k in KINDS for a in ARCHITECTURES if a not in UNKNOWN or k in ("prefix", "gated_cross_attention")]


def made(kind: str, model: Any, **changes: Any) -> Fusion:
    torch.manual_seed(0)
    return Fusion(replace(TOY, kind=kind, **changes), model)


def awake(kind: str, model: Any, **changes: Any) -> Fusion:
    """With random weights everywhere, as after training."""
    fusion = made(kind, model, **changes)
    torch.manual_seed(1)
    for parameter in fusion.parameters():
        nn.init.normal_(parameter, std=0.4)
        parameter.data += 0.2 * parameter.data.sign()
    for name, parameter in fusion.named_parameters():
        if name.endswith("gate"):
            nn.init.constant_(parameter, 0.6)
    return fusion


def clips(batch: int = 3, tokens: int = 5, seed: int = 2) -> AudioTokens:
    generator = torch.Generator().manual_seed(seed)
    mask_BK = torch.arange(tokens) < torch.tensor([[tokens], [3], [2], [1]])[:batch]
    return AudioTokens(2 * torch.randn(batch, tokens, 32, generator=generator), mask_BK)


def prompts(batch: int = 3, length: int = 7) -> dict[str, torch.Tensor]:
    """Ids, of which the second prompt has two of padding on the left."""
    ids_BT = torch.randint(1, 60, (batch, length), generator=torch.Generator().manual_seed(3))
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[1:2, :2] = 0
    return {"input_ids": ids_BT, "attention_mask": mask_BT, "position_ids": (mask_BT.cumsum(1) - 1).clamp_min(0)}


def logits(model: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """Where there is text: what stands at padding means nothing."""
    return model(**given).logits * given["attention_mask"][..., None]


@contextmanager
def counted(module: Any) -> Iterator[list[int]]:
    """Grows by one number, that of its rows, with each call of a module."""
    calls: list[int] = []
    handle = module.register_forward_hook(lambda m, args, output: calls.append(args[0].shape[1]))
    try:
        yield calls
    finally:
        handle.remove()
