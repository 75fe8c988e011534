"""Every wording means its scene, no string means two, and the number of sentences is what is printed."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inscape.data.scenes import (
    Fact,
    Object,
    Scene,
    canonical,
    count_sentences,
    is_plain,
    parse,
    render,
    sample,
    wordings,
)
from inscape.data.scenes.grammar import (
    COLOUR_WORDS,
    CONJUNCTIONS,
    NOUNS,
    PATTERNS,
    PATTERNS_OF,
    PHRASES,
    PHRASES_OF,
    SIZE_WORDS,
    WORDS,
)
from inscape.data.scenes.parser import read
from inscape.data.scenes.scene import INVERSES, OBJECTS, RELATIONS, fact_from_code, scene_from_codes
from inscape.data.scenes.wording import Sentence, clause_for, meaning, write

RED_BALL, BLUE_BLOCK = Object(1, None, "red", "ball"), Object(1, None, "blue", "block")
TWO_CONES, STAR = Object(2, None, "green", "cone"), Object(1, "medium", "orange", "star")

facts = st.builds(Fact, st.sampled_from([*RELATIONS, *INVERSES]), st.sampled_from(OBJECTS), st.sampled_from(OBJECTS))
scenes = st.builds(Scene, st.lists(facts, min_size=1, max_size=3))


def one_fact_scenes(objects):
    return {Scene([Fact(r, a, b)]) for r in RELATIONS for a, b in itertools.permutations(objects, 2)}


@given(scenes, st.integers(0, 2**32))
@settings(max_examples=400, deadline=None)
def test_parse_gives_back_every_scene_in_any_wording(scene, seed):
    assert parse(render(scene, np.random.default_rng(seed))) == scene
    assert parse(canonical(scene)) == scene
    assert scene_from_codes(scene.codes) == scene


def test_every_wording_of_many_one_fact_scenes_is_read_back_and_no_string_means_two_scenes():
    seen = {}
    for scene in one_fact_scenes([RED_BALL, BLUE_BLOCK, TWO_CONES, STAR]):
        count = 0
        for text in wordings(scene):
            assert parse(text) == scene
            assert seen.setdefault(text, scene) == scene
            count += 1
        assert count > 200
    assert len(seen) > 50_000


@pytest.mark.parametrize("first", ["plain", "rich"])
def test_every_pattern_with_every_number_and_every_noun_phrase_is_read_back(first):
    if first == "plain":
        choices = itertools.product(range(len(PATTERNS)), [0, PHRASES_OF[360][0]], [11, PHRASES_OF[361][0]])
    else:
        choices = ((phrase % len(PATTERNS), phrase, (7 * phrase + 1) % len(PHRASES)) for phrase in range(len(PHRASES)))
    for choice in choices:
        sentence = Sentence((clause_for(*choice),), ())
        text = write(sentence)
        assert write(read(text)) == text
        assert parse(text) == meaning(sentence)


def test_wordings_are_distinct_and_contain_what_render_draws():
    scene = Scene([Fact("inside", TWO_CONES, STAR)])
    every = list(wordings(scene))
    assert len(set(every)) == len(every)
    rng = np.random.default_rng(0)
    drawn = {render(scene, rng) for _ in range(10_000)}
    assert drawn <= set(every)
    assert len(drawn) > 0.9 * len(every)  # every family is reached


def test_wordings_of_two_facts_take_both_orders_and_both_conjunctions():
    scene = Scene([Fact("behind", RED_BALL, STAR), Fact("next to", TWO_CONES, BLUE_BLOCK)])
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        sentence = read(render(scene, rng))
        seen.add((sentence.conjunctions, PATTERNS[sentence.clauses[0].pattern].relation))
    assert seen == set(itertools.product([(0,), (1,)], ["in front of", "next to"]))
    for text in itertools.islice(wordings(scene), 0, 20_000, 19):
        assert parse(text) == scene


def test_the_ways_to_say_on():
    scene = Scene([Fact("on", RED_BALL, BLUE_BLOCK)])
    for text in (
        "the blue block supports a red ball",
        "a red ball is supported by the blue block",
        "a red ball is on the blue block",
        "on the blue block is a red ball",
        "under one red sphere lies the blue cube",
        "there is a red ball that sits atop a blue block",
        "there is a blue block which supports the red ball",
        "there is the red ball on top of a blue block",
        "on the blue block there is a red ball",
        "A red ball is on the blue block.",
    ):
        assert parse(text) == scene


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("a red ring contains a blue rod", "a blue stick is in the red hoop"),
        ("a red ring holds a blue rod", "within one red ring there is the blue rod"),
        ("a blue rod is held by a red ring", "the blue rod is contained in a red ring"),
        ("a gray star is to the left of two big red plates", "two huge red discs are right of the grey star"),
        ("a red cone is in front of the white star", "behind a red cone stands one white star"),
        ("a red cone is beside the white star", "next to a red cone is one white star"),
        ("a red cone is atop a red ball and a tiny red rod is behind a red star",
         "a red star lies in front of the little red stick while the red ball is beneath one red cone"),
    ],
)  # fmt: skip
def test_equal_meaning(a, b):
    assert parse(a) == parse(b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("a red ball is on a blue block", "a blue block is on a red ball"),
        ("a red ball is on a blue block", "a blue ball is on a red block"),
        ("a red ball is on a blue block", "the blue block contains a red ball"),
        ("a red ball is on a blue block", "a small red ball is on a blue block"),
        ("a red ball is on a blue block", "two red balls are on a blue block"),
        ("a red ball is left of a blue block", "left of a red ball is a blue block"),
    ],
)
def test_other_meaning(a, b):
    assert parse(a) != parse(b)


def test_scenes_are_normalised_values():
    assert Fact("under", RED_BALL, STAR) == Fact("on", STAR, RED_BALL)
    assert Fact("next to", RED_BALL, STAR) == Fact("next to", STAR, RED_BALL)
    a, b = Fact("on", RED_BALL, STAR), Fact("behind", TWO_CONES, BLUE_BLOCK)
    assert Scene([a, b]) == Scene([b, a, b])
    assert len({Scene([a, b]), Scene([b, a])}) == 1
    assert fact_from_code(b.code) == b
    assert not is_plain(Scene([Fact("on", RED_BALL, Object(2, "small", "red", "ball"))]))
    with pytest.raises(ValueError, match=r"Object.colour is 'pink'; allowed: red, blue"):
        Object(1, None, "pink", "ball")
    with pytest.raises(ValueError, match=r"Fact.relation is 'near'; allowed: on, left of"):
        Fact("near", RED_BALL, STAR)
    with pytest.raises(ValueError, match="1 to 3 different facts, given 0"):
        Scene([])


def regular_clause():
    """The clauses as one regular expression, written without the parser's automaton."""
    sizes = "|".join(word for words in SIZE_WORDS.values() for word in words if word)
    colours = "|".join(word for words in COLOUR_WORDS.values() for word in words)
    nouns = "|".join(word for words in NOUNS.values() for word in words)
    article = "(?:a (?![aeiou])|an (?=[aeiou])|the |one )"
    one = f"(?:{article}(?:(?:{sizes}) )?(?:{colours}) (?:{nouns}))"
    many = f"(?:(?:the )?(?:two|three|four) (?:(?:{sizes}) )?(?:{colours}) (?:{nouns})s)"
    clauses = set()
    for pattern in PATTERNS:
        for number, subject in enumerate((one, many)):
            first, second = (subject, f"(?:{one}|{many})")[:: 1 if pattern.subject_first else -1]
            clauses.add(" ".join(filter(None, (pattern.opening[number], first, pattern.linking[number], second))))
    return sorted(clauses)


