"""What is asked of a codec and the latents it gave: of this sound alone, as loud as it is, of no sound to come, and the
same wherever in a recording it stands.

A1 asks it of its store, T4 of every store that it makes.

Legend: S samples, T frames, D latent dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from inscape.core.estimate import Estimate, bootstrap_mean, exact
from inscape.data.latent_store import LatentStore
from inscape.data.speech.audio_files import read_audio
from inscape.metrics.directional import per_unit
from inscape.pretrained.codec import AudioCodec, block_size

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

__all__ = [
    "Hearing",
    "Memory",
    "Shift",
    "batch_difference",
    "checks_of",
    "hearing",
    "loudness_correlation",
    "memory",
    "shift_difference",
]

PIECE_SEC = 2.0
HEARD_SEC = 12.0  # of a recording; memories of up to half of it are counted in full
QUIETEST = 1e-4  # energies below this are silence: 80 dB under full scale
RIDGE = 1e-3  # of the mean variance
SMALL = 1e-2  # of the largest spread of a dimension: one that spreads less counts as if it spread so
TINY = float(np.finfo(np.float32).tiny)
MOVED = 1e-3  # of the latents' spread: less is the kernels' rounding
OTHER_COUNT = 1e6  # what counts as the difference, in units of spread, where there is another number of frames
UNCOMPARED = (
    "{count} of the {dimension} numbers of a frame of {codec} remember as far back as the recordings reach, so whether "
    "they hold the number of their frame cannot be told, and shift_difference is of the others{none}"
)


class Hearing(NamedTuple):
    """How many frames after and before its own block of samples a frame changes with."""

    ahead: int
    behind: int


class Memory(NamedTuple):
    """`Hearing`, each dimension's past by itself."""

    ahead: int
    behind_D: Int[np.ndarray, " D"]
    endless_D: Bool[np.ndarray, " D"]  # still moved by the past where the recording ends: behind_D is a lower bound


class Shift(NamedTuple):
    """How far the dimension moves that moves most, in units of spread, of how many that could be compared."""

    difference: float
    compared: int


def checks_of(
    codec: AudioCodec,
    store: LatentStore,
    path_of: Mapping[str, str],
    order: Sequence[int],
    *,
    compared: int,
    read_off: int,
    seed: int,
    say: Callable[[str], None],
) -> dict[str, Estimate]:
    """batch_difference, shift_difference, loudness_correlation, frames_ahead and frames_behind of the first in `order`.

    path_of: where the recording of each utterance id lies. compared: recordings that are encoded again, alone and in a
    batch. read_off: recordings of the readout. Memories are counted in the longest of those compared. say: is told in a
    line where a memory is too long for shift_difference.
    """
    again = order[:compared]
    paths = [path_of[store.utterances[i].utterance_id] for i in again]
    longest = max(range(len(again)), key=lambda i: store.utterances[again[i]].n_frames)
    samples_S = read_audio(paths[longest], codec.sample_rate)[: round(HEARD_SEC * codec.sample_rate)]
    heard = memory(codec, samples_S, seed)
    shift = shift_difference(codec, paths, heard)
    if shift.compared < codec.dimension and not math.isnan(shift.difference):
        none = "" if shift.compared else ": of none, so it is 0 and says nothing"
        count = codec.dimension - shift.compared
        say(UNCOMPARED.format(count=count, dimension=codec.dimension, codec=codec.name, none=none))
    return {
        "batch_difference": exact(batch_difference(codec, [store.latents(i) for i in again], paths), len(again),
                                  "recordings"),
        "shift_difference": exact(shift.difference, len(again), "recordings"),
        "loudness_correlation": loudness_correlation(store, order[:read_off], seed),
        "frames_ahead": exact(heard.ahead, 1, "codec"),
        "frames_behind": exact(int(heard.behind_D.max()), 1, "codec"),
    }  # fmt: skip


def batch_difference(codec: AudioCodec, stored: Sequence[np.ndarray], paths: Sequence[str]) -> float:
    """Largest difference between latents of a batch and of the same recording alone, in units of their spread.

    The batch holds the recordings in `paths` and pieces of them of one length, since codecs batch those. What is stored
    of them has to agree as well. OTHER_COUNT where frames are missing or too many: infinity would be "not measured".
    """
    whole = [read_audio(path, codec.sample_rate) for path in paths]
    pieces = [samples_S[: round(PIECE_SEC * codec.sample_rate)] for samples_S in whole]
    batch = codec.encode([*whole, *pieces])
    alone = [codec.encode([samples_S])[0] for samples_S in (*whole, *pieces)]
    pairs = [*zip(batch, alone, strict=True), *zip(stored, alone[: len(whole)], strict=True)]
    if any(one_TD.shape != other_TD.shape for one_TD, other_TD in pairs):
        return OTHER_COUNT
    spread = max(float(np.concatenate(alone).std()), TINY)
    return max(float(np.abs(one_TD - other_TD).max()) for one_TD, other_TD in pairs) / spread


