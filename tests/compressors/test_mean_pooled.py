"""Mean pooling: plain means are plain, the map is a ridge regression, training finds what the receiver needs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted_recall import contexts, examples, random_model, recalled, trained_model

from inscape.compressors.distillation import DistillationConfig, Objective
from inscape.compressors.interface import LATENT, Compressor, vector_count
from inscape.compressors.mean_pooled import MeanPooled, run_bounds, run_means
from inscape.train import FitConfig

IDS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5])
QUICK = DistillationConfig(
    batch=16,
    objective=Objective(question_kl=0),
    fit=FitConfig(steps=80, lr=1e-2, warmup_steps=5, ema_decay=0.9, precision="float32"),
)


@given(tokens=st.integers(1, 300), ratio=st.floats(1, 40))
def test_runs_cover_every_token_and_are_of_one_length(tokens: int, ratio: float):
    if tokens < ratio:
        with pytest.raises(ValueError, match="leaves no vector"):
            run_bounds(tokens, ratio)
        return
    bounds = run_bounds(tokens, ratio)
    assert len(bounds) == vector_count(tokens, ratio)
    assert [start for start, _ in bounds[1:]] == [stop for _, stop in bounds[:-1]]
    assert (bounds[0][0], bounds[-1][1]) == (0, tokens)
    lengths = {stop - start for start, stop in bounds}
    assert max(lengths) - min(lengths) <= 1
    assert min(lengths) >= int(ratio)


def test_a_ratio_that_divides_gives_runs_of_that_length():
    assert run_bounds(12, 4) == [(0, 4), (4, 8), (8, 12)]
    assert run_bounds(11, 4) == [(0, 5), (5, 11)]
    assert run_means(torch.tensor([[1.0], [3.0], [5.0], [9.0]]), 2).tolist() == [[2.0], [7.0]]


def test_untrained_at_layer_0_it_is_the_mean_of_table_rows():
    lm = random_model()
    compressor: Compressor = MeanPooled(5.0)
    compressed = compressor.compress(lm, IDS)
    assert (compressed.tokens, compressed.vectors) == (11, 2)
    rows_MD = compressor.inject(lm, compressed).rows_MD
    expected = torch.stack((lm.table_VD[IDS[:5]].mean(0), lm.table_VD[IDS[5:]].mean(0)))
    torch.testing.assert_close(rows_MD, expected)
    assert compressor.bits(compressed) == 2 * 32 * 32
    whole = MeanPooled(1.0).inject(lm, MeanPooled(1.0).compress(lm, IDS)).rows_MD
    assert whole is not None
    assert torch.equal(whole, lm.table_VD[IDS]), "at ratio 1 nothing is lost"


def test_fitted_at_layer_0_it_is_still_plain():
    lm = random_model()
    fitted = MeanPooled(4.0).fit(lm, [IDS, IDS.flip(0)], seed=0)
    torch.testing.assert_close(fitted.compress(lm, IDS).tensors, MeanPooled(4.0).compress(lm, IDS).tensors)


@pytest.mark.parametrize("layer", [1, 2])
def test_the_map_is_the_ridge_regression_of_pooled_rows_on_pooled_states(layer: int):
    lm, (ids, _) = random_model(), contexts(40, 1)
    short = torch.tensor([1])
    found = MeanPooled(2.0, layer=layer).fit(lm, [*ids, short], seed=0)
    with torch.no_grad():
        hidden = lm.model(input_ids=ids, output_hidden_states=True).hidden_states
        states = lm.model.base_model.norm(hidden[1]) if layer == 1 else hidden[2]
    x = np.concatenate([run_means(each, 2.0).double().numpy() for each in states])
    y = np.concatenate([run_means(lm.table_VD[each], 2.0).double().numpy() for each in ids])
    x_mean, deviation, y_mean = x.mean(0), x.std(0), y.mean(0)
    z = (x - x_mean) / deviation
    weight = np.linalg.solve(z.T @ z / len(z) + 1e-3 * np.eye(32), z.T @ (y - y_mean) / len(z))
    expected = (z[:4] @ weight + y_mean).astype(np.float32)
    rows_MD = found.compress(lm, ids[0]).tensors[LATENT]
    torch.testing.assert_close(rows_MD, torch.from_numpy(expected), atol=1e-4, rtol=1e-4)


def test_a_batch_is_its_contexts():
    lm, (ids, _) = random_model(), contexts(3, 1)
    uneven = [ids[0], ids[1][:5], ids[2][:3]]
    encoder = MeanPooled(2.0, layer=2).fit(lm, list(ids), seed=0).encoder
    assert encoder is not None
    for together, alone in zip(encoder(lm, uneven), [encoder(lm, [each])[0] for each in uneven], strict=True):
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("layer", "rank"), [(0, 0), (1, 2)])
def test_training_finds_the_value_and_strangers_memory_destroys_it(layer: int, rank: int, tmp_path: Path):
    lm, (ids, values) = trained_model(), contexts(60, 5)
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    start = MeanPooled(8.0, layer=layer, rank=rank)
    untrained = start.fit(lm, list(ids), seed=0)
    trained = start.distilled(lm, examples(512, 7), QUICK, seed=0)

    def share(compressor: MeanPooled, shift: int = 0) -> float:
        memories = [compressor.inject(lm, compressor.compress(lm, each)).rows_MD for each in ids]
        return recalled(lm, memories[shift:] + memories[:shift], values.tolist())

    assert share(trained) >= 0.85
    assert share(untrained) <= 0.6
    assert share(trained, shift=1) <= 0.35
    assert all(torch.equal(tensor, before[name]) for name, tensor in lm.model.state_dict().items())
    trained.save(tmp_path / "it.safetensors")
    back = MeanPooled.load(tmp_path / "it.safetensors")
    assert torch.equal(back.compress(lm, ids[0]).tensors[LATENT], trained.compress(lm, ids[0]).tensors[LATENT])
    assert back.name == trained.name


def test_a_file_of_the_plain_one_brings_it_back(tmp_path: Path):
    MeanPooled(2.5, wire="float16").save(tmp_path / "it.safetensors")
    back = MeanPooled.load(tmp_path / "it.safetensors")
    assert (back.ratio, back.layer, back.wire, back.encoder) == (2.5, 0, "float16", None)
    compressed = back.compress(random_model(), IDS)
    assert compressed.tensors[LATENT].dtype == torch.float16
    assert back.bits(compressed) == 4 * 32 * 16


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"ratio": 0.9}, "ratio 0.9"),
        ({"layer": -1}, "layer=-1"),
        ({"rank": 2}, "adapts nothing"),
        ({"wire": "int3"}, "float16"),
    ],
)
def test_impossible_settings_are_one_line(changes: dict, line: str):
    with pytest.raises(ValueError, match=line) as caught:
        MeanPooled(**{"ratio": 2.0} | changes)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_compressed_is_one_line():
    lm = random_model()
    with pytest.raises(ValueError, match="leaves no vector"):
        MeanPooled(12.0).compress(lm, IDS)
    with pytest.raises(ValueError, match="call fit"):
        MeanPooled(2.0, layer=1).compress(lm, IDS)
    with pytest.raises(ValueError, match="allowed: 1 to 2"):
        MeanPooled(2.0, layer=3).fit(lm, [IDS], seed=0)
    with pytest.raises(ValueError, match="nothing to fit"):
        MeanPooled(20.0, layer=1).fit(lm, [IDS], seed=0)
