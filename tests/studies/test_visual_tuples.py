"""What P2 to P5 are trained on: tuples of one meaning, pure, dealt to the ranks; hard negatives; held-out pairs."""

import numpy as np
import pytest

from inscape.data.scenes import EDITS, Scene, canonical, parse, split_of
from inscape.data.scenes.counterfactuals import all_counterfactuals
from inscape.data.tokenizer import CANONICAL, PARAPHRASE
from inscape.studies.visual import jitter, meaning
from inscape.studies.visual.codec_training import Training
from inscape.studies.visual.sources import DataConfig, Mixture, SentenceTuples, open_source

WORDS = ["dog", "cat", "bird", "runs", "sleeps", "sings", "slowly", "loudly", "big", "small", "red", "blue"]


def lines(count: int, columns: int) -> str:
    rng = np.random.default_rng(0)
    rows = [[" ".join(rng.choice(WORDS, 6)) for _ in range(columns)] for _ in range(count)]
    return "\n".join("\t".join(row) for row in rows)


@pytest.fixture(scope="module")
def grammar():
    return open_source(DataConfig())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "plain.txt").write_text(lines(600, 1))
    (folder / "groups.tsv").write_text(lines(400, 2))
    return folder


@pytest.fixture(scope="module")
def plain(files):
    return open_source(DataConfig(text=str(files / "plain.txt"), vocab=600))


@pytest.fixture(scope="module")
def groups(files):
    return open_source(DataConfig(text=str(files / "groups.tsv"), vocab=600))


def texts(source, tokens_BT) -> list[str]:
    return source.tokenizer.decode(tokens_BT)


# --- the mixture --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"one": -1}, "mixture.one, two, three"),
        ({"one": 0, "two": 0, "three": 0}, "mixture.one, two, three"),
        ({"three": float("nan")}, "mixture.one, two, three"),
        ({"two": float("inf")}, "mixture.one, two, three"),
        ({"swaps": -1}, "mixture.swaps=-1"),
        ({"edited": 0}, "mixture.edited=0"),
        ({"edited": 64}, "mixture.edited=64"),
        ({"drawn": 0}, "mixture.drawn=0"),
        ({"rewordings": 0}, "mixture.rewordings=0"),
        ({"swaps": 101}, "mixture.swaps=101"),
        ({"paraphrases": 1.1}, "mixture.paraphrases=1.1"),
        ({"edits": -0.1}, "mixture.edits=-0.1"),
        ({"edits": float("nan")}, "mixture.edits=nan"),
    ],
)
def test_a_mixture_out_of_range_is_refused(given, message):
    with pytest.raises(ValueError, match=rf"^{message}.* out of range; allowed: "):
        Mixture(**given)


# --- the grammar --------------------------------------------------------------------------------------------------


def test_a_tuple_says_one_scene_in_three_wordings(grammar):
    drawn = grammar.tuples_at(0, 3, 0, 1, 32, Mixture())
    sentence, paraphrase, target = (texts(grammar, t) for t in drawn[:3])
    assert [parse(text) for text in sentence] == [parse(text) for text in paraphrase]
    assert target == [canonical(parse(text)) for text in sentence]
    assert set(drawn.start_B) == {CANONICAL}
    assert {split_of(parse(text)) for text in sentence} == {"train"}
    assert len(drawn.negative_NT) == 0, "the other half of the batch is its negatives"


@pytest.mark.parametrize("which", ["grammar", "groups", "plain"])
def test_tuples_are_pure(which, request):
    source, mixture = request.getfixturevalue(which), Mixture(paraphrases=0.5, edits=0.5)
    once, again = (source.tuples_at(1, 2, 0, 1, 8, mixture) for _ in range(2))
    for a, b in zip(once, again, strict=True):
        np.testing.assert_array_equal(a, b)
    for other in (source.tuples_at(1, 3, 0, 1, 8, mixture), source.tuples_at(2, 2, 0, 1, 8, mixture)):
        assert texts(source, other.sentence_BT) != texts(source, once.sentence_BT)


@pytest.mark.parametrize("which", ["groups", "plain"])
def test_ranks_share_the_step_of_a_text_file(which, request):
    source = request.getfixturevalue(which)

    def pairs(rank: int, world: int) -> list[tuple[str, str]]:
        drawn = source.tuples_at(1, 2, rank, world, 8, Mixture())
        return list(zip(texts(source, drawn.sentence_BT), texts(source, drawn.paraphrase_BT), strict=True))

    assert sorted(pairs(0, 2) + pairs(1, 2)) == sorted(pairs(0, 1))
    assert len(pairs(0, 2)) == len(pairs(1, 2)) == 4


def test_ranks_draw_other_scenes_of_the_grammar(grammar):
    first, second = (set(texts(grammar, grammar.tuples_at(1, 2, r, 2, 16, Mixture()).sentence_BT)) for r in (0, 1))
    assert len(first) == len(second) == 8
    assert not first & second


