"""Transforms of the latent: exact where they can be, random for each sample alone, and never waiting for a value."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from inscape.nn.jitter import (
    JitterConfig,
    add_noise,
    blur,
    cutout,
    derangement,
    gaussian_blur,
    jitter,
    random_blur,
    random_shift,
    shift,
    shuffle_places,
    swap_sentences,
)
from inscape.studies.visual import losses

B, C, H, W = 12, 3, 16, 20
ALL: dict[str, Callable[..., Tensor]] = {
    "random_shift": random_shift,
    "random_blur": random_blur,
    "cutout": lambda x, **given: cutout(x, 5, **given),
    "add_noise": lambda x, **given: add_noise(x, 0.3, **given),
    "jitter": lambda x, **given: jitter(x, JitterConfig(), **given),
    "shuffle_places": lambda x, **given: shuffle_places(x, 4, **given),
    "swap_sentences": swap_sentences,
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*(shape or (B, C, H, W)), generator=seeded(seed))


def moved(latent: Tensor, dy: int, dx: int) -> Tensor:
    """The reference: pad by copies of the edge, then cut out."""
    padded = functional.pad(latent, (9, 9, 9, 9), mode="replicate")
    return padded[..., 9 - dy : 9 - dy + latent.shape[-2], 9 - dx : 9 - dx + latent.shape[-1]]


def same_sample(a: Tensor, b: Tensor) -> Tensor:
    return (a == b).flatten(1).all(1)


# --- all of them --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_the_generator_repeats_it_and_without_one_the_global_seed_does(name: str):
    x = noise()
    assert torch.equal(ALL[name](x, generator=seeded(1)), ALL[name](x, generator=seeded(1)))
    assert not torch.equal(ALL[name](x, generator=seeded(1)), ALL[name](x, generator=seeded(2)))
    outs = []
    for _ in range(2):
        torch.manual_seed(3)
        outs.append(ALL[name](x))
    assert torch.equal(*outs)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    ALL[name](x, generator=seeded())
    assert torch.equal(before, torch.get_rng_state()), "a generator was given, and the global one was used"


@pytest.mark.parametrize("name", ALL)
def test_no_value_is_read_back(name: str):
    """A tensor of the meta device has no values: whoever asks for one raises."""
    x = torch.empty(B, C, H, W, device="meta")
    assert ALL[name](x).shape == x.shape
    with pytest.raises(RuntimeError, match="meta"):  # so that the line above can fail: reading a value does raise
        x.sum().item()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_type_and_input_stay(name: str, dtype: torch.dtype):
    x = noise().to(dtype)
    kept = x.clone()
    assert ALL[name](x).dtype == dtype
    assert torch.equal(x, kept)


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_those_of_the_transform(name: str):
    """For one draw all of them are linear, so <T(other), y> is the gradient of <T(x), y>, times other."""
    x, other, y = (noise(B, C, H, W, seed=seed).double() for seed in range(3))
    x.requires_grad_()
    (gradient,) = torch.autograd.grad((ALL[name](x, generator=seeded(5)) * y).sum(), x)
    if name == "add_noise":  # its level counts as a constant
        assert torch.equal(gradient, y)
        return
    torch.testing.assert_close((gradient * other).sum(), (ALL[name](other, generator=seeded(5)) * y).sum())


# --- shift --------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_shift_is_a_replicated_edge_and_a_cut(offsets: list[tuple[int, int]]):
    x = noise(len(offsets), C, H, W)
    dy_B, dx_B = torch.tensor(offsets).T
    expected = torch.cat([moved(x[i : i + 1], *offset) for i, offset in enumerate(offsets)])
    assert torch.equal(shift(x, dy_B, dx_B), expected)


def test_shift_moves_down_and_right():
    point = torch.zeros(1, 1, 5, 5)
    point[0, 0, 2, 2] = 1
    assert shift(point, torch.tensor([1]), torch.tensor([-2]))[0, 0].nonzero().tolist() == [[3, 0]]


def test_random_shift_takes_every_offset_equally_often_in_each_sample_alone():
    x = noise(1, 1, 8, 8).expand(5000, -1, -1, -1)
    out = random_shift(x, 2, generator=seeded())
    counts = torch.tensor(
        [[int(same_sample(out, moved(x, dy, dx)).sum()) for dx in range(-2, 3)] for dy in range(-2, 3)]
    )
    assert int(counts.sum()) == 5000
    assert counts.min() > 200 - 70  # five standard deviations
    assert counts.max() < 200 + 70
    assert random_shift(x, 0) is x


def test_probability_is_for_each_sample():
    x = noise(4000, 1, 8, 8)
    for changes in (
        lambda p: random_shift(x, 2, probability=p, generator=seeded()),
        lambda p: random_blur(x, 0.8, probability=p, generator=seeded()),
        lambda p: cutout(x, 2, probability=p, generator=seeded()),
    ):
        always = int((~same_sample(changes(1.0), x)).sum())  # not all: a shift can be 0, a sigma too small to see
        assert always > 3000
        assert int((~same_sample(changes(0.3), x)).sum()) == pytest.approx(0.3 * always, abs=150)
        assert changes(0.0) is x


# --- blur ---------------------------------------------------------------------------------------------------------


def test_blur_of_each_sample_is_gaussian_blur_with_its_sigma():
    x, sigma_B = noise(4, C, H, W), torch.tensor([0.7, 0.8, 0.9, 1.0])  # of all of them the kernel ends at 3 pixels
    expected = torch.cat([gaussian_blur(x[i : i + 1], s) for i, s in enumerate(sigma_B.tolist())])
    torch.testing.assert_close(blur(x, sigma_B), expected)
    torch.testing.assert_close(blur(x, 0.9), gaussian_blur(x, 0.9))
    assert torch.equal(blur(x, torch.zeros(4)), x)
    assert losses.gaussian_blur is gaussian_blur


def test_random_blur_widens_points_between_nothing_and_sigma():
    points = torch.zeros(400, 1, 17, 17)
    points[:, :, 8, 8] = 1
    rows_BW = random_blur(points, 1.0, generator=seeded())[:, 0].sum(1)
    width_B = (rows_BW * (torch.arange(17.0) - 8) ** 2).sum(1).sqrt()
    torch.testing.assert_close(rows_BW.sum(1), torch.ones(400))
    assert width_B.max() < 1.01
    assert width_B.min() < 0.1
    assert width_B.max() > 0.95
    assert random_blur(points, 0) is points


# --- cutout -------------------------------------------------------------------------------------------------------


def test_cutout_is_one_square_of_each_channels_mean_anywhere_inside():
    x, size = noise(3000, 2, 7, 9), 4
    out = cutout(x, size, generator=seeded())
    changed_BHW = (out != x).all(1)
    assert torch.equal(changed_BHW, (out != x).any(1)), "all channels at once"
    assert torch.equal(changed_BHW.flatten(1).sum(1), torch.full((3000,), size**2))
    rows, columns = changed_BHW.any(2), changed_BHW.any(1)
    assert torch.equal(rows[:, :, None] & columns[:, None], changed_BHW)
    corners = torch.stack((rows.int().argmax(1), columns.int().argmax(1)), 1)
    found, counts = corners.unique(dim=0, return_counts=True)
    assert len(found) == (7 - size + 1) * (9 - size + 1)
    assert counts.min() > 60  # of 125
    hole = torch.where(changed_BHW[:, None], out - x.mean((2, 3), keepdim=True), torch.zeros(()))
    assert hole.abs().max() < 1e-6


@pytest.mark.parametrize("size", [-1, 17])
def test_a_square_that_does_not_fit_is_refused(size: int):
    with pytest.raises(ValueError, match=f"size={size} is out of range; allowed: 0 to 16"):
        cutout(noise(), size)
    assert cutout(noise(), 0).shape == (B, C, H, W)


# --- noise --------------------------------------------------------------------------------------------------------


def test_noise_is_a_share_of_each_samples_own_deviation():
    scale_B = torch.tensor([0.1, 1.0, 30.0])
    level_C = torch.tensor([1.0, 5.0])[:, None, None]  # one level for all channels, not one for each
    x = scale_B[:, None, None, None] * level_C * noise(3, 2, 64, 64) + 7
    for fraction, wanted_B in ((0.25, torch.full((3,), 0.25)), (torch.tensor([0.0, 0.5, 1.0]),) * 2):
        added = add_noise(x, fraction, generator=seeded(1)) - x
        deviation_BC = added.std((2, 3))
        expected_B = wanted_B * x.std((1, 2, 3))
        torch.testing.assert_close(deviation_BC, expected_B[:, None].expand(3, 2), rtol=0.05, atol=1e-6)
        assert (added.mean((1, 2, 3)).abs() <= 0.06 * expected_B + 1e-6).all()


# --- T of the plan ------------------------------------------------------------------------------------------------


def test_jitter_is_its_three_parts_in_order():
    x = noise()
    always = JitterConfig(shift_probability=1, blur_probability=1, cutout_probability=1)
    one, two = seeded(4), seeded(4)
    expected = cutout(random_blur(random_shift(x, 2, generator=one), 0.8, generator=one), 6, generator=one)
    assert torch.equal(jitter(x, always, generator=two), expected)
    assert jitter(x, JitterConfig(shift_probability=0, blur_probability=0, cutout_probability=0)) is x
    assert jitter(x, JitterConfig(shift=0, blur=0, cutout=0)) is x


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("shift", -1, "0 or more"),
        ("blur", float("nan"), "0 or more"),
        ("blur", float("inf"), "0 or more"),
        ("cutout", -3, "0 or more"),
        ("shift_probability", 1.1, "0 to 1"),
        ("blur_probability", -0.1, "0 to 1"),
        ("cutout_probability", 2, "0 to 1"),
    ],
)
def test_nonsense_is_refused(field: str, value: Any, allowed: str):
    with pytest.raises(ValueError, match=rf"jitter\.{field}={value} is out of range; allowed: {allowed}"):
        JitterConfig(**{field: value})


# --- controls -----------------------------------------------------------------------------------------------------


@given(st.sampled_from([1, 2, 4]), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_shuffled_places_are_whole_patches_of_the_same_sample(patch: int, seed: int):
    patches = torch.arange(float(B * (H // patch) * (W // patch))).reshape(B, 1, H // patch, W // patch)
    inside = torch.arange(float(C * patch * patch)).reshape(1, C, patch, patch) / 1000
    x = patches.repeat_interleave(patch, 2).repeat_interleave(patch, 3) + inside.repeat(1, 1, H // patch, W // patch)
    out = shuffle_places(x, patch, generator=seeded(seed))
    number = out[:, 0, ::patch, ::patch].round()
    back = number[:, None].repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    torch.testing.assert_close(out - back, inside.repeat(B, 1, H // patch, W // patch), atol=1e-3, rtol=0)
    assert torch.equal(number.flatten(1).sort(1).values, patches.flatten(1))
    order = number.flatten(1) - patches.flatten(1)[:, :1]
    assert len(order.unique(dim=0)) > B // 2, "one permutation for each sample"


def test_every_place_goes_everywhere_equally_often():
    x = torch.arange(4.0).reshape(1, 1, 2, 2).expand(4000, -1, -1, -1)
    out = shuffle_places(x, 1, generator=seeded()).flatten(1)
    counts = functional.one_hot(out.long(), 4).sum(0)
    assert (counts - 1000).abs().max() < 150


@pytest.mark.parametrize("patch", [0, 3, 5, 16])
def test_patches_that_do_not_tile_are_refused(patch: int):
    with pytest.raises(ValueError, match=f"patch={patch} does not cut 16 x 20"):
        shuffle_places(noise(), patch)


def test_one_patch_is_no_shuffle():
    with pytest.raises(ValueError, match="patch=8"):
        shuffle_places(noise(2, 1, 8, 8), 8)


@given(st.integers(2, 40), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_swapped_sentences_are_all_there_and_none_in_place(count: int, seed: int):
    x = torch.arange(float(count)).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    out = swap_sentences(x, generator=seeded(seed))[:, 0, 0, 0]
    assert sorted(out.tolist()) == list(range(count))
    assert (out != torch.arange(count)).all()


def test_every_other_sentence_is_equally_likely():
    draw = seeded()
    counts = sum(functional.one_hot(derangement(4, generator=draw), 4) for _ in range(1500))
    assert isinstance(counts, Tensor)
    assert counts.diagonal().sum() == 0
    assert (counts[~torch.eye(4, dtype=torch.bool)] - 500).abs().max() < 100


def test_one_sentence_cannot_be_swapped():
    with pytest.raises(ValueError, match="wanted 2 or more"):
        swap_sentences(noise(1, 1, 4, 4))
