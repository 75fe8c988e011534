"""Memory tokens: where they stand and what they see, and that training makes them carry what the answer needs."""

from pathlib import Path

import pytest
import torch
from planted_recall import ASK, START, contexts, examples, random_model, recalled, trained_model

from inscape.compressors.distillation import DistillationConfig, Objective
from inscape.compressors.interface import LATENT, Compressor
from inscape.compressors.mean_pooled import MeanPooled
from inscape.compressors.memory_tokens import MemoryTokens, layout_of
from inscape.compressors.teaching_examples import Example
from inscape.core.rundir import RunDir
from inscape.pretrained.language_model import LanguageModel
from inscape.train import FitConfig

IDS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])
FIT = FitConfig(steps=80, lr=1e-2, warmup_steps=5, ema_decay=0.9, precision="float32", log_every=5)
QUICK = DistillationConfig(batch=16, objective=Objective(question_kl=0), fit=FIT)
READ_BACK = DistillationConfig(batch=16, objective=Objective(0, 0, 0, 1), fit=FIT)


def untrained(ratio: float = 4.0, **settings: object) -> MemoryTokens:
    """As before the first step of a training, but for noise in the parts that start at zero."""
    plain = MemoryTokens(ratio, rank=2, **settings)  # type: ignore[arg-type]
    encoder = plain._fresh(random_model(), 0)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for parameter in encoder.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    object.__setattr__(plain, "encoder", encoder.eval())
    return plain


def hooks_of(lm: LanguageModel) -> int:
    return sum(len(module._forward_hooks) for module in lm.model.modules())


def rows(compressor: MemoryTokens, ids_T: torch.Tensor) -> torch.Tensor:
    return compressor.compress(random_model(), ids_T).tensors[LATENT]


def test_the_reading_order():
    interleaved = layout_of(7, 3, "interleaved")  # runs 0-2 and 3-6: memory tokens are 7 and 8
    assert interleaved.order_N.tolist() == [0, 1, 2, 7, 3, 4, 5, 6, 8]
    assert interleaved.position_N.tolist() == [0, 1, 2, 2, 3, 4, 5, 6, 6]
    assert interleaved.memory_M.tolist() == [3, 8]
    end = layout_of(7, 3, "end")
    assert end.order_N.tolist() == list(range(9))
    assert end.position_N.tolist() == [0, 1, 2, 3, 4, 5, 6, 2, 6]
    assert end.memory_M.tolist() == [7, 8]


@pytest.mark.parametrize(("layout", "sees"), [("interleaved", [[0, 1, 2, 3], range(8)]), ("end", [range(8)] * 2)])
@pytest.mark.parametrize("skip", [True, False])
def test_what_a_memory_token_sees(layout: str, sees: list, skip: bool):
    compressor = untrained(layout=layout, skip=skip)
    before_MD = rows(compressor, IDS)
    for place in range(8):
        ids_T = IDS.clone()
        ids_T[place] = 7
        moved = (rows(compressor, ids_T) - before_MD).abs().amax(1) > 1e-6
        assert moved.tolist() == [place in seen for seen in sees]


@pytest.mark.parametrize("layout", ["interleaved", "end"])
def test_a_batch_is_its_contexts(layout: str):
    lm, encoder = random_model(), untrained(2.0, layout=layout).encoder
    assert encoder is not None
    uneven = [IDS, IDS[:5], IDS[2:5]]
    for together, alone in zip(encoder(lm, uneven), [encoder(lm, [each])[0] for each in uneven], strict=True):
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_training_starts_at_mean_pooling():
    lm, plain = random_model(), MemoryTokens(2.0, rank=2)
    (rows_MD,) = plain._fresh(lm, 0)(lm, [IDS])
    torch.testing.assert_close(rows_MD, MeanPooled(2.0).compress(lm, IDS).tensors[LATENT])


