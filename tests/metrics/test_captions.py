"""The table of captioning on planted captioners: a good one, one that says the same of all, one that is stuck."""

import inspect
import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inscape.core.estimate import proportion
from inscape.metrics.bleu import bleu
from inscape.metrics.captions import (
    coco_rouge_l,
    degenerate_share,
    distinct_share,
    measure_captions,
    rerank,
    spider,
)
from inscape.metrics.cider import DocumentFrequencies, cider_d

CLIPS = 60
TEXTS = st.lists(st.sampled_from(["a", "dog", "barks", "loudly"]), max_size=9).map(" ".join)


@pytest.fixture(scope="module")
def references():
    """Five captions of each clip, which share its own words in changing order and number."""
    draw = np.random.default_rng(0)
    return [
        [" ".join(["a", *(f"c{clip}x{i}" for i in draw.permutation(6)[:5]), "nearby"]) for _ in range(5)]
        for clip in range(CLIPS)
    ]


def plain_rouge_l(candidate, references):
    """ROUGE-L by its recursion: Lin 2004, with the COCO evaluation's best precision, best recall, and beta of 1.2."""

    @cache
    def common(a, b):
        if not a or not b:
            return 0
        if a[-1] == b[-1]:
            return common(a[:-1], b[:-1]) + 1
        return max(common(a[:-1], b), common(a, b[:-1]))

    own = tuple(candidate.split())
    shared = [(common(own, tuple(reference.split())), len(reference.split())) for reference in references]
    if not own or not any(length for length, _ in shared):
        return 0.0
    precision, recall = max(n for n, _ in shared) / len(own), max(n / length for n, length in shared if length)
    return (1 + 1.44) * precision * recall / (recall + 1.44 * precision)


# --- the table ------------------------------------------------------------------------------------------------------


def test_what_is_measured_is_what_its_parts_say(references):
    candidates, corpus = [of_clip[0] for of_clip in references], [of_clip[1:] for of_clip in references]
    frequencies = DocumentFrequencies.of(references)
    found = measure_captions(candidates, corpus, frequencies=frequencies)
    assert list(found) == ["cider", "bleu_4", "rouge_l", "degenerate_share", "distinct_share"]
    assert found["cider"].value == pytest.approx(100 * cider_d(candidates, corpus, frequencies=frequencies).mean())
    assert found["bleu_4"] == bleu(candidates, corpus).bleu_4
    assert found["rouge_l"].value == pytest.approx(coco_rouge_l(candidates, corpus).mean())
    assert {(estimate.n, estimate.unit) for estimate in found.values()} == {(CLIPS, "clips")}
    assert all(estimate.low <= estimate.value <= estimate.high for estimate in found.values())


def test_captioners_that_were_planted(references):
    good = measure_captions([of_clip[0] for of_clip in references], references, frequencies=None)
    shuffled = measure_captions(
        [of_clip[0] for of_clip in references[1:] + references[:1]], references, frequencies=None
    )
    same = measure_captions([references[0][0]] * CLIPS, references, frequencies=None)
    stuck = measure_captions(["a a a a a nearby"] * CLIPS, references, frequencies=None)
    assert good["cider"].low > 200
    assert shuffled["cider"].value == pytest.approx(0, abs=1e-9)
    assert same["cider"].value > 0, "the clip that it speaks of"
    assert (good["degenerate_share"].value, stuck["degenerate_share"].value) == (0, 1)
    assert good["degenerate_share"].high > 0, "sixty of sixty is no certainty"
    assert (good["distinct_share"].value, shuffled["distinct_share"].value) == (1, 1)
    assert same["distinct_share"].value == pytest.approx(1 / CLIPS)
    assert good["bleu_4"].value == pytest.approx(1)
    assert good["rouge_l"].value == 1


def test_groups_are_resampled_whole(references):
    candidates = [of_clip[0] if clip < 30 else "rain" for clip, of_clip in enumerate(references)]
    groups = [clip // 10 for clip in range(CLIPS)]
    alone, together = (
        measure_captions(candidates, references, frequencies=None, groups=given, unit="recordings")
        for given in (None, groups)
    )
    for name, estimate in together.items():
        assert estimate.n == 6
        assert estimate.unit == "recordings"
        assert estimate.value == pytest.approx(alone[name].value)
    assert together["cider"].high - together["cider"].low > 2 * (alone["cider"].high - alone["cider"].low)


def test_no_captions_are_not_measured():
    assert not any(found.measured for found in measure_captions([], [], frequencies=None).values())


def test_shares():
    found = degenerate_share(["", "a dog", "a a a a", "rain"])
    assert (found.value, found.n) == (0.5, 4)
    distinct = distinct_share(["A dog.", "a dog", "rain", "wind"], unit="captions")
    assert (distinct.value, distinct.n, distinct.unit) == (pytest.approx(3 / 4), 4, "captions")


# --- ROUGE-L and SPIDEr ---------------------------------------------------------------------------------------------


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=4))
def test_rouge_l_is_what_its_definition_says(candidate, of_clip):
    assert coco_rouge_l([candidate], [of_clip])[0] == pytest.approx(plain_rouge_l(candidate, of_clip), abs=1e-12)


