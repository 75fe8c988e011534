"""Both latents are measured alike, at toy size: the larger one has more values, and its figures are its own."""

from dataclasses import asdict

import pytest

from inscape.bench.latent_size import SIZES, measure, run
from inscape.nn.latent_codec import LatentCodecConfig
from inscape.nn.latent_encoder import LatentEncoderConfig

ENCODER = LatentEncoderConfig(d=16, layers=1, heads=2, ffn=16, head_ffn=16, map_channels=4)
CODEC = LatentCodecConfig(d=16, heads=2, ffn=16, reader_layers=1, decoder_layers=1, readout_layers=0, z=16)


def test_every_figure_of_a_size_is_its_own():
    asked = {"encoder": asdict(ENCODER), "codec": asdict(CODEC), "sentences": 4}
    small, large = (measure({**asked, "size": size}) for size in SIZES.values())
    assert small["bytes of a latent"] == 4 * 32 * 32 * 6
    assert large["bytes of a latent"] == 4 * 48 * 48 * 8
    assert large["parameters"] > small["parameters"]
    assert all(small[name] > 0 for name in small if not name.startswith("megabytes"))


@pytest.mark.slow
def test_sizes_are_measured_in_processes_of_their_own_and_compared():
    found = run(ENCODER, CODEC, sentences=4)
    assert set(found) == {*SIZES, "ratio"}
    assert found["ratio"]["bytes of a latent"] == 3.0
