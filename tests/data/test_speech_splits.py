"""No leak, the plan's numbers, one seed one split, and the four files."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inscape.data.speech.corpus import Utterance
from inscape.data.speech.splits import SPLIT_FILES, check_leaks, read_splits, split_speakers, write_splits


def corpus(speakers: int, each: int = 3) -> list[Utterance]:
    return [Utterance(f"s{i}-{k}", f"s{i}", Path(f"s{i}") / f"{k}.wav") for i in range(speakers) for k in range(each)]


def test_the_plans_numbers() -> None:
    splits = split_speakers(corpus(251))
    assert (len(splits.train_speakers), len(splits.eval_speakers)) == (200, 51)
    assert (len(splits.train_utt_ids), len(splits.heldout_utt_ids), len(splits.eval_utt_ids)) == (540, 60, 153)


@given(st.integers(2, 40), st.integers(1, 4), st.floats(0.05, 0.6), st.floats(0, 0.5), st.integers(0, 9))
def test_nothing_leaks_and_nothing_is_lost(speakers: int, each: int, train: float, held: float, seed: int) -> None:
    rows = corpus(speakers, each)
    splits = split_speakers(rows, train, 0.3, seed=seed, heldout_share=held)
    assert not set(splits.train_speakers) & set(splits.eval_speakers)
    sides = splits.split_of
    assert len(sides) == each * (len(splits.train_speakers) + len(splits.eval_speakers))
    for row in rows:
        here = "eval" if row.speaker_id in splits.eval_speakers else "train"
        assert row.speaker_id in splits.train_speakers or sides.get(row.utterance_id) in ("eval", None)
        assert here == "train" or sides[row.utterance_id] == "eval"
    check_leaks(splits, rows)


def test_one_seed_one_split_whatever_the_order() -> None:
    rows = corpus(30)
    assert split_speakers(rows, 20, 10) == split_speakers(rows[::-1], 20, 10)
    assert split_speakers(rows, 20, 10) != split_speakers(rows, 20, 10, seed=43)


def test_speakers_are_shuffled_before_they_are_cut() -> None:
    assert split_speakers(corpus(40), 20, 20).train_speakers != tuple(sorted(f"s{i}" for i in range(20)))


@pytest.mark.parametrize(
    ("speakers", "train", "eval_", "message"),
    [
        (40, 200, 51, "the corpus has 40 speakers, and train=200 with eval=51 need 251: give fewer, or shares"),
        (10, 0.9, 0.2, "need 11"),
        (10, 0, 3, "train is 0"),
        (10, 3, -1, "eval is -1"),
        (10, 2.5, 3, "train is 2.5"),
        (10, float("nan"), 3, "train is nan"),
        (10, True, 3, "train is True"),
        (10, float("inf"), 3, "train is inf"),
    ],
)
def test_numbers_that_cannot_be_are_refused(speakers: int, train: float, eval_: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_speakers(corpus(speakers), train, eval_)


@pytest.mark.parametrize("train", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("speakers", [2, 3, 5, 7, 11, 15])
def test_shares_of_1_together_take_every_speaker_once(speakers: int, train: float) -> None:
    splits = split_speakers(corpus(speakers), train, 1 - train)
    found = len(splits.train_speakers), len(splits.eval_speakers)
    assert sum(found) == speakers
    assert min(found) >= 1
    assert abs(found[0] - train * speakers) <= max(0.5, 1 - (1 - train) * speakers) + 1e-9


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="heldout_share is 1"):
        split_speakers(corpus(9), 5, 4, heldout_share=1.0)


def test_the_four_files_are_read_back(tmp_path: Path) -> None:
    rows = corpus(20)
    splits = split_speakers(rows, 12, 6)
    write_splits(splits, tmp_path / "splits")
    assert sorted(p.name for p in (tmp_path / "splits").iterdir()) == sorted(f"{n}.txt" for n in SPLIT_FILES)
    assert read_splits(tmp_path / "splits", rows) == splits
    assert len(splits.heldout_utt_ids) == 4


def test_files_that_do_not_fit_the_corpus_are_refused(tmp_path: Path) -> None:
    rows = corpus(20)
    write_splits(split_speakers(rows, 12, 6), tmp_path)
    with pytest.raises(ValueError, match="which the corpus does not hold"):
        read_splits(tmp_path, corpus(20, 2))
    (tmp_path / "eval_speakers.txt").unlink()
    with pytest.raises(ValueError, match=r"eval_speakers\.txt: No such file"):
        read_splits(tmp_path, rows)


def test_each_kind_of_leak_is_seen() -> None:
    rows = corpus(10)
    good = split_speakers(rows, 6, 4)
    moved = good.eval_utt_ids[0]
    leaks = {
        "speaker": good._replace(eval_speakers=good.eval_speakers + good.train_speakers[:1]),
        "utterance .* stands in two": good._replace(train_utt_ids=(*good.train_utt_ids, moved)),
        "of another split": good._replace(
            train_utt_ids=(*good.train_utt_ids, moved), eval_utt_ids=good.eval_utt_ids[1:]
        ),
        "of speaker None": good._replace(train_utt_ids=(*good.train_utt_ids, "gone")),
    }
    for message, splits in leaks.items():
        with pytest.raises(ValueError, match=message):
            check_leaks(splits, rows)
    with pytest.raises(ValueError, match="twice"):
        check_leaks(good, [*rows, rows[0]._replace(utterance_id="again")])
