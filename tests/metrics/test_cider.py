"""CIDEr-D against pycocoevalcap, against its definition written out, by hand, and under which frequencies."""

import math
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inscape.metrics.caption_words import words
from inscape.metrics.cider import DocumentFrequencies, cider, cider_d, cider_difference

VOCABULARY = [f"w{number}" for number in range(60)]
CORPORA = [1] * 100 + [2] * 100 + [3] * 100 + [40] * 60 + [1000] * 3 + [4000]  # 10,000 clips
DUCKS = ["ducks quack loudly nearby", "a man speaks", "the wind blows", "a bell rings"]


def fuzzed_corpora(sizes=CORPORA, seed=0):
    """Corpora of random captions, some without a word, most near to one of the 1 to 5 references of their clip."""
    draw = np.random.default_rng(seed)
    chance = 1 / np.arange(1, len(VOCABULARY) + 1)

    def text(fewest=0):
        length = draw.integers(fewest, 13)
        return [VOCABULARY[i] for i in draw.choice(len(VOCABULARY), length, p=chance / chance.sum())]

    def near(source):
        return [word if draw.random() < 0.7 else VOCABULARY[draw.integers(60)] for word in source] + source[:2]

    for size in sizes:
        candidates, references = [], []
        for _ in range(size):
            own = [text(1), *(text() for _ in range(draw.integers(0, 5)))]
            candidates.append(" ".join(near(own[0]) if draw.random() < 0.7 else text()))
            references.append([" ".join(caption) for caption in own])
        yield candidates, references


def plain_cider_d(candidates, references, corpus=None):
    """CIDEr-D as it is written: Vedantam et al. 2015, equations 1 and 2, and section 5 for the clipping and length."""
    corpus = references if corpus is None else corpus

    def runs(text, n):
        split = text.split()
        return [tuple(split[i : i + n]) for i in range(len(split) - n + 1)]

    documents_with = Counter()
    for of_clip in corpus:
        documents_with.update({run for text in of_clip for n in (1, 2, 3, 4) for run in runs(text, n)})

    def vector(text, n):
        return {
            run: count * math.log(len(corpus) / max(1, documents_with[run]))
            for run, count in Counter(runs(text, n)).items()
        }

    def norm(weights):
        return math.sqrt(sum(weight**2 for weight in weights.values()))

    scores = []
    for candidate, of_clip in zip(candidates, references, strict=True):
        of_n = []
        for n in (1, 2, 3, 4):
            own, total = vector(candidate, n), 0.0
            for reference in of_clip:
                its = vector(reference, n)
                if norm(own) == 0 or norm(its) == 0:
                    continue
                dot = sum(min(own[run], its.get(run, 0)) * its.get(run, 0) for run in own)
                difference = len(candidate.split()) - len(reference.split())
                total += math.exp(-(difference**2) / (2 * 6**2)) * dot / (norm(own) * norm(its))
            of_n.append(10 / len(of_clip) * total)
        scores.append(sum(of_n) / 4)
    return scores


# --- the same as others ---------------------------------------------------------------------------------------------


def test_equals_pycocoevalcap_on_ten_thousand_fuzzed_clips():
    scorer_module = pytest.importorskip("pycocoevalcap.cider.cider_scorer")
    seen, above = 0, 0
    for candidates, references in fuzzed_corpora():
        scorer = scorer_module.CiderScorer(n=4, sigma=6.0)
        for candidate, of_clip in zip(candidates, references, strict=True):
            assert words(candidate) == candidate.split(), "both must read the same words"
            scorer += (candidate, of_clip)
        _, expected = scorer.compute_score()
        got = cider_d(candidates, references)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)
        seen, above = seen + len(got), above + int((got > 0.1).sum())
    assert seen == 10_000
    assert above > 6_000, "most clips must have something to compare"


def test_equals_the_definition_written_out():
    for candidates, references in fuzzed_corpora([1, 2, 3, 5, 40, 200, 1000], seed=1):
        np.testing.assert_allclose(
            cider_d(candidates, references), plain_cider_d(candidates, references), rtol=0, atol=1e-9
        )


def test_equals_the_definition_under_the_frequencies_of_another_corpus():
    (_, corpus), (candidates, references) = fuzzed_corpora([300, 50], seed=2)
    found = cider_d(candidates, references, frequencies=DocumentFrequencies.of(corpus))
    np.testing.assert_allclose(found, plain_cider_d(candidates, references, corpus), rtol=0, atol=1e-9)


# --- by hand --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        ("ducks quack loudly nearby", 10.0),
        ("Ducks quack, loudly, nearby.", 10.0),
        ("ducks quack loudly", 2.5 * math.exp(-1 / 72) * (math.sqrt(3 / 4) + math.sqrt(2 / 3) + math.sqrt(1 / 2))),
        ("nearby loudly quack ducks", 2.5),  # the words, and none of the longer runs
        ("ducks ducks ducks ducks", 2.5 / (4 * 2)),  # clipped: 1 * 1 of norms 4 and 2
        ("a man speaks", 0.0),
        ("", 0.0),
    ],
)
def test_by_hand(candidate, expected):
    references = [[caption] for caption in DUCKS]
    found = cider_d([candidate, *DUCKS[1:]], references)
    assert found[0] == pytest.approx(expected, abs=1e-12)
    assert found[1] == pytest.approx(7.5), "a caption of three words has no run of four"


