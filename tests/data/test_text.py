"""A text file becomes a corpus without leaks, its batches are pure functions, every unusable file is one clear line."""

import gzip
import hashlib
import json
import lzma
import os
import time
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inscape.data.epochs import epoch_order
from inscape.data.text import SPLITS, TextCorpus
from inscape.data.tokenizer import BOS, EOS, PAD, Tokenizer

LINES = [f"{size} {colour} {shape}" for size in "abcdefgh" for colour in "ijklmnop" for shape in "qrstuvwxyz"]
GROUPS = [[f"{line} one", f"two {line}", f"{line} three {line}"] for line in LINES]


def write(path: Path, lines, opener=open) -> Path:
    with opener(path, "wb") as file:
        file.write("".join(f"{line}\n" for line in lines).encode())
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return TextCorpus.load(write(tmp_path_factory.mktemp("text") / "corpus.txt", LINES))


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    return TextCorpus.load(write(tmp_path_factory.mktemp("text") / "corpus.tsv", map("\t".join, GROUPS)))


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([cell for group in GROUPS for cell in group], 1000, "word")


def by_split(corpus):
    return {split: set(corpus.sentences(split)) for split in SPLITS}


def test_every_sentence_is_in_exactly_one_split(plain):
    splits = by_split(plain)
    assert sum(map(len, splits.values())) == len(LINES) == len(plain)
    assert set().union(*splits.values()) == set(LINES)
    assert 0.02 < len(splits["validation"]) / len(LINES) < 0.09
    assert 0.02 < len(splits["test"]) / len(LINES) < 0.09


def test_the_split_of_a_sentence_survives_shuffling_growing_and_duplicates(plain, tmp_path):
    other = TextCorpus.load(write(tmp_path / "x.txt", [*LINES[::-1], *LINES[:50], "a new line"]))
    for split, sentences in by_split(plain).items():
        assert sentences == set(other.sentences(split)) - {"a new line"}
    assert other.source.duplicates == 50


def test_spellings_of_one_sentence_are_one_sentence(tmp_path):
    lines = [*LINES, "Un café noir", "  un  CAFÉ\tnoir ", "Un cafe\u0301 noir\r"]
    corpus = TextCorpus.load(write(tmp_path / "x.txt", lines))
    assert (len(corpus), corpus.source.duplicates, corpus[len(LINES)]) == (len(LINES) + 1, 2, "Un café noir")


def test_groups_stay_together_and_shared_sentences_tie_groups(tmp_path):
    chains = [[f"{line} {place}", f"{line} {place + 1}"] for line in LINES for place in range(6)]
    shuffled = [chains[place] for place in np.random.default_rng(0).permutation(len(chains))]
    corpus = TextCorpus.load(write(tmp_path / "x.tsv", map("\t".join, shuffled)), validation=0.2, test=0.3)
    chains_of = {split: {sentence[:5] for sentence in sentences} for split, sentences in by_split(corpus).items()}
    assert sum(map(len, chains_of.values())) == len(LINES)
    assert corpus.source.duplicates == 5 * len(LINES)
    # A split by the least hash itself, unstirred, would give the first split far more than its share.
    assert len(chains_of["validation"]) / len(LINES) == pytest.approx(0.2, abs=0.06)
    assert len(chains_of["test"]) / len(LINES) == pytest.approx(0.3, abs=0.06)


@pytest.mark.parametrize(("suffix", "opener"), [(".txt", open), (".txt.gz", gzip.open), (".txt.xz", lzma.open)])
def test_compression_changes_nothing_but_the_file(plain, tmp_path, suffix, opener):
    path = write(tmp_path / f"x{suffix}", LINES, opener)
    corpus = TextCorpus.load(path)
    assert by_split(corpus) == by_split(plain)
    assert corpus.source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["x.tsv.gz", "X.TSV.GZ"])
def test_compressed_tsv_has_groups(tmp_path, name):
    lines = list(map("\t".join, GROUPS))
    assert TextCorpus.load(write(tmp_path / name, lines, gzip.open)).source.groups == len(GROUPS)


