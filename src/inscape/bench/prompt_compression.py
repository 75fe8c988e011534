"""How much faster prompts are answered in batches from rows than one after the other by transformers' `generate`.

    inscape bench prompt-compression [--json]            SmolLM2 (fetched on the first use)
    inscape bench prompt-compression:MODEL [--json]      any other language model: tiny, a hub id, a folder

Questions about scenes, of different lengths, answered greedily until the line ends. Both ways answer the same prompts
in the same run, by turns, so that whatever else the machine does falls on both; the figures are of all turns together,
and the worst turn stands beside them. The one way is fed ids, the other the table's rows: their answers must agree.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from inscape.data.questions import build_prompt, draw_scene_questions
from inscape.device import set_threads
from inscape.nn.row_generation import generate_rows
from inscape.pretrained.language_model import LanguageModel, line_is_over, open_language_model
from inscape.pretrained.plain_generation import generate_from_ids

__all__ = ["run"]

PROMPTS, NEW_TOKENS, BATCH, TURNS = 32, 24, 16, 3


def run(
    model: str = "smollm2",
    prompts: int = PROMPTS,
    new_tokens: int = NEW_TOKENS,
    batch: int = BATCH,
    turns: int = TURNS,
    device: str = "auto",
) -> dict[str, Any]:
    """New tokens a second of both ways, and how many times faster batches are, over all turns and in the worst.

    ValueError where the model is not to be had.
    """
    threads = set_threads()
    lm = open_language_model(model, device=device)
    asked = _prompts(lm, prompts, new_tokens)
    rows = [lm.rows(ids) for ids in asked]
    over = line_is_over(lm)

    def batched() -> list[list[int]]:
        return generate_rows(lm, rows, max_new_tokens=new_tokens, stop_ids=lm.end_ids, until=over, batch=batch)

    def plain() -> list[list[int]]:
        return [generate_from_ids(lm, ids, new_tokens, over) for ids in asked]

    # The first call is not like the others: kernels are chosen, and memory is asked for.
    generate_from_ids(lm, asked[0], 2, over)
    generate_rows(lm, rows[:2], max_new_tokens=2, stop_ids=())
    seconds: dict[str, list[float]] = {"plain": [], "batched": []}
    answers: dict[str, list[list[int]]] = {}
    for turn in range(turns):
        ways = [("plain", plain), ("batched", batched)]
        for name, way in ways if turn % 2 == 0 else ways[::-1]:
            answers[name], taken = _timed(way, lm.device)
            seconds[name].append(taken)
    tokens = {name: sum(map(len, said)) for name, said in answers.items()}
    rates = {name: turns * tokens[name] / sum(taken) for name, taken in seconds.items()}
    pairs = zip(seconds["plain"], seconds["batched"], strict=True)
    same = sum(one == other for one, other in zip(answers["plain"], answers["batched"], strict=True))
    return {
        "model": model,
        "device": str(lm.device),
        "threads": threads,
        "prompts": prompts,
        "batch": batch,
        "mean_prompt_tokens": float(np.mean([len(ids) for ids in asked])),
        "mean_new_tokens": tokens["batched"] / prompts,
        "turns": turns,
        "plain_tokens_per_second": rates["plain"],
        "batched_tokens_per_second": rates["batched"],
        "speedup": rates["batched"] / rates["plain"],
        "worst_turn_speedup": min(one * tokens["batched"] / (other * tokens["plain"]) for one, other in pairs),
        "speedup_limit": 1.0,
        "same_answers": same / prompts,
    }


def _prompts(lm: LanguageModel, count: int, new_tokens: int) -> list[tuple[int, ...]]:
    questions, limit = draw_scene_questions(count, seed=0, split="test"), lm.window - new_tokens
    return [build_prompt(each, lm.encode, max_tokens=limit, begin=lm.begin_ids).ids for each in questions]


def _timed(way: Callable[[], list[list[int]]], device: torch.device) -> tuple[list[list[int]], float]:
    start = time.perf_counter()
    said = way()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return said, time.perf_counter() - start
