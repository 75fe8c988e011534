"""Low-rank adapters against weights with the product merged in; the model itself must never change."""

import pytest
import torch
from torch import nn

from inscape.nn.lora import LowRankAdapters, LowRankMap, linear_sizes


def two_layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"first": nn.ModuleDict({"q_proj": nn.Linear(6, 8)}), "second": nn.Linear(8, 3)})


def through(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model["second"](model["first"]["q_proj"](x).tanh())  # type: ignore[index]


def trained(model: nn.Module, rank: int = 2) -> LowRankAdapters:
    torch.manual_seed(1)
    adapters = LowRankAdapters(linear_sizes(model, ("q_proj", "second")), rank=rank, alpha=3.0)
    for parameter in adapters.parameters():
        nn.init.normal_(parameter)
    return adapters


def test_adapters_add_the_product_of_their_factors():
    model, x = two_layers(), torch.randn(5, 6, generator=torch.Generator().manual_seed(2))
    adapters = trained(model)
    with adapters.applied(model):
        found = through(model, x)
    for name, linear in (("first/q_proj", model["first"]["q_proj"]), ("second", model["second"])):  # type: ignore[index]
        addition = adapters.maps[name]
        linear.weight.data += 3.0 / 2 * addition.up_OR @ addition.down_RI
    torch.testing.assert_close(found, through(model, x), atol=1e-5, rtol=1e-5)


def test_fresh_adapters_change_nothing_and_learn():
    model, x = two_layers().requires_grad_(False), torch.randn(5, 6)
    adapters = LowRankAdapters(linear_sizes(model), rank=2)
    assert list(adapters.maps) == ["first/q_proj"]
    with adapters.applied(model):
        found = through(model, x)
    assert torch.equal(found, through(model, x))
    found.square().sum().backward()  # after the block: the graph remembers the adapters
    addition = adapters.maps["first/q_proj"]
    assert isinstance(addition, LowRankMap)
    assert addition.up_OR.grad is not None
    assert addition.up_OR.grad.norm() > 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_model_is_itself_after_the_block_even_after_an_error():
    model, x = two_layers(), torch.randn(5, 6)
    before, names = through(model, x), list(model.state_dict())
    adapters = trained(model)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), adapters.applied(model):
        through(model, x[:, :3])
    assert torch.equal(through(model, x), before)
    assert list(model.state_dict()) == names
    other = nn.ModuleDict({"first": nn.ModuleDict({"q_proj": nn.Linear(6, 8)}), "second": nn.Linear(8, 4)})
    with pytest.raises(ValueError, match=r"second is \(4, 8\) here and was \(3, 8\) there"), adapters.applied(other):
        pass
    assert not other["first"]["q_proj"]._forward_hooks, "what was attached before the mistake was seen is taken off"  # type: ignore[index]


def test_half_precision_models_keep_their_type():
    model = two_layers().to(torch.bfloat16)
    with trained(model).applied(model):
        assert through(model, torch.randn(5, 6, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(("rank", "targets", "line"), [(0, ("q_proj",), "rank=0"), (1, ("up",), "q_proj, second")])
def test_mistakes_are_one_line(rank: int, targets: tuple[str, ...], line: str):
    with pytest.raises(ValueError, match=line) as caught:
        LowRankAdapters(linear_sizes(two_layers(), targets), rank=rank)
    assert "\n" not in str(caught.value)
