"""The planted worlds are what their docstrings derive, seen with the true codes instead of fitted clusters."""

from itertools import pairwise

import numpy as np
import pytest

from inscape.data.planted_latents import CODE, STEP, PlantedSize, no_rule, shared_rule, speaker_rule
from inscape.stats.context_windows import EVAL, TRAIN

SIZE = PlantedSize(train_speakers=8, eval_speakers=8, frames=200)


def ratio(world, split, means_of=None):
    """VR with the true clusters (code, voice), and with the means of another split."""
    steps, keys = {}, {}
    for utterance in world.utterances():
        moved = np.diff(utterance.latent_TD, axis=0)[:, SIZE.bits + 1 :] / STEP
        key = tuple(utterance.latent_TD[0, : SIZE.bits + 1])
        steps.setdefault(utterance.split, []).append(moved)
        keys.setdefault(utterance.split, []).append(np.full(len(moved), hash(key)))
    steps, keys = ({s: np.concatenate(v) for s, v in table.items()} for table in (steps, keys))
    source = means_of or split
    means = {k: steps[source][keys[source] == k].mean(0) for k in np.unique(keys[source])}
    residual = steps[split] - np.stack([means[k] for k in keys[split]])
    return (residual**2).sum() / ((steps[split] - steps[split].mean(0)) ** 2).sum()


@pytest.mark.parametrize("world", [shared_rule(0.3, size=SIZE), no_rule(size=SIZE), speaker_rule(size=SIZE)])
def test_the_ratio_is_the_one_derived(world):
    assert ratio(world, TRAIN) == pytest.approx(world.vr_train, abs=0.01)
    assert ratio(world, EVAL) == pytest.approx(world.vr_eval, abs=0.01)
    assert ratio(world, EVAL, TRAIN) == pytest.approx(world.vr_eval_with_train_means, abs=0.02)


def test_a_world_is_the_same_on_every_pass_and_another_with_another_seed():
    one, again, other = (shared_rule(0.3, size=SIZE, seed=seed).utterances() for seed in (1, 1, 2))
    for first, second, third in zip(one, again, other, strict=True):
        assert np.array_equal(first.latent_TD, second.latent_TD)
        assert np.array_equal(first.energy_T, second.energy_T)
        assert not np.array_equal(first.latent_TD, third.latent_TD)


def test_utterances_are_balanced_and_come_speaker_by_speaker():
    utterances = list(speaker_rule(size=SIZE).utterances())
    names = [u.speaker_id for u in utterances]
    assert sum(a != b for a, b in pairwise(names)) == len(set(names)) - 1 == 15
    for split in (TRAIN, EVAL):
        codes = np.stack([u.latent_TD[0, : SIZE.bits + 1] for u in utterances if u.split == split])
        assert np.abs(np.corrcoef(codes.T) - np.eye(SIZE.bits + 1)).max() < 1e-12
    latent = utterances[0].latent_TD
    assert latent.dtype == np.float32
    assert latent.shape == (200, SIZE.dimension)
    assert (latent[:, : SIZE.bits + 1] == latent[0, : SIZE.bits + 1]).all()
    assert np.abs(latent[:, SIZE.bits + 1 :]).max() < CODE * 2.0**-24, "no clustering in float32 sees the walk"


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="shares of a variance"):
        shared_rule(1.2)
    with pytest.raises(ValueError, match="even numbers of speakers"):
        PlantedSize(train_speakers=3)
    with pytest.raises(ValueError, match="1 to 5 bits"):
        PlantedSize(bits=6)