def test_a_tab_in_plain_text_is_a_space_but_a_table_is_no_plain_text(tmp_path):
    tabbed = "\t".join(GROUPS[0])
    plain = TextCorpus.load(write(tmp_path / "x.txt", [tabbed, *LINES]))
    assert (plain.source.groups, plain[0]) == (0, " ".join(GROUPS[0]))
    with pytest.raises(ValueError, match=r"x\.txt: \d+ of \d+ lines hold tabs; .* name the file \.tsv, else keep"):
        TextCorpus.load(write(tmp_path / "x.txt", list(map("\t".join, GROUPS))))


def test_byte_order_mark_blank_lines_and_missing_last_newline(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\n \n".join(LINES).encode())
    corpus = TextCorpus.load(path)
    assert corpus[0] == LINES[0]
    assert corpus[len(LINES) - 1] == LINES[-1]
    assert corpus.source.blank == 2 * (len(LINES) - 1)
    assert corpus.source.lines == 3 * len(LINES) - 2


def test_a_batch_is_padded_sentences_of_its_split(plain, tokenizer):
    text = plain.tokenise(tokenizer)
    tokens_BT = text.batch_at(0, 0, 0, 1, 8)
    assert tokens_BT.dtype == np.int64
    assert tokens_BT.shape == (8, 16)
    assert (tokens_BT[:, 0] == BOS).all()
    assert (tokens_BT[:, 4] == EOS).all()
    assert (tokens_BT[:, 5:] == PAD).all()
    for split, sentences in by_split(plain).items():
        assert set(tokenizer.decode(text.batch_at(3, 7, 0, 1, 32, split))) <= sentences


def test_flat_ids_are_the_sentences_in_file_order(plain, tokenizer):
    tokens = plain.tokenise(tokenizer).tokens
    assert (tokens.ids.dtype, tokens.offsets.dtype) == (np.int32, np.int64)
    rows = np.split(tokens.ids, tokens.offsets[1:-1])
    assert [tokenizer.decode(row[None])[0] for row in rows[:20]] == LINES[:20]


def test_an_epoch_is_a_permutation_without_replacement_and_the_next_is_another(plain, tokenizer):
    text = plain.tokenise(tokenizer)
    count = len(text.rows())
    seen = [tokenizer.decode(text.batch_at(5, step, 0, 1, 7)) for step in range(2 * count // 7 + 1)]
    drawn = [sentence for batch in seen for sentence in batch]
    first, second = drawn[:count], drawn[count : 2 * count]
    assert sorted(first) == sorted(second) == sorted(plain.sentences())
    assert first != second
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 10


def test_ranks_share_the_global_batch_in_any_world(plain, tokenizer):
    text = plain.tokenise(tokenizer)
    for step in (0, 3, 50):  # step 50 crosses an epoch
        whole = text.batch_at(1, step, 0, 1, 24)
        for world in (2, 3):
            parts = [text.batch_at(1, step, rank, world, 24) for rank in range(world)]
            assert np.array_equal(np.concatenate(parts), whole)
    assert not np.array_equal(text.batch_at(2, 0, 0, 1, 24), text.batch_at(1, 0, 0, 1, 24))
    assert text.batch_at(0, 0, 0, 1, 5 * len(LINES), "test").shape[0] == 5 * len(LINES)


def test_the_same_batch_in_a_fresh_corpus_and_after_other_steps(plain, tokenizer):
    text, again = plain.tokenise(tokenizer), plain.tokenise(tokenizer)
    wanted = text.batch_at(9, 500, 0, 1, 16)
    epoch_order.cache_clear()
    again.batch_at(9, 3, 0, 1, 16)
    assert np.array_equal(again.batch_at(9, 500, 0, 1, 16), wanted)


def test_the_order_of_an_epoch_is_frozen():
    assert epoch_order(0, 0, 8).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]
    assert sorted(epoch_order(7, 3, 1000).tolist()) == list(range(1000))
    with pytest.raises(ValueError, match="read-only"):
        epoch_order(0, 0, 8)[0] = 1


def test_pairs_are_two_different_members_of_one_group(grouped, tokenizer):
    text = grouped.tokenise(tokenizer)
    group_of = {cell: place for place, group in enumerate(GROUPS) for cell in group}
    slots = {cell: slot for group in GROUPS for slot, cell in enumerate(group)}
    count, seen = text.report()["group_splits"]["train"], []
    combinations = np.zeros((3, 3), dtype=int)
    for step in range(count // 4):
        pairs = text.pairs_at(3, step, 0, 1, 4)
        for first, second in zip(*map(tokenizer.decode, pairs), strict=True):
            assert group_of[first] == group_of[second]
            combinations[slots[first], slots[second]] += 1
            seen.append(group_of[first])
    assert len(set(seen)) == len(seen) == count // 4 * 4
    assert (np.diag(combinations) == 0).all()
    expected = len(seen) / 6
    assert (np.abs(combinations[~np.eye(3, dtype=bool)] - expected) < 5 * expected**0.5).all()


def test_pairs_are_pure_and_shared_by_ranks(grouped, tokenizer):
    text = grouped.tokenise(tokenizer)
    for step in (0, 1, 7, 200):
        whole = text.pairs_at(4, step, 0, 1, 6)
        parts = [text.pairs_at(4, step, rank, 3, 6) for rank in range(3)]
        for side in range(2):
            assert np.array_equal(np.concatenate([part[side] for part in parts]), whole[side])
    one, other = text.pairs_at(4, 0, 0, 1, 6), text.pairs_at(4, 100, 0, 1, 6)
    assert not np.array_equal(one.first, other.first)


def test_sorted_pairs_are_the_same_pairs_in_batches_of_like_lengths(tmp_path):
    groups = [[f"{'very ' * (7 * i % 11)}red {i}", f"red {i}{' indeed' * (5 * i % 7)}"] for i in range(200)]
    corpus = TextCorpus.load(write(tmp_path / "x.tsv", ["\t".join(group) for group in groups]))
    tokenizer = Tokenizer.train(corpus.sentences("train"), 400)
    text = corpus.tokenise(tokenizer)

    def drawn(steps: range, **how: int) -> list[list[tuple[str, str]]]:
        batches = [text.pairs_at(4, step, 0, 1, 8, **how) for step in steps]
        return [list(zip(*map(tokenizer.decode, pairs), strict=True)) for pairs in batches]

    plain, ordered = drawn(range(8, 16)), drawn(range(8, 16), sort_within=8)
    assert sorted(chain(*plain)) == sorted(chain(*ordered))
    spread = [np.ptp([max(len(a.split()), len(b.split())) for a, b in batch]) for batch in ordered]
    assert np.median(spread) <= 2
    longest = [max(len(a.split()) for a, _ in batch) for batch in ordered]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))  # short ones first would be a curriculum
    whole = text.pairs_at(4, 9, 0, 1, 8, sort_within=8)
    parts = [text.pairs_at(4, 9, rank, 2, 8, sort_within=8) for rank in range(2)]
    for side in range(2):
        assert [t for part in parts for t in tokenizer.decode(part[side])] == tokenizer.decode(whole[side])


def test_pairs_split_by_split(grouped, tokenizer):
    text = grouped.tokenise(tokenizer)
    for split, sentences in by_split(grouped).items():
        assert set(tokenizer.decode(text.pairs_at(0, 2, 0, 1, 64, split).second)) <= sentences


def test_over_long_sentences_are_dropped_and_counted_or_refused(plain, tmp_path, tokenizer):
    corpus = TextCorpus.load(write(tmp_path / "x.txt", [*LINES, "a b " * 40, "c d " * 50]))
    text = corpus.tokenise(tokenizer)
    report = text.report()
    assert report["too_long"] == 2
    assert report["splits"] == plain.tokenise(tokenizer).report()["splits"]
    assert report["tokens_per_sentence"] == {"p5": 5.0, "p50": 5.0, "p95": 5.0, "max": 5}
    with pytest.raises(ValueError, match=r"2 of 642 .* more than 64 tokens, the longest 102 \('c d.*on_long='drop'"):
        corpus.tokenise(tokenizer, on_long="refuse")
    with pytest.raises(ValueError, match=r"all 642 .* more than 4 tokens, the shortest 5"):
        corpus.tokenise(tokenizer, max_length=4)


def test_a_group_with_one_member_short_enough_is_not_drawn(tmp_path, tokenizer):
    lines = [*map("\t".join, GROUPS), f"q r\t{'a b ' * 40}", f"q s\tq t\t{'a b ' * 41}"]
    text = TextCorpus.load(write(tmp_path / "x.tsv", lines)).tokenise(tokenizer)
    report = text.report()
    assert (report["groups"], report["groups_too_long"], report["too_long"]) == (len(lines), 1, 2)
    assert np.diff(text.groups.offsets).tolist() == [3] * len(GROUPS) + [2]


def test_a_group_of_one_sentence_said_twice_is_dropped_and_counted(tmp_path):
    lines = [*map("\t".join, GROUPS), "q r\tQ  r\t q r", ""]
    source = TextCorpus.load(write(tmp_path / "x.tsv", lines)).source
    assert (source.groups, source.groups_dropped, source.duplicates, source.blank) == (len(GROUPS), 1, 2, 1)


def test_the_report_is_json_and_counts_unknown_tokens(plain):
    report = plain.tokenise(Tokenizer.train(["a b c d e f g h"], 64, "word")).report()
    assert json.loads(json.dumps(report)) == report
    assert report["unknown_share"] == pytest.approx(2 / 5)
    assert (report["file"], report["lines"], report["sentences"]) == ("corpus.txt", 640, 640)
    assert len(report["sha256"]) == len(report["tokenizer"]) == 64


def damaged(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    return path


ENOUGH = "\n".join(LINES).encode()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", b"", "the file is empty"),
        ("x.txt.gz", gzip.compress(b"", mtime=0), "the file is empty"),
        ("x.txt", b"\n  \n\t\n", "only blank lines"),
        ("x.txt", b"good\nb\xe9ad\n" + ENOUGH, r"line 2, byte 2 \(0xe9\) is not UTF-8"),
        ("x.txt", "good\n".encode("utf-16"), "line 1, byte 4 is NUL: a binary or UTF-16"),
        ("x.txt", ENOUGH + b"\nab\0c", "line 641, byte 3 is NUL"),
        ("x.txt", b"a" * (1 << 21), "line 1 is longer than 1048576 bytes"),
        ("x.txt.gz", ENOUGH, "damaged or not a .gz file"),
        ("x.txt.gz", gzip.compress(ENOUGH, mtime=0)[:200], "damaged or not a .gz file"),
        ("x.txt.gz", gzip.compress(ENOUGH, mtime=0)[:30] + b"\xff" * 500, "damaged or not a .gz file"),
        ("x.txt.xz", ENOUGH, "damaged or not a .xz file"),
        ("x.txt.xz", lzma.compress(ENOUGH)[:200], "damaged or not a .xz file"),
        ("x.txt", b"a\nb\nc\n", "too few sentences to split: none falls to 'validation'"),
        ("x.tsv", b"a b\ta c\na d\t \n", "line 2 holds one sentence; in a TSV"),
        ("x.csv", b"7,a b\n", "is a table; write its column of sentences into a .txt file, one a line .docs.own-text"),
        ("x.JSON.xz", b"", "is JSON; write its sentences into a .txt file, one a line .docs.own-text"),
        ("x.jsonl", b"{}\n", "is JSON; write its sentences"),
        ("x.tsv", b"a b\tA b\nc d\tc  d\n", "no line holds two different sentences"),
    ],
)
def test_unusable_files_are_refused_in_one_line(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message) as error:
        TextCorpus.load(damaged(tmp_path, name, content))
    assert "\n" not in str(error.value)
    assert str(tmp_path / name) in str(error.value)


