"""The words of captions against Stanford's tokenizer, and which captions are stuck."""

import csv
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inscape.metrics.caption_words import degenerate, words

TEXTS = st.text(alphabet="abnt s'’-.,:;!?\"()5 ", max_size=30)

# What Stanford's PTBTokenizer (CoreNLP 3.4.1, -lowerCase) gives, less pycocoevalcap's signs.
TOKENIZED = [
    ("A dog barks, and a man speaks.", "a dog barks and a man speaks"),
    ("A dog's bark isn't loud; they're far", "a dog 's bark is n't loud they 're far"),
    ("People can't see the dogs' bark; she'd cannot", "people ca n't see the dogs bark she 'd can not"),
    ("High-pitched -- mid-size clip-clops - then silence...", "high-pitched mid-size clip-clops then silence"),
    ("it is 3.5, or 10,000, at 10:30: five o'clock", "it is 3.5 or 10,000 at 10:30 five o'clock"),
    ("Wind – rain—hail--sleet … end", "wind rain hail sleet end"),
    ('"Hello!" (yes?)', "hello yes"),
    ("“It’s” 'loud'", "it 's loud"),
    ("He's gonna rock'n'roll & man/woman", "he 's gon na rock'n'roll & man/woman"),
    ("  \t\n ", ""),
    ("...", ""),
]


@pytest.mark.parametrize(("caption", "expected"), TOKENIZED)
def test_words(caption, expected):
    assert words(caption) == expected.split()


@given(TEXTS)
def test_words_hold_no_space_and_no_sign_alone(text):
    for word in words(text):
        assert word == word.lower()
        assert any(letter.isalnum() for letter in word)
        assert not set(word) & set(' ;!?"()’')


@given(st.lists(st.sampled_from(["a", "dog", "barks", "high-pitched", "3.5"])).map(" ".join))
def test_plain_words_stay_as_they_are(text):
    assert words(text) == text.split() == words(text.upper() + ".")


@pytest.mark.realdata
def test_few_real_captions_differ_from_stanfords_tokenizer():
    module = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer")
    folder = Path(os.environ.get("INSCAPE_DATA", "")) / "audiocaps"
    if "INSCAPE_DATA" not in os.environ or not folder.is_dir() or shutil.which("java") is None:
        pytest.skip("needs Java, and INSCAPE_DATA set to a folder that holds audiocaps/train.csv and val.csv")
    captions = []
    for split in ("train", "val"):
        with (folder / f"{split}.csv").open(encoding="utf-8", newline="") as file:
            captions += [row["caption"] for row in csv.DictReader(file)]
    theirs = module.PTBTokenizer().tokenize({i: [{"caption": caption}] for i, caption in enumerate(captions)})
    different = [caption for i, caption in enumerate(captions) if words(caption) != theirs[i][0].split()]
    assert len(captions) == 52_313
    assert len(different) <= 18, different


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("", "empty"),
        (" . ", "empty"),
        ("a dog dog dog dog barks", '"dog" 4 times in a row'),
        ("Knock, knock! Knock? knock knock", '"knock" 5 times in a row'),
        ("a dog barks a dog barks a dog barks", '"a dog barks" 3 times in a row'),
        ("then the wind the wind the wind", '"the wind" 3 times in a row'),
        ("a b c a c b d b b c a", ""),
        ("a b b a a b a b b a", "2 distinct of 10 words"),
        ("a b c b a c a c b", ""),  # just a third
        ("a b a b b a b a", ""),  # eight words are too few to judge
        ("very very very loud", ""),
        ("a dog barks a dog barks and a man speaks", ""),
        ("a man speaks over intermittent keyboard taps", ""),
    ],
)
def test_degenerate(caption, reason):
    assert degenerate(caption) == reason


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=5), st.integers(3, 5), st.lists(st.sampled_from("xyz")))
def test_whatever_comes_three_times_in_a_row_is_seen(repeated, times, before):
    assert degenerate(" ".join(before + repeated * times))


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=60, unique=True))
def test_words_that_all_differ_are_never_stuck(numbers):
    assert degenerate(" ".join(f"w{number}" for number in numbers)) == ""
