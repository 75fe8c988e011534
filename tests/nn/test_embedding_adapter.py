"""The adapter's size and formula, and what an output LayerNorm would do to rows."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from inscape.nn.embedding_adapter import EmbeddingAdapter


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_plan_counts_19_9_million_parameters() -> None:
    with torch.device("meta"):
        module = EmbeddingAdapter(512, 4096, hidden_mult=4)
    assert parameters(module) == 19_944_448
    assert f"{parameters(module) / 1e6:.1f}" == "19.9"
    film = parameters(module.scale) + parameters(module.shift)
    assert f"{(parameters(module) - film) / 1e6:.1f}" == "15.7"


def test_shapes_of_the_plan() -> None:
    assert EmbeddingAdapter(512, 4096)(torch.randn(8, 20, 512)).shape == (8, 20, 4096)


def test_it_is_its_formula() -> None:
    torch.manual_seed(0)
    module = EmbeddingAdapter(6, 10, hidden_mult=3).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    z = torch.randn(5, 6)
    w = dict(module.named_parameters())

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    normed = (z - z.mean(1, keepdim=True)) / (z.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    normed = normed * w["norm.weight"] + w["norm.bias"]
    hidden = functional.gelu(linear(functional.gelu(linear(normed, "first")), "second"))
    row = linear(hidden, "out") + linear(normed, "skip")
    expected = row / (1 + torch.exp(-linear(z, "scale"))) + linear(z, "shift")
    torch.testing.assert_close(module(z), expected, rtol=1e-4, atol=1e-4)
    assert [tuple(w[f"{name}.weight"].shape) for name in ("first", "second", "out")] == [(18, 6), (18, 18), (10, 18)]


def test_dropout_is_on_the_second_hidden_layer_and_only_in_training() -> None:
    torch.manual_seed(0)
    module = EmbeddingAdapter(6, 10, rate=0.5)
    z = torch.randn(5, 6)
    assert not torch.equal(module(z), module(z))
    nn.init.zeros_(module.out.weight)
    assert torch.equal(module(z), module(z))
    module = EmbeddingAdapter(6, 10, rate=0.5).eval()
    assert torch.equal(module(z), module(z))


def test_a_latents_length_reaches_the_rows() -> None:
    """LayerNorm alone would make z and 5 z the same row: FiLM reads the latent as it came."""
    torch.manual_seed(0)
    module = EmbeddingAdapter(6, 10).eval()
    z = torch.randn(4, 6)
    assert (module(5 * z) - module(z)).abs().max() > 0.1
    for linear in (module.scale, module.shift):
        nn.init.zeros_(linear.weight)
    torch.testing.assert_close(module(5 * z), module(z), atol=1e-3, rtol=1e-3)


def test_started_from_a_linear_map_it_is_that_map() -> None:
    weight_dD, bias_D = torch.randn(6, 10), torch.randn(10)
    module = EmbeddingAdapter(6, 10).eval()
    module.start_from(weight_dD, bias_D)
    z = torch.randn(7, 6)
    torch.testing.assert_close(module(z), bias_D + z @ weight_dD)


def test_rows_of_tables_are_in_reach_and_were_not_under_an_output_norm() -> None:
    """The record's output LayerNorm: every row has norm sqrt(D), while rows of tables have norms near 0.5."""
    row_ND = 0.5 * functional.normalize(torch.randn(64, 256, generator=torch.Generator().manual_seed(0)), dim=1)
    normed = nn.LayerNorm(256)(row_ND).detach()
    assert float(normed.norm(dim=1).mean()) == pytest.approx(math.sqrt(256), rel=0.02)
    assert float((normed - row_ND).norm() / row_ND.norm()) > 30
    assert not any(
        isinstance(part, nn.LayerNorm) and part.normalized_shape == (256,)
        for part in EmbeddingAdapter(8, 256).modules()
    )


def test_sizes_that_make_no_adapter_are_one_line() -> None:
    for sizes in ({"width": 0}, {"dimension": 0}, {"hidden_mult": 0}):
        with pytest.raises(ValueError, match="make no adapter"):
            EmbeddingAdapter(**({"width": 4, "dimension": 8} | sizes))
    with pytest.raises(ValueError, match=r"rate=1\.0"):
        EmbeddingAdapter(4, 8, rate=1.0)
