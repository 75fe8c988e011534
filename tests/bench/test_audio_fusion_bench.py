"""The benchmark of audio-fusion: what it reports, at a size that takes a second."""

import sys

import pytest

from inscape.bench import audio_fusion, measure
from inscape.nn.fusion import KINDS


def test_it_reports_every_kind_and_the_limits() -> None:
    found = audio_fusion.run(pairs=4, captions=50)
    for kind in KINDS:
        assert set(found[kind]) == {
            "overhead at gate 0",
            "median overhead of pairs",
            "overhead when open",
            "milliseconds alone",
        }
        assert found[kind]["milliseconds alone"] > 0
    assert found["overhead limit"] == 0.02
    assert 0 < found["CIDEr-D seconds"] < 2


def test_an_unknown_model_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        measure("audio-fusion:./nowhere")


def test_without_transformers_it_says_in_one_line_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"needs the package transformers: pip install 'inscape\[lm\]'"):
        measure("audio-fusion")
