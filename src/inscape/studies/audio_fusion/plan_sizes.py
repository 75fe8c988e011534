"""The plan's two configs side by side, and how many parameters they really train on the model they were written for.

Counted on torch's meta device: shapes without memory.
"""

from __future__ import annotations

import torch

from inscape.extras import load_extra
from inscape.nn.audio_projectors import make_projector
from inscape.nn.fusion import Fusion
from inscape.studies.audio_fusion.listener import BASELINE, PHASE1, ListenerConfig

__all__ = ["CLAIMED", "plan_sizes", "side_by_side_table"]

CLAIMED = {  # the plan's own table, in parameters
    "baseline": {"projector": 84.5e6, "fusion": 0.16e6, "total": 189.6e6},
    "phase1": {"projector": 168e6, "fusion": 10.5e6, "total": 380e6},
}
FEATURES = 512  # of CLAP
WIDTH, LAYERS, HEADS, INNER = 5120, 40, 40, 13_824  # of the language tower of LLaVA-1.5-13B


def plan_sizes() -> dict[str, dict[str, int]]:
    """Trained parameters of projector and fusion, and their sum, by config."""
    load_extra("transformers", "lm", "counting the plan's parameters")
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        config = LlamaConfig(
            hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=INNER
        )
        tower = LlamaForCausalLM(config)
        found = {}
        for name, each in (("baseline", BASELINE), ("phase1", PHASE1)):
            parts = {
                "projector": make_projector(each.projector, FEATURES, WIDTH),
                "fusion": Fusion(each.fusion, tower),
            }
            counts = {part: sum(p.numel() for p in module.parameters()) for part, module in parts.items()}
            found[name] = counts | {"total": sum(counts.values())}
    return found


def side_by_side_table(baseline: ListenerConfig, phase1: ListenerConfig) -> list[str]:
    """The plan's table, the same with the values of two configs where these differ, and the counted parameters of the
    plan's own beside its claims.
    """
    plan, shown = _table(BASELINE, PHASE1), _table(baseline, phase1)
    lines = ["the plan's table (preset full)", *plan]
    if shown != plan:
        lines += ["the same with the values above, which are not the plan's", *shown]
    try:
        counted = plan_sizes()
    except ValueError as error:  # a package is missing: the table stands without it
        return [*lines, str(error)]
    rows = [
        (part, *(f"{counted[name][part] / 1e6:.2f} ({CLAIMED[name][part] / 1e6:.2f})" for name in CLAIMED))
        for part in ("projector", "fusion", "total")
    ]
    return [
        *lines,
        "trained parameters of preset full on LLaVA-1.5-13B in millions, counted, and in brackets the plan's claim",
        *_columns(rows),
    ]


ROWS = {
    "LoRA rank": lambda each: str(each.fusion.rank),
    "audio tokens": lambda each: str(each.projector.tokens),
    "fusion layers": lambda each: ", ".join(map(str, each.fusion.layers)),
    "fusion kind": lambda each: each.fusion.kind,
    "projector scale": lambda each: f"{each.projector.scale:g}",
    "residual gate at first": lambda each: f"{each.fusion.residual_init:g}",
    "residual gate at most": lambda each: f"{each.fusion.residual_max:g}",
    "gate warm-up": lambda each: f"{each.fusion.gate_warmup} steps" if each.fusion.gate_warmup else "off",
    "lr projector": lambda each: f"{each.lr_projector:g}",
    "lr adapter": lambda each: f"{each.lr_adapter:g}",
}


def _table(baseline: ListenerConfig, phase1: ListenerConfig) -> list[str]:
    rows = [("", "baseline", "phase1")]
    return _columns([*rows, *((name, show(baseline), show(phase1)) for name, show in ROWS.items())])


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    return [f"  {name:24}{first:24}{second}".rstrip() for name, first, second in rows]
