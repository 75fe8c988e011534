"""Questions made from scenes: a reader that shares no code with them finds the answer by search, and only one."""

import re
from collections import Counter, defaultdict
from itertools import product

import numpy as np
import pytest

from inscape.data.questions import Question, draw_scene_questions, kind_of
from inscape.data.questions.scene_questions import KINDS
from inscape.data.scenes import parse
from inscape.data.scenes.grammar import COLOUR_WORDS, NOUNS, PHRASES, PHRASES_OF, SIZE_WORDS
from inscape.metrics.qa import exact_match, f1, metric_max_over_references, normalise_answer

NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4}
COLOUR_OF = {word: colour for colour, words in COLOUR_WORDS.items() for word in words}
SHAPE_OF = {word: shape for shape, words in NOUNS.items() for word in words}
SIZE_OF = {word: size for size, words in SIZE_WORDS.items() for word in words if word}

# What stands before the anchor -> (relation, whether the figure is asked for). Longest first.
LINKS = {
    "to the left of": ("left of", True),
    "to the right of": ("left of", False),
    "in front of": ("in front of", True),
    "behind": ("in front of", False),
    "next to": ("next to", True),
    "under": ("on", False),
    "inside": ("inside", True),
    "on": ("on", True),
    "that contains": ("inside", False),
    "that contain": ("inside", False),
    "contains": ("inside", False),
    "contain": ("inside", False),
}
LINK = f"(?P<link>{'|'.join(LINKS)}) the (?P<anchor_colour>\\w+) (?P<anchor>\\w+)"
FORMS = {
    "object": [rf"What (?:is )?{LINK}\?"],
    "place": [r"Where (?:is|are) the (?P<colour>\w+) (?P<noun>\w+)\?"],
    "colour": [r"What colour (?:is|are) the (?P<noun>\w+)\?", rf"What colour (?:is|are) the (?P<noun>\w+) {LINK}\?"],
    "shape": [r"What shape (?:is|are) the (?P<colour>\w+) things?(?: " + LINK + r")?\?"],
    "count": [
        r"How many (?P<colour>\w+) (?P<noun>\w+) are there\?",
        rf"How many (?P<noun>\w+) (?:are )?{LINK}\?",
    ],
}


def facts_of(context):
    """All facts of a context, each sentence read by the parser."""
    return [fact for sentence in re.split(r"(?<=\.) ", context) for fact in parse(sentence).facts]


def shape_of(noun):
    return SHAPE_OF.get(noun) or SHAPE_OF[noun.removesuffix("s")]


def said(thing, fields, colour, noun):
    """Whether the object is of the colour and shape that the question names, where it names them."""
    right_colour = fields.get(colour) is None or thing.colour == COLOUR_OF[fields[colour]]
    return right_colour and (fields.get(noun) is None or thing.shape == shape_of(fields[noun]))


def search(question):
    """Every (target, fact, target is the figure) of the context that the question could mean."""
    kind = kind_of(question)
    found = [match for form in FORMS[kind] if (match := re.fullmatch(form, question.question))]
    assert len(found) == 1, f"read in {len(found)} ways: {question.question}"
    fields = found[0].groupdict()
    for fact in facts_of(question.context):
        for target, anchor, figure in ((fact.figure, fact.ground, True), (fact.ground, fact.figure, False)):
            if not said(target, fields, "colour", "noun"):
                continue
            if fields.get("link"):
                relation, asks_figure = LINKS[fields["link"]]
                sides = relation == fact.relation and (asks_figure == figure or relation == "next to")
                if not sides or not said(anchor, fields, "anchor_colour", "anchor"):
                    continue
            yield target, fact, figure


