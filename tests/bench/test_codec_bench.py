"""The codec's benchmark measures the weights that are found, and says so where there are none."""

import pytest
import torch

from inscape import codec as codec_module
from inscape.bench import codec as bench
from inscape.nn.latent_codec import LatentCodec, LatentCodecConfig
from inscape.nn.latent_encoder import LatentEncoderConfig
from inscape.studies.visual.model import TrainedCodec, save_codec
from inscape.studies.visual.sources import DataConfig, open_source


def test_it_measures_what_is_shipped(tmp_path, monkeypatch):
    tokenizer = open_source(DataConfig()).tokenizer
    encoder = LatentEncoderConfig(vocab=tokenizer.vocab_size, d=16, layers=1, heads=2, ffn=16, head="light", coarse=4)
    sizes = LatentCodecConfig(d=16, heads=2, ffn=16, patch=8, reader_layers=1, decoder_layers=1, readout_layers=0)
    torch.manual_seed(0)
    model = LatentCodec(encoder, sizes).eval()
    save_codec(TrainedCodec(model, tokenizer), tmp_path / "shipped.safetensors")
    monkeypatch.setattr(codec_module, "SHIPPED", tmp_path / "shipped.safetensors")
    found = bench.run(sentences=4, repeats=1)
    assert found["parameters"] == sum(p.numel() for p in model.parameters())
    assert min(found["load seconds"], found["encoded sentences a second"], found["decoded sentences a second"]) > 0


def test_without_weights_it_says_how_to_get_some(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(codec_module, "SHIPPED", tmp_path / "none")
    with pytest.raises(ValueError, match="there are no weights yet"):
        bench.run()
