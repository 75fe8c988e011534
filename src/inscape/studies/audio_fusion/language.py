"""Which language model is to hear, and the small one that is trained here where none is at hand.

A frozen model with knowledge of its own (SmolLM2, LLaVA's language tower, any causal model of Hugging Face) is what the
study is about. The default of the short presets is a model of a million parameters that has read the training captions
and the sentences of the scene grammar, in seconds: it writes the language of captions, knows nothing of any clip, and
has other text to forget.

Legend: B batch, N padded length of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from inscape.core.rundir import RunDir
from inscape.data.epochs import drawn, positions_of
from inscape.data.scenes import canonical, sample
from inscape.device import pick_device, seed_everything
from inscape.extras import load_extra
from inscape.pretrained.language_model import (
    DTYPES,
    LanguageModel,
    open_language_model,
    quiet_bars,
    use_plain_attention,
)
from inscape.stopping import part_of
from inscape.train import FitConfig, fit

__all__ = [
    "OWN",
    "LanguageConfig",
    "OwnConfig",
    "begin_ids",
    "check_language",
    "open_language",
    "other_texts",
    "train_own",
]

OWN = "own"
FOLDER = "language_model"  # in the run of the first phase
END, UNKNOWN = "<end>", "<unknown>"


@dataclass(frozen=True)
class OwnConfig:
    """The model that is trained here: a Llama over words."""

    width: int = 128
    layers: int = 4
    heads: int = 4
    batch: int = 64  # texts a step
    texts: int = 4000  # sentences of the scene grammar among them
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(steps=300, lr=2e-3, warmup_steps=30, ema_decay=0.98, precision="float32")
    )

    def __post_init__(self) -> None:
        for name, most in (("width", 4096), ("layers", 64), ("heads", 64), ("batch", 4096), ("texts", 10**6)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"language.own.{name}={getattr(self, name)} is out of range; allowed: 1 to {most}")
        if self.width % (2 * self.heads):
            raise ValueError(
                f"language.own.width={self.width} does not divide into {self.heads} heads of an even width; "
                "allowed: a multiple of twice language.own.heads"
            )


@dataclass(frozen=True)
class LanguageConfig:
    """How the frozen model (`data.model`) is opened, and asked for a caption."""

    dtype: str = "float32"  # of its weights: float32 | bfloat16 | float16
    prompt: str = "the sound :"  # what stands before every caption
    new_tokens: int = 40  # most tokens of a caption
    batch: int = 32  # clips that are written of side by side
    candidates: int = 1  # captions that are sampled of each clip as well, and the best taken; 1: greedy alone
    temperature: float = 0.7  # they are sampled at
    rerank_weight: float = 0.5  # of how much the sound raises a caption's probability, beside that probability
    own: OwnConfig = field(default_factory=OwnConfig)

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"language.dtype={self.dtype!r} is not known; allowed: {', '.join(DTYPES)}")
        for name, most in (("new_tokens", 1000), ("batch", 10_000), ("candidates", 100)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"language.{name}={getattr(self, name)} is out of range; allowed: 1 to {most}")
        if not 0 < self.temperature <= 10:
            raise ValueError(f"language.temperature={self.temperature} is out of range; allowed: above 0, up to 10")
        if not 0 <= self.rerank_weight <= 100:
            raise ValueError(f"language.rerank_weight={self.rerank_weight} is out of range; allowed: 0 to 100")


def check_language(model: str) -> None:
    """ValueError if the packages are not there; the model itself is opened by the run."""
    load_extra("transformers", "lm", f"the language model {model}")


def open_language(model: str, config: LanguageConfig, run: RunDir, device: str) -> LanguageModel:
    """The frozen model; `own` out of `run`, the first phase's.

    ValueError in one line if it is not to be had, has no sign for the end, or does more to its logits than a head does.
    """
    place = pick_device(device)
    if model == OWN:
        folder = run.path / FOLDER
        if not (folder / "config.json").is_file():
            raise ValueError(f"{run.path} holds no language model of its own: run the phase identity again")
        lm = open_language_model(str(folder), device=place, dtype=config.dtype)._replace(name=OWN)
    else:
        lm = open_language_model(model, device=place, dtype=config.dtype)
    if not lm.end_ids:
        raise ValueError(f"{lm.name} names no sign for the end of a text (eos_token); use another model")
    for setting in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(lm.model.config.get_text_config(), setting, None) not in (None, 1, 1.0):
            raise ValueError(f"{lm.name} sets {setting}, which this study does not follow; use another model")
    use_plain_attention(lm.model)
    return lm


def begin_ids(lm: LanguageModel) -> list[int]:
    """What the tokenizer puts before a text by default: a sign of the beginning, or nothing."""
    return list(lm.tokenizer("")["input_ids"])


def other_texts(count: int, seed: int) -> list[str]:
    """Sentences of the scene grammar: text that has nothing to do with sounds, and must not be forgotten."""
    return [canonical(sample(np.random.default_rng([seed, i]))) for i in range(count)]


def train_own(config: LanguageConfig, captions: Sequence[str], run: RunDir, *, seed: int, device: str) -> None:
    """Train the small model on captions (behind the prompt) and scene sentences; kept in `run`, once."""
    folder = run.path / FOLDER
    if (folder / "config.json").is_file():
        return
    texts = [f"{config.prompt} {each}" for each in captions] + other_texts(config.own.texts, seed)
    tokenizer = _tokenizer(texts)
    ids = [[*each, tokenizer.eos_token_id] for each in tokenizer(texts)["input_ids"]]
    seed_everything(seed)
    model = _new_model(config.own, tokenizer).to(pick_device(device))
    use_plain_attention(model)

    def batch_at(step: int, rank: int, world: int) -> _Texts:
        rows = drawn(seed, len(ids), positions_of(step, rank, world, config.own.batch))
        return _side_by_side([ids[i] for i in rows])

    def loss_terms(model: Any, batch: _Texts, step: int) -> dict[str, Tensor]:
        logits_BNV = model(input_ids=batch.ids_BN).logits[:, :-1]
        return {
            "nll": functional.cross_entropy(logits_BNV[batch.own_BN[:, 1:]], batch.ids_BN[:, 1:][batch.own_BN[:, 1:]])
        }

    with part_of(run, "language") as part:
        averaged: Any = fit(
            model, batch_at, loss_terms, config.own.fit, part, seed=seed, device=pick_device(device)
        ).ema
    _save(averaged, tokenizer, folder)


class _Texts(NamedTuple):
    """Texts padded on the right, and which places are theirs."""

    ids_BN: Tensor
    own_BN: Tensor


def _side_by_side(texts: Sequence[Sequence[int]]) -> _Texts:
    most = max(len(each) for each in texts)
    ids_BN = torch.zeros(len(texts), most, dtype=torch.long)
    for row, each in zip(ids_BN, texts, strict=True):
        row[: len(each)] = torch.tensor(each)
    lengths = torch.tensor([len(each) for each in texts])
    return _Texts(ids_BN, torch.arange(most) < lengths[:, None])


def _tokenizer(texts: Sequence[str]) -> Any:
    """A token a word: what a model this small can learn in seconds. A text begins behind the sign of the end."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    splitter = pre_tokenizers.Whitespace()
    words = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text)})
    vocabulary = {word: i for i, word in enumerate([END, UNKNOWN, *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = splitter
    backend.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, vocabulary[END])])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, pad_token=END, unk_token=UNKNOWN)


def _new_model(own: OwnConfig, tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=own.width,
            intermediate_size=4 * own.width,
            num_hidden_layers=own.layers,
            num_attention_heads=own.heads,
            max_position_embeddings=512,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=None,
            tie_word_embeddings=False,
        )
    )


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    """The config last: a folder without one is not whole."""
    folder.mkdir(exist_ok=True)
    tokenizer.save_pretrained(folder)
    model.cpu().requires_grad_(False)
    half = folder.with_name(folder.name + ".half")
    with quiet_bars():
        model.save_pretrained(half)
    for name in sorted((each.name for each in half.iterdir()), key=lambda name: name == "config.json"):
        (half / name).replace(folder / name)
    half.rmdir()
