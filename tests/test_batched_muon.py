"""Muon in batches takes torch's steps: same matrices, same memory, whatever their shapes."""

import copy
import math

import pytest
import torch
from torch import nn

from inscape.batched_muon import BatchedMuon

SHAPES = [(8, 8), (24, 8), (8, 24), (8, 8), (24, 8), (8, 8), (5, 7), (8, 24)]


def matrices() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("rule", ["match_rms_adamw", "original", None])
def test_it_takes_the_steps_of_torchs(rule: str | None, nesterov: bool):
    ours, theirs = matrices(), matrices()
    settings = {"lr": 0.05, "weight_decay": 0.1, "momentum": 0.9, "nesterov": nesterov, "adjust_lr_fn": rule}
    batched, plain = BatchedMuon(ours, **settings), torch.optim.Muon(theirs, **settings)
    for step in range(4):
        generator = torch.Generator().manual_seed(step)
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        batched.step()
        plain.step()
        for shape, a, b, start in zip(SHAPES, ours, theirs, matrices(), strict=True):
            assert (b - start).abs().max() > 1e-3  # it moves
            torch.testing.assert_close(a, b, atol=2e-3 * 0.05 * (1 + step), rtol=0, msg=f"{shape} in step {step}")
            memory = (optimizer.state[p]["momentum_buffer"] for optimizer, p in ((batched, a), (plain, b)))
            torch.testing.assert_close(*memory)


def test_the_memory_of_either_continues_the_other():
    ours, theirs = matrices(), matrices()
    batched, plain = BatchedMuon(ours, lr=0.02), torch.optim.Muon(theirs, lr=0.02)
    for p in (*ours, *theirs):
        p.grad = torch.full_like(p, 0.3) + torch.arange(p.numel()).view(p.shape).sin()
    plain.step()
    batched.load_state_dict(copy.deepcopy(plain.state_dict()))
    with torch.no_grad():
        for a, b in zip(ours, theirs, strict=True):
            a.copy_(b)
    batched.step()
    plain.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=0)


def test_a_matrix_without_a_gradient_stays_as_it_is():
    ours = matrices()
    optimizer = BatchedMuon(ours, lr=0.1, weight_decay=0.5)
    ours[0].grad = torch.ones_like(ours[0])
    before = [p.detach().clone() for p in ours]
    optimizer.step()
    assert not torch.equal(ours[0], before[0])
    assert all(torch.equal(p, old) for p, old in zip(ours[1:], before[1:], strict=True))
    assert not any(len(optimizer.state[p]) for p in ours[1:])


def test_a_gradient_of_nothing_moves_nothing_but_by_decay():
    p = nn.Parameter(torch.ones(4, 6))
    p.grad = torch.zeros(4, 6)
    BatchedMuon([p], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(p.detach(), torch.full((4, 6), 1 - 0.05))
    assert math.isfinite(float(p.detach().sum()))
