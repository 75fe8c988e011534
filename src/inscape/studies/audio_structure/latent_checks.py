"""What is asked of a codec and the latents it gave: of this sound alone, as loud as it is, and of no sound to come.

A1 asks it of its store, T4 of every store that it makes.

Legend: S samples, T frames, D latent dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from inscape.core.estimate import Estimate, bootstrap_mean, exact
from inscape.data.latent_store import LatentStore
from inscape.data.speech.audio_files import read_audio
from inscape.pretrained.codec import AudioCodec, block_size

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["Hearing", "batch_difference", "checks_of", "hearing", "loudness_correlation"]

PIECE_SEC = 2.0
HEARD_SEC = 12.0  # of a recording; memories of up to half of it are counted in full
QUIETEST = 1e-4  # energies below this are silence: 80 dB under full scale
RIDGE = 1e-3  # of the mean variance
MOVED = 1e-3  # of the latents' spread: less is the kernels' rounding


class Hearing(NamedTuple):
    """How many frames after and before its own block of samples a frame changes with."""

    ahead: int
    behind: int


def checks_of(
    codec: AudioCodec,
    store: LatentStore,
    path_of: Mapping[str, str],
    order: Sequence[int],
    *,
    compared: int,
    read_off: int,
    seed: int,
) -> dict[str, Estimate]:
    """batch_difference, loudness_correlation, frames_ahead and frames_behind of the first utterances of `order`.

    path_of: where the recording of each utterance id lies. compared: recordings that are encoded again, alone and in a
    batch. read_off: recordings of the readout. Memories are counted in the longest of those compared.
    """
    again = order[:compared]
    paths = [path_of[store.utterances[i].utterance_id] for i in again]
    longest = max(range(len(again)), key=lambda i: store.utterances[again[i]].n_frames)
    samples_S = read_audio(paths[longest], codec.sample_rate)[: round(HEARD_SEC * codec.sample_rate)]
    heard = hearing(codec, samples_S, seed)
    return {
        "batch_difference": exact(batch_difference(codec, [store.latents(i) for i in again], paths), len(again),
                                  "recordings"),
        "loudness_correlation": loudness_correlation(store, order[:read_off], seed),
        "frames_ahead": exact(heard.ahead, 1, "codec"),
        "frames_behind": exact(heard.behind, 1, "codec"),
    }  # fmt: skip


def batch_difference(codec: AudioCodec, stored: Sequence[np.ndarray], paths: Sequence[str]) -> float:
    """Largest difference between latents of a batch and of the same recording alone, in units of their spread.

    The batch holds the recordings in `paths` and pieces of them of one length, since codecs batch those. What is stored
    of them has to agree as well.
    """
    whole = [read_audio(path, codec.sample_rate) for path in paths]
    pieces = [samples_S[: round(PIECE_SEC * codec.sample_rate)] for samples_S in whole]
    batch = codec.encode([*whole, *pieces])
    alone = [codec.encode([samples_S])[0] for samples_S in (*whole, *pieces)]
    pairs = [*zip(batch, alone, strict=True), *zip(stored, alone[: len(whole)], strict=True)]
    if any(one_TD.shape != other_TD.shape for one_TD, other_TD in pairs):
        return np.inf
    spread = max(float(np.concatenate(alone).std()), float(np.finfo(np.float32).tiny))
    return max(float(np.abs(one_TD - other_TD).max()) for one_TD, other_TD in pairs) / spread


def hearing(codec: AudioCodec, samples_S: Float[np.ndarray, " S"], seed: int) -> Hearing:
    """Which frames move when noise takes the place of all that comes after them, and which of all that came before.

    A frame that moves with what comes after its own block knows its future, and one that moves with what came before
    holds a piece of the frames before it: both can be predicted from those, whatever the sound. The recording is cut at
    two places, of which one could be the edge of a window of the codec's own. Memories that are longer than what is
    left of the recording count as that long.
    """
    block = block_size(codec)
    draw, frames = np.random.default_rng(seed), len(samples_S) // block
    noise_S = (samples_S.std() * math.sqrt(3) * draw.uniform(-1, 1, len(samples_S))).astype(np.float32)
    own_TD = codec.encode([samples_S])[0]
    least = MOVED * max(float(own_TD.std()), float(np.finfo(np.float32).tiny))
    ahead = behind = 0
    for cut in (frames * 3 // 7, frames * 4 // 7):
        before_S = np.arange(len(samples_S)) < cut * block
        given = (np.where(before_S, samples_S, noise_S), np.where(before_S, noise_S, samples_S))
        other_future_TD, other_past_TD = (codec.encode([x_S])[0] for x_S in given)
        early_T = np.abs(own_TD - other_future_TD)[:cut].max(axis=1, initial=0.0) > least
        late_T = np.abs(own_TD - other_past_TD)[cut:].max(axis=1, initial=0.0) > least
        ahead = max(ahead, cut - int(early_T.argmax()) if early_T.any() else 0)
        behind = max(behind, int(np.flatnonzero(late_T)[-1]) + 1 if late_T.any() else 0)
    return Hearing(ahead, behind)


def loudness_correlation(store: LatentStore, rows: Sequence[int], seed: int) -> Estimate:
    """Correlation of a frame's loudness with what a linear readout of its latent says, in recordings not fitted on.

    The readout is fitted on the first half of `rows`; the mean is over the recordings of the second. Each is centred,
    and a correlation has no scale, so neither a recording's level nor its noise floor counts. Loudness is the logarithm
    of the energy; a readout that says nothing counts as 0.
    """
    half = len(rows) // 2
    square_DD, product_D = np.zeros((store.dimension, store.dimension)), np.zeros(store.dimension)
    for i in rows[:half]:
        latent_TD, loudness_T = _centred(store, i)
        square_DD += latent_TD.T @ latent_TD
        product_D += latent_TD.T @ loudness_T
    ridge = RIDGE * np.trace(square_DD) / store.dimension + np.finfo(np.float64).tiny
    weight_D = np.linalg.solve(square_DD + ridge * np.eye(store.dimension), product_D)
    found = []
    for i in rows[half:]:
        latent_TD, loudness_T = _centred(store, i)
        said_T = latent_TD @ weight_D
        if loudness_T.any():
            scale = math.sqrt(float(said_T @ said_T) * float(loudness_T @ loudness_T))
            found.append(float(said_T @ loudness_T) / scale if scale else 0.0)
    return bootstrap_mean(found, "recordings", seed=seed)


def _centred(store: LatentStore, i: int) -> tuple[np.ndarray, np.ndarray]:
    latent_TD = store.latents(i).astype(np.float64)
    loudness_T = np.log(np.maximum(store.energy(i), QUIETEST).astype(np.float64))
    return latent_TD - latent_TD.mean(0), loudness_T - loudness_T.mean()
