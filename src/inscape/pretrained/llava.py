"""The language tower of LLaVA-1.5 (Liu et al. 2023) alone, as a language model like any other here.

    lm = open_llava_language("llava-hf/llava-1.5-13b-hf", dtype="bfloat16")

LLaVA is a Llama (Vicuna) that was trained on with pictures before it. What an audio study freezes is that Llama: its
decoder, its embedding table and its head. They are put together as the causal language model that they are, without
copying a weight; the picture tower and its projector are read with the rest of the file and then let go. On text alone
the logits are LLaVA's own.

Only safetensors are read and no code that comes with a model is run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from inscape.device import pick_device
from inscape.extras import load_extra
from inscape.pretrained.language_model import DTYPES, LanguageModel, quiet_bars
from inscape.user_paths import user_path

__all__ = ["DEFAULT", "open_llava_language"]

DEFAULT = "llava-hf/llava-1.5-13b-hf"


def open_llava_language(
    where: str = DEFAULT, *, device: str | torch.device = "cpu", dtype: str = "float32"
) -> LanguageModel:
    """The language tower of the LLaVA in a folder or under a hub name, frozen, on `device`, rounded to `dtype`.

    Local files are tried before the hub. ValueError in one line if it is not to be had, is no LLaVA, or lacks weights.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; allowed: {', '.join(DTYPES)}")
    place = device if isinstance(device, torch.device) else pick_device(device)
    load_extra("transformers", "lm", "LLaVA's language tower")
    llava, tokenizer = _find(where or DEFAULT, DTYPES[dtype])
    model = _language_tower(llava).to(place).eval().requires_grad_(False)
    return LanguageModel(model, tokenizer, f"llava:{where}" if where else "llava")


def _language_tower(llava: Any) -> Any:
    """The causal language model around LLaVA's decoder and head; an empty one is made, and the two set into it."""
    from transformers import AutoModelForCausalLM

    decoder = llava.model.language_model
    with torch.device("meta"):
        shell: Any = AutoModelForCausalLM.from_config(
            decoder.config, attn_implementation=decoder.config._attn_implementation
        )
    setattr(shell, shell.base_model_prefix, decoder)
    shell.set_output_embeddings(llava.get_output_embeddings())
    shell.generation_config = llava.generation_config
    assert not any(weight.is_meta for weight in shell.state_dict().values()), "every weight is LLaVA's"
    return shell


def _find(where: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """LLaVA and its tokenizer: from a folder, else what an earlier download left on this machine, else the hub."""
    folder = user_path(where)
    if folder.is_dir():
        return _load(str(folder), f"the folder {where}", dtype, local_files_only=True)
    if where.startswith((".", "/", "~")) or where.count("/") > 1 or "\\" in where:
        raise ValueError(f"llava: there is no folder {where}; give a folder with its config.json and .safetensors")
    try:
        return _load(where, where, dtype, local_files_only=True)
    except ValueError:
        said = f"{where}, neither on this machine nor from the hub: copy them here and give llava:FOLDER"
        return _load(where, said, dtype)


def _load(where: str, said: str, dtype: torch.dtype, **options: bool) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoTokenizer, LlavaForConditionalGeneration

    options = {"trust_remote_code": False, **options}
    kind = str(_or_one_line(said, AutoConfig.from_pretrained, where, **options).model_type)
    if kind != "llava":
        raise ValueError(f"llava: {said} holds a model of type {kind} and not llava: open it without llava:")
    with quiet_bars():
        # The type is given here and not by .to(): casting would round rotary frequencies, which stay in float32.
        llava, info = _or_one_line(
            said,
            LlavaForConditionalGeneration.from_pretrained,
            where,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    if missing := sorted(info["missing_keys"]) or sorted(str(key) for key in info.get("mismatched_keys", ())):
        raise ValueError(f"llava: {said} lacks {len(missing)} weights of this model, such as {missing[0]}")
    return llava, _or_one_line(said, AutoTokenizer.from_pretrained, where, **options)


def _or_one_line(said: str, load: Callable[..., Any], where: str, **options: Any) -> Any:
    try:
        return load(where, **options)
    except Exception as error:  # the hub, the network, JSON, the tokenizer and safetensors each raise their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise ValueError(f"llava: no LLaVA from {said} ({reason})") from None