def test_exactly_one_clause_form_fits_a_sentence_by_plain_regular_expressions():
    forms = [re.compile(form) for form in regular_clause()]
    rng = np.random.default_rng(1)
    for _ in range(100):
        text = render(sample(rng, facts=1), rng)
        assert sum(form.fullmatch(text) is not None for form in forms) == 1, text
    in_clauses = {w for p in PATTERNS for text in (*p.opening, *p.linking) for w in text.split()}
    assert not set(CONJUNCTIONS) & in_clauses  # so a sentence of several facts divides in one way only


def test_the_parser_accepts_exactly_what_the_regular_expression_does():
    clause = re.compile("|".join(f"(?:{form})" for form in regular_clause()))

    def fits(text):
        clauses = re.split(" (?:and|while) ", text)
        return len(clauses) <= 3 and all(clause.fullmatch(part) for part in clauses)

    rng = np.random.default_rng(2)
    accepted = Counter()
    for i in range(600):
        words = render(sample(rng, facts=1 + i % 2), rng).split()
        at, word = int(rng.integers(len(words))), str(rng.choice(WORDS))
        match i % 4:
            case 0:
                words[at] = word
            case 1:
                words.insert(at, word)
            case 2:
                del words[at]
            case 3:
                words[at], words[at - 1] = words[at - 1], words[at]
        text = " ".join(words)
        try:
            parse(text)
        except ValueError:
            assert not fits(text), text
            accepted[False] += 1
        else:
            assert fits(text), text
            accepted[True] += 1
    assert min(accepted.values()) > 10


