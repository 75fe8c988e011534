"""The U-Net: its parts against plain formulas, what a fresh one gives, and what it refuses."""

import math
from dataclasses import replace
from typing import TypeVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from inscape.nn.unet import LatentNormaliser, PlaceAttention, ResidualBlock, UNet, UNetConfig, time_features

TINY = UNetConfig(channels=3, width=8, multipliers=(1, 2, 3), blocks=1, heads=2, groups=4)


Net = TypeVar("Net", bound=nn.Module)


def randomised(net: Net, seed: int = 0) -> Net:
    """Every parameter drawn: nothing is hidden by what starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator) + (parameter.ndim == 1))
    return net


def test_the_small_size_has_about_a_million_parameters():
    assert 900_000 < sum(p.numel() for p in UNet(UNetConfig()).parameters()) < 1_200_000


@pytest.mark.parametrize("config", [TINY, replace(TINY, blocks=2), replace(TINY, multipliers=(2,))])
def test_a_fresh_net_gives_zero_and_a_drawn_one_uses_every_weight(config: UNetConfig):
    net, x_BCHW = UNet(config), torch.randn(2, 3, 8, 12)
    assert torch.equal(net(x_BCHW, torch.rand(2)), torch.zeros(2, 3, 8, 12))
    randomised(net)(x_BCHW, torch.rand(2)).square().sum().backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


def test_a_sample_is_the_same_alone_and_in_a_batch():
    net = randomised(UNet(TINY))
    x_BCHW, time_B = torch.randn(4, 3, 8, 8), torch.rand(4)
    with torch.no_grad():
        together = net(x_BCHW, time_B)
        for i in range(4):
            torch.testing.assert_close(net(x_BCHW[i : i + 1], time_B[i : i + 1])[0], together[i], atol=1e-4, rtol=1e-4)
    assert (together[0] - together[1]).abs().max() > 0.1


def test_training_and_evaluation_mode_are_the_same():
    net, x_BCHW, time_B = randomised(UNet(TINY)), torch.randn(2, 3, 8, 8), torch.rand(2)
    assert torch.equal(net.train()(x_BCHW, time_B), net.eval()(x_BCHW, time_B))


def test_the_time_is_used_wherever_it_is_told():
    net, x_BCHW = randomised(UNet(TINY)), torch.randn(1, 3, 8, 8).expand(2, -1, -1, -1)
    near, far = (net(x_BCHW, torch.tensor([0.5, other])).diff(dim=0).abs().max() for other in (0.501, 0.9))
    assert 0 < near < far


@pytest.mark.parametrize("shape", [(1, 3, 6, 8), (1, 3, 8, 10), (1, 4, 8, 8), (3, 8, 8)])
def test_a_size_that_cannot_be_halved_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"wanted \(B, 3, H, W\) with H and W multiples of 4, for 3 levels"):
        UNet(TINY)(torch.zeros(shape), torch.zeros(shape[0]))


@given(levels=st.integers(1, 4), rows=st.integers(1, 3), columns=st.integers(1, 3))
def test_multiples_of_the_divisor_are_enough(levels: int, rows: int, columns: int):
    config = replace(TINY, multipliers=(1,) * levels)
    assert config.divisor == 2 ** (levels - 1)
    x_BCHW = torch.randn(2, 3, rows * config.divisor, columns * config.divisor)
    assert UNet(config)(x_BCHW, torch.rand(2)).shape == x_BCHW.shape


def test_a_residual_block_is_its_formula():
    block = randomised(ResidualBlock(4, 6, 5, 2))
    x_BCHW, embedded_BE = torch.randn(2, 4, 5, 5), torch.randn(2, 5)

    def normed(x: torch.Tensor, norm: nn.GroupNorm) -> torch.Tensor:
        grouped = x.reshape(len(x), norm.num_groups, -1)
        centred = (grouped - grouped.mean(-1, keepdim=True)) / (
            grouped.var(-1, correction=0, keepdim=True) + 1e-5
        ).sqrt()
        return centred.reshape(x.shape) * norm.weight[:, None, None] + norm.bias[:, None, None]

    def silu(x: torch.Tensor) -> torch.Tensor:
        return x * x.sigmoid()

    scale, shift = block.scale_shift(embedded_BE).reshape(2, 2, 6, 1, 1).unbind(1)
    hidden = block.convolve_in(silu(normed(x_BCHW, block.norm_in)))
    hidden = block.convolve_out(silu((1 + scale) * normed(hidden, block.norm_out) + shift))
    skip = block.skip.state_dict()
    expected = hidden + torch.einsum("oi,bihw->bohw", skip["weight"][..., 0, 0], x_BCHW) + skip["bias"][:, None, None]
    torch.testing.assert_close(block(x_BCHW, embedded_BE), expected, atol=1e-4, rtol=1e-4)


def test_attention_over_places_does_not_know_their_order():
    attend, x_BCHW = PlaceAttention(8, 2, 4), torch.randn(2, 8, 4, 4)
    assert torch.equal(attend(x_BCHW), x_BCHW), "a fresh one passes through what it gets"
    randomised(attend)
    order = torch.randperm(16)
    moved = x_BCHW.flatten(2)[..., order].reshape(x_BCHW.shape)
    torch.testing.assert_close(attend(moved).flatten(2), attend(x_BCHW).flatten(2)[..., order], atol=1e-4, rtol=1e-4)
    x_BCHW.requires_grad_()
    (reach,) = torch.autograd.grad(attend(x_BCHW)[0, 0, 0, 0], x_BCHW)
    assert (reach[0].abs().sum(0) > 0).all()
    assert not reach[1].any()


def test_time_features_are_sines_and_cosines_of_a_thousand_times_the_time():
    time_B = torch.tensor([0.0, 0.013, 1.0])
    found = time_features(time_B, 6)
    for b, time in enumerate(time_B.tolist()):
        angles = [1000 * time * 10_000 ** (-f / 3) for f in range(3)]
        expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        torch.testing.assert_close(found[b], torch.tensor(expected), atol=1e-3, rtol=0.0)
    with pytest.raises(ValueError, match="5 given; wanted an even number"):
        time_features(time_B, 5)


def test_the_normaliser_centres_every_channel_and_travels_with_the_weights():
    generator = torch.Generator().manual_seed(0)
    latent_BCHW = torch.randn(40, 3, 8, 8, generator=generator) * torch.tensor([0.1, 1.0, 30.0])[:, None, None] - 7
    net = UNet(TINY)
    net.normaliser.measure(latent_BCHW)
    plain_BCHW = net.normaliser.standardised(latent_BCHW)
    torch.testing.assert_close(plain_BCHW.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0.0)
    torch.testing.assert_close(plain_BCHW.var((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0.0)
    torch.testing.assert_close(net.normaliser.restored(plain_BCHW), latent_BCHW, atol=1e-4, rtol=1e-5)
    other = UNet(TINY)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.normaliser.standardised(latent_BCHW), plain_BCHW)


def test_a_dead_channel_stays_finite_and_bad_latents_are_refused():
    normaliser = LatentNormaliser(2)
    normaliser.measure(torch.ones(3, 2, 4, 4))
    assert torch.equal(normaliser.standardised(torch.ones(1, 2, 4, 4)), torch.zeros(1, 2, 4, 4))
    for shape in ((3, 3, 4, 4), (0, 2, 4, 4), (2, 4, 4)):
        with pytest.raises(ValueError, match=r"wanted \(B, 2, H, W\)"):
            normaliser.measure(torch.zeros(shape))
    with pytest.raises(ValueError, match="not finite"):
        normaliser.measure(torch.full((1, 2, 4, 4), math.nan))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 0}, r"unet.channels=0 is out of range; allowed: 1 to 256"),
        ({"width": 2048}, r"unet.width=2048 is out of range; allowed: 1 to 1024"),
        ({"blocks": 0}, r"unet.blocks=0 is out of range"),
        ({"multipliers": ()}, r"unet.multipliers=\[\] is out of range; allowed: 1 to 8 of 1 to 64"),
        ({"multipliers": (1, 0)}, r"unet.multipliers=\[1, 0\] is out of range"),
        ({"groups": 3}, r"unet.width=8 must be a multiple of unet.groups=3"),
        ({"heads": 5}, r"unet.heads=5 must divide the 24 channels"),
    ],
)
def test_a_size_out_of_range_is_refused(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)
