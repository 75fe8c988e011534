"""Windows of consecutive latent frames, drawn from many utterances as a pure function of (seed, step).

Predictors of steps and their rollouts read nothing else. Utterances come from memory or from a store on the disk; only
the windows that are drawn are read.

Legend: N windows, F frames of a window, W context frames, D latent dimensions, T frames of an utterance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, final, overload

import numpy as np
import torch
from torch import Tensor

from inscape.device import step_seed
from inscape.nn.context_encoder import Steps

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Bool, Float, Int

__all__ = [
    "FrameWindows",
    "StepBatches",
    "UtteranceRow",
    "Utterances",
    "UtterancesInMemory",
    "prefetched",
    "step_windows",
    "steps_of",
]


class UtteranceRow(NamedTuple):
    """What is known of an utterance."""

    utterance_id: str
    speaker_id: str
    n_frames: int


class Utterances(Protocol):
    """A corpus of latents, as a store on the disk offers it."""

    @property
    def utterances(self) -> Sequence[Any]:
        """Rows with utterance_id, speaker_id and n_frames."""
        ...

    @property
    def dimension(self) -> int:
        """D."""
        ...

    def latents(self, index: int, /) -> Float[np.ndarray, "T D"]:
        """Latent frames of one utterance."""
        ...


@final
class UtterancesInMemory:
    """Trajectories as a corpus; without `speakers`, each is its own speaker. ValueError unless all are (T, D)."""

    def __init__(self, latents: Sequence[Float[np.ndarray, "T D"]], speakers: Sequence[str] | None = None) -> None:
        if not latents or len({x.shape[1:] for x in latents}) != 1 or latents[0].ndim != 2:
            raise ValueError(f"latents of shapes {[x.shape for x in latents][:5]}: wanted (frames, dimension), one D")
        if speakers is not None and len(speakers) != len(latents):
            raise ValueError(f"{len(speakers)} speakers for {len(latents)} utterances; name one for each")
        self._latents = [np.asarray(x, dtype=np.float32) for x in latents]
        names = speakers or [f"speaker-{i}" for i in range(len(latents))]
        self.utterances = [
            UtteranceRow(f"utterance-{i}", name, len(x)) for i, (x, name) in enumerate(zip(latents, names, strict=True))
        ]

    @property
    def dimension(self) -> int:
        """D."""
        return self._latents[0].shape[1]

    def latents(self, index: int) -> Float[np.ndarray, "T D"]:
        """Latent frames of one utterance."""
        return self._latents[index]


@final
class FrameWindows:
    """Every window of `length` frames in some utterances of a corpus, numbered from 0 to `total` - 1.

    indices: the utterances (all by default); skip: so many windows at the start of each utterance are left out, so that
    windows of different lengths can end on the same frames; span: frames that a step takes, if they are read as steps.
    ValueError if no utterance is long enough.
    """

    def __init__(
        self,
        corpus: Utterances,
        length: int,
        *,
        indices: Sequence[int] | np.ndarray | None = None,
        skip: int = 0,
        span: int = 1,
    ) -> None:
        self.corpus, self.length, self.skip, self.span = corpus, length, skip, span
        self.indices = np.arange(len(corpus.utterances)) if indices is None else np.asarray(indices, dtype=np.int64)
        frames_U = np.array([corpus.utterances[int(i)].n_frames for i in self.indices], dtype=np.int64)
        self._ends_U = np.maximum(frames_U - length + 1 - skip, 0).cumsum()
        if self.total == 0:
            raise ValueError(
                f"none of {len(frames_U)} utterances has {length + skip} frames (the longest has "
                f"{frames_U.max(initial=0)}); give longer ones, or a smaller window, horizon or rollout"
            )

    @property
    def total(self) -> int:
        """How many windows there are."""
        return int(self._ends_U[-1]) if len(self._ends_U) else 0

    def _rows(self, numbers_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The utterance of each window, counted in `indices`, and the number of its first window."""
        row_N = np.searchsorted(self._ends_U, numbers_N, side="right")
        return row_N, np.where(row_N > 0, self._ends_U[np.maximum(row_N - 1, 0)], 0)

    def places(self, numbers_N: Int[np.ndarray, " N"]) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
        """The utterance (its index in the corpus) and the first frame of each window."""
        row_N, first_N = self._rows(numbers_N)
        return self.indices[row_N], numbers_N - first_N + self.skip

    def _apart(self, numbers_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many windows of the same utterance end before each begins, and how many begin after it ends."""
        row_N, first_N = self._rows(numbers_N)
        at_N, count_N = numbers_N - first_N, self._ends_U[row_N] - first_N
        return np.maximum(at_N - self.length + 1, 0), np.maximum(count_N - at_N - self.length, 0)

    def has_elsewhere(self, numbers_N: Int[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
        """Whether the utterance of each window has another one that shares no frame with it."""
        return np.add(*self._apart(numbers_N)) > 0

    def elsewhere(self, numbers_N: Int[np.ndarray, " N"], draw: np.random.Generator) -> Int[np.ndarray, " N"]:
        """For each window another of its utterance, drawn from those that share no frame with it.

        Of the same utterance, since what is constant in a recording, as its level, is told by any of its frames and is
        no knowledge of the sequence. Windows for which `has_elsewhere` is false are a fault of the caller.
        """
        before_N, after_N = self._apart(numbers_N)
        assert np.all(before_N + after_N > 0)
        pick_N = draw.integers(0, before_N + after_N)
        _, first_N = self._rows(numbers_N)
        return np.where(pick_N < before_N, first_N + pick_N, numbers_N + self.length + pick_N - before_N)

    @cached_property
    def with_elsewhere(self) -> Int[np.ndarray, " M"]:
        """The numbers of all windows that have another elsewhere in their utterance. ValueError if none has."""
        found = np.flatnonzero(self.has_elsewhere(np.arange(self.total)))
        if not len(found):
            raise ValueError(
                f"no utterance holds two windows of {self.length} frames that share none, which the control wants: "
                "give longer ones, or a smaller window"
            )
        return found

    def at(self, numbers_N: Int[np.ndarray, " N"]) -> Float[Tensor, "N F D"]:
        """The windows of these numbers."""
        frames_NFD = np.empty((len(numbers_N), self.length, self.corpus.dimension), dtype=np.float32)
        for row, (utterance, start) in enumerate(zip(*self.places(numbers_N), strict=True)):
            frames_NFD[row] = self.corpus.latents(int(utterance))[start : start + self.length]
        return torch.from_numpy(frames_NFD)

    def draw(self, seed: int, step: int, rank: int, world: int, batch: int) -> Float[Tensor, "N F D"]:
        """The rank's slice of the batch of a step, with replacement; the whole batch does not depend on `world`."""
        numbers = np.random.default_rng(step_seed(seed, step, 0)).integers(0, self.total, batch)
        return self.at(numbers[rank * batch // world : (rank + 1) * batch // world])

    def draw_strange(self, seed: int, step: int, rank: int, world: int, batch: int, window: int) -> Steps:
        """As `draw`, of `with_elsewhere` and as steps: each with the context of another place of its utterance."""
        draw = np.random.default_rng(step_seed(seed, step, 0))
        numbers = self.with_elsewhere[draw.integers(0, len(self.with_elsewhere), batch)]
        others, part = self.elsewhere(numbers, draw), slice(rank * batch // world, (rank + 1) * batch // world)
        return self.strange_steps(numbers[part], others[part], window)

    def strange_steps(self, numbers_N: Int[np.ndarray, " N"], others_N: Int[np.ndarray, " N"], window: int) -> Steps:
        """The steps of some windows with the contexts of others."""
        steps = steps_of(self.at(numbers_N), window, self.span)
        return steps._replace(context_NWD=self.at(others_N)[:, :window])

    def sample(self, count: int, seed: int) -> Int[np.ndarray, " N"]:
        """Numbers of `count` windows (all, if there are fewer) without replacement, in rising order."""
        if count >= self.total:
            return np.arange(self.total)
        return np.sort(np.random.default_rng(seed).choice(self.total, count, replace=False))

    def spread(self, utterances: int, per_utterance: int, seed: int) -> Int[np.ndarray, " N"]:
        """Numbers of `per_utterance` random windows of each of `utterances` random utterances, fewer if there are not
        as many; utterance after utterance.
        """
        rng = np.random.default_rng(seed)
        begins_U = np.concatenate(([0], self._ends_U[:-1]))
        long_enough = np.flatnonzero(self._ends_U > begins_U)
        chosen = np.sort(rng.permutation(long_enough)[:utterances])
        drawn = [
            rng.choice(
                np.arange(int(begins_U[u]), int(self._ends_U[u])),
                min(per_utterance, self._ends_U[u] - begins_U[u]),
                False,
            )
            for u in chosen
        ]
        return np.concatenate(drawn)

    def units(self, numbers_N: Int[np.ndarray, " N"], unit: str) -> np.ndarray:
        """The utterance_id or speaker_id of each window, for unit "utterances" or "speakers"."""
        fields = {"utterances": "utterance_id", "speakers": "speaker_id"}
        if unit not in fields:
            raise ValueError(f"unit={unit!r} is not known; allowed: {', '.join(fields)}")
        names = [getattr(row, fields[unit]) for row in self.corpus.utterances]
        return np.array([names[i] for i in self.places(numbers_N)[0]])


def step_windows(
    corpus: Utterances,
    window: int,
    horizon: int,
    *,
    horizons: Sequence[int] = (),
    span: int = 1,
    indices: Sequence[int] | np.ndarray | None = None,
) -> FrameWindows:
    """Windows of W context frames that end `horizon` frames before the target frame, and the frames up to it.

    The target is the step of `span` frames that ends there, no longer than the horizon: what the context holds is no
    target. The first target of an utterance is frame W - 1 + the greatest of `horizons`, for every horizon the same.
    """
    if window < 1 or horizon < 1:
        raise ValueError(f"window={window}, horizon={horizon}: allowed are 1 or more frames each")
    if not 1 <= span <= horizon:
        raise ValueError(f"span={span} frames with horizon={horizon}: allowed are 1 to the horizon")
    skip = max((horizon, *horizons)) - horizon
    return FrameWindows(corpus, max(window + horizon, 2), indices=indices, skip=skip, span=span)


def steps_of(frames_NFD: Float[Tensor, "N F D"], window: int, span: int = 1) -> Steps:
    """Contexts (the first `window` frames) and steps (the last frame less the one `span` frames before it)."""
    return Steps(frames_NFD[:, :window], frames_NFD[:, -1] - frames_NFD[:, -1 - span])


@final
class StepBatches(Sequence[Steps]):
    """Contexts and steps of some windows, read again at each pass; slices are views."""

    def __init__(
        self, windows: FrameWindows, window: int, parts: Sequence[np.ndarray], strange: Sequence[np.ndarray] | None
    ) -> None:
        self.windows, self.window, self.parts, self.strange = windows, window, parts, strange

    @classmethod
    def of(
        cls,
        windows: FrameWindows,
        window: int,
        numbers_N: Int[np.ndarray, " N"],
        size: int = 1024,
        *,
        strangers: int | None = None,
    ) -> StepBatches:
        """Batches of about `size` windows; two or more, so that halves can check each other.

        strangers: a seed; every step then has the context of another place of its utterance, see `elsewhere`.
        """
        count = max(2, -(-len(numbers_N) // size))
        strange_N = None if strangers is None else windows.elsewhere(numbers_N, np.random.default_rng((strangers, 1)))
        strange = None if strange_N is None else np.array_split(strange_N, count)
        return cls(windows, window, np.array_split(numbers_N, count), strange)

    def __len__(self) -> int:
        return len(self.parts)

    @overload
    def __getitem__(self, index: int) -> Steps: ...

    @overload
    def __getitem__(self, index: slice) -> StepBatches: ...

    def __getitem__(self, index: int | slice) -> Steps | StepBatches:
        if isinstance(index, slice):
            strange = None if self.strange is None else self.strange[index]
            return StepBatches(self.windows, self.window, self.parts[index], strange)
        if self.strange is None:
            return steps_of(self.windows.at(self.parts[index]), self.window, self.windows.span)
        return self.windows.strange_steps(self.parts[index], self.strange[index], self.window)


@contextmanager
def prefetched(
    batch_at: Callable[[int, int, int], Any], workers: int, steps: int
) -> Iterator[Callable[[int, int, int], Any]]:
    """`batch_at`, read ahead by `workers` threads (0: none). Batches are pure, so they are the same ones."""
    if workers == 0:
        yield batch_at
        return
    pending: dict[int, Future[Any]] = {}
    pool = ThreadPoolExecutor(workers)

    def ahead(index: int, rank: int, world: int) -> Any:
        for later in range(index, min(index + 2 * workers, steps)):
            if later not in pending:
                pending[later] = pool.submit(batch_at, later, rank, world)
        return pending.pop(index).result()

    try:
        yield ahead
    finally:
        pool.shutdown(cancel_futures=True)
