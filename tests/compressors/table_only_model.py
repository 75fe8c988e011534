"""A language model of which nothing is there but its embedding table: all that row-wise compressors may look at."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class TableOnly(NamedTuple):
    table_VD: Tensor
    name: str = "table only"

    @property
    def vocab_size(self) -> int:
        return len(self.table_VD)

    @property
    def dimension(self) -> int:
        return self.table_VD.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return self.table_VD.dtype

    @property
    def device(self) -> torch.device:
        return self.table_VD.device


def planted_model(rows: int = 60, width: int = 16, seed: int = 0, decay: float = 0.7) -> Any:
    """Rows with a falling spectrum, a mean that is not zero, and norms around 0.5, as tables have."""
    generator = torch.Generator().manual_seed(seed)
    spread_D = decay ** torch.arange(width, dtype=torch.float32)
    turn_DD = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
    row_VD = torch.randn(rows, width, generator=generator) * spread_D @ turn_DD + 0.3
    return TableOnly(0.5 * row_VD / row_VD.norm(dim=1).mean())


def planted_prompts(count: int = 12, rows: int = 60, seed: int = 1, longest: int = 30) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(5, longest + 1, (count,), generator=generator).tolist()
    return [(torch.rand(length, generator=generator) ** 2 * rows).long() for length in lengths]
