"""A bounded memory of latents: what the diffusion prior of P6 is trained on, while or after an encoder makes them.

Kept is a uniform sample of all that was ever offered (reservoir sampling, Vitter 1985, algorithm R): whatever comes
n-th is kept with probability capacity / n, in the place of any one held. Late latents are no likelier than early ones,
so the prior does not chase an encoder's last steps.

What is held is a function of the seed and the order of the offers, however they were cut into batches: draw n is word n
of a counter-based generator, so beside the latents the number of offers is all the state there is. A batch depends on
its number and on what is held; who trains from a buffer that still changes saves it with every checkpoint.

Legend: N latents held, B latents of a batch, C channels, H height, W width.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from inscape.data.epochs import dice, drawn, positions_of

__all__ = ["ReplayBuffer"]

UNFINISHED = ".unfinished"
# What numpy raises for files that are missing, cut short, damaged, or something else.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error)


@final
class ReplayBuffer:
    """At most `capacity` latents of one shape, on the CPU, as float16: relative errors of at most 2^-11.

    Memory for all is set aside at once; 10 000 latents of 6 x 32 x 32 take 123 MB. ValueError for a capacity or size
    below 1, or a seed below 0.
    """

    def __init__(self, capacity: int, shape_CHW: tuple[int, int, int], *, seed: int) -> None:
        if capacity < 1 or len(shape_CHW) != 3 or min(shape_CHW) < 1 or not 0 <= seed < 2**63:
            raise ValueError(
                f"replay buffer: capacity={capacity}, shape={tuple(shape_CHW)}, seed={seed}; "
                "allowed: 1 or more, three sizes of 1 or more, 0 to 2^63 - 1"
            )
        self.capacity, self.shape_CHW, self.seed = capacity, tuple(shape_CHW), seed
        self.offered = 0  # latents, since the beginning
        self._latent_NCHW = np.zeros((capacity, *shape_CHW), np.float16)

    def __len__(self) -> int:
        return min(self.offered, self.capacity)

    def held(self) -> Tensor:
        """A copy of all that is held, (N, C, H, W), float32: to measure a normaliser on."""
        return torch.from_numpy(self._latent_NCHW[: len(self)].astype(np.float32))

    def offer(self, latent_BCHW: Tensor) -> None:
        """Show latents to the buffer, in order. ValueError for another shape or a value that float16 cannot hold."""
        if tuple(latent_BCHW.shape[1:]) != self.shape_CHW:
            raise ValueError(
                f"latents of shape {tuple(latent_BCHW.shape)} offered; this replay buffer holds "
                f"(B, {', '.join(map(str, self.shape_CHW))})"
            )
        half_BCHW = latent_BCHW.detach().to("cpu", torch.float16)
        if not half_BCHW.isfinite().all():
            raise ValueError("latents offered to the replay buffer are not finite, or beyond float16's 65504")
        if len(half_BCHW) == 0:
            return
        order_B = self.offered + np.arange(len(half_BCHW))  # how many came before each
        place_B = (dice(self.seed, order_B) % (order_B + 1).astype(np.uint64)).astype(np.int64)
        place_B = np.where(order_B < self.capacity, order_B, place_B)
        kept_B = place_B < self.capacity
        # Of two that go to one place the later one stays, as numpy promises for repeated indices.
        self._latent_NCHW[place_B[kept_B]] = half_BCHW.numpy()[kept_B]
        self.offered += len(half_BCHW)

    def batch(self, i: int, size: int, rank: int = 0, world: int = 1) -> Tensor:
        """Batch i of epochs over what is held, float32: the rank's share of `size` latents. ValueError if empty."""
        if len(self) == 0:
            raise ValueError("the replay buffer is empty: offer latents before taking a batch")
        if i < 0:
            raise ValueError(f"batch {i} of the replay buffer; batches are counted from 0")
        index_B = drawn(self.seed, len(self), positions_of(i, rank, world, size))
        return torch.from_numpy(self._latent_NCHW[index_B].astype(np.float32))

    def save(self, path: Path) -> None:
        """Write an npz file, under a temporary name until it is whole; equal buffers give equal bytes."""
        unfinished = path.with_name(path.name + UNFINISHED)
        counts = {"capacity": self.capacity, "offered": self.offered, "seed": self.seed}
        arrays = {name: np.array(count, np.int64) for name, count in counts.items()}
        try:
            with unfinished.open("wb") as file:
                np.savez(file, allow_pickle=False, latent_NCHW=self._latent_NCHW[: len(self)], **arrays)
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: Path) -> ReplayBuffer:
        """The buffer that was saved; what is offered next is treated as if it had never been away. ValueError if the
        file is missing, damaged, or something else."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:  # else damaged ones stay open
                capacity, offered, seed = (int(stored[name]) for name in ("capacity", "offered", "seed"))
                held_NCHW = stored["latent_NCHW"]
            buffer = cls(capacity, held_NCHW.shape[1:], seed=seed)
            buffer.offered = offered
            if held_NCHW.dtype != np.float16 or len(held_NCHW) != len(buffer):
                raise ValueError(f"{len(held_NCHW)} latents of {held_NCHW.dtype}, wanted {len(buffer)} of float16")
            buffer._latent_NCHW[: len(buffer)] = held_NCHW
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            EOFError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} is not a whole replay buffer ({reason}); fill a new one") from None
        return buffer
