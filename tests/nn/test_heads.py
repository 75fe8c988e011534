"""The four heads and what is appended to them."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from inscape.nn.coordinates import with_coordinates
from inscape.nn.grid_head import GridHead
from inscape.nn.light_head import LightHead, Painter
from inscape.nn.slots import Gaussians, SlotAttention, splat
from inscape.nn.smoothing import SmoothingHead
from inscape.nn.vector_painter import VectorPainter


def test_grid_head_is_its_layers_one_after_the_other():
    torch.manual_seed(0)
    head = GridHead(16, 4, 32, 0.1, latent_CHW=(3, 8, 8), map_channels=5).eval()
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.3)
    states_BTD, keep_BT = torch.randn(2, 3, 16), torch.tensor([[True] * 3, [True, True, False]])
    bias_BT = torch.zeros(2, 3).masked_fill(~keep_BT, -1e9)
    x_BQD = head.queries().expand(2, -1, -1)
    for block in (head.first, head.second):
        x_BQD = block(x_BQD, states_BTD, bias_BT)
    expected = head.project(x_BQD).transpose(1, 2).reshape(2, 3, 8, 8)
    torch.testing.assert_close(head(states_BTD, keep_BT), expected, atol=1e-4, rtol=1e-4)


def test_light_head_leaves_no_patch_borders():
    torch.manual_seed(0)
    head = LightHead(32, 4, 48, 0.0, latent_CHW=(6, 32, 32), coarse=4).eval()
    with torch.no_grad():
        latent = head(torch.randn(100, 5, 32), torch.ones(100, 5, dtype=torch.bool))
    assert latent.shape == (100, 6, 32, 32)
    step_W = (latent - latent.mean(0)).diff(dim=-1).square().mean((0, 1, 2))
    for first in (3, 7):  # where patches of eight pixels begin and where they meet their neighbours' middles
        assert step_W[first::8].mean() < 1.5 * step_W.median()


def test_painting_is_resize_convolve_tint_until_the_grid_is_full_size():
    torch.manual_seed(0)
    painter = Painter(16, 2, (3, 10, 16), (8, 6, 5))
    x_BQD = torch.randn(2, 4, 16)
    assert painter.sizes == [(3, 4), (5, 8), (10, 16)]
    x_BCHW = (x_BQD @ painter.enter.weight.T + painter.enter.bias).transpose(1, 2).reshape(2, 8, 2, 2)
    for size, convolution, skip, gain, offset in zip(
        painter.sizes, painter.convolutions, painter.skips, painter.gains, painter.offsets, strict=True
    ):
        x_BCHW = functional.interpolate(x_BCHW, size=size, mode="bilinear")
        bent_BCHW = functional.gelu(convolution(x_BCHW) * (1 + gain) + offset)
        x_BCHW = bent_BCHW + skip(x_BCHW) * (1 + gain)
    torch.testing.assert_close(painter(x_BQD), 3.0 * painter.leave(x_BCHW), atol=1e-5, rtol=1e-5)


def test_a_vector_is_dealt_out_like_cards():
    torch.manual_seed(0)
    painter = VectorPainter(16, 4, (3, 8, 12))
    x_BQD = torch.randn(2, 16, 16)
    latent_BCHW = painter(x_BQD)
    shares_BQK = x_BQD @ painter.leave.weight.T + painter.leave.bias
    for place in range(16):  # every place has one pixel of each 4 x 4, and the same linear map
        own = latent_BCHW[:, :, place // 4 :: 4, place % 4 :: 4]
        torch.testing.assert_close(own.flatten(1), shares_BQK[:, place])
    head = LightHead(16, 2, 24, 0.0, latent_CHW=(3, 8, 12), coarse=4, plain=True)
    assert not [module for module in head.modules() if isinstance(module, nn.Conv2d)]


def test_a_vector_has_as_many_values_for_every_place():
    with pytest.raises(ValueError, match=r"4 x 4 places; 10 x 12 is no multiple"):
        VectorPainter(16, 4, (3, 10, 12))


@pytest.mark.parametrize(
    ("widths", "wide"),
    [((8, 6, 5, 4), [8, 6, 5, 4]), ((8,), [8, 8, 8, 8]), ((8, 6), [8, 6, 6, 6]), ((9, 8, 7, 6, 5), [9, 8, 7, 6])],
)
def test_widths_are_cut_or_the_last_one_repeated(widths: tuple[int, ...], wide: list[int]):
    painter = Painter(16, 2, (3, 16, 16), widths)
    channels = [painter.enter.out_features, *(len(gain) for gain in painter.gains)]
    assert channels == wide
    assert painter(torch.randn(1, 4, 16)).shape == (1, 3, 16, 16)


def test_tints_do_not_turn_autocast_back_into_float32():
    torch.manual_seed(0)
    painter, x_BQD = Painter(16, 2, (3, 8, 8), (8, 6)), torch.randn(2, 4, 16)
    seen = []
    for convolution in (*painter.convolutions, painter.leave):
        convolution.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        latent_BCHW = painter(x_BQD)
    assert seen == [torch.bfloat16] * 3
    exact_BCHW = painter(x_BQD)
    assert exact_BCHW.dtype == torch.float32
    assert (latent_BCHW - exact_BCHW).std() < 0.02 * exact_BCHW.std()
    latent_BCHW.float().square().sum().backward()
    gains = [gain.grad for gain in (*painter.gains, *painter.offsets)]
    assert all(grad is not None and grad.dtype == torch.float32 and grad.any() for grad in gains)


def test_light_head_refuses_a_grid_that_does_not_fit():
    with pytest.raises(ValueError, match=r"coarse must .*\(32, 32\), got 33"):
        LightHead(16, 4, 32, 0.0, latent_CHW=(6, 32, 32), coarse=33)


def test_splat_is_the_gaussian_formula():
    torch.manual_seed(0)
    mean, axes, angle, colour = torch.rand(1, 2, 2), torch.rand(1, 2, 2) + 0.1, torch.randn(1, 2), torch.randn(1, 2, 3)
    found = splat(Gaussians(mean, axes, angle, colour), 5, 7)
    expected = torch.zeros(3, 5, 7)
    for k in range(2):
        turn = torch.tensor([[angle[0, k].cos(), -angle[0, k].sin()], [angle[0, k].sin(), angle[0, k].cos()]])
        precision = torch.linalg.inv(turn @ torch.diag(axes[0, k] ** 2) @ turn.T)
        for i, y in enumerate(torch.linspace(-1, 1, 5)):
            for j, x in enumerate(torch.linspace(-1, 1, 7)):
                offset = torch.stack((x, y)) - mean[0, k]
                expected[:, i, j] += colour[0, k] * torch.exp(-0.5 * offset @ precision @ offset)
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-4)


def test_slot_attention_is_algorithm_one():
    torch.manual_seed(0)
    module = SlotAttention(8, 3, 2, 16, 0.0).eval()
    states_BTD, keep_BT = torch.randn(1, 4, 8), torch.tensor([[True, True, True, False]])
    tokens_TD = functional.layer_norm(states_BTD[0, :3], (8,))
    key_TD, value_TD = module.key_value(tokens_TD).chunk(2, -1)
    slots_KD = module.start_KD
    for _ in range(2):
        query_KD = module.query(functional.layer_norm(slots_KD, (8,)))
        share_KT = (query_KD @ key_TD.T / 8**0.5).softmax(0)
        update_KD = (share_KT / share_KT.sum(1, keepdim=True)) @ value_TD
        slots_KD = module.update(update_KD, slots_KD)
        slots_KD = slots_KD + module.feed_forward(functional.layer_norm(slots_KD, (8,)))
    torch.testing.assert_close(module(states_BTD, keep_BT)[0], slots_KD, atol=1e-4, rtol=1e-4)


def test_smoothing_head_starts_as_a_blur_that_keeps_flat_fields():
    head = SmoothingHead(2)
    flat = torch.full((1, 2, 8, 8), 3.0)
    torch.testing.assert_close(head(flat), flat)
    checkerboard = (-1.0) ** torch.arange(8)[:, None] * (-1.0) ** torch.arange(8)
    assert head(checkerboard.expand(1, 2, 8, 8))[..., 1:-1, 1:-1].abs().max() < 1e-6


def test_coordinates_run_from_minus_one_to_one():
    latent = torch.randn(2, 3, 4, 5)
    joined = with_coordinates(latent)
    assert joined.shape == (2, 5, 4, 5)
    assert torch.equal(joined[:, :3], latent)
    torch.testing.assert_close(joined[1, 3, 2], torch.linspace(-1, 1, 5))
    torch.testing.assert_close(joined[1, 4, :, 2], torch.linspace(-1, 1, 4))
