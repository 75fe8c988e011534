"""Which questions may train: whole articles are dealt, so that no text is read in training and asked about in the test.

The split of a group is a hash of its name: the same whatever else the file holds, and however it is shuffled.
"""

import hashlib
from collections.abc import Iterable

from inscape.data.questions.question import Question

__all__ = ["SPLITS", "of_split", "split_of_group"]

SPLITS = ("train", "validation", "test")
VALIDATION_SHARE = TEST_SHARE = 0.1


def split_of_group(group: str) -> str:
    """The split of all questions of this group: "train" (80 %), "validation" or "test" (10 % each)."""
    digest = hashlib.blake2b(group.encode(), digest_size=8, person=b"questions").digest()
    share = int.from_bytes(digest, "little") / 2**64
    if share < VALIDATION_SHARE:
        return "validation"
    return "test" if share < VALIDATION_SHARE + TEST_SHARE else "train"


def of_split(questions: Iterable[Question], split: str | None) -> list[Question]:
    """The questions of one split in their order, or all of them for None. ValueError on another name."""
    if split is not None and split not in SPLITS:
        raise ValueError(f"split is {split!r}; allowed: {', '.join(SPLITS)}, or None for all")
    return [question for question in questions if split in (None, split_of_group(question.group))]
