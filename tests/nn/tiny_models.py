"""Language models of several architectures with tiny random weights, made once for each test run.

All have width 32 and 2 layers of 4 heads. Their weights are large enough that what they say depends on what they read.
"""

from functools import cache
from typing import Any

import torch

from inscape.pretrained.tiny_language_model import tiny_language_model

APART = ("llama", "opt", "qwen2", "qwen3", "llava")  # q_proj, k_proj and v_proj are linear maps of their own
JOINED = ("gpt2", "gpt_neox", "phi3")  # the three are one map
UNKNOWN = ("mpt",)  # they are one map that is not known
ARCHITECTURES = APART + JOINED + UNKNOWN
VOCABULARY = 64
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
GROUPED: dict[str, Any] = {"num_key_value_heads": 2, "intermediate_size": 48, "initializer_range": 0.3}


@cache
def tiny_model(architecture: str) -> Any:
    """Frozen and in eval mode; the same object each time, so not to be changed."""
    if architecture == "llama":
        return tiny_language_model().model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _made(architecture).eval().requires_grad_(False)


def _made(architecture: str) -> Any:
    import transformers as t

    if architecture == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}
        return t.GPT2LMHeadModel(t.GPT2Config(vocab_size=VOCABULARY, **sizes, bos_token_id=None, eos_token_id=None))
    if architecture == "gpt_neox":
        return t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**SIZES, intermediate_size=48, initializer_range=0.3))
    if architecture == "phi3":
        return t.Phi3ForCausalLM(t.Phi3Config(**SIZES, **GROUPED))
    if architecture == "mpt":
        sizes = {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64, "initializer_range": 0.3}
        return t.MptForCausalLM(t.MptConfig(vocab_size=VOCABULARY, **sizes))
    if architecture == "opt":
        return t.OPTForCausalLM(t.OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32, init_std=0.3))
    if architecture == "qwen2":
        return t.Qwen2ForCausalLM(t.Qwen2Config(**SIZES, **GROUPED))
    if architecture == "qwen3":
        return t.Qwen3ForCausalLM(t.Qwen3Config(**SIZES, **GROUPED, head_dim=16))
    assert architecture == "llava"
    # The vision tower is as deep and as wide as the language model: neither tells them apart.
    vision = t.CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=8, patch_size=4
    )
    text = t.LlamaConfig(**SIZES, **GROUPED)
    return t.LlavaForConditionalGeneration(t.LlavaConfig(vision_config=vision, text_config=text, image_token_index=63))
