"""Rotary positions: scores depend on distances only."""

import pytest
import torch

from inscape.nn.rotary import rotary_angles, rotate


def test_score_depends_on_the_distance_only():
    torch.manual_seed(0)
    query_E, key_E = torch.randn(8), torch.randn(8)
    angles = rotary_angles(16, 8)
    query_TE = rotate(query_E.expand(1, 1, 16, 8), angles)[0, 0]
    key_TE = rotate(key_E.expand(1, 1, 16, 8), angles)[0, 0]
    score_TT = query_TE @ key_TE.T
    for distance in range(-15, 16):
        diagonal = score_TT.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=0)
    assert score_TT[0].std() > 0.1, "the distance must matter"


def test_equals_complex_multiplication():
    torch.manual_seed(0)
    x_BHTE = torch.randn(2, 3, 5, 8)
    pairs = torch.complex(x_BHTE[..., :4], x_BHTE[..., 4:])
    turn_TF = torch.polar(torch.ones(5, 4), torch.arange(5.0)[:, None] * 10_000 ** (-torch.arange(4) / 4))
    expected = torch.view_as_real(pairs * turn_TF)
    torch.testing.assert_close(rotate(x_BHTE, rotary_angles(9, 8)), torch.cat(expected.unbind(-1), -1))


def test_odd_width_is_refused():
    with pytest.raises(ValueError, match="must be even, got 7"):
        rotary_angles(4, 7)
