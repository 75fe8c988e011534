"""Rows in two parts by length: what comes out is what came out before, and fewer places are worked through."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inscape.nn.by_length import in_order, parts_by_length
from inscape.nn.latent_codec import LatentCodec, LatentCodecConfig
from inscape.nn.latent_encoder import LatentEncoder, LatentEncoderConfig

TOY = {"vocab": 40, "d": 32, "layers": 2, "heads": 4, "ffn": 64, "head_ffn": 48, "map_channels": 8, "dropout": 0.0}
PICTURE = {"H": 16, "W": 16, "C": 3, "coarse": 4, "max_length": 32}
PLAIN = torch.nn.Linear(1, 1)


def kept(lengths: list[int], tokens: int) -> torch.Tensor:
    return torch.arange(tokens) < torch.tensor(lengths)[:, None]


def rows(tokens: int = 24) -> torch.Tensor:
    """64 sentences of 3 to 24 tokens, in no order."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 13, (64,), generator=generator)
    lengths[::7] = tokens
    tokens_BT = torch.randint(4, 40, (64, tokens), generator=generator)
    return tokens_BT * (torch.arange(tokens) < lengths[:, None])


@given(st.lists(st.integers(0, 40), min_size=32, max_size=70), st.integers(40, 44))
def test_each_row_is_in_one_part_that_holds_all_of_it(lengths: list[int], tokens: int):
    parts = parts_by_length(kept(lengths, tokens), PLAIN)
    if not parts:
        ordered = sorted(lengths)
        half = len(lengths) // 2
        best = half * (ordered[half - 1] + 3) + (len(lengths) - half) * (ordered[-1] + 3)
        assert best > 0.9 * len(lengths) * tokens  # nothing much was to be saved
        return
    assert sorted(torch.cat([part.row_B for part in parts]).tolist()) == list(range(len(lengths)))
    for part in parts:
        longest = max(lengths[row] for row in part.row_B)
        assert max(longest, 1) <= part.tokens <= max(1, min(longest + 3, tokens))
    assert sum(len(part.row_B) * part.tokens for part in parts) < 0.95 * len(lengths) * tokens
    made = [torch.tensor(lengths)[part.row_B] for part in parts]
    assert in_order(made, parts).tolist() == lengths


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # torch's compiler, of itself
def test_few_rows_and_rows_of_one_length_and_compiled_modules_have_no_parts():
    lengths = [3, 30] * 16
    assert parts_by_length(kept(lengths, 32), PLAIN)
    assert not parts_by_length(kept(lengths[:-1], 32), PLAIN)
    assert not parts_by_length(kept([31] * 64, 32), PLAIN)
    compiled = torch.nn.Sequential(torch.nn.Linear(1, 1))
    compiled[0].compile()
    assert not parts_by_length(kept(lengths, 32), compiled)
    assert not parts_by_length(kept(lengths, 32).to("meta"), PLAIN)


def test_padding_within_a_row_does_not_cut_its_end_off():
    keep_BT = kept([3, 30] * 16, 32)
    keep_BT[0] = torch.arange(32) == 17
    rows_of = {row: part.tokens for part in parts_by_length(keep_BT, PLAIN) for row in part.row_B.tolist()}
    assert rows_of[0] >= 18


@pytest.mark.parametrize("head", ["grid", "light", "slots"])
def test_the_encoder_gives_the_same_latents_and_gradients(head: str, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    model = LatentEncoder(LatentEncoderConfig(**TOY, **PICTURE, head=head))  # type: ignore[arg-type]
    tokens_BT, seen = rows(), []
    forward = model.text_encoder.forward
    monkeypatch.setattr(model.text_encoder, "forward", lambda *a: (seen.append(tuple(a[0].shape)), forward(*a))[1])
    latent_BCHW = model(tokens_BT)
    assert seen == [(32, 12), (32, 24)]
    latent_BCHW.square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    alone = torch.cat([model(tokens_BT[i : i + 1]) for i in range(64)])
    torch.testing.assert_close(latent_BCHW, alone, atol=1e-4, rtol=1e-4)
    alone.square().sum().backward()
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(gradients[name], p.grad, atol=2e-3, rtol=2e-3, msg=name)
    assert gradients


def test_the_decoder_gives_the_same_losses():
    torch.manual_seed(0)
    sizes = LatentEncoderConfig(**TOY, **PICTURE, head="light")  # type: ignore[arg-type]
    model = LatentCodec(sizes, LatentCodecConfig(d=32, heads=4, ffn=64, dropout=0.0, patch=4, z=8, decoder_layers=1))
    said_BT = rows()
    read_BT = said_BT.roll(1, 1)
    memory_BMD, every_B = torch.randn(64, model.places + model.config.z_places, 32), torch.ones(64, dtype=torch.bool)
    bias_BM = model.memory_bias(every_B, every_B)
    loss_BT = model.token_loss(memory_BMD, bias_BM, read_BT, said_BT)
    alone = [model.token_loss(memory_BMD[[i]], bias_BM[[i]], read_BT[[i]], said_BT[[i]]) for i in range(64)]
    torch.testing.assert_close(loss_BT, torch.cat(alone), atol=1e-4, rtol=1e-4)
    assert ((loss_BT > 0) == (said_BT != 0)).all()