def test_missing_files_folders_and_unreadable_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none.txt does not exist"):
        TextCorpus.load(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="is a folder; name a text file"):
        TextCorpus.load(tmp_path)
    with pytest.raises(ValueError, match=r"x cannot be read: File name too long; give another path$"):
        TextCorpus.load(tmp_path / ("x" * 300))
    write(tmp_path / "file", ["a"])
    with pytest.raises(ValueError, match="cannot be read: Not a directory"):
        TextCorpus.load(tmp_path / "file" / "x.txt")


@pytest.mark.parametrize("shares", [(-0.1, 0.1), (0.5, 0.5), (float("nan"), 0.1)])
def test_shares_out_of_range_are_refused(tmp_path, shares):
    with pytest.raises(ValueError, match="allowed: 0 or more each, less than 1 together"):
        TextCorpus.load(write(tmp_path / "x.txt", LINES), *shares)


def test_a_share_of_zero_leaves_a_split_out(tmp_path):
    corpus = TextCorpus.load(write(tmp_path / "x.txt", ["one", "two"]), validation=0, test=0)
    assert {split: len(found) for split, found in by_split(corpus).items()} == {"train": 2, "validation": 0, "test": 0}


def test_bad_questions_are_refused(plain, grouped, tokenizer):
    text = plain.tokenise(tokenizer)
    with pytest.raises(ValueError, match="no split 'val'"):
        text.rows("val")
    with pytest.raises(ValueError, match="batch size 7 on 2 processes; allowed: a positive multiple of 2"):
        text.batch_at(0, 0, 0, 2, 7)
    with pytest.raises(ValueError, match=r"corpus.txt has no group of paraphrases in 'train': pairs need a .tsv"):
        text.pairs_at(0, 0, 0, 1, 4)
    with pytest.raises(ValueError, match="on_long 'cut'"):
        plain.tokenise(tokenizer, on_long="cut")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcdefghij"), min_size=2, max_size=4), min_size=1, max_size=12))
