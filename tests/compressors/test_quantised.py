"""Codes in real bytes, and no number moved by more than half a step."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from table_only_model import planted_model, planted_prompts

from inscape.compressors.controls import EmptyContext, Replay
from inscape.compressors.interface import LATENT, Compressed
from inscape.compressors.ledger import latent_bits
from inscape.compressors.pca import Pca
from inscape.compressors.quantised import LARGEST, Quantised, dequantise, numbers_sent, quantise

LM, PROMPTS = planted_model(), planted_prompts()
NUMBERS = st.floats(-4e5, 4e5, width=32) | st.sampled_from([0.0, -0.0, 1e-9, -6e-8, 1e-38, 65504.0])
VECTORS = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=NUMBERS)


@given(VECTORS, st.sampled_from([4, 8]), st.integers(0, 5))
def test_no_number_moves_by_more_than_half_a_step(vector_Nd: np.ndarray, bits: int, group: int) -> None:
    codes = quantise(torch.from_numpy(vector_Nd), bits, group)
    again_Nd = dequantise(codes, bits, group).double().numpy()
    step_Nd = np.repeat(codes.scale_NG.double().numpy(), group or vector_Nd.shape[1], axis=1)[:, : vector_Nd.shape[1]]
    assert again_Nd.shape == vector_Nd.shape
    assert (np.abs(again_Nd - vector_Nd) <= step_Nd / 2).all()


@given(VECTORS, st.sampled_from([4, 8]), st.integers(0, 5))
def test_what_lies_in_memory_is_what_the_ledger_counts(vector_Nd: np.ndarray, bits: int, group: int) -> None:
    codes = quantise(torch.from_numpy(vector_Nd), bits, group)
    size = 8 * sum(tensor.numel() * tensor.element_size() for tensor in codes)
    assert size == latent_bits(*vector_Nd.shape, f"int{bits}", group)


@given(VECTORS, st.sampled_from([4, 8]))
def test_quantising_twice_changes_nothing_but_the_scale(vector_Nd: np.ndarray, bits: int) -> None:
    once_Nd = dequantise(quantise(torch.from_numpy(vector_Nd), bits), bits)
    twice_Nd = dequantise(quantise(once_Nd, bits), bits)
    step_N = quantise(once_Nd, bits).scale_NG.float()
    assert ((twice_Nd - once_Nd).abs() <= step_N / 2).all()


@pytest.mark.parametrize(("bits", "largest"), [(8, 127), (4, 7)])
def test_whole_numbers_come_back_exactly(bits: int, largest: int) -> None:
    vector = torch.arange(-largest, largest + 1).float()[None]
    codes = quantise(vector * 0.25, bits)
    assert float(codes.scale_NG) == 0.25
    assert torch.equal(dequantise(codes, bits), vector * 0.25)
    assert LARGEST[bits] == largest


def test_two_numbers_share_a_byte_and_an_odd_one_is_found_again() -> None:
    for width in (1, 2, 3, 8, 9):
        codes = quantise(-torch.ones(3, width), 4)
        assert codes.packed_NB.shape == (3, (width + 1) // 2)
        assert torch.allclose(dequantise(codes, 4), -torch.ones(3, width), rtol=1e-3)


@pytest.mark.parametrize(("bits", "width"), [(8, 6), (8, 7), (4, 6), (4, 7)])
def test_numbers_are_counted_and_not_the_bytes_that_hold_them(bits: int, width: int) -> None:
    codes = quantise(torch.randn(5, width), bits)
    sent = Compressed({"codes": codes.packed_NB, "scales": codes.scale_NG}, 5, 5)
    assert numbers_sent(Quantised(Pca(1.0), bits), sent) == 5 * (width + 1)


def test_a_scale_is_rounded_up_so_that_nothing_is_clipped() -> None:
    """Rounded to nearest, half of all scales are too small, and the largest numbers would be cut."""
    vector_Nd = torch.rand(200, 4, generator=torch.Generator().manual_seed(0)) + 0.5
    scale_N = quantise(vector_Nd, 8).scale_NG[:, 0].double()
    wanted_N = vector_Nd.double().amax(1) / 127
    assert (scale_N >= wanted_N).all()
    assert (scale_N.half().double() - wanted_N).max() < 1e-3 * wanted_N.max()


def test_it_wraps_any_sender_of_vectors() -> None:
    pca = Pca(2.0).fit(LM, PROMPTS, seed=0)
    plain_TD = pca.inject(LM, pca.compress(LM, PROMPTS[0])).rows_MD
    errors = []
    for bits in (8, 4):
        small = Quantised(pca, bits)
        sent = small.compress(LM, PROMPTS[0])
        assert LATENT not in sent.tensors
        assert small.bits(sent) == latent_bits(len(PROMPTS[0]), 8, f"int{bits}")
        errors.append(float((small.inject(LM, sent).rows_MD - plain_TD).norm() / plain_TD.norm()))
        assert (small.ratio, small.needs_context_only, small.name) == (2.0, False, f"pca, int{bits}")
    assert 0 < errors[0] < 0.02 < errors[1] < 0.2
    rows_TD = Quantised(Replay()).inject(LM, Quantised(Replay()).compress(LM, PROMPTS[0])).rows_MD
    torch.testing.assert_close(rows_TD, LM.table_VD[PROMPTS[0]], atol=0.01, rtol=0)
    assert Quantised(Pca(2.0)).fit(LM, PROMPTS, seed=0).inner.projection is not None


def test_bad_input_is_one_line() -> None:
    with pytest.raises(ValueError, match="number_bits=2 is not known; allowed: 8, 4"):
        Quantised(Replay(), 2)
    with pytest.raises(ValueError, match="group=-1"):
        Quantised(Replay(), group=-1)
    with pytest.raises(ValueError, match="sends no vectors"):
        Quantised(EmptyContext()).compress(LM, PROMPTS[0])
    with pytest.raises(ValueError, match="not finite"):
        quantise(torch.tensor([[1.0, float("nan")]]), 8)
    assert torch.isfinite(dequantise(quantise(torch.tensor([[458_417.0]]), 4), 4)).all()  # the largest scale there is
    with pytest.raises(ValueError, match="too large for a float16 scale"):
        quantise(torch.tensor([[1e9]]), 8)
