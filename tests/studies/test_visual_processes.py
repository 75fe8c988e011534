"""Each of several processes must have enough sentences for the directions that are asked of their latents."""

from dataclasses import replace

import pytest

from inscape.studies.visual.losses import check_each_process
from inscape.studies.visual.study import STUDY


@pytest.mark.parametrize(
    ("batch", "world", "dimensions", "least"),
    [(16, 1, 16, 18), (256, 64, 16, 64 * 18), (8, 2, 4, 12), (10, 1, 9.5, 12)],
)
def test_too_few_sentences_a_process_are_refused_and_as_many_as_are_named_are_not(
    monkeypatch, batch, world, dimensions, least
):
    monkeypatch.setenv("WORLD_SIZE", str(world))
    with pytest.raises(ValueError, match=rf"^training\.batch={batch} over {world} process.*of {least} or more$"):
        check_each_process(batch, dimensions, "training.batch")
    check_each_process(least, dimensions, "training.batch")


@pytest.mark.parametrize("code", ["P1", "P2", "P3", "P4", "P5"])
def test_every_phase_that_trains_on_pictures_asks(monkeypatch, code):
    phase = STUDY.phase(code)
    full = phase.preset("full")
    full = replace(full, freeze=False) if code == "P4" else full  # a frozen encoder is asked for nothing
    phase.check(full)
    monkeypatch.setenv("WORLD_SIZE", "64")
    if code in ("P2", "P3", "P4"):
        phase.check(replace(full, recipe="plan"))  # its image prior asks for no directions
    with pytest.raises(ValueError, match="batch=256 over 64 processes gives each 4 sentences"):
        phase.check(full)