def test_no_sentence_is_ever_in_two_splits(tmp_path_factory, groups):
    path = tmp_path_factory.mktemp("groups") / "x.tsv"
    extra = [f"{line}\t{line} z" for line in LINES[:300]]
    corpus = TextCorpus.load(write(path, [*map("\t".join, groups), *extra]), validation=0.3, test=0.3)
    splits = by_split(corpus)
    assert sum(map(len, splits.values())) == len(set().union(*splits.values())) == len(corpus)
    for group in groups:
        assert len({split for split in SPLITS if splits[split] & set(group)}) == 1


@pytest.mark.realdata
def test_real_captions_load_and_tokenise_in_seconds(tmp_path):
    folder = Path(os.environ.get("INSCAPE_DATA", "")) / "multi30k"
    if "INSCAPE_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("set INSCAPE_DATA to a folder that holds multi30k/train.1.en.gz .. train.5.en.gz")
    files = [folder / f"train.{place}.en.gz" for place in range(1, 6)]
    columns = [gzip.decompress(file.read_bytes()).decode().splitlines() for file in files]
    path = write(tmp_path / "captions.tsv", map("\t".join, zip(*columns, strict=True)))
    tokenizer = Tokenizer.train(columns[0], 4000)
    start = time.perf_counter()
    report = TextCorpus.load(path).tokenise(tokenizer).report()
    assert time.perf_counter() - start < 20
    assert report["groups"] == len(columns[0])
    assert report["unknown_share"] == 0


