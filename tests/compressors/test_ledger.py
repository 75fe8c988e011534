"""The price of a prompt in each form, against closed forms and an arithmetic coder."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inscape.compressors import ledger
from inscape.compressors.ledger import (
    coded_id_bits,
    id_bits,
    kv_bits,
    latent_bits,
    order_zero,
    prices,
    text_prices,
    utf8_bits,
    zstd_bits,
)


def test_the_plans_arithmetic() -> None:
    """512 numbers of float16 a token, eight times fewer than 4,096, cost 525 times what the token's id costs."""
    assert latent_bits(1, 512, "float16") == 8192
    assert id_bits(1, 49_152) == pytest.approx(15.585, abs=1e-3)
    assert math.ceil(id_bits(1, 128_256)) == 17  # of the model the plan was written for
    assert latent_bits(1, 512) / id_bits(1, 49_152) == pytest.approx(525.6, abs=0.1)


def test_latents_in_every_number() -> None:
    assert [latent_bits(10, 512, number) for number in ("float32", "float16", "int8", "int4")] == [
        10 * 512 * 32,
        10 * 512 * 16,
        10 * (512 * 8 + 16),
        10 * (512 * 4 + 16),
    ]
    assert latent_bits(1, 512, "int4", group=32) == 512 * 4 + 16 * 16
    assert latent_bits(3, 5, "int4") == 3 * (24 + 16)
    assert latent_bits(0, 512) == 0
    with pytest.raises(ValueError, match="allowed: float32, float16, int8, int4"):
        latent_bits(1, 2, "int2")


def test_a_cache_is_all_keys_and_values_of_all_layers() -> None:
    # SmolLM2-135M: 30 layers, 3 key-value heads of 64
    assert kv_bits(1, 30, 3, 64) == 2 * 30 * 3 * 64 * 16
    assert kv_bits(7, 2, 3, 4, "float32") == 7 * 2 * 2 * 3 * 4 * 32
    assert kv_bits(7, 2, 3, 4, "int8") == 7 * 2 * 2 * 3 * (4 * 8 + 16)


@given(st.lists(st.integers(0, 9), max_size=60), st.lists(st.integers(0, 9), max_size=60))
def test_coded_ids_are_what_an_arithmetic_coder_sends(trained_on: list[int], ids: list[int]) -> None:
    count_V = torch.bincount(torch.tensor(trained_on, dtype=torch.int64), minlength=10)
    share = [Fraction(int(count) + 1, len(trained_on) + 10) for count in count_V]
    width = Fraction(1)
    for token in ids:
        width *= share[token]
    sent = math.ceil(math.log2(1 / width)) + 1  # enough binary digits to name a number inside the interval
    cost = coded_id_bits(order_zero(count_V), torch.tensor(ids, dtype=torch.int64))
    assert cost - 1e-9 <= sent <= cost + 2 + 1e-9


def test_coded_ids_reach_the_entropy_and_without_knowledge_cost_log2_v() -> None:
    ids_T = torch.tensor([0] * 4000 + [1] * 2000 + [2] * 1000 + [3] * 1000)
    known = order_zero(torch.bincount(ids_T, minlength=4))
    assert coded_id_bits(known, ids_T) / len(ids_T) == pytest.approx(1.75, abs=1e-3)
    blank = order_zero(torch.zeros(64, dtype=torch.int64))
    assert coded_id_bits(blank, torch.arange(64)) == pytest.approx(id_bits(64, 64))
    assert float(torch.exp2(-known.bits_V).sum()) == pytest.approx(1.0)
    assert math.isfinite(coded_id_bits(order_zero(torch.tensor([9, 0])), torch.tensor([1])))


def test_text() -> None:
    assert utf8_bits("abc") == 24
    assert utf8_bits("é") == 16


def test_zstd_is_there_or_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "_zstd", lambda: None)
    assert zstd_bits("text") is None
    model = order_zero(torch.ones(300, dtype=torch.int64))
    ids = [torch.tensor([1, 2, 3]), torch.tensor([4])]
    assert set(text_prices(ids, ["one two", "three"], 300, model)) == {"token ids", "coded ids", "UTF-8"}
    assert "zstd" in ledger.ZSTD_MISSING
    monkeypatch.setattr(ledger, "_zstd", lambda: lambda content, level: content[: len(content) // 2 + level - 19])
    assert zstd_bits("abcd") == 16
    assert text_prices(ids, ["one two", "three"], 300, model)["zstd"].bits_per_prompt.value == pytest.approx(20)


def test_zstd_itself_where_this_machine_has_it() -> None:
    if zstd_bits("") is None:
        pytest.skip(ledger.ZSTD_MISSING)
    assert zstd_bits("to be or not to be, " * 100) < 1000 < utf8_bits("to be or not to be, " * 100)


def test_prices_count_prompts() -> None:
    found = prices({"ids": [10.0, 40.0]}, [1, 2])["ids"]
    assert (found.bits_per_prompt.value, found.bits_per_token.value) == (25.0, 15.0)
    assert (found.bits_per_prompt.n, found.bits_per_prompt.unit) == (2, "prompts")


def test_bad_input_is_one_line() -> None:
    with pytest.raises(ValueError, match="ids has 1 prices for 2 prompts"):
        prices({"ids": [1.0]}, [1, 2])
    with pytest.raises(ValueError, match="without tokens"):
        prices({}, [0])
    with pytest.raises(ValueError, match="have no price"):
        id_bits(-1, 4)