def test_rouge_l_equals_pycocoevalcap():
    theirs = pytest.importorskip("pycocoevalcap.rouge.rouge").Rouge()
    draw = np.random.default_rng(1)
    for _ in range(300):
        candidate, *of_clip = (
            " ".join(f"w{word}" for word in draw.integers(0, 8, draw.integers(1, 12)))
            for _ in range(draw.integers(2, 7))
        )
        assert coco_rouge_l([candidate], [of_clip])[0] == pytest.approx(
            theirs.calc_score([candidate], of_clip), abs=1e-9
        )


def test_rouge_l_takes_precision_and_recall_from_different_references():
    found = coco_rouge_l(["a b c d"], [["a b c d e f g h", "a b"]])[0]
    assert found == pytest.approx(1.0), "all it says is in the first, all of the second is said"


def test_spider_is_the_mean_of_both_and_not_measured_without_spice(references):
    candidates = [of_clip[0] for of_clip in references]
    without = spider(candidates, references, frequencies=None)
    assert (without.n, without.measured) == (0, False)
    found = spider(candidates, references, frequencies=None, spice=lambda texts, _: [0.2] * len(texts))
    assert found.value == pytest.approx(50 * (cider_d(candidates, references).mean() + 0.2))
    assert found.n == CLIPS
    of_one = DocumentFrequencies.of(references[:1])
    alone = spider(candidates, references, frequencies=of_one, spice=lambda texts, _: [0.2] * len(texts))
    assert alone.n == 0, "CIDEr of a single clip under its own frequencies is no measure"


@pytest.mark.parametrize("scores", [[0.1], [0.1, 20.0], [0.1, math.nan], [[0.1, 0.2]]])
def test_a_spice_that_gives_something_else_is_refused(scores):
    with pytest.raises(ValueError, match=r"wanted 2 in \[0, 1\]"):
        spider(["a", "b"], [["a"], ["b"]], frequencies=None, spice=lambda *_: scores)


# --- reranking ------------------------------------------------------------------------------------------------------


def test_a_reranker_cannot_be_given_references():
    assert list(inspect.signature(rerank).parameters) == [
        "candidates",
        "log_probabilities",
        "similarities",
        "weight",
    ]


def test_rerank_by_log_probability_per_word_and_similarity():
    candidates = [["a dog barks loudly", "rain", ""], ["wind", "wind."]]
    logs, alike = [[-4.0, -2.0, -0.1], [-1.0, -1.0]], [[0.1, 0.7, 0.9], [0.3, 0.3]]
    assert rerank(candidates, logs, alike, 0) == [0, 0], "per word: -1 against -2; of two as good the first"
    assert rerank(candidates, logs, alike, 1) == [0, 0]
    assert rerank(candidates, logs, alike, 2) == [1, 0]
    assert rerank([["", "rain"]], [[-0.1, -9.0]], [[1.0, -1.0]], 5) == [1], "nothing is no caption"
    assert rerank([], [], [], 1) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([["a"]], [[-1.0]], [[0.5]], -1), "weight=-1"),
        (([["a"]], [[-1.0]], [[0.5]], math.nan), "weight=nan"),
        (([["a"]], [], [[0.5]], 1), "0 of log-probabilities"),
        (([["a"], []], [[-1.0], []], [[0.5], []], 1), "clip 1 wants a list of candidates"),
        (([["a", "b"]], [[-1.0]], [[0.5, 0.5]], 1), "clip 0 wants a list of candidates"),
        ((["ab"], [[-1.0, -1.0]], [[0.5, 0.5]], 1), "clip 0 wants a list of candidates"),
        (([["a"]], [[0.7]], [[0.5]], 1), "at most 0"),
        (([["a"]], [[-math.inf]], [[0.5]], 1), "finite"),
        (([["a"]], [[-1.0]], [[math.nan]], 1), "finite"),
    ],
)
def test_nonsense_for_a_reranker_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message) as refusal:
        rerank(*arguments)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("candidates", "of_clips", "groups", "message"),
    [
        (["a"], [["a"], ["b"]], None, "given 1 captions"),
        (["a", "b"], [["a"], []], None, "is empty"),
        ("ab", [["a"], ["b"]], None, "one text"),
        (["a", "b"], ["a", "b"], None, "one text"),
        (["a", "b"], [["a"], ["b"]], [1], "given 1 groups and 2 clips"),
    ],
)
def test_nonsense_is_refused(candidates, of_clips, groups, message):
    with pytest.raises(ValueError, match=message) as refusal:
        measure_captions(candidates, of_clips, frequencies=None, groups=groups)
    assert "\n" not in str(refusal.value)


def test_of_groups_too_none_stuck_is_no_certainty():
    said = [f"a dog barks {i}" for i in range(40)]
    groups = [i // 4 for i in range(40)]
    found, wilson = degenerate_share(said, groups=groups, unit="recordings"), proportion(0, 10, "recordings")
    assert (found.value, found.n, found.unit) == (0, 10, "recordings")
    assert found.high == pytest.approx(wilson.high)
    assert found.high > 0.2
    some = degenerate_share(["" if i < 20 else each for i, each in enumerate(said)], groups=groups, unit="recordings")
    assert some.low <= proportion(5, 10, "recordings").low < 0.5 < some.high


def test_one_text_is_no_list_of_captions():
    for share in (degenerate_share, distinct_share):
        with pytest.raises(ValueError, match="given one text"):
            share("a dog")
