"""Dropout: the right share, the right scale, independent, and repeatable."""

import pytest
import torch

from inscape.nn.dropout import dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("rate", "rounded"), [(0.001, 66 / 65536), (0.1, 26 / 256), (0.2, 51 / 256), (0.5, 0.5), (0.9, 230 / 256)]
)
def test_share_and_scale(rate: float, rounded: float, dtype: torch.dtype):
    torch.manual_seed(0)
    count = 1_000_001  # not a multiple of the draws that one number holds
    out = dropout(torch.ones(count, dtype=dtype), rate)
    rate = rounded
    dropped = int((out == 0).sum())
    assert abs(dropped - rate * count) < 5 * (count * rate * (1 - rate)) ** 0.5
    kept = out[out != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - rate)), rtol=1e-2, atol=0)
    if dtype == torch.float32:
        torch.testing.assert_close(out.mean(), torch.ones(()), rtol=0, atol=5 * (rate / (1 - rate) / count) ** 0.5)


def test_neighbours_are_independent():
    torch.manual_seed(0)
    dropped = (dropout(torch.ones(1_000_000), 0.5) == 0).double() - 0.5
    for lag in (1, 2, 3, 4, 8, 64):
        assert abs((dropped[lag:] * dropped[:-lag]).mean().item()) < 5 * 0.25 / 1000


def test_gradient_flows_through_what_was_kept():
    torch.manual_seed(0)
    x = torch.randn(64, 64, requires_grad=True)
    out = dropout(x, 0.25)
    out.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad * x.detach(), out.detach())


def test_seed_repeats_it_and_rate_zero_is_the_identity():
    x = torch.randn(1000)
    torch.manual_seed(1)
    first = dropout(x, 0.3)
    torch.manual_seed(1)
    assert torch.equal(first, dropout(x, 0.3))
    assert not torch.equal(first, dropout(x, 0.3))
    assert dropout(x, 0.0) is x
