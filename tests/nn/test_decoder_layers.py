"""The layers of nine architectures are found, and what is not a language model is refused."""

from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import ARCHITECTURES, tiny_model
from torch import nn

from inscape.nn.decoder_layers import decoder_layers, text_config

PLACES = {
    "gpt2": "transformer.h",
    "gpt_neox": "gpt_neox.layers",
    "llama": "model.layers",
    "llava": "model.language_model.layers",
    "mpt": "transformer.blocks",
    "opt": "model.decoder.layers",
    "phi3": "model.layers",
    "qwen2": "model.layers",
    "qwen3": "model.layers",
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layers_are_where_this_version_of_transformers_keeps_them(architecture: str):
    model = tiny_model(architecture)
    layers = decoder_layers(model)
    assert layers is model.get_submodule(PLACES[architecture])
    assert not any(layer._forward_hooks for layer in layers), "nothing stays behind"


def test_the_vision_tower_would_have_fitted_by_depth_and_width():
    model = tiny_model("llava")
    lists = [name for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == 2]
    assert any("vision" in name for name in lists), "this test can fail"
    assert text_config(model).num_hidden_layers == model.config.vision_config.num_hidden_layers


def test_a_search_draws_nothing_from_the_random_state():
    model = tiny_model("gpt2")
    try:
        model.train()
        torch.manual_seed(5)
        before = torch.get_rng_state()
        decoder_layers(model)
        assert torch.equal(torch.get_rng_state(), before)
    finally:
        model.eval()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt"])
def test_on_the_meta_device_shapes_of_weights_have_to_do(architecture: str):
    model = deepcopy(tiny_model(architecture)).to("meta")
    assert decoder_layers(model) is model.get_submodule(PLACES[architecture])
    with pytest.raises(ValueError, match=r"has 2 list\(s\) of 2 decoder layers"):  # its vision tower is of that shape
        decoder_layers(deepcopy(tiny_model("llava")).to("meta"))


class Toy(nn.Module):
    """Two layers that keep the width and two that do not; `passes` says through which lists the states go."""

    def __init__(self, passes: str, depth: int = 2) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_hidden_layers=2, hidden_size=4)
        self.table, self.passes = nn.Embedding(3, 4), passes
        self.a, self.b, self.c = (nn.ModuleList(nn.Linear(4, 4) for _ in range(depth)) for _ in range(3))

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def forward(self, input_ids: Any, use_cache: bool) -> Any:
        x = self.table(input_ids)
        for name in self.passes:
            for layer in getattr(self, name):
                x = layer(x.flatten(0, 1))[None] if name == "c" else layer(x)
        return x


def test_lists_that_states_do_not_pass_are_told_apart():
    model = Toy("ac")
    assert decoder_layers(model) is model.a, "b is not called, and c never sees the shape of states"


@pytest.mark.parametrize(
    ("model", "line"),
    [
        (nn.Linear(2, 2), "Linear has no config with num_hidden_layers"),
        (Toy("c"), r"Toy has no list\(s\) of 2 decoder layers"),
        (Toy("ab"), r"Toy has 2 list\(s\) of 2 decoder layers"),
        (Toy("aa"), r"Toy has no list\(s\)"),
        (Toy("a", depth=3), r"Toy has no list\(s\)"),
        (Toy("z"), r"cannot be run on two token ids \('Toy' object has no attribute 'z'\)"),
    ],
)
def test_mistakes_are_one_line(model: nn.Module, line: str):
    with pytest.raises(ValueError, match=line) as caught:
        decoder_layers(model)
    assert "\n" not in str(caught.value)
