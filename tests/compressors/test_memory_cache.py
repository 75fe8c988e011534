"""Memory in the cache: what a memory token sees, that it is read as a cache is read, and that training fills it."""

from pathlib import Path

import pytest
import torch
from planted_recall import ASK, END, START, contexts, examples, random_model, recalled_from_caches, trained_model
from torch import Tensor, nn

from inscape.compressors.distillation import DistillationConfig, Objective, distillation_terms
from inscape.compressors.interface import Compressed, Compressor
from inscape.compressors.memory_cache import CacheEncoder, MemoryCache
from inscape.compressors.receiving import CacheMemory, Turn, cache_layers, prefill, tail_logits
from inscape.compressors.stored import load_compressor
from inscape.compressors.teaching_examples import Example, batch_of
from inscape.core.rundir import RunDir
from inscape.nn.row_generation import CachedPrompt, continuation_logits
from inscape.pretrained.language_model import LanguageModel
from inscape.train import FitConfig

PREFIX = (START, 3)
IDS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])
FIT = FitConfig(steps=80, lr=1e-2, warmup_steps=5, ema_decay=0.9, precision="float32", log_every=5)
QUICK = DistillationConfig(batch=16, objective=Objective(question_kl=0), fit=FIT)


def untrained(ratio: float = 4.0, prefix: tuple[int, ...] = PREFIX) -> MemoryCache:
    """As before the first step of a training, but for noise in the parts that start at zero."""
    plain = MemoryCache(ratio, rank=2, prefix=prefix, wire="float32")
    encoder = plain._fresh(random_model(), 0)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for parameter in encoder.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    object.__setattr__(plain, "encoder", encoder.eval())
    return plain


def sent(compressor: MemoryCache, ids_T: Tensor) -> Tensor:
    tensors = compressor.compress(random_model(), ids_T).tensors
    return torch.cat((tensors["keys"], tensors["values"]))


def whole_cache(lm: LanguageModel, prefix: tuple[int, ...], ids_T: Tensor) -> CacheMemory:
    """All that the model computed of a context: nothing is left out."""
    layers = cache_layers(lm, prefill(lm, torch.cat((torch.tensor(prefix, dtype=torch.long), ids_T))))
    return CacheMemory(
        prefix, *(torch.stack([layer[side][0, :, len(prefix) :] for layer in layers]) for side in (0, 1))
    )


def test_a_tail_behind_the_whole_cache_is_read_as_behind_the_text():
    lm = random_model()
    uneven = [(PREFIX, IDS, (16, 7, 2)), ((), IDS[:5], (16,)), ((2,), IDS[2:5], (1, 16))]
    turns = [Turn(lm.rows(()), whole_cache(lm, p, ids_T), len(ids_T), lm.rows(tail)) for p, ids_T, tail in uneven]
    found = tail_logits(lm, turns, [range(len(tail)) for _, _, tail in uneven])
    expected = [
        lm.model(input_ids=torch.tensor([[*prefix, *ids_T.tolist(), *tail]])).logits[0, -len(tail) :]
        for prefix, ids_T, tail in uneven
    ]
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-5, rtol=1e-5)


def test_rows_and_caches_in_one_batch_are_one_line():
    lm = random_model()
    turns = [
        Turn(lm.rows(()), memory, 8, lm.rows((16,))) for memory in (whole_cache(lm, PREFIX, IDS), lm.rows(IDS.tolist()))
    ]
    with pytest.raises(ValueError, match="all rows or all keys"):
        tail_logits(lm, turns, [range(1)] * 2)


def test_a_memory_token_sees_the_text_up_to_its_own_place():
    compressor = untrained()
    before = sent(compressor, IDS)
    for place in range(8):
        ids_T = IDS.clone()
        ids_T[place] = 7
        moved = (sent(compressor, ids_T) - before).abs().amax((0, 1, 3)) > 1e-6
        assert moved.tolist() == [place < 4, True]
    assert (sent(untrained(prefix=(START, 4)), IDS) - before).abs().max() > 1e-3, "the prefix is read in front"


