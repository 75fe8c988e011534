"""Muon beside AdamW: each takes the steps it would take alone, on the weights that are its own, also after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_training import loss_terms, make_model, toy_fit

from inscape.checkpoint import optimizer_tensors, restore_optimizer
from inscape.nn.decoder import Decoder
from inscape.nn.latent_codec import LatentCodec, LatentCodecConfig
from inscape.nn.latent_encoder import LatentEncoderConfig
from inscape.optimization import FitConfig, MuonAndAdamW, make_optimizer

CONFIG = FitConfig(steps=9, optimizer="muon", lr=0.01, weight_decay=0.1)


class Mixed(nn.Module):
    """One weight of every kind."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(5, 4)
        self.position_TD = nn.Parameter(torch.randn(3, 4))
        self.up = nn.Linear(4, 6)
        self.convolution = nn.Conv2d(2, 2, 3)
        self.norm = nn.LayerNorm(6)
        self.down = nn.Linear(6, 4, bias=False)
        self.logits = nn.Linear(4, 5)


def set_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def names_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Names of the weights an optimizer moves, and how each decays."""
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    return {name_of[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}


def muon_and_adamw(model: nn.Module) -> MuonAndAdamW:
    optimizer = make_optimizer(model, CONFIG)
    assert isinstance(optimizer, MuonAndAdamW)
    return optimizer


def test_linear_maps_go_to_muon_and_everything_else_to_adamw():
    model = Mixed()
    muon, adamw = muon_and_adamw(model).parts
    assert names_of(model, muon) == {"up.weight": 0.1, "down.weight": 0.1}
    decayed = {"position_TD", "convolution.weight", "logits.weight"}
    plain = {"embedding.weight", "up.bias", "convolution.bias", "norm.weight", "norm.bias", "logits.bias"}
    assert names_of(model, adamw) == dict.fromkeys(decayed, 0.1) | dict.fromkeys(plain, 0.0)
    frozen = Mixed()
    frozen.up.requires_grad_(False)
    assert names_of(frozen, muon_and_adamw(frozen)).keys() == names_of(model, muon_and_adamw(model)).keys() - {
        "up.weight",
        "up.bias",
    }


def test_of_the_codec_embeddings_norms_biases_tables_and_logits_are_adamws():
    with torch.device("meta"):
        sizes: Any = {"d": 16, "heads": 2, "ffn": 24}
        encoder = LatentEncoderConfig(vocab=9, layers=1, head="light", head_ffn=8, coarse=4, C=3, H=8, W=8, **sizes)
        model = LatentCodec(encoder, LatentCodecConfig(**sizes, reader_layers=1, decoder_layers=1, z=8))
    muon, adamw = muon_and_adamw(model).parts
    ours, theirs = names_of(model, muon).keys(), names_of(model, adamw).keys()
    assert not ours & theirs
    assert ours | theirs == {name for name, _ in model.named_parameters()}
    assert all(name.endswith(".weight") for name in ours)
    tables = ("embedding", "position", "queries", "gains", "offsets", "logits")
    words = (*tables, "norm", "bias", "convolutions", "skips", "leave")
    assert theirs == {name for name in ours | theirs if any(word in name for word in words)}
    assert {"decoder.logits.weight", "decoder.embedding.weight", "encoder.text_encoder.embedding.weight"} < theirs
    assert {"z_enter.weight", "reader.enter.weight", "readout.out.weight"} < ours


def test_without_linear_maps_or_if_told_so_it_is_adamw_alone():
    assert type(make_optimizer(nn.LayerNorm(3), CONFIG)) is torch.optim.AdamW
    assert type(make_optimizer(Mixed(), FitConfig(steps=1))) is torch.optim.AdamW


def test_each_takes_the_steps_that_it_takes_alone():
    together, alone = Mixed(), Mixed()
    optimizer = muon_and_adamw(together)
    matrices = [alone.up.weight, alone.down.weight]
    decayed = [alone.position_TD, alone.convolution.weight, alone.logits.weight]
    plain = [p for p in alone.parameters() if not any(p is other for other in (*matrices, *decayed))]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    muon = torch.optim.Muon(matrices, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
    for step in range(4):
        for any_optimizer in (optimizer, muon, adamw):
            any_optimizer.zero_grad()
            for group in any_optimizer.param_groups:  # as fit does
                group["lr"] = 0.02 / (1 + step)
        for model in (together, alone):
            assert all(p.grad is None for p in model.parameters())
            set_gradients(model, step)
        optimizer.step()
        muon.step()
        adamw.step()
        for (name, ours), theirs in zip(together.named_parameters(), alone.parameters(), strict=True):
            assert torch.equal(ours, theirs), f"{name} in step {step}"
    start = Mixed()
    for (name, moved), before in zip(together.named_parameters(), start.parameters(), strict=True):
        assert (moved - before).abs().max() > 1e-3, name


def test_muon_turns_a_gradient_into_one_of_about_equal_singular_values():
    """What it is for: all directions of a matrix move alike, at the root mean square that AdamW's steps have."""
    model = Mixed()
    optimizer = make_optimizer(model, FitConfig(steps=1, optimizer="muon", lr=0.01, weight_decay=0.0))
    before = model.up.weight.detach().clone()
    set_gradients(model, 0)
    optimizer.step()
    moved = before - model.up.weight.detach()
    singular = torch.linalg.svdvals(moved)
    assert singular.max() / singular.min() < 2.5
    assert 0.1 < moved.square().mean().sqrt() / 0.01 < 0.4  # 0.2, by Liu et al. 2025 (arXiv:2502.16982)


