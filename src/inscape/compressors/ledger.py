"""What a prompt costs to send, in bits, in each form it could be sent in: a ratio of vectors says nothing of that.

    token ids        log2 |V| each: 15.58 bits at |V| = 49,152
    coded ids        -log2 p each, under how often ids occurred in TRAINING text (an order-0 model that both sides own)
    UTF-8, zstd      of the text itself, zstd without a dictionary
    latents          float32, float16, or int8 and int4 with a float16 scale for each group
    cache            the keys and values of every layer, for those who would rather send what was computed

512 numbers of float16 a token are 8,192 bits, in the place of 15.58. So narrower rows never save anything on a wire;
fewer vectors can save places of the model's window and its work, which is another ledger.

Arithmetic coding reaches the sum of -log2 p to within 2 bits a prompt (Witten, Neal & Cleary 1987), so no coder is run.

Legend: T tokens, V ids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from inscape.core.estimate import Estimate, bootstrap_mean

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

__all__ = [
    "NUMBER_BITS",
    "ZSTD_MISSING",
    "OrderZero",
    "Price",
    "coded_id_bits",
    "id_bits",
    "kv_bits",
    "latent_bits",
    "order_zero",
    "prices",
    "text_prices",
    "utf8_bits",
    "zstd_bits",
]

NUMBER_BITS = {"float32": 32, "float16": 16, "int8": 8, "int4": 4}
SCALE_BITS = 16  # the float16 scale of a group of int8 or int4
ZSTD_LEVEL = 19  # the highest that needs no extra memory
ZSTD_MISSING = "zstd is left out: it needs Python 3.14, or the package zstandard of the extra lm"


class Price(NamedTuple):
    """Of one form, over prompts."""

    bits_per_prompt: Estimate
    bits_per_token: Estimate  # of the source: mean over prompts of bits / tokens


class OrderZero(NamedTuple):
    """An id's cost under its frequency in training text."""

    bits_V: Float[Tensor, " V"]  # -log2 p, float64


def id_bits(tokens: int, rows: int) -> float:
    """T log2 |V|: ids without a model of them. ValueError for a table without rows."""
    if rows < 1 or tokens < 0:
        raise ValueError(f"{tokens} tokens of a table of {rows} rows have no price; allowed: 0 or more, and 1 or more")
    return tokens * math.log2(rows)


def order_zero(count_V: Int[Tensor, " V"]) -> OrderZero:
    """Costs from counts in training text, one added to each, so that an id that never occurred has a finite cost."""
    share_V = (count_V.double() + 1) / (float(count_V.sum()) + len(count_V))
    return OrderZero(-torch.log2(share_V))


def coded_id_bits(model: OrderZero, ids_T: Int[Tensor, " T"]) -> float:
    """The sum of -log2 p over a prompt: what an arithmetic coder with this static model sends, to within 2 bits."""
    return float(model.bits_V[ids_T.to(model.bits_V.device, torch.int64)].sum())


def utf8_bits(text: str) -> float:
    """8 bits a byte of UTF-8."""
    return 8.0 * len(text.encode())


def zstd_bits(text: str) -> float | None:
    """8 bits a byte of one zstd frame (RFC 8878) of the text; None where this machine has no zstd (`ZSTD_MISSING`)."""
    compress = _zstd()
    return None if compress is None else 8.0 * len(compress(text.encode(), ZSTD_LEVEL))


def _zstd() -> Any:
    """compress(bytes, level) of the standard library (from Python 3.14 on) or of the package zstandard, or None."""
    for name in ("compression.zstd", "zstandard"):
        try:
            return import_module(name).compress
        except ImportError:
            continue
    return None


def latent_bits(vectors: int, width: int, number: str = "float16", group: int = 0) -> float:
    """`vectors` vectors of `width` numbers, each vector in whole bytes.

    int8 and int4 count their scales, one for each `group` numbers (0: one for a vector). ValueError for numbers that
    are not in `NUMBER_BITS`.
    """
    if number not in NUMBER_BITS:
        raise ValueError(f"number={number!r} is not known; allowed: {', '.join(NUMBER_BITS)}")
    own = 8 * math.ceil(width * NUMBER_BITS[number] / 8)
    scales = SCALE_BITS * math.ceil(width / (group or width)) if number.startswith("int") else 0
    return float(vectors * (own + scales))


def kv_bits(positions: int, layers: int, heads: int, head_width: int, number: str = "float16") -> float:
    """Keys and values of `positions` places in every layer, for each of `heads` key-value heads."""
    return 2.0 * layers * heads * latent_bits(positions, head_width, number)


def prices(bits: Mapping[str, Sequence[float]], tokens: Sequence[int], unit: str = "prompts") -> dict[str, Price]:
    """The price of each form from its bits for each prompt, with intervals over prompts.

    ValueError where a form has not a number for each prompt, or a prompt has no token.
    """
    if any(count < 1 for count in tokens):
        raise ValueError("a prompt without tokens has no price a token; leave empty prompts out")
    wrong = [form for form, of_prompts in bits.items() if len(of_prompts) != len(tokens)]
    if wrong:
        raise ValueError(f"{wrong[0]} has {len(bits[wrong[0]])} prices for {len(tokens)} prompts: wanted one for each")
    return {
        form: Price(
            bootstrap_mean(of_prompts, unit),
            bootstrap_mean([cost / count for cost, count in zip(of_prompts, tokens, strict=True)], unit),
        )
        for form, of_prompts in bits.items()
    }


def text_prices(
    ids: Sequence[Int[Tensor, " T"]], texts: Sequence[str], rows: int, model: OrderZero, unit: str = "prompts"
) -> dict[str, Price]:
    """The forms that need no compressor. "zstd" is missing where this machine has none: say `ZSTD_MISSING` then."""
    bits: dict[str, list[float]] = {
        "token ids": [id_bits(len(ids_T), rows) for ids_T in ids],
        "coded ids": [coded_id_bits(model, ids_T) for ids_T in ids],
        "UTF-8": [utf8_bits(text) for text in texts],
    }
    packed = [cost for text in texts if (cost := zstd_bits(text)) is not None]
    if texts and len(packed) == len(texts):
        bits["zstd"] = packed
    return prices(bits, [len(ids_T) for ids_T in ids], unit)
