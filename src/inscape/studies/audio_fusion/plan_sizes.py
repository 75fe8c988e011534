"""How many parameters the plan's two configs really train, on the model they were written for, beside what it claims.

Counted on torch's meta device: shapes without memory.
"""

from __future__ import annotations

import torch

from inscape.extras import load_extra
from inscape.nn.audio_projectors import make_projector
from inscape.nn.fusion import Fusion
from inscape.studies.audio_fusion.listener import BASELINE, PHASE1

__all__ = ["CLAIMED", "plan_sizes"]

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