def shift_difference(codec: AudioCodec, paths: Sequence[str], heard: Memory) -> Shift:
    """How far the dimension moves that moves most where the beginning is cut off: root mean square, in its spread.

    A latent that holds the number of its frame is foretold by the frames before it, whatever the sound. The recordings
    in `paths` are encoded again without their first block, and without their first third: no count and no period stays
    the same under both. Only the second half of what is left is compared, and of that what lies beyond the dimension's
    memory in `heard`: a frame soon after the cut remembers what was cut off, or that nothing came before it. A
    dimension whose memory reaches as far as the recordings is not compared; where none is, the difference is 0. Each
    dimension counts in units of its own spread, but no less than SMALL of the largest, since rounding moves one that
    does not spread; the larger of the two cuts. OTHER_COUNT where the rest has another number of frames than were left;
    NaN where no recording has two frames.
    """
    block, frames = block_size(codec), []
    cut_D: list[list[np.ndarray]] = [[], []]  # of each cut: squares and counts [2, D] of each recording
    for path in paths:
        samples_S = read_audio(path, codec.sample_rate)
        whole_TD = codec.encode([samples_S])[0].astype(np.float64)
        frames.append(whole_TD)
        for cut, found in zip((1, max(1, len(whole_TD) // 3)), cut_D, strict=True):
            if cut >= len(whole_TD):
                continue
            rest_TD = codec.encode([samples_S[cut * block :]])[0]
            if rest_TD.shape != whole_TD[cut:].shape:
                return Shift(OTHER_COUNT, codec.dimension)
            first_D = np.maximum(len(rest_TD) // 2, heard.behind_D)
            held_TD = (np.arange(len(rest_TD))[:, None] >= first_D) & ~heard.endless_D
            found.append(np.stack([(np.square(rest_TD - whole_TD[cut:]) * held_TD).sum(0), held_TD.sum(0)]))
    if not any(cut_D):
        return Shift(math.nan, 0)
    spread_D = np.concatenate(frames).std(axis=0)
    spread_D = np.maximum(spread_D, max(SMALL * float(spread_D.max()), TINY))
    sums = [np.sum(found, axis=0) for found in cut_D]
    moved_D = [np.sqrt(squares_D / np.maximum(count_D, 1)) / spread_D for squares_D, count_D in sums]
    return Shift(float(np.max(moved_D)), int(np.all([count_D > 0 for _, count_D in sums], axis=0).sum()))


def hearing(codec: AudioCodec, samples_S: Float[np.ndarray, " S"], seed: int) -> Hearing:
    """`memory`, over all dimensions."""
    found = memory(codec, samples_S, seed)
    return Hearing(found.ahead, int(found.behind_D.max()))


def memory(codec: AudioCodec, samples_S: Float[np.ndarray, " S"], seed: int) -> Memory:
    """Which frames move when noise takes the place of all that comes after them, and which of all that came before.

    A frame that moves with what comes after its own block knows its future, and one that moves with what came before
    holds a piece of the frames before it: both can be predicted from those, whatever the sound. The recording is cut at
    two places, of which one could be the edge of a window of the codec's own. Memories that are longer than what is
    left of the recording count as that long, and as endless where that is so of both places.
    """
    block = block_size(codec)
    draw, frames = np.random.default_rng(seed), len(samples_S) // block
    noise_S = (samples_S.std() * math.sqrt(3) * draw.uniform(-1, 1, len(samples_S))).astype(np.float32)
    own_TD = codec.encode([samples_S])[0]
    least = MOVED * max(float(own_TD.std()), TINY)
    ahead, behind_D, endless_D = 0, np.zeros(own_TD.shape[1], int), np.ones(own_TD.shape[1], bool)
    for cut in (frames * 3 // 7, frames * 4 // 7):
        before_S = np.arange(len(samples_S)) < cut * block
        given = (np.where(before_S, samples_S, noise_S), np.where(before_S, noise_S, samples_S))
        other_future_TD, other_past_TD = (codec.encode([x_S])[0] for x_S in given)
        early_T = np.abs(own_TD - other_future_TD)[:cut].max(axis=1, initial=0.0) > least
        late_TD = np.abs(own_TD - other_past_TD)[cut:] > least
        ahead = max(ahead, cut - int(early_T.argmax()) if early_T.any() else 0)
        last_D = len(late_TD) - late_TD[::-1].argmax(axis=0)
        longer_D = np.where(late_TD.any(axis=0), last_D, 0)
        endless_D &= longer_D == len(late_TD)
        behind_D = np.maximum(behind_D, longer_D)
    return Memory(ahead, behind_D, endless_D)


def loudness_correlation(store: LatentStore, rows: Sequence[int], seed: int) -> Estimate:
    """Correlation of a frame's loudness with what a linear readout of its latent says, in recordings not fitted on.

    The readout is fitted on the first half of `rows`; the mean is over the speakers of the second, each with the mean
    of its recordings. Each recording is centred, and a correlation has no scale, so neither its level nor its noise
    floor counts. Loudness is the logarithm of the energy; a readout that says nothing counts as 0.
    """
    half = len(rows) // 2
    square_DD, product_D = np.zeros((store.dimension, store.dimension)), np.zeros(store.dimension)
    for i in rows[:half]:
        latent_TD, loudness_T = _centred(store, i)
        square_DD += latent_TD.T @ latent_TD
        product_D += latent_TD.T @ loudness_T
    ridge = RIDGE * np.trace(square_DD) / store.dimension + np.finfo(np.float64).tiny
    weight_D = np.linalg.solve(square_DD + ridge * np.eye(store.dimension), product_D)
    found, speakers = list[float](), list[str]()
    for i in rows[half:]:
        latent_TD, loudness_T = _centred(store, i)
        said_T = latent_TD @ weight_D
        if loudness_T.any():
            scale = math.sqrt(float(said_T @ said_T) * float(loudness_T @ loudness_T))
            found.append(float(said_T @ loudness_T) / scale if scale else 0.0)
            speakers.append(store.utterances[i].speaker_id)
    return bootstrap_mean(per_unit(np.array(found), np.array(speakers)), "speakers", seed=seed)


def _centred(store: LatentStore, i: int) -> tuple[np.ndarray, np.ndarray]:
    latent_TD = store.latents(i).astype(np.float64)
    loudness_T = np.log(np.maximum(store.energy(i), QUIETEST).astype(np.float64))
    return latent_TD - latent_TD.mean(0), loudness_T - loudness_T.mean()
