"""Measurements against the states themselves."""

import math
from typing import Any

import pytest
import torch
from fusion_worlds import awake, clips, logits, prompts
from tiny_models import tiny_model

from inscape.nn.audio_tokens import AudioTokens
from inscape.nn.fusion import KINDS
from inscape.nn.fusion_meter import Meter


def rms(x: torch.Tensor) -> torch.Tensor:
    return x.square().mean(-1).sqrt()


def test_figures_of_one_pass_are_those_of_its_states():
    torch.manual_seed(0)
    hidden, added = torch.randn(2, 3, 8), 0.1 * torch.randn(2, 3, 8)
    weight = torch.tensor([0.5, 0.5, 0.0, 0.0])[None, None, :, None].expand(2, 4, 4, 3)
    meter = Meter()
    meter.add(7, hidden, added, torch.tensor(0.3), torch.tensor([True, False]), weight)
    meter.add(2, hidden, added, torch.tensor(0.3), torch.tensor([False, False]), weight)
    meter.add(9, hidden, added, torch.tensor(0.3), torch.tensor([True]), None)
    assert list(meter.read()) == [7, 9], "what heard nothing was not measured"
    found = meter.read()[7]
    assert found.hidden_rms == pytest.approx(float(rms(hidden[0]).mean()))
    assert found.added_rms == pytest.approx(float(rms(added[0]).mean()))
    assert found.ratio == pytest.approx(float((rms(added[0]) / rms(hidden[0])).mean()))
    assert found.gate == pytest.approx(0.3)
    assert found.entropy == pytest.approx(math.log(2))
    assert meter.read()[9].hidden_rms == pytest.approx(float(rms(hidden).mean()))
    assert meter.read()[9].entropy is None
    assert all(type(value) is float for value in found)


def test_passes_are_weighed_by_their_positions():
    meter = Meter()
    for size, length in ((1.0, 1), (4.0, 2)):
        x = torch.full((1, length, 4), size)
        meter.add(1, x, x, torch.tensor(1.0), torch.tensor([True]), None)
    assert meter.read()[1].hidden_rms == pytest.approx(3.0)
    assert meter.read()[1].ratio == pytest.approx(1.0)


STATES = {  # where what is added can be seen alone: before the layer goes on with it
    "gated_cross_attention": "model.layers.1",
    "lora_cross_attention": "model.layers.1",
    "prefix": "model",
    "zero_init_attention": "model.layers.1.self_attn",
}


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_is_reported_as_added_is_what_the_states_moved_by(kind: str):
    model, given, audio = tiny_model("llama"), prompts(), clips()
    fusion = awake(kind, model, layers=(2,))  # the last layer: before it nothing is heard

    def states() -> torch.Tensor:
        seen: list[Any] = []
        watched = model.get_submodule(STATES[kind])
        handle = watched.register_forward_hook(lambda m, args, output: seen.append(output))
        model(**given)
        handle.remove()
        return seen[0] if isinstance(seen[0], torch.Tensor) else seen[0][0]

    before = states()
    with fusion.attached(model, audio, measure=True) as attached:
        moved = states() - before  # hooks run in the order in which they came
    found = attached.measurements()[2]
    assert found.added_rms == pytest.approx(float(rms(moved).mean()), rel=1e-3)
    block: Any = fusion.blocks["2"] if kind != "prefix" else None
    assert found.gate == pytest.approx(0.6 if block is None else float(block.gate_value()))
    if kind != "zero_init_attention":
        assert found.hidden_rms == pytest.approx(float(rms(before).mean()), rel=1e-4)
        assert found.ratio == pytest.approx(float((rms(moved) / rms(before)).mean()), rel=1e-3)
    assert (found.entropy is None) == (kind == "prefix")
    assert 0 < (found.entropy or 1.0) < math.log(5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_silence_and_strength_0_measure_nothing(kind: str):
    model, given, audio = tiny_model("llama"), prompts(), clips()
    fusion = awake(kind, model)
    with fusion.attached(model, AudioTokens(audio.tokens_BKD, torch.zeros_like(audio.mask_BK)), measure=True) as deaf:
        logits(model, given)
    fusion.strength = 0.0
    with fusion.attached(model, audio, measure=True) as off:
        logits(model, given)
    assert deaf.measurements() == off.measurements() == {}