# --- what a split must not part, and what is a sample of it ---------------------------------------------------------


@pytest.mark.parametrize("columns", [1, 2])
def test_sentences_that_differ_in_signs_alone_stay_in_one_split(tmp_path, columns):
    """Two sentences, two spellings, two groups; one split."""
    signs = ("{}.", "{}", "{}!", "\u201c{}\u201d", "\u200b{}")
    rows = [
        [sign.format(f"{verb} dog {i} runs") for verb in ("a", "the")[:columns]] for i in range(400) for sign in signs
    ]
    corpus = TextCorpus.load(write(tmp_path / f"x.{'tsv' if columns == 2 else 'txt'}", list(map("\t".join, rows))))
    assert len(corpus) == 400 * len(signs) * columns
    of_scene = {}
    for number in range(len(corpus)):
        digits = "".join(filter(str.isdigit, corpus[number]))
        of_scene.setdefault(digits, set()).add(int(corpus.split_S[number]))
    assert all(len(splits) == 1 for splits in of_scene.values())
    assert {place for splits in of_scene.values() for place in splits} == {0, 1, 2}


def test_signs_alone_are_sentences_of_their_own(tmp_path):
    corpus = TextCorpus.load(write(tmp_path / "x.txt", ["!", "?", "\u2014", *LINES]))
    assert len(corpus) == len(LINES) + 3