def facts_by_step(source, mixture: Mixture, steps: range) -> list[int]:
    """How many facts the scenes of each step have; one number a step."""
    found = []
    for step in steps:
        numbers = {len(parse(text).facts) for text in texts(source, source.tuples_at(0, step, 0, 1, 4, mixture)[0])}
        found += numbers
        assert len(numbers) == 1
    return found


def test_steps_have_the_facts_of_the_mixture(grammar):
    assert set(facts_by_step(grammar, Mixture(), range(12))) == {1, 2, 3}
    assert set(facts_by_step(grammar, Mixture(one=0, three=0), range(6))) == {2}


def test_data_facts_outweighs_the_mixture():
    source = open_source(DataConfig(facts=2))
    assert set(facts_by_step(source, Mixture(one=1, two=0, three=0), range(4))) == {2}


def test_targets_are_reworded_as_often_as_asked(grammar):
    drawn = [grammar.tuples_at(0, step, 0, 1, 64, Mixture(paraphrases=0.25)) for step in range(4)]
    start_B = np.concatenate([d.start_B for d in drawn])
    assert 0.15 < (start_B == PARAPHRASE).mean() < 0.35
    for d in drawn:
        paraphrase, target = texts(grammar, d.paraphrase_BT), texts(grammar, d.target_BT)
        assert [parse(text) for text in target] == [parse(text) for text in paraphrase]
        is_canonical = [text == canonical(parse(text)) for text in target]
        assert all(np.array(is_canonical)[d.start_B == CANONICAL])
        assert not all(np.array(is_canonical)[d.start_B == PARAPHRASE])
    always = grammar.tuples_at(0, 0, 0, 1, 8, Mixture(paraphrases=1))
    assert set(always.start_B) == {PARAPHRASE}


# --- text files ---------------------------------------------------------------------------------------------------


def test_a_tuple_of_a_tsv_is_two_members_of_one_group(groups, files):
    together = {frozenset(line.split("\t")) for line in (files / "groups.tsv").read_text().splitlines()}
    drawn = groups.tuples_at(0, 0, 0, 1, 16, Mixture())
    pairs = list(zip(texts(groups, drawn.sentence_BT), texts(groups, drawn.paraphrase_BT), strict=True))
    assert {frozenset(pair) for pair in pairs} <= together
    assert all(a != b for a, b in pairs)


def test_a_tuple_of_plain_text_is_the_sentence_twice(plain):
    drawn = plain.tuples_at(0, 0, 0, 1, 16, Mixture())
    np.testing.assert_array_equal(drawn.sentence_BT, drawn.paraphrase_BT)


@pytest.mark.parametrize("which", ["groups", "plain"])
def test_a_text_file_has_no_other_target_and_negatives_only_if_asked(which, request):
    drawn: SentenceTuples = request.getfixturevalue(which).tuples_at(0, 0, 0, 1, 8, Mixture())
    assert (len(drawn.target_BT), len(drawn.start_B), len(drawn.negative_NT)) == (0, 0, 0)


@pytest.mark.parametrize("which", ["groups", "plain"])
@pytest.mark.parametrize("share", [0.25, 1.0])
def test_negatives_are_sentences_of_the_batch_with_one_word_or_two_changed(which, share, request):
    source = request.getfixturevalue(which)
    drawn = source.tuples_at(0, 1, 0, 1, 16, Mixture(edits=share))
    sentences = [text.split() for text in texts(source, drawn.sentence_BT)]
    negatives = [text.split() for text in texts(source, drawn.negative_NT)]
    assert 0.7 * share * 16 <= len(negatives) <= share * 16
    swaps = 0
    for words in negatives:
        changed, same_words = min(
            (sum(a != b for a, b in zip(words, of, strict=True)), sorted(words) == sorted(of)) for of in sentences
        )
        assert changed == (2 if same_words else 1)
        swaps += same_words
    assert 0 < swaps < len(negatives), "both kinds"


@pytest.mark.parametrize("rank", [0, 1])
def test_what_is_reworded_or_edited_is_as_long_as_the_rest(tmp_path, rank):
    """Rows of a batch come sorted by length: the first of them are the shortest."""
    rng = np.random.default_rng(0)
    cells = [[" ".join(rng.choice(WORDS, 2 + n % 40)) for _ in range(2)] for n in rng.permutation(800)]
    (tmp_path / "mixed.tsv").write_text("\n".join("\t".join(row) for row in cells))
    source = open_source(DataConfig(text=str(tmp_path / "mixed.tsv"), vocab=600))
    shorter: dict[str, list[float]] = {"targets": [], "negatives": []}
    for step in range(64):
        drawn = source.tuples_at(0, step, rank, 2, 64, Mixture(paraphrases=0.25, edits=0.25))
        np.testing.assert_array_equal(drawn.target_BT, drawn.sentence_BT[: len(drawn.target_BT)])
        length_B = (drawn.sentence_BT > 0).sum(1)
        assert len(drawn.target_BT) == 8
        for name, tokens in (("targets", drawn.target_BT), ("negatives", drawn.negative_NT)):
            below = length_B[:, None] < (tokens > 0).sum(1)
            same = length_B[:, None] == (tokens > 0).sum(1)
            shorter[name].append(float((below + same / 2).mean()))
    for name, shares in shorter.items():
        assert abs(np.mean(shares) - 0.5) < 0.05, f"{name}: so much of the batch is shorter"


