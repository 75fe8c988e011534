"""Worlds of latents whose variance ratio is known in closed form, to test the statistics and the gate against.

All worlds share one construction. An utterance says one of 2^bits codes z, which stands as +-1 in its first dimensions
(bit j at scale 1 - j / 10, so that principal axes are the bits; then a voice) and is constant in time, so a context of
any length and lag shows it. The other dimensions walk, and their steps are the targets:

    x[t] = x[t-1] + STEP (b(z, speaker) + sqrt(1 - explained) e_t),    e_t ~ N(0, 1) iid.

CODE is so much larger than STEP that no clustering can see where a walk has got to. That matters: a cluster that sees
it holds compact pieces of single walks, whose steps then do not sum like independent ones even if nothing predicts
them. b has in every dimension one sign pattern over the codes, a Walsh function w_m(z) = (-1)^popcount(z & m), m != 0,
and every speaker says every code equally often, so b has mean 0 and exactly the variance that is stated, and distinct
patterns are uncorrelated. Clusters that tell the codes apart leave just the variance that codes do not explain. Code
dimensions never step, so they add nothing. Energies are |N(0, 1)|, independent of everything.

Legend: T frames, D dimensions (code, voice, then walks).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from inscape.stats.context_windows import EVAL, TRAIN, Utterance, Utterances

__all__ = ["PlantedSize", "PlantedWorld", "no_rule", "shared_rule", "speaker_rule"]

CODE = 1e7  # float32 holds it exactly, and its last digit is larger than a whole walk
STEP = 1e-4
MAX_FRAMES = 1000


@dataclass(frozen=True)
class PlantedSize:
    """How large a world is."""

    train_speakers: int = 12
    eval_speakers: int = 4
    repeats: int = 1  # times each speaker says each code
    bits: int = 3
    frames: int = 120
    walks: int = 8  # dimensions that step

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 5 or min(self.walks, self.repeats, self.frames) < 1 or self.frames > MAX_FRAMES:
            raise ValueError(
                f"a planted world wants 1 to 5 bits, walks and repeats of 1 or more and 1 to {MAX_FRAMES} frames, "
                f"given {self.bits}, {self.walks}, {self.repeats} and {self.frames}"
            )
        if self.train_speakers < 2 or self.train_speakers % 2 or self.eval_speakers < 0 or self.eval_speakers % 2:
            raise ValueError(
                f"a planted world wants even numbers of speakers, so that voices are balanced, given "
                f"{self.train_speakers} and {self.eval_speakers}"
            )

    @property
    def dimension(self) -> int:
        """D of its latents."""
        return self.bits + 1 + self.walks


class PlantedWorld(NamedTuple):
    """A corpus and what must be measured on it, at every lag and in every slice, by any scheme that sees the code."""

    utterances: Utterances
    vr_train: float
    vr_eval: float
    vr_eval_with_train_means: float


def shared_rule(explained: float, *, size: PlantedSize | None = None, seed: int = 0) -> PlantedWorld:
    """A world that must pass: the code tells the mean step, the same for all speakers.

    b_d(z) = sqrt(explained) w_d(z): codes explain `explained` of a target's variance 1. VR = 1 - explained on train and
    eval, with own and with TRAIN's means, inside every speaker and slice. The control is 1.
    """
    return _world(explained, 0.0, size or PlantedSize(), seed)


def no_rule(*, size: PlantedSize | None = None, seed: int = 0) -> PlantedWorld:
    """An empty world: steps are independent of all that came before them. VR_adj = 1 for any clusters of contexts."""
    return _world(0.0, 0.0, size or PlantedSize(), seed)


def speaker_rule(
    shared: float = 0.45, own: float = 0.2, *, size: PlantedSize | None = None, seed: int = 0
) -> PlantedWorld:
    """A world that must fail only across speakers: part of the rule holds for the voices it was found on.

    A voice v = +-1 stands in the context. Train speakers step by b_d = sqrt(shared) w_d(z) + v sqrt(own) w'_d(z), so
    clusters of (z, v) explain shared + own of the variance 1: VR_train = 1 - shared - own = 0.35. For eval speakers v
    is replaced by a fair coin at every frame: VR_eval = 1 - shared = 0.55, below 0.6 too but 57 % worse. TRAIN's means
    are then off by (+-1 - v) sqrt(own), 2 own on average of the square: 1 - shared - own + 2 own = 0.75.
    """
    return _world(shared, own, size or PlantedSize(), seed)


def _world(shared: float, own: float, size: PlantedSize, seed: int) -> PlantedWorld:
    if min(shared, own) < 0 or shared + own > 1:
        raise ValueError(f"shares of a variance want 0 <= shared, own and shared + own <= 1, given {shared} and {own}")
    noise = np.sqrt(1 - shared - own)

    def utterances() -> Iterator[Utterance]:
        rng = np.random.default_rng(seed)
        for speaker in range(size.train_speakers + size.eval_speakers):
            train = speaker < size.train_speakers
            index = speaker if train else speaker - size.train_speakers
            split, voice = (TRAIN if train else EVAL), 1 - 2 * (index % 2)
            for code in np.tile(np.arange(2**size.bits), size.repeats):
                sign_T = np.full(size.frames, voice) if train else rng.choice([-1, 1], size.frames)
                step_TD = noise * rng.standard_normal((size.frames, size.walks)) + np.sqrt(shared) * _walsh(
                    code, size, 0
                )
                step_TD += np.sqrt(own) * sign_T[:, None] * _walsh(code, size, 1)
                code_D = [(1 - j / 10) * (1 - 2 * (int(code) >> j & 1)) for j in range(size.bits)]
                code_D.append(0.5 * voice if own else 0.0)
                latent_TD = np.empty((size.frames, size.dimension), dtype=np.float32)
                latent_TD[:, : size.bits + 1] = CODE * np.array(code_D)
                latent_TD[:, size.bits + 1 :] = STEP * np.cumsum(step_TD, axis=0)
                energy_T = np.abs(rng.standard_normal(size.frames)).astype(np.float32)
                yield Utterance(f"{split}{index:04d}", latent_TD, energy_T, split)

    return PlantedWorld(utterances, 1 - shared - own, 1 - shared, 1 - shared + own)


def _walsh(code: int, size: PlantedSize, shift: int) -> np.ndarray:
    """The sign pattern of every walk at one code; patterns of another shift are uncorrelated with it."""
    masks = [(d + shift) % (2**size.bits - 1) + 1 for d in range(size.walks)]
    return np.array([1.0 - 2 * ((int(code) & mask).bit_count() % 2) for mask in masks])
