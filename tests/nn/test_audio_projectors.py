"""Projectors: the seed's size to the parameter, what padding may not do, and what silence is."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from inscape.nn.audio_projectors import PROJECTORS, AdaptiveProjector, ProjectorConfig, make_projector
from inscape.nn.audio_tokens import AudioTokens

TOY = ProjectorConfig(tokens=5, bottleneck=8, scale=2.0, heads=2, stack=3)
F, D = 6, 7
ORDERED = ("linear_stack", "qformer", "perceiver")


def toy(kind: str, **changes: object) -> nn.Module:
    torch.manual_seed(0)
    return make_projector(replace(TOY, kind=kind, **changes), F, D).eval()  # type: ignore[arg-type]


def clips(*lengths: int, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    features_BTF = torch.randn(len(lengths), frames, F, generator=generator)
    return features_BTF, torch.arange(frames) < torch.tensor(lengths)[:, None]


def test_the_seed_s_projector_has_168_million_parameters():
    with torch.device("meta"):
        projector = make_projector(ProjectorConfig(kind="mlp"), 512, 5120)
    norm, squeeze, out = 2 * 512, 512 * 1024 + 1024, 1024 * 32 * 5120 + 32 * 5120
    assert sum(p.numel() for p in projector.parameters()) == norm + squeeze + out == 168_462_336


def test_mlp_is_the_seed_s_formula():
    projector, (features_BTF, mask_BT) = toy("mlp"), clips(4, 2, frames=4)
    weight = projector.state_dict()
    mean_BF = torch.stack([features_BTF[0].mean(0), features_BTF[1, :2].mean(0)])
    inner_BH = functional.linear(functional.layer_norm(mean_BF, (F,)), weight["squeeze.weight"])
    out_BC = torch.tanh(functional.linear(functional.gelu(inner_BH), weight["out.weight"]))
    audio = projector(features_BTF, mask_BT)
    torch.testing.assert_close(audio.tokens_BKD, 2.0 * out_BC.reshape(2, 5, D))
    assert audio.mask_BK.all()


def test_without_a_bottleneck_mlp_is_one_map():
    names = dict(toy("mlp", bottleneck=0).named_parameters())
    assert {name: tuple(p.shape) for name, p in names.items() if "weight" in name} == {
        "norm.weight": (F,),
        "out.weight": (5 * D, F),
    }


@pytest.mark.parametrize("kind", PROJECTORS)
def test_every_kind_gives_at_most_k_tokens_within_the_scale(kind: str):
    audio = toy(kind)(*clips(15, 4, frames=15))
    assert isinstance(audio, AudioTokens)
    assert audio.tokens_BKD.shape == (2, 5, D)
    assert audio.mask_BK.shape == (2, 5)
    assert audio.mask_BK.dtype == torch.bool
    assert audio.mask_BK.any(1).all()
    assert 0.3 < audio.tokens_BKD.abs().max() <= 2.0
    torch.testing.assert_close(toy(kind, scale=4.0)(*clips(15, 4, frames=15)).tokens_BKD, 2 * audio.tokens_BKD)


@pytest.mark.parametrize("kind", ["qformer", "perceiver"])
def test_frames_enter_through_their_norm_and_their_linear_map(kind: str):
    reader, (features_BTF, _) = toy(kind).reader, clips(9, 9, frames=9)
    inside = (reader.norm.weight, reader.norm.bias, reader.enter.weight, reader.enter.bias)
    for parameter in inside:
        nn.init.normal_(parameter)
    weights_BTW = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(2))
    found, wanted = reader._entered(features_BTF), reader.enter(reader.norm(features_BTF))
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad((found * weights_BTW).sum(), inside),
        torch.autograd.grad((wanted * weights_BTW).sum(), inside),
        atol=1e-4,
        rtol=1e-4,
    )


@pytest.mark.parametrize("kind", PROJECTORS)
@pytest.mark.parametrize("held", [float("nan"), float("inf"), 1e30])
def test_what_padding_holds_never_reaches_a_token(kind: str, held: float):
    projector, (features_BTF, mask_BT) = toy(kind), clips(9, 4, frames=9)
    clean = projector(features_BTF, mask_BT)
    spoilt = projector(features_BTF.masked_fill(~mask_BT[..., None], held), mask_BT)
    assert torch.equal(spoilt.tokens_BKD, clean.tokens_BKD)
    assert torch.equal(spoilt.mask_BK, clean.mask_BK)


@pytest.mark.parametrize("kind", PROJECTORS)
@settings(max_examples=25)
@given(length=st.integers(1, 9), more=st.integers(0, 30))
def test_the_amount_of_padding_changes_nothing(kind: str, length: int, more: int):
    projector, (features_BTF, mask_BT) = toy(kind).double(), clips(length, frames=length + more)
    for parameter in projector.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # biases of norms too: they make something of nothing
    features_BTF = features_BTF.double()
    padded = projector(features_BTF, mask_BT)
    alone = projector(features_BTF[:, :length], mask_BT[:, :length])
    count = alone.mask_BK.shape[1]  # stacks behind the clip are not there
    torch.testing.assert_close(padded.tokens_BKD[:, :count], alone.tokens_BKD, atol=1e-9, rtol=1e-9)
    assert torch.equal(padded.mask_BK[:, :count], alone.mask_BK)
    assert not padded.mask_BK[:, count:].any()


@pytest.mark.parametrize("kind", ["mlp", "adaptive", "qformer", "perceiver"])
def test_padding_may_stand_before_the_clip_too(kind: str):
    projector, (features_BTF, mask_BT) = toy(kind), clips(4, frames=9)
    after = projector(features_BTF, mask_BT)
    before = projector(features_BTF.roll(5, 1), mask_BT.roll(5, 1))
    torch.testing.assert_close(before.tokens_BKD, after.tokens_BKD, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", PROJECTORS)
def test_a_clip_without_a_frame_has_no_token_and_leaves_the_others_alone(kind: str):
    projector, (features_BTF, mask_BT) = toy(kind), clips(4, 0, 6, frames=6)
    audio = projector(features_BTF, mask_BT)
    assert audio.tokens_BKD.isfinite().all()
    assert audio.mask_BK.any(1).tolist() == [True, False, True]
    (audio.tokens_BKD.sum()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in projector.parameters())


@pytest.mark.parametrize("kind", PROJECTORS)
def test_only_kinds_that_know_places_hear_the_order_of_frames(kind: str):
    projector, (features_BTF, mask_BT) = toy(kind), clips(9, frames=9)
    change = projector(features_BTF.flip(1), mask_BT).tokens_BKD - projector(features_BTF, mask_BT).tokens_BKD
    assert (float(change.detach().abs().max()) > 1e-3) == (kind in ORDERED)


@pytest.mark.parametrize("kind", PROJECTORS)
def test_every_parameter_gets_a_gradient(kind: str):
    projector, (features_BTF, mask_BT) = toy(kind).train(), clips(9, 4, frames=9)
    audio = projector(features_BTF, mask_BT)
    (audio.tokens_BKD * torch.randn(audio.tokens_BKD.shape)).sum().backward()
    silent = [n for n, p in projector.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    # A key's bias adds the same to every score, and softmax does not see it.
    assert [name for name in silent if "key_value.bias" not in name] == []


@pytest.mark.parametrize("kind", PROJECTORS)
def test_bfloat16_autocast_gives_finite_tokens(kind: str):
    with torch.autocast("cpu", torch.bfloat16):
        audio = toy(kind)(*clips(9, 0, frames=9))
    assert audio.tokens_BKD.isfinite().all()


# --- adaptive -----------------------------------------------------------------------------------------------------


def test_the_number_of_tokens_is_the_expected_count_rounded():
    projector, (features_BTF, mask_BT) = toy("adaptive"), clips(*[6] * 40, 0, frames=6)
    assert isinstance(projector, AdaptiveProjector)
    nn.init.normal_(projector.count.weight, std=2.0)
    expected_B = projector.expected_count(features_BTF, mask_BT)
    audio = projector(features_BTF, mask_BT)
    used_B = audio.mask_BK.sum(1)
    assert torch.equal(used_B, expected_B.round().long())
    assert {1, 5} <= set(used_B[:-1].tolist()) <= {1, 2, 3, 4, 5}
    assert used_B[-1] == expected_B[-1] == 0
    assert torch.equal(audio.mask_BK, torch.arange(5) < used_B[:, None]), "the first ones are used"
    assert not audio.tokens_BKD[:-1][~audio.mask_BK[:-1]].any()


def test_a_loss_on_the_tokens_moves_the_count():
    projector, (features_BTF, mask_BT) = toy("adaptive"), clips(6, 4, frames=6)
    assert isinstance(projector, AdaptiveProjector)
    (slope,) = torch.autograd.grad(projector(features_BTF, mask_BT).tokens_BKD.square().sum(), projector.count.bias)
    assert slope > 0, "more tokens make the sum of squares larger"
    (slope,) = torch.autograd.grad(projector.expected_count(features_BTF, mask_BT).sum(), projector.count.bias)
    assert slope > 0


# --- linear_stack -------------------------------------------------------------------------------------------------


def test_a_stack_is_one_linear_map_of_its_frames():
    projector, (features_BTF, mask_BT) = toy("linear_stack"), clips(8, 2, frames=8)
    weight = projector.state_dict()["out.weight"]
    audio = projector(features_BTF, mask_BT)
    normed_TF = functional.layer_norm(features_BTF[0], (F,))
    for i in range(2):
        expected_D = 2.0 * torch.tanh(weight @ normed_TF[3 * i : 3 * i + 3].flatten())
        torch.testing.assert_close(audio.tokens_BKD[0, i], expected_D)
    last_D = 2.0 * torch.tanh(weight @ functional.pad(normed_TF[6:].flatten(), (0, F)))
    torch.testing.assert_close(audio.tokens_BKD[0, 2], last_D)
    assert audio.mask_BK.tolist() == [[True, True, True], [True, False, False]]


def test_padding_beyond_the_last_stack_is_fine_and_sound_is_not():
    projector = toy("linear_stack")
    assert projector(*clips(15, frames=20)).tokens_BKD.shape[1] == 5
    with pytest.raises(ValueError, match="a clip goes on after frame 15"):
        projector(*clips(16, frames=20))


# --- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"kind": "conv"}, "kind='conv' is no projector; allowed: mlp, adaptive"),
        ({"tokens": 0}, "tokens=0 is out of range"),
        ({"layers": 0}, "layers=0 is out of range"),
        ({"heads": 0}, "heads=0 is out of range"),
        ({"stack": 0}, "stack=0 is out of range"),
        ({"bottleneck": -1}, "bottleneck=-1 is out of range"),
        ({"scale": 0.0}, "scale=0.0 is out of range"),
        ({"scale": float("inf")}, "scale=inf is out of range"),
        ({"dropout": 1.0}, "dropout=1.0 is out of range"),
        ({"kind": "qformer", "heads": 3}, "heads=3 do not divide the inner width of 8"),
        ({"kind": "perceiver", "heads": 4, "bottleneck": 0}, "heads=4 do not divide the inner width of 6"),
    ],
)
def test_mistakes_in_a_config_are_one_line(changes: dict[str, object], line: str):
    with pytest.raises(ValueError, match=line) as caught:
        make_projector(replace(TOY, **changes), F, D)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_mistakes_in_what_is_given_are_one_line():
    with pytest.raises(ValueError, match="features=0"):
        make_projector(TOY, 0, D)
    features_BTF, mask_BT = clips(4, frames=4)
    with pytest.raises(ValueError, match=r"frames of shape \(1, 4, 5\) were given"):
        toy("mlp")(features_BTF[..., :5], mask_BT)
    with pytest.raises(ValueError, match=r"the mask is torch\.float32"):
        toy("mlp")(features_BTF, mask_BT.float())
    with pytest.raises(ValueError, match=r"wanted: torch.bool of shape \(1, 4\)"):
        toy("mlp")(features_BTF, mask_BT[:, :3])
