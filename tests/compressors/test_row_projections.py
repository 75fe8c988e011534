"""PCA, random directions and the linear inverse against NumPy on all token rows, and the historic mistakes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from table_only_model import TableOnly, planted_model, planted_prompts

from inscape.compressors.interface import LATENT, row_width, vector_count
from inscape.compressors.linear_inverse import LinearInverse, least_squares_inverse
from inscape.compressors.pca import Pca, principal_components
from inscape.compressors.projection import (
    Projection,
    explained_share,
    moments_of_prompts,
    moments_of_rows,
    project,
    projection_sample,
    unproject,
)
from inscape.compressors.random_orthogonal import RandomOrthogonal, random_basis
from inscape.compressors.stored import load_compressor

LM = planted_model()
PROMPTS = planted_prompts()


def all_rows(prompts: list[torch.Tensor]) -> np.ndarray:
    return LM.table_VD[torch.cat(prompts)].double().numpy()


def made(compressor, ids_T: torch.Tensor) -> torch.Tensor:
    return compressor.inject(LM, compressor.compress(LM, ids_T)).rows_MD


# --- moments ------------------------------------------------------------------------------------------------------


def test_moments_of_prompts_are_those_of_all_their_token_rows() -> None:
    found, row_ND = moments_of_prompts(LM, PROMPTS), all_rows(PROMPTS)
    assert found.token_rows == len(row_ND)
    np.testing.assert_allclose(found.mean_D, row_ND.mean(0), rtol=1e-13)
    np.testing.assert_allclose(found.covariance_DD, np.cov(row_ND.T, bias=True), atol=1e-15)


def test_moments_do_not_depend_on_the_order_of_prompts_by_a_bit() -> None:
    shuffled = [ids_T.flip(0) for ids_T in reversed(PROMPTS)]
    for one, other in zip(moments_of_prompts(LM, PROMPTS)[1:], moments_of_prompts(LM, shuffled)[1:], strict=True):
        assert torch.equal(one, other)


def test_moments_of_nothing_and_of_strange_ids_are_one_line() -> None:
    with pytest.raises(ValueError, match="no token row"):
        moments_of_prompts(LM, [])
    with pytest.raises(ValueError, match="not all in a table of 60 rows"):
        moments_of_prompts(LM, [torch.tensor([3, 60])])


# --- PCA ----------------------------------------------------------------------------------------------------------


def test_pca_is_the_leading_singular_vectors_of_all_token_rows() -> None:
    pca = Pca(4.0).fit(LM, PROMPTS, seed=0)
    row_ND = all_rows(PROMPTS[:6])  # half of twelve
    singular = np.linalg.svd(row_ND - row_ND.mean(0), full_matrices=False)
    assert pca.projection is not None
    assert pca.variance_D is not None
    np.testing.assert_allclose(pca.variance_D, singular.S**2 / len(row_ND), atol=1e-15)
    same = np.abs(np.sum(pca.projection.basis_Dd.numpy() * singular.Vh[:4].T, axis=0))
    np.testing.assert_allclose(same, 1.0, atol=1e-10)
    assert pca.token_rows == len(row_ND)


def test_compression_and_back_are_the_formulas_of_the_plan() -> None:
    pca = Pca(2.0).fit(LM, PROMPTS, seed=0)
    assert pca.projection is not None
    mean_D, basis_Dd = pca.projection
    sent = pca.compress(LM, PROMPTS[0])
    latent_Td = (LM.table_VD[PROMPTS[0]].double() - mean_D) @ basis_Dd
    torch.testing.assert_close(sent.tensors[LATENT], latent_Td.float())
    assert (sent.tokens, sent.vectors, list(sent.tensors)) == (len(PROMPTS[0]), len(PROMPTS[0]), [LATENT])
    torch.testing.assert_close(made(pca, PROMPTS[0]), (mean_D + latent_Td @ basis_Dd.T).float())
    assert pca.bits(sent) == len(PROMPTS[0]) * 8 * 32
    assert (
        replace(pca, wire="float16").bits(replace(pca, wire="float16").compress(LM, PROMPTS[0])) == pca.bits(sent) / 2
    )


def test_all_components_give_the_rows_back() -> None:
    torch.testing.assert_close(made(Pca(1.0).fit(LM, PROMPTS, seed=0), PROMPTS[1]), LM.table_VD[PROMPTS[1]])


def test_the_shapes_that_the_plan_names() -> None:
    row_ND = torch.randn(1000, 128, generator=torch.Generator().manual_seed(0))
    projection, variance_D = principal_components(moments_of_rows(row_ND), 32)
    assert project(projection, row_ND[:100]).shape == (100, 32)
    assert unproject(projection, project(projection, row_ND[:100])).shape == (100, 128)
    assert variance_D.shape == (128,)


def test_explained_variance_is_over_all_components() -> None:
    """The record of the experiment divided by the d components it kept, and printed 100 % at every d."""
    shares = [Pca(ratio).fit(LM, PROMPTS, seed=0).explained for ratio in (16.0, 4.0, 2.0, 1.0)]
    assert 0.3 < shares[0] < shares[1] < shares[2] < shares[3] == pytest.approx(1.0)
    white = TableOnly(torch.cat((torch.eye(16), -torch.eye(16))))
    every = [torch.arange(32), torch.arange(32)]
    assert Pca(4.0).fit(white, every, seed=0).explained == pytest.approx(4 / 16)


def test_explained_on_the_rows_it_was_fitted_on_is_the_share_of_others() -> None:
    pca = Pca(4.0).fit(LM, PROMPTS, seed=0)
    assert pca.projection is not None
    assert explained_share(pca.projection, moments_of_prompts(LM, PROMPTS[:6])) == pytest.approx(pca.explained)
    row_ND = all_rows(PROMPTS[6:])
    lost = row_ND - unproject(pca.projection, project(pca.projection, torch.from_numpy(row_ND))).numpy()
    expected = 1 - (lost**2).sum() / ((row_ND - row_ND.mean(0)) ** 2).sum()
    assert explained_share(pca.projection, moments_of_prompts(LM, PROMPTS[6:])) == pytest.approx(expected)


def test_a_hundred_samples_flatter_pca_and_fresh_rows_show_it() -> None:
    """The historic mistake: fitted on 100 samples, applied to 10,000. The control is the share on held-out rows."""
    row_ND = torch.randn(4000, 128, generator=torch.Generator().manual_seed(0))
    held_out = moments_of_rows(row_ND[2000:])
    few, many = (principal_components(moments_of_rows(row_ND[:n]), 64) for n in (100, 2000))
    own_few, own_many = (float(v[:64].sum() / v.sum()) for _, v in (few, many))
    assert own_few > 0.9  # of white rows, of which 64 of 128 directions hold one half
    assert explained_share(few[0], held_out) < 0.6
    assert abs(own_many - explained_share(many[0], held_out)) < 0.15 < own_few - explained_share(few[0], held_out)


@pytest.mark.parametrize(("prompts", "used"), [(2, 1), (12, 6), (13, 6), (10_000, 5000), (10**6, 5000)])
def test_pca_takes_half_of_the_prompts_and_at_most_5000(prompts: int, used: int) -> None:
    assert projection_sample(prompts) == used


def test_one_prompt_is_too_few() -> None:
    with pytest.raises(ValueError, match="2 or more"):
        Pca(2.0).fit(LM, PROMPTS[:1], seed=0)


def test_no_other_projection_of_its_rows_loses_less_than_pca() -> None:
    moments = moments_of_prompts(LM, PROMPTS)
    best, _ = principal_components(moments, 4)
    for seed in range(20):
        other = Projection(moments.mean_D, random_basis(16, 4, seed))
        assert explained_share(other, moments) < explained_share(best, moments)


# --- random directions --------------------------------------------------------------------------------------------


@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 10**6))
def test_random_directions_are_orthonormal_and_a_function_of_the_seed(first: int, second: int, seed: int) -> None:
    dimension, width = max(first, second), min(first, second)
    basis_Dd = random_basis(dimension, width, seed)
    torch.testing.assert_close(basis_Dd.T @ basis_Dd, torch.eye(width, dtype=torch.float64))
    assert torch.equal(basis_Dd, random_basis(dimension, width, seed))


def test_random_directions_favour_no_side() -> None:
    """QR alone leaves R's signs to the algorithm, and Q's first entries then lie on one side."""
    corner = torch.stack([random_basis(3, 2, seed)[0] for seed in range(400)])
    assert (corner.mean(0).abs() < 3 * (1 / 3) ** 0.5 / 400**0.5).all()


def test_random_directions_keep_d_over_all_of_white_rows() -> None:
    white = moments_of_rows(torch.cat((torch.eye(16), -torch.eye(16))))
    projection = Projection(white.mean_D, random_basis(16, 4, 0))
    assert explained_share(projection, white) == pytest.approx(4 / 16)


# --- the linear inverse -------------------------------------------------------------------------------------------


def test_the_inverse_is_least_squares_on_all_token_rows() -> None:
    fitted = LinearInverse(RandomOrthogonal(4.0)).fit(LM, PROMPTS, seed=3)
    assert fitted.inner.projection is not None
    assert fitted.inverse is not None
    row_ND = all_rows(PROMPTS)
    latent_Nd = project(fitted.inner.projection, torch.from_numpy(row_ND)).numpy()
    design = np.column_stack((latent_Nd, np.ones(len(row_ND))))
    expected = np.linalg.lstsq(design, row_ND, rcond=None)[0]
    np.testing.assert_allclose(fitted.inverse.weight_dD, expected[:-1], atol=1e-10)
    np.testing.assert_allclose(fitted.inverse.bias_D, expected[-1], atol=1e-10)


def test_the_inverse_of_pca_on_its_own_rows_is_its_transpose() -> None:
    moments = moments_of_prompts(LM, PROMPTS)
    projection, _ = principal_components(moments, 4)
    inverse = least_squares_inverse(projection, moments)
    torch.testing.assert_close(inverse.weight_dD, projection.basis_Dd.T)
    torch.testing.assert_close(inverse.bias_D, moments.mean_D)


def test_the_inverse_of_orthogonal_directions_of_white_rows_is_their_transpose() -> None:
    white = moments_of_rows(torch.cat((torch.eye(16), -torch.eye(16))))
    basis_Dd = random_basis(16, 4, 7)
    weight_dD = least_squares_inverse(Projection(white.mean_D, basis_Dd), white).weight_dD
    torch.testing.assert_close(weight_dD, basis_Dd.T)


@given(st.integers(0, 10**6), st.floats(1e-4, 1.0))
def test_no_other_linear_receiver_is_better(seed: int, size: float) -> None:
    moments = moments_of_prompts(LM, PROMPTS)
    projection = Projection(moments.mean_D, random_basis(16, 4, seed))
    weight_dD, bias_D = least_squares_inverse(projection, moments)
    row_ND = torch.from_numpy(all_rows(PROMPTS))
    latent_Nd = project(projection, row_ND)
    generator = torch.Generator().manual_seed(seed + 1)
    other_dD, other_D = (
        t + size * torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in (weight_dD, bias_D)
    )
    best = (latent_Nd @ weight_dD + bias_D - row_ND).square().mean()
    transpose = (unproject(projection, latent_Nd) - row_ND).square().mean()
    assert best < (latent_Nd @ other_dD + other_D - row_ND).square().mean()
    assert best < transpose


def test_ridge_shrinks_and_directions_without_variance_carry_nothing() -> None:
    moments = moments_of_prompts(LM, PROMPTS)
    projection = Projection(moments.mean_D, random_basis(16, 4, 0))
    sizes = [float(least_squares_inverse(projection, moments, ridge).weight_dD.norm()) for ridge in (0.0, 0.1, 10.0)]
    assert sizes[0] > sizes[1] > sizes[2]
    flat = moments_of_rows(torch.cat((torch.eye(8), -torch.eye(8))) @ torch.eye(8, 16))  # half of the axes are empty
    weight_dD, _ = least_squares_inverse(Projection(flat.mean_D, torch.eye(16, dtype=torch.float64)[:, 6:10]), flat)
    torch.testing.assert_close(
        weight_dD, torch.eye(16, dtype=torch.float64)[6:10] * torch.tensor([[1.0], [1], [0], [0]])
    )
    with pytest.raises(ValueError, match="ridge=-1"):
        LinearInverse(Pca(2.0), ridge=-1)


# --- the ratio, files, bad input ----------------------------------------------------------------------------------


def test_a_ratio_is_honoured_or_refused_in_one_line() -> None:
    assert [row_width(576, ratio) for ratio in (1, 2, 8, 72, 576)] == [576, 288, 72, 8, 1]
    for ratio in (0.5, 5, 7.5, 577, math.inf, math.nan):
        with pytest.raises(ValueError, match=r"not divide rows of 576 numbers; allowed: 1, 2, 3.*576, or 576 over"):
            row_width(576, ratio)
    for ratio, nearest, width in ((5, 4.8, 120), (1.1, 1.125, 512), (1.45, 1.44, 400), (577, 576, 1)):
        with pytest.raises(ValueError, match=rf"the nearest is {nearest} \(576 / {width}\)$"):
            row_width(576, ratio)
        assert row_width(576, nearest) == width, "what is named is taken"
    assert [vector_count(tokens, 4) for tokens in (4, 7, 8, 100)] == [1, 1, 2, 25]
    for tokens, ratio in ((3, 4), (3, 0.5), (3, math.nan)):
        with pytest.raises(ValueError, match="cannot be"):
            vector_count(tokens, ratio)
    with pytest.raises(ValueError, match="ratio 3"):
        Pca(3.0).fit(LM, PROMPTS, seed=0)


@pytest.mark.parametrize("made_of", [Pca(4.0), RandomOrthogonal(4.0), LinearInverse(RandomOrthogonal(2.0))])
def test_a_file_holds_all_of_it(made_of, tmp_path) -> None:
    fitted = made_of.fit(LM, PROMPTS, seed=5)
    fitted.save(tmp_path / "one.safetensors")
    for again in (type(made_of).load(tmp_path / "one.safetensors"), load_compressor(tmp_path / "one.safetensors")):
        assert torch.equal(made(again, PROMPTS[2]), made(fitted, PROMPTS[2]))
        assert (again.name, again.ratio) == (fitted.name, fitted.ratio)
    fitted.save(tmp_path / "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_files_of_something_else_are_one_line(tmp_path) -> None:
    Pca(4.0).fit(LM, PROMPTS, seed=0).save(tmp_path / "pca.safetensors")
    with pytest.raises(ValueError, match="of kind 'pca', wanted 'random_orthogonal'"):
        RandomOrthogonal.load(tmp_path / "pca.safetensors")
    (tmp_path / "torn.safetensors").write_bytes((tmp_path / "pca.safetensors").read_bytes()[:100])
    for name in ("torn.safetensors", "missing.safetensors"):
        with pytest.raises(ValueError, match="holds no compressor"):
            load_compressor(tmp_path / name)


def test_bad_input_is_one_line() -> None:
    pca = Pca(4.0).fit(LM, PROMPTS, seed=0)
    with pytest.raises(ValueError, match="no token to compress"):
        pca.compress(LM, torch.tensor([], dtype=torch.int64))
    with pytest.raises(ValueError, match="table of 60 rows"):
        pca.compress(LM, torch.tensor([60]))
    with pytest.raises(ValueError, match="one axis of integers"):
        pca.compress(LM, torch.tensor([[1]]))
    with pytest.raises(ValueError, match="is not fitted"):
        Pca(4.0).compress(LM, PROMPTS[0])
    with pytest.raises(ValueError, match="fit it on this model"):
        pca.compress(planted_model(width=8), PROMPTS[0])
    with pytest.raises(ValueError, match="allowed: float32, float16"):
        Pca(4.0, wire="int8").fit(LM, PROMPTS, seed=0).compress(LM, PROMPTS[0])
    with pytest.raises(ValueError, match="not finite as float16"):
        Pca(4.0, wire="float16").fit(huge := TableOnly(LM.table_VD * 1e6), PROMPTS, seed=0).compress(huge, PROMPTS[0])
