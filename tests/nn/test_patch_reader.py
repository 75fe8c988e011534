"""Patches against a loop over them, and the reader: it knows where a patch lies."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inscape.nn.patch_reader import PatchReader, to_patches


@given(
    batch=st.integers(1, 2), channels=st.integers(1, 3), rows=st.integers(1, 3), columns=st.integers(1, 3),
    side=st.integers(1, 3),
)  # fmt: skip
def test_patches_are_squares_row_by_row(batch: int, channels: int, rows: int, columns: int, side: int):
    latent_BCHW = torch.arange(batch * channels * rows * columns * side**2).float()
    latent_BCHW = latent_BCHW.view(batch, channels, rows * side, columns * side)
    found_BPK = to_patches(latent_BCHW, side)
    assert found_BPK.shape == (batch, rows * columns, channels * side**2)
    for row in range(rows):
        for column in range(columns):
            cut = latent_BCHW[:, :, row * side : (row + 1) * side, column * side : (column + 1) * side]
            assert torch.equal(found_BPK[:, row * columns + column], cut.reshape(batch, -1))


@pytest.mark.parametrize("shape", [(8, 6), (6, 8)])
def test_patches_that_do_not_tile_are_refused(shape: tuple[int, int]):
    with pytest.raises(ValueError, match=f"patches of 4 pixels do not tile a latent of {shape[0]} x {shape[1]}"):
        to_patches(torch.zeros(1, 2, *shape), 4)


def reader(layers: int = 1) -> PatchReader:
    torch.manual_seed(0)
    return PatchReader(16, 2, 24, 0.0, latent_CHW=(3, 8, 12), side=4, layers=layers).eval()


def test_without_layers_it_is_a_linear_map_a_position_and_a_norm():
    model, latent_BCHW = reader(layers=0), torch.randn(2, 3, 8, 12)
    x_BPD = to_patches(latent_BCHW, 4) @ model.enter.weight.T + model.enter.bias + model.position_PD
    expected = (x_BPD - x_BPD.mean(-1, keepdim=True)) / (x_BPD.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(model(latent_BCHW), expected, atol=1e-5, rtol=1e-5)


def test_it_has_a_state_a_patch_and_knows_where_each_lies():
    model, latent_BCHW = reader(), torch.randn(2, 3, 8, 12)
    states_BPD = model(latent_BCHW)
    assert states_BPD.shape == (2, 6, 16)
    assert model.grid == (2, 3)
    # The two rows of patches exchanged: states that did not know their place would only be exchanged as well.
    turned_BPD = model(latent_BCHW.roll(4, 2))
    assert (turned_BPD - states_BPD.roll(3, 1)).abs().max() > 0.1
    with torch.no_grad():
        model.position_PD.zero_()
    torch.testing.assert_close(model(latent_BCHW.roll(4, 2)), model(latent_BCHW).roll(3, 1), atol=1e-5, rtol=1e-5)


def test_every_state_sees_every_patch():
    model = reader()
    latent_BCHW = torch.randn(1, 3, 8, 12, requires_grad=True)
    for place in range(6):
        (gradient,) = torch.autograd.grad(model(latent_BCHW)[0, place].square().sum(), latent_BCHW)
        assert to_patches(gradient, 4).abs().sum(-1).min() > 0
