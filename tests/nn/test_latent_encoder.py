"""The whole encoder: size, padding, text dependence, amplitude, compilation."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from inscape.nn.latent_encoder import LatentEncoder, LatentEncoderConfig
from inscape.nn.light_head import LightHead

TOY = LatentEncoderConfig(vocab=40, d=32, layers=2, heads=4, ffn=64, head_ffn=48, map_channels=8, H=16, W=16, C=3)
HEADS = ["grid", "light", "slots"]


def toy(**change: object) -> LatentEncoder:
    torch.manual_seed(0)
    return LatentEncoder(replace(TOY, **change)).eval()


def test_the_plans_model_has_25_and_a_half_million_parameters():
    with torch.device("meta"):
        model = LatentEncoder(LatentEncoderConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == 25_433_030
    assert model(torch.ones(2, 24, dtype=torch.long, device="meta")).shape == (2, 6, 32, 32)


@pytest.mark.parametrize("smoothing", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_padding_and_company_change_nothing(head: str, smoothing: bool):
    model = toy(head=head, smoothing=smoothing)
    long, short = torch.tensor([[5, 6, 7, 8, 9, 10, 11]]), torch.tensor([[12, 13, 14]])
    batch = torch.cat((long, functional.pad(short, (0, 4))))
    for index, alone in enumerate((long, short)):
        torch.testing.assert_close(model(batch)[index], model(alone)[0], atol=1e-5, rtol=1e-5)
    # up to the length where the head attends in another order of operations
    torch.testing.assert_close(model(functional.pad(batch, (0, 40))), model(batch), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_a_row_of_padding_is_harmless(head: str):
    model = toy(head=head)
    model(torch.zeros(2, 5, dtype=torch.long)).square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("smoothing", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_latents_start_at_unit_order_and_depend_on_the_text(head: str, smoothing: bool):
    torch.manual_seed(0)
    model = LatentEncoder(LatentEncoderConfig(vocab=500, layers=2, head=head, smoothing=smoothing)).eval()
    with torch.no_grad():
        latent_BCHW = model(torch.randint(7, 500, (8, 12)))
    assert 0.2 < latent_BCHW.std() < 2
    between_sentences = latent_BCHW.var(0).mean() / latent_BCHW.var()
    assert between_sentences > 0.01


@pytest.mark.parametrize("head", HEADS)
def test_unit_amplitude_changes_the_scale_of_each_sentence_alone(head: str):
    tokens_BT = torch.randint(7, 40, (4, 6), generator=torch.Generator().manual_seed(1))
    free_BCHW, unit_BCHW = (toy(head=head, unit_amplitude=unit)(tokens_BT) for unit in (False, True))
    torch.testing.assert_close(unit_BCHW.square().mean((1, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)
    ratio_BCHW = free_BCHW / unit_BCHW
    amplitude_B = free_BCHW.square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(ratio_BCHW, amplitude_B[:, None, None, None].expand_as(ratio_BCHW), atol=0, rtol=1e-3)
    assert amplitude_B.std() > 1e-3, "sentences differ in amplitude if they may"


def test_unit_amplitude_of_an_empty_latent_is_finite():
    model = toy(head="light", unit_amplitude=True)
    with torch.no_grad():
        for parameter in model.head.paint.leave.parameters():  # type: ignore[union-attr]
            parameter.zero_()
    latent_BCHW = model(torch.randint(7, 40, (2, 6)))
    latent_BCHW.sum().backward()
    assert not latent_BCHW.any()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_given_embeddings_stand_for_the_tokens():
    model = toy(head="light")
    tokens_BT = torch.tensor([[1, 8, 9, 2, 0], [1, 8, 9, 10, 2]])
    table_VD = model.text_encoder.embedding.weight.detach()
    torch.testing.assert_close(model(tokens_BT, table_VD[tokens_BT]), model(tokens_BT))
    other_BT = torch.where(tokens_BT == 9, 11, tokens_BT)
    torch.testing.assert_close(model(tokens_BT, table_VD[other_BT]), model(other_BT))
    other_BT[0, 4] = 12  # padding is padding by its id, whatever is embedded there
    torch.testing.assert_close(model(tokens_BT, table_VD[other_BT])[0], model(other_BT[:, :4])[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("change", [{}, {"smoothing": True, "unit_amplitude": True}])
def test_the_states_of_places_are_what_v_is_painted_from(change: dict[str, object]):
    model = toy(head="light", coarse=4, **change)
    tokens_BT = torch.tensor([[1, 8, 9, 2, 0], [1, 8, 9, 10, 2]])
    latent_BCHW, places_BQD = model(tokens_BT), model.places(tokens_BT)
    assert torch.equal(latent_BCHW, model.paint(places_BQD))
    assert places_BQD.shape == (2, 16, 32)
    if not change:
        assert isinstance(model.head, LightHead)
        assert torch.equal(model.head.paint(places_BQD), latent_BCHW)
        # Row by row: a change of one state moves the quarter of the picture where it lies.
        moved_BQD = places_BQD.clone()
        moved_BQD[:, 4 * 2 + 3] += 1.0
        moved_HW = (model.head.paint(moved_BQD) - latent_BCHW).square().mean((0, 1))
        assert moved_HW.view(4, 4, 4, 4).mean((1, 3)).argmax() == 4 * 2 + 3


@pytest.mark.parametrize("head", ["grid", "slots"])
def test_other_heads_have_no_states_of_places(head: str):
    with pytest.raises(ValueError, match=f"encoder.head='{head}' has no states of places; allowed: light"):
        toy(head=head).places(torch.ones(1, 3, dtype=torch.long))


@pytest.mark.parametrize("head", HEADS)
def test_every_parameter_is_trained(head: str):
    model = toy(head=head, smoothing=True, positions="learned").train()
    model(torch.randint(7, 40, (4, 6))).square().sum().backward()
    untouched = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert untouched == []


def test_autocast_gives_float32_latents_close_to_full_precision():
    model, tokens_BT = toy(), torch.randint(7, 40, (4, 6))
    with torch.autocast("cpu", torch.bfloat16):
        latent_BCHW = model(tokens_BT)
    assert latent_BCHW.dtype == torch.float32
    assert (latent_BCHW - model(tokens_BT)).std() < 0.02


@pytest.mark.parametrize("head", HEADS)
def test_compiles_to_one_graph(head: str):
    model, tokens_BT = toy(head=head, smoothing=True, dropout=0.0).train(), torch.randint(7, 40, (4, 6))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    latent_BCHW = compiled(tokens_BT)
    latent_BCHW.square().sum().backward()
    torch.testing.assert_close(latent_BCHW, model(tokens_BT), atol=1e-5, rtol=1e-5)


def test_state_dict_holds_plain_tensors_and_fits_a_twin():
    state = toy().state_dict()
    assert all(type(value) is torch.Tensor for value in state.values())
    assert set(state) == {name for name, _ in toy().named_parameters()}, "tables of constants are not weights"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": "pixels"}, "head must be grid, light, vector or slots, got 'pixels'"),
        ({"head": "light", "coarse": 17}, r"coarse must .* H and W \(16 x 16\), got 17"),
        ({"slots": 0}, "slots must be at least 1, got 0"),
        ({"slots": 10**9}, r"^encoder\.slots=1000000000 is out of range; allowed: 1 to 1024$"),
        ({"slot_iterations": 10**9}, r"^encoder\.slot_iterations=1000000000 is out of range; allowed: 1 to 256$"),
        ({"max_length": 50_000_000}, r"^encoder\.max_length=50000000 is out of range; allowed: 1 to 4096$"),
        ({"heads": 5}, r"d must be a multiple of heads \(5\), got 32"),
    ],
)
def test_bad_sizes_are_named(change: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        replace(TOY, **change)