def means(answer, thing):
    """Whether a noun phrase, with or without its determiner, count and size, can only name this thing."""
    words = answer.split()
    if words[0] in ("a", "an", "the"):
        words = words[1:]
    if words[0] in NUMBERS and NUMBERS[words.pop(0)] != thing.count:
        return False
    if words[0] in SIZE_OF and SIZE_OF[words.pop(0)] != thing.size:
        return False
    colour, noun = words
    plural = noun not in SHAPE_OF
    return (COLOUR_OF[colour], shape_of(noun), plural) == (thing.colour, thing.shape, thing.count > 1)


PLACES = {
    ("on", True): {"on", "on top of", "atop", "supported by"},
    ("on", False): {"under", "below", "beneath", "underneath"},
    ("left of", True): {"left of", "to the left of"},
    ("left of", False): {"right of", "to the right of"},
    ("in front of", True): {"in front of"},
    ("in front of", False): {"behind"},
    ("inside", True): {"inside", "in", "within", "contained in", "held by"},
    ("next to", True): {"next to", "beside"},
    ("next to", False): {"next to", "beside"},
}


def right(kind, answer, target, fact, figure):
    """Whether an answer is right, told from the scene alone."""
    if kind == "object":
        return means(answer, target)
    if kind == "colour":
        return COLOUR_OF[answer] == target.colour
    if kind == "shape":
        return shape_of(answer) == target.shape
    if kind == "count":
        return NUMBERS.get(answer, answer) in (target.count, str(target.count))
    anchor = fact.ground if figure else fact.figure
    links = [link for link in PLACES[fact.relation, figure] if answer.startswith(f"{link} ")]
    return any(answer.removeprefix(link).split()[0] in PLACE_STARTS and ends(answer, link, anchor) for link in links)


PLACE_STARTS = {"a", "an", "the", *NUMBERS, *SIZE_OF, *COLOUR_OF}


def ends(answer, link, anchor):
    return means(answer.removeprefix(f"{link} "), anchor)


@pytest.fixture(scope="module")
def questions():
    drawn = [draw_scene_questions(120, seed=seed, split="train", per_context=5) for seed in (0, 1)]
    return [*drawn[0], *drawn[1], *draw_scene_questions(100, seed=2, split="test", per_context=5, synonyms=True)]


# --- one answer, and all its wordings -----------------------------------------------------------------------------


def test_search_finds_one_answer_to_every_question(questions):
    assert {kind_of(question) for question in questions} == set(KINDS)
    for question in questions:
        found = list(search(question))
        assert len(found) == 1, f"{len(found)} answers to {question.question!r} in {question.context!r}"
        wrong = [answer for answer in question.answers if not right(kind_of(question), answer, *found[0])]
        assert not wrong, f"{wrong[0]!r} is no answer to {question.question!r} in {question.context!r}"


def test_no_gold_answer_names_anything_else_of_the_context(questions):
    for question in questions[::4]:
        ((target, _, _),) = search(question)
        things = {thing for fact in facts_of(question.context) for thing in (fact.figure, fact.ground)}
        others = {PHRASES[i].text for thing in things - {target} for i in PHRASES_OF[thing.code]}
        if kind_of(question) == "object":
            assert not others & set(question.answers)


def test_every_wording_of_an_object_is_right(questions):
    for question in questions:
        ((target, fact, figure),) = search(question)
        phrases = {PHRASES[i].text for i in PHRASES_OF[target.code]}
        if kind_of(question) == "object":
            assert phrases <= set(question.answers)
            assert {re.sub("^(a|an|the) ", "", phrase) for phrase in phrases} <= set(question.answers)
        if kind_of(question) == "place":
            anchor = fact.ground if figure else fact.figure
            texts = [PHRASES[i].text for i in PHRASES_OF[anchor.code]]
            said = {f"{link} {text}" for link, text in product(PLACES[fact.relation, figure], texts)}
            assert said <= set(question.answers)
        if kind_of(question) == "count":
            assert question.answers == ({n: word for word, n in NUMBERS.items()}[target.count], str(target.count))
        assert len(set(question.answers)) == len(question.answers)


