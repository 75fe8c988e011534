"""The seed in a model's name: a number that torch takes, or one line."""

import pytest
import torch

from inscape.pretrained.random_weights import MOST_SEED, seed_of


def test_a_seed_is_read_from_a_name() -> None:
    assert [seed_of(where) for where in ("", "0", "12", str(MOST_SEED))] == [0, 0, 12, MOST_SEED]
    assert torch.Generator().manual_seed(MOST_SEED).initial_seed() == MOST_SEED


@pytest.mark.parametrize("where", ["x", "-1", "1.0", " 1", str(MOST_SEED + 1), "9" * 30, "9" * 5000])
def test_what_is_no_seed_is_one_short_line(where: str) -> None:
    with pytest.raises(
        ValueError, match=r"^the seed of random weights is '.*'; allowed: a number from 0 to 9"
    ) as refusal:
        seed_of(where)
    assert len(str(refusal.value)) < 200
