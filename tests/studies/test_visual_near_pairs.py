"""Sentences against counterfactuals that are as near in words as can be: what reads, what counts words, what is flat.

A z that counts words prefers such a counterfactual to a paraphrase in other words, so it comes out far below chance.
"""

import numpy as np
import pytest
import torch
from planted_codec import MARKS, TOKENS, PlantedModel, planted, signs

from inscape.core.estimate import Estimate
from inscape.data.scenes import EDITS, parse, split_of
from inscape.studies.visual.meaning import Measured, measure_meaning
from inscape.studies.visual.meaning_metrics import near_pairs, told_apart_near
from inscape.studies.visual.sources import DataConfig, open_source

SOURCE = open_source(DataConfig(facts=1))
WORST = "told_apart_near_worst"


def near(kind: type[PlantedModel], facts: tuple[int, ...] = (1,)) -> dict[str, Estimate]:
    return told_apart_near(planted(kind, SOURCE.tokenizer), facts)


class CountsWords(PlantedModel):
    """z is the sum of a direction for each word: two sentences are as alike as the words that they share."""

    def mark(self, text):
        return np.sum([signs(word) for word in text.split()], axis=0)

    def embed(self, latent_BCHW, states_BPD=None):
        return torch.nn.functional.normalize(latent_BCHW[:, :3, ::8, ::8].flatten(1), dim=1)


class Constant(PlantedModel):
    """The same z for everything."""

    def embed(self, latent_BCHW, states_BPD=None):
        return torch.ones(len(latent_BCHW), MARKS) / MARKS**0.5


class BlindToRelations(PlantedModel):
    """The objects are read, in their order, and not how they stand."""

    def mark(self, text):
        return signs(repr(parse(text).objects))


@pytest.mark.parametrize("facts", [(1,), (1, 2)])
def test_what_reads_the_scene_tells_every_edit_apart(facts):
    found = near(PlantedModel, facts)
    edits = [edit for edit in EDITS if edit != "across" or max(facts) > 1]
    assert list(found) == [*(f"told_apart_near_{edit}" for edit in edits), WORST]
    assert {estimate.value for estimate in found.values()} == {1.0}
    assert found["told_apart_near_colour"].n == 200 * len(facts), "the pack's scenes of two splits"
    assert found[WORST] == min(found.values(), key=lambda e: e.low)
    assert found[WORST].low < 1


@pytest.mark.parametrize("facts", [(1,), (1, 2)])
def test_what_counts_words_is_below_chance_in_every_edit(facts):
    found = near(CountsWords, facts)
    assert all(estimate.high < 0.5 for estimate in found.values()), found
    assert found[WORST].value < 0.1


def test_a_constant_z_tells_nothing_apart():
    assert {estimate.value for estimate in near(Constant).values()} == {0.0}


def test_the_worst_is_the_one_edit_that_is_not_read():
    found = near(BlindToRelations)
    assert [name for name, e in found.items() if e.value < 1] == ["told_apart_near_relation", WORST]
    assert found[WORST] == found["told_apart_near_relation"]
    assert found[WORST].value < 0.5


def test_p2_reports_it_of_the_scenes_that_decide():
    codec = planted(CountsWords, SOURCE.tokenizer)
    metrics = measure_meaning(codec, Measured(decide=1, pools=1, pool_size=500, per_edit=2), (1, 2))
    assert {name: e for name, e in metrics.items() if "_near_" in name} == near(CountsWords, (1,))


def test_pairs_are_of_scenes_that_nothing_is_trained_on_and_fit_the_encoder():
    pairs = near_pairs((1, 2))
    assert {split_of(parse(pair.anchor)) for pair in pairs} == {"test", "heldout"}
    for pair in pairs[::50]:
        assert parse(pair.anchor) == parse(pair.paraphrase) != parse(pair.counterfactual)
    texts = [text for pair in pairs for text in pair[:3]]
    assert SOURCE.tokenizer.encode(texts, max_length=TOKENS).shape[1] <= TOKENS


def test_a_number_of_facts_that_the_pack_has_not_is_refused():
    with pytest.raises(ValueError, match=r"facts=\(4,\): the evaluation pack has scenes of 1, 2 and 3 facts"):
        near(PlantedModel, (4,))