def test_agreement_of_number():
    two, one = Object(2, None, "red", "ball"), Object(1, None, "blue", "ring")
    for text in itertools.islice(wordings(Scene([Fact("inside", two, one)])), 0, None, 3):
        assert re.search(r"\btwo red (ball|sphere)s\b", text)
        assert re.search(r"\b(a|the|one) blue (ring|hoop)\b", text)
        verb = re.search(r"\b(is|are|sit|sits|stand|stands|lie|lies|contains?|holds?)\b", text)
        assert verb is not None
        holds_many = verb[0] in ("are", "sit", "stand", "lie")
        subject_is_ring = re.search(r"contains?\b|holds?\b", text) is not None
        assert holds_many != subject_is_ring, text


def test_vocabulary_is_complete():
    wanted = """red blue green yellow orange purple black white brown gray grey block cube ball sphere cone ring hoop
        plate disc rod stick pyramid cylinder star small little tiny medium large big huge a an the one two three four
        on top of atop under below beneath underneath to left right in front behind inside within contains holds next
        beside supports supported by contained is are there that which sits stands lies and while balls discs"""
    assert set(wanted.split()) <= set(WORDS)
    assert len(WORDS) == 94


def test_weights_are_a_distribution_over_the_patterns_of_each_relation():
    for indices in PATTERNS_OF.values():
        assert sum(PATTERNS[i].weight for i in indices) == pytest.approx(1)
    on = [PATTERNS[i] for i in PATTERNS_OF["on"]]
    for kind in itertools.product(["preposition", "active", "passive"], [False, True]):
        share = sum(pattern.weight for pattern in on if (pattern.voice, pattern.swapped) == kind)
        assert share == pytest.approx(0 if kind in (("active", False), ("passive", True)) else 0.25)


def test_the_count_of_sentences_is_exact():
    assert count_sentences(1) == 42_221_564_928
    assert count_sentences() == sum(count_sentences(n) for n in (1, 2, 3)) > 10**7
    with pytest.raises(ValueError, match="facts is 4; allowed: 1 to 3"):
        count_sentences(4)
    # One fact, counted from the scenes instead of from the tables' sizes.
    phrases = np.array([len(indices) for indices in PHRASES_OF])
    names = np.bincount(np.arange(len(OBJECTS)) % 90, weights=phrases)
    pairs = phrases.sum() ** 2 - (names**2).sum()
    strings = {(p.opening, p.linking, p.subject_first) for p in PATTERNS}
    assert int(pairs) * len(strings) == count_sentences(1)
    assert len(list(wordings(Scene([Fact("on", TWO_CONES, STAR)])))) == len(PATTERNS_OF["on"]) * 2 * 3


def test_the_longest_sentence_fits_64_tokens_with_its_two_ends():
    longest = max(len(f"{p.opening[n]} {p.linking[n]}".split()) for p in PATTERNS for n in (0, 1)) + 2 * max(
        len(phrase.text.split()) for phrase in PHRASES
    )
    assert 3 * longest + 2 <= 62