def test_the_mean_is_over_references_and_common_words_count_nothing():
    alone = cider_d(["ducks quack"], [["ducks quack"]], frequencies=DocumentFrequencies.of([[text] for text in DUCKS]))
    two = cider_d(
        ["ducks quack"],
        [["ducks quack", "wind blows"]],
        frequencies=DocumentFrequencies.of([[text] for text in DUCKS]),
    )
    assert two[0] == pytest.approx(alone[0] / 2)
    everywhere = [["the ducks"], ["the wind"], ["the bell"]]
    assert cider_d(["the", "the wind", "the"], everywhere)[[0, 2]].tolist() == [0, 0]


# --- whose frequencies ----------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(VOCABULARY[:5]), max_size=8).map(" ".join))
def test_a_single_clip_under_its_own_frequencies_is_always_zero(caption):
    assert cider_d([caption], [[caption]]).tolist() == [0]
    assert not cider([caption], [[caption]], frequencies=None).measured, "not measured is never zero"
    assert not cider_difference([caption], [caption], [[caption]]).measured
    of_one = DocumentFrequencies.of([[caption]])
    assert cider([caption] * 5, [[caption]] * 5, frequencies=of_one).n == 0
    assert cider_difference([caption] * 5, [""] * 5, [[caption]] * 5, frequencies=of_one).n == 0


def test_single_clips_under_the_corpus_have_the_scores_of_the_whole():
    ((candidates, references),) = fuzzed_corpora([60], seed=3)
    frequencies = DocumentFrequencies.of(references)
    whole = cider_d(candidates, references)
    one_by_one = [
        cider_d([candidate], [of_clip], frequencies=frequencies)[0]
        for candidate, of_clip in zip(candidates, references, strict=True)
    ]
    assert one_by_one == whole.tolist()
    part = cider_d(candidates[:5], references[:5])
    assert np.abs(part - whole[:5]).max() > 0.1, "a part under its own frequencies is another measure"


def test_frequencies_count_clips_not_captions():
    found = DocumentFrequencies.of([["a duck", "a duck a duck"], ["A duck."], ["wind"]])
    assert found.documents == 3
    assert found.counts[("a",)] == found.counts[("a", "duck")] == 2
    assert found.counts[("duck", "a")] == found.counts[("a", "duck", "a", "duck")] == found.counts[("wind",)] == 1


# --- estimates ------------------------------------------------------------------------------------------------------


def test_the_estimate_is_a_hundred_times_the_mean():
    ((candidates, references),) = fuzzed_corpora([80], seed=4)
    scores = 100 * cider_d(candidates, references)
    found = cider(candidates, references)
    assert found.value == pytest.approx(scores.mean())
    assert found.low < found.value < found.high
    assert (found.n, found.unit) == (80, "clips")
    spread = 1.96 * scores.std() / math.sqrt(80)
    assert (found.high - found.low) / 2 == pytest.approx(spread, rel=0.1)
    grouped = cider(candidates, references, groups=[i // 4 for i in range(80)], unit="recordings")
    assert (grouped.value, grouped.n, grouped.unit) == (pytest.approx(scores.mean()), 20, "recordings")


def test_a_difference_is_paired():
    ((candidates, references),) = fuzzed_corpora([80], seed=5)
    worse = [*candidates[:76], *[""] * 4]
    found = cider_difference(candidates, worse, references)
    assert found.value == pytest.approx(cider(candidates, references).value - cider(worse, references).value)
    alone = cider(candidates, references)
    assert found.high - found.low < (alone.high - alone.low) / 2
    same = cider_difference(candidates, candidates, references)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_four_thousand_clips_take_seconds():
    draw = np.random.default_rng(6)
    chance = 1 / np.arange(1, 4001)
    drawn = draw.choice(4000, size=(4875, 6, 10), p=chance / chance.sum())
    texts = [[" ".join(f"w{word}" for word in caption) for caption in of_clip] for of_clip in drawn.tolist()]
    start = time.process_time()
    cider_d([of_clip[0] for of_clip in texts], [of_clip[1:] for of_clip in texts])
    assert time.process_time() - start < 6, "some 1.2 s of an idle core"


# --- nonsense -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        (["a"], [["a"], ["b"]], "given 1 captions and references of 2 clips"),
        (["a", "b"], [["a"], []], r"references\[1\] is empty"),
        ("ab", [["a"], ["b"]], "candidates: given one text"),
        (["a", "b"], "ab", "references: given one text"),
        (["a", "b"], ["a", "b"], r"references\[0\]: given one text, wanted a list"),
        (["a", None], [["a"], ["b"]], r"candidates\[1\] is NoneType"),
        (["a", "b"], [["a"], ["b", 3]], r"references\[1\]\[1\] is int"),
    ],
)
def test_nonsense_is_refused_in_one_line(candidates, references, message):
    for measure in (cider_d, cider):
        with pytest.raises(ValueError, match=message) as refusal:
            measure(candidates, references)
        assert "\n" not in str(refusal.value)


def test_a_corpus_without_clips_is_refused_and_no_captions_are_not_measured():
    with pytest.raises(ValueError, match="corpus without clips"):
        cider_d(["a"], [["a"]], frequencies=DocumentFrequencies.of([]))
    with pytest.raises(ValueError, match="no clip twice"):
        DocumentFrequencies({("a",): 3}, 2)
    with pytest.raises(ValueError, match="given 1 groups and 2 clips"):
        cider(["a", "b"], [["a"], ["b"]], groups=[0])
    assert cider_d([], []).shape == (0,)
    assert not cider([], []).measured
