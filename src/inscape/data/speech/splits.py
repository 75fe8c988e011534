"""Which speakers fit and which test: no speaker and no utterance stands on both sides.

Ids are sorted as text, shuffled by `numpy.random.default_rng(seed)`, and cut. Of the train speakers' utterances a
share is held out by the same rule: the same voices, other sentences, to check a clustering before it meets new voices.

    train_speakers.txt  eval_speakers.txt     one id a line
    train_utt_ids.txt                         utterances of train speakers, without those held out
    eval_utt_ids.txt                          utterances of eval speakers

What is held out is what the train speakers said and train_utt_ids.txt does not name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from inscape.core.rundir import write_atomically
from inscape.data.speech.corpus import Utterance

__all__ = ["SPLIT_FILES", "Splits", "check_leaks", "read_splits", "split_speakers", "write_splits"]

SPLIT_FILES = ("train_speakers", "eval_speakers", "train_utt_ids", "eval_utt_ids")


class Splits(NamedTuple):
    """Sorted ids. The three tuples of utterances share none, and together are all utterances of the speakers."""

    train_speakers: tuple[str, ...]
    eval_speakers: tuple[str, ...]
    train_utt_ids: tuple[str, ...]
    heldout_utt_ids: tuple[str, ...]
    eval_utt_ids: tuple[str, ...]

    @property
    def split_of(self) -> dict[str, str]:
        """The split of each utterance id: "train", "heldout" (train speakers) or "eval"."""
        named = {"train": self.train_utt_ids, "heldout": self.heldout_utt_ids, "eval": self.eval_utt_ids}
        return {utterance: split for split, ids in named.items() for utterance in ids}


def split_speakers(
    utterances: Iterable[Utterance],
    train: int | float = 200,
    eval: int | float = 51,
    *,
    seed: int = 42,
    heldout_share: float = 0.1,
) -> Splits:
    """The first `train` of the shuffled speakers and the next `eval`; of the train utterances a share is held out.

    train, eval: numbers of speakers, or shares of them in (0, 1). Speakers beyond the two numbers are in no split.
    Shares, and the held-out number, are rounded to the nearest; where the shares are 1 together, eval takes what train
    leaves, and never more. ValueError if there are too few speakers, or a number makes no sense.
    """
    rows = sorted(utterances)
    if not 0 <= heldout_share < 1:
        raise ValueError(f"heldout_share is {heldout_share}; allowed: 0 to below 1")
    speakers = _shuffled({u.speaker_id for u in rows}, seed)
    n_train, n_eval = (_number(name, n, len(speakers)) for name, n in (("train", train), ("eval", eval)))
    if max(train, eval) < 1 and train + eval <= 1 + 1e-9:  # both rounded up, 0.5 and 0.5 of 7 speakers would be 8
        n_train = max(1, min(n_train, len(speakers) - 1))
        left = len(speakers) - n_train
        n_eval = max(1, left if train + eval > 1 - 1e-9 else min(n_eval, left))
    if n_train + n_eval > len(speakers):
        raise ValueError(
            f"the corpus has {len(speakers)} speakers, and train={train} with eval={eval} need {n_train + n_eval}: "
            "give fewer, or shares such as train=0.8 and eval=0.2"
        )
    fit, test = set(speakers[:n_train]), set(speakers[n_train : n_train + n_eval])
    said = _shuffled((u.utterance_id for u in rows if u.speaker_id in fit), seed)
    n_held = round(heldout_share * len(said))
    splits = Splits(
        tuple(sorted(fit)),
        tuple(sorted(test)),
        tuple(sorted(said[n_held:])),
        tuple(sorted(said[:n_held])),
        tuple(u.utterance_id for u in rows if u.speaker_id in test),
    )
    check_leaks(splits, rows)
    return splits


def check_leaks(splits: Splits, utterances: Iterable[Utterance]) -> None:
    """ValueError, naming the first, if a speaker or an utterance stands on two sides, or on the wrong one."""
    _no_overlap("speaker", splits.train_speakers, splits.eval_speakers)
    sides = (splits.train_utt_ids, splits.heldout_utt_ids, splits.eval_utt_ids)
    _no_overlap("utterance", *sides)
    speaker_of: dict[str, str] = {}
    paths: set[Path] = set()
    for row in utterances:
        if row.utterance_id in speaker_of or row.path in paths:
            raise ValueError(f"utterance {row.utterance_id} ({row.path}) stands in the corpus twice")
        speaker_of[row.utterance_id] = row.speaker_id
        paths.add(row.path)
    speakers = (splits.train_speakers, splits.train_speakers, splits.eval_speakers)
    for ids, allowed in zip(sides, map(set, speakers), strict=True):
        for utterance in ids:
            if speaker_of.get(utterance) not in allowed:
                raise ValueError(f"utterance {utterance} is of speaker {speaker_of.get(utterance)}, of another split")


def write_splits(splits: Splits, folder: Path) -> None:
    """The four files named above, each whole or not at all."""
    for name in SPLIT_FILES:
        write_atomically(folder / f"{name}.txt", "".join(f"{line}\n" for line in getattr(splits, name)))


def read_splits(folder: Path, utterances: Iterable[Utterance]) -> Splits:
    """What `write_splits` wrote, checked against the corpus. ValueError if a file is missing or does not fit."""
    rows = sorted(utterances)
    known = {u.utterance_id for u in rows}
    lines: dict[str, tuple[str, ...]] = {}
    for name in SPLIT_FILES:
        try:
            lines[name] = tuple((folder / f"{name}.txt").read_text(encoding="utf-8").splitlines())
        except OSError as error:
            raise ValueError(f"{folder} is not a folder of splits: {name}.txt: {error.strerror}") from None
    for name in SPLIT_FILES[2:]:
        if unknown := sorted(set(lines[name]) - known):
            raise ValueError(f"{folder / name}.txt names {unknown[0]}, which the corpus does not hold: split it again")
    fit, named = set(lines["train_speakers"]), set(lines["train_utt_ids"])
    held = tuple(u.utterance_id for u in rows if u.speaker_id in fit and u.utterance_id not in named)
    splits = Splits(heldout_utt_ids=held, **lines)
    check_leaks(splits, rows)
    return splits


def _shuffled(ids: Iterable[str], seed: int) -> list[str]:
    ordered = sorted(ids)
    return [ordered[i] for i in np.random.default_rng(seed).permutation(len(ordered))]


def _number(name: str, given: int | float, speakers: int) -> int:
    if isinstance(given, bool) or not (0 < given < 1 or (given >= 1 and float(given).is_integer())):
        raise ValueError(f"{name} is {given}; allowed: a number of speakers from 1, or a share between 0 and 1")
    return int(given) if given >= 1 else max(1, round(given * speakers))


def _no_overlap(what: str, *sides: Sequence[str]) -> None:
    seen: set[str] = set()
    for side in sides:
        if both := sorted(seen & set(side)):
            raise ValueError(f"{what} {both[0]} stands in two splits")
        seen |= set(side)