def test_state_is_saved_and_restored_bit_for_bit():
    unbroken, broken = Mixed(), Mixed()
    first, second = muon_and_adamw(unbroken), muon_and_adamw(broken)
    for model, optimizer in ((unbroken, first), (broken, second)):
        for step in range(3):
            set_gradients(model, step)
            optimizer.step()
    tensors = optimizer_tensors(second, broken)
    assert {key for key in tensors if key.endswith("/up.weight")} == {"momentum_buffer/up.weight"}
    assert {key for key in tensors if key.endswith("/logits.weight")} == {
        f"{slot}/logits.weight" for slot in ("exp_avg", "exp_avg_sq", "step")
    }
    again = Mixed()
    again.load_state_dict(broken.state_dict())
    third = muon_and_adamw(again)
    restore_optimizer(third, again, tensors)
    assert third.parts[0].state is third.parts[1].state is third.state
    for model, optimizer in ((unbroken, first), (again, third)):
        for group in optimizer.param_groups:
            group["lr"] = 0.003  # after a restore both parts must still see it
        for step in range(3, 6):
            set_gradients(model, step)
            optimizer.step()
    for (name, ours), theirs in zip(again.named_parameters(), unbroken.named_parameters(), strict=True):
        assert torch.equal(ours, theirs[1]), name
    for key, value in optimizer_tensors(third, again).items():
        assert torch.equal(value, optimizer_tensors(first, unbroken)[key]), key


def test_a_foreign_state_is_refused():
    model, other = Mixed(), Decoder(7, 4, 1, 8, 0.0, layers=1, max_length=3)
    optimizer = muon_and_adamw(other)
    for parameter in other.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    with pytest.raises(ValueError, match="which this model does not have"):
        restore_optimizer(muon_and_adamw(model), model, optimizer_tensors(optimizer, other))


class Killed(BaseException):
    """What no one catches."""


def final_bytes(path: Path) -> list[bytes]:
    return [(path / f"checkpoints/step_40/{part}.safetensors").read_bytes() for part in ("model", "ema", "optim")]


def test_a_training_with_muon_that_is_cut_off_goes_on_bit_for_bit(tmp_path: Path):
    def dies(model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        if step == 19:
            raise Killed
        return loss_terms(model, batch, step)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    toy_fit(tmp_path / "unbroken", optimizer="muon")
    with pytest.raises(Killed):
        toy_fit(tmp_path / "broken", optimizer="muon", terms=dies)
    assert sorted(p.name for p in (tmp_path / "broken/checkpoints").iterdir()) == ["step_15", "step_18"]
    result = toy_fit(tmp_path / "broken", optimizer="muon")
    torch.set_num_threads(threads)
    assert final_bytes(tmp_path / "broken") == final_bytes(tmp_path / "unbroken")
    assert result.evaluations[-1]["values"]["error"] < result.evaluations[0]["values"]["error"]


def test_a_run_is_not_continued_by_the_other_optimizer(tmp_path: Path):
    toy_fit(tmp_path, optimizer="muon")
    with pytest.raises(ValueError, match=r"other settings \(optimizer muon became adamw\)"):
        toy_fit(tmp_path)


def test_muon_and_adamw_learn_different_weights(tmp_path: Path):
    ours, theirs = (toy_fit(tmp_path / name, optimizer=name).model for name in ("muon", "adamw"))
    assert not torch.equal(next(ours.parameters()), next(theirs.parameters()))
    assert not torch.equal(next(ours.parameters()), next(make_model().parameters()))


def test_an_unknown_optimizer_is_named():
    with pytest.raises(ValueError, match=r"^optimizer='sgd' is out of range; allowed: adamw \| muon$"):
        FitConfig(steps=1, optimizer="sgd")