# --- held-out pairs -----------------------------------------------------------------------------------------------


def test_held_out_pairs_of_the_grammar_mean_the_same_and_were_not_trained_on(grammar):
    pairs = grammar.held_out_pairs(30)
    assert pairs == grammar.held_out_pairs(30)
    assert len(pairs) == 30
    assert all(parse(a) == parse(b) and split_of(parse(a)) == "test" for a, b in pairs)


def test_held_out_sentences_of_a_tsv_are_one_of_each_group_before_any_second_one(groups):
    firsts = [first for first, _ in groups.held_out_pairs(500)]
    every = groups.held_out(10_000)
    assert every[: len(firsts)] == firsts
    assert len(set(every)) == len(every) > len(firsts)
    assert groups.held_out(3) == firsts[:3]


def test_held_out_pairs_of_a_tsv_are_groups_that_no_batch_has(groups, files):
    together = {tuple(line.split("\t")) for line in (files / "groups.tsv").read_text().splitlines()}
    pairs = groups.held_out_pairs(500)
    assert 5 <= len(pairs) < 100
    assert set(pairs) <= together
    assert groups.held_out_pairs(3) == pairs[:3]
    trained = {text for step in range(30) for text in texts(groups, groups.tuples_at(0, step, 0, 1, 32, Mixture())[0])}
    assert not trained & {text for pair in pairs for text in pair}


def test_plain_text_has_no_pairs(plain):
    assert plain.held_out_pairs(10) == []


@pytest.mark.parametrize("phase", [meaning, jitter])
def test_a_packed_tsv_is_judged_as_groups_too(phase):
    def gate(name: str):
        return phase.PHASE.gate_for(phase.Config(data=DataConfig(text=name)))

    assert gate("a.tsv") == gate("a.tsv.gz") == phase.TEXT_GATE
    assert gate("a.txt") == gate("a.tsv.d/a.xz") == phase.PLAIN_TEXT_GATE


@pytest.mark.parametrize("batch", [63, 2, 0])
def test_a_batch_without_as_many_edited_scenes_as_given_ones_is_refused(batch: int):
    with pytest.raises(ValueError, match=rf"^batch={batch} is out of range; allowed: even numbers from 4 on$"):
        Training(batch=batch)


def test_edits_to_choose_from_are_drawn_where_there_are_any(grammar, groups):
    several = Training(batch=8, mixture=Mixture(edited=3))
    assert several.families(grammar) == 4
    assert several.families(groups) == Training(batch=8).families(grammar) == 0
    assert Training(batch=8, mixture=Mixture(edited=3, drawn=2)).families(grammar) == 8
    assert Training(batch=8, mixture=Mixture(drawn=3)).families(grammar) == 12


def test_families_are_as_large_as_asked(grammar):
    scenes = [parse(text) for text in texts(grammar, grammar.tuples_at(0, 0, 0, 1, 32, Mixture(edited=3)).sentence_BT)]
    near = [sum(other in edited_scenes(scene) for other in scenes[8 + i :: 8]) for i, scene in enumerate(scenes[:8])]
    assert sum(near) >= 20, "24, but for edits that were drawn twice"


def edited_scenes(scene: Scene) -> set[Scene]:
    return {other for edit in EDITS for other in all_counterfactuals(scene, edit)}


def test_processes_share_the_very_tuples_that_one_would_draw(grammar):
    """Targets and their start tokens too: which rows are reworded is decided by the row of the whole step."""
    mixture = Mixture(edited=2, paraphrases=0.5)
    whole = grammar.tuples_at(3, 7, 0, 1, 48, mixture)
    shares = [grammar.tuples_at(3, 7, rank, 2, 48, mixture) for rank in (0, 1)]
    for name in ("sentence_BT", "paraphrase_BT", "target_BT", "start_B"):
        of_share = [getattr(share, name).reshape(3, 8, -1) for share in shares]  # scene, first edit, second edit
        assert (np.concatenate(of_share, 1).reshape(48, -1) == getattr(whole, name).reshape(48, -1)).all(), name
    assert set(whole.start_B.tolist()) == {CANONICAL, PARAPHRASE}
