"""What the page tells of a latent, against what is known of it."""

import math

import pytest
import torch
from torch import Tensor

from inscape import VisualCodec, stats
from inscape.data.scenes import EDITS, parse, render, sample
from inscape.data.scenes.counterfactuals import all_counterfactuals
from inscape.explore.answers import bands, differences, edit_between, readings, scene_of, statistics

SENTENCES = ["a red ball is on the blue block", "two small green cones are next to the large yellow cylinder"]


@pytest.fixture(scope="module")
def codec() -> VisualCodec:
    return VisualCodec.from_pretrained()


@pytest.fixture(scope="module")
def latents(codec: VisualCodec) -> Tensor:
    return codec.encode(SENTENCES).as_subclass(Tensor)


def test_a_reading_is_what_the_codec_decodes_word_by_word(codec: VisualCodec, latents: Tensor):
    found = readings(codec, latents)
    assert [row["sentence"] for row in found] == codec.decode(latents) == SENTENCES
    for row in found:
        assert " ".join(word["text"] for word in row["words"]) == row["sentence"]
        assert all(len(word["attention"]) == math.prod(row["grid"]) for word in row["words"])
        assert all(max(word["attention"]) == 255 for word in row["words"])
        assert all(0 <= word["on_z"] <= 1 for word in row["words"])
        assert row["in_grammar"]


def test_statistics_are_those_of_the_library_channel_by_channel(latents: Tensor):
    found = statistics(latents)
    slope_BC, kurtosis_BC = stats.spectral_slope(latents), stats.gradient_kurtosis(latents)
    spectrum = stats.radial_spectrum(latents)
    for i, row in enumerate(found):
        assert row["log_frequency"] == pytest.approx(spectrum.frequency.log10().tolist(), abs=1e-4)
        for c, channel in enumerate(row["channels"]):
            assert channel["spectral_slope"] == pytest.approx(float(slope_BC[i, c]), abs=1e-3)
            assert channel["gradient_kurtosis"] == pytest.approx(float(kurtosis_BC[i, c]), abs=1e-3)
            assert channel["log_power"] == pytest.approx(spectrum.power[i, c].log10().tolist(), abs=1e-4)


def test_a_flat_latent_has_statistics_that_json_can_hold():
    (row,) = statistics(torch.zeros(1, 6, 32, 32))
    values = [value for channel in row["channels"] for value in channel.values() if isinstance(value, float)]
    assert all(map(math.isfinite, values))


def test_the_bands_are_those_of_photographs():
    assert bands(32, 32)["spectral_slope"] == {"median": 2.60, "low": 1.87, "high": 3.14}
    assert bands(48, 48) == {}, "nobody has measured them there"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("a red ball", "a red ball", [("same", "a red ball", "a red ball")]),
        ("a red ball", "a green ball", [("same", "a", "a"), ("changed", "red", "green"), ("same", "ball", "ball")]),
        ("a red ball", "a ball", [("same", "a", "a"), ("gone", "red", ""), ("same", "ball", "ball")]),
        ("a ball", "a red ball", [("same", "a", "a"), ("added", "", "red"), ("same", "ball", "ball")]),
        ("", "a", [("added", "", "a")]),
        ("", "", []),
    ],
)
def test_differences_name_the_words(before: str, after: str, expected: list[tuple[str, str, str]]):
    assert [(d["kind"], d["was"], d["now"]) for d in differences(before, after)] == expected


def test_the_edit_between_two_sentences_is_named():
    assert edit_between("a red ball is on the blue block", "the blue cube supports a red sphere") == "none"
    assert edit_between("a red ball is on the blue block", "a blue ball is on the red block") == "binding"
    assert edit_between("a red ball is on the blue block", "a blue block is on the red ball") == "arguments"
    assert edit_between("a red ball is on the blue block", "two green cones are next to one gray ring") == "several"
    assert edit_between("a red ball is on the blue block", "the weather is fine") == "unread"
    for edit in EDITS:
        scene = sample(3, facts=2)
        others = all_counterfactuals(scene, edit)
        if others:
            assert others[0] in all_counterfactuals(scene, edit_between(render(scene), render(others[0])))


def test_a_scene_is_told_fact_by_fact():
    told = scene_of(parse("two small red balls are on the blue block"))
    assert told == {
        "facts": [
            {
                "relation": "on",
                "figure": {"count": 2, "size": "small", "colour": "red", "shape": "ball"},
                "ground": {"count": 1, "size": None, "colour": "blue", "shape": "block"},
            }
        ]
    }
    assert scene_of(None) is None
