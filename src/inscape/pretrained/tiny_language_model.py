"""A language model with random weights that needs no download: for tests, no knowledge in it.

It has everything that the code around a language model can get wrong: several layers, fewer key heads than query
heads, rotary positions, an embedding table and a head that differ. Its weights are large enough that what it writes
depends on the prompt; with the usual tiny ones it would write one word for ever.
"""

from __future__ import annotations

import torch

from inscape.pretrained.language_model import LanguageModel

__all__ = ["tiny_language_model"]

END = "<|end|>"
WINDOW = 2048


def tiny_language_model(seed: int = 0) -> LanguageModel:
    """A Llama of width 32 with 2 layers over the 256 bytes and a sign for the end; the same for the same seed."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    ids = {sign: i for i, sign in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=ids, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, pad_token=END)
    end = len(ids)  # the sign that the tokenizer adds behind the bytes
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=WINDOW,
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval().requires_grad_(False)
    # Llama's own initialisation leaves the row of the padding sign at zero, which no trained table has.
    table = model.model.embed_tokens.weight.data
    table[end] = table[0].flip(0)
    return LanguageModel(model, tokenizer, f"tiny:{seed}")
