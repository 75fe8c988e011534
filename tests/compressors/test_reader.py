"""A model that is taught to answer from a text: the loss by its definition, and a planted world that it learns."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from planted_recall import contexts, examples, random_model, recalled_from_caches
from torch.nn import functional

from inscape.compressors.memory_cache import MemoryCache
from inscape.compressors.memory_tokens import MemoryTokens
from inscape.compressors.reader import (
    Reader,
    ReaderConfig,
    answer_loss,
    answer_losses,
    load_reader,
    save_reader,
    taught_model,
    teach,
)
from inscape.compressors.teaching_examples import Example, batch_of
from inscape.core.rundir import RunDir
from inscape.nn.lora import linear_sizes
from inscape.pretrained.language_model import LanguageModel
from inscape.train import FitConfig

FIT = FitConfig(steps=60, lr=1e-2, warmup_steps=5, ema_decay=0.9, precision="float32", log_every=5)
LESSONS = ReaderConfig(train=512, rank=8, batch=32, fit=FIT)


def noisy(lm: LanguageModel) -> Reader:
    reader = Reader(dict(linear_sizes(lm.model)), 2)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for parameter in reader.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return reader.eval()


def recalled(lm: LanguageModel) -> float:
    ids, values = contexts(60, 5)
    start, ask = torch.full((60, 1), 18), torch.full((60, 1), 16)
    logits = lm.model(input_ids=torch.cat((start, ids, ask), 1)).logits[:, -1]
    return float((logits.argmax(-1) == values).float().mean())


def recalled_behind_run_ends(lm: LanguageModel) -> float:
    thinned = MemoryCache(4.0, rank=2, prefix=(18,), wire="float32", own=True)
    object.__setattr__(thinned, "encoder", thinned._fresh(lm, 0).eval())  # adapters that add nothing
    ids, values = contexts(60, 5)
    return recalled_from_caches(lm, [thinned.inject(lm, thinned.compress(lm, each)) for each in ids], values.tolist())


def test_the_loss_is_that_of_prompts_read_whole_by_a_model_that_has_the_adapters():
    lm = random_model()
    reader = noisy(lm)
    uneven = [
        Example((18,), (1, 2, 3, 4, 5, 6), (16, 7), (8, 17)),
        Example((18, 0), (9, 10, 11, 12), (16,), (3,)),
        Example((18,), (1, 2, 3, 4, 5, 6), (1, 2, 16), (10, 11, 17)),
    ]
    with torch.no_grad():
        found = answer_loss(lm, reader, batch_of(uneven))
        taught, losses = taught_model(lm, reader), []
        for example in uneven:
            ids_1N = torch.tensor([[token for span in example for token in span]])
            logits_NV = taught.model(input_ids=ids_1N).logits[0, :-1]
            losses.append(functional.cross_entropy(logits_NV, ids_1N[0, 1:], reduction="none")[-len(example.answer) :])
    torch.testing.assert_close(found, torch.cat(losses).mean(), atol=1e-5, rtol=1e-5)
    before = random_model().model.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in lm.model.state_dict().items()), "a copy is taught"


def test_behind_a_thinned_cache_nothing_is_seen_of_a_context_but_the_ends_of_its_runs():
    lm = random_model()
    reader = noisy(lm)
    context = (1, 2, 3, 4, 5, 6, 7, 8)
    questions = [
        Example((18,), context, (16, 7), (8, 17)),
        Example((18,), context, (16,), (3,)),
        Example((18, 0), context[:3], (16,), (3, 5, 6)),  # fewer than the ratio: never thinned
    ]
    with torch.no_grad():
        found = answer_losses(lm, reader, batch_of(questions), torch.tensor([True, False, True]), 4.0)
        taught, losses = taught_model(lm, reader), []
        for example, thinned in zip(questions, (True, False, False), strict=True):
            ids_1N = torch.tensor([[token for span in example for token in span]])
            tail = len(example.suffix) + len(example.answer)
            seen_NN = torch.ones(ids_1N.shape[1], ids_1N.shape[1]).tril()
            if thinned:
                gone = [1 + place for place in range(8) if place not in (3, 7)]
                seen_NN[-tail:, gone] = 0
            unseen_11NN = torch.where(seen_NN > 0, 0.0, -1e9)[None, None]
            logits_NV = taught.model(input_ids=ids_1N, attention_mask=unseen_11NN).logits[0, :-1]
            losses.append(functional.cross_entropy(logits_NV, ids_1N[0, 1:], reduction="none")[-len(example.answer) :])
    torch.testing.assert_close(found["thinned_ce"], losses[0].mean(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found["answer_ce"], torch.cat(losses[1:]).mean(), atol=1e-5, rtol=1e-5)


def test_a_model_learns_to_answer_from_a_thinned_cache_and_still_from_the_text(tmp_path: Path):
    lm = random_model(scale=0.1)
    told = replace(LESSONS, thinned=0.5, ratio=4.0, fit=replace(FIT, steps=120))
    taught = taught_model(lm, teach(lm, examples(512, 7), told, seed=0, run=RunDir(tmp_path)))
    (tmp_path / "plain").mkdir()
    plain = taught_model(lm, teach(lm, examples(512, 7), LESSONS, seed=0, run=RunDir(tmp_path / "plain")))
    assert recalled(taught) >= 0.9
    assert recalled_behind_run_ends(taught) >= 0.9
    assert recalled_behind_run_ends(plain) <= 0.7


def test_lessons_are_learnt_and_travel(tmp_path: Path):
    lm, run = random_model(scale=0.1), RunDir(tmp_path)
    taught = teach(lm, examples(512, 7), LESSONS, seed=0, run=run)
    assert recalled(lm) <= 0.3
    assert recalled(taught_model(lm, taught)) >= 0.9
    losses = [line["loss"] for line in run.read_log() if "loss" in line]
    assert losses[-1] < 0.5 * losses[0]
    save_reader(tmp_path / "reader.safetensors", taught)
    back = load_reader(tmp_path / "reader.safetensors")
    for one, other in zip(
        taught_model(lm, taught).model.parameters(), taught_model(lm, back).model.parameters(), strict=True
    ):
        assert torch.equal(one, other)
        assert not one.requires_grad


def test_what_cannot_be_taught_is_one_line(tmp_path: Path):
    lm, few = random_model(), examples(16, 7)
    with pytest.raises(ValueError, match="16 contexts do not fill a batch of 32"):
        teach(lm, few, LESSONS, seed=0, run=RunDir(tmp_path))
    with pytest.raises(ValueError, match="no answer"):
        teach(lm, [few[0]._replace(answer=())], LESSONS, seed=0, run=RunDir(tmp_path))
    with pytest.raises(ValueError, match=r"reader.train=-1 is out of range; allowed: 0 to"):
        ReaderConfig(train=-1)
    with pytest.raises(ValueError, match=r"reader.train=3 questions do not fill"):
        ReaderConfig(train=3)
    with pytest.raises(ValueError, match=r"reader.thinned=1.5 is out of range; allowed: 0 to 1"):
        ReaderConfig(thinned=1.5)
    with pytest.raises(ValueError, match=r"reader.ratio=0.5 is out of range; allowed: 1"):
        ReaderConfig(ratio=0.5)
    file = tmp_path / "it.safetensors"
    compressor = MemoryTokens(4.0, rank=2)
    object.__setattr__(compressor, "encoder", compressor._fresh(lm, 0))
    compressor.save(file)
    with pytest.raises(ValueError, match="kind 'memory_tokens', wanted 'reader'"):
        load_reader(file)
    other = Reader({name: (i, o + 1) for name, (i, o) in linear_sizes(lm.model).items()}, 2)
    with pytest.raises(ValueError, match="these adapters are of another model"):
        taught_model(lm, other)