def test_before_training_it_is_what_the_model_computes_at_the_last_tokens_of_runs():
    lm = random_model()
    encoder = MemoryCache(4.0, rank=2, prefix=PREFIX)._fresh(lm, 0)
    (memory,) = encoder(lm, [IDS[:4]])
    memory_1D = encoder.scale * encoder.memory.weight + lm.table_VD[IDS[:4]].mean(0, keepdim=True)
    rows_ND = torch.cat((lm.rows([*PREFIX, *IDS[:4].tolist()]), memory_1D))
    places_1N = torch.tensor([[0, 1, 2, 3, 4, 5, 5]])  # the memory token shares the position of the run's last token
    read = lm.model(inputs_embeds=rows_ND[None], position_ids=places_1N, attention_mask=torch.ones(1, 7).long())
    for layer, (keys, values) in enumerate(cache_layers(lm, read.past_key_values)):
        torch.testing.assert_close(memory.keys_LKME[layer], keys[0][:, -1:])
        torch.testing.assert_close(memory.values_LKME[layer], values[0][:, -1:])


def test_without_memory_tokens_it_is_the_models_own_cache_at_the_ends_of_runs():
    lm = random_model()
    encoder = MemoryCache(4.0, rank=2, prefix=PREFIX, own=True)._fresh(lm, 0)
    assert all(name.startswith("adapters.") for name, _ in encoder.named_parameters())
    short, memory = encoder(lm, [IDS[:5], IDS])
    whole = whole_cache(lm, PREFIX, IDS)
    torch.testing.assert_close(memory.keys_LKME, whole.keys_LKME[:, :, [3, 7]])
    torch.testing.assert_close(memory.values_LKME, whole.values_LKME[:, :, [3, 7]])
    torch.testing.assert_close(short.keys_LKME, whole.keys_LKME[:, :, [4]])


def test_a_batch_is_its_contexts():
    lm, encoder = random_model(), untrained(2.0).encoder
    assert encoder is not None
    uneven = [IDS, IDS[:5], IDS[2:5]]
    for together, alone in zip(encoder(lm, uneven), [encoder(lm, [each])[0] for each in uneven], strict=True):
        torch.testing.assert_close(together.keys_LKME, alone.keys_LKME, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.values_LKME, alone.values_LKME, atol=1e-5, rtol=1e-5)


class Student(nn.Module):
    def __init__(self, encoder: CacheEncoder, lm: LanguageModel) -> None:
        super().__init__()
        self.encoder, self.begin = encoder, nn.Embedding.from_pretrained(lm.table_VD[[0]] * 2)


def test_training_reads_what_answering_will_read():
    """The terms, prompt by prompt, through the cache that `inject` makes and the reader that answers questions."""
    lm, compressor = random_model(), untrained(2.0)
    assert compressor.encoder is not None
    prompts = [
        Example(PREFIX, (1, 2, 3, 4, 5, 6), (16, 7), (8, 17)),
        Example(PREFIX, (9, 10, 11, 12), (16,), (3,)),
        Example(PREFIX, (5, 5, 6, 13, 2), (1, 2, 16), (10, 11, 17)),
    ]
    student = Student(compressor.encoder, lm)
    found = distillation_terms(lm, student, batch_of(prompts), Objective(1.0, 1.0, 1.0, 1.0))
    answer, question, entropy, read = [], [], [], []
    for example in prompts:
        injected = compressor.inject(lm, compressor.compress(lm, torch.tensor(example.context)))
        assert injected.cache is not None
        length, tail = len(PREFIX) + len(example.context), example.suffix + example.answer
        held = CachedPrompt(*injected.cache, length, lm.rows(tail))
        told = lm_logits_of_tail(lm, held)
        text = lm.model(input_ids=torch.tensor([[*PREFIX, *example.context, *tail]])).logits[0, -len(tail) :]
        kl = (text.softmax(-1) * (text.log_softmax(-1) - told)).sum(-1)
        asked = len(example.suffix) - 1
        question.append(kl[:asked])
        answer.append(kl[asked:])
        entropy.append(-told[asked:-1].gather(1, torch.tensor(example.answer)[:, None])[:, 0])
        rows_SD = torch.cat((student.begin.weight, lm.rows(example.context[:-1])))
        said = lm_logits_of_tail(lm, CachedPrompt(*injected.cache, length, rows_SD))
        read.append(-said.gather(1, torch.tensor(example.context)[:, None])[:, 0])
    expected = {"answer_kl": answer, "question_kl": question, "answer_ce": entropy, "reconstruction": read}
    for name, values in expected.items():
        torch.testing.assert_close(found[name], torch.cat(values).mean(), atol=1e-5, rtol=1e-5)


