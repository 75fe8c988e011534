"""The door of the API: latents and sentences as they come over the wire."""

import base64
import json

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from inscape.explore.wire import MOST_CHARACTERS, Refused, fields_of, latent_from, latent_to, number_from, sentence_from

SHAPE = (2, 4, 4)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=32, max_size=32))
def test_a_latent_comes_back_bit_for_bit(values: list[float]):
    latent_CHW = torch.tensor(values).reshape(SHAPE)
    assert torch.equal(latent_from({"latent": latent_to(latent_CHW)}, "latent", SHAPE), latent_CHW)


def encoded(values: object) -> str:
    return base64.b64encode(np.asarray(values, dtype="<f4").tobytes()).decode()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "latent is missing"),
        (3, "latent is a int"),
        ("§", "is not base64"),
        ("AAAA", "holds 3 bytes"),
        (encoded(np.zeros(33)), "holds 132 bytes"),
        (encoded(np.full(32, np.nan)), "holds NaN, infinite or huge values"),
        (encoded(np.full(32, np.inf)), "holds NaN, infinite or huge values"),
        (encoded(np.full(32, 1e5)), "allowed: up to 10000"),
    ],
)
def test_what_is_no_latent_is_refused_in_one_line(value: object, said: str):
    with pytest.raises(Refused, match=said) as refused:
        latent_from({"latent": value}, "latent", SHAPE)
    assert "\n" not in str(refused.value)
    assert refused.value.field == "latent"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "sentence is missing"),
        (["a"], "sentence is a list"),
        (" \n", "sentence is empty"),
        ("a" * (MOST_CHARACTERS + 1), "has 1001 characters; allowed: up to 1000"),
        ("a \ud800 ball", "half a surrogate pair"),
    ],
)
def test_what_is_no_sentence_is_refused(value: object, said: str):
    with pytest.raises(Refused, match=said):
        sentence_from({"sentence": value}, "sentence")


@pytest.mark.parametrize("value", [True, 2.0, "3", None, 0, 6, [1]])
def test_what_is_no_whole_number_in_range_is_refused(value: object):
    with pytest.raises(Refused, match="allowed: a whole number from 1 to 5"):
        number_from({"n": value}, "n", 3, 1, 5)


def test_what_was_given_for_a_number_is_said_in_ascii():
    with pytest.raises(Refused, match=r"n is '\\ud800\\xe9'; allowed") as refused:
        number_from({"n": "\ud800\u00e9"}, "n", 3, 1, 5)
    assert str(refused.value).isascii()


def test_a_number_has_a_default():
    assert number_from({}, "n", 3, 1, 5) == 3
    assert number_from({"n": 5}, "n", 3, 1, 5) == 5


@given(st.binary(max_size=50))
def test_any_body_is_an_object_or_refused(body: bytes):
    try:
        found = fields_of(body, ("a",))
    except Refused as refused:
        found = {"said": str(refused)}
    assert isinstance(found, dict)
    assert "\n" not in found.get("said", "")


def test_fields_that_are_not_known_are_named():
    with pytest.raises(Refused, match="'sentense' is not known; allowed: sentence"):
        fields_of(json.dumps({"sentense": "a"}).encode(), ("sentence",))
    with pytest.raises(Refused, match="is a JSON list"):
        fields_of(b"[1]", ("sentence",))
    with pytest.raises(Refused, match="not JSON"):
        fields_of(b"[" * 100_000, ("sentence",))
