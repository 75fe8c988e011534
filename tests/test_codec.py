"""The codec's weights on the disk: whole and alone in one file, or refused."""

import pytest
import torch
from safetensors.torch import save_file

from inscape.codec import VisualCodec
from inscape.core.rundir import RunDir
from inscape.nn.latent_encoder import LatentEncoder, LatentEncoderConfig
from inscape.studies.visual.model import WEIGHTS, TextToLatent, save_encoder
from inscape.studies.visual.sources import DataConfig, open_source

SENTENCES = ["a red ball is on the blue block", "there are two green cones", "a ring"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    source = open_source(DataConfig())
    torch.manual_seed(0)
    sizes = LatentEncoderConfig(vocab=source.tokenizer.vocab_size, d=32, layers=1, heads=2, ffn=32, head="light")
    encoder = LatentEncoder(sizes).eval()
    run = RunDir(tmp_path_factory.mktemp("run"))
    save_encoder(TextToLatent(encoder, source.tokenizer), run)
    return run, encoder, source.tokenizer


def test_what_is_loaded_is_what_was_saved(saved):
    run, encoder, tokenizer = saved
    expected = encoder(torch.from_numpy(tokenizer.encode(SENTENCES))).detach()
    for weights in (run.path, run.path / WEIGHTS):
        found = VisualCodec.from_pretrained(weights).encode(SENTENCES)
        assert found.shape == (3, 6, 32, 32)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_order_and_company_change_nothing(saved):
    codec = VisualCodec.from_pretrained(saved[0].path)
    together = codec.encode(SENTENCES * 30)
    for i, sentence in enumerate(SENTENCES):
        torch.testing.assert_close(together[i], codec.encode([sentence])[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(together[i], together[i + 30])


@pytest.mark.parametrize("sentences", ["a red ball", [], ["a red ball", "  "], ["a red ball and " * 40]])
def test_nonsense_is_refused(saved, sentences):
    with pytest.raises(ValueError, match=r"sentence"):
        VisualCodec.from_pretrained(saved[0].path).encode(sentences)


def test_foreign_and_damaged_weights_are_refused(saved, tmp_path):
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)
    whole = (saved[0].path / WEIGHTS).read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.safetensors").write_text("no weights at all")
    for name in ("foreign", "cut", "text", "missing"):
        with pytest.raises(ValueError, match=name):
            VisualCodec.from_pretrained(tmp_path / f"{name}.safetensors")