def lm_logits_of_tail(lm: LanguageModel, held: CachedPrompt) -> Tensor:
    """Log-probabilities after each row of the tail, read one row longer at a time."""
    rows = [held._replace(rows_SD=held.rows_SD[: n + 1]) for n in range(len(held.rows_SD))]
    return torch.cat([continuation_logits(lm, one, [0]) for one in rows]).log_softmax(-1)


@pytest.mark.parametrize("own", [False, True])
def test_training_finds_the_value_and_strangers_memory_destroys_it(tmp_path: Path, own: bool):
    lm, (ids, values), run = trained_model(), contexts(60, 5), RunDir(tmp_path)
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    compressor = MemoryCache(8.0, rank=2, prefix=(START,), own=own)
    trained = compressor.distilled(lm, examples(512, 7), QUICK, seed=0, run=run)
    injected = [trained.inject(lm, trained.compress(lm, each)) for each in ids]
    assert recalled_from_caches(lm, injected, values.tolist()) >= 0.85
    assert recalled_from_caches(lm, injected[1:] + injected[:1], values.tolist()) <= 0.35
    losses = [line["loss"] for line in run.read_log() if "loss" in line]
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in lm.model.state_dict().items())
    assert not any(module._forward_hooks for module in lm.model.modules())
    trained.save(tmp_path / "it.safetensors")
    for back in (MemoryCache.load(tmp_path / "it.safetensors"), load_compressor(tmp_path / "it.safetensors")):
        assert isinstance(back, MemoryCache)
        assert torch.equal(back.compress(lm, ids[0]).tensors["keys"], trained.compress(lm, ids[0]).tensors["keys"])
        assert (back.name, back.ratio, back.prefix, back.wire) == (trained.name, 8.0, (START,), "float16")
        assert back.own == own


def test_contexts_alone_teach_reading_back(tmp_path: Path):
    lm, (ids, _), run = trained_model(), contexts(64, 5), RunDir(tmp_path)
    read_back = DistillationConfig(batch=16, objective=Objective(0, 0, 0, 1), fit=FIT)
    compressor: Compressor = MemoryCache(4.0, rank=2, prefix=(START,), training=read_back)
    compressor.fit(lm, [*ids, torch.tensor([1])], seed=0, run=run)
    losses = [line["loss"] for line in run.read_log() if "loss" in line]
    assert losses[-1] < losses[0]


def test_bits_are_counted_out_and_places_are_the_ends_of_runs():
    lm, compressor = random_model(), untrained(3.0)
    compressed = compressor.compress(lm, IDS)
    assert (compressed.tokens, compressed.vectors) == (8, 2)
    assert compressor.bits(compressed) == 2 * 2 * 2 * 8 * 2 * 32, "layers, sides, heads, width, vectors, bits"
    injected = compressor.inject(lm, Compressed(dict(compressed.tensors), 8, 2))
    assert injected.rows_MD is None
    assert injected.cache is not None
    cache, places_K = injected.cache
    assert places_K.tolist() == [0, 1, 2 + 3, 2 + 7]
    assert [layer.keys.shape for layer in cache.layers] == [(1, 2, 4, 8)] * 2


@pytest.mark.parametrize(
    ("changes", "line"), [({"ratio": 0}, "ratio 0"), ({"rank": 0}, "rank=0"), ({"wire": "a"}, "wire")]
)
def test_impossible_settings_are_one_line(changes: dict, line: str):
    with pytest.raises(ValueError, match=line) as caught:
        MemoryCache(**{"ratio": 2.0} | changes)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_compressed_is_one_line(tmp_path: Path):
    lm = random_model()
    with pytest.raises(ValueError, match="leaves no vector"):
        untrained(9.0).compress(lm, IDS)
    with pytest.raises(ValueError, match="never trained"):
        MemoryCache(2.0).compress(lm, IDS)
    with pytest.raises(ValueError, match="never trained"):
        MemoryCache(2.0).save(tmp_path / "it.safetensors")
    other = [Example((START, END), (1, 2, 3, 4), (ASK,), (3,)) for _ in range(16)]
    with pytest.raises(ValueError, match="use one"):
        MemoryCache(4.0, rank=2, prefix=(START,)).distilled(lm, other, QUICK, seed=0)
