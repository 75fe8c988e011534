"""Whitening of windows: to white where it can be, harmless where it cannot."""

import numpy as np
import pytest
import torch

from inscape.nn.context_encoder import ContextFeatures, Steps, Whitening, log_lengths

W, D = 4, 6


def contexts(count: int = 6000) -> torch.Tensor:
    """Windows of a stationary process with correlated dimensions of very different scales."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((D, D)) * np.logspace(-3, 3, D)[:, None]
    frames = [rng.standard_normal((count, D))]
    for _ in range(W - 1):
        frames.append(0.9 * frames[-1] + np.sqrt(1 - 0.81) * rng.standard_normal((count, D)))
    return torch.from_numpy((np.stack(frames, 1) @ mixing.T + 5).astype(np.float32))


def batches(context_NWD: torch.Tensor) -> list[Steps]:
    return [Steps(part, part[:, -1]) for part in context_NWD.split(1000)]


def test_a_separable_window_becomes_white():
    whitening = Whitening(W, D)
    context_NWD = contexts()
    whitening.measure(batches(context_NWD))
    white = whitening(context_NWD).flatten(1).double()
    covariance = white.T @ white / len(white)
    torch.testing.assert_close(covariance, torch.eye(W * D, dtype=torch.float64), rtol=0, atol=0.08)
    assert white.mean(0).abs().max() < 0.05


def test_row_zero_is_the_newest_frame_alone():
    whitening = Whitening(W, D)
    context_NWD = contexts()
    whitening.measure(batches(context_NWD))
    other = context_NWD.clone()
    other[:, :-1] = 0
    torch.testing.assert_close(whitening(context_NWD)[:, 0], whitening(other)[:, 0])
    assert not torch.allclose(whitening(context_NWD)[:, 1], whitening(other)[:, 1])


def test_dimensions_and_lags_without_variance_are_not_blown_up():
    for context_NWD in (torch.full((500, W, D), 3.1), contexts(500)[:, -1:].expand(-1, W, -1)):
        whitening = Whitening(W, D)
        context_NWD = context_NWD.clone()
        context_NWD[..., 2] = 7.0
        whitening.measure(batches(context_NWD))
        assert whitening(context_NWD).abs().max() < 100


def test_what_is_not_finite_is_refused():
    context_NWD = contexts(100)
    context_NWD[3, -1, 2] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        Whitening(W, D).measure(batches(context_NWD))
    with pytest.raises(ValueError, match="0 contexts"):
        Whitening(W, D).measure([])


def test_features_have_the_asked_layers():
    features = ContextFeatures(W * D, 16, 3)
    assert [tuple(layer.weight.shape) for layer in features.layers] == [(16, 24), (16, 16), (16, 16)]
    assert features(torch.randn(5, 24)).shape == (5, 16)


def test_log_lengths_marks_what_moves():
    log_length_N, moves_N = log_lengths(torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-5, 0.0]]), 1e-4)
    assert log_length_N.tolist() == pytest.approx([np.log(5), 0, 0])
    assert moves_N.tolist() == [True, False, False]