def test_a_sample_of_a_sorted_file_is_no_corner_of_it(tmp_path, tokenizer):
    """Lines sorted by length: the first held-out ones must not be the shortest."""
    lines = sorted((f"{'red ' * (1 + i % 12)}ball {i}" for i in range(4000)), key=len)
    text = TextCorpus.load(write(tmp_path / "x.txt", lines)).tokenise(tokenizer, 64)
    sampled, rows = text.sampled("test"), text.rows("test")
    assert sorted(sampled.tolist()) == rows.tolist()
    assert (sampled == text.sampled("test")).all()
    middle = np.median(rows)
    assert 0.35 < (sampled[: len(rows) // 2] < middle).mean() < 0.65
    grouped = write(tmp_path / "x.tsv", [f"{line}\tthe {line}" for line in lines])
    pairs = TextCorpus.load(grouped).tokenise(tokenizer, 64).pairs("test")
    firsts = np.array([first for first, _ in pairs])
    assert 0.3 < (firsts[: len(firsts) // 2] < np.median(firsts)).mean() < 0.7
    assert all(second == first + 1 for first, second in pairs)


def test_plain_batches_of_like_lengths_hold_the_same_sentences(tmp_path, tokenizer):
    lines = [f"{'red ' * (1 + 4 * (i % 12))}ball {i}" for i in range(600)]
    text = TextCorpus.load(write(tmp_path / "x.txt", lines)).tokenise(tokenizer, 64)

    def drawn(**how):
        batches = [text.batch_at(3, step, 0, 1, 16, **how) for step in range(8)]
        return batches, sorted(row[row > 0].tobytes() for batch in batches for row in batch)

    apart, sentences = drawn()
    alike, again = drawn(sort_within=8)
    assert again == sentences
    assert sum(batch.size for batch in alike) < 0.8 * sum(batch.size for batch in apart)
    halves = [text.batch_at(3, 5, rank, 2, 16, sort_within=8) for rank in (0, 1)]
    whole = [row[row > 0].tobytes() for row in alike[5]]
    assert [row[row > 0].tobytes() for half in halves for row in half] == whole


def test_columns_that_are_no_paraphrases_are_named(tmp_path):
    pairs = [f"a red ball {i}\tthe red ball {i}" for i in range(500)]
    with pytest.raises(ValueError, match=r"500 of 1500 sentences have no letter, the first '0' in line 1; a column of"):
        TextCorpus.load(write(tmp_path / "ids.tsv", [f"{i}\t{pair}" for i, pair in enumerate(pairs)]))
    with pytest.raises(
        ValueError, match=r"1001 of 1001 sentences do, 500 groups by 'entailment': leave out what is no"
    ):
        TextCorpus.load(write(tmp_path / "labels.tsv", [f"{pair}\tentailment" for pair in pairs]))
    assert len(TextCorpus.load(write(tmp_path / "few.tsv", [*pairs, "7\tseven"]))) == 1002


def test_whether_a_file_holds_a_sentence(plain):
    assert plain.holds(LINES[3].upper() + " !")
    assert not plain.holds("no such sentence at all")