@pytest.mark.parametrize(("layout", "skip", "depth"), [("interleaved", True, 1), ("end", False, 0)])
def test_training_finds_the_value_and_strangers_memory_destroys_it(layout: str, skip: bool, depth: int, tmp_path: Path):
    lm, (ids, values), run = trained_model(), contexts(60, 5), RunDir(tmp_path)
    before, hooks = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}, hooks_of(lm)
    compressor: MemoryTokens = MemoryTokens(8.0, rank=2, layout=layout, skip=skip, depth=depth)
    trained = compressor.distilled(lm, examples(512, 7), QUICK, seed=0, run=run)
    memories = [trained.inject(lm, trained.compress(lm, each)).rows_MD for each in ids]
    assert recalled(lm, memories, values.tolist()) >= 0.85
    assert recalled(lm, memories[1:] + memories[:1], values.tolist()) <= 0.35
    losses = [line["loss"] for line in run.read_log() if "loss" in line]
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in lm.model.state_dict().items())
    assert hooks_of(lm) == hooks
    trained.save(tmp_path / "it.safetensors")
    back = MemoryTokens.load(tmp_path / "it.safetensors")
    assert torch.equal(back.compress(lm, ids[0]).tensors[LATENT], trained.compress(lm, ids[0]).tensors[LATENT])
    assert (back.name, back.ratio, back.skip, back.depth) == (trained.name, 8.0, skip, depth)


def test_contexts_alone_teach_reading_back(tmp_path: Path):
    lm, (ids, _), run = trained_model(), contexts(64, 5), RunDir(tmp_path)
    compressor: Compressor = MemoryTokens(4.0, rank=2, training=READ_BACK)
    compressor.fit(lm, [*ids, torch.tensor([1])], seed=0, run=run)
    losses = [line["loss"] for line in run.read_log() if "loss" in line]
    assert losses[-1] < losses[0]


def test_the_same_seed_trains_the_same_and_a_second_training_goes_on():
    lm, few = random_model(), QUICK.__class__(batch=4, fit=FitConfig(steps=3, lr=1e-3, precision="float32"))
    first, again, other = (
        MemoryTokens(4.0, rank=2).distilled(lm, examples(16, 7), few, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(rows(first, IDS), rows(again, IDS))
    assert not torch.equal(rows(first, IDS), rows(other, IDS))
    assert (rows(first.distilled(lm, examples(16, 7), few, seed=5), IDS) - rows(first, IDS)).abs().max() < 0.1


def test_bits_are_counted_out():
    compressor = untrained(3.0, wire="bfloat16")
    compressed = compressor.compress(random_model(), IDS)
    assert (compressed.tokens, compressed.vectors) == (8, 2)
    assert compressor.bits(compressed) == 2 * 32 * 16
    rows_MD = compressor.inject(random_model(), compressed).rows_MD
    assert rows_MD is not None
    assert rows_MD.dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"ratio": 0}, "ratio 0"),
        ({"rank": 0}, "rank=0"),
        ({"depth": -1}, "depth=-1"),
        ({"layout": "start"}, "interleaved"),
        ({"wire": "a"}, "wire"),
    ],
)
def test_impossible_settings_are_one_line(changes: dict, line: str):
    with pytest.raises(ValueError, match=line) as caught:
        MemoryTokens(**{"ratio": 2.0} | changes)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_compressed_is_one_line(tmp_path: Path):
    lm = random_model()
    with pytest.raises(ValueError, match="leaves no vector"):
        untrained(9.0).compress(lm, IDS)
    with pytest.raises(ValueError, match="never trained"):
        MemoryTokens(2.0).compress(lm, IDS)
    with pytest.raises(ValueError, match="never trained"):
        MemoryTokens(2.0).save(tmp_path / "it.safetensors")
    short = [Example((START,), (1 + i % 4, 1 + i // 4), (ASK,), (3,)) for i in range(16)]
    with pytest.raises(ValueError, match="2 tokens cannot be compressed 4 times"):
        MemoryTokens(4.0, rank=2).distilled(lm, short, QUICK, seed=0)
