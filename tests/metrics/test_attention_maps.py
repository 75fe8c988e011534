"""Attention maps: closed forms, planted decoders, and the empty ones that must not look good."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inscape.metrics.attention_maps import (
    attention_maps,
    entropy_bits,
    localisation,
    scattered_localisation,
    specificity,
)

GRID, K = (16, 16), 256
RNG = np.random.default_rng(0)


def one_hot(*places: int, width: int = K) -> np.ndarray:
    return np.eye(width)[list(places)]


def blob(s: float, y: float = 16.0, x: float = 16.0, size: int = 33) -> np.ndarray:
    """A Gaussian of `s` places on a grid of size x size."""
    at = np.arange(size)
    map_HW = np.exp(-((at[:, None] - y) ** 2 + (at - x) ** 2) / (2 * s * s))
    return (map_HW / map_HW.sum()).reshape(1, -1)


def random_maps(tokens: int, width: int = K) -> np.ndarray:
    return RNG.dirichlet(np.full(width, 0.2), tokens)


# --- closed forms -------------------------------------------------------------------------------------------------


def test_uniform_attention():
    uniform = np.full((1, K), 1 / K)
    assert entropy_bits(uniform) == pytest.approx(8)
    for block in (1, 3, 16):
        assert localisation(uniform, GRID, block) == pytest.approx(block**2 / K)
        assert scattered_localisation(uniform, block) == pytest.approx(block**2 / K)


@pytest.mark.parametrize("place", [0, 15, 100, 240, 255])  # corners, where a block that is cut would count less
def test_attention_to_one_place(place: int):
    assert entropy_bits(one_hot(place))[0] == 0
    assert math.copysign(1, entropy_bits(one_hot(place))[0]) == 1
    for block in (1, 2, 3, 16):
        assert localisation(one_hot(place), GRID, block) == pytest.approx(1)
    assert scattered_localisation(one_hot(place)) == pytest.approx(1)


@pytest.mark.parametrize("s", [1.5, 2.0, 2.5])
def test_a_gaussian_blob(s: float):
    assert entropy_bits(blob(s)) == pytest.approx(math.log2(2 * math.pi * math.e * s * s), abs=0.01)
    for block in (3, 5, 9):
        # The sum over whole places is the midpoint rule for the integral over the square of side `block`.
        expected = math.erf(block / (2 * math.sqrt(2) * s)) ** 2
        assert localisation(blob(s), (33, 33), block) == pytest.approx(expected, abs=0.015)


def test_the_block_is_a_square_around_the_peak():
    map_HW = RNG.random((9, 12))
    map_HW[6, 3] = 2
    map_HW /= map_HW.sum()
    flat = map_HW.reshape(1, -1)
    assert localisation(flat, (9, 12), 3) == pytest.approx(map_HW[5:8, 2:5].sum())
    assert localisation(flat, (9, 12), 5) == pytest.approx(map_HW[4:9, 1:6].sum())
    assert localisation(flat, (9, 12), 9) == pytest.approx(map_HW[:, :9].sum()), "moved inside"


def test_two_regions_are_not_one_though_the_entropy_cannot_tell():
    near, far = (one_hot(17, 18).mean(0), one_hot(17, 200).mean(0))
    assert entropy_bits(near) == entropy_bits(far) == 1
    assert localisation(near, GRID) == pytest.approx(1)
    assert localisation(far, GRID) == pytest.approx(0.5)


def test_the_scattered_control_is_the_mean_over_permutations():
    map_K = np.sort(random_maps(1, 25)[0])[::-1]
    inner = [
        np.concatenate((rest[:12], map_K[:1], rest[12:])) for rest in (RNG.permutation(map_K[1:]) for _ in range(4000))
    ]
    found = localisation(np.array(inner), (5, 5)).mean()
    assert found == pytest.approx(scattered_localisation(map_K), abs=0.01)
    assert scattered_localisation(blob(1.5)) < localisation(blob(1.5), (33, 33)) / 3


def test_specificity_of_groups_of_equal_maps():
    assert specificity(np.repeat(random_maps(1), 5, axis=0)) == pytest.approx(0, abs=1e-12)
    assert specificity(one_hot(3, 9, 200)) == 1
    assert specificity(one_hot(3, 3, 3, 9, 9)) == pytest.approx(2 * 3 * 2 / (5 * 4))
    assert specificity((one_hot(1, 2) + one_hot(7, 7)) / 2) == pytest.approx(0.5)


@given(st.integers(2, 9), st.integers(2, 40), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_specificity_is_the_mean_over_pairs(tokens: int, places: int, seed: int):
    maps = np.random.default_rng(seed).dirichlet(np.full(places, 0.3), tokens)
    expected = np.mean([np.abs(a - b).sum() / 2 for a, b in combinations(maps, 2)])
    assert specificity(maps) == pytest.approx(expected, abs=1e-12)


# --- planted and empty worlds -------------------------------------------------------------------------------------


def world(kind: str, sentences: int = 40, tokens: int = 6) -> np.ndarray:
    """Weights of a decoder of this kind over a grid of 16 x 16 places and 4 other memories."""
    weight = np.zeros((sentences, tokens, K + 4))
    for b in range(sentences):
        for t in range(tokens):
            y, x = (2, 3) if kind == "stares" else RNG.uniform(2, 14, 2)
            if kind in ("looks", "stares"):
                weight[b, t, :K] = blob(1.0, y, x, 16)[0]
            elif kind == "scatters":
                weight[b, t, :K] = RNG.permutation(blob(1.0, y, x, 16)[0])
            elif kind == "averages":
                weight[b, t, :K] = 1 / K
            else:
                weight[b, t, K:] = 0.25
    return weight


def measured(kind: str):
    return attention_maps(world(kind), np.ones((40, 6), dtype=bool), GRID)


def test_a_decoder_that_looks_at_a_place_for_each_word():
    found = measured("looks")
    assert found.entropy.high < 0.6
    assert found.localisation.low > 0.7
    assert found.localisation.low > found.scattered_localisation.high + 0.3
    assert found.specificity.low > 0.8
    assert found.on_latent.value == 1
    assert (found.entropy.n, found.entropy.unit) == (40, "sentences")
    assert found.entropy_bits.value == pytest.approx(8 * found.entropy.value)


def test_a_stare_is_localised_and_not_specific():
    found = measured("stares")
    assert found.localisation.low > 0.7
    assert found.specificity.high == pytest.approx(0, abs=1e-9)


def test_scattered_places_have_the_entropy_and_not_the_localisation():
    looks, scatters = measured("looks"), measured("scatters")
    assert scatters.entropy.value == pytest.approx(looks.entropy.value, abs=0.02)
    assert scatters.localisation.value == pytest.approx(scatters.scattered_localisation.value, abs=0.05)


def test_an_average_and_a_decoder_that_reads_the_embedding_alone():
    for kind, share in (("averages", 1), ("embedding", 0)):
        found = measured(kind)
        assert found.entropy.value == pytest.approx(1)
        assert found.localisation.value == pytest.approx(9 / K)
        assert found.specificity.value == pytest.approx(0, abs=1e-9)
        assert found.on_latent.value == share


def test_maps_are_rescaled_to_the_latent():
    weight = np.zeros((2, 2, 6))
    weight[:, :, 0], weight[:, :, 4] = 0.2, 0.6
    found = attention_maps(weight, np.ones((2, 2), dtype=bool), (2, 2), block=1)
    assert found.on_latent.value == pytest.approx(0.25)
    assert found.localisation.value == pytest.approx(1)


def test_padding_does_not_count_and_a_sentence_of_one_token_is_left_out():
    weight, keep = world("looks"), np.ones((40, 6), dtype=bool)
    keep[:, 4:] = False
    spoiled = weight.copy()
    spoiled[:, 4:] = np.nan
    assert attention_maps(spoiled, keep, GRID) == attention_maps(weight[:, :4], keep[:, :4], GRID)
    keep[:7, 1:] = False
    assert attention_maps(spoiled, keep, GRID).specificity.n == 33
    assert not attention_maps(spoiled, np.zeros_like(keep), GRID).entropy.measured


@pytest.mark.parametrize(
    ("weights", "keep", "grid", "block", "said"),
    [
        (np.ones((2, 3)), np.ones((2, 3)), (1, 3), 1, r"given \(2, 3\)"),
        (np.ones((2, 3, 4)), np.ones((2, 4)), (2, 2), 1, r"\(2, 4\)"),
        (np.ones((2, 3, 4)), np.ones((2, 3)), (2, 3), 1, "allowed: 2 to 4 places"),
        (np.ones((2, 3, 4)), np.ones((2, 3)), (1, 1), 1, "allowed: 2 to 4 places"),
        (np.ones((2, 3, 4)), np.ones((2, 3)), (2, 2), 3, "block=3 is out of range; allowed: 1 to 2"),
        (np.ones((2, 3, 4)), np.ones((2, 3)), (2, 2), 0, "block=0"),
        (-np.ones((2, 3, 4)), np.ones((2, 3)), (2, 2), 1, "negative"),
        (np.full((2, 3, 4), np.nan), np.ones((2, 3)), (2, 2), 1, "NaN"),
    ],
)
def test_nonsense_is_refused(weights: np.ndarray, keep: np.ndarray, grid: tuple[int, int], block: int, said: str):
    with pytest.raises(ValueError, match=said):
        attention_maps(weights, keep.astype(bool), grid, block=block)
