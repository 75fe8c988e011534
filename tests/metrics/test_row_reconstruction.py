"""Reconstruction of rows against torch's own formulas; padding and zero rows."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from inscape.metrics.row_reconstruction import reconstruction_of_prompt, row_reconstruction, valid_rows


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_one_prompt_against_torch() -> None:
    e_TD, r_TD = drawn(7, 5), drawn(7, 5, seed=1)
    cosine, mse, relative = reconstruction_of_prompt(e_TD, r_TD)
    assert cosine == pytest.approx(float(functional.cosine_similarity(e_TD, r_TD, dim=1).mean()), rel=1e-5)
    assert mse == pytest.approx(float(functional.mse_loss(r_TD, e_TD)), rel=1e-5)
    assert relative == pytest.approx(float((r_TD - e_TD).norm() / e_TD.norm()), rel=1e-5)


def test_closed_forms() -> None:
    e_TD = drawn(4, 3)
    assert reconstruction_of_prompt(e_TD, e_TD) == pytest.approx((1.0, 0.0, 0.0))
    assert reconstruction_of_prompt(e_TD, 3 * e_TD)[0] == pytest.approx(1.0)
    assert reconstruction_of_prompt(e_TD, 3 * e_TD)[2] == pytest.approx(2.0)
    assert reconstruction_of_prompt(e_TD, -e_TD)[0] == pytest.approx(-1.0)
    assert reconstruction_of_prompt(e_TD, torch.zeros(4, 3))[::2] == pytest.approx((0.0, 1.0))


def test_means_and_intervals_are_over_prompts_and_not_over_tokens() -> None:
    original = [drawn(2, 4), drawn(50, 4, seed=1), drawn(3, 4, seed=2)]
    made = [original[0], 2 * original[1], original[2]]
    found = row_reconstruction(original, made)
    assert found.relative_error.value == pytest.approx(1 / 3)
    assert (found.mse.n, found.mse.unit) == (3, "prompts")
    assert found.relative_error.low <= 0.0, "of three prompts, whatever their tokens"


def test_prompts_of_one_context_are_one_unit() -> None:
    original = [drawn(3, 4, seed=i // 5) for i in range(20)]
    made = [row_TD + 0.1 * (i // 5) * drawn(3, 4, seed=9) for i, row_TD in enumerate(original)]
    alone = row_reconstruction(original, made)
    together = row_reconstruction(original, made, groups=[i // 5 for i in range(20)], unit="contexts")
    for one, other in zip(alone, together, strict=True):
        assert (one.n, other.n, other.unit) == (20, 4, "contexts")
        assert other.value == pytest.approx(one.value)
        assert other.high - other.low > one.high - one.low


def test_padding_counts_for_nothing() -> None:
    """Rows of padding are alike on both sides, or zero on one: counted in, they flatter or spoil every figure."""
    row_BTD, keep_BT = drawn(2, 6, 4), torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]]).bool()
    made_BTD = row_BTD + 0.1
    made_BTD[~keep_BT] = row_BTD[~keep_BT]
    bare = reconstruction_of_prompt(row_BTD[0, :3], row_BTD[0, :3] + 0.1)
    first = reconstruction_of_prompt(*(valid_rows(x, keep_BT)[0] for x in (row_BTD, made_BTD)))
    assert first == pytest.approx(bare)
    assert reconstruction_of_prompt(row_BTD[0], made_BTD[0])[1] == pytest.approx(bare[1] / 2, rel=1e-5)


def test_a_zero_row_has_no_direction() -> None:
    e_TD = torch.cat((torch.zeros(1, 3), drawn(2, 3)))
    assert reconstruction_of_prompt(e_TD, e_TD) == pytest.approx((1.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="all rows of a prompt are zero"):
        reconstruction_of_prompt(torch.zeros(2, 3), torch.ones(2, 3))


def test_bad_input_is_one_line() -> None:
    with pytest.raises(ValueError, match="2 prompts and 1 reconstructions"):
        row_reconstruction([drawn(2, 3), drawn(2, 3)], [drawn(2, 3)])
    for shape in ((3, 3), (0, 3), (2, 4)):
        with pytest.raises(ValueError, match="wanted both"):
            reconstruction_of_prompt(torch.ones(2, 3) if shape[0] else torch.ones(0, 3), torch.ones(shape))
    with pytest.raises(ValueError, match="do not fit a mask"):
        valid_rows(drawn(2, 6, 4), torch.ones(2, 5).bool())
    assert np.isnan(row_reconstruction([], []).mse.value)
