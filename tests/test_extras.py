"""A package that is not installed is one line that says how to get it."""

import json

import pytest

from inscape.extras import load_extra


def test_a_package_that_is_there_is_returned() -> None:
    assert load_extra("json", "audio", "this test") is json


def test_a_missing_package_names_its_extra() -> None:
    said = r"^this test needs the package no_such: pip install 'inscape\[audio\]', or in a clone .*'\.\[audio\]'"
    with pytest.raises(ValueError, match=said):
        load_extra("no_such", "audio", "this test")