def test_the_first_answer_is_in_the_words_of_the_context(questions):
    for question in questions:
        last = question.answers[0].split()[-2:] if kind_of(question) in ("object", "place") else question.answers[0]
        words = " ".join(last) if isinstance(last, list) else last
        if kind_of(question) != "count":
            assert words.removesuffix("s") in question.context.lower()


def test_an_ambiguous_context_is_caught_by_the_search():
    # The control of the control: contexts such as the generator never makes.
    context = "A red ball is on the blue block. A blue ball is under a red ring."
    asked = Question("scenes/x/0/0/0/colour", context, "What colour is the ball?", ("red",), "g")
    assert len(list(search(asked))) == 2
    twice = "A red ball is on the blue block. A gray cone is on the blue block."
    asked = Question("scenes/x/0/0/0/object", twice, "What is on the blue block?", ("red ball",), "g")
    assert len(list(search(asked))) == 2


# --- the question alone tells nothing -----------------------------------------------------------------------------


def scores_of_guesses(asked, guess):
    """Mean exact match and F1 of guesses for each kind."""
    scores = defaultdict(list)
    for question in asked:
        best = [metric_max_over_references(metric, guess(question), question.answers) for metric in (exact_match, f1)]
        scores[kind_of(question)].append(best)
    return {kind: np.mean(scores[kind], axis=0) for kind in KINDS}


@pytest.fixture(scope="module")
def learned_and_asked():
    options = {"facts": (3, 5), "per_context": 5}
    return draw_scene_questions(500, split="train", **options), draw_scene_questions(240, split="test", **options)


def test_the_most_frequent_answer_is_rarely_right(learned_and_asked):
    learn, asked = learned_and_asked
    golds = defaultdict(Counter)
    for question in learn:
        golds[kind_of(question)].update({normalise_answer(answer) for answer in question.answers})
    most = {kind: golds[kind].most_common(1)[0][0] for kind in KINDS}
    scores = scores_of_guesses(asked, lambda question: most[kind_of(question)])
    chance = {"object": 0.02, "place": 0.02, "colour": 0.1, "shape": 1 / 9, "count": 0.25}
    for kind in KINDS:
        n = sum(kind_of(question) == kind for question in asked)
        assert scores[kind][0] < chance[kind] + 4 * (0.25 / n) ** 0.5, f"{kind}: {most[kind]!r} {scores[kind]}"
    overall = np.mean([exact_match for exact_match, _ in scores.values()])
    assert overall < 0.15


def test_words_of_the_question_do_not_tell_the_answer(learned_and_asked):
    # A naive Bayes over the words of the question, for the kinds with few answers.
    learn, asked = learned_and_asked
    for kind, classes in (("colour", 10), ("shape", 9), ("count", 4)):
        names = {q.id: min(q.answers) for q in (*learn, *asked) if kind_of(q) == kind}
        seen, total = defaultdict(Counter), Counter()
        for question in (q for q in learn if q.id in names):
            seen[names[question.id]].update(question.question.split())
            total[names[question.id]] += 1
        hits = []
        for question in (q for q in asked if q.id in names):
            score = {
                name: sum(np.log((seen[name][word] + 1) / (total[name] + 2)) for word in question.question.split())
                for name in total
            }
            hits.append(max(score, key=score.__getitem__) == names[question.id])
        assert len(total) >= classes
        assert np.mean(hits) < 1 / classes + 4 * (0.25 / len(hits)) ** 0.5, f"{kind} {np.mean(hits)}"


# --- splits, sizes, determinism -----------------------------------------------------------------------------------


def test_splits_share_no_fact_and_no_context():
    seen = {}
    for split in ("train", "validation", "test", "heldout"):
        drawn = draw_scene_questions(60, seed=5, split=split)
        facts = {fact for question in drawn for fact in facts_of(question.context)}
        assert not facts & seen.keys()
        seen |= dict.fromkeys(facts, split)
        assert len({question.context for question in drawn}) == len({question.group for question in drawn}) == 60


