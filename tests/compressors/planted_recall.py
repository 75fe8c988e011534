"""A world in which one token of a context decides the answer, and a tiny model that knows how to answer.

    context   7 fillers and one value, at any place        suffix   the sign ASK        answer   the value, then END

The model is a Llama of width 32 that is trained on it in the test: about a second. Nothing but the value matters, so a
compressor is as good as its memory of that one token.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from inscape.compressors.interface import Injected
from inscape.compressors.teaching_examples import Example
from inscape.nn.row_generation import CachedPrompt, continuation_logits
from inscape.pretrained.language_model import LanguageModel

FILLERS, VALUES, TOKENS = 8, 8, 8
ASK, END, START = FILLERS + VALUES, FILLERS + VALUES + 1, FILLERS + VALUES + 2
VOCABULARY = START + 1


def random_model(seed: int = 0, scale: float = 0.3, attention: str = "sdpa") -> LanguageModel:
    """Random weights, large enough that every token matters to what follows."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=scale,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=None,
        attn_implementation=attention,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return LanguageModel(model.eval().requires_grad_(False), None, "planted recall")


def contexts(count: int, seed: int, tokens: int = TOKENS) -> tuple[Tensor, Tensor]:
    """Contexts (count, tokens) and the value in each."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(FILLERS, (count, tokens), generator=generator)
    values = FILLERS + torch.randint(VALUES, (count,), generator=generator)
    ids[torch.arange(count), torch.randint(tokens, (count,), generator=generator)] = values
    return ids, values


def examples(count: int, seed: int) -> list[Example]:
    """Prompts with their answers."""
    ids, values = contexts(count, seed)
    return [Example((START,), tuple(c), (ASK,), (v, END)) for c, v in zip(ids.tolist(), values.tolist(), strict=True)]


@functools.cache
def trained_model() -> LanguageModel:
    """The model that answers; frozen."""
    lm = random_model(scale=0.1)
    lm.model.requires_grad_(True)
    optimizer = torch.optim.AdamW(lm.model.parameters(), lr=5e-3)
    with torch.random.fork_rng(devices=[]):
        for step in range(120):
            ids, values = contexts(32, 1000 + step)
            start, ask = torch.full((32, 1), START), torch.full((32, 1), ASK)
            logits = lm.model(input_ids=torch.cat((start, ids, ask, values[:, None]), 1)).logits[:, -2:]
            wanted = torch.stack((values, torch.full((32,), END)), 1)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    lm.model.requires_grad_(False)
    return lm


@torch.no_grad()
def recalled(lm: LanguageModel, memories: list[Tensor], values: list[int]) -> float:
    """How often the model's first answer token is the value when it is fed these rows in the context's place."""
    hits = 0
    for rows_MD, value in zip(memories, values, strict=True):
        fed = torch.cat((lm.table_VD[[START]], rows_MD, lm.table_VD[[ASK]]))
        hits += int(lm.model(inputs_embeds=fed[None]).logits[0, -1].argmax()) == value
    return hits / len(values)


def recalled_from_caches(lm: LanguageModel, injected: list[Injected], values: list[int]) -> float:
    """The same of caches that stand for prefix and context."""
    hits = 0
    for each, value in zip(injected, values, strict=True):
        assert each.cache is not None
        prompt = CachedPrompt(*each.cache, 1 + TOKENS, lm.rows((ASK,)))
        hits += int(continuation_logits(lm, prompt, [value])[0].argmax()) == value
    return hits / len(values)
