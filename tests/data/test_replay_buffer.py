"""The replay buffer: who stays, that nothing but the seed and the order decides it, and the way to disk and back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from inscape.data.replay_buffer import ReplayBuffer

SHAPE = (1, 1, 1)


def numbered(first: int, count: int) -> Tensor:
    """Latents that are their own number; float16 holds whole numbers up to 2048."""
    return torch.arange(first, first + count).float().reshape(-1, 1, 1, 1)


def kept(buffer: ReplayBuffer) -> list[int]:
    return buffer.held().flatten().int().tolist()


def filled(capacity: int, cuts: list[int], seed: int) -> ReplayBuffer:
    buffer = ReplayBuffer(capacity, SHAPE, seed=seed)
    for size in cuts:
        buffer.offer(numbered(buffer.offered, size))
    return buffer


def chi_square(count_N: np.ndarray, worlds: int, share: float) -> float:
    """The p-value of counts of inclusion, for samples without replacement: their sum is fixed, so N - 1 degrees."""
    items = len(count_N)
    variance = worlds * share * (1 - share) * items / (items - 1)
    return float(stats.chi2.sf(((count_N - worlds * share) ** 2).sum() / variance, items - 1))


def test_all_are_kept_until_it_is_full():
    buffer = filled(10, [4, 6], seed=0)
    assert kept(buffer) == list(range(10))
    buffer.offer(numbered(10, 30))
    assert len(buffer) == 10
    assert len(set(kept(buffer))) == 10
    assert max(kept(buffer)) >= 10


@pytest.mark.parametrize(("capacity", "items"), [(12, 60), (1, 4)])
def test_every_latent_is_kept_with_equal_probability(capacity: int, items: int):
    worlds = 600
    count_N = np.zeros(items)
    for seed in range(worlds):
        np.add.at(count_N, kept(filled(capacity, [items], seed)), 1)
    assert count_N.sum() == worlds * capacity
    assert 0.001 < chi_square(count_N, worlds, capacity / items) < 0.999
    # The same check sees a buffer that favours the last it was shown: one of them more in every tenth world.
    count_N[-1] += worlds // 10
    count_N[0] -= worlds // 10
    assert chi_square(count_N, worlds, capacity / items) < 1e-6


@given(cuts=st.lists(st.integers(0, 7), max_size=12), capacity=st.integers(1, 9), seed=st.integers(0, 2**63 - 1))
def test_how_the_offers_are_cut_makes_no_difference(cuts: list[int], capacity: int, seed: int):
    whole, cut = filled(capacity, [sum(cuts)], seed), filled(capacity, cuts, seed)
    assert kept(whole) == kept(cut)
    assert len(whole) == min(capacity, sum(cuts))


def test_another_seed_keeps_others():
    assert len({tuple(kept(filled(5, [200], seed))) for seed in range(10)}) == 10


def test_batches_are_epochs_and_functions_of_their_number():
    buffer = filled(12, [40], seed=3)
    epoch = torch.cat([buffer.batch(i, 4) for i in range(3)])
    assert sorted(epoch.flatten().int().tolist()) == sorted(kept(buffer))
    assert torch.equal(buffer.batch(1, 4), epoch[4:8])
    assert torch.equal(torch.cat([buffer.batch(2, 4, rank, 2) for rank in (0, 1)]), epoch[8:])
    assert not torch.equal(buffer.batch(3, 4), buffer.batch(0, 4))
    assert buffer.batch(0, 30).shape == (30, 1, 1, 1)


def test_values_are_rounded_to_half_precision_and_given_back_as_float32():
    latent_BCHW = torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    buffer = ReplayBuffer(8, (2, 4, 4), seed=0)
    buffer.offer(latent_BCHW)
    held = buffer.held()
    assert held.dtype == torch.float32
    assert not held.requires_grad
    assert ((held - latent_BCHW).abs() <= latent_BCHW.abs() * 2**-11 + 2**-25).all()
    held.zero_()
    assert buffer.held().any(), "what is given out is a copy"


@pytest.mark.parametrize("before", [0, 3, 50])
def test_a_buffer_that_was_away_goes_on_with_the_same_bytes(tmp_path: Path, before: int):
    unbroken = filled(7, [before], seed=5)
    unbroken.save(tmp_path / "before.npz")
    resumed = ReplayBuffer.load(tmp_path / "before.npz")
    for buffer, name in ((unbroken, "a.npz"), (resumed, "b.npz")):
        buffer.offer(numbered(before, 25))
        buffer.save(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert torch.equal(unbroken.batch(4, 3), resumed.batch(4, 3))
    assert {p.name for p in tmp_path.iterdir()} == {"before.npz", "a.npz", "b.npz"}


def test_a_file_that_is_no_buffer_is_refused(tmp_path: Path):
    whole, path = tmp_path / "whole.npz", tmp_path / "broken.npz"
    filled(300, [300], seed=0).save(whole)
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "few.npz", capacity=4, offered=9, seed=0, latent_NCHW=np.zeros((2, 1, 1, 1), np.float16))
    content = whole.read_bytes()
    damaged = bytearray(content)
    damaged[len(content) // 4] ^= 255
    broken = [b"", b"text", content[: len(content) // 2], bytes(damaged)]
    broken += [(tmp_path / name).read_bytes() for name in ("other.npz", "few.npz")]
    for wrong in broken:
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=r"broken.npz is not a whole replay buffer \(.+\); fill a new one"):
            ReplayBuffer.load(path)
    with pytest.raises(ValueError, match="is not a whole replay buffer"):
        ReplayBuffer.load(tmp_path / "missing.npz")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "buffer.npz"
    filled(3, [3], seed=0).save(path)
    content = path.read_bytes()

    def full(*_args: object, **_given: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        filled(3, [9], seed=0).save(path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_held_is_refused():
    buffer = ReplayBuffer(4, (2, 4, 4), seed=0)
    with pytest.raises(ValueError, match=r"shape \(1, 2, 4, 5\) offered; this replay buffer holds \(B, 2, 4, 4\)"):
        buffer.offer(torch.zeros(1, 2, 4, 5))
    for bad in (float("nan"), 1e6):
        with pytest.raises(ValueError, match="not finite, or beyond"):
            buffer.offer(torch.full((1, 2, 4, 4), bad))
    assert buffer.offered == 0
    with pytest.raises(ValueError, match="empty: offer latents"):
        buffer.batch(0, 4)
    buffer.offer(torch.zeros(1, 2, 4, 4))
    with pytest.raises(ValueError, match="counted from 0"):
        buffer.batch(-1, 4)
    for capacity, shape, seed in ((0, (2, 4, 4), 0), (4, (2, 0, 4), 0), (4, (2, 4, 4), -1)):
        with pytest.raises(ValueError, match="allowed: 1 or more, three sizes of 1 or more, 0 to"):
            ReplayBuffer(capacity, shape, seed=seed)