def test_contexts_have_the_facts_asked_for_and_each_name_once():
    for facts in ((1, 1), (3, 9), (30, 30)):
        drawn = draw_scene_questions(8, facts=facts, split="test")
        counts = [len(facts_of(question.context)) for question in drawn]
        assert facts[0] <= min(counts) <= max(counts) <= facts[1]
        for question in drawn:
            names = [thing.name for fact in facts_of(question.context) for thing in (fact.figure, fact.ground)]
            assert len(set(names)) == len(names)
    lengths = [len(question.context.split()) for question in draw_scene_questions(60)]
    assert 20 < min(lengths) < 60 < max(lengths) < 150


def test_questions_are_a_pure_function_of_their_arguments():
    drawn = draw_scene_questions(12, seed=3, per_context=2)
    assert drawn == draw_scene_questions(12, seed=3, per_context=2)
    assert drawn[:10] == draw_scene_questions(5, seed=3, per_context=2)
    assert {question.context for question in drawn}.isdisjoint(q.context for q in draw_scene_questions(12, seed=4))
    assert len({question.id for question in drawn}) == 24


def test_questions_about_one_context_differ():
    for start in range(0, 45, 9):
        asked = draw_scene_questions(5, facts=(3, 3), per_context=9)[start : start + 9]
        assert len({question.question for question in asked}) == 9
        assert len({question.group for question in asked}) == 1


def test_synonyms_change_the_words_of_the_question_alone():
    plain, renamed = (draw_scene_questions(40, per_context=3, synonyms=synonyms) for synonyms in (False, True))
    assert [second._replace(question=first.question) for first, second in zip(plain, renamed, strict=True)] == plain
    assert sum(first.question != second.question for first, second in zip(plain, renamed, strict=True)) > 30
    for question in plain:
        said = set(re.findall(r"\w+", question.context.lower()))
        shapes = [word.removesuffix("s") for word in re.findall(r"\w+", question.question)]
        assert all({shape, f"{shape}s"} & said for shape in shapes if shape in SHAPE_OF)


def test_every_kind_can_be_asked_alone():
    for kind in KINDS:
        assert {kind_of(question) for question in draw_scene_questions(4, kinds=(kind,), per_context=3)} == {kind}
    every = draw_scene_questions(300, facts=(2, 2), per_context=10)
    shares = Counter(kind_of(question) for question in every[::10])
    assert min(shares.values()) > 30, "a kind is drawn first, whatever there is to ask of it"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, r"n is 0 and seed 0; allowed: n from 1, seed from 0"),
        ({"seed": -1}, r"seed -1"),
        ({"split": "dev"}, r"split is 'dev'; allowed: train, validation, test, heldout"),
        ({"split": None}, r"split is None; allowed: train"),
        ({"facts": (0, 3)}, r"facts is \(0, 3\); wanted the least and the most of a context, 1 to 30"),
        ({"facts": (5, 4)}, r"facts is \(5, 4\)"),
        ({"facts": (4, 31)}, r"facts is \(4, 31\)"),
        ({"kinds": ("size",)}, r"kinds is \('size',\); allowed: one or more of object, place, colour, shape, count"),
        ({"kinds": "count"}, r"kinds is 'count'"),
        ({"kinds": ()}, r"kinds is \(\)"),
        ({"per_context": 16}, r"per_context is 16; 3 facts and 5 kinds allow 1 to 15"),
        ({"per_context": 0}, r"per_context is 0"),
    ],
)
def test_what_is_out_of_range_is_one_clear_line(options, message):
    with pytest.raises(ValueError, match=message) as refusal:
        draw_scene_questions(**{"n": 3, **options})
    assert "\n" not in str(refusal.value)


def test_other_questions_have_no_kind():
    with pytest.raises(ValueError, match=r"'q1' is not one of the generated scene questions"):
        kind_of(Question("q1", "c", "q?", ("a",), "g"))
