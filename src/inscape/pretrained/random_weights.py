"""The seed of a model with random weights, as it stands in the model's name: tiny:1, tiny-mimi:7."""

__all__ = ["MOST_SEED", "seed_of"]

MOST_SEED = 2**63 - 1  # what torch takes


def seed_of(where: str) -> int:
    """The number that stands after the colon, 0 where nothing does; ValueError for anything else."""
    if where and not (where.isdecimal() and len(where) <= len(str(MOST_SEED)) and int(where) <= MOST_SEED):
        raise ValueError(f"the seed of random weights is {where[:40]!r}; allowed: a number from 0 to {MOST_SEED}")
    return int(where or 0)
