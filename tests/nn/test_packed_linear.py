"""Packed linear maps: the same numbers, the same gradients, and only where they are meant to be."""

import platform
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

from inscape.nn.packed_linear import X86, pack_linears

packs = pytest.mark.skipif(platform.machine() not in X86, reason="packing is for x86 processors")


def frozen(*sizes: int, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(a, b, bias=bias) for a, b in pairwise(sizes))).requires_grad_(False)


@packs
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 24), (2, 5, 24), (24,), (0, 24), (3, 1, 24)])
def test_without_gradients_the_numbers_are_those_of_the_plain_maps(bias: bool, shape: tuple[int, ...]) -> None:
    model, plain = frozen(24, 40, 8, bias=bias), frozen(24, 40, 8, bias=bias)
    assert pack_linears(model) == 2
    x = torch.randn(shape)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), plain(x), rtol=1e-5, atol=1e-6)


@packs
def test_the_fast_product_is_taken_without_gradients_and_only_then() -> None:
    model = frozen(24, 8)
    pack_linears(model)
    x = torch.randn(3, 24)

    def products() -> list[str]:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            model(x)
        return [event.key for event in profile.key_averages() if event.key == "aten::mkldnn_linear"]

    assert not products()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert not products()
    with torch.no_grad():
        assert products()


@packs
def test_gradients_flow_through_to_what_is_fed() -> None:
    model, plain = frozen(24, 8), frozen(24, 8)
    pack_linears(model)
    x = torch.randn(3, 24, requires_grad=True)
    model(x).square().sum().backward()
    (wanted,) = torch.autograd.grad(functional.linear(x, plain[0].weight, plain[0].bias).square().sum(), x)  # type: ignore[arg-type]
    assert x.grad is not None
    torch.testing.assert_close(x.grad, wanted)


@packs
def test_a_hook_sees_the_packed_map() -> None:
    model = frozen(24, 8)
    pack_linears(model)
    seen = []
    model[0].register_forward_hook(lambda module, given, output: seen.append(output.shape))
    with torch.no_grad():
        model(torch.randn(3, 24))
    assert seen == [torch.Size([3, 8])]


def test_trainable_maps_and_other_types_are_left_alone() -> None:
    assert pack_linears(nn.Linear(4, 4)) == 0
    assert pack_linears(nn.Linear(4, 4).bfloat16().requires_grad_(False)) == 0
    assert pack_linears(nn.LayerNorm(4).requires_grad_(False)) == 0
